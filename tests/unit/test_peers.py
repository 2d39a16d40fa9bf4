"""Names of Orbax, Lightning, Hugging Face, flax and PyTorch: each error says ours, which works."""

from __future__ import annotations

import datetime
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ckptstore
from ckptstore import Manager, keep_best, keep_every, keep_last, peers
from tests.support import remedies

CODE = re.compile(r"`([^`]*)`")
VALUES = {
    "best_mode": "max",
    "mode": "max",
    "monitor": "val_loss",
    "custom_metadata": {"a": 1},
    "overwrite": True,
    "directory": "run",
    "dirpath": "run",
}
"""The value that a foreign argument has; 5 otherwise."""

SPACE: dict[str, Any] = {
    "Manager": Manager,
    "ckptstore": ckptstore,
    "datetime": datetime,
    "keep_best": keep_best,
    "keep_every": keep_every,
    "keep_last": keep_last,
}


def codes(error: BaseException, lead: str) -> list[str]:
    text = str(error)
    assert lead in text, text
    return CODE.findall(text.split("; its arguments are")[0])


def refused(call: Any, *args: Any, **keywords: Any) -> TypeError:
    with pytest.raises(TypeError) as caught:
        call(*args, **keywords)
    assert isinstance(caught.value, ckptstore.StructureError)
    assert caught.value.reason == "bad-argument"
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and type(again) is type(caught.value)
    return caught.value


def is_call(code: str) -> bool:
    return re.match(r"[\w.]+\(", code) is not None


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.follows(
    "peers",
    "*",
)
@pytest.mark.parametrize("name", sorted(peers.MANAGER))
def test_an_argument_of_another_manager_names_ours(name: str, tmp_path: Path) -> None:
    value = VALUES.get(name, 5)
    error = refused(Manager, "run", **{name: value})
    for code in codes(error, f"Manager: no argument {name}: "):
        with Manager("run") as manager:
            space = SPACE | {"manager": manager, "step": 1, "tree": {"step": 1}, "params": {}}
            space |= {"url": "run", "loss": 0.5}
            if code.startswith(("keep=", "every=", "grace=")):
                rule = eval(f"Manager('other', {code})", space)
                rule.save(1000, {"step": 1}, metrics={"loss": 0.5, "val_loss": 0.5}, force=True)
            elif code.startswith("metrics="):
                eval(f"manager.save(1, {{'step': 1}}, {code})", space)
            elif code.startswith("save"):
                assert eval(f"manager.{code}", space) is not None
            elif is_call(code):
                assert isinstance(eval(code, space), Manager)
            else:
                assert code in ("if", "step-000000000100")


@pytest.mark.follows(
    "peers",
    "*",
)
@pytest.mark.parametrize("name", sorted(peers.SAVE))
@pytest.mark.parametrize("call", ["save", "save_async", "Manager.save", "Manager.save_async"])
def test_an_argument_of_another_save_names_ours(name: str, call: str) -> None:
    of_run = call.startswith("Manager")
    if of_run and name not in peers.STEP:
        return
    with Manager("run") as manager:
        owner: Any = manager if of_run else ckptstore
        verb = getattr(owner, call.rpartition(".")[2])
        first: Any = 1 if of_run else "ckpt"
        space = SPACE | {"url": "ckpt", "step": 1, "tree": {"step": 1}}
        if of_run and name == "force":
            return  # it is ours, too
        error = refused(verb, first, **{name: VALUES.get(name, 5)})
        for code in codes(error, f"{call}: no argument {name}: "):
            if code.startswith(("overwrite=", "metadata=")):
                eval(f"verb(first, {{'step': 1}}, {code})", {"verb": verb, "first": first})
            elif code.startswith("Manager"):
                assert isinstance(eval(code, space), Manager)
            else:
                eval(f"owner.{code}", space | {"owner": owner})


@pytest.mark.follows(
    "peers",
    "*",
)
@pytest.mark.parametrize("name", sorted(peers.LOAD))
@pytest.mark.parametrize("call", ["load", "Manager.load", "Manager.load_or_init"])
def test_an_argument_of_another_load_names_ours(name: str, call: str) -> None:
    state = {"params": 1, "step": 5}
    manager = Manager("run")
    ckptstore.save("ckpt", state)
    manager.save(5, state)
    verb = getattr(manager if "." in call else ckptstore, call.rpartition(".")[2])
    first: Any = {"load": "ckpt", "Manager.load": 5}.get(call, lambda: state)
    if name == "step" and call == "Manager.load":
        return
    error = refused(verb, first, **{name: 5})
    space = SPACE | {"state": state, "url": "ckpt", "verb": verb, "first": first}
    found = codes(error, f"{call}: no argument {name}: ")
    for code in found:
        if code.startswith("Manager"):
            assert eval(code, space | {"url": "run"}) == state
        elif code.startswith("load("):
            assert eval(f"ckptstore.{code}", space) == state
        else:
            together = ", ".join(found) if code == "cast=True" else code
            assert eval(f"verb(first, {together})", space) in (state, state["params"])


@pytest.mark.follows(
    "peers",
    "*",
)
@pytest.mark.parametrize("name", sorted(peers.METHODS))
def test_a_method_of_another_manager_names_ours(name: str) -> None:
    manager = Manager("run")
    manager.save(1, {"step": 1}, metrics={"loss": 0.5})
    assert not hasattr(manager, name)
    with pytest.raises(AttributeError, match=f"a Manager has no attribute {name!r}; use ") as error:
        getattr(manager, name)
    assert isinstance(error.value, ckptstore.CheckpointError)
    pending = manager.save_async(2, {"step": 2})
    space = SPACE | {"manager": manager, "pending": pending, "step": 1, "metric": "loss"}
    space |= {"state": {"step": 1}, "init": dict, "tree": {"step": 3}}
    space["url"] = f"{manager.url}/step-000000000001"
    for code in codes(error.value, "use"):
        if code.startswith(("pending", "ckptstore")):
            eval(code, space)
        elif is_call(code):
            space["step"] = 3 if code.startswith("save") else 1
            if code.startswith("best"):
                space["metric"] = "loss"
                code = code.replace("metric)", 'metric, mode="min")')
            if code.startswith("on_preemption"):
                manager.on_preemption().close()
            else:
                if code.startswith("save") and 3 in manager.steps():
                    manager.delete(3)
                eval(f"manager.{code}", space)
        else:
            assert hasattr(manager, code) or hasattr(Manager.save, code) or code in (
                "with", "every=", "metrics", "leaves",
            )  # fmt: skip


@pytest.mark.follows(
    "peers",
    "*",
)
@pytest.mark.parametrize("name", sorted(peers.PACKAGE))
def test_a_name_of_another_package_names_ours(name: str) -> None:
    assert not hasattr(ckptstore, name)
    with pytest.raises(AttributeError, match=f"'ckptstore' has no attribute {name!r}; u") as error:
        getattr(ckptstore, name)
    run = "Manager" in str(error.value)
    if not run and ".save" not in str(error.value):
        ckptstore.save("run", {"step": 1})
    for code in codes(error.value, "use"):
        eval(code, {"ckptstore": ckptstore, "url": "run", "tree": {"step": 1}})


def test_options_of_orbax_are_translated() -> None:
    options = SimpleNamespace(max_to_keep=3, save_interval_steps=100, keep_period=1000)
    [code] = codes(refused(Manager, "run", options=options), "no argument options")
    manager = eval(f"Manager('run', {code})", SPACE)
    assert repr(manager._saves.keep) == "keep_last(3) | keep_every(1000)"
    assert manager._saves.every == 100
    assert "no argument options: do you" in str(refused(Manager, "run", options=object()))


def test_the_real_options_of_orbax_are_translated() -> None:
    orbax = pytest.importorskip("orbax.checkpoint")
    options = orbax.CheckpointManagerOptions(max_to_keep=3, save_interval_steps=100)
    [code] = codes(refused(Manager, "run", options=options), "no argument options")
    assert code == "keep=keep_last(3), every=100"


@pytest.mark.follows(
    "peers",
    "*",
)
def test_several_names_come_in_one_error_and_a_misspelt_one_is_guessed() -> None:
    text = str(refused(Manager, "run", max_to_keep=3, evry=100, nonsense=1))
    assert "keep=keep_last(3)" in text and "do you mean `every=`?" in text
    assert "no argument nonsense;" in text and "its arguments are url, keep, every" in text
    text = str(refused(Manager, "run", object(), object()))
    assert "pass all but the first by name" in text


def test_an_unknown_name_is_a_plain_attribute_error() -> None:
    for thing in (ckptstore, Manager("run")):
        assert getattr(thing, "nonsense", None) is None
        with pytest.raises(AttributeError, match="nonsense") as caught:
            thing.nonsense  # noqa: B018
        assert type(caught.value) is AttributeError


@pytest.mark.follows("peers", "do you mean `{}`?")
def test_the_error_of_a_misspelt_name_offers_the_nearest() -> None:
    misspelt = {"sav": ckptstore, "convrt": ckptstore, "load_or_int": Manager("run")}
    for name, thing in misspelt.items():
        with pytest.raises(AttributeError, match="do you mean") as caught:
            getattr(thing, name)
        remedies.seen(str(caught.value))
        [near] = codes(caught.value, name)
        assert getattr(thing, near)
    with pytest.raises(AttributeError) as caught:
        Manager("run")._runn  # noqa: B018
    assert "mean" not in str(caught.value)


def test_a_type_checker_still_sees_the_arguments() -> None:
    import inspect

    assert "keep" in inspect.signature(Manager).parameters
    assert list(inspect.signature(ckptstore.save).parameters)[:2] == ["url", "tree"]


@pytest.mark.follows(
    "peers",
    "call `save_async(step, tree)` to save in the background",
    "do you mean `{}=`?",
    'leave it out, and load the part that fits: `select="$.params"`',
    'leave it out, and load the part that you need: `select="$.params"`',
    "leave it out: `Manager(url)` needs none",
    "leave it out: a load never runs code from a file",
    "leave it out: a step is `step-000000000100` in the directory of the run",
    "leave it out: a tensor comes to the CPU where its device is missing",
    "leave it out: arrays are stored with the dtypes that they have",
    "leave it out: it happens by itself, see `grace=3600`",
    "leave it out: one tree holds all items, `save(step, {'params': params})`",
    "leave it out: the first save makes the directory",
    "leave it out: the newest step is always kept",
    'load the part that you need: `select="$.params"`',
    "pass `every=100`",
    "pass `every=datetime.timedelta(hours={})`",
    "pass `every=datetime.timedelta(minutes=10)`",
    "pass `every={}`",
    'pass `keep=keep_best(2, "loss") | keep_last(2)`',
    'pass `keep=keep_best(2, "loss")`, and the value with each save: `metrics={"loss": loss}`',
    'pass `keep=keep_best(2, "loss", mode={})`',
    "pass `keep=keep_best(2, {})`, and the value in metrics= of each save",
    'pass `keep=keep_best({}, "loss")`, and the value in metrics= of each save',
    "pass `keep=keep_every({})`",
    "pass `keep=keep_every({})`, or with others: keep_last(3) | keep_every(…)",
    "pass `keep=keep_last(3) | keep_every(1000)`",
    "pass `keep=keep_last({})`",
    'pass `like=state` for other devices, or `arrays="numpy"` for arrays of numpy',
    "pass `metadata={}`",
    "pass `overwrite=True` to replace a checkpoint",
    "pass `{}`",
    "pass a number of steps: `every=1000`",
    "pass a rule of steps, such as `keep=keep_every(1000)`",
    "pass all but the first by name",
    "pass it to the save: `save(step, tree, overwrite=True)`",
    "pass the tree whose types, dtypes and devices you want: `like=state`",
    "put the save under an `if` of your own, or pass `every=100`",
    "save these steps with `save(step, tree, force=True)`",
    "use {}",
)
def test_each_text_is_printed_and_those_above_follow_it() -> None:
    """Each entry of the tables has a test of its own above, which runs the code in the text."""
    for name in peers.MANAGER:
        refused(Manager, "run", **{name: VALUES.get(name, 5)})
    refused(Manager, "run", object(), options=SimpleNamespace(max_to_keep=3), evry=1)
    for name in peers.SAVE:
        refused(ckptstore.save, "ckpt", **{name: VALUES.get(name, 5)})
    for name in peers.LOAD:
        refused(ckptstore.load, "ckpt", **{name: 5})
    with pytest.raises(AttributeError):
        Manager("run").latest_step  # noqa: B018
