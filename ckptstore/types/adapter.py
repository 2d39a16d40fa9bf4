"""The contract between the tree and a framework: `Adapter`.

Guide for authors: docs/adapters.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ckptstore.format import TypeRow
from ckptstore.format.dtypes import Array, Stored
from ckptstore.sharding import Box
from ckptstore.types.leaf import Leaf
from ckptstore.types.migrations import Migration
from ckptstore.types.records import Record


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

    def is_spread(self, x: Any) -> bool:
        """Return whether `x` is an array in several processes, also one that cannot be saved.

        If it cannot, the other processes are told so.

        Example:
            >>> import numpy
            >>> from ckptstore.adapters.numpy import ADAPTER
            >>> ADAPTER.is_spread(numpy.zeros(2))
            False
        """
        return False

    def takes(self, row: TypeRow, like: TypeRow) -> bool:
        """Return whether an array of the stored type `row` comes back where `like` has another.

        By default the names of the types must be equal. The array is made by `array` or `sharded`,
        with the `place` of that in `like`.

        Example:
            >>> from ckptstore.adapters import Adapter, TypeKind, TypeRow
            >>> row = TypeRow(TypeKind.ARRAY, "signals", "Signal", package="signals")
            >>> Adapter().takes(row, row)
            True
        """
        return str(row) == str(like)

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
