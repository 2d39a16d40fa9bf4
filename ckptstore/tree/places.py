"""Places: paths whose text is made when it is needed, since each repeats the keys above it."""

from __future__ import annotations


def most_characters(nodes: int) -> int:
    """Return how many characters all paths that are made of a table may have together."""
    return (1 << 26) + 256 * nodes


class Place:
    """A path, as the last step of a longer one.

    Args:
        above: the place of the container; None at the root.
        step: the step from there.

    Attributes:
        length: the number of its characters.
    """

    __slots__ = ("_above", "_step", "length")

    def __init__(self, above: Place | None, step: str) -> None:
        self._above, self._step = above, step
        self.length: int = len(step) + (above.length if above is not None else 0)

    def text(self) -> str:
        """Return the whole path."""
        steps, place = [self._step], self._above
        while place is not None:
            steps.append(place._step)
            place = place._above
        return "".join(reversed(steps))
