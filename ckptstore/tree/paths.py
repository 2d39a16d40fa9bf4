"""Paths: the readable position of a node in its tree, and patterns that select nodes.

    $.opt_state[0].mu['dense']      a field, an item of a sequence, a key of a dict
    $.params.*                      `*` stands for one step, `**` for any number

A field is ``.name``, a sequence item ``[0]``, a dict entry ``[repr of the key]``; the dict in a
wrapper (FrozenDict) has the wrapper's own path. In a pattern
``.name`` and ``['name']`` mean the same, so ``$.params`` finds a field or a key.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ckptstore import errors
from ckptstore.errors import Reason, StructureError
from ckptstore.format import DICT_KINDS, Kind, TypeKind
from ckptstore.tree.nodes import NodeTable

_STEP = re.compile(
    r"""\.(?P<field>\*\*|\*|[^.\[\]'"*]+)|\[(?P<item>(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\[\]'"]|\[[^\]]*\])+)\]"""
)


def step(table: NodeTable, parent: int, position: int, previous: int) -> str:
    """Return the step from `parent` to its child number `position`, "" for a wrapper's content.

    Args:
        table: the nodes.
        parent: the node of the container.
        position: the number of the child.
        previous: the node of the child before, which is the key of a dict's value.
    """
    kind = table.kind[parent]
    if kind in DICT_KINDS:
        return f"{{key {position // 2}}}" if position % 2 == 0 else f"[{table.key(previous)}]"
    if kind == Kind.RECORD:
        row = table.row(parent)
        if row.extra.get("wraps") is True:
            return f"{{{row.fields[position]}}}" if position else ""
        if row.kind != TypeKind.PYTREE:
            return f".{row.fields[position]}"
        return "{static}" if position == 0 else f"[{position - 1}]"
    if kind in (Kind.SET, Kind.FROZENSET):
        return f"{{item {position}}}"
    if kind == Kind.ENUM:
        return ".value"
    return f"[{position}]"


def walk(table: NodeTable) -> Iterator[tuple[int, int, int, int]]:
    """Yield (node, parent, position, previous child) of every node after the root, in preorder."""
    stack: list[list[int]] = []  # [node, number of children seen, the last of them]
    for node, arity in enumerate(table.arity):
        while stack and stack[-1][1] == table.arity[stack[-1][0]]:
            stack.pop()
        if stack:
            top = stack[-1]
            yield node, top[0], top[1], top[2]
            top[1] += 1
            top[2] = node
        if arity:
            stack.append([node, 0, -1])


def path(table: NodeTable, node: int) -> str:
    """Return the path of a node."""
    return format_paths(table, [node])[0]


def listed(table: NodeTable, notes: Sequence[tuple[int, str]], most: int) -> list[str]:
    """Return the first notes on nodes as ``path: text``, and the number of further ones."""
    places = format_paths(table, [node for node, _ in notes[:most]])
    lines = [f"{place}: {text}" for place, (_, text) in zip(places, notes[:most], strict=True)]
    return errors.listed([*lines, *(text for _, text in notes[most:])], most)


def format_paths(table: NodeTable, wanted: Sequence[int]) -> list[str]:
    """Return the paths of nodes; `table` may still lack the nodes after them."""
    want = set(wanted)
    if not want:
        return []
    last = max(want)
    came: dict[int, tuple[int, int, int]] = {}
    for node, parent, position, previous in walk(table):
        if node > last:
            break
        if table.arity[node] or node in want:
            came[node] = (parent, position, previous)
    out = []
    for node in wanted:
        steps = []
        while node in came:
            parent, position, previous = came[node]
            steps.append(step(table, parent, position, previous))
            node = parent
        out.append("$" + "".join(reversed(steps)))
    return out


def parse(pattern: str) -> tuple[str, ...]:
    """Split a pattern into steps, each normalised by `normal`.

    Raises:
        StructureError: reason ``bad-pattern``.
    """
    if not isinstance(pattern, str) or not pattern.startswith("$"):
        raise StructureError(
            f"select: {pattern!r:.200} is not a pattern; it begins with $, as in $.params or "
            "$.opt_state[0]",
            reason=Reason.BAD_PATTERN,
        )
    steps, at = [], 1
    while at < len(pattern):
        match = _STEP.match(pattern, at)
        if match is None:
            raise StructureError(
                f"select: {pattern!r:.200} cannot be read from {pattern[at:]!r:.80} on; a step is "
                ".name, [0], ['key'], .* or .**",
                reason=Reason.BAD_PATTERN,
            )
        if match["field"] is not None:
            steps.append(match["field"] if match["field"] in ("*", "**") else normal(match[0]))
        else:
            steps.append("*" if match["item"] == "*" else normal(match[0]))
        at = match.end()
    return tuple(steps)


def normal(text: str) -> str:
    """Bring a step to the form in which ``.name``, ``['name']`` and ``["name"]`` are equal."""
    if text.startswith("."):
        return f"[{text[1:]!r}]"
    if text.startswith('["'):
        return f"[{_unquote(text[1:-1])!r}]"
    return text


def _unquote(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text[1:-1]


def matches(table: NodeTable, patterns: Sequence[str]) -> list[list[tuple[str, int]]]:
    """Return, for each pattern, the (path, node) of every match, in the tree's order.

    An object that stands in several places is found in each, but by `**` only in the first. The
    node is the one at the place, which may be a SAME node. Steps inside dict keys, sets and static
    parts are not matched.
    """
    parsed = [parse(pattern) for pattern in patterns]
    end = table.layout.end
    matched: list[list[tuple[str, int]]] = [[] for _ in patterns]
    # A state is (pattern, number of steps done); a place has the states of all patterns.
    start = frozenset(s for i in range(len(parsed)) for s in _close(parsed, (i, 0)))
    shared: set[tuple[int, frozenset[tuple[int, int]]]] = set()
    stack = [(0, "$", start)]
    while stack:
        node, place, states = stack.pop()
        for i in sorted({i for i, done in states if done == len(parsed[i])}):
            matched[i].append((place, node))
        same = table.kind[node] == Kind.SAME
        node = table.target(node)
        if any("**" in parsed[i][done : done + 1] for i, done in states):
            if same and (node, states) in shared:
                continue  # else a chain of shared pairs has endlessly many paths
            shared.add((node, states))
        if table.kind[node] == Kind.ENUM:
            continue
        below, child, previous = [], node + 1, -1
        for position in range(table.arity[node]):
            text = step(table, node, position, previous)
            after = frozenset() if text.startswith("{") else _advance(parsed, states, text)
            if after:
                below.append((child, place + text, after))
            child, previous = end[child], child
        stack.extend(reversed(below))
    return matched


def _advance(
    parsed: list[tuple[str, ...]], states: frozenset[tuple[int, int]], text: str
) -> frozenset[tuple[int, int]]:
    """Return the states after one more step; an empty set cannot match anything below."""
    if not text:
        return frozenset((i, done) for i, done in states if done < len(parsed[i]))
    text = normal(text)
    after: set[tuple[int, int]] = set()
    for i, done in states:
        if done < len(parsed[i]):
            if parsed[i][done] == "**":
                after |= _close(parsed, (i, done))
            elif parsed[i][done] in ("*", text):
                after |= _close(parsed, (i, done + 1))
    return frozenset(after)


def _close(parsed: list[tuple[str, ...]], state: tuple[int, int]) -> set[tuple[int, int]]:
    """Add the states in which a `**` stands for no step at all."""
    i, done = state
    states = {state}
    while done < len(parsed[i]) and parsed[i][done] == "**":
        done += 1
        states.add((i, done))
    return states
