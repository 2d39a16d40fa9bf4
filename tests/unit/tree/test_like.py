"""`load` with `like`, `select`, `cast`, `types`, `arrays` and `supplied`; `register`."""

from __future__ import annotations

import collections
import dataclasses
import enum
import importlib
import itertools
import pathlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import ckptstore
from ckptstore.format import Kind
from ckptstore.tree import flatten, paths
from ckptstore.types import registry
from tests.conformance import make_conformance as made
from tests.support import independent_reader
from tests.support.compare import assert_exact, assert_refused, differences

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = jnp = None  # type: ignore[assignment]

needs_jax = pytest.mark.skipif(jax is None, reason="jax is not installed")


class State(NamedTuple):
    step: Any
    params: Any


class OtherState(NamedTuple):
    step: Any
    params: Any


@dataclasses.dataclass
class Train:
    """Like flax's TrainState: two fields are code."""

    step: int
    apply_fn: Callable[..., Any]
    tx: Any
    params: Any


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


def tree() -> Any:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {"state": State(3, {"w": w, "b": np.zeros(3, np.float32)}), "items": [1, (2.5, None)]}


@pytest.fixture
def url(tmp_path: pathlib.Path) -> pathlib.Path:
    ckptstore.save(tmp_path / "c", tree())
    return tmp_path / "c"


# --- like --------------------------------------------------------------------------------------


def test_like_gives_types_and_the_checkpoint_gives_values(url: pathlib.Path) -> None:
    like = tree()
    like["state"] = State(99, {"b": np.ones(3, np.float32), "w": np.ones((2, 3), np.float32)})
    loaded = ckptstore.load(url, like)
    assert loaded["state"].step == 3
    assert list(loaded["state"].params) == ["w", "b"]
    assert differences(tree(), loaded) == []
    assert like["state"].step == 99


def test_every_difference_is_reported_at_once_by_path(url: pathlib.Path) -> None:
    like = {
        "state": OtherState(3, {}),
        "items": [1.5, (2.5, 3, 4)],
        "more": np.zeros(3),
    }
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(url, like)
    lines = [line.strip() for line in str(caught.value).split("\n")[1:]]
    assert caught.value.reason == "differs-from-like"
    assert lines == [
        "$['more']: numpy.ndarray float64[3] in `like`, not in the checkpoint",
        f"$['state']: {__name__}.State in the checkpoint, {__name__}.OtherState in `like`",
        "$['items'][0]: int in the checkpoint, float in `like`",
        "$['items'][1][2]: int in `like`, not in the checkpoint",
        "$['items'][1][1]: None in the checkpoint, int in `like`",
    ]


def test_shape_dtype_missing_and_extra_are_reported(url: pathlib.Path) -> None:
    like = tree()
    like["state"].params["w"] = np.zeros((3, 2), np.float32)
    like["state"].params["b"] = np.zeros(3, np.float64)
    like["state"].params["new"] = 1
    del like["items"]
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(url, like)
    text = str(caught.value)
    assert "$['state'].params['w']: shape [2, 3] in the checkpoint, [3, 2] in `like`" in text
    assert "$['state'].params['b']: float32 in the checkpoint, float64 in `like`" in text
    assert "cast=True" in text
    assert "$['state'].params['new']: int in `like`, not in the checkpoint" in text
    assert "$['items']: list in the checkpoint, not in `like`" in text
    assert "4 difference(s)" in text


DIFFERENT = {
    "a list for a tuple": ([1], (1,)),
    "a dict for an OrderedDict": ({}, collections.OrderedDict()),
    "None for ()": (None, ()),
    "numpy for a list": (np.zeros(2), [0.0, 0.0]),
    "a scalar for an array": (np.zeros(()), 0.0),
    "a numpy scalar for an array": (np.float64(0), np.zeros(())),
    "another enum": (Mode.FAST, State(1, 2)),
    "an int key for a str key": ({1: 0}, {"1": 0}),
    "True for 1": ({True: 0}, {1: 0}),
    "the order of an OrderedDict": (
        collections.OrderedDict(a=1, b=2),
        collections.OrderedDict(b=1, a=2),
    ),
    "byte order": (np.zeros(2, ">f4"), np.zeros(2, "<f8")),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_nothing_is_taken_for_something_else(name: str, tmp_path: pathlib.Path) -> None:
    stored, like = DIFFERENT[name]
    ckptstore.save(tmp_path / "c", {"x": stored})
    with pytest.raises(ckptstore.StructureError, match=r"\$\['x'\]") as caught:
        ckptstore.load(tmp_path / "c", {"x": like})
    assert caught.value.reason == "differs-from-like"


def test_keys_of_one_printed_form_are_told_apart(tmp_path: pathlib.Path) -> None:
    nans = {float("nan"): np.zeros(2), float("nan"): np.ones(3)}
    assert len(nans) == 2
    ckptstore.save(tmp_path / "c", nans)
    assert differences(nans, ckptstore.load(tmp_path / "c", nans)) == []
    with pytest.raises(ckptstore.StructureError, match="shape"):
        ckptstore.load(tmp_path / "c", {float("nan"): np.zeros(2), float("nan"): np.ones(4)})
    with pytest.raises(ckptstore.StructureError, match="several places"):
        ckptstore.load(tmp_path / "c", select="$[nan]")


class Perm(enum.Flag):
    R = 1
    W = 2


class Loose(enum.IntFlag):
    A = 1


class Word(enum.StrEnum):
    A = "a"


class Outer:
    class Inner(enum.Enum):
        X = (1, frozenset({2}))


Bound = enum.Enum("AnotherName", "ONE TWO", module=__name__)
Registered = enum.Enum("Registered", "ONE TWO", module=__name__)

ANY_KEY: dict[str, list[Any]] = {
    "scalars": [None, True, 2, -(10**2000), 10**2000, 1.5, -0.0, float("inf"), float("nan"), 1j],
    "complex": [complex(float("nan"), -0.0), complex("inf")],
    "text": ["", "a", "a'\"b", "[0]", ".a", "\udc80", "\n", b"", b"\xff", b"'", ...],
    "long text": ["x" * 5000, b"y" * 5000, "\udc80" * 3000, ("x" * 5000, 1), 1 << 50_000],
    "tuples": [(), (1,), (1, ("a", None)), (frozenset(), ()), (-0.0, float("nan"))],
    "frozensets": [frozenset(), frozenset({1, 10, 2}), frozenset({"a", 1, None, (2, "b")})],
    "nested frozensets": [frozenset({frozenset({1}), frozenset({10, 9}), ()})],
    "enums": [Mode.FAST, Word.A, Outer.Inner.X, Bound.ONE],
    "enums inside": [(Mode.FAST, Perm(0)), frozenset({Perm.R, Perm(0), Mode.FAST, Perm(3)})],
    "flags": [Perm(0), Perm.R, Perm(3)],
    "flags with other bits": [Loose(0), Loose.A, Loose(6), Loose(7), re.I, re.I | re.M],
    "a registered enum": [Registered.ONE, (Registered.TWO, 1)],
}


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("name", ANY_KEY)
def test_a_tree_with_any_key_fits_itself_as_like(name: str, tmp_path: pathlib.Path) -> None:
    ckptstore.register(Registered, name="project.Phases")
    tree = {"d": {key: np.full(2, i) for i, key in enumerate(ANY_KEY[name])}}
    ckptstore.save(tmp_path / "c", tree)
    assert differences(tree, ckptstore.load(tmp_path / "c", like=tree)) == []
    again = ckptstore.load(tmp_path / "c")
    assert differences(tree, ckptstore.load(tmp_path / "c", like=again)) == []
    live = flatten(tree)
    nodes = [node for node, kind in enumerate(live.kind) if kind == Kind.LEAF]
    assert len(nodes) == len(ANY_KEY[name])
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(tmp_path / "c", like={"d": dict.fromkeys(tree["d"], np.zeros(3))})
    lines = [line.partition(": shape")[0].strip() for line in str(caught.value).split("\n")[1:]]
    assert lines == paths.shown_paths(live, nodes)


# --- cast --------------------------------------------------------------------------------------

CASTS = [
    ("f4", "f8"), ("f8", "f4"), ("f4", ml_dtypes.bfloat16), (ml_dtypes.bfloat16, "f4"),
    ("i4", "f4"), ("?", "i4"), ("f4", "c8"), (">f4", "<f4"),
    (ml_dtypes.int4, "i4"), ("f4", ml_dtypes.float8_e4m3fnuz), ("i8", "u1"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), CASTS, ids=lambda x: np.dtype(x).str + str(x)[-9:-2])
def test_cast_converts_where_it_is_asked_for(
    source: Any, target: Any, tmp_path: pathlib.Path
) -> None:
    x = np.array([0, 1, 2]).astype(source)
    like = {"x": np.zeros(3, target)}
    ckptstore.save(tmp_path / "c", {"x": x})
    with pytest.raises(ckptstore.StructureError, match="cast=True"):
        ckptstore.load(tmp_path / "c", like)
    loaded = ckptstore.load(tmp_path / "c", like, cast=True)
    assert differences({"x": x.astype(target)}, loaded) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [("c8", "f4"), ("f4", "U3"), ("M8[s]", "i8"), ("i4,f4", "f4"), ("V4", "i4")],
)
def test_no_cast_leads_everywhere(source: str, target: str, tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", [np.zeros(3, source)])
    with pytest.raises(ckptstore.StructureError, match="no cast converts"):
        ckptstore.load(tmp_path / "c", [np.zeros(3, target)], cast=True)


def test_cast_needs_like(url: pathlib.Path) -> None:
    with pytest.raises(ckptstore.StructureError, match="needs like"):
        ckptstore.load(url, cast=True)


# --- select ------------------------------------------------------------------------------------


def test_a_pattern_gives_the_sub_tree_itself(url: pathlib.Path) -> None:
    for pattern in ("$.state.params", "$['state'].params", '$["state"]["params"]'):
        assert differences(tree()["state"].params, ckptstore.load(url, select=pattern)) == []
    assert ckptstore.load(url, select="$.items[1][0]") == 2.5
    assert ckptstore.load(url, select="$.items[1][1]") is None
    assert differences(tree(), ckptstore.load(url, select="$")) == []


def test_patterns_give_a_dict_of_paths(url: pathlib.Path) -> None:
    params = tree()["state"].params
    paths = {"$['state'].params['w']": params["w"], "$['state'].params['b']": params["b"]}
    assert differences(paths, ckptstore.load(url, select="$.state.params.*")) == []
    assert differences(paths, ckptstore.load(url, select="$.**.params.*")) == []
    found = ckptstore.load(url, select=["$.items[0]", "$.**.b"])
    assert differences({"$['state'].params['b']": params["b"], "$['items'][0]": 1}, found) == []


def test_a_pattern_that_matches_nothing_says_what_is_there(url: pathlib.Path) -> None:
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(url, select="$.state.parms")
    assert "nothing is at $.state.parms" in str(caught.value)
    assert "$['state'].params" in str(caught.value)


@pytest.mark.parametrize("pattern", ["", "state[", "$state", "$.", "$[", "$['a]", "$.a.[0]", 3])
def test_a_bad_pattern_is_refused(pattern: Any, url: pathlib.Path) -> None:
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(url, select=[pattern])
    assert caught.value.reason == "bad-pattern"


KEYS = [
    "a", "a.b", "a['b']", "*", "**", "'", '"', "\\", "a'\n\"", "a'n", "[0]", "", "é", "\ud800", "$",
    0, -1, True, 2.5, float("inf"), b"x", b"'\"", None, (1, "a"), ("]", ("[",)), Mode.FAST, 1j,
    frozenset({1, "x"}), 10**5000, "x" * 5000, "x" * 5000 + "y",
]  # fmt: skip


def test_every_path_that_is_shown_selects_its_leaf(tmp_path: pathlib.Path) -> None:
    saved = {key: np.array(i) for i, key in enumerate(KEYS)}
    assert len(saved) == len(KEYS)
    ckptstore.save(tmp_path / "c", {"deep": [saved]})
    found = ckptstore.load(tmp_path / "c", select="$.deep[0].*")
    assert [int(x) for x in found.values()] == list(range(len(KEYS)))
    for i, path in enumerate(found):
        assert int(ckptstore.load(tmp_path / "c", select=path)) == i, path


def test_selecting_reads_only_what_it_needs(tmp_path: pathlib.Path) -> None:
    big = [np.arange(1 << 20, dtype=np.float32) + i for i in range(4)]
    ckptstore.save(tmp_path / "c", {"params": big[0], "rest": big[1:]})
    data = [path for path in (tmp_path / "c").iterdir() if path.name.startswith("data")]
    assert sum(path.stat().st_size for path in data) >= 16 << 20
    sound = [path.read_bytes() for path in data]
    for path, content in zip(data, sound, strict=True):
        at = content.find(big[0].tobytes()[:4096])
        spoilt = bytearray(len(content))
        if at >= 0:
            spoilt[at : at + big[0].nbytes] = content[at : at + big[0].nbytes]
        path.write_bytes(bytes(spoilt))
    assert differences(big[0], ckptstore.load(tmp_path / "c", select="$.params")) == []
    with pytest.raises(ckptstore.CorruptError, match=r"\$\['rest'\]"):
        ckptstore.load(tmp_path / "c")


class TestSharedInLike:
    """One object in two places of `like`, of which `select` names some."""

    @pytest.fixture
    def stored(self, tmp_path: pathlib.Path) -> pathlib.Path:
        ckptstore.save(tmp_path / "c", {"x": [np.ones(2), np.full(2, 2.0)], "y": [[1.5], [2.5]]})
        return tmp_path / "c"

    @pytest.mark.parametrize(
        ("select", "wanted"),
        [("$.x[0]", [1, 0]), ("$.x[1]", [0, 2]), ("$.x.*", [1, 2]), ("$.x", [1, 2])],
    )
    def test_a_place_gets_its_own_value(
        self, stored: pathlib.Path, select: str, wanted: list[int]
    ) -> None:
        old = np.zeros(2)
        loaded = ckptstore.load(stored, {"x": [old, old], "y": [[0.0], [0.0]]}, select=select)
        assert [x.tolist() for x in loaded["x"]] == [[n, n] for n in wanted]
        assert all((x is old) == (n == 0) for x, n in zip(loaded["x"], wanted, strict=True))
        assert loaded["y"] == [[0.0], [0.0]]

    def test_what_is_tied_in_the_checkpoint_comes_back_tied(self, tmp_path: pathlib.Path) -> None:
        w, old = np.ones(2), np.zeros(2)
        ckptstore.save(tmp_path / "c", {"x": [w, w]})
        loaded = ckptstore.load(tmp_path / "c", {"x": [old, old]}, select="$.x.*")
        assert loaded["x"][0] is loaded["x"][1]
        assert loaded["x"][0].tolist() == [1, 1]

    def test_a_place_inside_it_is_filled_there_alone(self, stored: pathlib.Path) -> None:
        one = [0.0]
        like = {"x": [np.zeros(2)] * 2, "y": [one, one]}
        loaded = ckptstore.load(stored, like, select="$.y[1][0]")
        assert loaded["y"] == [[0.0], [2.5]]
        assert loaded["y"][0] is one

    def test_two_values_for_one_place_inside_it_make_two_objects(
        self, stored: pathlib.Path
    ) -> None:
        one = [0.0]
        like = {"x": [np.zeros(2)] * 2, "y": [one, one]}
        assert ckptstore.load(stored, like, select="$.y.*.*")["y"] == [[1.5], [2.5]]
        assert one == [0.0]


def test_like_with_select_fills_in_what_is_selected(url: pathlib.Path) -> None:
    like = {
        "state": State("mine", {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}),
        "items": ["kept"],
        "new": object(),
    }
    loaded = ckptstore.load(url, like, select="$.state.params.w")
    assert differences(tree()["state"].params["w"], loaded["state"].params["w"]) == []
    assert loaded["state"].step == "mine"
    assert loaded["state"].params["b"] is like["state"].params["b"]
    assert loaded["items"] is like["items"]
    assert loaded["new"] is like["new"]
    assert like["state"].params["w"][0, 0] == 1.0
    with pytest.raises(ckptstore.StructureError, match="nothing is at"):
        ckptstore.load(url, {"state": 1}, select="$.items")


# --- supplied ----------------------------------------------------------------------------------


def test_supplied_fields_come_from_like(tmp_path: pathlib.Path) -> None:
    saved = Train(3, lambda x: x, State(print, 1), np.ones(2))
    assert_refused(tmp_path, saved, "$.apply_fn", "supplied=")
    with pytest.raises(ckptstore.StructureError, match=r"nothing in the tree is at \$\.nope"):
        ckptstore.save(tmp_path / "c", saved, supplied=["$.nope"])
    with pytest.raises(ckptstore.StructureError, match=r"\$\.step is a int, which can be stored"):
        ckptstore.save(tmp_path / "c", saved, supplied=["$.step", "$.apply_fn", "$.tx"])
    ckptstore.save(tmp_path / "c", saved, supplied=["$.apply_fn", "$.tx"])
    like = Train(0, abs, State(len, 2), np.zeros(2))
    loaded = ckptstore.load(tmp_path / "c", like)
    assert (loaded.step, loaded.apply_fn, loaded.tx) == (3, abs, like.tx)
    assert loaded.params.tolist() == [1.0, 1.0]
    with pytest.raises(ckptstore.StructureError, match=r"\$\.apply_fn: not stored.*like="):
        ckptstore.load(tmp_path / "c")
    assert ckptstore.load(tmp_path / "c", select="$.params").tolist() == [1.0, 1.0]


# --- types and register ------------------------------------------------------------------------


class Odd:
    """No dataclass: only its own code takes it apart."""

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b

    def flatten(self) -> tuple[tuple[Any, ...], Any]:
        return (self.a, self.b), {"static": 1}

    @classmethod
    def unflatten(cls, aux: Any, children: Any) -> Odd:
        assert aux == {"static": 1}
        return cls(*children)


@pytest.fixture
def clean() -> Iterator[None]:
    before = dict(registry._BY_CLASS), dict(registry._BY_NAME)
    yield
    for table, old in zip((registry._BY_CLASS, registry._BY_NAME), before, strict=True):
        table.clear()
        table.update(old)  # type: ignore[arg-type]


@pytest.mark.usefixtures("clean")
def test_a_registered_class_comes_back_by_its_own_code(tmp_path: pathlib.Path) -> None:
    assert_refused(tmp_path, [Odd(1, 2)], "$[0]", "register(Odd, flatten=..., unflatten=...)")
    ckptstore.register(Odd, flatten=Odd.flatten, unflatten=Odd.unflatten)
    shared = [1]
    loaded = assert_exact(tmp_path, [Odd(np.ones(2), shared), shared])
    assert loaded[0].b is loaded[1]
    ckptstore.save(tmp_path / "c", Odd(1, 2))
    registry._BY_CLASS.clear()
    registry._BY_NAME.clear()
    with pytest.raises(ckptstore.UnknownTypeError, match="register"):
        ckptstore.load(tmp_path / "c")
    ckptstore.register(Odd, flatten=Odd.flatten, unflatten=Odd.unflatten)
    assert ckptstore.load(tmp_path / "c").b == 2


@pytest.mark.usefixtures("clean")
def test_a_registered_name_outlives_a_move(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", State(1, 2))
    monkeypatch.delattr(sys.modules[__name__], "State")
    ckptstore.register(OtherState, name="tests.unit.tree.test_like.State")
    assert differences(OtherState(1, 2), ckptstore.load(tmp_path / "c")) == []


@pytest.mark.usefixtures("clean")
def test_register_refuses_what_makes_no_sense() -> None:
    ckptstore.register(Odd, flatten=Odd.flatten, unflatten=Odd.unflatten)
    with pytest.raises(ckptstore.StructureError, match="both, or neither"):
        ckptstore.register(Odd, flatten=Odd.flatten)
    with pytest.raises(ckptstore.StructureError, match="expected a class"):
        ckptstore.register(Odd(1, 2))  # type: ignore[arg-type]
    with pytest.raises(ckptstore.StructureError, match="belongs to"):
        ckptstore.register(State, name="tests.unit.tree.test_like.Odd")


def test_types_gives_a_class_for_a_stored_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, other = State, OtherState
    ckptstore.save(tmp_path / "c", State(1, 2))
    monkeypatch.delattr(sys.modules[__name__], "State")
    with pytest.raises(
        ckptstore.UnknownTypeError, match=rf"types=\{{'{__name__}.State': YourClass\}}"
    ):
        ckptstore.load(tmp_path / "c")
    found = ckptstore.load(tmp_path / "c", types={"tests.unit.tree.test_like.State": other})
    assert differences(other(1, 2), found) == []
    assert differences(original(1, 2), ckptstore.load(tmp_path / "c", types=[original])) == []
    with pytest.raises(ckptstore.StructureError, match=r"is 3 \(int\), expected a class"):
        ckptstore.load(tmp_path / "c", types={"tests.unit.tree.test_like.State": 3})  # type: ignore[dict-item]


def test_types_must_have_the_stored_fields_and_kind(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", State(1, 2))
    with pytest.raises(ckptstore.UnknownTypeError, match="expected a namedtuple"):
        ckptstore.load(tmp_path / "c", types={"tests.unit.tree.test_like.State": Train})
    short = collections.namedtuple("short", "step")
    with pytest.raises(
        ckptstore.UnknownTypeError, match="only in the checkpoint: params; only in the class"
    ):
        ckptstore.load(tmp_path / "c", types={"tests.unit.tree.test_like.State": short})


# --- jax ---------------------------------------------------------------------------------------

if jax is not None:

    @jax.tree_util.register_pytree_node_class
    class Node:
        def __init__(self, a: Any, b: Any, name: Any = None) -> None:
            self.a, self.b, self.name = a, b, name

        def tree_flatten(self) -> Any:
            return (self.a, self.b), (self.name, 3)

        @classmethod
        def tree_unflatten(cls, aux: Any, children: Any) -> Any:
            assert aux[1] == 3
            return cls(*children, aux[0])

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Module:
        weight: Any
        name: str = dataclasses.field(metadata={"static": True})


@needs_jax
class TestJax:
    def test_a_class_registered_with_jax_is_refused_where_jax_cannot_rebuild_it(
        self, tmp_path: pathlib.Path, clean: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ckptstore.save(tmp_path / "c", Node(1, 2))
        records = importlib.import_module("ckptstore.adapters.jax_classes")
        monkeypatch.setattr(records, "_make_treedef", None)  # as before jax 0.8
        assert_refused(tmp_path, Node(1, 2), "$", "register(Node, flatten=..., unflatten=...)")
        with pytest.raises(ckptstore.UnknownTypeError):
            ckptstore.load(tmp_path / "c", types=[Node])

    def test_a_class_registered_with_jax_needs_types_or_register(
        self, tmp_path: pathlib.Path, clean: None
    ) -> None:
        tree = {"node": Node(jnp.ones(2), Node(1, [None], "inner"), "outer")}
        ckptstore.save(tmp_path / "c", tree)
        with pytest.raises(ckptstore.UnknownTypeError) as caught:
            ckptstore.load(tmp_path / "c")
        assert "types=[Node]" in str(caught.value)
        assert "register(Node)" in str(caught.value)
        assert caught.value.reason == "needs-types"
        by_types = ckptstore.load(tmp_path / "c", types=[Node])
        assert differences(tree, by_types) == []
        assert jax.tree.structure(by_types) == jax.tree.structure(tree)
        assert differences(tree, ckptstore.load(tmp_path / "c", tree)) == []
        ckptstore.register(Node)
        assert differences(tree, ckptstore.load(tmp_path / "c")) == []

    def test_a_registered_dataclass_needs_nothing(self, tmp_path: pathlib.Path) -> None:
        tree = [Module(jnp.ones(2), "a"), Module([1], "b")]
        loaded = assert_exact(tmp_path, tree)
        assert jax.tree.structure(loaded) == jax.tree.structure(tree)

    def test_like_may_be_shapes(self, tmp_path: pathlib.Path) -> None:
        tree = State(jnp.int32(3), {"w": jnp.ones((2, 3), jnp.bfloat16), "k": jax.random.key(1)})
        ckptstore.save(tmp_path / "c", tree)
        like = jax.eval_shape(lambda: tree)
        assert differences(tree, ckptstore.load(tmp_path / "c", like)) == []
        wrong = State(like.step, {"w": jax.ShapeDtypeStruct((3, 2), jnp.bfloat16), "k": like.step})
        with pytest.raises(ckptstore.StructureError) as caught:
            ckptstore.load(tmp_path / "c", wrong)
        text = str(caught.value)
        assert "$.params['w']: shape [2, 3] in the checkpoint, [3, 2] in `like`" in text
        assert "$.params['k']" in text

    def test_like_gives_the_device_and_cast_the_dtype(self, tmp_path: pathlib.Path) -> None:
        ckptstore.save(tmp_path / "c", {"x": jnp.arange(3.0)})
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = {"x": jax.ShapeDtypeStruct((3,), jnp.bfloat16, sharding=place)}
        with pytest.raises(ckptstore.StructureError, match="cast=True"):
            ckptstore.load(tmp_path / "c", like)
        loaded = ckptstore.load(tmp_path / "c", like, cast=True)["x"]
        assert (loaded.dtype, loaded.committed) == (jnp.bfloat16, True)
        with pytest.raises(ckptstore.StructureError, match=r"jax\.Array"):
            ckptstore.load(tmp_path / "c", {"x": np.zeros(3, np.float32)})
        as_numpy = ckptstore.load(tmp_path / "c", {"x": np.zeros(3, "f4")}, arrays="numpy")
        assert type(as_numpy["x"]) is np.ndarray

    def test_what_like_commits_to_no_device_may_go_to_any(self, tmp_path: pathlib.Path) -> None:
        # As the count that optimizer.init makes: a jitted step over a mesh commits it there.
        ckptstore.save(tmp_path / "c", jax.device_put(jnp.int32(3), jax.devices()[0]))
        assert ckptstore.load(tmp_path / "c").committed
        loaded = ckptstore.load(tmp_path / "c", like=jnp.int32(0))
        assert (int(loaded), loaded.committed) == (3, False)

    def test_a_number_in_like_takes_what_jit_made_of_one(self, tmp_path: pathlib.Path) -> None:
        numbers = {"c": 1 + 2j, "f": 0.5, "i": 7}
        ckptstore.save(tmp_path / "c", jax.jit(lambda tree: tree)(numbers))
        loaded = ckptstore.load(tmp_path / "c", like={"i": 0, "f": 0.0, "c": 0j})
        assert differences(numbers, loaded) == []
        with pytest.raises(ckptstore.StructureError, match=r"3 difference") as caught:
            ckptstore.load(tmp_path / "c", like={"i": 0.0, "f": 0, "c": True})
        assert "jax.Array float32[] in the checkpoint, int in `like`" in str(caught.value)
        x = jnp.ones((), jnp.int32)
        ckptstore.save(tmp_path / "strict", {"a": x, "b": jnp.ones(2)})
        with pytest.raises(ckptstore.StructureError, match=r"2 difference") as caught:
            ckptstore.load(tmp_path / "strict", like={"a": 0, "b": 0.0})
        assert str(caught.value).count("in `like`; pass an array there") == 1

    def test_a_number_and_an_array_of_like_are_not_one(self, tmp_path: pathlib.Path) -> None:
        count = jax.jit(lambda n: n)(3)
        ckptstore.save(tmp_path / "c", [count, count])
        assert ckptstore.load(tmp_path / "c", like=[0, 0]) == [3, 3]
        with pytest.raises(ckptstore.StructureError, match="stands in two places"):
            ckptstore.load(tmp_path / "c", like=[0, count])

    def test_a_key_is_not_taken_for_another_or_for_its_data(self, tmp_path: pathlib.Path) -> None:
        key = jax.random.key(0)
        ckptstore.save(tmp_path / "c", {"k": key})
        others = [jax.random.key_data(key), jax.random.key(0, impl="rbg"), jnp.zeros(2, "uint32")]
        structs = [jax.eval_shape(lambda x=x: x) for x in others]
        for other in [*others, *structs]:
            with pytest.raises(ckptstore.StructureError, match=r"\$\['k'\]"):
                ckptstore.load(tmp_path / "c", {"k": other})


BLOCKED = """
    import sys

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("jax", "jaxlib", "optax"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Block())
    import numpy as np
    import ckptstore

    url = sys.argv[1]
    assert ckptstore.verify(url) == []
    found = ckptstore.inspect(url)
    assert "jax.Array" in found.leaves[0].type, found.leaves[0]
    assert str(found) and found.types
    tree = ckptstore.load(url, arrays="numpy")
    adam = tree["opt"][0]
    assert type(tree["params"]["w"]) is np.ndarray
    assert type(adam).__name__ == "ScaleByAdamState", type(adam)
    assert adam.mu["w"].dtype.name == "float32" and int(adam.count) == 1
    assert type(tree["opt"][1]).__name__ == "EmptyState" and tree["opt"][1] == ()
    assert tree["spec"].partitions == ("x",)
    assert tree["function"].name == "jax.nn.relu"
    assert tree["key"].dtype.name == "uint32"
    assert tree["node"].children[0] == 1, tree["node"]
    assert ckptstore.load(url, select="$.params.w", arrays="numpy").tolist() == [1.0, 1.0]
    try:
        ckptstore.load(url)
    except ckptstore.UnknownTypeError as error:
        assert "not installed" in str(error) and 'arrays="numpy"' in str(error), error
    else:
        raise AssertionError("jax is not here")
    assert not {"jax", "optax"} & set(sys.modules)
    print("sound")
"""


@needs_jax
def test_arrays_numpy_inspect_and_verify_need_no_framework(tmp_path: pathlib.Path) -> None:
    optax = pytest.importorskip("optax")
    params = {"w": jnp.ones(2)}
    tx = optax.adam(1e-3)
    _, state = tx.update(params, tx.init(params))
    tree = {
        "params": params,
        "opt": state,
        "spec": jax.sharding.PartitionSpec("x"),
        "function": jax.nn.relu,
        "key": jax.random.key(0),
        "node": Node(1, 2),
    }
    ckptstore.save(tmp_path / "c", tree)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BLOCKED), str(tmp_path / "c")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "sound\n"), done.stderr


def test_arrays_takes_no_other_word(url: pathlib.Path) -> None:
    with pytest.raises(ckptstore.StructureError, match="arrays is 'torch'"):
        ckptstore.load(url, arrays="torch")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        ("ndarray", "datetime64[1D]"),
        ("ndarray", ">timedelta64[1s]"),
        ("generic", ">int16"),
        ("generic", ">complex128"),
        ("generic", ">datetime64[1ns]"),
    ],
)
def test_a_dtype_that_another_writer_spells_otherwise_fits_its_own_value(
    row: str, dtype: str, tmp_path: pathlib.Path
) -> None:
    types = [("array", "numpy", row)]
    data = bytes(range(independent_reader.parse(dtype).size))
    draft = made.Draft(made.leaf(), [made.L(shape=(), data=data)], types, [dtype])
    for name, content in draft.files().items():
        (tmp_path / name).write_bytes(content)
    loaded = ckptstore.load(tmp_path)
    assert differences(loaded, ckptstore.load(tmp_path, loaded)) == []
    assert np.asarray(ckptstore.load(tmp_path, loaded)).tobytes() == loaded.tobytes()
    with pytest.raises(ckptstore.StructureError, match="in the checkpoint"):
        ckptstore.load(tmp_path, np.zeros((), "int8")[()])


def test_the_items_of_a_frozenset_in_a_key_may_stand_in_any_order_in_a_file(
    tmp_path: pathlib.Path,
) -> None:
    paths = set()
    for number, items in enumerate(itertools.permutations(["b", "a", "c"])):
        inner = made.N(Kind.FROZENSET, [made.text(item) for item in items])
        key = made.N(Kind.TUPLE, [inner])
        draft = made.Draft(made.entries(key, made.leaf()), [made.L()])
        (url := tmp_path / f"{number}").mkdir()
        for name, content in draft.files().items():
            (url / name).write_bytes(content)
        loaded = ckptstore.load(url)
        assert differences(loaded, ckptstore.load(url, loaded)) == []
        paths.add(ckptstore.inspect(url).leaves[0].path)
        assert (ckptstore.load(url, select=next(iter(paths))) == 0).all()
    assert paths == {"$[(frozenset({'a', 'b', 'c'}),)]"}
