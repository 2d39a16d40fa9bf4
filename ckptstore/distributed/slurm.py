"""The tasks of one `srun` of Slurm, which need no broadcast to save together.

Each task makes the id of an attempt by itself, from what all of them know: the job, its restart,
the step, the place, and how often they saved there. Source: docs/commit.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptstore import ranks
from ckptstore.digests import digest
from ckptstore.errors import ProcessError, Reason, StructureError, bad_argument

_counts: dict[str, dict[str, int]] = {}
"""How often this process saved at each place, by the name of the step."""


@dataclass(frozen=True)
class JobStep:
    """A step of a job: it stands in the place of a broadcast.

    Attributes:
        name: the cluster, the job, its restart and the step.
        counts: how many saves this process has begun at each place.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, data: bytes) -> bytes:
        """Refuse to broadcast."""
        raise self.refusal("broadcast")

    def attempt(self, place: str) -> str:
        """Return the id of the next attempt at a place, an absolute path or a URL."""
        return digest(f"{self.name}\0{place}\0{self.counts.get(place, 0)}".encode()).hex()

    def count(self, place: str) -> None:
        """Count an attempt at a place: the next one has another id."""
        self.counts[place] = self.counts.get(place, 0) + 1

    def refusal(self, where: str) -> ProcessError:
        """Return the error of a call that needs a word of process 0.

        Args:
            where: the call, for messages.
        """
        return ProcessError(
            f"{where}: without a broadcast the tasks of Slurm agree on saves alone; pass one: "
            "Processes(comm.rank, comm.size, comm.bcast, comm.allgather), or do without: "
            "manager.load(manager.latest()) loads the newest step that each task finds, and one "
            'task with a Manager(url, processes="one") may rewind',
            reason=Reason.NO_WORD,
        )


def joined(index: int, count: int, where: str, expected: str) -> JobStep:
    """Return the step of the job whose tasks these numbers name.

    Args:
        index: the number of this process.
        count: the number of processes.
        where: the call, for messages.
        expected: a description of a broadcast, for the error.

    Raises:
        StructureError: this process is no task of an `srun`, or another one; reason
            ``bad-argument``.
    """
    step = ranks.slurm_step()
    if step is None:
        expected += "; only the tasks of one srun need none"
        raise bad_argument(where, "broadcast", None, expected)
    if (index, count) != (step.number, step.count):
        raise StructureError(
            f"{where}: this is said to be process {index} of {count}, and Slurm says "
            f"{step.number} of {step.count}; pass the numbers of Slurm: "
            'int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])',
            reason=Reason.BAD_ARGUMENT,
        )
    return JobStep(step.name, _counts.setdefault(step.name, {}))
