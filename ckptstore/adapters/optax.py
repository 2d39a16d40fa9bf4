"""Optax: where its state classes are. All of them are NamedTuples or plain dataclasses."""

from __future__ import annotations

import optax  # noqa: F401 - so that its absence is reported by name

from ckptstore.registry import Adapter


class OptaxAdapter(Adapter):
    """The adapter of optax; importing it imports every module that defines a state."""

    modules = ("optax",)


ADAPTER = OptaxAdapter()
