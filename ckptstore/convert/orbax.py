"""Directories that Orbax wrote, read by Orbax itself, with `like`.

Orbax stores which leaf stands under which names, and not what the containers were: a NamedTuple
comes back from it as a dict, a tuple as a list, ``optax.EmptyState()`` as None.
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
from ckptstore.convert import inputs, local_copy
from ckptstore.convert.files import Options
from ckptstore.convert.like import Likeness, expected, filled, step, text_of
from ckptstore.errors import NotCommittedError, Reason, StorageError, StructureError
from ckptstore.format.dtypes import describe
from ckptstore.storage import Storage
from ckptstore.tree import SCALAR_TYPES, number_hint

_TREE = "_METADATA"
_KEYS = "array_metadatas"
_GCS = "gs://", "gcs://"
_FINISHED = "commit_success.txt"
"""Orbax writes it last there, where it cannot rename a directory."""

_SHOWN = 20

Path = tuple[tuple[bool, str], ...]
"""The steps to a leaf as Orbax stores them: whether it is an index, and its text."""


def from_orbax(path: Any, like: Any = None, *, storage_options: Options = None) -> Any:
    """Read an Orbax directory into the tree that was saved.

    Orbax reads the arrays, and checks no checksum of them. All that is stored is compared with
    `like` before any array is read. A directory in a bucket is first copied to a temporary one,
    which takes as much room as it does.

    Args:
        path: the path or URL of the directory of the item: what a Checkpointer saved, or
            ``<step>/default`` or ``<step>/<item>`` of a CheckpointManager.
        like: the tree as the program has it, of live values or `jax.ShapeDtypeStruct`, such as
            ``{"params": params, "opt_state": optimizer.init(params)}``. Types and shardings come
            from it.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        A tree of the types of `like`, each array with the bits that are stored.

    Raises:
        StructureError: reason ``needs-like`` without `like`, with what is stored;
            ``differs-from-like`` with all differences; ``ambiguous`` where the directory holds
            several items, or two leaves of one name.
        CorruptError: Orbax cannot read it.
        NotCommittedError: reason ``unfinished``: on GCS, Orbax did not finish the directory.
        StorageError: there is no such directory, or it cannot be read, or not be copied.
        UnknownTypeError: reason ``not-installed``.
    """
    orbax = inputs.framework("orbax.checkpoint", "orbax-checkpoint")
    with storage.open(path, storage_options) as place:
        item = _item(place)
        with local_copy.tree(item) as directory:
            return _read(orbax, item.url, directory, like)


def _read(orbax: Any, where: str, directory: str, like: Any) -> Any:
    with (
        _quiet(),
        inputs.damage(where, "Orbax cannot read it"),
        orbax.PyTreeCheckpointer() as checkpointer,
    ):
        # Not by the checkpointer, which gives None for metadata that it cannot read.
        handler, epath = orbax.PyTreeCheckpointHandler(), inputs.framework("etils.epath")
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
    """Return the directory of the one item that is there.

    Raises:
        NotCommittedError: reason ``unfinished``.
        StorageError: no such directory.
        StructureError: reason ``ambiguous``, naming what there is.
    """
    if not place.holds(_TREE):
        items = sorted(place.holders(_TREE))
        if len(items) == 1:
            return _item(place.child(items[0]))
        names = items or sorted(place.children())
        if not names and not place.list():
            raise StorageError(f"{place.url}: no such directory, or an empty one")
        raise StructureError(
            f"{place.url}: no item of Orbax, which has a file {_TREE}; name one of its "
            f"directories: {', '.join(names[:_SHOWN]) or 'there are none'}",
            reason=Reason.AMBIGUOUS,
        )
    if place.url.startswith(_GCS) and not place.holds(_FINISHED):
        raise NotCommittedError(
            f"{place.url}: no file {_FINISHED}, so Orbax did not finish it; take another step; or, "
            "where it was copied there from a disk, copy it back and give that path",
            reason=Reason.UNFINISHED,
        )
    return place


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns of what is done here on purpose: shardings are those of `like`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _leaves(tree: Any) -> dict[Path, Any]:
    """Return the leaves and empty containers of a tree under the steps that Orbax stores."""
    tree_util = inputs.framework("jax").tree_util

    def is_empty(x: Any) -> bool:
        return not tree_util.tree_leaves(x, is_leaf=lambda y: y is not x)

    indices = (tree_util.SequenceKey, tree_util.FlattenedIndexKey)
    out: dict[Path, Any] = {}
    for keys, leaf in tree_util.tree_flatten_with_path(tree, is_leaf=is_empty)[0]:
        path = tuple((isinstance(key, indices), _text(key)) for key in keys)
        if path in out:
            raise StructureError(
                f"{_shown(path)} stands for two leaves, whose keys Orbax writes alike; rename one",
                reason=Reason.AMBIGUOUS,
            )
        out[path] = leaf
    return out


def _text(key: Any) -> str:
    return str(next(getattr(key, n) for n in ("key", "idx", "name") if hasattr(key, n)))


def _shown(path: Path) -> str:
    return "$" + "".join(f"[{text}]" if index else step(text) for index, text in path)


def _check_names(where: str, stored: Mapping[Path, Any]) -> None:
    """Refuse what Orbax itself mixes up: it names a leaf by its steps joined with dots."""
    names: dict[str, Path] = {}
    for path in stored:
        name = ".".join(text for _, text in path)
        first = names.setdefault(name, path)
        if first != path:
            raise StructureError(
                f"{where}: Orbax wrote {_shown(first)} and {_shown(path)} to one place, {name!r}, "
                "so one of them is lost; restore what is left with Orbax",
                reason=Reason.AMBIGUOUS,
            )


def _needs_like(where: str, stored: Mapping[Path, Any]) -> StructureError:
    lines = [f"\n  {_shown(path)}: {_described(leaf)}" for path, leaf in stored.items()]
    more = [f"\n  … and {len(lines) - _SHOWN} more"] * (len(lines) > _SHOWN)
    return StructureError(
        f"{where}: Orbax does not say which of its containers were NamedTuples, tuples or "
        "dataclasses, nor what a None was; pass like=, the tree as your program has it, with "
        f"optimizer.init(params) for the optimizer's state:{''.join(lines[:_SHOWN] + more)}",
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
    """Hold what Orbax says of the leaves against `like`, before any of them is read."""
    likeness, leaves = Likeness(where), _leaves(like)
    for path, found in stored.items():
        if path not in leaves:
            likeness.differ(_shown(path), f"{_described(found)} in the directory, not in `like`")
    for path, x in leaves.items():
        if path not in stored:
            likeness.differ(_shown(path), f"{text_of(x)} in `like`, not in the directory")
        elif not _agrees(found := stored[path], x):
            text = f"{_described(found)} in the directory, {text_of(x)} in `like`"
            shape = found.shape if type(found).__name__ == "ArrayMetadata" else None
            likeness.differ(_shown(path), text + number_hint(x, shape))
    likeness.done()
    return leaves


def _agrees(found: Any, like: Any) -> bool:
    kind = type(found).__name__
    if kind == "StringMetadata":
        return type(like) is str
    if getattr(found, "dtype", None) is None:
        return _empty(found) is _empty(like)
    if type(like) in SCALAR_TYPES:
        kinds = _SCALARS.get(np.dtype(found.dtype).kind, ())
        return kind == "ScalarMetadata" and type(like) in kinds
    wanted = expected(like)
    shape = tuple(found.shape)
    return wanted is not None and (describe(np.dtype(found.dtype)), shape) == wanted[1:]


_SCALARS = {"b": (bool,), "i": (int,), "f": (float,), "c": (complex,)}


def _empty(x: Any) -> type | None:
    """Return what Orbax stores of an empty container; it writes None for an empty NamedTuple."""
    if type(x) in (list, tuple):
        return type(x)
    return dict if isinstance(x, Mapping) else None


def _arguments(orbax: Any, tree: Any) -> Any:
    """Ask for arrays as numpy has them: jax would make 64-bit ones 32-bit without a word."""
    tree_util = inputs.framework("jax").tree_util

    def argument(leaf: Any) -> Any:
        is_array = type(leaf).__name__ == "ArrayMetadata"
        return orbax.RestoreArgs(restore_type=np.ndarray) if is_array else orbax.RestoreArgs()

    return tree_util.tree_map(argument, tree)


def _key_implementations(where: str, directory: str) -> dict[str, str]:
    """Return the implementation of each PRNG key, by its name; arrays of keys look like others."""
    out: dict[str, str] = {}
    below = os.path.join(directory, _KEYS)
    if not os.path.isdir(below):
        return out
    for file in sorted(os.listdir(below)):
        with inputs.damage(f"{where}/{_KEYS}/{file}", "no metadata of arrays"):
            _, data = inputs.read(os.path.join(below, file), None)
            for row in json.loads(bytes(data))["array_metadatas"]:
                found = row["array_metadata"]
                if found["ext_metadata"] is not None:
                    out[found["param_name"]] = str(found["ext_metadata"]["random_key_impl"])
    return out


def _fitted(
    where: str,
    leaves: Mapping[Path, Any],
    values: Mapping[Path, Any],
    keys: Mapping[str, str],
    like: Any,
) -> Any:
    likeness, out = Likeness(where), []
    for path, x in leaves.items():
        if _is_container(x):
            continue
        value = values.get(path)
        if isinstance(x, np.generic) and type(value) in SCALAR_TYPES:
            value = type(x)(value)  # Orbax gives every scalar as one of Python
        key = keys.get(".".join(text for _, text in path))
        out.append(likeness.leaf(_shown(path), value, x, key=key))
    likeness.done()
    return filled(like, out)


def _is_container(x: Any) -> bool:
    """Tell whether it is an empty container, which jax makes anew from `like`."""
    return not inputs.framework("jax").tree_util.tree_leaves(x)
