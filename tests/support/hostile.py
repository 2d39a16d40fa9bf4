"""Classes that a checkpoint must not make by itself, and a module that imports when it is asked.

The conformance files name them. Whatever of their code runs is noted in `RAN`, which the tests
want to find empty.
"""

from __future__ import annotations

import enum
import sys
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
