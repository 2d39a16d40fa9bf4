"""From a committed checkpoint to verified values: `load`, `inspect` and `verify`.

Open to other wings: `fetch`, which reads some leaves of a snapshot, and `stream`, which reads them
in the order of the files.
"""

from ckptstore.loading.reader import inspect, load
from ckptstore.loading.verification import Problem, verify

__all__ = ["Problem", "inspect", "load", "verify"]
