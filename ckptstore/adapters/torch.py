"""PyTorch: tensors, parameters and buffers, sizes, devices and dtypes.

For modules, optimizers, schedulers and scalers, save their `state_dict()`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ckptstore import signals
from ckptstore.adapters import torch_generators
from ckptstore.errors import Reason, UnsupportedError
from ckptstore.format import TypeKind, TypeRow, array_bytes, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.types import (
    Adapter,
    Leaf,
    Record,
    Refusal,
    object_row,
    package_version,
    repeated_nbytes,
)

_SAME_NAME = """
    bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 bfloat16
    float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    complex32 complex64 complex128
"""
# Dtypes that torch packs or leaves undefined: stored as bytes, in a structure with one field of
# that name.
_ONLY_BYTES = """
    float4_e2m1fn_x2 bits1x8 bits2x4 bits4x2 bits8 bits16
    int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7
"""
# By item size: dtypes that torch and numpy both have, to view elements without converting them.
_BITS = {1: (torch.uint8, "u1"), 2: (torch.int16, "i2"), 4: (torch.int32, "i4")}
_BITS |= {8: (torch.int64, "i8"), 16: (torch.complex128, "c16")}

_ROW = {
    torch.Tensor: ("torch", "Tensor"),
    torch.nn.Parameter: ("torch.nn.parameter", "Parameter"),
}
_CLASS = {".".join(names): cls for cls, names in _ROW.items()}
_BUFFER = {"_is_buffer", "persistent"}  # the attributes by which torch.nn.Buffer marks a Tensor
_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format)
_BY_STATE_DICT = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    torch.amp.GradScaler,
)


class TorchAdapter(Adapter):
    """The adapter of torch."""

    modules = ("torch",)

    def leaf(self, x: Any) -> Leaf | None:
        """Describe a tensor, refusing one with a graph, a gradient, hooks or attributes."""
        cls = type(x)
        if not issubclass(cls, torch.Tensor):
            return None
        _refuse_class(cls)
        _refuse_without_values(x)
        _refuse_attached(x)
        persistent = _persistence(x)
        dtype = _numpy_dtypes().get(x.dtype)
        if dtype is None:
            raise Refusal(
                f"the dtype {x.dtype} is not a dtype of the format, or needs a newer ml_dtypes "
                f"than {package_version('ml_dtypes')}; view the tensor as integers"
            )
        row = _row(_ROW[cls], x.requires_grad, str(x.device), persistent)
        memory = (_memory(x), x.dtype, cls, x.requires_grad, persistent) if x.numel() else None
        fixed = x.device.type != "cpu"  # a host copy of a device tensor belongs to us alone
        return Leaf(
            row,
            _stored(dtype),
            tuple(x.shape),
            lambda: _host(x, dtype),
            fixed,
            memory=memory,
            memory_nbytes=repeated_nbytes(x.shape, x.stride(), x.element_size()),
            is_near=not fixed,
        )

    def array(self, host: Array, row: TypeRow, place: Any) -> Any:
        """Make a tensor from verified host memory, on its device if that exists, else the CPU."""
        cls, extra = _CLASS.get(str(row)), row.extra
        requires_grad, persistent = extra.get("requires_grad", False), extra.get("persistent")
        device = extra.get("device", "cpu")
        known = type(requires_grad) is bool and type(device) is str
        if cls is None or not known or type(persistent) not in (bool, type(None)):
            raise KeyError(row.name)
        dtype = _torch_dtypes().get(host.dtype)
        if dtype is None:
            raise UnsupportedError(
                f"torch {torch.__version__} has no dtype for {host.dtype}; load with "
                'arrays="numpy", or with a newer torch',
                reason=Reason.ARRAY_NOT_EXACT,
            )
        try:
            x = torch.from_numpy(host.view(_BITS[dtype.itemsize][1])).view(dtype)
            x = x.to(_device(device) if place is None else place)
            if cls is torch.nn.Parameter:
                return torch.nn.Parameter(x, requires_grad)
            x.requires_grad_(requires_grad)
        except RuntimeError as error:
            signals.pass_on(error)
            raise UnsupportedError(
                f"torch {torch.__version__} makes no {row} of {host.dtype} and "
                f'requires_grad={requires_grad} here ({error!s:.200}); load with arrays="numpy"',
                reason=Reason.ARRAY_NOT_EXACT,
            ) from error
        if persistent is not None:
            x.persistent, x._is_buffer = persistent, True
        return x

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """Sizes, devices and generators of random numbers."""
        return {
            **torch_generators.RECORDS,
            torch.Size: Record(
                object_row("torch.Size", "dims", wraps=True),
                lambda x: (tuple(x),),
                _make_size,
                check=_check_size,
                reads="items",
            ),
            torch.device: Record(
                object_row("torch.device", "name"), lambda x: (str(x),), _make_device
            ),
        }

    @functools.cached_property
    def symbols(self) -> Mapping[str, Any]:
        """Dtypes, layouts and memory formats, each by the name that torch prints."""
        constants = [x for x in list(vars(torch).values()) if type(x) in _CONSTANTS]
        return {str(x): x for x in constants if vars(torch).get(str(x)[len("torch.") :]) is x}

    def record(self, cls: type) -> Record | None:
        """Take sizes and devices apart; refuse objects with a state_dict, and other tensors."""
        if issubclass(cls, torch.Tensor):
            _refuse_class(cls)
        if issubclass(cls, _BY_STATE_DICT):
            raise Refusal(
                f"the torch object {cls.__qualname__} is code and state in one; save "
                "x.state_dict(), and restore it by x.load_state_dict(loaded)"
            )
        return super().record(cls)

    def expected(self, x: Any) -> tuple[TypeRow, dtypes.Stored, tuple[int, ...]] | None:
        """Return the leaf for a tensor without values, or with a graph, hooks or attributes."""
        if type(x) not in _ROW or x.layout is not torch.strided or x.is_nested:
            return None
        dtype = _numpy_dtypes().get(x.dtype)
        row = _row(_ROW[type(x)], x.requires_grad, "cpu", None)
        return None if dtype is None else (row, _stored(dtype), tuple(x.shape))

    def place(self, x: Any) -> Any:
        """Return the device of a tensor, or None for a meta tensor."""
        return x.device if type(x) in _ROW and not x.is_meta else None


def _refuse_class(cls: type) -> None:
    if cls in _ROW:
        return
    name = f"{cls.__module__}.{cls.__qualname__}"
    if issubclass(cls, torch.nn.parameter.UninitializedTensorMixin):
        remedy = "run the module once, so that it gets its shape"
    elif cls.__qualname__ == "NestedTensor":
        remedy = "save the list x.unbind()"
    elif hasattr(cls, "full_tensor"):
        remedy = "save x.full_tensor(), or the part of this process, x.to_local()"
    else:
        remedy = "save x.as_subclass(torch.Tensor), or use ckptstore.register"
    raise Refusal(f"{name} is a subclass of torch.Tensor and may hold more than a tensor; {remedy}")


def _refuse_without_values(x: Any) -> None:
    """Refuse a tensor that is not one strided piece of memory."""
    if x.is_nested:
        raise Refusal("a nested tensor cannot be saved; save the list x.unbind()")
    if x.layout is not torch.strided:
        parts = {
            torch.sparse_coo: "x.coalesce().indices(), .values() and x.shape, or x.to_dense()",
            torch.sparse_csr: "x.crow_indices(), x.col_indices(), x.values() and x.shape",
            torch.sparse_bsr: "x.crow_indices(), x.col_indices(), x.values() and x.shape",
            torch.sparse_csc: "x.ccol_indices(), x.row_indices(), x.values() and x.shape",
            torch.sparse_bsc: "x.ccol_indices(), x.row_indices(), x.values() and x.shape",
        }.get(x.layout, "x.to_dense()")
        raise Refusal(f"a tensor of the layout {x.layout} cannot be saved; save {parts}")
    if x.is_quantized:
        raise Refusal(
            "a quantized tensor cannot be saved; save x.int_repr() with its scales and zero "
            "points, or x.dequantize()"
        )
    if x.is_meta:
        raise Refusal(
            "a meta tensor has no values; make it on a device, or leave it out (as a placeholder "
            "it belongs in `like`)"
        )


def _memory(x: Any) -> tuple[Any, ...]:
    """Return a value that is equal for tensors that are the same view of the same memory."""
    offset, shape, strides = x.storage_offset(), x.shape, x.stride()
    count = 1 + offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    try:
        storage = x.untyped_storage()
        start, nbytes = storage.data_ptr(), storage.nbytes()
    except RuntimeError:
        start = nbytes = 0
    if not start or nbytes < count * x.element_size():
        raise Refusal(
            "this tensor holds no memory of its own: it is inside a transformation of torch.func, "
            "or its storage was freed; save outside of it, and before the storage is freed"
        )
    return (x.device, start, offset, shape, strides, x.is_conj(), x.is_neg())


def _refuse_attached(x: Any) -> None:
    """Refuse a tensor with a graph, gradient, hooks or names, which would be lost."""
    if not x.is_leaf:
        raise Refusal(
            "this tensor was computed with gradients, and its graph cannot be stored; "
            "save x.detach(), or x.item()"
        )
    if x.grad is not None:
        raise Refusal(
            "this tensor has a gradient, which would be lost; save x.detach() (as state_dict() "
            "does) and, if you need it, x.grad beside it, or clear it by x.grad = None"
        )
    if x._backward_hooks or x._post_accumulate_grad_hooks:
        raise Refusal("this tensor has hooks, which cannot be stored; save x.detach()")
    if any(getattr(x, "names", ())):
        raise Refusal("a tensor with named axes cannot be saved; save x.rename(None)")


def _persistence(x: Any) -> bool | None:
    """Return whether a torch.nn.Buffer is persistent; None for another tensor."""
    own = vars(x)
    if not own:
        return None
    if own.keys() == _BUFFER and type(x) is torch.Tensor and own["_is_buffer"] is True:
        persistent = own["persistent"]
        if type(persistent) is bool:
            return persistent
    name = next((n for n in own if n not in _BUFFER), next(iter(own)))
    raise Refusal(
        f"this tensor has the attribute {name!r}, which would be lost; save x.detach(), or delete "
        "the attribute"
    )


@functools.lru_cache(1024)
def _row(
    names: tuple[str, str], requires_grad: bool, device: str, persistent: bool | None
) -> TypeRow:
    extra: dict[str, Any] = {"requires_grad": True} if requires_grad else {}
    if device != "cpu":
        extra["device"] = device
    if persistent is not None:
        extra["persistent"] = persistent
    version = package_version("torch")
    return TypeRow(TypeKind.ARRAY, *names, package="torch", version=version, extra=extra)


@functools.cache
def _numpy_dtypes() -> dict[Any, np.dtype[Any]]:
    """Return the dtype in which each dtype of torch is stored."""
    numpy_dtypes = {}
    for name in (*_SAME_NAME.split(), *_ONLY_BYTES.split()):
        dtype = getattr(torch, name, None)  # an older torch has fewer
        if dtype is None:
            continue
        if name in _ONLY_BYTES.split():
            numpy_dtypes[dtype] = np.dtype([(name, f"u{dtype.itemsize}")])
            continue
        try:
            numpy_dtypes[dtype] = dtypes.resolve(name, where="torch")
        except UnsupportedError:  # an older ml_dtypes, too
            continue
    return numpy_dtypes


@functools.cache
def _torch_dtypes() -> dict[np.dtype[Any], Any]:
    return {stored: dtype for dtype, stored in _numpy_dtypes().items()}


@functools.cache
def _stored(dtype: np.dtype[Any]) -> dtypes.Stored:
    return dtypes.describe(dtype)


def _host(x: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    """Return the stored bytes of a tensor: a view if it is contiguous and on the CPU."""
    try:
        plain = x.detach().cpu().resolve_conj().resolve_neg()
        return array_bytes.to_bytes(plain.view(_BITS[dtype.itemsize][0]).numpy().view(dtype))
    except RuntimeError as error:
        signals.pass_on(error)
        raise Refusal(f"torch cannot read this tensor: {error!s:.200}") from None


@functools.lru_cache(256)
def _device(name: str) -> Any:
    """Return the device of that name if it exists, else the CPU."""
    kind, _, number = name.partition(":")
    module = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}.get(kind)
    if module is not None and number in map(str, range(module.device_count())):
        return torch.device(name)
    return torch.device("cpu")


def _check_size(values: Sequence[Any]) -> None:
    (dims,) = values
    if type(dims) is not tuple or not {int}.issuperset(map(type, dims)):
        raise TypeError("a torch.Size is made from a tuple of ints, and from nothing else")


def _make_size(values: Sequence[Any]) -> Any:
    _check_size(values)
    return torch.Size(values[0])


def _make_device(values: Sequence[Any]) -> Any:
    (name,) = values
    if type(name) is not str:
        raise TypeError("a torch.device is made from its name")
    return torch.device(name)


ADAPTER = TorchAdapter()
