"""The steps of a training run: when to save, which steps to keep, and which to resume from.

Guide: docs/runs.md.
"""

from __future__ import annotations

from ckptstore.runs.manager import Manager
from ckptstore.runs.preemption import Preemption
from ckptstore.runs.retention import StepInfo, keep_best, keep_every, keep_last

__all__ = [
    "Manager",
    "Preemption",
    "StepInfo",
    "keep_best",
    "keep_every",
    "keep_last",
]
