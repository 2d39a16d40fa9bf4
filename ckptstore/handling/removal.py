"""`delete_checkpoint`: a checkpoint by its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ckptstore import storage
from ckptstore.checkpoint import deletion
from ckptstore.format import names


def delete_checkpoint(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> None:
    """Delete a checkpoint: its manifest first, then its files, as `Manager.delete` does.

    Other files in its directory stay. A step that is a symbolic link loses the link alone.

    Args:
        url: the checkpoint's directory: a path, or a URL of a store.
        storage_options: options of the store, as fsspec takes them; docs/mounts.md for a disk.

    Raises:
        NotCommittedError: there is no checkpoint.
        AlreadyCommittedError: it was overwritten meanwhile; the new save is untouched.
        OutcomeUnknownError: whether it is deleted cannot be known.
        StorageError: it still exists; reason ``pinned``: it is a step with a pin. Reason
            ``not-removed``: it is deleted, but some of its files are not removed.

    Example:
        >>> import ckptstore
        >>> saved = ckptstore.save("ckpt", {"step": 7})
        >>> delete_checkpoint("ckpt")
        >>> ckptstore.load("ckpt")
        Traceback (most recent call last):
        ...
        ckptstore.errors.NotCommittedError: ...

    Source: docs/copying.md; docs/commit.md, "Delete".
    """
    with storage.open(url, storage_options) as store:
        above, name = store.parent()
        if names.is_step(name):
            deletion.delete_inside(above, name)
        else:
            deletion.delete(store)
