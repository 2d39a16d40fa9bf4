"""The objects of a walk that cannot be saved: each with its path, the reason and the remedy."""

from __future__ import annotations

from collections.abc import Iterator

from ckptstore.errors import Reason, StructureError
from ckptstore.tree import paths
from ckptstore.tree.live import LiveTree
from ckptstore.types import SUPPLIED, full_name, qualname_of

_SHOWN = 20
_LONGEST = 1000
_PLACE = '"$..."'
"""In the remedy `SUPPLIED`: the place of the pattern that names the object."""


class Refusals:
    """The refusals of one walk, gathered until its end."""

    def __init__(self) -> None:
        self._notes: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._notes)

    def add(self, node: int, message: str) -> None:
        """Note that the object at a node cannot be saved."""
        self._notes.append((node, message))

    def error(self, live: LiveTree) -> StructureError:
        """Return the error that lists them by path."""
        first = self._notes[:_SHOWN]
        patterns = _patterns(live, [node for node, _ in first])
        notes = [
            (node, text.replace(_PLACE, pattern))
            for (node, text), pattern in zip(first, patterns, strict=True)
        ]
        lines = paths.listed(live, [*notes, *self._notes[_SHOWN:]], _SHOWN)
        return StructureError(
            lines[0] if len(lines) == 1 else "cannot be saved:\n  " + "\n  ".join(lines),
            reason=Reason.CANNOT_CARRY,
        )


def _patterns(live: LiveTree, nodes: list[int]) -> Iterator[str]:
    """Yield the pattern, in quotes, for each object, or for the innermost container to be named.

    Patterns do not reach into dict keys, sets and static parts.
    """
    places = paths.Places(live, nodes)
    for node in nodes:
        steps: list[str] = []
        while node:
            steps.append(places.step(node))
            node = places.parent(node)
        steps.reverse()
        end = next((i for i, step in enumerate(steps) if step.startswith("{")), len(steps))
        pattern = "$" + "".join(steps[:end])
        plain = '"' not in pattern and "\\" not in pattern and pattern.isprintable()
        yield _PLACE if len(pattern) > _LONGEST else f'"{pattern}"' if plain else repr(pattern)


def of_own_code(cls: type, error: Exception) -> str:
    """Return the refusal of an object whose own code raised an error when it was looked at."""
    try:
        text = f"{type(error).__name__}: {error!s:.200}"
    except Exception:  # an error may have code of its own, too
        text = type(error).__name__
    return (
        f"an object of {full_name(cls)} cannot be saved: its own code failed when it was looked "
        f"at ({text}); use ckptstore.register({qualname_of(cls)}, flatten=..., unflatten=...), or "
        f"{SUPPLIED}"
    )
