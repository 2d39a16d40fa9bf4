"""Published functions and scalar types, stored and found by their public names."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np

from ckptstore import signals
from ckptstore.errors import Reason, UnknownTypeError
from ckptstore.format import Kind
from ckptstore.texts import shown
from ckptstore.tree import paths
from ckptstore.tree.live import LiveTree
from ckptstore.tree.nodes import NodeTable
from ckptstore.types import (
    SUPPLIED,
    Refusal,
    Symbol,
    find_adapter,
    full_name,
    module_of,
    qualname_of,
    remedy,
    top_level,
)


def encode_symbol(live: LiveTree, x: Any) -> None:
    """Append a published function or scalar type by its public name."""
    for package in _packages(x):
        adapter = find_adapter(package)
        name = adapter.symbol(x) if adapter is not None else None
        if name is not None:
            live.add(Kind.SYMBOL, data=name.encode())
            return
    raise Refusal(_why_not(x))


def decode_symbol(table: NodeTable, node: int, *, stand_in: bool) -> Any:
    """Return the function or scalar type with the public name at a node.

    Args:
        table: the nodes.
        node: a node of kind SYMBOL.
        stand_in: return a stand-in for a function of a framework that is not installed.

    Raises:
        UnknownTypeError: reason ``unknown-symbol``, ``not-installed``.
    """
    name = table.text(node)
    try:
        adapter = find_adapter(name)
        if adapter is not None:
            return adapter.symbol_named(name)
    except KeyError:
        pass
    except UnknownTypeError:
        if stand_in:
            return Symbol(name)
        raise
    raise UnknownTypeError(
        f"{table.where}: {paths.path(table, node)}: {shown(name)} is not in the table of functions "
        "and scalar types that a checkpoint may name",
        reason=Reason.UNKNOWN_SYMBOL,
    )


def _packages(x: Any) -> list[str]:
    """Return the packages whose tables may hold `x`: the modules that it or its type names."""
    cls = type(x)
    if issubclass(cls, types.ModuleType):
        return []  # reading an attribute of a module may import others
    names = [own_text(x, "__module__"), module_of(cls)]
    packages = [top_level(n) for n in names if type(n) is str]
    if "jax" in sys.modules and callable(x):
        packages.append("jax")  # jax publishes functions of numpy and of functools
    return list(dict.fromkeys(packages))


def own_text(x: Any, name: str) -> str | None:
    """Return an attribute of `x` that is a str, or None, whatever its class does when asked."""
    try:
        value = object.__getattribute__(x, name)
    except Exception as error:  # a property may raise anything
        signals.pass_on(error)
        return None
    return value if type(value) is str else None


def _why_not(x: Any) -> str:
    cls = type(x)
    if issubclass(cls, types.ModuleType):
        return "a module cannot be saved; leave it out, or store its name as a str"
    if issubclass(cls, type):
        return (
            f"the class {module_of(x)}.{qualname_of(x)} cannot be saved as a value (only scalar "
            f"types can); store its name as a str, or {SUPPLIED}"
        )
    if x is np.ma.masked:
        return "numpy.ma.masked cannot be saved; use a masked array, or None"
    name = own_text(x, "__qualname__")
    if callable(x) and name is not None:
        shown = "a lambda" if "<lambda>" in name else f"the function {name}"
        return (
            f"{shown} cannot be saved: no file can hold code; keep it out of the tree, or "
            f"{SUPPLIED}"
        )
    full = full_name(cls)
    if issubclass(cls, np.ndarray):
        return f"{full} is a subclass of numpy.ndarray; pass np.array(x)"
    return f"an object of {full} cannot be saved; {remedy(x)}"
