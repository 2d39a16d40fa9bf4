"""ckptstore: save and load the whole state of a training run, exactly, atomically, verified."""

from __future__ import annotations

from ckptstore.background import PendingSave, save_async
from ckptstore.checkpoint import Checkpoint, LeafInfo
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    CorruptError,
    NotCommittedError,
    OutcomeUnknownError,
    StorageError,
    StructureError,
    UnknownTypeError,
    UnsupportedError,
)
from ckptstore.manager import Manager
from ckptstore.migrations import Migration
from ckptstore.preemption import Preemption
from ckptstore.reader import Problem, inspect, load, verify
from ckptstore.registration import register
from ckptstore.retention import StepInfo, keep_best, keep_every, keep_last
from ckptstore.writer import save

__version__ = "0.1.0"

__all__ = [
    "AlreadyCommittedError",
    "Checkpoint",
    "CheckpointError",
    "CorruptError",
    "LeafInfo",
    "Manager",
    "Migration",
    "NotCommittedError",
    "OutcomeUnknownError",
    "PendingSave",
    "Preemption",
    "Problem",
    "StepInfo",
    "StorageError",
    "StructureError",
    "UnknownTypeError",
    "UnsupportedError",
    "__version__",
    "inspect",
    "keep_best",
    "keep_every",
    "keep_last",
    "load",
    "register",
    "save",
    "save_async",
    "verify",
]
