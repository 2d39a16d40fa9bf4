"""Classes of a user: found by name, registered, migrated, of a script."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import fractions
import functools
import sys
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

import ckptstore
from golden_trees import Case

T = TypeVar("T")


class Point(NamedTuple):
    x: Any
    y: Any = 0


class PointWithMethods(Point):
    """A subclass without a `__slots__` has a `__dict__`."""

    def double(self) -> Any:
        return 2 * self.x


class Pair(NamedTuple, Generic[T]):
    first: T
    second: T


class Empty(NamedTuple):
    pass


Binding = collections.namedtuple("Typename", "a b")


class Outer:
    class Inner(NamedTuple):
        a: Any

    @dataclasses.dataclass
    class Data:
        a: Any


@dataclasses.dataclass
class Data:
    a: Any
    b: Any = 3


@dataclasses.dataclass
class Sub(Data):
    c: Any = None


class PlainSub(Data):
    """No dataclass by itself."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: Any


@dataclasses.dataclass(slots=True)
class Slots:
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    a: Any


@dataclasses.dataclass(kw_only=True)
class Odd:
    shared: dataclasses.ClassVar[int] = 3  # type: ignore[name-defined]
    init: dataclasses.InitVar[int]
    late: Any = dataclasses.field(init=False)
    hidden: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self, init: int) -> None:
        self.late = init + 1


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


@dataclasses.dataclass
class WithCache:
    a: Any

    @functools.cached_property
    def double(self) -> Any:
        return self.a * 2


class Color(enum.Enum):
    RED = "red"
    ALSO_RED = "red"
    BLUE = (0, 0, 255)
    NOTHING = None
    HALF = 0.5


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


class Text(enum.StrEnum):
    A = "a"


class Perm(enum.Flag):
    R = 4
    W = 2
    X = 1
    RW = 6


class Flags(enum.IntFlag):
    R = 4
    W = 2


# What was saved, and what became of it.


class ProgressThen(NamedTuple):
    lr: float
    best: list[float]
    gone: Any


@dataclasses.dataclass
class Progress:
    scale: float
    lowest: float
    notes: list[Any]


ckptstore.register(
    Progress,
    migrate=[
        ckptstore.Migration(renamed={"lr": "scale"}, removed=["gone"]),
        ckptstore.Migration(
            added={"lowest": lambda old: min(old["best"]), "notes": []}, removed=["best"]
        ),
    ],
)


@dataclasses.dataclass
class Moved:
    a: Any


ckptstore.register(Moved, name="golden.project.Moved")


class Stack(collections.deque[Any]):
    """A class that only its author can take apart."""


ckptstore.register(
    Stack,
    flatten=lambda x: (list(x), {"maxlen": x.maxlen}),
    unflatten=lambda static, items: Stack(items, static["maxlen"]),
)
ckptstore.register(
    fractions.Fraction,
    flatten=lambda x: ((x.numerator, x.denominator), None),
    unflatten=lambda _, parts: fractions.Fraction(*parts),
)
ckptstore.register(
    decimal.Decimal,
    flatten=lambda x: ((), str(x)),
    unflatten=lambda static, _: decimal.Decimal(static),
)


class ScriptState(NamedTuple):
    step: int
    best: list[Any]


class ScriptPhase(enum.Enum):
    WARM = 1


@dataclasses.dataclass
class ScriptConfig:
    lr: float


_OF_SCRIPT = (ScriptState, ScriptPhase, ScriptConfig)
for _cls in _OF_SCRIPT:
    _cls.__module__ = "__main__"


def of_script() -> Any:
    """Make a tree of classes as a script that is run defines them."""
    for cls in _OF_SCRIPT:
        setattr(sys.modules["__main__"], cls.__name__, cls)
    return {"s": ScriptState(3, [np.arange(2)]), "c": ScriptConfig(0.5), "p": ScriptPhase.WARM}


def _with_cache() -> Any:
    made = WithCache(4)
    assert made.double == 8
    return made


CASES: dict[str, Case] = {
    name: Case(make)
    for name, make in {
        "namedtuples": lambda: [Point(1, 2), Point(Point(1, []), None), Empty(), Outer.Inner(3)],
        "a generic namedtuple": lambda: [Pair(1, 2), Pair[int](3, 4)],
        "a subclassed namedtuple": lambda: PointWithMethods(1, [2]),
        "a typename that is not its binding": lambda: Binding(1, 2),
        "dataclasses": lambda: [Data(1), Data([2], {}), Sub(1, 2, 3), PlainSub(1), Outer.Data(2)],
        "frozen and slotted": lambda: [Frozen(1), Slots(1, [2]), FrozenSlots((1,)), Box("x")],
        "odd fields": lambda: Odd(init=3, hidden=(1,)),
        "a cached property": _with_cache,
        "arrays in records": lambda: Data(np.ones(3), Point(np.zeros(2), {"k": np.int64(3)})),
        "a name of its own": lambda: [Moved(1), Moved({"w": np.ones(2)})],
        "its own functions": lambda: [Stack([np.ones(2), [1]], 5), Stack()],
        "its own functions, of the standard library": lambda: {
            "f": fractions.Fraction(1, 3),
            "d": decimal.Decimal("0.10"),
        },
    }.items()
}
CASES["migrated"] = Case(
    lambda: [ProgressThen(0.1, [2.0, 1.0], {"old": np.ones(2)}), ProgressThen(0.2, [3.0], None)],
    load=lambda: {"types": {"golden_trees.of_types.ProgressThen": Progress}},
    expect=lambda: [Progress(0.1, 1.0, []), Progress(0.2, 3.0, [])],
)
CASES["of a script"] = Case(
    of_script,
    load=lambda: {"types": {f"__main__.{cls.__name__}": cls for cls in _OF_SCRIPT}},
)
