"""The tools that the benchmarks compare, each behind the same three calls.

A tool that is not installed is left out of the comparison; `installed` says which are there.
Every tool is used the way its own documentation shows, with its defaults, unless its name says
otherwise.
"""

from __future__ import annotations

import importlib.util
import logging
import mmap
import os
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from states import Tree

_WRITE_NBYTES = 8 * 2**20
_MOST_PARTS = 1000
"""No more buffers than a system takes in one `writev`."""


class Contender:
    """One way to put a tree of arrays on a disk and to take it back.

    Attributes:
        name: What the tables call it.
        module: What must be importable for the tool to take part; empty if nothing is needed.
        template: Whether it can only load into a template.
        runs_code: Whether loading runs code that the file chooses.
        durable: Whether `save` returns only once everything it wrote is fsynced.
    """

    name: ClassVar[str]
    module: ClassVar[str] = ""
    template: ClassVar[bool] = False
    runs_code: ClassVar[bool] = False
    durable: ClassVar[bool] = False

    def save(self, path: Path, tree: Tree) -> None:
        """Write the tree to a path at which nothing is yet, and return when the tool says so."""
        raise NotImplementedError

    def load(self, path: Path, like: Tree) -> Tree:
        """Read the tree back with the help of its template.

        Args:
            path: What `save` was given.
            like: The tree of `jax.ShapeDtypeStruct`; a leaf without a sharding means numpy.
        """
        raise NotImplementedError

    def load_alone(self, path: Path) -> Tree:
        """Read back whatever the tool can give without a template."""
        raise NotImplementedError


class Raw(Contender):
    """One file with the bytes of all leaves, fsynced: what the disk itself can do.

    Each write is of 8 MiB at a multiple of 8 MiB, so that it fills whole pages. The bytes are read
    into one aligned buffer that is allocated, and touched, once.
    """

    name = "raw file"
    durable = True

    def __init__(self) -> None:
        self._buffer = _new_memory(1)

    def save(self, path: Path, tree: Tree) -> None:
        with open(path, "wb", buffering=0) as file:
            parts: list[memoryview] = []
            room = _WRITE_NBYTES
            for leaf in jax.tree.leaves(tree):
                data = np.asarray(leaf).reshape(-1).view(np.uint8).data
                while len(data) >= room:
                    _write(file.fileno(), [*parts, data[:room]])
                    data = data[room:]
                    parts, room = [], _WRITE_NBYTES
                parts.append(data)
                room -= len(data)
                if len(parts) == _MOST_PARTS:
                    parts = [memoryview(b"".join(parts))]
            _write(file.fileno(), parts)
            os.fsync(file.fileno())
        sync_directory(path.parent)

    def load(self, path: Path, like: Tree) -> Tree:
        return _read_into(path, self.buffer(path.stat().st_size))

    def buffer(self, size: int) -> mmap.mmap:
        """Return a buffer of this size, with every page of it already in memory."""
        if len(self._buffer) != size:
            self._buffer = _new_memory(size)
            np.frombuffer(self._buffer, np.uint8)[:: mmap.PAGESIZE] = 1
        return self._buffer


class RawNewMemory(Raw):
    """The same file, read into memory that is allocated anew, as any tool must that returns arrays.

    The save is the one of `Raw`, so that the difference of the two is the noise of the disk.
    """

    name = "raw file, new memory"

    def buffer(self, size: int) -> mmap.mmap:
        return _new_memory(size)


class Ckptstore(Contender):
    """This library."""

    name = "ckptstore"
    module = "ckptstore"
    durable = True

    def __init__(self) -> None:
        self._ckptstore = import_module("ckptstore")

    def save(self, path: Path, tree: Tree) -> None:
        self._ckptstore.save(str(path), tree)

    def load(self, path: Path, like: Tree) -> Tree:
        return self._ckptstore.load(str(path))

    def load_alone(self, path: Path) -> Tree:
        return self._ckptstore.load(str(path))


class Orbax(Contender):
    """Orbax's standard checkpointer, waited for."""

    name = "Orbax"
    module = "orbax.checkpoint"

    def __init__(self) -> None:
        self._orbax = import_module("orbax.checkpoint")
        self._checkpointer = self._orbax.StandardCheckpointer()

    def save(self, path: Path, tree: Tree) -> None:
        self._checkpointer.save(path, tree)
        self._checkpointer.wait_until_finished()

    def load(self, path: Path, like: Tree) -> Tree:
        return self._checkpointer.restore(path, like)

    def load_alone(self, path: Path) -> Tree:
        return self._checkpointer.restore(path)


class OrbaxUncompressed(Contender):
    """Orbax with its compression (Zstandard) switched off."""

    name = "Orbax, uncompressed"
    module = "orbax.checkpoint"

    def __init__(self) -> None:
        self._orbax = import_module("orbax.checkpoint")
        self._checkpointer = self._orbax.PyTreeCheckpointer(use_compression=False)

    def save(self, path: Path, tree: Tree) -> None:
        self._checkpointer.save(path, tree)

    def load(self, path: Path, like: Tree) -> Tree:
        restore_args = self._orbax.checkpoint_utils.construct_restore_args(like)
        return self._checkpointer.restore(path, item=like, restore_args=restore_args)

    def load_alone(self, path: Path) -> Tree:
        return self._checkpointer.restore(path)


class Safetensors(Contender):
    """safetensors: a flat dict of arrays, keyed by the path of each leaf."""

    name = "safetensors"
    module = "safetensors"

    def __init__(self) -> None:
        self._flax = import_module("safetensors.flax")
        self._numpy = import_module("safetensors.numpy")

    def save(self, path: Path, tree: Tree) -> None:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        flat = {_joined(key_path): leaf for key_path, leaf in leaves}
        numpy = all(isinstance(leaf, np.ndarray) for leaf in flat.values())
        (self._numpy if numpy else self._flax).save_file(flat, path)

    def load(self, path: Path, like: Tree) -> Tree:
        leaves, structure = jax.tree_util.tree_flatten_with_path(like)
        numpy = any(_is_numpy(leaf) for _, leaf in leaves)
        flat = (self._numpy if numpy else self._flax).load_file(path)
        return jax.tree.unflatten(structure, [flat[_joined(key_path)] for key_path, _ in leaves])

    def load_alone(self, path: Path) -> Tree:
        return self._flax.load_file(path)


class FlaxMsgpack(Contender):
    """Flax's msgpack bytes, written to a file."""

    name = "flax msgpack"
    module = "flax"

    def __init__(self) -> None:
        self._serialization = import_module("flax.serialization")

    def save(self, path: Path, tree: Tree) -> None:
        path.write_bytes(self._serialization.to_bytes(tree))

    def load(self, path: Path, like: Tree) -> Tree:
        tree = self._serialization.from_bytes(like, path.read_bytes())
        return jax.tree.map(
            lambda want, leaf: leaf if _is_numpy(want) else jnp.asarray(leaf), like, tree
        )

    def load_alone(self, path: Path) -> Tree:
        return self._serialization.msgpack_restore(path.read_bytes())


class Pickle(Contender):
    """Python's pickle, protocol 5."""

    name = "pickle"
    runs_code = True

    def save(self, path: Path, tree: Tree) -> None:
        with open(path, "wb") as file:
            pickle.dump(tree, file, protocol=5)

    def load(self, path: Path, like: Tree) -> Tree:
        return self.load_alone(path)

    def load_alone(self, path: Path) -> Tree:
        with open(path, "rb") as file:
            return pickle.load(file)


class Equinox(Contender):
    """Equinox's leaves, one after another in a file."""

    name = "equinox"
    module = "equinox"
    template = True

    def __init__(self) -> None:
        self._equinox = import_module("equinox")

    def save(self, path: Path, tree: Tree) -> None:
        with open(path, "wb") as file:
            self._equinox.tree_serialise_leaves(file, tree)

    def load(self, path: Path, like: Tree) -> Tree:
        def blank(leaf: Any) -> Any:
            return np.empty(leaf.shape, leaf.dtype) if _is_numpy(leaf) else leaf

        with open(path, "rb") as file:
            return self._equinox.tree_deserialise_leaves(file, jax.tree.map(blank, like))


_ALL: tuple[type[Contender], ...] = (
    Raw,
    RawNewMemory,
    Ckptstore,
    Orbax,
    OrbaxUncompressed,
    Safetensors,
    FlaxMsgpack,
    Pickle,
    Equinox,
)


def installed(only: tuple[str, ...] = ()) -> list[Contender]:
    """Return the contenders whose packages are here, in the order of the tables.

    Args:
        only: Names to keep; all of them if it is empty.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    kept = [kind for kind in _ALL if not only or kind.name in only]
    return [kind() for kind in kept if not kind.module or _importable(kind.module)]


def names() -> list[str]:
    """Return the names of all contenders, installed or not."""
    return [kind.name for kind in _ALL]


def sync_all(path: Path) -> None:
    """Fsync a file, or every file and directory under a directory, and the parent of the path."""
    for directory, _, files in os.walk(path):
        for name in files:
            _sync_file(Path(directory) / name)
        sync_directory(Path(directory))
    if path.is_file():
        _sync_file(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Fsync a directory, which makes the names in it durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _write(descriptor: int, parts: list[memoryview]) -> None:
    """Write the parts in one call, or in more if the system takes less."""
    written = os.writev(descriptor, parts) if parts else 0
    if written < sum(map(len, parts)):
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _new_memory(nbytes: int) -> mmap.mmap:
    """Return page-aligned private memory, in huge pages where there are any, as numpy asks for."""
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _read_into(path: Path, buffer: mmap.mmap) -> mmap.mmap:
    with open(path, "rb", buffering=0) as file, memoryview(buffer) as view:
        start = 0
        while start < len(view):
            start += file.readinto(view[start:]) or 0
    return buffer


def _is_numpy(like: Any) -> bool:
    return like.sharding is None


def _joined(key_path: tuple[Any, ...]) -> str:
    return str(jax.tree_util.keystr(key_path, simple=True, separator="."))


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
