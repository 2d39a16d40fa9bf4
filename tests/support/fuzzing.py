"""Every call on an odd file gives what the independent reader gives, or a CheckpointError.

`faults(files, ...)` runs the calls and lists what is neither. As a program, it runs numbered
inputs in a process of its own, which may die:

    python -m tests.support.fuzzing KIND FIRST COUNT
"""

from __future__ import annotations

import faulthandler
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ckptstore
from ckptstore import analysis, convert
from tests.support import agreement, foreign_files, forging, hostile
from tests.support import independent_reader as ir

TEXT_AT_MOST = 1 << 16
_MISSING = object()


class Trial:
    """The calls on one checkpoint, and the faults found so far."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self.rng = rng
        self.faults: list[str] = []
        self.refused: ckptstore.CheckpointError | None = None

    def run(self) -> list[str]:
        hostile.RAN.clear()
        try:
            read: Any = ir.read(self.directory)
        except ir.SpecError as error:
            read = error
        self._read(read)
        self._describe(read)
        self._look(read)
        if self.rng.random() < 0.05:
            self._convert()
        if hostile.RAN:
            self.fault("code of a stored class", f"ran: {hostile.RAN[:5]}")
        return self.faults

    def fault(self, call: str, text: str) -> None:
        self.faults.append(f"{call}: {text[:2000]}")

    def call(self, name: str, function: Callable[[], Any]) -> Any:
        """Return what a call gives, or _MISSING if it raised an error as it should."""
        self.refused = None
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                value = function()
        except ckptstore.CheckpointError as error:
            self.refused, value = error, _MISSING
            if len(str(error)) > TEXT_AT_MOST:
                self.fault(name, f"an error of {len(str(error))} characters: {error!s:.200}")
        except Exception as error:
            value = _MISSING
            self.fault(name, "".join(traceback.format_exception(error, limit=-6)))
        warned = [w for w in warned if not any(text in str(w.message) for text in OF_OTHERS)]
        if warned:
            self.fault(name, f"{len(warned)} warnings: {warned[0].message!s:.200}")
        return value

    def _read(self, read: Any) -> None:
        """Load the file, in each way."""
        wrong = read if isinstance(read, ir.SpecError) else None
        plain = self.call("load numpy", lambda: ckptstore.load(self.directory, arrays="numpy"))
        value = self.call("load", lambda: ckptstore.load(self.directory))
        refused = self.refused
        for name, found in (("load", value), ("load numpy", plain)):
            if found is _MISSING:
                continue
            if wrong is not None:
                taken = {"padding"} if name == "load" else {"padding", "bad-type"}  # section 11.1
                if wrong.reason not in taken:
                    self.fault(name, f"gave a value, expected {wrong}")
                continue
            for difference in agreement.disagreements(read.tree, found, plain=name != "load")[:3]:
                self.fault(name, f"another value: {difference}")
        if refused is not None and wrong is None and refused.reason in FORMAT_REASONS:
            self.fault("load", f"refused a sound file: {refused.reason}: {refused!s:.300}")
        if value is not _MISSING and wrong is None:
            again = self.call("load like", lambda: ckptstore.load(self.directory, value))
            if again is _MISSING and self.refused is not None:
                # jax may have functions for a class, which take it apart or refuse it.
                told = str(self.refused)
                if not any(text in told for text in NOT_SAVED):
                    self.fault("load like", f"its own value was refused: {self.refused!s:.500}")
            elif again is not _MISSING:
                for difference in agreement.disagreements(read.tree, again)[:3]:
                    self.fault("load like", f"another value: {difference}")
        self._select(read, wrong)

    def _select(self, read: Any, wrong: Any) -> None:
        whole = self.call("select $", lambda: ckptstore.load(self.directory, select="$"))
        if whole is not _MISSING and wrong is None:
            for difference in agreement.disagreements(read.tree, whole)[:3]:
                self.fault("select $", f"another value: {difference}")
        pattern = self.rng.choice(["$.*", "$.**", "$[0]", "$.a", "$.*.*", "$['w']"])
        self.call(f"select {pattern}", lambda: ckptstore.load(self.directory, select=pattern))

    def _describe(self, read: Any) -> None:
        wrong = read if isinstance(read, ir.SpecError) else None
        about = self.call("inspect", lambda: ckptstore.inspect(self.directory))
        if about is _MISSING and wrong is None:
            self.fault("inspect", f"refused a sound file: {self.refused}")
        leaves = _MISSING
        if about is not _MISSING:
            leaves = self.call("inspect.leaves", lambda: about.leaves)
            text = self.call("str(inspect)", lambda: str(about) + repr(about))
            self.call("inspect.types", lambda: about.types)
            if leaves is _MISSING or text is _MISSING:
                self.fault("inspect", f"is there, but cannot be looked at: {self.refused}")
            elif wrong is None:
                self._leaves(leaves, read.tree)
        problems = self.call("verify", lambda: ckptstore.verify(self.directory))
        if problems is not _MISSING:
            for problem in problems:
                if len(str(problem)) > TEXT_AT_MOST:
                    self.fault("verify", f"a problem of {len(str(problem))} characters")
            if problems and wrong is None:
                self.fault("verify", f"refused a sound file: {problems[0]}")
            if not problems and wrong is not None and wrong.reason in BYTES_REASONS:
                self.fault("verify", f"found nothing, expected {wrong}")
        elif wrong is None:
            self.fault("verify", f"refused a sound file: {self.refused}")

    def _leaves(self, infos: Any, tree: Any) -> None:
        """Compare the list of leaves, and load one of them by its path."""
        leaves = list(leaves_of(tree))
        if [leaf.shape for leaf in leaves] != [info.shape for info in infos]:
            self.fault("inspect.leaves", "other leaves than were read")
            return
        if not leaves:
            return
        number = self.rng.randrange(len(leaves))
        path = infos[number].path
        if not PLAIN_PATH.fullmatch(path):  # no pattern matches a static part or a long key
            return
        found = self.call("select leaf", lambda: ckptstore.load(self.directory, select=path))
        if found is _MISSING:
            reason = getattr(self.refused, "reason", "")
            listed = str(self.refused).partition("there is ")[2]  # of a field whose name has a dot
            if reason in ("no-match", "bad-pattern") and path not in listed:
                self.fault("select leaf", f"{path!r:.200}: {self.refused!s:.300}")
            return
        if type(found) is dict and "*" in path:
            return
        for difference in agreement.disagreements(leaves[number], found)[:3]:
            self.fault("select leaf", f"{path!r:.200}: another value: {difference}")

    def _look(self, read: Any) -> None:
        """Open the file, and look at each of its places."""
        wrong = read if isinstance(read, ir.SpecError) else None
        reader = self.call("open", lambda: ckptstore.open_checkpoint(self.directory))
        if reader is _MISSING:
            if wrong is None and self.refused is not None and self.refused.reason in FORMAT_REASONS:
                self.fault("open", f"refused a sound file: {self.refused}")
            return
        with reader:
            nodes = self.call("walk", lambda: list(reader.tree.walk()))
            for node in [] if nodes is _MISSING else nodes:
                self.call("node", lambda: (node.short, node.type, node.same, node.count))  # noqa: B023
                self.call("value", lambda: node.value)  # noqa: B023
            self.call("read", lambda: reader.read(reader.arrays()))
            self.call("pieces", lambda: [*reader.pieces()])
            self.call("stats", lambda: [row.to_dict() for row in analysis.stats(reader)])
            found = self.call("diff", lambda: analysis.diff(reader, reader).to_dict())
            if wrong is None and found is not _MISSING and found["differs"]:
                self.fault("diff", f"a file differs from itself: {found['changes'][:1]}")

    def _convert(self) -> None:
        ways: Any = (convert.to_npz, None), (convert.to_safetensors, convert.from_safetensors)
        for write, read in ways:
            out = self.directory.parent / f"out.{write.__name__}"
            out.unlink(missing_ok=True)
            report = self.call(write.__name__, lambda: write(out, self.directory))  # noqa: B023
            if report is not _MISSING and read is not None:
                back = self.call(read.__name__, lambda: read(out))  # noqa: B023
                if back is _MISSING:
                    self.fault(read.__name__, f"what was written is refused: {self.refused}")


OF_OTHERS = ("Detected pickle protocol", "NumpyHandler.metadata' was never awaited")
"""Warnings of torch, of any file, and of Orbax, after it refused one."""
NOT_SAVED = (
    "pytree ()",
    "(flax.nnx",
    "(jax._src",
    ">bfloat16",
    "{static}: the container holds itself",
    "{options}",  # fewer options than this release of ml_collections has
    ".items[",  # the items of a set of objects in another order than that of their texts
)
"""What `load` gives and `like`, as `save`, refuses: values that only a forger has."""
PLAIN_PATH = re.compile(r"\$(\.\w+|\[\d+\]|\['\w*'\])*")
# An IntEnum and its value are two keys for a reader that lacks the class: no `duplicate-key`.
FORMAT_REASONS = {
    *("bad-column", "bad-field", "bad-file-name", "bad-grid", "bad-key", "bad-magic"),
    *("bad-msgpack", "bad-node", "bad-reference", "bad-scalar", "bad-shape", "bad-span"),
    *("bad-tree", "bad-value", "checksum", "duplicate-table", "file-size"),
    *("integer-range", "manifest-size", "missing-field", "missing-file", "padding", "truncated"),
    *("shape-overflow", "span-alignment", "span-gap", "span-overlap", "span-range", "span-sum"),
    *("trailing-bytes", "too-deep", "checkpoint", "structure", "corrupt", "storage"),
}
"""What no sound file may be refused with."""
BYTES_REASONS = {"checksum", "padding", "file-size", "missing-file"}


def leaves_of(tree: Any) -> Iterator[ir.Leaf]:
    """Give the arrays that the independent reader found, each once, in the order of the nodes."""
    seen: set[int] = set()
    todo = [tree]
    while todo:
        value = todo.pop()
        if isinstance(value, ir.Leaf | ir.Record | list | tuple | dict):
            if id(value) in seen and value != ():
                continue
            seen.add(id(value))
        if isinstance(value, ir.Leaf):
            yield value
        below = (
            [*value.fields.values()] if isinstance(value, ir.Record)
            else [*value.values()] if isinstance(value, dict)
            else [*value] if isinstance(value, list | tuple)
            else [value.start, value.stop, value.step] if isinstance(value, slice)
            else []
        )  # fmt: skip
        todo += reversed(below)


def foreign_faults(seed: int, work: Path) -> tuple[list[str], forging.Files]:
    """Bend a file of another tool, read it, and list the faults."""
    kind, files, read = foreign_files.forge(seed, work / "f")
    trial = Trial(work / "f", random.Random(seed))
    trial.call(f"from {kind}", read)
    return trial.faults, files


def faults(files: forging.Files, seed: int, work: Path) -> list[str]:
    """Write a checkpoint and list the faults of all calls on it."""
    directory = work / "c"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return Trial(directory, random.Random(f"calls {seed}")).run()


def as_hex(files: forging.Files) -> str:
    """Return the files for a reproducer."""
    return json.dumps({name: content.hex() for name, content in files.items()})


def import_all() -> None:
    """Import what stored types may name, so that each process knows the same classes."""
    import chex  # noqa: F401
    import equinox  # noqa: F401
    import flax.nnx
    import flax.training.train_state  # noqa: F401
    import haiku  # noqa: F401
    import jax
    import jmp  # noqa: F401
    import optax  # noqa: F401
    import torch  # noqa: F401

    jax.numpy.zeros(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forging.classes()
        forging.enums()


def main(kind: str, first: int, count: int) -> int:
    """Run inputs; print each number before, and each fault after, so that a death has a number."""
    faulthandler.enable()
    import_all()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as work:
        for seed in range(first, first + count):
            print("input", seed, flush=True)
            if kind == "foreign":
                found, files = foreign_faults(seed, Path(work))
            else:
                files = forging.forge(seed)
                found = faults(files, seed, Path(work))
            if found:
                print("fault", json.dumps([seed, found, as_hex(files)]), flush=True)
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
