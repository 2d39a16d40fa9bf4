"""The beginning of a save by several processes: the word of process 0, and the comparison of trees.

It runs in the main thread, as it asks the engine. Nothing is written but small notes, until each
process has found the same tree as process 0. Source: docs/commit.md.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore import storage
from ckptstore.checkpoint import commit
from ckptstore.distributed import (
    Announcement,
    Failed,
    Processes,
    announcement,
    create_once,
    error_of,
    leave,
)
from ckptstore.errors import CheckpointError
from ckptstore.format import LARGE_NBYTES, Joining, Kind, Opening, encode_index, names
from ckptstore.saving import agreement
from ckptstore.saving.contents import Content, tables_of
from ckptstore.saving.incremental import Series
from ckptstore.saving.joint_attempt import JointAttempt
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import Share, Staging, itemsizes, whole_share
from ckptstore.sharding import Grid, Held, Shared, shape_of, share_out
from ckptstore.storage import Storage
from ckptstore.tree import LiveTree, Outline, extracted, outline_of

Check = Callable[[SaveRequest, Processes], SaveRequest]
"""A function of a `Manager` that completes a request, or raises the error of the save."""


def begin(
    url: str | os.PathLike[str],
    tree: LiveTree | CheckpointError,
    request: SaveRequest,
    group: Processes,
    series: Series | None = None,
    check: Check | None = None,
) -> JointAttempt:
    """Begin a save by several processes: refuse what cannot be saved, in all of them.

    Args:
        url: the checkpoint's own directory.
        tree: the flattened tree, or the error of flattening it, which the others are told.
        request: the other arguments of the save.
        group: the processes.
        series: the saves of a run, as for `writer.begin`. A process takes over files of the last
            joint save that it had a part in.
        check: completes the request in process 0; the others are told its error.

    Raises:
        ProcessError: reason ``no-word``, ``not-shared``, ``trees-differ``, ``values-differ``,
            ``twice`` or ``aborted``.
        CheckpointError: as for `save`.
    """
    address = storage.absolute(url).rstrip("/")
    name = address.rpartition("/")[2]  # hosts may name the rest in their own way
    topic = f"saving {name}"
    told = announcement(group, topic, address)
    beginning = _Beginning(url, tree, request, group, topic, told, series, check)
    with contextlib.ExitStack() as stack:
        inside = names.is_step(name)
        store = stack.enter_context(storage.open(url, request.storage_options, inside=inside))
        attempt = beginning.join(store) if group.index else beginning.open(store)
        stack.pop_all()
        return attempt


@dataclass(frozen=True)
class _Beginning:
    """The arguments of `begin`, and the announcement of the save."""

    url: str | os.PathLike[str]
    tree: LiveTree | CheckpointError
    request: SaveRequest
    group: Processes
    topic: str
    told: Announcement
    series: Series | None
    check: Check | None

    def open(self, store: Storage) -> JointAttempt:
        """Begin in process 0: prepare the place, leave the opening note, and announce it."""
        told = self.told
        number = told.attempt()
        try:
            request = self.request
            if self.check is not None:
                request = self.check(request, self.group)
            replaced = commit.current(store)
            if replaced is not None and not request.overwrite:
                raise commit.occupied(store, replaced, alone=False)
            store.refuse_link()
            live = self._live()
            own = outline_of(live)
            attempt = self._attempt(store, number, live, own, replaced)
            assert attempt.content is not None
            store.prepare(swap=replaced is not None)
            opening = agreement.statement(
                live, own, attempt.content.tables, self.group, request.step, os.urandom(16)
            )
            told.open(store, number, opening.encode())
        except BaseException as error:
            told.fail(store, number, error)
            raise
        try:
            told.tell(store, number)
        except BaseException as error:
            attempt.give_up(error)
            raise
        return attempt

    def join(self, store: Storage) -> JointAttempt:
        """Begin in another process: hear of it, and compare the tree with that of process 0."""
        try:
            attempt, data = self.told.hear(store)
        except Failed as failed:
            if isinstance(self.tree, CheckpointError):
                raise self.tree from None
            raise error_of(store.url, failed.failures) from None
        name = names.note("JOIN", attempt, self.group.index)
        try:
            opening = Opening.decode(data, f"{store.url}: {names.note('JOIN', attempt, 0)}")
            live = self._live()
            own = outline_of(live)
            where = f"{store.url}: nothing was saved"
            agreement.compare(where, opening, live, own, self.group, self.request.step)
            share = self._attempt(store, attempt, live, own, None)
            store.prepare()
            values = encode_index(extracted(tables_of(live), own.own)[0]) if own.own else b""
            note = Joining(values, os.urandom(16))
            create_once(store, self.group, name, note.encode())  # process 0 waits for it
            return share
        except BaseException as error:
            leave(store, self.group, attempt, error)
            raise

    def _live(self) -> LiveTree:
        if isinstance(self.tree, CheckpointError):
            raise self.tree
        return self.tree

    def _attempt(
        self, store: Storage, attempt: str, live: LiveTree, own: Outline, replaced: Any
    ) -> JointAttempt:
        """Return the attempt, with the share of this process planned."""
        request, group = self.request, self.group
        sizes = itemsizes(live)
        held = [_held(live, leaf, sizes[leaf], group.count) for leaf in own.leaves]
        shares = share_out(held, LARGE_NBYTES)
        share = _share(live, own.leaves, held, shares, group.index)
        values = _leaves_within(live, own.own)
        of_values = whole_share(live, values)
        share.sources.update(of_values.sources)
        share.nbytes.update(of_values.nbytes)
        staging = Staging(live, share, self.request.progress)
        total = sum(h.itemsize * _elements(h.grid) for h in held)
        total += group.count * sum(of_values.nbytes.values())
        content = None
        if group.index == 0:
            grids = dict(zip(own.leaves, (share.grid for share in shares), strict=True))
            ordered = [grids.get(n, leaf.grid) for n, leaf in enumerate(live.leaves)]
            content = Content.of(live, request, attempt, staging.nbytes, ordered, group.count)
        return JointAttempt(
            store=store,
            group=group,
            topic=self.topic,
            attempt=attempt,
            staging=staging,
            total=total,
            series=self.series,
            leaves=[*own.leaves, *values],
            own=own.own,
            common=len(own.leaves),
            content=content,
            replaced=replaced,
            step=request.step,
            place=self.url,
            options=request.storage_options,
        )


def _held(live: LiveTree, number: int, itemsize: int, count: int) -> Held:
    """Return the cells of a leaf and the processes that hold each; None of them means all."""
    leaf = live.leaves[number]
    grid = leaf.grid or Grid.uncut(leaf.shape)
    return Held(grid, leaf.holders or (tuple(range(count)),) * len(grid), itemsize)


def _leaves_within(live: LiveTree, nodes: Sequence[int]) -> list[int]:
    """Return the leaves of the subtrees at some nodes, in the order of `extracted`."""
    return [
        live.arg[node] if live.kind[node] == Kind.LEAF else live.long_scalars[node]
        for root in nodes
        for node in range(root, live.layout.end[root])
        if live.kind[node] == Kind.LEAF or node in live.long_scalars
    ]


def _elements(grid: Grid) -> int:
    return math.prod(grid.shape)


def _share(
    live: LiveTree,
    leaves: Sequence[int],
    held: Sequence[Held],
    shares: Sequence[Shared],
    index: int,
) -> Share:
    """Return the pieces that this process writes."""
    own = Share({}, {}, {})
    rows = zip(leaves, held, shares, strict=True)
    # All processes read arrays that are not cut, so these stand side by side.
    for number, array, shared in sorted(rows, key=lambda row: len(row[2].grid) > 1):
        leaf = live.leaves[number]
        cells = leaf.cells or (leaf,)
        is_cut = len(cells) < len(shared.grid)
        at = 0
        for cell, writer in enumerate(shared.writers):
            if writer != index and not is_cut:  # of thousands of processes, most are others
                continue
            nbytes = math.prod(shape_of(shared.grid.cell(cell))) * array.itemsize
            piece = (number, cell)
            if writer == index:
                own.sources[piece] = cells[0 if is_cut else cell]
                own.nbytes[piece] = nbytes
                if is_cut:
                    own.runs[piece] = at, _elements(array.grid) * array.itemsize
            at += nbytes
    return own
