"""Names with the number of a step, which other tools give to their checkpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

_log = logging.getLogger("ckptstore")

_NAME = re.compile(
    r"(?P<before>(?:.*[._-])?(?:step|steps|checkpoint|ckpt|epoch|iter)?[._-]?)"
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<after>\.[a-z]+)?",
    re.ASCII,
)
_UNFINISHED = "-tmp-"  # of Orbax: 10.orbax-checkpoint-tmp-1699999999


def newest_first(names: Iterable[str]) -> list[str]:
    """Return the names that hold the number of a step, the greatest first.

    Names differ in their number alone: if they differ otherwise, none is returned.

    Example:
        >>> newest_first(["checkpoint_9", "checkpoint_10", "checkpoint_tmp"])
        ['checkpoint_10', 'checkpoint_9']
        >>> newest_first(["params", "model1", "model2"])
        []
    """
    found = {name: _NAME.fullmatch(name) for name in names if _UNFINISHED not in name}
    steps = {name: match for name, match in found.items() if match is not None}
    if len({(match["before"], match["after"]) for match in steps.values()}) != 1:
        return []
    return sorted(steps, key=lambda name: float(steps[name]["number"]), reverse=True)


def log_choice(where: str, name: str, count: int) -> None:
    """Log which of several steps is read."""
    _log.info("%s: reading %s, the newest of %d step(s)", where, name, count)
