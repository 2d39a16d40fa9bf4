"""Configurations of OmegaConf: interpolations, missing values and flags stay as they are."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, IntegerNode, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, ReadonlyConfigError

import ckptstore
from ckptstore import UnknownTypeError
from ckptstore.types import Record, find_adapter
from tests.support.compare import assert_exact, assert_refused

follows = pytest.mark.follows
REMEDY = "save omegaconf.OmegaConf.to_container(x), and make it again: OmegaConf.create(loaded)"


@dataclasses.dataclass
class Schema:
    x: int = 3
    y: str = "a"


def config() -> Any:
    x = OmegaConf.create(
        {
            "lr": 0.1,
            "net": {"widths": [8, "${lr}", None, {"deep": "${..[0]}"}], "bias": True},
            "name": "run-${lr}",
            "missing": "???",
            "whole": "${net}",
            "environment": "${oc.env:HOME}",
            3: "three",
            "raw": b"x",
            "path": pathlib.PosixPath("a"),
            "none": None,
            "empty": {},
        }
    )
    OmegaConf.set_struct(x.net, True)
    OmegaConf.set_readonly(x, True)
    return x


CONFIGS: dict[str, Callable[[], Any]] = {
    "a configuration": config,
    "a list": lambda: OmegaConf.create([1, {"a": "${0}"}, [2]]),
    "empty": lambda: OmegaConf.create(),
    "an interpolation": lambda: DictConfig("${x}"),
    "none": lambda: DictConfig(None),
    "a missing list": lambda: ListConfig("???"),
    "a flag that is off": lambda: OmegaConf.create({"a": 1}, flags={"readonly": False}),
    "objects": lambda: (
        OmegaConf.create({"a": pathlib}, flags={"allow_objects": True})
        and OmegaConf.create({"a": {1: 2.5}}, flags={"allow_objects": True})
    ),
}


def parts(x: Any, parent: Any = None) -> Any:
    """Return all that a configuration holds, but for caches, and check the parents."""
    held = vars(x)
    assert held["_parent"] is parent
    noted = {**vars(held["_metadata"])}
    noted["resolver_cache"] = dict(noted["resolver_cache"])
    content = held.get("_content", held.get("_val"))
    if isinstance(content, dict) and "_content" in held:
        content = {key: parts(node, x) for key, node in content.items()}
    elif isinstance(content, list) and "_content" in held:
        content = [parts(node, x) for node in content]
    return type(x), noted, content


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_comes_back(name: str, tmp_path: pathlib.Path) -> None:
    x = CONFIGS[name]()
    ckptstore.save(tmp_path / "c", {"config": x, "again": [x], "step": 3})
    loaded = ckptstore.load(tmp_path / "c")
    again = ckptstore.load(tmp_path / "c", like={"config": x, "again": [x], "step": 3})
    assert loaded["config"] is loaded["again"][0]
    for found in (loaded, again):
        assert parts(found["config"]) == parts(x)
        assert type(found["config"]) is type(x)


def test_interpolations_and_flags_work_after_a_load(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"net": 1, "config": config()})
    x = ckptstore.load(tmp_path / "c")["config"]
    assert (x.name, x.net.widths[1], x.net.widths[3].deep, x.whole.bias) == (
        "run-0.1",
        0.1,
        8,
        True,
    )
    with pytest.raises(MissingMandatoryValue):
        _ = x.missing
    with pytest.raises(ReadonlyConfigError):
        x.net.bias = False
    OmegaConf.set_readonly(x, False)
    x.lr = 0.5
    assert x.name == "run-0.5"
    with pytest.raises(AttributeError):
        x.net.other = 1
    assert OmegaConf.is_interpolation(x, "name")
    assert ckptstore.load(tmp_path / "c", select="$.config.net.widths[0]") == 8


def test_a_part_beside_its_configuration_stays_a_part(tmp_path: pathlib.Path) -> None:
    x = config()
    ckptstore.save(tmp_path / "c", {"config": x, "net": x.net})
    loaded = ckptstore.load(tmp_path / "c")
    assert loaded["net"] is vars(loaded["config"])["_content"]["net"]


def typed() -> Any:
    return OmegaConf.create({"a": IntegerNode(3)})


def flagged() -> Any:
    x = OmegaConf.create({"a": 1})
    x._get_node("a")._set_flag("readonly", True)
    return x


def marked() -> Any:
    x = OmegaConf.create({"a": 1})
    vars(x)["extra"] = 1
    return x


REFUSED: dict[str, Callable[[], Any]] = {
    "a structured configuration": lambda: OmegaConf.structured(Schema),
    "a schema below": lambda: OmegaConf.create({"a": OmegaConf.structured(Schema(4))}),
    "a typed entry": typed,
    "a typed dict": lambda: DictConfig({"a": 1}, element_type=int),
    "a flag of an entry": flagged,
    "an attribute": marked,
    "a part": lambda: config().net,
}


@follows(
    "adapters.omegaconf",
    "save omegaconf.OmegaConf.to_container(x), and make it again: OmegaConf.create(loaded)",
)
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_a_schema_is_refused(name: str, tmp_path: pathlib.Path) -> None:
    x = REFUSED[name]()
    assert_refused(
        tmp_path, {"config": x}, "$['config']" + ("['a']" if "below" in name else ""), REMEDY
    )
    loaded = assert_exact(tmp_path, OmegaConf.to_container(x))
    made = OmegaConf.create(loaded)
    assert OmegaConf.to_container(made) == OmegaConf.to_container(x)
    ckptstore.save(tmp_path / "made", made)
    assert parts(ckptstore.load(tmp_path / "made")) == parts(made)


@follows("adapters.omegaconf", "save the whole one, or {}")
def test_a_part_is_refused_and_its_whole_is_not(tmp_path: pathlib.Path) -> None:
    x = config()
    assert_refused(tmp_path, [x.net], "$[0]", "save the whole one")
    ckptstore.save(tmp_path / "c", [x])
    assert parts(ckptstore.load(tmp_path / "c")[0]) == parts(x)


def test_a_forged_record_is_refused(tmp_path: pathlib.Path) -> None:
    adapter = find_adapter("omegaconf")
    assert adapter is not None
    child = OmegaConf.create({"a": 1})
    held = OmegaConf.create({"b": {"a": 1}}).b
    for cls, content, flags, *rest in (
        (DictConfig, [1], {}, True, True),
        (ListConfig, {}, {}, True, True),
        (DictConfig, {}, [], True, True),
        (DictConfig, {}, {1: True}, True, True),
        (DictConfig, {}, {"readonly": 1}, True, True),
        (DictConfig, {}, {}, None, True),
        (DictConfig, {}, {}, True, 1),
        (DictConfig, {"a": child, "b": child}, {}, True, True),
        (ListConfig, [held], {}, True, True),
    ):
        record = adapter.record(cls)
        assert isinstance(record, Record)
        with pytest.raises((TypeError, ValueError)):
            record.make([content, flags, *rest])


def test_without_omegaconf_the_error_names_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", [config()])
    monkeypatch.delitem(__import__("sys").modules, "ckptstore.adapters.omegaconf")
    monkeypatch.setitem(__import__("sys").modules, "omegaconf", None)
    with pytest.raises(UnknownTypeError, match="pip install omegaconf"):
        ckptstore.load(tmp_path / "c")
    assert ckptstore.load(tmp_path / "c", arrays="numpy")[0].content["lr"] == 0.1
