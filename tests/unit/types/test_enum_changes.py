"""Members of enums that were renamed, removed or given another value since the save."""

from __future__ import annotations

import enum
import re
import sys
import types
from typing import Any

import numpy as np
import pytest

import ckptstore

follows = pytest.mark.follows

OLD = {
    "Enum": "class C(enum.Enum):\n    A = 1\n    B = 2\n",
    "text": "class C(enum.Enum):\n    A = 'a'\n    B = 'b'\n",
    "tuple": "class C(enum.Enum):\n    A = (1, 'a')\n    B = (2, 'b')\n",
    "IntEnum": "class C(enum.IntEnum):\n    A = 1\n    B = 2\n",
    "StrEnum": "class C(enum.StrEnum):\n    A = 'a'\n    B = 'b'\n",
    "Flag": "class C(enum.Flag):\n    A = 1\n    B = 2\n",
    "IntFlag": "class C(enum.IntFlag):\n    A = 1\n    B = 2\n",
    "auto": "class C(enum.Enum):\n    A = enum.auto()\n    B = enum.auto()\n",
    "mixed": "class C(int, enum.Enum):\n    A = 1\n    B = 2\n",
}
PLACES = {
    "in a dict": lambda c: ({"x": [c], "w": np.ones(2)}, "$['x'][0]"),
    "as a key": lambda c: ({"x": {c: 1}}, "$['x']"),
    "alone": lambda c: (c, "$"),
}


@pytest.fixture
def define(monkeypatch):
    """Return a function that defines the class `C` of a module anew."""

    def run(code: str) -> Any:
        made = types.ModuleType("project")
        monkeypatch.setitem(sys.modules, "project", made)
        exec("import enum\n" + code, vars(made))
        return made.C

    return run


def fails(path, **options):
    with pytest.raises(ckptstore.UnknownTypeError) as caught:
        ckptstore.load(path, **options)
    assert caught.value.reason == "no-such-member"
    return str(caught.value)


def found(tree, place):
    return (
        eval(place.replace("$", "tree"), {"tree": tree})
        if place != "$['x']"
        else next(iter(tree["x"]))
    )


@follows(
    "types.members",
    "add the line `{}` below it to the class, which keeps the old name as an alias, or {}",
)
@pytest.mark.parametrize("kind", OLD)
@pytest.mark.parametrize("where", PLACES)
def test_a_renamed_member_comes_back_by_an_alias(kind, where, define, tmp_path):
    tree, place = PLACES[where](define(OLD[kind]).B)
    ckptstore.save(tmp_path / "c", tree)
    renamed = OLD[kind].replace("B =", "BETA =")
    define(renamed)
    message = fails(tmp_path / "c")
    assert (
        f"{tmp_path / 'c'}: {place}" in message
        and "project.C: the checkpoint has C.B = " in message
    )
    line = re.search(r"`(.*)`", message)[1]
    today = define(f"{renamed}    {line}\n")
    loaded = ckptstore.load(tmp_path / "c")
    assert found(loaded, place) is today.BETA
    ckptstore.save(tmp_path / "again", loaded)
    assert found(ckptstore.load(tmp_path / "again"), place) is today.BETA
    if where == "as a key":
        return  # with `like`, keys are compared by their names
    like, _ = PLACES[where](today.BETA)
    assert found(ckptstore.load(tmp_path / "c", like=like), place) is today.BETA


CHANGES = {
    "renamed": lambda code: code.replace("B =", "BETA ="),
    "removed": lambda code: code.rpartition("    B")[0],
    "with another value": lambda code: code.rpartition("B =")[0] + CHANGED[code],
}
CHANGED = {code: "B = 'z'\n" if "'" in code else "B = 8\n" for code in OLD.values()}
CHANGED[OLD["tuple"]] = "B = (3, 'b')\n"


@follows("types.members", "pass types={{}: {}}, and replace the loaded member by yours")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [kind for kind in OLD if kind != "tuple"])
def test_a_member_that_is_gone_comes_back_by_types(change, kind, define, tmp_path):
    comes_back_by_types(change, kind, define, tmp_path)


@follows("types.members", "pass types={{}: OldClass} with a class that has this member")
@pytest.mark.parametrize("change", CHANGES)
def test_a_member_whose_value_is_a_tuple_comes_back_by_types(change, define, tmp_path):
    comes_back_by_types(change, "tuple", define, tmp_path)


@follows("types.members", "pass types={{}: OldClass} with a class that has this member")
@pytest.mark.parametrize("kind", ["Flag", "IntFlag"])
def test_flags_of_which_one_is_gone_come_back_by_types(kind, define, tmp_path):
    cls = define(OLD[kind])
    ckptstore.save(tmp_path / "c", cls.A | cls.B)
    define(CHANGES["removed"](OLD[kind]))
    message = fails(tmp_path / "c")
    old = define(OLD[kind])
    define(CHANGES["removed"](OLD[kind]))
    call = re.search(r"pass types=(\{.*?\}) with", message)[1]
    both = ckptstore.load(tmp_path / "c", types=eval(call, {"OldClass": old}))
    assert both is old.A | old.B


@pytest.mark.parametrize("kind", ["Flag", "IntFlag"])
def test_flags_of_which_one_is_renamed_come_back_by_its_alias(kind, define, tmp_path):
    cls = define(OLD[kind])
    ckptstore.save(tmp_path / "c", cls.A | cls.B)
    renamed = OLD[kind].replace("B =", "BETA =")
    define(renamed)
    fails(tmp_path / "c")
    today = define(f"{renamed}    B = BETA\n")
    assert ckptstore.load(tmp_path / "c") is today.A | today.BETA


def comes_back_by_types(change, kind, define, tmp_path):
    tree, place = PLACES["in a dict"](define(OLD[kind]).B)
    ckptstore.save(tmp_path / "c", tree)
    define(CHANGES[change](OLD[kind]))
    message = fails(tmp_path / "c")
    old = define(OLD[kind])
    define(CHANGES[change](OLD[kind]))
    call = re.search(r"pass types=(\{.*?\})(?:, and| with)", message)[1]
    options = eval(call, {"enum": enum, "OldClass": old})
    member = found(ckptstore.load(tmp_path / "c", types=options), place)
    assert (member.name, member.value) == ("B", old.B.value)


def test_a_name_that_another_member_has_now_is_not_taken_for_it(define, tmp_path):
    ckptstore.save(tmp_path / "c", define(OLD["Enum"]).B)
    define("class C(enum.Enum):\n    B = 1\n    A = 2\n")
    assert "the class now has that value under the name A" in fails(tmp_path / "c")
