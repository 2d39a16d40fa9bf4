"""Classes whose names say less than their bindings, for the tests."""

from __future__ import annotations

import collections
import enum

A = collections.namedtuple("State", "x")
B = collections.namedtuple("State", "x")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.Enum):
    RED = 1


Shade.__qualname__ = "Shade"
