"""`save`: from a tree to a committed checkpoint, in the call."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ckptstore import peers, storage
from ckptstore.checkpoint import Checkpoint, commit
from ckptstore.distributed import Processes
from ckptstore.distributed import processes as running_processes
from ckptstore.errors import CheckpointError, Reason, StructureError
from ckptstore.format import LARGE_NBYTES, Kind
from ckptstore.format.names import is_step
from ckptstore.saving import joint_saves
from ckptstore.saving.attempt import Attempt, prepare
from ckptstore.saving.incremental import Series
from ckptstore.saving.joint_attempt import JointAttempt
from ckptstore.saving.joint_saves import Check
from ckptstore.saving.placement import Piece
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import path_of
from ckptstore.tree import LiveTree, flatten, paths
from ckptstore.types import find_adapter, module_of

_log = logging.getLogger("ckptstore")


@peers.explains("save", peers.SAVE)
def save(
    url: str | os.PathLike[str],
    tree: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    supplied: Sequence[str] = (),
    per_process: Sequence[str] = (),
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    processes: Processes | tuple[int, int] | Literal["all", "one"] | None = None,
    callback: Any = None,
) -> Checkpoint:
    """Save a whole tree as one checkpoint; when this returns, it is committed and durable.

    Your tree is not changed. If a value could not be loaded back exactly, this raises before it
    writes anything.

    Args:
        url: the checkpoint's own directory: a path, or the URL of a directory in a bucket. It is
            created if it does not exist.
        tree: the state: params, opt_state, step, keys, in any nesting of the supported containers.
        step: the training step, 0 or more; for people and for listing.
        metadata: plain values of your own, at most 256 KiB.
        metrics: numbers by name.
        supplied: patterns of paths whose values cannot be stored; `load` takes them from `like`.
        per_process: patterns of paths whose values differ between processes, such as ``["$.rng"]``:
            each process stores its own, and a load by as many processes gives each its own. Source:
            docs/processes.md, "Values of each process".
        overwrite: replace an existing checkpoint, which stays until the new one is durable.
        storage_options: options of the store.
        processes: the processes that save one tree together. Each of them calls `save`. None: if an
            array lies in several processes, these; else this process alone. ``"all"``: those that
            `jax.distributed` or `torch.distributed` connects. ``"one"``: this process alone. Or a
            `Processes` of your own; under Slurm the number of this task and that of all are enough.
            Source: docs/processes.md.
        callback: an `fsspec.Callback`, which is told the bytes that this process has written, of
            how many: such as ``fsspec.callbacks.TqdmCallback()``, which draws a bar. Source:
            docs/async.md, "Progress".

    Returns:
        The description of the checkpoint, as from `inspect`.

    Raises:
        StructureError: some values cannot be stored; the message lists every path and the remedy.
        AlreadyCommittedError: a checkpoint exists and `overwrite` is false, or another save won.
        OutcomeUnknownError: the disk or the store failed during the commit.
        StorageError: the disk or the store refused an operation; the old checkpoint is whole.
        ProcessError: another process failed, is silent, or has another tree; nothing was saved.

    If another thread writes to an array during the call, the checkpoint may hold a mixture of its
    old and new values, but it is valid. If the save fails, an old checkpoint is untouched and the
    files of this save are removed. If the process is killed, it leaves data files that no manifest
    names; they do no harm. Source: docs/spec.md, section 7; docs/commit.md.

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
        per_process=per_process,
        overwrite=overwrite,
        storage_options=storage_options,
        processes=processes,
        callback=callback,
    )
    return save_now(url, tree, request)


def save_now(
    url: str | os.PathLike[str],
    tree: Any,
    request: SaveRequest,
    series: Series | None = None,
    check: Check | None = None,
) -> Checkpoint:
    """Save in the call; the arguments are those of `begin`.

    Raises:
        CheckpointError: as for `save`.
    """
    with begin(url, tree, request, series, check, compare=True) as attempt:
        return attempt.finish()


def begin(
    url: str | os.PathLike[str],
    tree: Any,
    request: SaveRequest,
    series: Series | None = None,
    check: Check | None = None,
    *,
    compare: bool,
) -> Attempt | JointAttempt:
    """Begin a save: refuse values that cannot be saved, and write nothing yet.

    Args:
        url: the checkpoint's own directory.
        tree: the state.
        request: the other arguments of the save.
        series: the saves of a run, of which this will be the last. It takes over the files in
            which nothing changed since the save before.
        check: completes the request once the tree is flattened. Of several processes that save
            together, process 0 calls it, and the others get its error.
        compare: compare with the save before now; otherwise `Attempt.finish` does it.

    Raises:
        StructureError, AlreadyCommittedError, StorageError: as for `save`.
    """
    live, group = _flattened(tree, request)
    if group.count > 1:
        return joint_saves.begin(url, live, request, group, series, check)
    if isinstance(live, CheckpointError):
        raise live
    request = request if check is None else check(request, group)
    with contextlib.ExitStack() as stack:
        inside = is_step(storage.absolute(url).rpartition("/")[2])
        store = stack.enter_context(storage.open(url, request.storage_options, inside=inside))
        replaced = commit.current(store)
        if replaced is not None and not request.overwrite:
            raise commit.occupied(store, replaced)
        store.refuse_link()
        attempt = prepare(store, live, request, replaced, series, compare=compare)
        told = set[str]() if series is None else series.told
        _log_repeats(live, attempt.content.piece_nbytes, store.url, told)
        stack.pop_all()
        return attempt


def _flattened(tree: Any, request: SaveRequest) -> tuple[LiveTree | CheckpointError, Processes]:
    """Return the flattened tree, or the error that other processes are told, and the processes."""
    group = request.processes
    try:
        live = flatten(tree, supplied=request.supplied, per_process=request.per_process)
    except CheckpointError as error:
        if group is None and (engine := running_processes()).count > 1:
            outline = flatten(tree, lenient=True)
            spread = _spread(outline) or any(map(_is_spread, outline.objects))
            group = engine if spread else None
        if group is None or group.count == 1:
            raise
        return error, group
    spread = _spread(live)
    if group is None:
        group = running_processes() if spread else _ALONE
    if spread and group.count == 1:
        others = f", and so do {len(spread) - 1} other(s)" if len(spread) > 1 else ""
        raise StructureError(
            f"{path_of(live, spread[0])}: this array lies in several processes{others}; call save "
            "in every process with processes=None, or gather the array first: "
            f"{_GATHERED[live.leaves[spread[0]].row.package == 'torch']}",
            reason=Reason.CANNOT_CARRY,
        )
    return live, group


_ALONE = Processes(0, 1)
_GATHERED = (
    "jax.experimental.multihost_utils.process_allgather(x, tiled=True)",
    "x.full_tensor()",
)


def _spread(live: LiveTree) -> list[int]:
    """Return the numbers of the leaves that lie in several processes."""
    return [number for number, leaf in enumerate(live.leaves) if leaf.holders is not None]


def _is_spread(x: Any) -> bool:
    """Return whether an object is an array in several processes, also one that is refused."""
    adapter = find_adapter(module_of(type(x)))
    return adapter is not None and adapter.is_spread(x)


def _log_repeats(live: LiveTree, nbytes: Mapping[Piece, int], url: str, told: set[str]) -> None:
    """Log each large array that repeats its elements, and so takes more bytes on disk; once a run.

    Args:
        live: the tree.
        nbytes: the size of each piece on disk.
        url: the place.
        told: the paths that the log has told already.
    """
    kept = {
        number: leaf.memory_nbytes
        for number, leaf in enumerate(live.leaves)
        if leaf.memory_nbytes is not None and nbytes[number, 0] >= leaf.memory_nbytes + LARGE_NBYTES
    }
    if not kept:
        return
    nodes = [i for i, kind in enumerate(live.kind) if kind == Kind.LEAF and live.arg[i] in kept]
    for node, path in zip(nodes, paths.format_paths(live, nodes), strict=True):
        number = live.arg[node]
        if path in told:
            continue
        told.add(path)
        _log.info(
            "%s: %s repeats %d bytes of memory, and takes %d bytes on disk; to save less, save the "
            "array that it repeats, and expand the loaded one",
            url,
            path,
            kept[number],
            nbytes[number, 0],
        )
