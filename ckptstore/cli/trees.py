"""The tree of a checkpoint as lines: repeated parts folded, like-shaped parts named."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptstore import ArrayNode, CorruptError, Node
from ckptstore.cli import texts

_VALUE_SHOWN = 40
_LIKE_ARRAYS = 2
"""A part with fewer arrays is shown, whatever it is like."""

Line = tuple[str, str, str, str]
"""Path, type, elements and size."""


@dataclass(slots=True)
class Branch:
    """A node with what is shown below it.

    Attributes:
        node: the node.
        children: its children.
        form: a number that is equal for equal names and shapes below.
        exact: a number that is equal if also types, dtypes and the values shown are.
    """

    node: Node
    children: list[Branch] = field(default_factory=list)
    form: int = 0
    exact: int = 0


def branch_of(root: Node, values: Mapping[str, Any]) -> Branch:
    """Return a node with all below it.

    Args:
        root: the node.
        values: the value of each array without axes, by path.
    """
    top = Branch(root)
    order, stack = [top], [top]
    while stack:
        branch = stack.pop()
        branch.children = [Branch(child) for child in branch.node.children]
        order += branch.children
        stack += branch.children
    numbers: dict[Any, int] = {}
    for branch in reversed(order):  # children come after their parents
        node = branch.node
        names = [child.node.name for child in branch.children]
        if isinstance(node, ArrayNode):
            shape: Any = (node.shape, repr(values.get(node.path)))
            exact: Any = (node.type, node.dtype, node.shape, repr(values.get(node.path)))
        else:
            shape = (node.kind, node.count if not names else 0, _value(node))
            exact = (node.type, shape, node.same)
        forms, exacts = ([(b.form, b.exact) for b in branch.children] for _ in range(2))
        key = ("form", shape, tuple(names), tuple(form for form, _ in forms))
        branch.form = numbers.setdefault(key, len(numbers))
        key_exact = ("exact", exact, tuple(names), tuple(number for _, number in exacts))
        branch.exact = numbers.setdefault(key_exact, len(numbers))
    return top


def lines_of(
    tops: Sequence[Branch], values: Mapping[str, Any], *, depth: int | None, fold: bool
) -> Iterator[Line]:
    """Yield the lines of branches.

    Args:
        tops: the branches that stand at the left edge.
        values: as for `branch_of`.
        depth: the levels that are shown; None: all.
        fold: fold repeated and like-shaped parts.
    """
    yield from _Lines(values, depth, fold).of(tops)


class _Lines:
    def __init__(self, values: Mapping[str, Any], depth: int | None, fold: bool) -> None:
        self.values, self.depth, self.fold = values, depth, fold
        self.seen: dict[int, str] = {}

    def of(self, tops: Sequence[Branch]) -> Iterator[Line]:
        stack: list[tuple[list[Branch], str, str, int, bool]] = [
            ([top], "", "", 1, True) for top in reversed(tops)
        ]
        while stack:
            group, lead, indent, level, is_top = stack.pop()
            names, branch = self._joined(group[0], is_top)
            node = branch.node
            if len(group) > 1:
                names = _range([each.node.name for each in group])
            like = self.seen.get(branch.form) if self.fold else None
            is_like = like is not None and node.arrays >= _LIKE_ARRAYS
            if not is_like and node.arrays >= _LIKE_ARRAYS:
                self.seen.setdefault(branch.form, texts.clean(node.short))
            closed = self.depth is not None and level >= self.depth
            note = f" like {like}" if is_like else ""
            yield self._line(lead + names, branch, len(group), note)
            if is_like or closed:
                continue
            below = self._groups(branch.children)
            for number, inner in reversed([*enumerate(below)]):
                is_last = number == len(below) - 1
                if node.path == "$":
                    stack.append((inner, "", "", level + 1, False))
                    continue
                stack.append(
                    (
                        inner,
                        indent + ("└─ " if is_last else "├─ "),
                        indent + ("   " if is_last else "│  "),
                        level + 1,
                        False,
                    )
                )

    def _joined(self, branch: Branch, is_top: bool) -> tuple[str, Branch]:
        """Return the name of a branch, joined with those of only children, and the last of them."""
        text = branch.node.short if is_top else branch.node.name
        while self.fold and len(branch.children) == 1 and branch.node.path != "$":
            (child,) = branch.children
            if isinstance(child.node, ArrayNode) or not child.children:
                break
            branch = child
            name = branch.node.name
            text += name if name.startswith("[") else f".{name}"
        return texts.clean(text), branch

    def _groups(self, branches: Sequence[Branch]) -> list[list[Branch]]:
        """Return branches in order, with neighbours together that are alike in all."""
        groups: list[list[Branch]] = []
        for branch in branches:
            last = groups[-1][-1] if groups else None
            together = (
                self.fold
                and last is not None
                and last.exact == branch.exact
                and branch.node.arrays > 0
                and _follows(last.node.name, branch.node.name)
            )
            if together:
                groups[-1].append(branch)
            else:
                groups.append([branch])
        return groups

    def _line(self, name: str, branch: Branch, count: int, note: str) -> Line:
        node = branch.node
        if node.same is not None:
            return name, f"same as {texts.clean(node.same)}", "", ""
        if isinstance(node, ArrayNode):
            text = texts.shape(node.dtype, node.shape)
            if node.key is not None:
                text += f" key {texts.clean(node.key)}"
            if node.path in self.values:
                text += f" = {texts.clean(str(self.values[node.path]))}"
                return name, text, "", ""
        elif node.kind in ("dict", "list", "tuple", "record", "set", "frozenset") or node.children:
            text = texts.clean(node.type.rpartition(".")[2])
            if not node.children and node.kind in ("set", "frozenset"):
                text += f" of {node.count}"
        else:
            return name, f"{texts.clean(node.type.rpartition('.')[2])}{_value(node)}", "", ""
        if count > 1:
            text += f" ×{count}, each:" if branch.children and not note else f" ×{count}"
        text += note
        if not node.arrays:
            return name, text, "", ""
        return name, text, texts.count(node.elements * count), texts.size(node.nbytes * count)


def _value(node: Node) -> str:
    if node.is_long:
        return " of many bytes"
    try:
        value = node.value
    except CorruptError:
        return " (invalid)"
    if value is None:
        return ""
    return f" = {texts.elided(texts.clean(repr(value)), _VALUE_SHOWN)}"


def _numbers(name: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(.*?)(\d+)", name)
    return None if found is None else (found[1], int(found[2]))


def _follows(one: str, other: str) -> bool:
    """Return whether two names are numbered, one after the other: 0 and 1, block_3 and block_4."""
    first, second = _numbers(one), _numbers(other)
    if first is None or second is None:
        return False
    return first[0] == second[0] and second[1] == first[1] + 1


def _range(names: Sequence[str]) -> str:
    """Return numbered names in short.

    Example:
        >>> _range(["0", "1", "2"]), _range(["block_0", "block_1"])
        ('0…2', 'block_0…1')
    """
    last = _numbers(names[-1])
    return texts.clean(f"{names[0]}…{last[1] if last else names[-1]}")
