"""The files of a checkpoint on their way to another place: linked, found there, or sent.

docs/copying.md has the rules, docs/commit.md the order.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from ckptstore import concurrency
from ckptstore.checkpoint import Snapshot
from ckptstore.errors import CheckpointError, CorruptError
from ckptstore.format import Manifest, names
from ckptstore.format.dtypes import Array
from ckptstore.loading import stretches
from ckptstore.loading.stretches import Damage, Stretch
from ckptstore.progress import Progress
from ckptstore.storage import Storage
from ckptstore.tree import paths

_NO_ATTEMPT = "0" * 32


class Transfer:
    """The files of one copy.

    Args:
        origin: the checkpoint.
        target: the place of the copy.
        manifest: the manifest of the copy: the same files under other names.
        verify: check every byte.
        progress: counts the bytes of data files that are there.

    Raises:
        CorruptError: the index of the checkpoint is damaged.
    """

    def __init__(
        self,
        origin: Snapshot,
        target: Storage,
        manifest: Manifest,
        progress: Progress,
        *,
        verify: bool,
    ) -> None:
        self._origin, self._target, self._manifest = origin, target, manifest
        self._progress, self._verify = progress, verify
        self._tree = origin.tree()
        self._stretches = collections.defaultdict[int, list[Stretch]](list)
        for stretch in stretches.stretches_of(self._tree.index):
            self._stretches[stretch.file].append(stretch)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Put all files there; when this returns, they are durable.

        Raises:
            CorruptError: a byte of the checkpoint is damaged.
            StorageError: a store refuses, or does not answer.
        """
        target, files = self._target, self._manifest.files
        rows = [row for row, file in enumerate(files) if file.role == "data"]
        self._progress.expect(sum(files[row].nbytes for row in rows))
        there = self._there(target.list())
        taken = set[int]()

        def take(row: int) -> None:
            if self._take(row, there):
                taken.add(row)
                self._progress.add(files[row].nbytes)

        self._each(take, rows, "link")
        left = [row for row in rows if row not in taken]
        rest = [row for row in range(len(files)) if row not in rows]
        target.expect(sum(files[row].nbytes for row in left + rest))
        self._each(self._send, left, "copy")
        index = self._origin.index_parts[len(self._origin.index_parts) - len(rest) :]
        for row, part in zip(rest, index, strict=True):
            target.put(files[row].name, [part], files[row].nbytes)
        target.flush()

    def _each(self, call: Callable[[int], None], rows: Sequence[int], name: str) -> None:
        threads, chosen = self._target.traffic.writes, [(row,) for row in rows]
        concurrency.run(call, chosen, threads, name=f"ckptstore-{name}", stop=self._stop)

    def _stop(self) -> None:
        self._stopped.set()
        self._target.stop()

    def _there(self, listed: Mapping[str, int]) -> Mapping[int, Sequence[str]]:
        """Return, by row, the files at the place that may be the same: a killed copy left them."""
        files = self._manifest.files
        own = {names.renamed(file.name, _NO_ATTEMPT): row for row, file in enumerate(files)}
        found = collections.defaultdict[int, list[str]](list)
        for name, nbytes in listed.items():
            if names.attempt_of(name) is not None and not names.is_note(name):
                row = own.get(names.renamed(name, _NO_ATTEMPT))
                if row is not None and nbytes == files[row].nbytes:
                    found[row].append(name)
        return found

    def _take(self, row: int, there: Mapping[int, Sequence[str]]) -> bool:
        """Link a file of the checkpoint, or one of the place that holds the same bytes."""
        file, origin, target = self._manifest.files[row], self._origin, self._target
        sources = [(origin.storage, origin.manifest.files[row].name)]
        sources += [(target, name) for name in there.get(row, ())]
        for directory, name in sources:
            if target.link(file.name, directory, name, file.nbytes):
                is_left = directory is target  # by whom is not known, so it is always read
                if not (is_left or self._verify) or self._is_sound(row):
                    return True
                target.delete(file.name)
        return False

    def _is_sound(self, row: int) -> bool:
        """Return whether a linked file holds the bytes of the checkpoint."""
        name, target = self._manifest.files[row].name, self._target
        size = target.traffic.piece_nbytes

        def fill(offset: int, memory: Array) -> None:
            for at in range(0, memory.size, size):
                target.get(name, offset + at, memory[at : at + size])

        try:
            return all(not damages for _, damages in self._read(row, fill))
        except (FileNotFoundError, EOFError):  # somebody removed it; the commit would be refused
            return False

    def _send(self, row: int) -> None:
        file = self._manifest.files[row]
        self._target.put(file.name, self._chunks(row), file.nbytes)

    def _chunks(self, row: int) -> Iterator[Array]:
        for memory, damages in self._read(row, stretches.filler(self._origin, row)):
            if damages and self._verify:
                raise self._damaged(damages[0])
            yield memory
            self._progress.add(memory.size)

    def _read(self, row: int, fill: stretches.Fill) -> Iterator[tuple[Array, Sequence[Damage]]]:
        for stretch in self._stretches[row]:
            if self._stopped.is_set():
                raise _Stopped("another file of this copy failed")
            yield stretches.read(stretch, self._tree.index, fill)

    def _damaged(self, damage: Damage) -> CorruptError:
        origin = self._origin
        what = "padding"
        if damage.leaf is not None:
            (what,) = paths.shown_paths(self._tree, [self._tree.leaf_nodes[damage.leaf]])
        return CorruptError(
            f"{origin.storage.url}/{origin.manifest.files[damage.file].name}: {what}: the bytes at "
            f"{damage.offset} are not those that were saved, and nothing was copied; copy an older "
            "checkpoint, or pass verify=False to copy the damage too",
            reason=damage.reason,
        )


class _Stopped(CheckpointError):
    """Another file of this copy failed."""
