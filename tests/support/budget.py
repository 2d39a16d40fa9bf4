"""How much work a call makes, counted in steps and bytes: the same on every machine.

As a program, it runs calls on shapes under hard limits of processor time and memory, in a process
that may die of them:

    python -m tests.support.budget [NAME ...]
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import ckptstore
from ckptstore import convert
from tests.support import ROOT, fuzzing, shapes

SECONDS = int(os.environ.get("CKPTSTORE_SECONDS", 30))
"""Of processor time, for one shape. Each takes less than a tenth; an endless one takes years."""
SOME = {"load", "load numpy", "load like", "leaves"}
"""The calls that a chain in one field of one record may matter to."""
MEMORY = 3 << 30


def steps(call: Callable[[], Any]) -> int:
    """Return how many lines of Python a call runs in this thread, and functions of C it calls."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "c_call"

    gc.disable()
    sys.setprofile(profile)
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
        gc.enable()
    return count


def peak(call: Callable[[], Any]) -> int:
    """Return the most bytes that a call held at once.

    It is the less of two calls: in one, a table of the process may grow for all that came before,
    such as that of the interned strings.
    """
    return min(_peak(call) for _ in range(2))


def _peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Calls:
    """The calls on one checkpoint; each returns the length of the text of its error, or 0."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.value: Any = None

    def each(self) -> dict[str, Callable[[], int]]:
        load, at = ckptstore.load, self.directory
        ways: dict[str, Callable[[], Any]] = {
            "load": lambda: load(at),
            "load numpy": lambda: load(at, arrays="numpy"),
            "load like": self._like,
            "select": lambda: load(at, select="$[1]"),
            "select all": lambda: load(at, select="$.*"),
            "inspect": lambda: ckptstore.inspect(at),
            "leaves": lambda: ckptstore.inspect(at).leaves,
            "str": lambda: str(ckptstore.inspect(at)),
            "verify": lambda: ckptstore.verify(at),
            "to_npz": lambda: convert.to_npz(at / "out.npz", at, overwrite=True),
            "to_safetensors": lambda: convert.to_safetensors(at / "out.st", at, overwrite=True),
        }
        return {name: lambda way=way: self._length(way) for name, way in ways.items()}  # type: ignore[misc]

    def _like(self) -> Any:
        if self.value is None:
            self.value = ckptstore.load(self.directory)
        return ckptstore.load(self.directory, self.value)

    def _length(self, way: Callable[[], Any]) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                way()
            except ckptstore.CheckpointError as error:
                return len(str(error))
        return 0


def put(files: dict[str, bytes], directory: Path) -> int:
    """Write the files of a checkpoint; return their size."""
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return sum(map(len, files.values()))


def measure(name: str, work: Path) -> dict[str, Any]:
    """Return (steps, peak, length of the error, bytes of the file) of each call at n and at 2n."""
    shape, found = shapes.SHAPES[name], {}
    for factor in (1, 2):
        nbytes = put(shape.make(factor * shape.n), directory := work / f"{factor}")
        calls = Calls(directory).each()
        for call, way in calls.items():
            inside = name.startswith("chain of") and "." in name
            if call in shape.skip or (inside and call not in SOME):
                continue
            length = way()  # the caches of the process are warm after it
            found.setdefault(call, []).append((steps(way), peak(way), length, nbytes))
    nbytes = put(shape.make(shape.large), directory := work / "large")
    for call, way in Calls(directory).each().items():
        if call in found:
            found[call].append((0, 0, way(), nbytes))
    return found


def outcomes(names: Sequence[str]) -> Generator[tuple[str, Any]]:
    """Measure shapes in a process of its own; a process that dies is followed by another.

    Yields:
        The name of each shape, and what `measure` returned for it, or the text of what ended it.
    """
    left = list(names)
    while left:
        command = [sys.executable, "-m", "tests.support.budget", *left]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT, env=env
            ) as running,
        ):
            assert running.stdout is not None
            before, began = len(left), False
            try:
                for line in running.stdout:
                    word, _, text = line.partition(" ")
                    began = word == "shape"
                    if word == "result":
                        name, result = json.loads(text)
                        left.remove(name)
                        yield name, result
            finally:
                running.kill()  # one that was not asked for more
            code = running.wait()
            said.seek(0)
            ended = f"the process ended with {code}: {said.read()[-2000:]}"
        if began:
            yield left.pop(0), ended
        elif len(left) == before:
            raise RuntimeError(f"no shape was measured: {ended}")


def main(names: list[str]) -> int:
    fuzzing.import_all()
    gc.collect()
    gc.freeze()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    for name in names or shapes.SHAPES:
        print("shape", json.dumps(name), flush=True)
        spent = resource.getrusage(resource.RUSAGE_SELF)
        until = int(spent.ru_utime + spent.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
        with tempfile.TemporaryDirectory() as work:
            try:
                result: Any = measure(name, Path(work))
            except Exception as error:
                result = f"{type(error).__name__}: {error!s:.300}"
        print("result", json.dumps([name, result]), flush=True)
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
