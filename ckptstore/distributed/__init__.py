"""Several processes, one checkpoint: their group, their waits, and the merge of their parts.

The engine that connects the processes is yours: `jax.distributed`, `torch.distributed`, or any that
has a broadcast. Nothing here imports one. Open to other wings: `waiting`.
"""

from ckptstore.distributed.agreement import by_leader, failures_of_all, gathered
from ckptstore.distributed.failures import error_of, failure_of
from ckptstore.distributed.group import Processes, chosen, processes
from ckptstore.distributed.parts import merge
from ckptstore.distributed.waiting import Failed

__all__ = [
    "Failed",
    "Processes",
    "by_leader",
    "chosen",
    "error_of",
    "failure_of",
    "failures_of_all",
    "gathered",
    "merge",
    "processes",
]
