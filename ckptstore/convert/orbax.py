"""Directories of Orbax, read by Orbax itself, with `like`.

Orbax stores the names of each leaf, but not the types of the containers: it returns a NamedTuple as
a dict, a tuple as a list, and ``optax.EmptyState()`` as None.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ckptstore import storage
from ckptstore.convert import inputs
from ckptstore.convert.like import (
    Differences,
    array_form,
    describe_value,
    path_step,
    with_leaves,
)
from ckptstore.convert.local_copy import local_directory
from ckptstore.errors import NotCommittedError, Reason, StorageError, StructureError, listed
from ckptstore.format.dtypes import describe
from ckptstore.storage import Storage
from ckptstore.tree import SCALAR_TYPES, number_hint

_TREE = "_METADATA"
_KEYS = "array_metadatas"
_GCS = "gs://", "gcs://"
_FINISHED = "commit_success.txt"
"""The file that Orbax writes last in stores where it cannot rename a directory."""

_SHOWN = 20

Path = tuple[tuple[bool, str], ...]
"""The steps to a leaf as Orbax stores them: for each, whether it is an index, and its text."""


def from_orbax(
    path: str | os.PathLike[str],
    like: Any = None,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Read an Orbax directory into the tree that was saved.

    Orbax reads the arrays without checksums. All stored names, dtypes and shapes are compared with
    `like` before any array is read. A directory in a bucket is first copied to a temporary
    directory, which needs as much space.

    Args:
        path: the path or URL of the directory of the item: that of a Checkpointer, or
            ``<step>/default`` or ``<step>/<item>`` of a CheckpointManager.
        like: your tree, of live values or `jax.ShapeDtypeStruct`, such as
            ``{"params": params, "opt_state": optimizer.init(params)}``. Types and shardings come
            from it.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        A tree of the types of `like`, with the stored bits of each array.

    Raises:
        StructureError: reason ``needs-like`` without `like`, with a list of all leaves;
            ``differs-from-like`` with all differences; ``ambiguous`` if the directory holds
            several items, or two leaves of one name.
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
        item = _item(place)
        with local_directory(item) as directory:
            return _read(orbax, item.url, directory, like)


def _read(orbax: Any, where: str, directory: str, like: Any) -> Any:
    with (
        _quiet(),
        inputs.corrupt_on_error(where, "Orbax cannot read it"),
        orbax.PyTreeCheckpointer() as checkpointer,
    ):
        # The checkpointer itself would return None for metadata that it cannot read.
        handler, epath = orbax.PyTreeCheckpointHandler(), inputs.import_package("etils.epath")
        tree = handler.metadata(epath.Path(directory)).tree
        stored = _leaves(tree)
        _check_names(where, stored)
        if like is None:
            raise _needs_like(where, stored)
        leaves = _compare(where, stored, like)
        arguments = orbax.args.PyTreeRestore(restore_args=_arguments(orbax, tree))
        read = checkpointer.restore(directory, args=arguments)
    values = _leaves(read)
    keys = _key_implementations(where, directory)
    return _fitted(where, leaves, values, keys, like)


def _item(place: Storage) -> Storage:
    """Return the directory of the only item.

    Raises:
        NotCommittedError: reason ``unfinished``.
        StorageError: no such directory.
        StructureError: reason ``ambiguous``; the message lists the items.
    """
    if not place.holds(_TREE):
        items = sorted(place.holders(_TREE))
        if len(items) == 1:
            return _item(place.child(items[0]))
        names = items or sorted(place.children())
        if not names and not place.list():
            raise StorageError(f"{place.url}: the directory does not exist or is empty")
        raise StructureError(
            f"{place.url}: not an item of Orbax, which has a file {_TREE}; pass one of its "
            f"directories: {', '.join(listed(names, _SHOWN)) or 'there are none'}",
            reason=Reason.AMBIGUOUS,
        )
    if place.url.startswith(_GCS) and not place.holds(_FINISHED):
        raise NotCommittedError(
            f"{place.url}: no file {_FINISHED}, so Orbax did not finish it; use another step, or, "
            "if it was copied there from a disk, copy it back and pass that path",
            reason=Reason.UNFINISHED,
        )
    return place


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Orbax's warnings about missing shardings, which `like` adds later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _leaves(tree: Any) -> dict[Path, Any]:
    """Return the leaves and empty containers of a tree under the steps that Orbax stores."""
    tree_util = inputs.import_package("jax").tree_util

    def is_empty(x: Any) -> bool:
        return not tree_util.tree_leaves(x, is_leaf=lambda y: y is not x)

    indices = (tree_util.SequenceKey, tree_util.FlattenedIndexKey)
    out: dict[Path, Any] = {}
    for keys, leaf in tree_util.tree_flatten_with_path(tree, is_leaf=is_empty)[0]:
        path = tuple((isinstance(key, indices), _text(key)) for key in keys)
        if path in out:
            raise StructureError(
                f"{_shown(path)} names two leaves, whose keys Orbax writes alike; rename one",
                reason=Reason.AMBIGUOUS,
            )
        out[path] = leaf
    return out


def _text(key: Any) -> str:
    return str(next(getattr(key, n) for n in ("key", "idx", "name") if hasattr(key, n)))


def _shown(path: Path) -> str:
    return "$" + "".join(f"[{text}]" if index else path_step(text) for index, text in path)


def _check_names(where: str, stored: Mapping[Path, Any]) -> None:
    """Refuse names that Orbax itself confuses, since it joins the steps to a leaf with dots."""
    names: dict[str, Path] = {}
    for path in stored:
        name = ".".join(text for _, text in path)
        first = names.setdefault(name, path)
        if first != path:
            raise StructureError(
                f"{where}: Orbax wrote {_shown(first)} and {_shown(path)} to one place, {name!r}, "
                "so one of them is lost; restore the other with Orbax",
                reason=Reason.AMBIGUOUS,
            )


def _needs_like(where: str, stored: Mapping[Path, Any]) -> StructureError:
    lines = [f"{_shown(path)}: {_described(leaf)}" for path, leaf in stored.items()]
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


def _compare(where: str, stored: Mapping[Path, Any], like: Any) -> dict[Path, Any]:
    """Compare Orbax's metadata of the leaves with `like`, before any leaf is read.

    Returns:
        The leaves of `like`.

    Raises:
        StructureError: reason ``differs-from-like``.
    """
    differences, leaves = Differences(where), _leaves(like)
    for path, metadata in stored.items():
        if path not in leaves:
            text = f"{_described(metadata)} in the directory, not in `like`"
            differences.add(_shown(path), text)
    for path, x in leaves.items():
        if path not in stored:
            text = f"{describe_value(x)} in `like`, not in the directory"
            differences.add(_shown(path), text)
        elif not _agrees(metadata := stored[path], x):
            text = f"{_described(metadata)} in the directory, {describe_value(x)} in `like`"
            shape = metadata.shape if type(metadata).__name__ == "ArrayMetadata" else None
            differences.add(_shown(path), text + number_hint(x, shape))
    differences.check()
    return leaves


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
    values: Mapping[Path, Any],
    keys: Mapping[str, str],
    like: Any,
) -> Any:
    differences, out = Differences(where), []
    for path, x in leaves.items():
        if _is_container(x):
            continue
        value = values.get(path)
        if isinstance(x, np.generic) and type(value) in SCALAR_TYPES:
            value = type(x)(value)  # Orbax returns every scalar as a Python scalar
        key = keys.get(".".join(text for _, text in path))
        out.append(differences.as_like(_shown(path), value, x, key=key))
    differences.check()
    return with_leaves(like, out)


def _is_container(x: Any) -> bool:
    """Return whether it is an empty container, which jax rebuilds from `like`."""
    return not inputs.import_package("jax").tree_util.tree_leaves(x)
