"""Selecting: the places of a table that the patterns of ``select=`` match."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

from ckptstore.errors import Reason, StructureError, UnknownTypeError, bad_argument, listed
from ckptstore.format import Kind, TypeRow
from ckptstore.texts import shown
from ckptstore.tree import paths
from ckptstore.tree.differences import differs_from_like
from ckptstore.tree.live import LiveTree
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.patterns import parse
from ckptstore.tree.stored import StoredTree
from ckptstore.types import RECORD_KINDS, find_adapter, find_class

_NEAR_SHOWN = 20


def patterns_of(select: Any, where: str) -> list[str]:
    """Return the patterns of ``select=``, an argument of the call `where`.

    Raises:
        StructureError: reason ``bad-pattern``.
    """
    if isinstance(select, str):
        return [select]
    if isinstance(select, Iterable) and not isinstance(select, bytes | bytearray):
        return list(select)
    expected = "a pattern such as $.params, or a list of patterns"
    raise bad_argument(where, "select", select, expected, reason=Reason.BAD_PATTERN)


def select(
    table: NodeTable, patterns: Sequence[str], where: str, *, places: bool = False
) -> dict[str, int]:
    """Return the nodes that the patterns match, by path.

    Args:
        table: the nodes.
        patterns: the result of `patterns_of`.
        where: the name of the tree in messages.
        places: return the SAME nodes themselves, not their targets.

    Raises:
        StructureError: reason ``no-match``, with the paths that are near; ``ambiguous``;
            ``too-many-places``.
    """
    matches = paths.matches(table, patterns)
    for pattern, matched in zip(patterns, matches, strict=True):
        if not matched:
            near = _near(table, pattern)
            raise StructureError(
                f"{where}: nothing is at {pattern}; there is {', '.join(near)}",
                reason=Reason.NO_MATCH,
            )
    out: dict[str, int] = {}
    for path, node in dict.fromkeys(match for matched in matches for match in matched):
        node = node if places else table.target(node)
        if out.setdefault(path, node) != node:
            raise StructureError(
                f"{where}: {shown(path, paths.MOST_SHOWN)} names several places, whose keys print "
                "the same; select their container",
                reason=Reason.AMBIGUOUS,
            )
    return dict(sorted(out.items(), key=lambda place: place[1]))  # in the tree's order


def paired(
    stored: Mapping[str, int], like: Mapping[str, int], live: LiveTree, where: str
) -> list[tuple[int, int]]:
    """Return the selected places, each as its nodes in the checkpoint and in `like`.

    Args:
        stored: the selected nodes of the checkpoint, by path.
        like: the selected nodes of `like`, by path. A placeholder of an array is one place: a path
            into it counts only if the checkpoint has it.
        live: the tree `like`.
        where: the checkpoint, for messages.

    Raises:
        StructureError: reason ``differs-from-like``: a selected path is on one side only.
    """
    lines = [f"{path}: not in `like`" for path in stored if path not in like]
    if more := [path for path in like if path not in stored]:
        inside = _inside_placeholders(live)
        lines += [f"{path}: not in the checkpoint" for path in more if not inside[like[path]]]
    if lines:
        raise differs_from_like(where, lines)
    return [(stored[path], node) for path, node in like.items() if path in stored]


def _inside_placeholders(live: LiveTree) -> bytearray:
    """Return, for each node, whether it lies inside the placeholder of an array."""
    inside, end = bytearray(len(live.kind)), live.layout.end
    for node, x in enumerate(live.objects):
        if live.arity[node] and not inside[node]:
            adapter = find_adapter(type(x).__module__)
            if adapter is not None and adapter.expected(x) is not None:
                inside[node + 1 : end[node]] = b"\1" * (end[node] - node - 1)
    return inside


def is_one_place(select: str | Sequence[str]) -> bool:
    """Return whether ``select=`` is one pattern without ``*``, which gives a value, not a dict."""
    return isinstance(select, str) and not {"*", "**"} & set(parse(select))


def named_as_today(stored: StoredTree, like: LiveTree, classes: Mapping[str, type]) -> StoredTree:
    """Return the table of a checkpoint with the field names of the classes of `like`.

    Args:
        stored: the checkpoint.
        like: a tree of today's classes.
        classes: the classes of the caller, by stored name.
    """
    rows = zip(like.kind, like.type, like.objects, strict=True)
    own = {str(like.types[t - 1]): type(x) for kind, t, x in rows if kind == Kind.RECORD}
    return stored.with_types(_Renamed(stored.types, {**own, **classes}))


class _Renamed(Sequence[TypeRow]):
    """Rows of types with today's names of their fields.

    A class is looked up only when a path needs it, because that may import a framework.
    """

    def __init__(self, rows: Sequence[TypeRow], classes: Mapping[str, type]) -> None:
        self._rows = list(rows)
        self._classes = classes
        self._done: set[int] = set()

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> TypeRow: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[TypeRow]: ...
    def __getitem__(self, number: int | slice) -> TypeRow | Sequence[TypeRow]:
        if isinstance(number, int) and number not in self._done:
            self._done.add(number)
            self._rows[number] = self._renamed(self._rows[number])
        return self._rows[number]

    def _renamed(self, row: TypeRow) -> TypeRow:
        if row.kind not in RECORD_KINDS:
            return row
        try:
            _, upgrade = find_class(row, self._classes)
        except UnknownTypeError:
            return row  # the comparison with `like` reports the class, if it is selected
        names = {
            origin: name for name, origin in zip(upgrade.fields, upgrade.origins(), strict=True)
        }
        fields = (names.get(i, f"{old} (removed)") for i, old in enumerate(row.fields))
        return replace(row, fields=tuple(fields))


def _near(table: NodeTable, pattern: str) -> list[str]:
    """Return the children of the deepest place that the pattern reaches."""
    steps, near = parse(pattern), list[tuple[str, int]]()
    for count in range(len(steps) - 1, -1, -1):
        pattern = "$" + "".join(map(_as_text, steps[:count])) + ".*"
        with contextlib.suppress(StructureError):  # too many
            near = paths.matches(table, [pattern])[0]
        if near:
            return listed([shown(path) for path, _ in near], _NEAR_SHOWN)
    return ["only $"]


def _as_text(step: str) -> str:
    return step if step.startswith(("[", ".")) else f".{step}"
