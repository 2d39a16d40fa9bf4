"""An optimizer's state as a table of nodes, each with its object and the step that leads to it."""

from __future__ import annotations

from typing import Any

from ckptstore.format import Kind
from ckptstore.optax import expected
from ckptstore.tree import flatten, paths
from ckptstore.types import find_maker, top_level


class State:
    """A state, or a part of one, as a table of nodes with their objects; the root is node 0."""

    def __init__(self, x: Any) -> None:
        self._walk = flatten(x, lenient=True)

    def at(self, node: int) -> int:
        """Return the node itself, or the one that it says it is the same as."""
        return self._walk.target(node)

    def kind(self, node: int) -> int:
        """Return the kind of a node."""
        return self._walk.kind[node]

    def object(self, node: int) -> Any:
        """Return the object that stands at a node."""
        return self._walk.objects[node]

    def is_leaf(self, node: int) -> bool:
        """Tell whether an array or a number stands at a node."""
        return expected.is_leaf(self.object(node))

    def children(self, node: int) -> list[tuple[str, int]]:
        """Return the step and the node of each child; of the entry of a dict, its value's."""
        nodes = self._walk.layout.children(node)
        places = [
            (paths.step(self._walk, node, position, nodes[position - 1]), child)
            for position, child in enumerate(nodes)
        ]
        return [(step, child) for step, child in places if not step.startswith("{key ")]

    def entries(self, node: int) -> dict[Any, tuple[str, int]]:
        """Return the children of a dict by key."""
        return dict(zip(self.object(node), self.children(node), strict=True))

    def elements(self, node: int) -> list[tuple[str, int]]:
        """Return the children of a tuple, and of a record itself alone."""
        return self.children(node) if self.kind(node) == Kind.TUPLE else [("", node)]

    def holds_values(self, node: int) -> bool:
        """Tell whether there is an array or a number at a node or below it."""
        node = self.at(node)
        return self.is_leaf(node) or any(
            self.holds_values(child) for step, child in self.children(node) if step != "{static}"
        )

    def outline(self, node: int) -> str:
        """Return the classes of the elements of a tuple."""
        names = [named(self.object(n)) for _, n in self.elements(node)]
        return f"({', '.join(names)})" if self.kind(node) == Kind.TUPLE else names[0]

    def shown(self, node: int) -> str:
        """Say what stands at a node."""
        x = self.object(node)
        return expected.shown(x) if expected.is_leaf(x) else named(x)

    def record(self, node: int, values: list[Any]) -> Any:
        """Return an instance of the class at a node, made of other children."""
        row = self._walk.row(node)
        maker: Any = find_maker(row, {str(row): type(self.object(node))})
        return maker.make(values)


def named(x: Any) -> str:
    """Return the class of an object; those of Python and Optax by their name alone."""
    cls = type(x)
    if top_level(cls.__module__) in ("builtins", "collections", "optax"):
        return "None" if x is None else cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"
