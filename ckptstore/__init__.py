"""ckptstore: save and load the whole state of a training run, exactly, atomically, verified."""

from __future__ import annotations

import importlib as _importlib
import typing as _typing

from ckptstore import peers
from ckptstore.checkpoint import Checkpoint, LeafInfo
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    CorruptError,
    NotCommittedError,
    OutcomeUnknownError,
    Reason,
    StorageError,
    StructureError,
    UnknownTypeError,
    UnsupportedError,
)
from ckptstore.loading import Problem, inspect, load, verify
from ckptstore.runs import (
    Manager,
    Preemption,
    StepInfo,
    keep_best,
    keep_every,
    keep_last,
)
from ckptstore.saving import PendingSave, save, save_async
from ckptstore.types import Migration, register

__version__ = "0.2.0"

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
    "Reason",
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

if not _typing.TYPE_CHECKING:  # or every misspelt name would seem to exist

    def __getattr__(name: str) -> _typing.Any:
        """Import `convert` and `optax` when they are first named: error texts call them so.

        For a name of another library, the error names ours.
        """
        if name in ("convert", "optax"):
            return _importlib.import_module(f"{__name__}.{name}")
        raise peers.unknown_name(f"module {__name__!r}", name, peers.PACKAGE)


def __dir__() -> list[str]:
    """Return the public names only, so that completion hides internal modules."""
    return __all__
