"""JAX: arrays, typed PRNG keys, functions by public name, classes that `jax.tree_util` knows.

Of its own classes: Partial, PartitionSpec and ShapeDtypeStruct.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

from ckptstore import classes, dtypes, elements
from ckptstore.dtypes import Array
from ckptstore.errors import UnsupportedError
from ckptstore.index import TypeKind, TypeRow
from ckptstore.registry import Adapter, Leaf, Record, Refusal

_KEY_DTYPE = "jax.random.key<{}>.dtype"
_KEY_DTYPE_CLASS = type(jax.eval_shape(lambda: jax.random.key(0)).dtype)
_UNCONSTRAINED = "jax.sharding.PartitionSpec.UNCONSTRAINED"

# What releases from 0.4.20 on, the oldest that is tested, call otherwise or do not have.
_REF = getattr(jax, "Ref", None)
_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
_is_committed = operator.attrgetter(
    "committed" if hasattr(jax.Array, "committed") else "_committed"
)
_make_treedef = getattr(jax.tree_util.PyTreeDef, "from_node_data_and_children", None)

# Pure array functions and scalar types, written out: nothing that calls back, reads or writes.
_PUBLIC = {
    "jax.nn": """
        celu elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh identity leaky_relu
        log_sigmoid log_softmax logsumexp mish one_hot relu relu6 selu sigmoid silu soft_sign
        softmax softplus sparse_plus sparse_sigmoid squareplus standardize swish tanh
    """,
    "jax.numpy": """
        abs absolute acos acosh add all amax amin angle any arccos arccosh arcsin arcsinh arctan
        arctan2 arctanh argmax argmin around asin asinh atan atan2 atanh average cbrt ceil clip
        concatenate conj conjugate cos cosh cross cumprod cumsum deg2rad diff divide dot einsum
        equal exp exp2 expm1 fabs floor floor_divide fmax fmin greater greater_equal hypot imag
        inner isfinite isinf isnan kron less less_equal log log10 log1p log2 logaddexp logaddexp2
        logical_and logical_not logical_or logical_xor matmul max maximum mean median min minimum
        mod multiply nan_to_num nanmax nanmean nanmin nansum negative not_equal outer positive
        power prod ptp rad2deg real reciprocal remainder rint round sign signbit sin sinc sinh
        sort sqrt square stack std subtract sum tan tanh tensordot transpose tril triu true_divide
        trunc vdot var where zeros_like ones_like bool_ int4 int8 int16 int32 int64 uint4 uint8
        uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 complex128 float8_e4m3fn
        float8_e5m2 float8_e4m3b11fnuz float8_e4m3fnuz float8_e5m2fnuz float8_e3m4 float8_e4m3
        float8_e8m0fnu float4_e2m1fn float6_e2m3fn float6_e3m2fn int1 int2 uint1 uint2
    """,
    "jax.numpy.linalg": "det inv norm pinv slogdet solve",
    "jax.lax": """
        abs add cos div erf exp expm1 log log1p logistic max min mul neg pow rsqrt sign sin sqrt
        square stop_gradient sub tan tanh
    """,
}


class JaxAdapter(Adapter):
    """The adapter of jax and jaxlib."""

    modules = ("jax",)

    def leaf(self, x: Any) -> Leaf | None:
        """Describe an array or a typed key, refusing tracers, deleted and remote arrays."""
        if type(x) is _REF:
            raise Refusal("a mutable jax reference cannot be carried; save its array: ref[...]")
        if not isinstance(x, jax.Array):
            return None
        if isinstance(x, jax.core.Tracer):
            raise Refusal("a traced value inside a jax transformation; save outside of jit")
        if x.is_deleted():
            raise Refusal("this jax array was deleted or donated; save before the donating call")
        if not _is_addressable(x.sharding):
            raise Refusal("this jax array has shards in other processes; gather it first")
        extra: dict[str, Any] = {}
        if _is_committed(x):
            extra["committed"] = True
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            extra["impl"] = _impl(x.dtype)
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
        """Put verified host memory on its device, with the weak type and commitment it had."""
        weak, committed = row.extra.get("weak", False), row.extra.get("committed", False)
        impl = row.extra.get("impl", "")
        if str(row) != "jax.Array" or [*map(type, (weak, committed, impl))] != [bool, bool, str]:
            raise KeyError(row.name)
        if place is None and committed:
            place = _default_device()
        try:
            if host.dtype.itemsize >= 8:
                with _enable_x64(True):
                    x = _put(host, weak, place)
            else:
                x = _put(host, weak, place)
            key = jax.random.wrap_key_data(x, impl=impl) if impl else x
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"a key of {impl!r:.80}" if impl else f"an array of {host.dtype}"
            raise UnsupportedError(
                f"jax {jax.__version__} makes no {what} here ({error!s:.200}); load with "
                'arrays="numpy"',
                reason="array-not-exact",
            ) from error
        made = (x.dtype, x.weak_type, _is_committed(x))
        if made != (host.dtype, weak, place is not None):
            raise UnsupportedError(
                f"jax {jax.__version__} made {x.dtype} (weak={x.weak_type}, "
                f"committed={_is_committed(x)}) of a stored {host.dtype} (weak={weak}, "
                f"committed={place is not None}); load with "
                'arrays="numpy", or with the jax that wrote it',
                reason="array-not-exact",
            )
        return key

    def record(self, cls: type) -> Record | None:
        """Take Partial, PartitionSpec and ShapeDtypeStruct apart, and what jax.tree_util knows."""
        return _RECORDS.get(cls) or (_registered(cls) if _is_registered(cls) else None)

    def record_named(self, row: TypeRow) -> Record | None:
        """Return the same for a stored name."""
        return next((r for r in _RECORDS.values() if str(r.row) == str(row)), None)

    def symbol(self, x: Any) -> str | None:
        """Return the public name of a pure array function, a scalar type or a key dtype."""
        if _is_key_dtype(x):
            return _KEY_DTYPE.format(_impl(x))
        return next((name for name, value in _symbols().items() if value is x), None)

    def symbol_named(self, name: str) -> Any:
        """Return what has that name."""
        prefix, suffix = _KEY_DTYPE.split("{}")
        if name.startswith(prefix) and name.endswith(suffix):
            try:
                return jax.random.key(0, impl=name[len(prefix) : -len(suffix)]).dtype
            except (ValueError, TypeError, NotImplementedError):
                raise KeyError(name) from None
        return _symbols()[name]

    def expected(self, x: Any) -> tuple[TypeRow, dtypes.Stored, tuple[int, ...]] | None:
        """Return what a `jax.ShapeDtypeStruct` or a deleted array stands for.

        A key stands for its data.
        """
        if isinstance(x, jax.Array):
            if isinstance(x, jax.core.Tracer) or not x.is_deleted():
                return None
            x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        elif not isinstance(x, jax.ShapeDtypeStruct):
            return None
        if _is_key_dtype(x.dtype):
            data = jax.eval_shape(jax.random.key_data, x)
            row = _row((("impl", _impl(x.dtype)),))
            return row, dtypes.describe(np.dtype(data.dtype)), tuple(data.shape)
        return _row(()), dtypes.describe(np.dtype(x.dtype)), tuple(x.shape)

    def place(self, x: Any) -> Any:
        """Return the sharding of a committed array, or the one a placeholder names."""
        if isinstance(x, jax.Array):
            return x.sharding if _is_committed(x) else None
        return getattr(x, "sharding", None)


def _default_device() -> Any:
    """Return the device that jax puts arrays on; the setting is a device, a platform or None."""
    chosen = jax.config.jax_default_device
    return chosen if isinstance(chosen, jax.Device) else jax.local_devices(backend=chosen)[0]


@functools.lru_cache(256)
def _is_addressable(sharding: Any) -> bool:
    """Whether all shards are in this process; slow to ask for each of many small leaves."""
    return bool(sharding.is_fully_addressable)


@functools.cache
def _row(extra: tuple[tuple[str, Any], ...]) -> TypeRow:
    return TypeRow(
        TypeKind.ARRAY, "jax", "Array", package="jax", version=jax.__version__, extra=dict(extra)
    )


def _is_key_dtype(x: Any) -> bool:
    return isinstance(x, _KEY_DTYPE_CLASS)


def _impl(dtype: Any) -> str:
    """Return the name of a key dtype's implementation, making sure that it leads back to it."""
    name = str(dtype._impl.name)
    try:
        known = jax.random.key(0, impl=name).dtype
    except (ValueError, TypeError, NotImplementedError):
        known = None
    if known != dtype:
        raise Refusal(f"the key implementation {name!r} has no name in jax; save key_data(x)")
    return name


def _host(x: jax.Array) -> Array:
    """Return the stored bytes of an array.

    A CPU array is viewed; the caller drops the view soon, for while it lives XLA refuses to donate
    the buffer without a word.
    """
    with _while_saved(x):
        if _is_plain(x):
            return elements.to_bytes(np.asarray(x))
        return elements.to_bytes(_gathered(x, _pieces(x)))


def _start(x: jax.Array) -> Callable[[], Array]:
    """Begin to copy an array to this host; what is returned waits for that, and is `_host`."""
    try:
        if _is_plain(x):
            return lambda: _host(x)
        pieces = _pieces(x)
        for _, piece in pieces:
            piece.copy_to_host_async()
    except (RuntimeError, ValueError):  # it was deleted, which `_host` says
        return lambda: _host(x)

    def read() -> Array:
        with _while_saved(x):
            return elements.to_bytes(_gathered(x, pieces))

    return read


@contextlib.contextmanager
def _while_saved(x: jax.Array) -> Iterator[None]:
    """Say what is wrong where somebody deletes an array that is being read."""
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
    """Tell whether the elements of an array lie in one piece of this host's memory, as stored."""
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu" and not _is_packed(x.dtype)


def _pieces(x: jax.Array) -> list[tuple[Any, jax.Array]]:
    """Return arrays that hold an array's elements, each on one device, and where they belong."""
    if len(x.devices()) == 1:
        return [(..., _alias(x))]
    if x.is_fully_replicated:
        return [(..., _alias(x.addressable_data(0)))]
    return [(s.index, _alias(s.data)) for s in x.addressable_shards if s.replica_id == 0]


def _gathered(x: jax.Array, pieces: list[tuple[Any, jax.Array]]) -> Array:
    """Return the elements of an array, leaving no copy of them on it. Takes the pieces."""
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

    `np.asarray` of what it cannot view leaves a host copy on the array for as long as that lives.
    """
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, [x])


def _put(host: Array, weak: bool, place: Any) -> jax.Array:
    if weak:
        # The constructor that pickle uses: the only public way to a weak type of any shape.
        rebuild = jnp.zeros((), host.dtype).__reduce__()[0]
        reduced: Any = host.__reduce__()
        function, arguments, state = reduced
        # Its weak type is known to Python only, and jit would compile again; a copy knows wholly.
        x = rebuild(function, arguments, state, {"weak_type": True}).copy()
        return x if place is None else jax.device_put(x, place)
    # Not by jnp.array, which compiles a program for every new shape: 17 ms each.
    return jax.device_put(host, place)


def _take_partial(x: Any) -> Sequence[Any]:
    if vars(x):
        raise Refusal(f"this Partial has the attribute {next(iter(vars(x)))!r}; delete it")
    # jax wraps a Partial of a Partial, so that functools does not merge the two.
    function = vars(x.func)["fun"] if type(x.func) is _SHIM else x.func
    return (function, x.args, x.keywords)


_SHIM = type(jax.tree_util.Partial(jax.tree_util.Partial(max)).func)


def _require(fits: bool) -> None:
    if not fits:
        raise TypeError("its fields are of other types")


def _make_partial(values: Sequence[Any]) -> Any:
    function, args, keywords = values
    _require(type(args) is tuple and type(keywords) is dict)
    return jax.tree_util.Partial(function, *args, **keywords)


def _take_spec(x: Any) -> Sequence[Any]:
    return (tuple(x), getattr(x, "unreduced", frozenset()), getattr(x, "reduced", frozenset()))


def _make_spec(values: Sequence[Any]) -> Any:
    partitions, unreduced, reduced = values
    _require(type(partitions) is tuple and type(unreduced) is type(reduced) is frozenset)
    named = {"unreduced": unreduced, "reduced": reduced}
    return jax.sharding.PartitionSpec(*partitions, **{k: v for k, v in named.items() if v})


def _take_struct(x: Any) -> Sequence[Any]:
    weak = bool(getattr(x, "weak_type", False))
    plain = _struct(x.shape, x.dtype, weak)
    if x != plain:
        raise Refusal(
            "a ShapeDtypeStruct with a sharding names devices, which no file can carry; leave the "
            "sharding out"
        )
    return (tuple(x.shape), x.dtype, weak)


def _make_struct(values: Sequence[Any]) -> Any:
    shape, dtype, weak = values
    _require(type(shape) is tuple and all(type(n) is int for n in shape) and type(weak) is bool)
    _require(isinstance(dtype, np.dtype) or _is_key_dtype(dtype))
    return _struct(shape, dtype, weak)


def _struct(shape: Sequence[int], dtype: Any, weak: bool) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, **({"weak_type": True} if weak else {}))


def _object(module: str, name: str, *fields: str) -> TypeRow:
    return TypeRow(
        TypeKind.OBJECT, module, name, fields=fields, package="jax", version=jax.__version__
    )


_RECORDS: dict[type, Record] = {
    jax.tree_util.Partial: Record(
        _object("jax.tree_util", "Partial", "func", "args", "keywords"),
        _take_partial,
        _make_partial,
    ),
    jax.sharding.PartitionSpec: Record(
        _object("jax.sharding", "PartitionSpec", "partitions", "unreduced", "reduced"),
        _take_spec,
        _make_spec,
    ),
    jax.ShapeDtypeStruct: Record(
        _object("jax", "ShapeDtypeStruct", "shape", "dtype", "weak_type"),
        _take_struct,
        _make_struct,
    ),
}


def _is_registered(cls: type) -> bool:
    if _make_treedef is None:
        return False
    try:
        _treedef(cls, None, 0)
    except (ValueError, TypeError, RuntimeError):
        return False
    return True


def _treedef(cls: type, aux: Any, count: int) -> Any:
    assert _make_treedef is not None
    leaf = jax.tree_util.tree_structure(0)
    return _make_treedef(jax.tree_util.default_registry, (cls, aux), [leaf] * count)


def _registered(cls: type) -> Record:
    """Take apart by the functions that the user gave to `jax.tree_util`."""
    row = classes.describe(cls, TypeKind.PYTREE)

    def take(x: Any) -> Sequence[Any]:
        found = jax.tree_util.default_registry.flatten_one_level(x)
        assert found is not None
        children, aux = found
        return [aux, *children]

    def make(values: Sequence[Any]) -> Any:
        return _treedef(cls, values[0], len(values) - 1).unflatten(values[1:])

    return Record(row, take, make)


@functools.cache
def _symbols() -> dict[str, Any]:
    modules = {
        "jax.nn": jax.nn,
        "jax.numpy": jnp,
        "jax.numpy.linalg": jnp.linalg,
        "jax.lax": jax.lax,
    }
    found = {
        f"{module}.{name}": vars(modules[module]).get(name)
        for module, names in _PUBLIC.items()
        for name in names.split()
    }
    found[_UNCONSTRAINED] = jax.sharding.PartitionSpec.UNCONSTRAINED
    return {name: value for name, value in found.items() if value is not None}


ADAPTER = JaxAdapter()
