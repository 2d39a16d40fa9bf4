"""`save`: from a tree to a committed checkpoint, in the call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ckptstore import storage
from ckptstore.checkpoint import Checkpoint, commit
from ckptstore.saving.attempt import Attempt, prepare
from ckptstore.saving.incremental import Series
from ckptstore.saving.request import SaveRequest
from ckptstore.tree import flatten


def save(
    url: str | os.PathLike[str],
    tree: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    supplied: Sequence[str] = (),
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Save a whole tree as one checkpoint; when this returns, it is committed and durable.

    The tree is not changed. Everything that cannot come back exactly is refused before anything is
    written.

    Args:
        url: the checkpoint's own directory: a path, or a URL as of a bucket. It is made if need be.
        tree: the state: params, opt_state, step, keys, in any nesting of the carried containers.
        step: the training step, 0 or more; for people and for listing.
        metadata: plain values of your own, at most 256 KiB.
        metrics: numbers by name.
        supplied: patterns of paths that no file can carry and that `load` takes from `like`.
        overwrite: replace the checkpoint that is there. The old one stays until the new is durable.
        storage_options: options of the store.

    Returns:
        What `inspect` would return.

    Raises:
        StructureError: something cannot be carried; it lists every path and the remedy.
        AlreadyCommittedError: a checkpoint is there and `overwrite` is false, or another save won.
        OutcomeUnknownError: the disk or the store failed while it committed.
        StorageError: the disk or the store refused; the old checkpoint is whole.

    An array that another thread writes to during the call may be saved half before and half after;
    the checkpoint is sound all the same. On failure an old checkpoint is as it was, and the files
    of this save are removed. A killed process leaves data files that no manifest names; they are
    in nobody's way. Source: docs/spec.md, section 7; docs/commit.md.

    Example:
        >>> import ckptstore, numpy as np
        >>> saved = save("ckpt", {"w": np.ones(3), "step": 7}, step=7, metadata={"dataset": "v2"})
        >>> saved.step, saved.metadata
        (7, {'dataset': 'v2'})
        >>> ckptstore.load("ckpt")
        {'w': array([1., 1., 1.]), 'step': 7}
        >>> save("ckpt", {"step": 8}, step=8, overwrite=True).step
        8
    """
    request = SaveRequest.of(
        step=step,
        metadata=metadata,
        metrics=metrics,
        supplied=supplied,
        overwrite=overwrite,
        storage_options=storage_options,
    )
    return save_now(url, tree, request)


def save_now(
    url: str | os.PathLike[str], tree: Any, request: SaveRequest, series: Series | None = None
) -> Checkpoint:
    """Save in the call; the arguments are those of `begin`.

    Raises:
        CheckpointError: as `save`.
    """
    with begin(url, tree, request, series, compare=True) as attempt:
        return attempt.finish()


def begin(
    url: str | os.PathLike[str],
    tree: Any,
    request: SaveRequest,
    series: Series | None = None,
    *,
    compare: bool,
) -> Attempt:
    """Begin a save: refuse what cannot be saved, and write nothing yet.

    Args:
        url: the checkpoint's own directory.
        tree: the state.
        request: what else the caller says.
        series: the saves of a run, whose last this one will be. It takes over what did not change
            since the one before.
        compare: find out now what did not change; else `Attempt.finish` does.

    Raises:
        StructureError, AlreadyCommittedError, StorageError: as `save`.
    """
    live = flatten(tree, supplied=list(request.supplied))
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(storage.open(url, request.storage_options))
        replaced = commit.current(store)
        if replaced is not None and not request.overwrite:
            raise commit.occupied(store, replaced)
        attempt = prepare(store, live, request, replaced, series, compare=compare)
        stack.pop_all()
        return attempt
