"""JAX: arrays and typed PRNG keys.

`jax_shards.py` reads their bytes, `jax_classes.py` has the classes, `jax_symbols.py` the names.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

from ckptstore import signals
from ckptstore.adapters import jax_classes, jax_places, jax_shards, jax_symbols
from ckptstore.errors import Reason, UnsupportedError
from ckptstore.format import TypeKind, TypeRow, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.sharding import Box, whole
from ckptstore.types import Adapter, Leaf, Record, Refusal

# Names that differ or are missing in some releases from 0.4.20, the oldest tested one, on.
_REF = getattr(jax, "Ref", None)
_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class JaxAdapter(Adapter):
    """The adapter of jax and jaxlib."""

    modules = ("jax",)

    def leaf(self, x: Any) -> Leaf | None:
        """Describe an array or a typed key, refusing tracers and deleted arrays."""
        if type(x) is _REF:
            raise Refusal("a mutable jax reference cannot be saved; save its array: ref[...]")
        if not isinstance(x, jax.Array):
            return None
        if isinstance(x, jax.core.Tracer):
            raise Refusal("this is a traced value inside a jax transformation; save outside of jit")
        if x.is_deleted():
            raise Refusal("this jax array was deleted or donated; save before the donating call")
        fault, is_here, is_near = _traits(x.sharding)
        if fault is not None:
            raise Refusal(fault)
        extra: dict[str, Any] = {}
        if jax_places.is_committed(x):
            extra |= jax_places.stored(x.sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            extra["impl"] = jax_symbols.implementation(x.dtype)
            x = jax.random.key_data(x)
        elif x.weak_type:
            extra["weak"] = True
        stored = dtypes.describe(np.dtype(x.dtype))
        grid, cells, holders = jax_shards.cells(x, is_here=is_here)
        return Leaf(
            _row(tuple(sorted(extra.items()))),
            stored,
            x.shape,
            lambda: jax_shards.read(x),
            fixed=True,
            start=lambda: jax_shards.start(x),
            grid=grid,
            cells=cells,
            holders=holders,
            is_near=is_near,
        )

    def array(self, host: Array, row: TypeRow, place: Any) -> Any:
        """Put verified host memory on its device, with the saved weak type and commitment."""
        return _made(host, {}, host.shape, row, place)

    def boxes(self, shape: tuple[int, ...], row: TypeRow, place: Any) -> Sequence[Box] | None:
        """Return the boxes that the devices of a sharding hold."""
        if place is None and "mesh" in row.extra:
            place = jax_places.restored(row.extra)
        if not isinstance(place, _SHARDING):
            return None
        try:
            return jax_shards.boxes(place, shape)
        except jax_places.MISFITS as error:
            raise jax_places.misfit(place, shape, error) from None

    def sharded(
        self, parts: Mapping[Box, Array], shape: tuple[int, ...], row: TypeRow, place: Any
    ) -> Any:
        """Put the boxes of an array on the devices that hold them; see `array`."""
        return _made(parts.get(whole(shape)), parts, shape, row, place)

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """The classes of jax itself."""
        return jax_classes.OWN

    @functools.cached_property
    def symbols(self) -> Mapping[str, Any]:
        """Pure array functions and scalar types; the dtypes of keys are not in a table."""
        return jax_symbols.table()

    def record(self, cls: type) -> Record | None:
        """Take classes of jax apart, and those that `jax.tree_util` knows."""
        return super().record(cls) or jax_classes.registered(cls)

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the record of a class of jax, or of a sparse array."""
        return jax_classes.sparse(row) or super().record_named(row)

    def symbol(self, x: Any) -> str | None:
        """Return the public name of a pure array function, a scalar type or a key dtype."""
        return jax_symbols.key_dtype_name(x) or super().symbol(x)

    def symbol_named(self, name: str) -> Any:
        """Return the function, scalar type or key dtype of that name; raises KeyError."""
        dtype = jax_symbols.key_dtype_named(name)
        return super().symbol_named(name) if dtype is None else dtype

    def expected(self, x: Any) -> tuple[TypeRow, dtypes.Stored, tuple[int, ...]] | None:
        """Return the leaf that a `jax.ShapeDtypeStruct` or a deleted array stands for.

        A key stands for its data.
        """
        if isinstance(x, jax.Array):
            if isinstance(x, jax.core.Tracer) or not x.is_deleted():
                return None
            x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        elif not isinstance(x, jax.ShapeDtypeStruct):
            return None
        if jax_symbols.is_key_dtype(x.dtype):
            data = jax.eval_shape(jax.random.key_data, x)
            row = _row((("impl", jax_symbols.implementation(x.dtype)),))
            return row, dtypes.describe(np.dtype(data.dtype)), tuple(data.shape)
        return _row(()), dtypes.describe(np.dtype(x.dtype)), tuple(x.shape)

    def place(self, x: Any) -> Any:
        """Return the sharding to which an array is committed, or that a placeholder names."""
        return jax_places.of_like(x)

    def is_spread(self, x: Any) -> bool:
        """Return whether `x` is an array that is not all in this process."""
        if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
            return False
        return not x.sharding.is_fully_addressable

    def is_place(self, x: Any) -> bool:
        """Return whether `x` is a sharding, a mesh or a device."""
        return jax_places.is_wish(x)

    def placed(self, wish: Any, aval: Any, row: TypeRow) -> Any:
        """Return the sharding of one array; a mesh takes its stored spec."""
        return jax_places.wished(wish, row.extra, aval.shape)

    def aval(self, row: TypeRow, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """Return a `jax.ShapeDtypeStruct`, also of keys."""
        impl = row.extra.get("impl")
        if impl is None:
            return jax.ShapeDtypeStruct(shape, dtype)
        data = jax.ShapeDtypeStruct(shape, dtype)
        return jax.eval_shape(functools.partial(jax.random.wrap_key_data, impl=impl), data)


_SHARDING = jax.sharding.Sharding


@functools.lru_cache(256)
def _traits(sharding: Any) -> tuple[str | None, bool, bool]:
    """Return what holds for all arrays of a sharding, since many small leaves have one.

    Returns:
        The reason why none can be saved, or None; whether all shards are in this process; whether
        those in this process lie in the memory of this host.
    """
    fault = None
    if jax_places.is_unreduced(sharding):
        fault = (
            "this jax array is a sum that is not made yet (unreduced); make it with "
            "jax.reshard(x, spec), with a spec without `unreduced`"
        )
    is_near = next(iter(sharding.device_set)).platform == "cpu"
    return fault, bool(sharding.is_fully_addressable), is_near


@functools.cache
def _row(extra: tuple[tuple[str, Any], ...]) -> TypeRow:
    return TypeRow(
        TypeKind.ARRAY, "jax", "Array", package="jax", version=jax.__version__, extra=dict(extra)
    )


def _made(
    host: Array | None, parts: Mapping[Box, Array], shape: tuple[int, ...], row: TypeRow, place: Any
) -> Any:
    """Return the array or key of a stored type; `host` is the whole of it, if that was read."""
    weak, impl = row.extra.get("weak", False), row.extra.get("impl", "")
    if str(row) != "jax.Array" or (type(weak), type(impl)) != (bool, str):
        raise KeyError(row.name)
    if place is None:
        place = jax_places.restored(row.extra)
    elif place is jax_places.ANYWHERE:
        place = None
    dtype = (next(iter(parts.values())) if host is None else host).dtype
    try:
        with _enable_x64(True) if dtype.itemsize >= 8 else contextlib.nullcontext():
            x = _put(host, parts, shape, weak, place)
        key = jax.random.wrap_key_data(x, impl=impl) if impl else x
    except (TypeError, ValueError, RuntimeError) as error:
        signals.pass_on(error)
        kind = f"a key of {impl!r:.80}" if impl else f"an array of {dtype}"
        raise UnsupportedError(
            f"jax {jax.__version__} cannot make {kind} here ({error!s:.200}); load with "
            'arrays="numpy"',
            reason=Reason.ARRAY_NOT_EXACT,
        ) from error
    if (x.dtype, x.weak_type, jax_places.is_committed(x)) != (dtype, weak, place is not None):
        raise UnsupportedError(
            f"jax {jax.__version__} made {x.dtype} (weak={x.weak_type}, "
            f"committed={jax_places.is_committed(x)}) of a stored {dtype} (weak={weak}, "
            f"committed={place is not None}); load with "
            'arrays="numpy", or with the jax that wrote it',
            reason=Reason.ARRAY_NOT_EXACT,
        )
    return key


def _put(
    host: Array | None, parts: Mapping[Box, Array], shape: tuple[int, ...], weak: bool, place: Any
) -> jax.Array:
    if isinstance(place, _SHARDING) and len(place.device_set) > 1:
        # `device_put` would compare the whole array on all processes.
        x = jax_shards.assembled(host, parts, shape, place)
    else:
        # jnp.array would compile a program for every new shape, in 17 ms each.
        x = jax.device_put(host, place)
    return _weak(x, host, place) if weak else x


def _weak(x: jax.Array, host: Array | None, place: Any) -> jax.Array:
    """Return an array of the same buffers whose type is weak.

    jax has no public way to make a weak type of any shape: its constructors make one only from a
    Python number. So the class of the array is called as jax itself calls it.
    """
    pieces = [shard.data for shard in x.addressable_shards] if len(x.devices()) > 1 else [x]
    try:
        aval = x.aval.update(weak_type=True)
        made: jax.Array = type(x)(aval, x.sharding, pieces, jax_places.is_committed(x))
    except (AttributeError, TypeError):
        return _weak_as_pickle(np.asarray(x) if host is None else host, place)
    return made


def _weak_as_pickle(host: Array, place: Any) -> jax.Array:
    """Return an array of a weak type, made in the way of pickle, which compiles for each new shape.

    The first item of ``__reduce__`` is the function that pickle calls with the numpy array and the
    weak type. It stays valid as long as pickled arrays do.
    """
    from_pickle: Any = jnp.zeros((), host.dtype).__reduce__()[0]
    reduced: Any = host.__reduce__()
    # Only Python knows the weak type of that array, so jit would compile again; a copy has it.
    x: jax.Array = from_pickle(*reduced, {"weak_type": True}).copy()
    return x if place is None else jax.device_put(x, place)


ADAPTER = JaxAdapter()
