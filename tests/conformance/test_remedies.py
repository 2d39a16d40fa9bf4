"""Every remedy that the package prints was followed, in a test that is marked with it.

`@pytest.mark.follows("tree.symbols", "pass np.array(x)")` stands on a test that meets an error with
this remedy of `ckptstore/tree/symbols.py`, does what it says, and sees that it helps.
"""

from __future__ import annotations

import contextlib

import pytest

import ckptstore
from ckptstore import StructureError
from tests.support import remedies
from tests.support.remedies import Remedy

_AZURE = "it needs a login at Microsoft"
_AZURE_ERRORS = "storage.clients.azure_errors"

NOT_HERE: dict[Remedy, str] = {
    Remedy(
        _AZURE_ERRORS,
        'log in as yourself, with storage_options={"anon": False} and without account_key and '
        "connection_string",
    ): _AZURE,
    Remedy(
        "checkpoint.foreign_directories", "import tensorflow as tf"
    ): "TensorFlow is not installed for the tests: it alone is larger than all that is",
    Remedy(
        "checkpoint.foreign_files", "run `git annex get .` in its repository"
    ): "git-annex is a program of its own, which pip does not install",
}
"""Remedies that no test can follow on one machine, with the reason."""


def test_every_remedy_is_followed_in_a_test() -> None:
    printed, followed = remedies.printed(), remedies.followed()
    left = sorted(printed - followed.keys() - NOT_HERE.keys())
    print(f"\n{len(printed)} remedies, {len(printed & followed.keys())} of them followed in a test")
    print("".join(f"  not followed here, {remedy}: {why}\n" for remedy, why in NOT_HERE.items()))
    assert not left, "no test is marked with:\n" + "\n".join(map(repr, left))


def test_no_mark_names_a_remedy_that_is_gone() -> None:
    printed = remedies.printed()
    stale = {r: places for r, places in remedies.followed().items() if r not in printed}
    assert not stale, stale
    assert not NOT_HERE.keys() - printed
    assert not NOT_HERE.keys() & remedies.followed().keys()


SOURCE = '''
def call(x, more):
    """Save x again; pass a list."""
    raise Refusal(f"{x} cannot be saved; pass {type(x)}, or save x.a" + (f"; {more}" if x else ""))

TABLE = {1: "the disk is full: free some space", 2: ", or, if you trust it, pass types=[...]"}
log("%s: nothing was deleted; no step is lost; if it is yours, remove the file %s", 1, 2)
log("flatten of {} returned 3")
'''


def test_what_a_message_tells_you_to_do_is_found_and_nothing_else() -> None:
    assert sorted(remedies.of_source(SOURCE)) == [
        ", or, if you trust it, pass types=[...]",
        "free some space",
        "if it is yours, remove the file {}",
        "pass {}, or save x.a{}",
    ]


@pytest.mark.parametrize("some", [False, True])
def test_a_mark_whose_remedy_no_error_prints_fails_its_test(some: bool) -> None:
    marks = [pytest.mark.follows("format.names", "count from 0", "int(step) gives one", some=some)]
    with contextlib.ExitStack() as stack:
        if not some:
            stack.enter_context(pytest.raises(AssertionError, match="gives one"))
        with remedies.met([mark.mark for mark in marks]), pytest.raises(StructureError):
            ckptstore.save("nowhere", {}, step=-1)
    met = remedies.met([mark.mark for mark in marks])
    with pytest.raises(AssertionError, match="count from 0"), met:
        pass
