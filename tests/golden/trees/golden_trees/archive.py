"""Checkpoints and what they are, packed into one file per framework."""

from __future__ import annotations

import lzma
import os
import pathlib
from typing import Any

import msgpack

from golden_trees import Written, archived, cases, describe, write


def written(framework: str, root: pathlib.Path, version: str | None = None) -> dict[str, Any]:
    """Write the cases of a framework below `root`; return by case what its checkpoints are.

    Args:
        framework: the framework.
        root: the directory.
        version: only the cases that the archive of this minor version has; None: all.
    """
    chosen = cases(framework) if version is None else archived(version, framework)
    return {
        name: {place: about(one) for place, one in write(case, root / folder(name)).items()}
        for name, case in chosen.items()
    }


def folder(name: str) -> str:
    """Return the name of a directory for a case."""
    return name.replace("/", "~")


def about(one: Written) -> dict[str, Any]:
    """Say what a checkpoint is, in what msgpack carries."""
    said = {"step": one.step, "metadata": dict(one.metadata), "metrics": dict(one.metrics)}
    return {**said, "rows": describe.describe(one.tree)}


def files(root: pathlib.Path) -> dict[str, bytes | str]:
    """Return the files below a directory by name: their bytes, or the name of another link."""
    found: dict[str, bytes | str] = {}
    first: dict[int, str] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        other = first.setdefault(path.stat().st_ino, name)
        found[name] = path.read_bytes() if other == name else other
    return found


def unpack(packed: dict[str, bytes | str], root: pathlib.Path) -> None:
    """Make the files again."""
    for name, content in packed.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            os.link(root / content, path)
        else:
            path.write_bytes(content)


def path(root: pathlib.Path, framework: str) -> pathlib.Path:
    """Return the archive of a framework."""
    return root / f"{framework}.msgpack.xz"


def save(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Write an archive."""
    path.write_bytes(lzma.compress(msgpack.packb(content), preset=9 | lzma.PRESET_EXTREME))


def load(path: pathlib.Path) -> dict[str, Any]:
    """Read an archive."""
    found: dict[str, Any] = msgpack.unpackb(lzma.decompress(path.read_bytes()))
    return found
