"""What old releases of Optax really wrote is fitted to today's optimizers, which then go on."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("optax")

import jax

import ckptstore
from ckptstore.optax import fit
from tests.golden import make_optax
from tests.support.optax_golden import RELEASES, ROOT

# How many states of each release are fitted; the others are today's as they are.
FITTED = {
    **{"0.1.0": 15, "0.1.1": 15, "0.1.2": 14, "0.1.3": 9, "0.1.5": 11, "0.1.7": 11, "0.1.8": 13},
    **{"0.1.9": 8, "0.2.1": 10, "0.2.3": 14, "0.2.4": 11, "0.2.5": 5, "0.2.6": 4, "0.2.7": 0},
}
GONE = {"additive_weight_decay", "maybe_update"}  # functions that Optax has no more
CHANGED = {
    "0.1.1": ["masked", "noisy_sgd", "inject_hyperparams/schedule", "adam/bf16_mu"],
    "0.1.8": ["contrib.cocob"],
    "0.2.3": ["optimistic_gradient_descent", "named_chain", "contrib.schedule_free_adamw"],
    "0.2.6": ["contrib.muon"],
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:optax")


def changes(name: str, state: Any) -> int:
    """Fit a state, make an update with it, and return how many places were changed."""
    tx, params, _ = make_optax.start(name)
    fitted, report = fit(state, tx, params)
    grads, extra = make_optax._feed(make_optax.CASES[name].feed, params, make_optax.STEPS)
    tx.update(grads, fitted, params, **extra)
    assert (fitted is state) == (not report.changes)
    assert not fit(fitted, tx, params)[1].changes
    return len(report.changes)


@pytest.mark.whole
@pytest.mark.parametrize("release", RELEASES)
def test_every_state_of_a_release_is_fitted(release: str) -> None:
    states = ckptstore.load(ROOT / f"optax-{release}" / "states")
    found = {name: changes(name, states[name]) for name in states if name not in GONE}
    assert sum(map(bool, found.values())) == FITTED[release]


@pytest.mark.parametrize("release", CHANGED)
def test_what_changed_is_fitted(release: str) -> None:
    states = ckptstore.load(ROOT / f"optax-{release}" / "states")
    for name in CHANGED[release]:
        assert changes(name, states[name]), name


@pytest.mark.parametrize(
    "release", ["0.1.1", "0.1.2"]
)  # a list of what is left, and None for the rest
def test_what_a_mask_left_gets_its_place(release: str) -> None:
    state = ckptstore.load(ROOT / f"optax-{release}" / "states", select="$['masked']")
    tx, params, _ = make_optax.start("masked")
    fitted, _ = fit(state, tx, params)
    old, new = jax.tree.leaves(state), jax.tree.leaves(fitted)
    assert all(a is b for a, b in zip(old, new, strict=True))


def test_lbfgs_from_before_its_search_changed_is_reported() -> None:
    for release, word in {"0.2.3": "before Optax 0.2.4", "0.2.5": ""}.items():
        state = ckptstore.load(ROOT / f"optax-{release}" / "states", select="$['lbfgs']")
        tx, params, _ = make_optax.start("lbfgs")
        report = fit(state, tx, params)[1]
        assert word in str(report)
        assert [c.path for c in report.changes] == ["$[2].learning_rate"] * bool(word)
