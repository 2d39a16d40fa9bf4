"""Compare the bytes that two checkouts of ckptstore write for the same trees.

``python compare_bytes.py OLD_CHECKOUT NEW_CHECKOUT`` lets each checkout write the catalogue
`golden_trees` in a process of its own, and compares every file. What may differ is the attempt id,
the time, and the version of ckptstore that a manifest names. It prints what else differs, and exits
with 1 where something does.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

TREES = pathlib.Path(__file__).resolve().parent / "trees"
sys.path += [str(pathlib.Path(__file__).resolve().parents[2]), str(TREES)]

import golden_trees  # noqa: E402 - run as a script, it has to say where the tests are
import msgpack  # noqa: E402
from golden_trees import archive  # noqa: E402

from tests.support import independent_reader  # noqa: E402

# The trees are small: what their functions take to compile is the time that writing them takes.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def run(
    what: str,
    directory: pathlib.Path,
    *,
    checkout: pathlib.Path | None = None,
    python: str = sys.executable,
) -> list[str]:
    """Write or check the catalogue in a process of its own.

    Args:
        what: ``write`` or ``check``.
        directory: where the checkpoints are.
        checkout: whose ckptstore it imports; without one, that of `python`.
        python: the interpreter.

    Returns:
        What the process printed: first which ckptstore it imported.
    """
    places = [TREES] if checkout is None else [checkout, TREES]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "XLA_FLAGS": _QUICK,
    }
    command = [python, "-m", "golden_trees", what, str(directory)]
    directory.mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    lines = done.stdout.splitlines()
    if checkout is not None and not _is_below(lines[0], checkout):
        raise RuntimeError(f"imported {lines[0]}, not the ckptstore of {checkout}")
    return lines


def _is_below(file: str, place: pathlib.Path) -> bool:
    return pathlib.Path(file).resolve().is_relative_to(place.resolve())


def contents(root: pathlib.Path) -> dict[str, Any]:
    """Return the files below a directory by name, without what two saves may differ in.

    A manifest is given as its payload.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        data, name = path.read_bytes(), path.relative_to(root).as_posix()
        manifest = path.parent / "MANIFEST"
        attempt = independent_reader.manifest(manifest.read_bytes())["attempt"]
        if path == manifest:
            data = _payload(data, attempt)
        found[name.replace(attempt, "0" * 32)] = data
    return found


def _payload(data: bytes, attempt: str) -> bytes:
    """Return the payload of a manifest with no attempt, time and version of ckptstore in it."""
    version = independent_reader.manifest(data)["writer"]["ckptstore"]
    at = data.index(msgpack.packb("time_ms")) + 8
    number = len(msgpack.packb(msgpack.unpackb(data[at : at + 9])))
    assert number == 9, "the time is an uint 64"
    name, packed = msgpack.packb("ckptstore"), msgpack.packb(version)
    start = data.index(name + packed, at) + len(name)
    end = 19 + int.from_bytes(data[15:19], "big")
    parts = data[19:at], bytes(9), data[at + 9 : start], data[start + len(packed) : end]
    return b"".join(parts).replace(attempt.encode(), b"0" * 32)


def differences(old: pathlib.Path, new: pathlib.Path) -> tuple[int, list[str]]:
    """Compare two catalogues that were written.

    Returns:
        How many cases were compared, and what differs.
    """
    count, found = 0, []
    for framework in golden_trees.FRAMEWORKS:
        for name in golden_trees.archived("0.1", framework):
            place = pathlib.Path(framework, archive.folder(name))
            count += 1
            a, b = contents(old / place), contents(new / place)
            for file in sorted({*a, *b}):
                if a.get(file) != b.get(file):
                    found.append(f"{framework} {name}: {file}: {_what(a.get(file), b.get(file))}")
    return count, found


def _what(a: bytes | None, b: bytes | None) -> str:
    if a is None or b is None:
        return "only the new one has it" if a is None else "only the old one has it"
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    context = slice(max(0, at - 40), at + 40)
    return f"{len(a)} and {len(b)} bytes, at byte {at}: {a[context]!r} and {b[context]!r}"


def main() -> int:
    """Compare two checkouts that the command names."""
    old, new = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as directory:
        places = [pathlib.Path(directory, name) for name in ("old", "new")]
        with concurrent.futures.ThreadPoolExecutor() as both:
            jobs = [
                both.submit(run, "write", place, checkout=checkout)
                for checkout, place in zip((old, new), places, strict=True)
            ]
        print(*(job.result()[0] for job in jobs), sep="\n")
        count, found = differences(*places)
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{count} cases compared, {len(found)} files differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
