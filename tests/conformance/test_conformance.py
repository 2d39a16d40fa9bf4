"""The files of `tests/conformance/`: each valid one loads as described, each invalid one is refused
with its own class and reason, and nothing is imported, called, written or allocated on the way.
"""

from __future__ import annotations

import collections
import enum
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.types import registry
from tests import support
from tests.conformance import make_conformance
from tests.support import DOCS, independent_reader

ROOT = Path(__file__).parent


def top_level(name: str) -> Any:
    """Import a module of tests.support under the bare name by which the files know it."""
    spec = importlib.util.spec_from_file_location(
        name, Path(support.__file__).parent / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = top_level("hostile")
CALLS: dict[str, Callable[[Path], Any]] = {
    "load": ckptstore.load,
    "inspect": ckptstore.inspect,
    "verify": ckptstore.verify,
}
HAS_JAX = importlib.util.find_spec("jax") is not None


def directories(kind: str) -> list[Any]:
    return [pytest.param(path, id=path.name) for path in sorted((ROOT / kind).iterdir())]


def expectation(directory: Path) -> dict[str, Any]:
    expect: dict[str, Any] = json.loads((directory / "expect.json").read_text(encoding="utf-8"))
    if expect.get("needs") == "jax" and not HAS_JAX:
        pytest.skip("jax is not installed")
    return expect


def test_the_corpus_is_there() -> None:
    assert len(directories("valid")) >= 25
    assert len(directories("invalid")) >= 400
    assert len(make_conformance.LARGE) >= 8


def test_the_corpus_is_what_its_maker_makes() -> None:
    for kind, cases in (("valid", make_conformance.VALID), ("invalid", make_conformance.INVALID)):
        assert {path.name for path in (ROOT / kind).iterdir()} == set(cases)
        for name, case in cases.items():
            names = {path.name for path in (ROOT / kind / name).iterdir()}
            assert names == {*case.files, "expect.json"}
            for file, content in case.files.items():
                assert (ROOT / kind / name / file).read_bytes() == content, f"{name}/{file}"


# --- What is valid -----------------------------------------------------------------------------


def describe(x: Any) -> Any:
    """Say a value in the words of the files ``expect.json``."""
    cls = type(x)
    if x is None or cls in (bool, str):
        if cls is str and any("\ud800" <= c <= "\udfff" for c in x):
            return {"surrogates": x.encode("utf-8", "surrogatepass").hex()}
        return x
    if cls is float:
        return {"float": repr(x)} if x == x else {"nan": struct.pack(">d", x).hex()}
    if cls is complex:
        return {"complex": [repr(x.real), repr(x.imag)]}
    if cls is np.ndarray:
        if x.dtype.names is not None:
            return {"structure": {name: describe(x[name]) for name in x.dtype.names}}
        return {"array": x.dtype.str, "shape": list(x.shape), "bytes": x.tobytes().hex()}
    if cls is list:
        return [describe(item) for item in x]
    if isinstance(x, dict):
        entries = {cls.__name__: [[describe(key), describe(value)] for key, value in x.items()]}
        if isinstance(x, collections.defaultdict):
            entries["factory"] = x.default_factory and x.default_factory.__name__  # type: ignore[assignment]
        return entries
    if cls in (tuple, set, frozenset):
        return {cls.__name__: [describe(item) for item in x]}
    if cls in (bytes, bytearray):
        return {cls.__name__: x.hex()}
    if cls is slice:
        return {"slice": [describe(part) for part in (x.start, x.stop, x.step)]}
    if cls is range:
        return {"range": [str(part) for part in (x.start, x.stop, x.step)]}
    if isinstance(x, type):
        return {x.__module__: x.__name__}
    if isinstance(x, np.dtype):
        return {"dtype": x.str}
    name = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(x, enum.Enum):
        return {name: x.name}
    if cls.__module__ == "hostile":
        fields = getattr(x, "_fields", None) or tuple(vars(x))
        return {name: {field: describe(getattr(x, field)) for field in fields}}
    return {"int": str(x)} if cls is int else {"ellipsis": 0}


def reach(x: Any, path: list[Any]) -> Any:
    for step in path:
        x = x[step]
    return x


@pytest.mark.parametrize("directory", directories("valid"))
@pytest.mark.parametrize("arrays", [None, "numpy"])
def test_a_valid_file_loads_as_described(directory: Path, arrays: Any) -> None:
    expect = expectation(directory)
    if expect.get("needs_like") and arrays is None:
        assert outcome(ckptstore.load, directory) == ("StructureError", "needs-like")
        return
    loaded = ckptstore.load(directory, arrays=arrays)
    assert describe(loaded) == expect["value"]
    first, *others = [reach(loaded, path) for path in expect.get("one_object", [[]])]
    assert all(other is first for other in others)


@pytest.mark.parametrize("directory", directories("valid"))
def test_a_valid_file_is_sound_and_can_be_described(directory: Path) -> None:
    assert ckptstore.verify(directory) == []
    found = ckptstore.inspect(directory)
    assert str(found) and found.attempt == make_conformance.ATTEMPT
    assert all(leaf.path.startswith("$") for leaf in found.leaves)


@pytest.mark.parametrize("directory", directories("valid"))
def test_a_valid_file_is_read_by_the_independent_reader(directory: Path) -> None:
    independent_reader.read(directory)


# --- What is not -------------------------------------------------------------------------------


class Watch:
    """Notes what a call does beyond reading: an audit hook, which cannot be taken off again."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes or (isinstance(mode, str) and mode.strip("rbt")):
                self.events.append(f"{event} {path} {mode} {flags}")
        elif event.startswith(FORBIDDEN) and not (event == "import" and is_lazy(arguments[0])):
            self.events.append(f"{event} {arguments!r:.100}")

    def __enter__(self) -> Watch:
        self.events.clear()
        hostile.RAN.clear()
        self.modules = set(sys.modules)
        self.on = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.on = False
        assert self.events == []
        assert hostile.RAN == []
        assert [name for name in set(sys.modules) - self.modules if not is_lazy(name)] == []


def is_lazy(module: str) -> bool:
    """Tell whether it is one of the modules that jax, once imported, imports as it needs them."""
    return module.partition(".")[0] in ("jax", "jaxlib", "jax_plugins")


FORBIDDEN = (
    *("import", "exec", "compile", "marshal.", "pickle.", "code.", "ctypes.", "socket.", "urllib."),
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess."),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.putenv", "shutil.", "tempfile.", "webbrowser."),
)
WATCH = Watch()


@pytest.fixture(scope="module", autouse=True)
def adapters() -> Iterator[None]:
    """Load the adapters first, so that a file may not bring about any import at all."""
    for package in registry.ADAPTERS:
        try:
            found = registry.find_adapter(package)
        except ckptstore.UnknownTypeError:
            continue
        for module in found.modules if found else ():
            __import__(module)
    ckptstore.load(ROOT / "valid" / "records")
    bytes(4).decode("utf-32-le")  # its codec is a module
    if HAS_JAX:
        outcome(ckptstore.load, ROOT / "invalid" / "array-jax-impl-unknown")
    yield


def outcome(call: Callable[[Path], Any], directory: Path) -> tuple[str, str] | None:
    """Return the class and reason of what a call raises or, of `verify`, returns."""
    try:
        found = call(directory)
    except ckptstore.CheckpointError as error:
        assert str(directory) in str(error), f"it does not say where: {error}"
        assert len(str(error)) < 2000
        return type(error).__name__, error.reason
    if call is ckptstore.verify and found:
        assert all(str(directory) in problem.where for problem in found)
        return "CorruptError", found[0].reason
    return None


def check(directory: Path, expect: dict[str, Any]) -> None:
    for name, call in CALLS.items():
        wanted = (expect["error"], expect["reason"]) if name in expect["raised_by"] else None
        with WATCH:
            got = outcome(call, directory)
        assert got == wanted, f"{name}: {expect['about']}"


@pytest.mark.parametrize("directory", directories("invalid"))
def test_an_invalid_file_is_refused_with_its_reason(directory: Path) -> None:
    check(directory, expectation(directory))


def format_cases() -> list[Any]:
    """Those that break the format itself, whatever classes and packages a reader has."""
    expected = {name: case.expect for name, case in make_conformance.INVALID.items()}
    own = ("UnknownTypeError", "StructureError")
    return [
        pytest.param(ROOT / "invalid" / name, id=name)
        for name, expect in expected.items()
        if expect["error"] not in own and expect.get("needs") in (None, "torch")
    ]


@pytest.mark.parametrize("directory", format_cases())
def test_the_independent_reader_gives_the_same_reason(directory: Path) -> None:
    expect = expectation(directory)
    with pytest.raises(independent_reader.SpecError) as caught:
        independent_reader.read(directory)
    assert caught.value.reason == expect["reason"]


@pytest.mark.parametrize("name", make_conformance.LARGE)
def test_a_large_invalid_file_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    case = make_conformance.LARGE[name]()
    make_conformance.write(case, tmp_path / "case")
    check(tmp_path / "case", case.expect)


def memory(call: Callable[[Path], Any], directory: Path) -> int:
    """Return the most bytes that a call held at once."""
    tracemalloc.start()
    try:
        outcome(call, directory)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.ci  # it traces every allocation
def test_an_invalid_file_takes_no_memory_beyond_its_size(tmp_path: Path) -> None:
    places = [ROOT / "invalid" / name for name in make_conformance.INVALID]
    for name, make in make_conformance.LARGE.items():
        places.append(tmp_path / name)
        make_conformance.write(make(), places[-1])
    for directory in places:
        if not HAS_JAX and json.loads((directory / "expect.json").read_text()).get("needs"):
            continue
        held = sum(path.stat().st_size for path in directory.iterdir())
        for call in CALLS.values():
            used = memory(call, directory)
            assert used < 20 * held + (256 << 10), f"{directory.name}: {used} bytes for {held}"


def test_no_stored_name_brings_an_import_into_a_fresh_process() -> None:
    script = (
        "import json, pathlib, sys, ckptstore\n"
        f"for place in sorted(pathlib.Path({str(ROOT / 'invalid')!r}).iterdir()):\n"
        "    if json.loads((place / 'expect.json').read_text()).get('needs'): continue\n"
        "    for call in (ckptstore.load, ckptstore.inspect, ckptstore.verify):\n"
        "        try: call(place)\n"
        "        except ckptstore.CheckpointError: pass\n"
        "bad = 'antigravity this hostile webbrowser evil jax optax subprocess'.split()\n"
        "print([name for name in bad if name in sys.modules])"
    )
    options = {"PYTHONPATH": str(Path(ckptstore.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **options},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_reason_of_the_format_has_a_file() -> None:
    spec = (DOCS / "spec.md").read_text(encoding="utf-8")
    section = spec.split("## 12 Reason codes")[1].split("Of one implementation")[0]
    listed = {
        code.strip("`")
        for line in section.splitlines()
        if line.startswith("| `")
        for code in line.split("|")[1].split()
    }
    covered = {case.expect["reason"] for case in make_conformance.INVALID.values()}
    covered |= {make().expect["reason"] for make in make_conformance.LARGE.values()}
    assert listed - covered == NOT_AS_FILES


NOT_AS_FILES = {"dtype-not-here"}
"""It depends on the machine: tests/robustness/test_bad_input.py."""
