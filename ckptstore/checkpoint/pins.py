"""Pins: a small file beside the manifest of a step keeps the step from every removal.

docs/commit.md shows what holds where a pin and a removal come at the same time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ckptstore.checkpoint.absence import not_committed
from ckptstore.errors import Reason, StorageError
from ckptstore.format.names import MANIFEST, PINNED
from ckptstore.storage import Storage

_CONTENT = b"This step is pinned: docs/runs.md of ckptstore.\n"


def pin(storage: Storage, settle: Callable[[], None]) -> None:
    """Keep a step from every removal that begins after this call.

    Args:
        storage: the directory of the step.
        settle: waits for removals that did not see the pin. The step is looked at once more after
            that.

    Raises:
        NotCommittedError: there is no checkpoint, or it was removed meanwhile.
        StorageError: reason ``linked-step``; or the store refused.
    """
    storage.refuse_link()
    if not storage.holds(MANIFEST):
        raise not_committed(storage)
    with contextlib.suppress(FileExistsError):
        storage.create(PINNED, _CONTENT)
    settle()
    if not storage.holds(MANIFEST):
        unpin(storage)
        storage.remove()
        raise not_committed(storage)


def unpin(storage: Storage) -> None:
    """Remove the pin of a step, if there is one."""
    storage.refuse_link()
    if storage.holds(PINNED):
        storage.delete(PINNED)
        storage.flush()


def refuse(storage: Storage) -> None:
    """Raise StorageError, reason ``pinned``, before a step is removed that is pinned."""
    if storage.holds(PINNED):
        raise StorageError(
            f"{storage.url}: the step is pinned, and nothing was deleted; call unpin(step) of its "
            "Manager first",
            reason=Reason.PINNED,
        )
