"""The contract between the tree and a framework: `Adapter`, and the records that it returns.

Guide for authors: docs/adapters.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from ckptstore.format import TypeRow
from ckptstore.format.dtypes import Array, Stored
from ckptstore.sharding import Box
from ckptstore.types.leaf import Leaf
from ckptstore.types.migrations import Migration


@dataclass(frozen=True, slots=True)
class Record:
    """The conversion of the instances of one class to children and back.

    Attributes:
        row: the type. The children of a ``pytree`` are its static part and its content; the
            children of every other kind are the fields.
        take: returns the children of an instance; raises Refusal.
        make: returns an instance from its children. Without a `check`, a save calls it, too, for
            the first instance of the class whose fields have such types, to find out whether the
            load will succeed; so it must not change the children.
        check: raises if `make` would raise. A save calls it for each instance, and not `make`.
        unused: the numbers of children for fields that the class no longer has.
        reads: how far `make` looks into the children: not at all (it keeps them, or looks at their
            types), at the ``"items"`` of each, at these and all that is below the ``"last"`` child,
            or at ``"everything"`` below. A file may let many records share one child, so `load`
            bounds the sum of this work.

    Example:
        >>> import fractions
        >>> from ckptstore.adapters import Record, TypeKind, TypeRow
        >>> row = TypeRow(TypeKind.OBJECT, "fractions", "Fraction", fields=("above", "below"))
        >>> record = Record(row, lambda x: x.as_integer_ratio(), lambda xs: fractions.Fraction(*xs))
        >>> record.take(fractions.Fraction(2, 6)), record.make((1, 3))
        ((1, 3), Fraction(1, 3))
    """

    row: TypeRow
    take: Callable[[Any], Sequence[Any]]
    make: Callable[[Sequence[Any]], Any]
    unused: frozenset[int] = frozenset()
    check: Callable[[Sequence[Any]], None] | None = None
    reads: Literal["children", "items", "last", "everything"] = "children"


@dataclass(frozen=True, slots=True)
class Child:
    """A child of `Record.take` that is not stored in the usual way of its class.

    Attributes:
        value: the child.
        record: the record that takes the child apart; None for a child that `like` supplies if it
            cannot be saved.

    Example:
        >>> from ckptstore.adapters import Child
        >>> Child(len).record is None  # stored if possible, else supplied by `like`
        True
    """

    value: Any
    record: Record | None = None


class Adapter:
    """The conversion of one framework's types to nodes and leaves; this base class has no types.

    Your subclass fills in tables, and overrides a method if a table is not enough.

    Attributes:
        modules: the modules that may be imported to find a stored class of this framework.
        harmless: metaclasses and ``__setattr__`` functions of the framework that need not run when
            an instance is made from its fields.
        moved: from a stored name, as ``module.qualname``, that is gone or is now an alias, to
            today's name of the class.
        migrations: the changes of the fields of a class, oldest first, by its name today. A class
            that is named here or in `moved` may also have changed from a NamedTuple to a dataclass,
            or back.

    Example:
        >>> import math
        >>> from ckptstore.adapters import Adapter
        >>> class MathAdapter(Adapter):
        ...     symbols = {"math.sin": math.sin, "math.pi": math.pi}
        >>> MathAdapter().symbol(math.sin), MathAdapter().symbol_named("math.pi") == math.pi
        ('math.sin', True)
    """

    modules: Sequence[str] = ()
    harmless: Sequence[Any] = ()
    moved: Mapping[str, str] = MappingProxyType({})
    migrations: Mapping[str, Sequence[Migration]] = MappingProxyType({})

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """The record of each class, which is not used for its subclasses.

        Your subclass defines it as a class attribute or a cached property.
        """
        return {}

    @functools.cached_property
    def symbols(self) -> Mapping[str, Any]:
        """Functions and constants that are stored by their name: public name to value.

        Your subclass defines it as a class attribute or a cached property.
        """
        return {}

    def leaf(self, x: Any) -> Leaf | None:
        """Describe `x` if it is an array of this framework, else return None.

        Args:
            x: any object of the framework's package.

        Raises:
            Refusal: `x` is such an array, but cannot be saved.

        Example:
            >>> import numpy
            >>> from ckptstore.adapters.numpy import ADAPTER
            >>> leaf = ADAPTER.leaf(numpy.zeros((2, 3)))
            >>> leaf.dtype, leaf.shape
            ('float64', (2, 3))
        """
        return None

    def array(self, host: Array, row: TypeRow, place: Any) -> Any:
        """Make the array that `row` describes from verified host memory, which you may keep.

        Args:
            host: the elements, C-ordered and writable.
            row: the stored type.
            place: the device or sharding of the array, in the framework's terms, or None.

        Raises:
            KeyError: the adapter has no such type of array.
            CorruptError, UnsupportedError: without the path, which `load` adds.

        Example:
            >>> import numpy
            >>> from ckptstore.adapters.numpy import ADAPTER
            >>> row = ADAPTER.leaf(numpy.zeros(2)).row
            >>> ADAPTER.array(numpy.ones(2), row, None)
            array([1., 1.])
        """
        raise KeyError(row.name)

    def boxes(self, shape: tuple[int, ...], row: TypeRow, place: Any) -> Sequence[Box] | None:
        """Return the distinct boxes of an array that this process needs; None: the whole.

        Only their bytes are read, and `sharded` makes the array of them.

        Args:
            shape: the shape of the array.
            row: the stored type.
            place: as for `array`.

        Raises:
            Refusal: the place does not fit the array.

        Example:
            >>> from ckptstore.adapters import Adapter
            >>> Adapter().boxes((4, 6), None, None) is None
            True
        """
        return None

    def sharded(
        self, parts: Mapping[Box, Array], shape: tuple[int, ...], row: TypeRow, place: Any
    ) -> Any:
        """Make an array of its `boxes`, as `array` does of the whole.

        Args:
            parts: the elements of each box.
            shape: the shape of the array.
            row: the stored type.
            place: as for `array`.

        Example:
            >>> from ckptstore.adapters import Adapter
            >>> class Sharded(Adapter):
            ...     def sharded(self, parts, shape, row, place):
            ...         return {box: part.tolist() for box, part in parts.items()}
        """
        raise KeyError(row.name)

    def record(self, cls: type) -> Record | None:
        """Return the record for instances of exactly this class, or None.

        Raises:
            Refusal: the class belongs to the framework, but its instances cannot be saved.

        Example:
            >>> import collections
            >>> from ckptstore.adapters.stdlib import ADAPTER
            >>> ADAPTER.record(collections.Counter).take(collections.Counter("abb"))
            ({'a': 1, 'b': 2},)
        """
        return next((record for known, record in self.records.items() if known is cls), None)

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the record for a stored type of kind ``object``, or None.

        Example:
            >>> import collections
            >>> from ckptstore.adapters.stdlib import ADAPTER
            >>> row = ADAPTER.record(collections.Counter).row
            >>> ADAPTER.record_named(row).make([{"a": 1}])
            Counter({'a': 1})
        """
        return next((r for r in self.records.values() if str(r.row) == str(row)), None)

    def ready(self, cls: type) -> None:
        """Prepare a class once, before `load` makes its first instance.

        Override it if your framework's constructor does such work, for example a registration.

        Example:
            >>> from ckptstore.adapters import Adapter
            >>> class Recorder(Adapter):
            ...     classes = []
            ...     def ready(self, cls):
            ...         self.classes.append(cls)
            >>> Recorder().ready(complex)
            >>> Recorder.classes
            [<class 'complex'>]
        """

    def symbol(self, x: Any) -> str | None:
        """Return the public name of a function or constant in the table of symbols, or None.

        Example:
            >>> import math
            >>> from ckptstore.adapters import Adapter
            >>> class MathAdapter(Adapter):
            ...     symbols = {"math.sin": math.sin}
            >>> MathAdapter().symbol(math.sin), MathAdapter().symbol(math.cos)
            ('math.sin', None)
        """
        return next((name for name, value in self.symbols.items() if value is x), None)

    def symbol_named(self, name: str) -> Any:
        """Return the function or constant of that name.

        Raises:
            KeyError: the table of symbols has no such name.

        Example:
            >>> import math
            >>> from ckptstore.adapters import Adapter
            >>> class MathAdapter(Adapter):
            ...     symbols = {"math.pi": math.pi}
            >>> MathAdapter().symbol_named("math.pi")
            3.141592653589793
        """
        return self.symbols[name]

    def expected(self, x: Any) -> tuple[TypeRow, Stored, tuple[int, ...]] | None:
        """Return (type, dtype, shape) of the leaf that a placeholder in `like` stands for, or None.

        Example:
            >>> import jax
            >>> from ckptstore.adapters.jax import ADAPTER
            >>> ADAPTER.expected(jax.ShapeDtypeStruct((2, 3), "float32"))[1:]
            ('float32', (2, 3))
        """
        return None

    def place(self, x: Any) -> Any:
        """Return the device or sharding that an array or placeholder of `like` names, or None.

        Example:
            >>> import jax
            >>> from ckptstore.adapters.jax import ADAPTER
            >>> device = jax.devices()[0]
            >>> ADAPTER.place(jax.device_put(1.0, device)).device_set == {device}
            True
        """
        return None

    def is_place(self, x: Any) -> bool:
        """Return whether `x` is a device, sharding or mesh that `load(sharding=)` may name.

        Example:
            >>> import jax
            >>> from ckptstore.adapters.jax import ADAPTER
            >>> ADAPTER.is_place(jax.devices()[0]), ADAPTER.is_place("whole")
            (True, False)
        """
        return False

    def placed(self, wish: Any, aval: Any, row: TypeRow) -> Any:
        """Return the `place` of one array for a wish of `load(sharding=)`, or None.

        Args:
            wish: an `is_place`, or ``"whole"``.
            aval: the array's `aval`.
            row: the stored type.

        Raises:
            Refusal: the wish does not fit the array.

        Example:
            >>> import jax, numpy
            >>> from ckptstore.adapters.jax import ADAPTER
            >>> row = ADAPTER.leaf(jax.numpy.ones(2)).row
            >>> device = jax.devices()[0]
            >>> ADAPTER.placed(device, jax.ShapeDtypeStruct((2,), "float32"), row) == device
            True
        """
        return None

    def aval(self, row: TypeRow, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """Return the shape and dtype of an array as the framework describes them.

        `load` passes it to a function that you give as ``sharding=``.

        Example:
            >>> import jax, numpy
            >>> from ckptstore.adapters.jax import ADAPTER
            >>> row = ADAPTER.leaf(jax.numpy.ones(2)).row
            >>> ADAPTER.aval(row, numpy.dtype("float32"), (2,))
            ShapeDtypeStruct(shape=(2,), dtype=float32)
        """
        return None
