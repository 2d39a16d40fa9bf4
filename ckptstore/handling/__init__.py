"""A checkpoint as a whole: copied from place to place, or deleted."""

from __future__ import annotations

from ckptstore.handling.duplicate import copy_checkpoint, split_options
from ckptstore.handling.removal import delete_checkpoint

__all__ = ["copy_checkpoint", "delete_checkpoint", "split_options"]
