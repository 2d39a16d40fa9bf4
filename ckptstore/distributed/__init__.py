"""Several processes, one checkpoint: who they are, and what process 0 tells the others.

The engine that connects the processes is yours: `jax.distributed`, `torch.distributed`, or any that
has a broadcast. Nothing here imports one.
"""

from ckptstore.distributed.group import Processes, chosen, processes

__all__ = ["Processes", "chosen", "processes"]
