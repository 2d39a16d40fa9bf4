"""How many examples hypothesis draws: `make test` draws a fifth of what `make test-ci` does."""

from __future__ import annotations

import hypothesis

_ALL = hypothesis.settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[
        hypothesis.HealthCheck.filter_too_much,
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
    ],
)


def register() -> None:
    """Make the profiles `all`, which is loaded, and `few`, for ``--hypothesis-profile few``."""
    hypothesis.settings.register_profile("all", _ALL)
    hypothesis.settings.register_profile("few", _ALL, max_examples=20)
    hypothesis.settings.load_profile("all")


def examples(count: int) -> hypothesis.settings:
    """Return the settings of a test that draws `count` examples with the profile `all`."""
    share = hypothesis.settings.default.max_examples / _ALL.max_examples
    return hypothesis.settings(max_examples=round(count * share))
