"""One checkpoint: its commit, a reader's view, its description and its garbage: docs/commit.md.

Open to other wings: `commit`, the order of writes, and `garbage`, the collector.
"""

from __future__ import annotations

from ckptstore.checkpoint.contents import LeafInfo
from ckptstore.checkpoint.description import Checkpoint
from ckptstore.checkpoint.manifest_file import Committed, committed
from ckptstore.checkpoint.snapshot import Snapshot, read_snapshot, unchanged

__all__ = [
    "Checkpoint",
    "Committed",
    "LeafInfo",
    "Snapshot",
    "committed",
    "read_snapshot",
    "unchanged",
]
