"""Directories of Orbax, read by Orbax itself, with `like`.

Orbax stores the names of each leaf, but not the types of the containers: it returns a NamedTuple as
a dict, a tuple as a list, and ``optax.EmptyState()`` as None.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ckptstore import storage, tree
from ckptstore.convert import inputs, orbax_items
from ckptstore.convert.like import (
    Differences,
    array_form,
    describe_value,
    with_leaves,
)
from ckptstore.convert.local_copy import local_directory
from ckptstore.convert.orbax_paths import (
    Path,
    check_names,
    chosen,
    leaves_of,
    matching,
    path_of,
    shown_path,
)
from ckptstore.errors import Reason, StructureError, listed
from ckptstore.format.dtypes import describe
from ckptstore.tree import SCALAR_TYPES, number_hint

_KEYS = "array_metadatas"
_SHOWN = 20


@inputs.leading_on
def from_orbax(
    path: str | os.PathLike[str],
    like: Any = None,
    *,
    select: str | Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Read an Orbax directory into the tree that was saved.

    Orbax reads the arrays without checksums. All stored names, dtypes and shapes are compared with
    `like` before any array is read. A directory in a bucket is first copied to a temporary
    directory, which needs as much space.

    Args:
        path: the path or URL of the directory of the item: that of a Checkpointer, or
            ``<step>/default`` or ``<step>/<item>`` of a CheckpointManager. Of a directory of steps
            you get the newest, and a line in the log names it.
        like: your tree, of live values or `jax.ShapeDtypeStruct`, such as
            ``{"params": params, "opt_state": optimizer.init(params)}``. Types and shardings come
            from it.
        select: a pattern such as ``$.params``, or several. Only its arrays are read, and they alone
            are compared; everything else stays as it is in `like`, which need not hold the rest.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        A tree of the types of `like`, with the stored bits of each array.

    Raises:
        StructureError: reason ``needs-like`` without `like`, with a list of all leaves;
            ``differs-from-like`` with all differences; ``ambiguous`` if the directory holds
            several items, or two leaves of one name; ``no-match`` or ``bad-pattern``.
        CorruptError: Orbax cannot read it.
        NotCommittedError: reason ``unfinished``: on GCS, Orbax did not finish the directory.
        StorageError: there is no such directory, or it cannot be read or copied.
        UnknownTypeError: reason ``not-installed``.

    Example:
        >>> import os, jax.numpy as jnp, orbax.checkpoint
        >>> state = {"w": jnp.arange(3), "step": 7}
        >>> with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        ...     checkpointer.save(os.path.abspath("item"), state)
        >>> from_orbax("item", like={"w": jnp.zeros(3, int), "step": 0})
        {'w': Array([0, 1, 2], dtype=int32), 'step': 7}

    Source: docs/moving.md, "In" and "Orbax".
    """
    orbax = inputs.import_package("orbax.checkpoint", "orbax-checkpoint")
    with storage.open(path, storage_options) as place:
        item = orbax_items.item(place)
        with local_directory(item) as directory:
            return _read(orbax, item.url, directory, like, select)


def _read(
    orbax: Any, where: str, directory: str, like: Any, select: str | Sequence[str] | None
) -> Any:
    patterns = None if select is None else tree.patterns_of(select, "from_orbax")
    with (
        _quiet(),
        inputs.corrupt_on_error(where, "Orbax cannot read it"),
        orbax.PyTreeCheckpointer() as checkpointer,
    ):
        # The checkpointer itself would return None for metadata that it cannot read.
        handler, epath = orbax.PyTreeCheckpointHandler(), inputs.import_package("etils.epath")
        metadata = handler.metadata(epath.Path(directory)).tree
        stored = leaves_of(metadata)
        check_names(where, stored)
        selected = chosen(where, stored, patterns)
        if like is None:
            raise _needs_like(where, {path: stored[path] for path in selected})
        leaves = leaves_of(like)
        wanted = leaves if patterns is None else matching(leaves, patterns)
        _compare(where, {path: stored[path] for path in selected}, {p: leaves[p] for p in wanted})
        restore_args = _arguments(orbax, metadata)
        item = None if patterns is None else _without(orbax, metadata, selected)
        arguments = orbax.args.PyTreeRestore(item=item, restore_args=restore_args)
        read = checkpointer.restore(directory, args=arguments)
    values = leaves_of(read)
    keys = _key_implementations(where, directory)
    return _fitted(where, leaves, wanted, values, keys, like)


def _without(orbax: Any, metadata: Any, selected: Collection[Path]) -> Any:
    """Return the tree with a placeholder, which Orbax does not read, for all other leaves."""
    tree_util = inputs.import_package("jax").tree_util

    def leaf(keys: Any, x: Any) -> Any:
        return x if path_of(keys) in selected else orbax.PLACEHOLDER

    return tree_util.tree_map_with_path(leaf, metadata)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Orbax's warnings about missing shardings, which `like` adds later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _needs_like(where: str, stored: Mapping[Path, Any]) -> StructureError:
    lines = [f"{shown_path(path)}: {_described(leaf)}" for path, leaf in stored.items()]
    return StructureError(
        f"{where}: Orbax does not store which containers were NamedTuples, tuples or dataclasses, "
        "or empty states; pass like=, the tree of your program, with optimizer.init(params) for "
        "the optimizer's state:" + "".join(f"\n  {line}" for line in listed(lines, _SHOWN)),
        reason=Reason.NEEDS_LIKE,
    )


def _described(leaf: Any) -> str:
    if (dtype := getattr(leaf, "dtype", None)) is not None:
        return f"{dtype}{list(leaf.shape)}"
    if leaf is None:
        return "None, or an empty NamedTuple"
    kind = type(leaf).__name__
    return "str" if kind == "StringMetadata" else f"an empty {kind}"


def _compare(where: str, stored: Mapping[Path, Any], leaves: Mapping[Path, Any]) -> None:
    """Compare Orbax's metadata of the leaves with those of `like`, before any leaf is read.

    Raises:
        StructureError: reason ``differs-from-like``.
    """
    differences = Differences(where)
    for path, metadata in stored.items():
        if path not in leaves:
            text = f"{_described(metadata)} in the directory, not in `like`"
            differences.add(shown_path(path), text)
    for path, x in leaves.items():
        if path not in stored:
            text = f"{describe_value(x)} in `like`, not in the directory"
            differences.add(shown_path(path), text)
        elif not _agrees(metadata := stored[path], x):
            text = f"{_described(metadata)} in the directory, {describe_value(x)} in `like`"
            shape = metadata.shape if type(metadata).__name__ == "ArrayMetadata" else None
            differences.add(shown_path(path), text + number_hint(x, shape))
    differences.check()


def _agrees(metadata: Any, like: Any) -> bool:
    kind = type(metadata).__name__
    if kind == "StringMetadata":
        return type(like) is str
    if getattr(metadata, "dtype", None) is None:
        return _empty(metadata) is _empty(like)
    dtype = np.dtype(metadata.dtype)
    if type(like) in SCALAR_TYPES:
        return kind == "ScalarMetadata" and type(like) is _SCALARS.get(dtype.kind)
    form = array_form(like)
    return form is not None and (describe(dtype), tuple(metadata.shape)) == (form.dtype, form.shape)


_SCALARS = {"b": bool, "i": int, "f": float, "c": complex}


def _empty(x: Any) -> type | None:
    """Return the type that Orbax stores for an empty container; for an empty NamedTuple, None."""
    if type(x) in (list, tuple):
        return type(x)
    return dict if isinstance(x, Mapping) else None


def _arguments(orbax: Any, tree: Any) -> Any:
    """Return arguments for numpy arrays, since jax would silently make 64-bit ones 32-bit."""
    tree_util = inputs.import_package("jax").tree_util

    def argument(leaf: Any) -> Any:
        is_array = type(leaf).__name__ == "ArrayMetadata"
        return orbax.RestoreArgs(restore_type=np.ndarray) if is_array else orbax.RestoreArgs()

    return tree_util.tree_map(argument, tree)


def _key_implementations(where: str, directory: str) -> dict[str, str]:
    """Return the implementation of each PRNG key, by its name; other files do not mark keys."""
    out: dict[str, str] = {}
    below = os.path.join(directory, _KEYS)
    if not os.path.isdir(below):
        return out
    for file in sorted(os.listdir(below)):
        with inputs.corrupt_on_error(f"{where}/{_KEYS}/{file}", "not the metadata of arrays"):
            _, data = inputs.read(os.path.join(below, file), None)
            for row in json.loads(bytes(data))["array_metadatas"]:
                metadata = row["array_metadata"]
                extra = metadata["ext_metadata"]
                if extra is not None:
                    out[metadata["param_name"]] = str(extra["random_key_impl"])
    return out


def _fitted(
    where: str,
    leaves: Mapping[Path, Any],
    wanted: Collection[Path],
    values: Mapping[Path, Any],
    keys: Mapping[str, str],
    like: Any,
) -> Any:
    differences, out = Differences(where), []
    for path, x in leaves.items():
        if _is_container(x):
            continue
        if path not in wanted:
            out.append(x)
            continue
        value = values.get(path)
        if isinstance(x, np.generic) and type(value) in SCALAR_TYPES:
            value = type(x)(value)  # Orbax returns every scalar as a Python scalar
        key = keys.get(".".join(text for _, text in path))
        out.append(differences.as_like(shown_path(path), value, x, key=key))
    differences.check()
    return with_leaves(like, out)


def _is_container(x: Any) -> bool:
    """Return whether it is an empty container, which jax rebuilds from `like`."""
    return not inputs.import_package("jax").tree_util.tree_leaves(x)
