"""Which classes are rebuilt without their code: of `__setattr__`, the frozen dataclass's alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ckptstore.format import TypeKind
from ckptstore.types import Unsafe, check_safe


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    a: int


@dataclasses.dataclass(frozen=True)
class FrozenTwice(Frozen):
    b: int


class Plain(Frozen):
    """A subclass without fields of its own."""


@dataclasses.dataclass(frozen=True)
class FrozenOfNothing:
    pass


class Watching:
    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(name)


@dataclasses.dataclass
class Watched(Watching):
    a: int


class WatchedFrozen(Frozen):
    """Raises as a frozen dataclass does, by code of its own below one."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(name)


@dataclasses.dataclass(frozen=True)
class Hooked:
    """Frozen, and then given another setter, as by a decorator above the dataclass's."""

    a: int


Hooked.__setattr__ = Watching.__setattr__  # type: ignore[method-assign]


class Forged:
    """Says that it is frozen, in parameters that are not those of a dataclass."""

    class __dataclass_params__:
        frozen = True

    __dataclass_fields__ = dict(Frozen.__dataclass_fields__)  # noqa: RUF012

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError("ran")


@pytest.mark.parametrize("cls", [Frozen, FrozenSlots, FrozenTwice, Plain, FrozenOfNothing])
def test_a_frozen_dataclass_is_safe(cls: type) -> None:
    check_safe(cls, TypeKind.DATACLASS)


@pytest.mark.parametrize("cls", [Watched, WatchedFrozen, Hooked, Forged])
def test_another_setattr_is_not(cls: type) -> None:
    with pytest.raises(Unsafe, match="a __setattr__ of its own"):
        check_safe(cls, TypeKind.DATACLASS)
