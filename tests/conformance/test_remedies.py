"""Every remedy that the package prints was followed, in a test that is marked with it.

`@pytest.mark.follows("tree.symbols", "pass np.array(x)")` stands on a test that meets an error with
this remedy of `ckptstore/tree/symbols.py`, does what it says, and sees that it helps.
"""

from __future__ import annotations

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
