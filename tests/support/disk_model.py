"""What a power cut may leave: a model of a disk that keeps only what was synced.

The model knows what POSIX promises and no more. The bytes of a file are safe once the file was
fsynced, a name once its directory was; until then each change may have reached the disk or not,
in any order. A link or rename is on the disk or not, never half.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.faults import Faults

Names = dict[str, int]


class ModelDisk(Faults):
    """Follows the calls of one save; `images` gives what may be found after a cut right now."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = str(root)
        self._ids = itertools.count()
        self._live: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}
        self._names: dict[str, Names] = {}
        self._durable: dict[str, Names] = {}
        self.moments: list[list[dict[str, bytes | None]]] = []
        for directory, below, files in os.walk(root):
            names = {name: next(self._ids) for name in below}
            for name in files:
                names[name] = key = next(self._ids)
                self._live[key] = self._synced[key] = Path(directory, name).read_bytes()
            self._names[directory] = names
            self._durable[directory] = dict(names)
        self.moments.append(self.images())

    def happened(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        path = self.paths.get(args[0], "") if isinstance(args[0], int) else str(args[0])
        directory, base = os.path.split(path)
        if name == "open" and args[1] & os.O_CREAT:
            self._names[directory][base] = key = next(self._ids)
            self._live[key] = self._synced[key] = b""
        elif name == "write":
            self._live[self._names[directory][base]] += bytes(args[1])[:result]
        elif name == "mkdir":
            self._names[directory][base] = next(self._ids)
            self._names[path] = {}
            self._durable[path] = {}
        elif name == "fsync" and path in self._names:
            self._durable[path] = dict(self._names[path])
        elif name in ("fsync", "fdatasync"):
            key = self._names[directory][base]
            self._synced[key] = self._live[key]
        elif name in ("link", "replace", "renameat2"):
            target_directory, target = os.path.split(args[1])
            self._names[target_directory][target] = self._names[directory][base]
            if name != "link":
                del self._names[directory][base]
        elif name == "unlink":
            del self._names[directory][base]
        else:
            return
        self.moments.append(self.images())

    def images(self) -> list[dict[str, bytes | None]]:
        """Return what the disk may hold: path below the root to bytes, or None for a directory.

        First the worst case, without anything that was not synced.
        """
        seeds = [random.Random(len(self.moments) * 8 + i) for i in range(4)]
        return [
            self._image(lambda change: False, lambda: 0.0),
            self._image(lambda change: True, lambda: 0.0),
            self._image(lambda change: change == "gone", lambda: 0.0),
            self._image(lambda change: change == "new", lambda: 1.0),
            *(
                self._image(lambda change, r=r: r.random() < 0.5, lambda r=r: r.random())
                for r in seeds
            ),
        ]

    def _image(self, reached: Any, part: Any) -> dict[str, bytes | None]:
        return dict(self._walk(self.root, reached, part))

    def _walk(self, directory: str, reached: Any, part: Any) -> Iterator[tuple[str, bytes | None]]:
        live, durable = self._names[directory], self._durable[directory]
        for name in {**durable, **live}:
            key = durable.get(name)
            if live.get(name) != key and reached("new" if name in live else "gone"):
                key = live.get(name)
            if key is None:
                continue
            path = os.path.join(directory, name)
            if path in self._names:
                yield os.path.relpath(path, self.root), None
                yield from self._walk(path, reached, part)
            else:
                data = self._synced[key]
                if data != self._live[key]:
                    data = self._live[key][: int(part() * len(self._live[key]))]
                yield os.path.relpath(path, self.root), data


def materialise(image: dict[str, bytes | None], root: Path) -> None:
    """Write an image to an empty directory."""
    root.mkdir()
    for name, data in image.items():
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)
