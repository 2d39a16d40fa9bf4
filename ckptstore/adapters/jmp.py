"""jmp: the module of its loss scales. They are plain dataclasses, and so is Policy."""

from __future__ import annotations

import jmp  # noqa: F401 - so that its absence is reported by name

from ckptstore.types import Adapter


class JmpAdapter(Adapter):
    """The adapter of jmp."""

    modules = ("jmp",)


ADAPTER = JmpAdapter()
