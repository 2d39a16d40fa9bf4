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
from ckptstore.adapters import (
    torch_elements,
    torch_generators,
    torch_layouts,
    torch_refusals,
    torch_shards,
)
from ckptstore.errors import Reason, UnsupportedError
from ckptstore.format import TypeKind, TypeRow, dtypes
from ckptstore.format.dtypes import Array
from ckptstore.sharding import Box
from ckptstore.types import (
    Adapter,
    Leaf,
    Record,
    Refusal,
    object_row,
    package_version,
    repeated_nbytes,
)

_ROW = {
    torch.Tensor: ("torch", "Tensor"),
    torch.nn.Parameter: ("torch.nn.parameter", "Parameter"),
}
_CLASS = {".".join(names): cls for cls, names in _ROW.items()}
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
        spread = cls is torch_layouts.dtensor()
        torch_refusals.refuse(x, (cls,) if spread else _ROW)
        is_parameter, persistent = torch_refusals.marks_of(x)
        dtype = torch_elements.dtype_of(x)
        part = torch_shards.part_of(x, dtype) if spread else torch_shards.Part(x, ())
        local, device = part.local, x.device.type if spread else str(x.device)
        names = torch_layouts.NAMES if spread else _ROW[cls]
        marks = (x.requires_grad, persistent, is_parameter)
        memory = (_memory(local, spread), x.dtype, cls, marks, part.extra, x.shape)
        fixed = x.device.type != "cpu"  # a host copy of a device tensor belongs to us alone
        return Leaf(
            _row(names, device, *marks, part.extra),
            torch_elements.stored(dtype),
            tuple(x.shape),
            lambda: torch_elements.host(local, dtype),
            fixed,
            memory=memory if x.numel() else None,
            memory_nbytes=repeated_nbytes(local.shape, local.stride(), x.element_size()),
            grid=part.grid,
            cells=part.cells,
            holders=part.holders,
            is_near=not fixed,
        )

    def array(self, host: Array, row: TypeRow, place: Any) -> Any:
        """Make a tensor from verified host memory, on its device if that exists, else the CPU."""
        return _made(host, host.shape, row, place)

    def boxes(self, shape: tuple[int, ...], row: TypeRow, place: Any) -> Sequence[Box] | None:
        """Return the box of this process in a DTensor; a stored one needs a place."""
        if _is_dtensor(row):
            _class(row)
            torch_layouts.checked(row.extra)
            if place is None:
                raise torch_layouts.needs_like(row.extra)
        return place.boxes(shape) if isinstance(place, torch_layouts.Layout) else None

    def sharded(
        self, parts: Mapping[Box, Array], shape: tuple[int, ...], row: TypeRow, place: Any
    ) -> Any:
        """Make a DTensor of the box of this process; see `array`."""
        (part,) = parts.values()
        return _made(part, shape, row, place)

    def is_spread(self, x: Any) -> bool:
        """Return whether `x` is a DTensor in several processes."""
        return type(x) is torch_layouts.dtensor() and torch_shards.is_spread(x)

    def takes(self, row: TypeRow, like: TypeRow) -> bool:
        """Return whether the types are the same, or one is a DTensor of the other."""
        return _plain_name(row) == _plain_name(like)

    def is_place(self, x: Any) -> bool:
        """Return whether `x` is a mesh of processes."""
        return torch_layouts.is_mesh(x)

    def placed(self, wish: Any, aval: Any, row: TypeRow) -> Any:
        """Return the stored placements of a DTensor on a mesh."""
        return (
            torch_layouts.WHOLE
            if wish == "whole"
            else torch_layouts.on_mesh(wish, row.extra, aval.ndim)
        )

    def aval(self, row: TypeRow, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """Return a meta tensor for a DTensor; the place of another tensor is its device."""
        if not _is_dtensor(row):
            return None
        known = torch_elements.torch_dtypes().get(dtype, torch.uint8)
        return torch.empty(shape, dtype=known, device="meta")

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
        if issubclass(cls, torch.Tensor) and cls not in _ROW:
            torch_refusals.refuse_class(cls)
        if issubclass(cls, _BY_STATE_DICT):
            raise Refusal(
                f"the torch object {cls.__qualname__} is code and state in one; save "
                "x.state_dict(), and restore it by x.load_state_dict(loaded)"
            )
        return super().record(cls)

    def expected(self, x: Any) -> tuple[TypeRow, dtypes.Stored, tuple[int, ...]] | None:
        """Return the leaf for a tensor without values, or with a graph, hooks or attributes."""
        spread = type(x) is torch_layouts.dtensor()
        if not (spread or type(x) in _ROW) or x.layout is not torch.strided or x.is_nested:
            return None
        dtype = torch_elements.numpy_dtypes().get(x.dtype)
        if dtype is None:
            return None
        is_parameter = spread and isinstance(x, torch.nn.Parameter)
        names = torch_layouts.NAMES if spread else _ROW[type(x)]
        row = _row(names, "cpu", x.requires_grad, None, is_parameter)
        return row, torch_elements.stored(dtype), tuple(x.shape)

    def place(self, x: Any) -> Any:
        """Return the device of a tensor, or None for a meta tensor; of a DTensor its layout."""
        if type(x) is torch_layouts.dtensor():
            return torch_layouts.layout_of(x)
        return x.device if type(x) in _ROW and not x.is_meta else None


def _made(host: Array, shape: Sequence[int], row: TypeRow, place: Any) -> Any:
    """Return the tensor of a stored type; `host` is the whole, or the part of this process."""
    cls, extra = _class(row), row.extra
    requires_grad, persistent = extra.get("requires_grad", False), extra.get("persistent")
    layout = place if isinstance(place, torch_layouts.Layout) else None
    try:
        if layout is not None:
            place = layout.mesh.device_type
        elif place is None or place is torch_layouts.WHOLE:
            place = _device(extra.get("device", "cpu"))
        x = torch_elements.tensor(host).to(place)
        x = x if layout is None else layout.made(x, shape)
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


def _class(row: TypeRow) -> Any:
    """Return the class of a stored type of tensors in one process; raises KeyError for another."""
    cls, extra = _CLASS.get(_plain_name(row)), row.extra
    known = type(extra.get("device", "cpu")) is str
    known = known and type(extra.get("persistent")) in (bool, type(None))
    known = known and {bool}.issuperset(
        type(extra.get(name, False)) for name in ("requires_grad", "parameter")
    )
    if cls is None or not known:
        raise KeyError(row.name)
    return cls


def _is_dtensor(row: TypeRow) -> bool:
    return (row.module, row.name) == torch_layouts.NAMES


def _plain_name(row: TypeRow) -> str:
    """Return the name of a type of tensors that lie in one process."""
    if not _is_dtensor(row):
        return str(row)
    is_parameter = row.extra.get("parameter") is True
    return ".".join(_ROW[torch.nn.Parameter if is_parameter else torch.Tensor])


def _memory(x: Any, spread: bool) -> tuple[Any, ...]:
    """Return a value that is equal for tensors that are the same view of the same memory.

    Args:
        x: the tensor, or the part of a DTensor that this process holds.
        spread: whether it is such a part. It may be empty, and then its storage has no memory by
            which to know it.
    """
    offset, shape, strides = x.storage_offset(), x.shape, x.stride()
    count = 1 + offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    try:
        storage = x.untyped_storage()
        start, nbytes = storage.data_ptr(), storage.nbytes()
    except RuntimeError:
        start = nbytes = 0
    if x.numel() and (not start or nbytes < count * x.element_size()):
        raise Refusal(
            "this tensor holds no memory of its own: it is inside a transformation of torch.func, "
            "or its storage was freed; save outside of it, and before the storage is freed"
        )
    start = storage._cdata if spread else start
    return (x.device, start, offset, shape, strides, x.is_conj(), x.is_neg())


@functools.lru_cache(1024)
def _row(
    names: tuple[str, str],
    device: str,
    requires_grad: bool,
    persistent: bool | None,
    is_parameter: bool,
    place: tuple[tuple[str, Any], ...] = (),
) -> TypeRow:
    extra: dict[str, Any] = {"requires_grad": True} if requires_grad else {}
    if device != "cpu":
        extra["device"] = device
    if persistent is not None:
        extra["persistent"] = persistent
    if is_parameter:
        extra["parameter"] = True
    version = package_version("torch")
    extra |= place
    return TypeRow(TypeKind.ARRAY, *names, package="torch", version=version, extra=extra)


@functools.lru_cache(256)
def _device(name: str) -> Any:
    """Return the device of that name if it exists, else the CPU."""
    kind, _, number = name.partition(":")
    module = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}.get(kind)
    if module is not None and number in map(str, range(module.device_count())):
        return torch.device(name)
    if module is not None and kind == name and module.device_count():  # the one of this process
        return torch.device(kind)
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
