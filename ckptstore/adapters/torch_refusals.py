"""The tensors that cannot be saved, each with its remedy."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ckptstore.types import Refusal

_BUFFER = {"_is_buffer", "persistent"}  # the attributes by which torch.nn.Buffer marks a Tensor
_PARAMETER = {"_is_param"}  # the attribute by which torch.nn.Parameter marks a DTensor


def refuse(x: Any, known: Collection[Any]) -> None:
    """Raise unless a tensor can be saved.

    Args:
        x: the tensor.
        known: the classes that can be saved.

    Raises:
        Refusal: it cannot.
    """
    if type(x) not in known:
        refuse_class(type(x))
    _refuse_without_values(x)
    _refuse_attached(x)


def refuse_class(cls: type) -> None:
    """Refuse a class of tensors.

    Raises:
        Refusal: always.
    """
    name = f"{cls.__module__}.{cls.__qualname__}"
    if issubclass(cls, torch.nn.parameter.UninitializedTensorMixin):
        remedy = "run the module once, so that it gets its shape"
    elif cls.__qualname__ == "NestedTensor":
        remedy = "save the list x.unbind()"
    elif cls.__qualname__ == "ShardedTensor":
        remedy = "save DTensor.from_local(x.local_tensor(), mesh, [Shard(0)])"
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


def marks_of(x: Any) -> tuple[bool, bool | None]:
    """Return whether a DTensor is a parameter, and whether a torch.nn.Buffer is persistent.

    Args:
        x: a tensor. None is returned for one that is no buffer.

    Raises:
        Refusal: it has attributes of other code.
    """
    own = vars(x)
    if not own:
        return False, None
    if own.keys() == _BUFFER and type(x) is not torch.nn.Parameter and own["_is_buffer"] is True:
        persistent = own["persistent"]
        if type(persistent) is bool:
            return False, persistent
    if own.keys() == _PARAMETER and type(x) is not torch.Tensor and own["_is_param"] is True:
        return True, None
    name = next((n for n in own if n not in _BUFFER | _PARAMETER), next(iter(own)))
    raise Refusal(
        f"this tensor has the attribute {name!r}, which would be lost; save x.detach(), or delete "
        "the attribute"
    )
