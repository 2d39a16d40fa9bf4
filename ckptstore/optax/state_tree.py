"""An optimizer's state as a table of nodes, each with its object and the step from its parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptstore.format import Kind
from ckptstore.optax import expected
from ckptstore.tree import flatten, paths
from ckptstore.types import find_maker, top_level

Children = Sequence[tuple[str, int]]
"""The step and the node of each child."""


class StateTree:
    """A state, or a part of one, as a table of nodes with their objects; the root is node 0."""

    def __init__(self, state: Any) -> None:
        self._table = flatten(state, lenient=True)

    def first(self, node: int) -> int:
        """Return the first node of the object at a node: itself, or the target of a SAME node."""
        return self._table.target(node)

    def kind(self, node: int) -> int:
        """Return the kind of a node."""
        return self._table.kind[node]

    def object(self, node: int) -> Any:
        """Return the object that stands at a node."""
        return self._table.objects[node]

    def is_leaf(self, node: int) -> bool:
        """Return whether an array or a number stands at a node."""
        return expected.is_leaf(self.object(node))

    def children(self, node: int) -> Children:
        """Return the step and the node of each child; for a dict's entry, those of its value."""
        nodes = self._table.layout.children(node)
        places = [
            (paths.step(self._table, node, position, nodes[position - 1]), child)
            for position, child in enumerate(nodes)
        ]
        return [(step, child) for step, child in places if not step.startswith("{key ")]

    def entries(self, node: int) -> dict[Any, tuple[str, int]]:
        """Return the children of a dict by key."""
        return dict(zip(self.object(node), self.children(node), strict=True))

    def elements(self, node: int) -> Children:
        """Return the children of a tuple, or a record as its own only child."""
        return self.children(node) if self.kind(node) == Kind.TUPLE else [("", node)]

    def holds_values(self, node: int) -> bool:
        """Return whether there is an array or a number at a node or below it."""
        node = self.first(node)
        return self.is_leaf(node) or any(
            self.holds_values(child) for step, child in self.children(node) if step != "{static}"
        )

    def class_names(self, node: int) -> str:
        """Return the classes of the elements of a tuple, for a message."""
        names = [class_name(self.object(child)) for _, child in self.elements(node)]
        return f"({', '.join(names)})" if self.kind(node) == Kind.TUPLE else names[0]

    def description(self, node: int) -> str:
        """Return the dtype and shape of a leaf, else the class, for a message."""
        x = self.object(node)
        return expected.description(x) if expected.is_leaf(x) else class_name(x)

    def make_record(self, node: int, values: list[Any]) -> Any:
        """Return an instance of the class at a node, made from other children."""
        row = self._table.row(node)
        maker: Any = find_maker(row, {str(row): type(self.object(node))})
        return maker.make(values)


def class_name(x: Any) -> str:
    """Return the name of an object's class, without a module for classes of Python and Optax."""
    cls = type(x)
    if top_level(cls.__module__) in ("builtins", "collections", "optax"):
        return "None" if x is None else cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"
