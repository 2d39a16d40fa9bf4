"""Paths: the readable position of a node in its tree, and patterns that select nodes.

    $.opt_state[0].mu['dense']      a field, an item of a sequence, a key of a dict
    $.params.*                      `*` stands for one step, `**` for any number

A field is ``.name``, a sequence item ``[0]``, a dict entry ``[repr of the key]``; the dict in a
wrapper (FrozenDict) has the wrapper's own path. `patterns.py` reads patterns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from ckptstore import errors
from ckptstore.errors import Reason, StructureError
from ckptstore.format import DICT_KINDS, Kind, TypeKind
from ckptstore.texts import shown
from ckptstore.tree.nodes import NodeTable
from ckptstore.tree.patterns import fits, normal, parse
from ckptstore.tree.places import Place, most_characters

MOST_SHOWN = 1000
"""The characters of a path in a message."""

_PLACES = 10_000
"""Any patterns may match so many places, and four more for each node of the tree."""

_Parsed = Sequence[tuple[str, ...]]
_States = frozenset[tuple[int, int]]
"""At a place: each pattern, and each number of its steps that may lead there."""

_At = tuple[int, _States]
_Step = tuple[str, int, _States]
"""The text of a step, the node that it leads to, and the states there."""

_Below = Callable[[int, _States], Sequence[_Step]]


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
        if table.is_wrapper(parent):
            return f"{{{row.fields[position]}}}" if position else ""
        if row.kind != TypeKind.PYTREE:
            return f".{row.fields[position]}"
        return "{static}" if position == 0 else f"[{position - 1}]"
    if kind in (Kind.SET, Kind.FROZENSET):
        return f"{{item {position}}}"
    if kind == Kind.ENUM:
        return ".value"
    return f"[{position}]"


def steps(table: NodeTable, parent: int) -> Iterator[tuple[str, int]]:
    """Yield the step to each child of a node, and the child."""
    previous = -1
    for position, child in enumerate(table.layout.children(parent)):
        yield step(table, parent, position, previous), child
        previous = child


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
    """Return the path of a node for a message."""
    return shown_paths(table, [node])[0]


def listed(table: NodeTable, notes: Sequence[tuple[int, str]], most: int) -> list[str]:
    """Return the first notes on nodes as ``path: text``, and the number of further ones."""
    places = shown_paths(table, [node for node, _ in notes[:most]])
    lines = [f"{place}: {text}" for place, (_, text) in zip(places, notes[:most], strict=True)]
    return errors.listed([*lines, *(text for _, text in notes[most:])], most)


def format_paths(table: NodeTable, wanted: Sequence[int]) -> list[str]:
    """Return the whole paths of nodes; `table` may still lack the nodes after them."""
    return list(map(Places(table, wanted).path, wanted))


def shown_paths(table: NodeTable, wanted: Sequence[int]) -> list[str]:
    """Return the paths of nodes for a message; the middle of a long one is left out.

    `table` may still lack the nodes after them. Together, all paths take no more steps than the
    table has nodes.
    """
    places = Places(table, wanted)
    done = {0: "$"}
    for wanted_node in wanted:
        node, above = wanted_node, []
        while node not in done:
            above.append(node)
            node = places.parent(node)
        for node in reversed(above):
            done[node] = shown(done[places.parent(node)] + places.step(node), MOST_SHOWN)
    return [done[node] for node in wanted]


class Places:
    """The places of nodes in a table, which may still lack the nodes after them.

    Args:
        table: the nodes.
        wanted: the nodes that are asked for.
    """

    def __init__(self, table: NodeTable, wanted: Iterable[int]) -> None:
        want = set(wanted)
        last = max(want, default=0)
        self._table = table
        self._came: dict[int, tuple[int, int, int]] = {}
        for node, parent, position, previous in walk(table):
            if node > last:
                break
            if table.arity[node] or node in want:
                self._came[node] = (parent, position, previous)

    def parent(self, node: int) -> int:
        """Return the container of a node other than the root."""
        return self._came[node][0]

    def step(self, node: int) -> str:
        """Return the step to a node from its container."""
        return step(self._table, *self._came[node])

    def path(self, node: int) -> str:
        """Return the whole path of a node."""
        steps = []
        while node in self._came:
            steps.append(self.step(node))
            node = self.parent(node)
        return "$" + "".join(reversed(steps))


def matches(table: NodeTable, patterns: Sequence[str]) -> list[list[tuple[str, int]]]:
    """Return, for each pattern, the (path, node) of every match, in the tree's order.

    An object that stands in several places is found in each. The node is the one at the place,
    which may be a SAME node. Steps inside dict keys, sets and static parts are not matched.

    Raises:
        StructureError: reason ``bad-pattern``; ``too-many-places``: shared containers give so many
            places that their number does not depend on the size of the tree any more.
    """
    parsed = [parse(pattern) for pattern in patterns]
    start = _start(parsed)
    below: _Below = functools.partial(_below, table, parsed)
    if _shares_containers(table):
        below = _leading_to_matches(table, parsed, start)
    matched: list[list[tuple[Place, int]]] = [[] for _ in patterns]
    left = most_characters(len(table.kind))
    stack = [(0, Place(None, "$"), start)]
    while stack:
        node, place, states = stack.pop()
        for i in _ended(parsed, states):
            matched[i].append((place, node))
            left -= place.length
        if left < 0:
            raise StructureError(
                f"{table.where}: the paths of the places at {shown(', '.join(patterns))} are too "
                "long together; select their container",
                reason=Reason.TOO_MANY,
            )
        steps = below(table.target(node), states)
        stack.extend((child, Place(place, text), after) for text, child, after in reversed(steps))
    return [[(place.text(), node) for place, node in of_pattern] for of_pattern in matched]


def matching_nodes(
    table: NodeTable, patterns: Sequence[str], where: str = "select"
) -> list[list[int]]:
    """Return, for each pattern, the nodes of `matches`, each once, however many places it has.

    Args:
        table: the tree.
        patterns: the patterns.
        where: the argument that holds them, for messages.
    """
    parsed = [parse(pattern, where) for pattern in patterns]
    matched: list[dict[int, None]] = [{} for _ in patterns]
    seen: set[_At] = set()
    stack = [(0, _start(parsed))]
    while stack:
        node, states = stack.pop()
        for i in _ended(parsed, states):
            matched[i][node] = None
        at = table.target(node), states
        if at not in seen:
            seen.add(at)
            stack.extend((child, after) for _, child, after in reversed(_below(table, parsed, *at)))
    return [list(nodes) for nodes in matched]


def _shares_containers(table: NodeTable) -> bool:
    if Kind.SAME not in table.kind:
        return False
    rows = zip(table.kind, table.arg, strict=True)
    return any(kind == Kind.SAME and table.arity[arg] for kind, arg in rows)


def _leading_to_matches(table: NodeTable, parsed: _Parsed, start: _States) -> _Below:
    """Return a `_below` that leaves out steps to no match, once the matches are counted.

    Each node is looked at once for each set of states. So the number of matches is known before
    any of them is made: a chain of n shared pairs has 2^n places.

    Raises:
        StructureError: reason ``too-many-places``.
    """
    most = len(parsed) * (_PLACES + 4 * len(table.kind))
    steps: dict[_At, list[_Step]] = {}
    counts: dict[_At, int] = {}
    root = table.target(0), start
    stack = [root]
    while stack:
        at = stack[-1]
        if at not in steps:
            steps[at] = _below(table, parsed, *at)
            stack.extend((table.target(child), after) for _, child, after in steps[at])
            continue
        stack.pop()
        if at not in counts:  # all below it are counted by now
            found = [counts[table.target(child), after] for _, child, after in steps[at]]
            counts[at] = min(len(_ended(parsed, at[1])) + sum(found), most + 1)
            steps[at] = [step for step, count in zip(steps[at], found, strict=True) if count]
    if counts[root] > most:
        raise StructureError(
            f"{table.where}: the patterns match more than {most:,} places, since containers stand "
            "in several places each; select one of these containers, or name the places without "
            "stars",
            reason=Reason.TOO_MANY_PLACES,
        )
    return lambda node, states: steps[node, states]


def _below(table: NodeTable, parsed: _Parsed, node: int, states: _States) -> list[_Step]:
    """Return the steps to the children of a node that may match, or may hold a match."""
    below: list[_Step] = []
    is_open = any(done < len(parsed[i]) for i, done in states)  # a pattern may match below
    if table.kind[node] == Kind.ENUM or not is_open:
        return below
    for text, child in steps(table, node):
        after = frozenset() if text.startswith("{") else _advance(parsed, states, text)
        if after:
            below.append((text, child, after))
    return below


def _start(parsed: _Parsed) -> _States:
    """Return the states at the root."""
    return frozenset(state for i in range(len(parsed)) for state in _close(parsed, (i, 0)))


def _ended(parsed: _Parsed, states: _States) -> list[int]:
    """Return the patterns that match a place of these states."""
    return sorted({i for i, done in states if done == len(parsed[i])})


def _advance(parsed: _Parsed, states: _States, text: str) -> _States:
    """Return the states after one more step; an empty set cannot match anything below."""
    if not text:
        return frozenset((i, done) for i, done in states if done < len(parsed[i]))
    text = normal(text)
    after: set[tuple[int, int]] = set()
    for i, done in states:
        if done < len(parsed[i]):
            wanted = parsed[i][done]
            if wanted == "**":
                after |= _close(parsed, (i, done))
            elif fits(wanted, text):
                after |= _close(parsed, (i, done + 1))
    return frozenset(after)


def _close(parsed: _Parsed, state: tuple[int, int]) -> set[tuple[int, int]]:
    """Add the states in which a `**` stands for no step at all."""
    i, done = state
    states = {state}
    while done < len(parsed[i]) and parsed[i][done] == "**":
        done += 1
        states.add((i, done))
    return states
