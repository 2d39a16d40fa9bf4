"""The names of a tree's arrays in a flat file, and the losses of such a file.

A name is the steps of a path joined by dots: ``$.opt_state[0].mu['dense']`` is
``opt_state.0.mu.dense``, so that a flat dict of arrays keeps its names.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from ckptstore import tree
from ckptstore.errors import Reason, StructureError, listed
from ckptstore.format import DICT_KINDS, Kind
from ckptstore.texts import shown
from ckptstore.tree import NodeTable, paths
from ckptstore.tree.patterns import parse

_LONE = "array"
_KINDS_SHOWN = 20
_SEQUENCES = (Kind.LIST, Kind.TUPLE)
_LEFT_OUT = (Kind.SET, Kind.FROZENSET, Kind.ENUM, Kind.SLICE, Kind.RANGE)


@dataclass(frozen=True, slots=True)
class Loss:
    """One property of a tree that a file of named arrays does not hold.

    Attributes:
        path: its path in the tree.
        kind: ``array-type``, ``byte-order``, ``container``, ``dtype-flags``, ``key``,
            ``keys-of-dict``, ``order``, ``scalar``, ``static``, ``supplied``, ``tied``, ``value``
            or ``weak-type``.
        text: the loss in words, and the replacement in the file.

    Example:
        >>> import numpy as np
        >>> from ckptstore import convert
        >>> report = convert.to_npz("x.npz", {"pair": (np.ones(3), np.zeros(2))})
        >>> print(report.losses[0])
        $['pair']: tuple; only names are left of it
        >>> report.losses[0].kind
        'container'

    Source: docs/moving.md, "Out".
    """

    path: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.text}"


class FlatNames:
    """The arrays of a tree under their names, and the losses, from one walk over the nodes.

    Args:
        table: the nodes.
        where: the tree, for messages.
        select: patterns, as for `load`.

    Attributes:
        arrays: the path and the leaf of each array, by its name.
        losses: everything that has no place in the file.

    Raises:
        StructureError: reason ``name-clash``, ``bad-name`` or ``no-match``.
    """

    def __init__(self, table: NodeTable, where: str, select: str | Sequence[str] | None) -> None:
        self.table = table
        self.where = where
        self.arrays: dict[str, tuple[str, int]] = {}  # path and leaf, by name
        self.losses: list[Loss] = []
        self._first: dict[int, _Place] = {}
        self._characters = _CHARACTERS[0] + _CHARACTERS[1] * len(table.kind)
        for root in self._roots(select):
            self._walk(root)
        kinds = sorted({str(table.leaf(leaf)[0]) for leaf in self.leaves} - {"numpy.ndarray"})
        if kinds:
            names = ", ".join(listed(map(shown, kinds), _KINDS_SHOWN))
            text = f"{names}: a reader makes arrays of its own kind instead"
            self.losses.append(Loss("$", "array-type", text))

    @property
    def leaves(self) -> list[int]:
        """The leaves of all arrays."""
        return [leaf for _, leaf in self.arrays.values()]

    def _roots(self, select: str | Sequence[str] | None) -> list[_Place]:
        if select is None:
            return [_Place(0, None, None, "$")]
        nodes = tree.select(self.table, tree.patterns_of(select, self.where), self.where)
        if tree.is_one_place(select):
            return [_Place(node, None, None, path) for path, node in nodes.items()]
        return [_Place(node, None, _name_of(path), path) for path, node in nodes.items()]

    def _walk(self, root: _Place) -> None:
        stack = [root]
        while stack:
            place = stack.pop()
            place.node = self.table.target(place.node)
            first = self._first.setdefault(place.node, place)
            if first is not place and (path := self._path(first)) != place.path:
                self._lose(place, "tied", f"the same object as {shown(path)}, which is written")
            elif self.table.kind[place.node] == Kind.LEAF:
                self._leaf(place)
            else:
                stack.extend(reversed(self._below(place)))

    def _lose(self, place: _Place, kind: str, text: str) -> None:
        self.losses.append(Loss(self._path(place), kind, text))

    def _path(self, place: _Place) -> str:
        """Return the path of a place; all paths together may not be much longer than the file."""
        self._characters -= place.length
        if self._characters < 0:
            raise StructureError(
                f"{self.where}: the paths below {shown(place.path)} are too long for names of a "
                "file; export a part of it with select=",
                reason=Reason.BAD_NAME,
            )
        return place.path

    def _leaf(self, place: _Place) -> None:
        path = self._path(place)
        name = place.name or _LONE
        leaf = self.table.arg[place.node]
        if name in self.arrays:
            raise StructureError(
                f"{shown(self.arrays[name][0])} and {shown(path)} would both be named "
                f"{name!r:.200}; "
                "export them one by one with select=",
                reason=Reason.NAME_CLASH,
            )
        try:
            name.encode()
        except UnicodeEncodeError:
            raise StructureError(
                f"{shown(path)}: its name is not valid text for a file; select it by itself",
                reason=Reason.BAD_NAME,
            ) from None
        self.arrays[name] = path, leaf
        row = self.table.leaf(leaf)[0]
        if (impl := row.extra.get("impl")) is not None:
            text = f"{tree.key_text(impl)}; its data are written as uint32"
            self._lose(place, "key", text)
        if row.extra.get("weak"):
            self._lose(place, "weak-type", "a weak type; the array is written")
        if row.name == "generic":
            self._lose(place, "scalar", "a scalar; written as an array without axes")

    def _below(self, place: _Place) -> list[_Place]:
        """Note the losses of a container or scalar, and return the children to visit next."""
        table, node = self.table, place.node
        kind = Kind(table.kind[node])
        if kind == Kind.SUPPLIED:
            self._lose(place, "supplied", "a value that `like` supplies; left out")
            return []
        children = table.layout.children(node)
        if kind in _LEFT_OUT or not children:
            self._lose(place, "value", f"{self._name(node)}; left out")
            return []
        if kind == Kind.RECORD or kind in _SEQUENCES or (kind in DICT_KINDS and kind != Kind.DICT):
            self._lose(place, "container", f"{self._name(node)}; only names are left of it")
        below = []
        for position, child in enumerate(children):
            step = paths.step(table, node, position, children[position - 1])
            if kind in DICT_KINDS and position % 2 == 0:
                if table.kind[child] != Kind.STR:
                    text = f"a key of another type than str: {shown(table.key(child))}"
                    self._lose(place, "keys-of-dict", text)
            elif step == "{static}":
                if table.kind[child] != Kind.NONE:
                    self._lose(place, "static", "the static part of its class; left out")
            else:
                below.append(_Place(child, place, _part(step) if step else None, step))
        return below

    def _name(self, node: int) -> str:
        kind = Kind(self.table.kind[node])
        if kind in (Kind.RECORD, Kind.ENUM):
            return f"{self.table.row(node)}"
        return "None" if kind == Kind.NONE else kind.name.lower().replace("_", " ")


_CHARACTERS = 1 << 26, 256
"""The characters that all paths may have: so many, and so many for each node."""


class _Place:
    """A node that is still to be visited, whose path and name are made when they are needed.

    Args:
        node: the node.
        above: the place of its container; None at the beginning of a name.
        part: the last part of its name; None for a place that adds none.
        step: the last step of its path; the whole path at the beginning.
    """

    __slots__ = ("_above", "_part", "_step", "length", "node")

    def __init__(self, node: int, above: _Place | None, part: str | None, step: str) -> None:
        self.node, self._above, self._part, self._step = node, above, part, step
        self.length: int = len(step) + (above.length if above is not None else 0)

    @property
    def name(self) -> str:
        """Its name in the file, "" for the root."""
        return ".".join(place._part for place in self._way() if place._part is not None)

    @property
    def path(self) -> str:
        """Its path in the tree."""
        return "".join(place._step for place in self._way())

    def _way(self) -> list[_Place]:
        way, place = [self], self._above
        while place is not None:
            way.append(place)
            place = place._above
        return way[::-1]


def _name_of(path: str) -> str | None:
    """Return the name of an array at a path; None for the root, whose name is empty."""
    steps = parse(path)
    return ".".join(map(_part, steps)) if steps else None


def _part(step: str) -> str:
    """Return the part of a name for a step of a path."""
    if not step.startswith("["):
        return step.removeprefix(".")
    inner = step[1:-1]
    if inner[:1] in ("'", '"'):
        return str(ast.literal_eval(inner))
    return inner
