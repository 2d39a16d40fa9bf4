"""Save and load the whole state of a training run: exact, atomic, verified.

    save, save_async, load, inspect, verify                one checkpoint
    copy_checkpoint, delete_checkpoint                     a checkpoint as a whole
    Manager, keep_last, keep_every, keep_best              a run: one checkpoint for each step
    processes, Processes, PerProcess, in_step              several processes, one checkpoint
    open_checkpoint                                        a look inside, without a framework
    register, Migration                                    your own classes
    CheckpointError and the errors below it, Reason        the errors
    ckptstore.analysis                                     statistics, and differences
    ckptstore.convert, ckptstore.optax, ckptstore.adapters files of other tools, counters, adapters

Example:
    >>> import ckptstore
    >>> saved = ckptstore.save("ckpt", {"w": [0.5, 1.5], "step": 7})
    >>> ckptstore.load("ckpt")
    {'w': [0.5, 1.5], 'step': 7}
    >>> with ckptstore.Manager("run", every=100, keep=ckptstore.keep_last(3)) as manager:
    ...     state = manager.load_or_init(lambda: {"step": 0})
    ...     while state["step"] < 300:
    ...         state["step"] += 1
    ...         saved = manager.save(state["step"], state)
    >>> manager.steps()
    [100, 200, 300]

`help(ckptstore.save)` describes a call. Guide: README.md, docs/api.md.
"""

from __future__ import annotations

import importlib as _importlib
import typing as _typing

from ckptstore import peers
from ckptstore.checkpoint import Checkpoint, LeafInfo
from ckptstore.distributed import Processes, processes
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    CorruptError,
    NotCommittedError,
    OutcomeUnknownError,
    ProcessError,
    Reason,
    StorageError,
    StructureError,
    UnknownTypeError,
    UnsupportedError,
)
from ckptstore.handling import copy_checkpoint, delete_checkpoint
from ckptstore.loading import Problem, inspect, load, verify
from ckptstore.reading import ArrayNode, Node, Piece, Reader, open_checkpoint
from ckptstore.runs import (
    Manager,
    Preemption,
    StepInfo,
    keep_best,
    keep_every,
    keep_last,
)
from ckptstore.saving import PendingSave, in_step, save, save_async
from ckptstore.tree import PerProcess
from ckptstore.types import Migration, register

__version__ = "0.2.0"

__all__ = [
    "AlreadyCommittedError",
    "ArrayNode",
    "Checkpoint",
    "CheckpointError",
    "CorruptError",
    "LeafInfo",
    "Manager",
    "Migration",
    "Node",
    "NotCommittedError",
    "OutcomeUnknownError",
    "PendingSave",
    "PerProcess",
    "Piece",
    "Preemption",
    "Problem",
    "ProcessError",
    "Processes",
    "Reader",
    "Reason",
    "StepInfo",
    "StorageError",
    "StructureError",
    "UnknownTypeError",
    "UnsupportedError",
    "__version__",
    "copy_checkpoint",
    "delete_checkpoint",
    "in_step",
    "inspect",
    "keep_best",
    "keep_every",
    "keep_last",
    "load",
    "open_checkpoint",
    "processes",
    "register",
    "save",
    "save_async",
    "verify",
]

_WINGS = ("adapters", "analysis", "convert", "optax")

if not _typing.TYPE_CHECKING:  # or every misspelt name would seem to exist

    def __getattr__(name: str) -> _typing.Any:
        """Import a wing when it is first named, as error texts do.

        For a name of another library, the error names ours.
        """
        if name in _WINGS:
            return _importlib.import_module(f"{__name__}.{name}")
        raise peers.unknown_name(f"module {__name__!r}", name, peers.PACKAGE, [*__all__, *_WINGS])


def __dir__() -> list[str]:
    """Return the public names only, so that completion hides internal modules."""
    return __all__
