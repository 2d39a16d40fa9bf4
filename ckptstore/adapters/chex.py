"""Chex: its dataclasses, which are registered with jax when the first instance is constructed."""

from __future__ import annotations

import chex

from ckptstore.types import Adapter


class ChexAdapter(Adapter):
    """The adapter of chex."""

    modules = ("chex",)

    def ready(self, cls: type) -> None:
        """Register a class with jax, as its constructor would, which `load` does not call."""
        chex.register_dataclass_type_with_jax_tree_util(cls)


ADAPTER = ChexAdapter()
