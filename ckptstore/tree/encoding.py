"""Turning objects into nodes: one rule for each type, chosen once. Spec: section 5.3."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ckptstore.format import Kind, TypeKind, dtypes
from ckptstore.tree import containers
from ckptstore.tree.live import Encode, LiveTree
from ckptstore.tree.records import encode_enum, encoder_of
from ckptstore.tree.symbols import encode_symbol
from ckptstore.types import (
    SUPPLIED,
    Adapter,
    Refusal,
    Unsafe,
    check_safe,
    class_row,
    fields_of,
    find_adapter,
    find_registration,
    full_name,
    kind_of,
    module_of,
    qualname_of,
    record_of,
    subclass_record,
    top_level,
)


def encoder(cls: type, x: Any) -> Encode:
    """Return the rule that turns the objects of a type other than a scalar into nodes.

    Args:
        cls: the exact type of `x`.
        x: one of its objects.

    Raises:
        Refusal: the objects cannot be saved.
    """
    if cls in containers.ENCODERS:
        return containers.ENCODERS[cls]
    if cls is bytearray:
        return _encode_bytearray
    registered = find_registration(cls)
    if registered is not None and (record := registered.record()) is not None:
        return encoder_of(record)
    adapter = find_adapter(module_of(cls))
    if adapter is not None and adapter.leaf(x) is not None:
        return functools.partial(_encode_leaf, adapter)
    for adapter in _adapters_of_bases(cls):
        if (record := adapter.record(cls)) is not None:
            return encoder_of(record)
    if issubclass(cls, np.dtype):
        return _encode_dtype
    if issubclass(cls, type):
        return encode_symbol
    kind = kind_of(cls)
    if kind == TypeKind.ENUM:
        return encode_enum
    if kind is not None:
        return _encoder_of_class(cls, kind)
    if (record := subclass_record(cls)) is not None:
        return encoder_of(record)
    jax = find_adapter("jax") if "jax" in sys.modules else None
    if jax is not None and (record := jax.record(cls)) is not None:
        return encoder_of(record)
    return encode_symbol


def _adapters_of_bases(cls: type) -> Iterator[Adapter]:
    """Yield the adapters of a class and of its bases; jax, which may know any class, comes last."""
    packages = [top_level(module_of(base)) for base in type.__dict__["__mro__"].__get__(cls)]
    own = packages[0]
    for package in dict.fromkeys(packages):
        adapter = find_adapter(package) if package == own or package != "jax" else None
        if adapter is not None:
            yield adapter


def _encoder_of_class(cls: type, kind: TypeKind) -> Encode:
    try:
        check_safe(cls, kind)
    except Unsafe as error:
        jax = find_adapter("jax") if "jax" in sys.modules else None
        record = jax.record(cls) if jax is not None else None
        if record is not None and find_registration(cls) is not None:
            return encoder_of(record)  # made by the functions that jax knows, as you permitted
        if record is not None:
            raise Refusal(
                f"an object of {full_name(cls)} cannot be saved by its fields: {error}; call "
                f"ckptstore.register({qualname_of(cls)}) in the process that saves and in the one "
                f"that loads, and the functions that jax.tree_util knows are used; or {SUPPLIED}"
            ) from None
        raise Refusal(
            f"an object of {full_name(cls)} cannot be saved: {error}; use "
            f"ckptstore.register({qualname_of(cls)}, flatten=..., unflatten=...), or {SUPPLIED}"
        ) from None
    row = class_row(cls, kind, fields_of(cls, kind))
    return encoder_of(record_of(cls, row))


def _encode_bytearray(live: LiveTree, x: bytearray) -> tuple[()]:
    live.add_scalar(Kind.BYTEARRAY, 0, bytes(x))
    return ()  # mutable, so its identity is kept, like a container's


def _encode_leaf(adapter: Adapter, live: LiveTree, x: Any) -> None:
    leaf = adapter.leaf(x)
    assert leaf is not None
    live.add_leaf(leaf)


def _encode_dtype(live: LiveTree, x: np.dtype[Any]) -> None:
    live.add(Kind.DTYPE, arg=live.dtype_number(dtypes.describe(x)))
