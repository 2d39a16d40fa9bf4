"""Several processes, one checkpoint: their group, their waits, and the merge of their parts.

The engine that connects the processes is yours: `jax.distributed`, `torch.distributed`, or any that
has a broadcast. Nothing here imports one. Open to other wings: `waiting`.
"""

from ckptstore.distributed.agreement import by_leader, failures_of_all
from ckptstore.distributed.announcements import Announcement, announcement
from ckptstore.distributed.choice import chosen
from ckptstore.distributed.failures import create_once, error_of, failure_of, leave, twice
from ckptstore.distributed.group import Processes, processes
from ckptstore.distributed.parts import merge
from ckptstore.distributed.waiting import Failed

__all__ = [
    "Announcement",
    "Failed",
    "Processes",
    "announcement",
    "by_leader",
    "chosen",
    "create_once",
    "error_of",
    "failure_of",
    "failures_of_all",
    "leave",
    "merge",
    "processes",
    "twice",
]
