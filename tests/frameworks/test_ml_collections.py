"""Configurations of ml_collections, with their locks, types and references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict, config_dict

import ckptstore
from ckptstore import UnknownTypeError
from ckptstore.types import Record, find_adapter
from tests.support.compare import assert_exact, assert_refused, differences

follows = pytest.mark.follows


def config(**options: Any) -> Any:
    return ConfigDict(
        {"lr": 0.1, "net": {"widths": [8, 8], "bias": True}, "t": (1, "a")}, **options
    )


def referring() -> Any:
    x = config()
    x.seed = config_dict.FieldReference(3)
    x.net.seed = x.get_ref("seed")
    x.empty = config_dict.placeholder(int)
    x.required = config_dict.required_placeholder(str)
    x.either = config_dict.FieldReference(None, field_type=(int, str, np.float32))
    x.listed = config_dict.placeholder(list)
    x.below = config_dict.FieldReference(ConfigDict({"a": 1}))
    return x


CONFIGS: dict[str, Any] = {
    "empty": ConfigDict(),
    "plain": config(),
    "locked": config().lock(),
    "not safe": config(type_safe=False),
    "plain dicts": ConfigDict({"a": {"b": 1}}, convert_dict=False),
    "dotted keys": ConfigDict({"a.b": 1}, allow_dotted_keys=True),
    "unsorted": ConfigDict({"b": 1, "a": 2}, sort_keys=False),
    "numbers as keys": ConfigDict({1: "a", 2: {3: 4}}),
    "arrays": ConfigDict({"w": np.arange(3), "none": None, "s": {1, 2}}),
    "references": referring(),
    "frozen": FrozenConfigDict(config()),
    "frozen of a locked one": FrozenConfigDict(config().lock()),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_comes_back(name: str, tmp_path: Path) -> None:
    x = CONFIGS[name]
    tree = {"config": x, "again": [x], "step": 3}
    loaded = assert_exact(tmp_path, tree)
    assert loaded["config"].is_locked == x.is_locked
    assert loaded["config"].is_type_safe == x.is_type_safe
    assert differences(tree, ckptstore.load(tmp_path / "c0", like=tree)) == []
    if name not in ("references", "arrays"):
        assert loaded["config"] == x
    if name == "plain":
        assert ckptstore.load(tmp_path / "c0", select="$.config.net.widths[1]") == 8


def test_references_stay_shared_and_typed(tmp_path: Path) -> None:
    loaded = assert_exact(tmp_path, referring())
    loaded.seed = 5
    assert loaded.net.seed == 5
    with pytest.raises(TypeError):
        loaded.empty = "text"
    with pytest.raises(config_dict.RequiredValueError):
        _ = loaded.required
    loaded.listed = [1]
    loaded.either = "text"


def test_a_frozen_configuration_thaws_and_is_a_key_of_yours(tmp_path: Path) -> None:
    x = FrozenConfigDict({"a": [1, {2}], "b": {"c": 1}})
    loaded = assert_exact(tmp_path, [x])[0]
    assert ConfigDict(loaded) == ConfigDict(x)
    assert hash(loaded) == hash(x)
    with pytest.raises(AttributeError):
        loaded.a = 1


@follows("adapters.ml_collections", "save config.copy_and_resolve_references()")
def test_a_computed_reference_is_refused(tmp_path: Path) -> None:
    x = config()
    x.double = x.get_ref("lr") * 2
    words = "save config.copy_and_resolve_references()"
    assert_refused(tmp_path, {"config": x}, "$['config']['double']", words)
    one_way = config()
    one_way.same = one_way.get_oneway_ref("lr")
    assert_refused(tmp_path, {"config": one_way}, "$['config']['same']", words)
    for each in (x, one_way):
        assert_exact(tmp_path, each.copy_and_resolve_references())


@follows("adapters.ml_collections", "save x.to_dict()", "delete it")
def test_an_attribute_beyond_the_content_is_refused(tmp_path: Path) -> None:
    x = config()
    vars(x)["extra"] = 1
    assert_refused(tmp_path, [x], "$[0]", "'extra'", "save x.to_dict()")
    assert_exact(tmp_path, x.to_dict())
    reference = config_dict.FieldReference(1)
    reference.extra = 1
    assert_refused(tmp_path, [reference], "$[0]", "'extra'", "delete it")
    del reference.extra
    assert_exact(tmp_path, [reference])


def test_a_reference_to_a_class_of_yours_is_refused(tmp_path: Path) -> None:
    x = ConfigDict({"a": config_dict.FieldReference(None, field_type=Path)})
    assert_refused(tmp_path, x, "$['a'].type", "cannot be saved as a value")


@follows("adapters.ml_collections", "pip install --upgrade ml_collections")
def test_an_option_of_a_later_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", config())
    with monkeypatch.context() as patch:  # an old release
        patch.setattr("ckptstore.adapters.ml_collections._OPTIONS", frozenset({"_locked"}))
        with pytest.raises(UnknownTypeError, match="pip install --upgrade ml_collections"):
            ckptstore.load(tmp_path / "c")
    assert ckptstore.load(tmp_path / "c") == config()


def test_a_forged_record_is_refused() -> None:
    adapter = find_adapter("ml_collections")
    assert adapter is not None
    nested: Any = "int"
    for _ in range(50):
        nested = (nested, nested)
    for cls, values in (
        (ConfigDict, [[1], {}]),
        (ConfigDict, [{}, {"locked": 1}]),
        (ConfigDict, [{}, {1: True}]),
        (ConfigDict, [{}, {"fields": True}]),
        (FrozenConfigDict, [{}, {}, {}]),
        (FrozenConfigDict, [{}, {}, FrozenConfigDict()]),
        (config_dict.FieldReference, [1, "eval", False]),
        (config_dict.FieldReference, [1, "int", 1]),
        (config_dict.FieldReference, [1, nested, False]),
        (config_dict.FieldReference, [1, len, False]),
        (config_dict.FieldReference, [config_dict.FieldReference(1), "int", False]),
    ):
        record = adapter.record(cls)
        assert isinstance(record, Record)
        with pytest.raises((TypeError, ValueError, KeyError)):
            record.make(values)
