"""The rank of this process in a job of several processes, as the job has told it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

_VARIABLES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", ""),
    ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
"""The environment variables of torchrun, Open MPI, MPICH, PMIx, JAX and Slurm."""

_SECONDS = 60.0
"""Two processes of one job come to one step within this time."""


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of several.

    Attributes:
        number: its number, from 0.
        count: the number of processes; None: not known, but more than one.
        source: the place that says so.
        condition: a line of Python that is true in the process with number 0 alone.
    """

    number: int
    count: int | None
    source: str
    condition: str

    def __str__(self) -> str:
        of = "" if self.count is None else f" of {self.count}"
        return f"process {self.number}{of} ({self.source})"


@dataclass(frozen=True, slots=True)
class SlurmStep:
    """The tasks that one `srun` started, as one of them sees them.

    Attributes:
        name: the cluster, the job, its restart and the step: no other step ever has all of these.
        number: the number of this task, from 0.
        count: the number of tasks.
    """

    name: str
    number: int
    count: int


def slurm_step() -> SlurmStep | None:
    """Return the step of Slurm of which this process is a task; None if there are no others.

    It is None in a heterogeneous job, too, whose parts have a job id each.
    """
    of = os.environ.get
    job, step, restart = of("SLURM_JOB_ID"), of("SLURM_STEP_ID"), of("SLURM_RESTART_COUNT", "0")
    number = _number("SLURM_PROCID")
    count = _number("SLURM_STEP_NUM_TASKS" if of("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS")
    if number is None or count is None or not _is_one_of(number, count):
        return None
    if not (job and step) or of("SLURM_HET_SIZE"):
        return None
    return SlurmStep(f"{of('SLURM_CLUSTER_NAME', '')}/{job}/{restart}/{step}", number, count)


def rank() -> Rank | None:
    """Return the rank of this process; None if nothing says that there are others.

    No framework is imported, and none that is imported is made to connect to others.
    """
    return of_jax() or of_torch() or _of_environment()


def advice(saved_at: float | None) -> str:
    """Return the advice for a save that lost against another process of one job; "" if none fits.

    Args:
        saved_at: the time at which the other save began, in seconds since 1970; None: not known.
    """
    recent = saved_at is not None and abs(time.time() - saved_at) < _SECONDS
    found = rank()
    if found is not None and (found.number or recent):
        return (
            f"; this is {found} of one job: call the save in all of them with "
            f'processes="all", or in one of them under `{found.condition}`'
        )
    if recent:
        return (
            f"; the other save began within {_SECONDS:.0f} s: if several processes of one job run "
            "this script, let one of them save: `if jax.process_index() == 0:`, or `if rank == 0:`"
        )
    return ""


def of_jax() -> Rank | None:
    """Return the rank that `jax.distributed` has given this process; no backend starts for it."""
    state = getattr(sys.modules.get("jax._src.distributed"), "global_state", None)
    number: Any = getattr(state, "process_id", None)
    count: Any = getattr(state, "num_processes", None)
    if getattr(state, "client", None) is None or not _is_one_of(number, count):
        return None
    return Rank(number, count, "jax.process_index()", "if jax.process_index() == 0:")


def of_torch() -> Rank | None:
    """Return the rank that `torch.distributed` has given this process."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_initialized():
            return None
        number, count = distributed.get_rank(), distributed.get_world_size()
    except Exception:
        return None
    if not _is_one_of(number, count):
        return None
    call = "torch.distributed.get_rank()"
    return Rank(number, count, call, f"if {call} == 0:")


def _of_environment() -> Rank | None:
    for name, size in _VARIABLES:
        number, count = _number(name), _number(size)
        if number is None:
            continue
        if _is_one_of(number, count) or (count is None and number > 0):
            return Rank(number, count, name, f'if int(os.environ["{name}"]) == 0:')
    return None


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _is_one_of(number: Any, count: Any) -> bool:
    return type(number) is int and type(count) is int and 0 <= number < count and count > 1
