"""JAX: arrays and typed PRNG keys; `jax_classes.py` has its classes, `jax_symbols.py` its names."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

from ckptstore import signals
from ckptstore.adapters import jax_classes, jax_symbols
from ckptstore.errors import Reason, UnsupportedError
from ckptstore.format import TypeKind, TypeRow, array_bytes, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.types import Adapter, Leaf, Record, Refusal

# Names that differ or are missing in some releases from 0.4.20, the oldest tested one, on.
_REF = getattr(jax, "Ref", None)
_ABSTRACT_MESH = getattr(jax.sharding, "AbstractMesh", ())
_get_mesh = getattr(jax.sharding, "get_mesh", lambda: None)
_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
_is_committed = operator.attrgetter(
    "committed" if hasattr(jax.Array, "committed") else "_committed"
)


class JaxAdapter(Adapter):
    """The adapter of jax and jaxlib."""

    modules = ("jax",)

    def leaf(self, x: Any) -> Leaf | None:
        """Describe an array or a typed key, refusing tracers, deleted and remote arrays."""
        if type(x) is _REF:
            raise Refusal("a mutable jax reference cannot be saved; save its array: ref[...]")
        if not isinstance(x, jax.Array):
            return None
        if isinstance(x, jax.core.Tracer):
            raise Refusal("this is a traced value inside a jax transformation; save outside of jit")
        if x.is_deleted():
            raise Refusal("this jax array was deleted or donated; save before the donating call")
        if not _is_addressable(x.sharding):
            raise Refusal("this jax array has shards in other processes; gather it first")
        extra: dict[str, Any] = {}
        if _is_committed(x) and (device := _device_name(x.sharding)) is not None:
            extra["committed"] = True
            if device != _FIRST_DEVICE:
                extra["device"] = device
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            extra["impl"] = jax_symbols.implementation(x.dtype)
            x = jax.random.key_data(x)
        elif x.weak_type:
            extra["weak"] = True
        stored = dtypes.describe(np.dtype(x.dtype))
        return Leaf(
            _row(tuple(sorted(extra.items()))),
            stored,
            x.shape,
            lambda: _host(x),
            fixed=True,
            start=lambda: _start(x),
        )

    def array(self, host: Array, row: TypeRow, place: Any) -> Any:
        """Put verified host memory on its device, with the saved weak type and commitment."""
        weak, committed = row.extra.get("weak", False), row.extra.get("committed", False)
        impl, device = row.extra.get("impl", ""), row.extra.get("device", _FIRST_DEVICE)
        types = [*map(type, (weak, committed, impl, device))]
        if str(row) != "jax.Array" or types != [bool, bool, str, str]:
            raise KeyError(row.name)
        if place is _ANYWHERE:
            place = None
        elif place is None and committed:
            place = _device_named(device)
        try:
            if host.dtype.itemsize >= 8:
                with _enable_x64(True):
                    x = _put(host, weak, place)
            else:
                x = _put(host, weak, place)
            key = jax.random.wrap_key_data(x, impl=impl) if impl else x
        except (TypeError, ValueError, RuntimeError) as error:
            signals.pass_on(error)
            kind = f"a key of {impl!r:.80}" if impl else f"an array of {host.dtype}"
            raise UnsupportedError(
                f"jax {jax.__version__} cannot make {kind} here ({error!s:.200}); load with "
                'arrays="numpy"',
                reason=Reason.ARRAY_NOT_EXACT,
            ) from error
        if (x.dtype, x.weak_type, _is_committed(x)) != (host.dtype, weak, place is not None):
            raise UnsupportedError(
                f"jax {jax.__version__} made {x.dtype} (weak={x.weak_type}, "
                f"committed={_is_committed(x)}) of a stored {host.dtype} (weak={weak}, "
                f"committed={place is not None}); load with "
                'arrays="numpy", or with the jax that wrote it',
                reason=Reason.ARRAY_NOT_EXACT,
            )
        return key

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
        if isinstance(x, jax.Array):
            return x.sharding if _is_committed(x) else _ANYWHERE
        return _on_devices(getattr(x, "sharding", None))


_ANYWHERE = object()
"""The place of an array of `like` without a committed device, which jit may move to any mesh."""


_FIRST_DEVICE = ":0"
"""The name of the first device of jax's default platform; a file does not hold it."""


@functools.lru_cache(256)
def _device_name(sharding: Any) -> str | None:
    """Return the platform of a single device, and its place there; None for several devices."""
    if len(sharding.device_set) > 1:
        return None
    (device,) = sharding.device_set
    if device == jax.local_devices()[0]:
        return _FIRST_DEVICE
    return f"{device.platform}:{jax.local_devices(backend=device.platform).index(device)}"


def _device_named(name: str) -> Any:
    """Return the device of this process that has the name, or None."""
    platform, _, number = name.rpartition(":")
    try:
        devices = jax.local_devices(backend=platform or None)
    except RuntimeError:  # the platform is not here
        return None
    return {str(i): device for i, device in enumerate(devices)}.get(number)


def _on_devices(sharding: Any) -> Any:
    """Return a sharding that has devices, or None.

    That of `jax.eval_shape` names a mesh without devices, which may be the mesh of `jax.set_mesh`.
    """
    if not isinstance(getattr(sharding, "mesh", None), _ABSTRACT_MESH):
        return sharding
    mesh = _get_mesh()
    if mesh is None or mesh.empty or mesh.abstract_mesh != sharding.mesh:
        return None
    return jax.sharding.NamedSharding(mesh, sharding.spec)


@functools.lru_cache(256)
def _is_addressable(sharding: Any) -> bool:
    """Return whether all shards are in this process; the check is slow for many small leaves."""
    return bool(sharding.is_fully_addressable)


@functools.cache
def _row(extra: tuple[tuple[str, Any], ...]) -> TypeRow:
    return TypeRow(
        TypeKind.ARRAY, "jax", "Array", package="jax", version=jax.__version__, extra=dict(extra)
    )


def _host(x: jax.Array) -> Array:
    """Return the stored bytes of an array.

    A CPU array is viewed. The caller drops the view soon, because XLA silently refuses to donate
    the buffer while the view exists.
    """
    with _while_saved(x):
        if _is_plain(x):
            return array_bytes.to_bytes(np.asarray(x))
        return array_bytes.to_bytes(_gathered(x, _pieces(x)))


def _start(x: jax.Array) -> Callable[[], Array]:
    """Begin to copy an array to this host; return a function that waits and returns `_host`."""
    try:
        if _is_plain(x):
            return lambda: _host(x)
        pieces = _pieces(x)
        for _, piece in pieces:
            piece.copy_to_host_async()
    except (RuntimeError, ValueError):  # the array was deleted, and `_host` will report it
        return lambda: _host(x)

    def read() -> Array:
        with _while_saved(x):
            return array_bytes.to_bytes(_gathered(x, pieces))

    return read


@contextlib.contextmanager
def _while_saved(x: jax.Array) -> Iterator[None]:
    """Raise Refusal if other code deletes the array while it is read."""
    try:
        yield
    except (RuntimeError, ValueError):
        if not x.is_deleted():
            raise
        raise Refusal(
            "this jax array was deleted or donated while it was saved; let save return before the "
            "donating call"
        ) from None


def _is_plain(x: jax.Array) -> bool:
    """Return whether the elements lie in one piece of this host's memory, in stored form."""
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu" and not _is_packed(x.dtype)


def _pieces(x: jax.Array) -> list[tuple[Any, jax.Array]]:
    """Return the parts of an array, each an array on one device, with their positions."""
    if len(x.devices()) == 1:
        return [(..., _alias(x))]
    if x.is_fully_replicated:
        return [(..., _alias(x.addressable_data(0)))]
    return [(s.index, _alias(s.data)) for s in x.addressable_shards if s.replica_id == 0]


def _gathered(x: jax.Array, pieces: list[tuple[Any, jax.Array]]) -> Array:
    """Return the elements of an array without caching a copy on it. Consumes the pieces."""
    if pieces[0][0] is ...:
        return np.asarray(pieces[0][1])
    host = np.empty(x.shape, x.dtype)
    while pieces:
        index, piece = pieces.pop()
        host[index] = np.asarray(piece)
    return host


@functools.cache
def _is_packed(dtype: np.dtype[Any]) -> bool:
    return dtypes.used_bits(dtype) < 8 and dtype != np.bool_


def _alias(x: jax.Array) -> jax.Array:
    """Return another array of the same buffer on one device.

    If `np.asarray` cannot view an array, it caches a host copy on it for the array's lifetime.
    """
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, [x])


def _put(host: Array, weak: bool, place: Any) -> jax.Array:
    # jnp.array would compile a program for every new shape, in 17 ms each.
    x = jax.device_put(host, place)
    return _weak(x, host, place) if weak else x


def _weak(x: jax.Array, host: Array, place: Any) -> jax.Array:
    """Return an array of the same buffers whose type is weak.

    jax has no public way to make a weak type of any shape: its constructors make one only from a
    Python number. So the class of the array is called as jax itself calls it.
    """
    pieces = [shard.data for shard in x.addressable_shards] if len(x.devices()) > 1 else [x]
    try:
        aval = x.aval.update(weak_type=True)
        made: jax.Array = type(x)(aval, x.sharding, pieces, _is_committed(x))
    except (AttributeError, TypeError):
        return _weak_as_pickle(host, place)
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
