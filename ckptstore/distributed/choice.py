"""The argument ``processes=`` of a save or a load."""

from __future__ import annotations

from ckptstore import ranks
from ckptstore.distributed.group import LIKE_MPI, Processes, processes
from ckptstore.errors import Reason, StructureError, bad_argument

_NUMBERS = (
    "; or name the tasks of this srun, to save with processes="
    '(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]))'
)


def chosen(value: object, where: str) -> Processes | None:
    """Return the processes that an argument ``processes=`` names; None: those that hold the tree.

    Args:
        value: None, ``"all"``, ``"one"`` or a `Processes`; under Slurm also the number of this task
            and that of all.
        where: the call, for messages.

    Raises:
        StructureError: it is none of these, or nothing connects the processes of this job, with the
            reason ``bad-argument``.
    """
    if value is None or isinstance(value, Processes):
        return value
    if isinstance(value, str) and value == "one":
        return Processes(0, 1)
    if isinstance(value, str) and value == "all":
        found, rank = processes(), ranks.rank()
        if found.count == 1 and rank is not None:
            raise StructureError(
                f"{where}: processes is 'all', and nothing connects the processes of this job, "
                f"of which this is {rank}; call torch.distributed.init_process_group() or "
                "jax.distributed.initialize() before, or pass a broadcast of your own, "
                f"{LIKE_MPI}" + (_NUMBERS if ranks.slurm_step() else ""),
                reason=Reason.BAD_ARGUMENT,
            )
        return found
    if isinstance(value, tuple) and len(value) == 2 and ranks.slurm_step() is not None:
        return Processes(*value)
    expected = f'None, "all", "one", ckptstore.processes() or a Processes, {LIKE_MPI}'
    if isinstance(value, tuple | list):
        expected += "; pass a broadcast too: by their numbers alone the processes hear no word"
    raise bad_argument(where, "processes", value, expected)
