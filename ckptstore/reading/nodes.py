"""`Node`, one place in the tree of an open checkpoint, and `ArrayNode`, the place of an array."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ckptstore.digests import digest
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import BLOB_KINDS, DICT_KINDS, Kind, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.reading.cutting import cut
from ckptstore.reading.view import View
from ckptstore.texts import shown
from ckptstore.tree import SCALAR_KINDS, paths, patterns

_NAMES: Mapping[int, str] = {
    Kind.NONE: "None",
    Kind.SURROGATE_STR: "str",
    Kind.ORDERED_DICT: "OrderedDict",
    Kind.DEFAULT_DICT: "defaultdict",
    Kind.LEAF: "array",
}


class Node:
    """One place in the tree of a checkpoint: a container, a scalar or an array.

    Attributes:
        path: its path, such as ``$['params']['w']``.
        kind: "dict", "list", "tuple", "record", "array", "int", "float", "str", "None" and so on.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("ckpt", {"params": {"w": np.zeros((2, 3))}, "step": 7})
        >>> with ckptstore.open_checkpoint("ckpt") as reader:
        ...     [(node.short, node.kind, node.elements) for node in reader.tree.children]
        [('params', 'dict', 6), ('step', 'int', 0)]

    Source: docs/looking.md.
    """

    def __init__(self, view: View, number: int, steps: tuple[str, ...]) -> None:
        self._view = view
        self._steps = steps
        self._outer = number
        self._number = content_of(view, view.tree.target(number))
        self.path = "$" + "".join(steps)
        kind = view.tree.kind[self._number]
        self.kind = _NAMES.get(kind) or Kind(kind).name.lower()

    @property
    def short(self) -> str:
        """Its path without quotes and brackets where none are needed: ``params.w``."""
        return patterns.joined(self._steps)

    @property
    def name(self) -> str:
        """The last step of its path, such as ``w`` or ``[0]``; ``$`` for the root."""
        return patterns.short_step(self._steps[-1]).removeprefix(".") if self._steps else "$"

    @property
    def type(self) -> str:
        """The stored name of its type, such as ``optax._src.transform.ScaleByAdamState``."""
        tree, outer = self._view.tree, self._view.tree.target(self._outer)
        if tree.kind[outer] == Kind.LEAF:
            return str(tree.leaf(tree.arg[outer])[0])
        return str(tree.row(outer)) if tree.type[outer] else self.kind

    @functools.cached_property
    def value(self) -> Any:
        """The value of a number, a text or None; the name of an enum's member; else None.

        A long text is read.

        Raises:
            CorruptError: reason ``bad-scalar``.
        """
        tree, number = self._view.tree, self._number
        kind = tree.kind[number]
        if kind in SCALAR_KINDS:
            return self._view.scalar(number)
        if kind in (Kind.ENUM, Kind.SYMBOL):
            return tree.text(number)
        return self._bounds(number) if kind in (Kind.SLICE, Kind.RANGE) else None

    def _bounds(self, number: int) -> slice | range | None:
        """Return a slice or a range of plain bounds; None of other ones."""
        tree = self._view.tree
        children = tree.layout.children(number)
        if not all(tree.kind[child] in SCALAR_KINDS for child in children):
            return None
        parts = [self._view.scalar(child) for child in children]
        try:
            return slice(*parts) if tree.kind[number] == Kind.SLICE else range(*parts)
        except (TypeError, ValueError) as error:
            text = f"{self._view.url}: {shown(self.path)} is not a valid {self.kind}: {error}"
            raise CorruptError(text, reason=Reason.BAD_SCALAR) from None

    @property
    def is_long(self) -> bool:
        """Whether it is a text, bytes or an int so long that it lies in a data file."""
        tree = self._view.tree
        return tree.kind[self._number] in BLOB_KINDS and self._number in tree.long_scalars

    @property
    def same(self) -> str | None:
        """The path at which the same object stands first; None for that place itself."""
        tree = self._view.tree
        if tree.kind[self._outer] != Kind.SAME:
            return None
        (path,) = paths.format_paths(tree, [tree.target(self._outer)])
        return path

    @property
    def children(self) -> Sequence[Node]:
        """The nodes below it. An object that stands in several places has them in the first."""
        if self._view.tree.kind[self._outer] == Kind.SAME:
            return ()
        return [
            node_at(self._view, child, (*self._steps, step))
            for step, child in self._below(self._number)
        ]

    def _below(self, number: int) -> Iterator[tuple[str, int]]:
        tree = self._view.tree
        if tree.kind[number] in (Kind.ENUM, Kind.SLICE, Kind.RANGE, Kind.DTYPE):
            return
        for step, child in paths.steps(tree, number):
            if not step.startswith("{"):  # a key, an item of a set, a static part
                yield step, child

    def walk(self) -> Iterator[Node]:
        """Yield it and all nodes below it, in the order of the tree."""
        stack: list[Node] = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    @property
    def count(self) -> int:
        """The number of items of a dict, a list, a tuple or a set."""
        tree = self._view.tree
        arity = tree.arity[self._number]
        return arity // 2 if tree.kind[self._number] in DICT_KINDS else arity

    @property
    def arrays(self) -> int:
        """The number of arrays in it; one that stands in several places counts in the first."""
        return self._view.sums(self._outer)[0]

    @property
    def elements(self) -> int:
        """The number of elements of the arrays in it."""
        return self._view.sums(self._outer)[1]

    @property
    def nbytes(self) -> int:
        """The size of the arrays in it, in bytes."""
        return self._view.sums(self._outer)[2]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self.path)} {shown(self.type)}>"


class ArrayNode(Node):
    """The place of an array.

    Attributes:
        shape: its stored shape; that of a PRNG key ends with the axes of its data.
        dtype: its dtype, by the name in the format.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = ckptstore.save("ckpt", {"w": np.arange(6.0).reshape(2, 3)})
        >>> with ckptstore.open_checkpoint("ckpt") as reader:
        ...     w = reader["$.w"]
        ...     w.shape, w.dtype, w[1, :2]
        ((2, 3), 'float64', array([3., 4.]))

    Source: docs/looking.md.
    """

    def __init__(self, view: View, number: int, steps: tuple[str, ...]) -> None:
        super().__init__(view, number, steps)
        self.leaf = view.tree.arg[self._number]
        self._row, self._stored, self.shape = view.tree.leaf(self.leaf)
        self.dtype = dtypes.text(self._stored)

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return self._view.elements(self.leaf)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return int(self._view.nbytes[self.leaf])

    @property
    def key(self) -> str | None:
        """For an array of PRNG keys of jax, their implementation, such as ``threefry2x32``."""
        impl = self._row.extra.get("impl")
        return impl if isinstance(impl, str) else None

    @property
    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """The cuts along each axis between the cells in which it is stored."""
        return self._view.grid(self.leaf).cuts

    @property
    def spans(self) -> tuple[int, ...]:
        """The sizes of its checksummed spans in bytes, cell by cell."""
        sizes = self._view.tree.index.spans.size
        return tuple(int(sizes[row]) for row in self._view.tree.spans(self.leaf))

    @property
    def digests(self) -> tuple[str, ...]:
        """The digest of each span, in the order of `spans`."""
        return self._view.tree.digests(self.leaf)

    @property
    def digest(self) -> str:
        """A digest of its dtype, shape, cuts and spans. If it is equal, all bits are.

        Equal arrays of other cuts or spans have other digests.
        """
        form = repr((self._stored, self.shape, self.cuts, self.spans))
        return digest(form.encode(), *(d.encode() for d in self.digests)).hex()

    def read(self) -> Array:
        """Return the whole array, as numpy has it; each byte is checked.

        A PRNG key comes as the integers that it is made of.

        Raises:
            CorruptError: a byte is not as it was written.
            UnsupportedError: this machine lacks the dtype.
            NotCommittedError: the checkpoint was overwritten or deleted meanwhile.
        """
        return self._view.array(self.leaf)

    def __getitem__(self, index: Any) -> Array:
        """Return a part of the array; only the spans that hold it are read.

        Args:
            index: ints, slices and ``...``, as numpy takes them.

        Raises:
            StructureError: reason ``bad-argument``: the index does not fit.
            CorruptError, UnsupportedError, NotCommittedError: as for `read`.
        """
        box, rest = cut(index, self.shape, self.path)
        part = self._view.array(self.leaf, box)
        return part[rest] if rest else part.reshape(())

    def __len__(self) -> int:
        """Return the length of the first axis."""
        return self.shape[0]


def node_at(view: View, number: int, steps: tuple[str, ...]) -> Node:
    """Return the node of a number in the table, at a place."""
    content = content_of(view, view.tree.target(number))
    class_ = ArrayNode if view.tree.kind[content] == Kind.LEAF else Node
    return class_(view, number, steps)


def content_of(view: View, number: int) -> int:
    """Return a node itself, or the content of a wrapper, which has its place."""
    tree = view.tree
    while tree.is_wrapper(number):
        number = tree.target(number + 1)
    return number
