"""Adapters that other distributions bring by entry points: the page about them, as it stands."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib

import pytest

from tests.support import DOCS

PAGE = (DOCS / "adapters.md").read_text()
FILES = re.findall(r"^```py\n# (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
(TOML,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
POINTS = tomllib.loads(TOML)["project"]["entry-points"]["ckptstore.adapters"]


class Site:
    """A folder of installed distributions, which a process is given."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root / "site"
        self.root.mkdir()
        self.work = root

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def install(self, distribution: str, points: dict[str, str]) -> None:
        info = f"{distribution.replace('-', '_')}-1.0.dist-info"
        self.write(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        self.write(f"{info}/entry_points.txt", f"[ckptstore.adapters]\n{lines}\n")

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        begin = f"import sys; sys.path.insert(0, {str(self.root)!r})\n"
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", begin + textwrap.dedent(code)],
            cwd=self.work,
            capture_output=True,
            text=True,
            check=False,
        )

    def says(self, code: str) -> str:
        done = self.run(code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Site:
    """The package of the page, installed."""
    made = Site(tmp_path)
    for name, text in FILES:
        made.write(name, text)
    made.install("ringlib", POINTS)
    return made


SAVE = """
import ckptstore, ringlib
from ringlib.states import RingState
ring = ringlib.Ring(2)
ring.items[0], ring.position = [1.5], 1
ckptstore.save("ckpt", {"a": ring, "b": RingState(ring, 0.5)})
"""


class TestThePage:
    def test_has_one_whole_adapter_in_few_lines(self):
        assert [name for name, _ in FILES] == [
            "ringlib/__init__.py",
            "ringlib/states.py",
            "ringlib/checkpoint.py",
        ]
        lines = [line for line in FILES[-1][1].splitlines() if line.strip()]
        assert 15 < len(lines) <= 25

    def test_its_adapter_saves_and_loads_in_other_processes(self, site):
        site.says(SAVE)
        code = """
        import ckptstore
        assert "ringlib" not in sys.modules
        out = ckptstore.load("ckpt")
        ring = out["a"]
        assert type(ring).__module__ == "ringlib" and out["b"].ring is ring
        assert (ring.items, ring.position, ring.locked) == ([[1.5], None], 1, False)
        like = {"a": ring, "b": type(out["b"])(ring, 0.0)}
        assert ckptstore.load("ckpt", like=like)["b"].scale == 0.5
        print(ckptstore.load("ckpt", select="$.a.items[0]"))
        """
        assert site.says(code) == "[1.5]"

    def test_its_refusal_has_the_path(self, site):
        done = site.run(
            "import ckptstore, ringlib\nr = ringlib.Ring(1)\nr.locked = True\n"
            "ckptstore.save('ckpt', {'x': [r]})"
        )
        assert "StructureError: $['x'][0]: this Ring is locked; call unlock()" in done.stderr

    def test_its_older_checkpoints_load(self, site):
        old = FILES[1][1].replace("scale", "lr")
        site.write("ringlib/old.py", old)
        site.says(
            "import ckptstore, ringlib.old\n"
            "ckptstore.save('ckpt', ringlib.old.RingState(ringlib.Ring(1), 0.5))"
        )
        (site.root / "ringlib/old.py").unlink()
        code = """
        import ckptstore
        out = ckptstore.load("ckpt")
        print(type(out), out.scale, ckptstore.load("ckpt", like=out._replace(scale=0.0)).scale)
        """
        assert site.says(code) == "<class 'ringlib.states.RingState'> 0.5 0.5"

    def test_without_the_package_numpy_gives_the_stored_fields(self, site):
        site.says(SAVE)
        code = "import ckptstore; print(ckptstore.load('ckpt', arrays='numpy')['a'])"
        whole = site.root.rename(site.work / "away")
        assert site.says(code) == "Ring(items=[[1.5], None], position=1)"
        done = site.run("import ckptstore; ckptstore.load('ckpt')")
        assert (
            "ringlib.Ring: no installed adapter makes it from the fields items, position"
            in done.stderr
        )
        whole.rename(site.root)
        (site.root / "ringlib/__init__.py").unlink()  # the adapter is here, its package is not
        (site.root / "ringlib").rename(site.root / "glue")
        site.install("ringlib", {"ringlib": "glue.checkpoint:ADAPTER"})
        assert site.says(code) == "Ring(items=[[1.5], None], position=1)"
        done = site.run("import ckptstore; ckptstore.load('ckpt')")
        assert "the package ringlib is not installed here: pip install ringlib" in done.stderr


ARRAYS = """
import numpy
from ckptstore.adapters import Adapter, Leaf, TypeKind, TypeRow, describe_dtype, to_bytes

class Signal:
    def __init__(self, data): self.data = data

def square(x): return x * x

class SignalAdapter(Adapter):
    def leaf(self, x):
        if type(x) is not Signal: return None
        row = TypeRow(TypeKind.ARRAY, "signals", "Signal", package="signals")
        return Leaf(row, describe_dtype(x.data.dtype), x.data.shape, lambda: to_bytes(x.data))
    def array(self, host, row, place):
        if row.name != "Signal": raise KeyError(row.name)
        return Signal(host)
    def symbol(self, x):
        return "signals.square" if x is square else None
    def symbol_named(self, name):
        return {"signals.square": square}[name]

ADAPTER = SignalAdapter()
"""


def test_arrays_and_functions_of_another_package_are_carried(tmp_path):
    site = Site(tmp_path)
    site.write("signals.py", ARRAYS)
    site.install("signals", {"signals": "signals:ADAPTER"})
    site.says(
        "import ckptstore, numpy, signals\n"
        "ckptstore.save('ckpt', [signals.Signal(numpy.arange(6.0).reshape(2, 3)), signals.square])"
    )
    code = """
    import ckptstore
    signal, square = ckptstore.load("ckpt")
    import signals
    assert type(signal) is signals.Signal and square is signals.square
    assert type(ckptstore.load("ckpt", like=[signal, square])[0]) is signals.Signal
    print(signal.data.tolist(), ckptstore.load("ckpt", arrays="numpy")[0].dtype)
    """
    assert site.says(code) == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] float64"


def test_what_an_adapter_raises_is_an_error_of_ours_with_the_place(tmp_path):
    site = Site(tmp_path)
    failing = """
class Box: pass

def take(box): return (box.inside,)

BOX = Record(TypeRow(TypeKind.OBJECT, "signals", "Box", fields=("inside",)), take, None)

class FailingAdapter(SignalAdapter):
    def array(self, host, row, place): raise RuntimeError("no memory on the device")
    def record(self, cls): return BOX if cls is Box else None

ADAPTER = FailingAdapter()
"""
    site.write("signals.py", ARRAYS.replace("Leaf,", "Leaf, Record,") + failing)
    site.install("signals", {"signals": "signals:ADAPTER"})
    code = """
    import ckptstore, ckptstore.convert, numpy, signals
    ckptstore.save("ckpt", [signals.Signal(numpy.ones(2))])
    import flax.serialization
    stored = flax.serialization.to_bytes({"a": numpy.ones(2)})
    like = {"a": signals.Signal(numpy.ones(2))}
    calls = [
        lambda: ckptstore.load("ckpt"),
        lambda: ckptstore.convert.from_flax(stored, like=like),
        lambda: ckptstore.save("other", [signals.Box()]),
    ]
    for call in calls:
        try:
            call()
        except ckptstore.CheckpointError as error:
            print(error.reason, str(error).partition(": ")[2])
    """
    *arrays, box = site.says(code).splitlines()
    for line in arrays:
        assert line.startswith("array-not-exact ") and "no memory on the device" in line
    assert box.startswith("cannot-carry ") and "has no attribute 'inside'" in box
    assert not (tmp_path / "other").exists()


def test_a_framework_that_cannot_be_imported_is_named(tmp_path):
    site = Site(tmp_path)
    site.write("jmp/__init__.py", "raise OSError('libjmp.so: cannot open shared object file')\n")
    code = """
    import ckptstore, sys, types, typing
    jmp = types.ModuleType("jmp")

    class State(typing.NamedTuple):
        a: int

    State.__module__ = "jmp"
    try:
        ckptstore.save("ckpt", State(1))
    except ckptstore.UnknownTypeError as error:
        print(error.reason, error)
    """
    assert site.says(code).startswith("bad-adapter the adapter of the package jmp cannot be loaded")


BROKEN = {
    "a module that is not there": ("brokenlib.nothing:ADAPTER", "No module named"),
    "a module that fails": ("brokenlib.fails:ADAPTER", "RuntimeError: no such device"),
    "a name that is not there": ("brokenlib:ADAPTER", "has no attribute 'ADAPTER'"),
    "a module": ("brokenlib", "expected an instance of ckptstore.adapters.Adapter"),
    "a class": ("brokenlib.cls:Mine", "expected an instance of ckptstore.adapters.Adapter"),
    "no reference": ("not a reference!", "cannot be loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_adapter_is_named_with_its_distribution(case, tmp_path):
    value, message = BROKEN[case]
    site = Site(tmp_path)
    site.write("brokenlib/__init__.py", "class Thing: pass\n")
    site.write("brokenlib/fails.py", "raise RuntimeError('no such device')\n")
    site.write(
        "brokenlib/cls.py", "from ckptstore.adapters import Adapter\nclass Mine(Adapter): pass\n"
    )
    site.install("Broken-Lib", {"brokenlib": value})
    code = """
    import ckptstore, brokenlib
    ckptstore.save("other", [1, 2.0])
    try:
        ckptstore.save("ckpt", [brokenlib.Thing()])
    except ckptstore.UnknownTypeError as error:
        print(error.reason, error)
    """
    said = site.says(code)
    assert said.startswith("bad-adapter the adapter of the package brokenlib")
    assert "Broken-Lib" in said and message in said
    assert not (tmp_path / "ckpt").exists()


def test_two_adapters_of_one_package_are_both_named(site):
    site.says(SAVE)
    site.install("ringlib-more", POINTS)
    done = site.run("import ckptstore; ckptstore.load('ckpt')")
    for name in ("of ringlib ", "of ringlib-more", "is provided twice", "uninstall one"):
        assert name in done.stderr


def test_a_module_that_an_adapter_lists_and_that_fails_is_named(site):
    site.says(SAVE)
    site.write("ringlib/states.py", "raise RuntimeError('broken release')")
    done = site.run("import ckptstore; ckptstore.load('ckpt')")
    assert "its adapter lists the module ringlib.states, which cannot be imported" in done.stderr
    assert "UnknownTypeError" in done.stderr and "RuntimeError: broken release" in done.stderr


def test_nobody_takes_the_place_of_an_adapter_of_ckptstore(site):
    site.write("thief.py", "print('loaded')\nraise RuntimeError\n")
    names = ("numpy", "functools", "builtins", "collections", "__main__")
    site.install("thief", dict.fromkeys(names, "thief:ADAPTER"))
    code = """
    import ckptstore, collections, functools, numpy, typing
    class State(typing.NamedTuple):
        x: int
    tree = [State(1), numpy.ones(2), functools.partial(int, 3), collections.OrderedDict()]
    ckptstore.save("ckpt", tree)
    ckptstore.load("ckpt")
    """
    assert site.says(code) == ""


def test_entry_points_are_listed_late_and_once(site):
    site.says(SAVE)
    code = """
    import importlib.metadata as metadata
    real, calls = metadata.entry_points, []
    metadata.entry_points = lambda **kw: calls.append(kw) or real(**kw)
    import ckptstore
    ckptstore.inspect("ckpt"), ckptstore.verify("ckpt"), ckptstore.save("plain", {"a": [1, "x"]})
    assert not calls
    for _ in range(3):
        ckptstore.load("ckpt")
        ckptstore.save("again", ckptstore.load("ckpt"), overwrite=True)
    print(calls)
    """
    assert site.says(code) == "[{'group': 'ckptstore.adapters'}]"
