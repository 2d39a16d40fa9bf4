"""Objects in several places, classes that share a name: nothing is swapped in silence."""

from __future__ import annotations

import array
import collections
import threading
import types

import numpy as np
import pytest

import ckptstore
from ckptstore.types import registry
from tests.support import twins
from tests.support.compare import differences


@pytest.fixture
def place(tmp_path):
    return tmp_path / "ckpt"


@pytest.fixture
def registered():
    before = dict(registry._BY_CLASS), dict(registry._BY_NAME)
    yield ckptstore.register
    for table, old in zip((registry._BY_CLASS, registry._BY_NAME), before, strict=True):
        table.clear()
        table.update(old)


def kinds(values):
    return [type(value) for value in values]


class TestTwinClasses:
    tree = (twins.A(1), twins.B(2))

    def test_come_back_as_themselves(self, place):
        ckptstore.save(place, self.tree)
        assert kinds(ckptstore.load(place)) == [twins.A, twins.B]
        assert kinds(ckptstore.load(place, like=self.tree)) == [twins.A, twins.B]
        assert kinds(ckptstore.load(place, types=[twins.A, twins.B])) == [twins.A, twins.B]

    def test_in_the_other_order_in_like_are_differences(self, place):
        ckptstore.save(place, self.tree)
        with pytest.raises(ckptstore.StructureError, match=r"twins\.A in .*, .*twins\.B"):
            ckptstore.load(place, like=(twins.B(0), twins.A(0)))

    def test_are_filled_each_by_its_own(self, place):
        ckptstore.save(place, self.tree)
        out = ckptstore.load(place, like=(twins.A(0), twins.B(0)), select=["$[0].x", "$[1].x"])
        assert out == (twins.A(1), twins.B(2)) and kinds(out) == [twins.A, twins.B]

    def test_two_classes_given_for_one_name_are_refused(self, place):
        ckptstore.save(place, self.tree)
        other = collections.namedtuple("A", "x", module=twins.__name__)
        with pytest.raises(ckptstore.StructureError, match=r"two classes for .*twins\.A"):
            ckptstore.load(place, types=[twins.A, other])


class TestRegister:
    def test_two_classes_of_one_name_are_refused(self, registered):
        registered(twins.A, name="my.State")
        other = collections.namedtuple("Other", "x", module=__name__)
        with pytest.raises(ckptstore.StructureError, match="belongs to"):
            registered(other, name="my.State")

    @pytest.mark.parametrize("name", ["State", "", ".State", "my.", 5])
    def test_a_name_that_could_not_be_found_again_is_refused(self, registered, name):
        with pytest.raises(ckptstore.StructureError, match="dotted name"):
            registered(twins.A, name=name)

    def test_a_built_in_type_is_refused(self, registered):
        with pytest.raises(ckptstore.StructureError, match="built in"):
            registered(list, flatten=list, unflatten=list)

    @pytest.mark.parametrize(
        ("x", "flatten", "unflatten"),
        [
            (
                types.MappingProxyType({"a": [1]}),
                lambda x: (x.values(), tuple(x)),
                lambda names, values: types.MappingProxyType(dict(zip(names, values, strict=True))),
            ),
            (
                array.array("i", [3, 4]),
                lambda x: ((), tuple(x)),
                lambda numbers, _: array.array("i", numbers),
            ),
        ],
    )
    def test_a_class_in_c_is_carried_by_the_users_functions(
        self, registered, place, x, flatten, unflatten
    ):
        with pytest.raises(ckptstore.StructureError, match=r"ckptstore\.register\("):
            ckptstore.save(place, {"a": x})
        registered(type(x), flatten=flatten, unflatten=unflatten)
        ckptstore.save(place, {"a": x, "b": x})
        loaded = ckptstore.load(place)
        assert loaded == {"a": x, "b": x}
        assert type(loaded["a"]) is type(x)
        assert loaded["a"] is loaded["b"]

    def test_the_name_stays_when_the_class_moves(self, registered, place):
        registered(twins.A, name="stable.State")
        info = ckptstore.save(place, twins.A(1))
        assert "stable.State" in info.types
        moved = collections.namedtuple("Moved", "x", module="elsewhere")
        registry._BY_CLASS.clear()
        registry._BY_NAME.clear()
        registered(moved, name="stable.State")
        assert type(ckptstore.load(place)) is moved

    def test_a_flatten_that_fails_is_refused_by_path(self, registered, place):
        class Own:
            pass

        registered(Own, name="own.Own", flatten=lambda x: 1 / 0, unflatten=lambda aux, children: 0)
        with pytest.raises(ckptstore.StructureError, match=r"\$\['a'\]: flatten of .*Own"):
            ckptstore.save(place, {"a": Own()})


class TestSupplied:
    @pytest.mark.parametrize("shared", [np.ones(3), (), twins.Color.RED, np.dtype("f4"), [1]])
    def test_what_also_stands_elsewhere_is_refused(self, place, shared):
        with pytest.raises(ckptstore.StructureError, match=r"\$\['a'\] also stands at \$\['b'\]"):
            ckptstore.save(place, {"a": shared, "b": shared}, supplied=["$.a"])
        assert not place.exists()

    @pytest.mark.parametrize("shared", [np.ones(3), twins.Color.RED, [1]])
    def test_all_places_of_what_is_one_may_be_named(self, place, shared):
        ckptstore.save(place, {"a": shared, "b": shared, "c": 1}, supplied=["$.a", "$.b"])
        out = ckptstore.load(place, like={"a": shared, "b": shared, "c": 0})
        assert out["a"] is shared and out["b"] is shared and out["c"] == 1

    def test_all_places_of_it_may_be_named(self, place):
        def function():
            return 1

        ckptstore.save(place, {"a": function, "b": function, "c": 1}, supplied=["$.a", "$.b"])
        out = ckptstore.load(place, like={"a": function, "b": function, "c": 0})
        assert out == {"a": function, "b": function, "c": 1}


class TestTies:
    def test_a_second_place_is_selected(self, place):
        shared = {"w": np.arange(3)}
        ckptstore.save(place, {"a": shared, "b": shared, "c": [shared, 1]})
        assert not differences(ckptstore.load(place, select="$.b"), shared)
        assert not differences(ckptstore.load(place, select="$.b.w"), shared["w"])
        assert not differences(ckptstore.load(place, select="$.c[0].w"), shared["w"])
        assert list(ckptstore.load(place, select="$.*.w")) == ["$['a']['w']", "$['b']['w']"]

    def test_any_depth_over_a_chain_of_pairs_ends(self, place):
        pair: tuple = (np.float32(1),)
        for _ in range(60):
            pair = (pair, pair)
        ckptstore.save(place, pair)
        with pytest.raises(ckptstore.StructureError, match="more than") as caught:
            ckptstore.load(place, select="$.**")
        assert caught.value.reason == "too-many-places"

    def test_like_may_not_want_two_dtypes_of_one_leaf(self, place):
        x = np.ones(3, np.float32)
        ckptstore.save(place, {"a": x, "b": x})
        like = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float64)}
        with pytest.raises(ckptstore.StructureError, match="two places"):
            ckptstore.load(place, like=like, cast=True)

    def test_filling_keeps_the_ties_of_like_that_the_checkpoint_has_too(self, place):
        stored, shared = {"w": 5}, {"w": 1}
        for second in (0, {"w": 5}, stored):
            ckptstore.save(place, {"a": stored, "b": second}, overwrite=True)
            out = ckptstore.load(place, like={"a": shared, "b": shared}, select="$.a.w")
            assert out["a"] == {"w": 5} and shared == {"w": 1}
            assert out["b"] is (out["a"] if second is stored else shared)


class TestLike:
    def test_enums_of_two_classes_are_two_keys(self, place):
        ckptstore.save(place, {twins.Color.RED: 1})
        with pytest.raises(ckptstore.StructureError, match="difference"):
            ckptstore.load(place, like={twins.Shade.RED: 1})

    def test_the_factory_is_compared(self, place):
        ckptstore.save(place, collections.defaultdict(list))
        with pytest.raises(ckptstore.StructureError, match="factory list in the checkpoint, dict"):
            ckptstore.load(place, like=collections.defaultdict(dict))

    def test_a_pattern_in_its_place_is_named(self, place):
        ckptstore.save(place, {"a": 1})
        with pytest.raises(ckptstore.StructureError, match=r"pass select='\$\.a'"):
            ckptstore.load(place, "$.a")

    @pytest.mark.parametrize(("source", "target"), [("f4", "i4"), ("c8", "f4"), ("i4", "?")])
    def test_no_cast_goes_down(self, place, source, target):
        ckptstore.save(place, np.zeros(2, source))
        with pytest.raises(ckptstore.StructureError, match="no cast converts"):
            ckptstore.load(place, like=np.zeros(2, target), cast=True)

    def test_a_cast_that_would_wrap_is_refused(self, place):
        ckptstore.save(place, np.array([300, -1]))
        with pytest.raises(ckptstore.StructureError, match="does not fit into uint8"):
            ckptstore.load(place, like=np.zeros(2, np.uint8), cast=True)
        out = ckptstore.load(place, like=np.zeros(2, np.float32), cast=True)
        assert not differences(out, np.array([300, -1], np.float32))


def test_what_is_written_to_during_a_save_is_sound(place):
    x, stop = np.zeros(4 << 20, np.float64), threading.Event()

    def write():
        while not stop.is_set():
            x[...] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for n in range(5):
            ckptstore.save(place / str(n), {"w": x})
    finally:
        stop.set()
        thread.join()
    for n in range(5):
        assert ckptstore.verify(place / str(n)) == []
        assert ckptstore.load(place / str(n))["w"].shape == x.shape


class TestCrowd:
    """Keys of one hash make a dict quadratic: a small file could stop a reader for hours."""

    keys = tuple(i * (2**61 - 1) for i in range(200))

    @pytest.mark.parametrize("make", [dict.fromkeys, set, frozenset])
    def test_many_keys_of_one_hash_are_refused(self, place, make):
        with pytest.raises(ckptstore.StructureError, match="the same hash"):
            ckptstore.save(place, make(self.keys))

    def test_a_file_of_them_is_refused(self, place, monkeypatch):
        monkeypatch.setattr("ckptstore.tree.containers.refuse_unfit", lambda keys: None)
        ckptstore.save(place, dict.fromkeys(self.keys))
        with pytest.raises(ckptstore.CorruptError, match="the same hash") as caught:
            ckptstore.load(place)
        assert caught.value.reason == "too-many"


def test_shared_parts_inside_one_another_come_back_once_wherever_the_selection_begins(place):
    inner = [1]
    middle = [inner, 2]
    outer = [middle, 3]
    ckptstore.save(place, {"first": [outer], "inside": [inner, middle, outer], "o": [outer]})
    found = ckptstore.load(place, select="$.inside")
    assert found == [inner, middle, outer]
    assert found[2][0] is found[1] and found[1][0] is found[0]
    several = ckptstore.load(place, select=["$.o", "$.inside", "$.inside[1]"])
    assert several["$['o']"][0][0] is several["$['inside']"][1] is several["$['inside'][1]"]
