"""Classes that a checkpoint must not make by itself, and a module that imports when it is asked.

The conformance files name them. Whatever of their code runs is noted in `RAN`, which the tests
want to find empty.
"""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

RAN: list[str] = []


def ran(what: str) -> None:
    RAN.append(what)


@dataclass
class Plain:
    a: Any


class Pair(NamedTuple):
    a: Any
    b: Any


class Color(enum.Enum):
    RED = 1
    GREEN = "green"


@dataclass
class WithDel:
    a: Any

    def __del__(self) -> None:
        ran("__del__")


class WithSetter:
    __dataclass_fields__ = Plain.__dataclass_fields__
    __dataclass_params__ = Plain.__dataclass_params__  # type: ignore[attr-defined]

    @property
    def a(self) -> Any:
        ran("getter")
        return None

    @a.setter
    def a(self, value: Any) -> None:
        ran("setter")


@dataclass
class WithSetattr:
    a: Any

    def __setattr__(self, name: str, value: Any) -> None:
        ran("__setattr__")


class WithoutParams:
    """No dataclass, though it has the fields of one."""

    __dataclass_fields__ = Plain.__dataclass_fields__

    def __setattr__(self, name: str, value: Any) -> None:
        ran("__setattr__")


class Meta(type):
    def __call__(cls, *args: Any, **options: Any) -> Any:
        ran("metaclass __call__")

    def __repr__(cls) -> str:
        ran("metaclass __repr__")
        return "Meta"

    def __instancecheck__(cls, x: Any) -> bool:
        ran("__instancecheck__")
        return True


class WithMeta(metaclass=Meta):
    __dataclass_fields__ = Plain.__dataclass_fields__
    __dataclass_params__ = Plain.__dataclass_params__  # type: ignore[attr-defined]


class ListTuple(NamedTuple("ListTuple", [("a", Any)])):  # type: ignore[misc]
    @property
    def a(self) -> Any:
        ran("property of a NamedTuple")
        return None


class HashedEnum(enum.Enum):
    ONE = 1

    def __hash__(self) -> int:
        ran("__hash__")
        return 1


class EqualEnum(enum.Enum):
    ONE = 1

    def __eq__(self, other: object) -> bool:
        ran("__eq__")
        return True

    __hash__ = enum.Enum.__hash__


class ShownEnum(enum.Enum):
    ONE = 1

    def __repr__(self) -> str:
        ran("__repr__ of a member")
        return "ONE"


class MissingEnum(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        ran("_missing_")
        return cls.ONE


class Proxy:
    """What a lazy import leaves in a module: to look at it is to run it."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        ran("__class__")
        return type

    def __repr__(self) -> str:
        ran("__repr__ of what is no class")
        return "proxy"

    def __getattr__(self, name: str) -> Any:
        ran(f"__getattr__ {name}")
        raise AttributeError(name)


proxy = Proxy()


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    ran(f"module __getattr__ {name}")
    import this  # noqa: F401 - the import that a file must not bring about

    return sys.modules["this"]


@dataclass
class Canary:
    """A plain dataclass: `listening` lets its special methods note that they ran."""

    a: Any


class CanaryPair(NamedTuple):
    """The same as a NamedTuple."""

    a: Any
    b: Any


class CanaryEnum(enum.Enum):
    """The same as an enum, but for the methods that an enum must leave as they are."""

    ONE = 1
    TWO = 2


CANARIES: dict[str, Any] = {
    "dataclass": Canary(1),
    "namedtuple": CanaryPair(1, 2),
    "enum": CanaryEnum.ONE,
}
_METHODS = """
    __bool__ __call__ __contains__ __deepcopy__ __dir__ __float__ __format__ __fspath__ __ge__
    __getattr__ __getitem__ __gt__ __index__ __int__ __iter__ __le__ __len__ __lt__ __reduce_ex__
    __repr__ __str__
    ---
    __abs__ __add__ __array__ __array_interface__ __array_struct__ __bytes__ __complex__ __copy__
    __delattr__ __dlpack__ __enter__ __eq__ __exit__ __get__ __getattribute__ __getstate__ __hash__
    __init__ __invert__ __jax_array__ __length_hint__ __missing__ __ne__ __neg__ __next__ __or__
    __radd__ __reduce__ __reversed__ __ror__ __round__ __setstate__ __sizeof__ __sub__ __trunc__
"""


def _recorder(name: str) -> Any:
    def method(self: Any, *args: Any, **options: Any) -> Any:
        ran(name)
        raise AssertionError(f"{name} ran")

    return method


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Let every special method of the canaries note in `RAN` that it ran, in the block."""
    of_all, others = (part.split() for part in _METHODS.split("---"))
    put = [(CanaryEnum, of_all), (Canary, of_all + others), (CanaryPair, of_all + others)]
    before = [(cls, name, vars(cls).get(name, Plain)) for cls, names in put for name in names]
    RAN.clear()
    for cls, name, _ in before:
        setattr(cls, name, _recorder(name))
    try:
        yield
    finally:
        for cls, name, value in before:
            if value is Plain:
                delattr(cls, name)
            else:
                setattr(cls, name, value)
