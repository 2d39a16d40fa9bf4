"""From a tree to a committed checkpoint, in the call or in the background.

Open to other wings: `request`; `writer` and `background`, which take further arguments from a
`Manager`; and `incremental`, the files that one save takes over from another.
"""

from __future__ import annotations

from ckptstore.saving.agreement import in_step
from ckptstore.saving.background import save_async
from ckptstore.saving.pending import PendingSave
from ckptstore.saving.writer import save

__all__ = ["PendingSave", "in_step", "save", "save_async"]
