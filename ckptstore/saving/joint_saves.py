"""The beginning of a save by several processes: the word of process 0, and the comparison of trees.

It runs in the main thread, as it asks the engine. Nothing is written but small notes, until each
process has found the same tree as process 0. Source: docs/commit.md.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ckptstore import storage
from ckptstore.checkpoint import commit
from ckptstore.distributed import Failed, Processes, error_of, failure_of, waiting
from ckptstore.errors import CheckpointError, ProcessError, Reason
from ckptstore.format import (
    LARGE_NBYTES,
    NOTE_NBYTES,
    Opening,
    Word,
    names,
)
from ckptstore.saving import agreement
from ckptstore.saving.contents import Content
from ckptstore.saving.incremental import Series
from ckptstore.saving.joint_attempt import JointAttempt, leave, twice
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import Share, Staging, itemsizes
from ckptstore.sharding import Grid, Held, Shared, shape_of, share_out
from ckptstore.storage import Storage
from ckptstore.tree import LiveTree, Outline, outline_of

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
    beginning = _Beginning(url, tree, request, group, f"saving {name}", series, check)
    with contextlib.ExitStack() as stack:
        inside = names.is_step(name)
        store = stack.enter_context(storage.open(url, request.storage_options, inside=inside))
        attempt = beginning.join(store) if group.index else beginning.open(store)
        stack.pop_all()
        return attempt


@dataclass(frozen=True)
class _Beginning:
    """The arguments of `begin`, and the topic of its word."""

    url: str | os.PathLike[str]
    tree: LiveTree | CheckpointError
    request: SaveRequest
    group: Processes
    topic: str
    series: Series | None
    check: Check | None

    def open(self, store: Storage) -> JointAttempt:
        """Begin in process 0: prepare the place, leave the opening note, and say the word."""
        host = socket.gethostname()
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
            attempt = self._attempt(store, secrets.token_hex(16), live, own, replaced)
            assert attempt.content is not None
            store.prepare(swap=replaced is not None)
            opening = agreement.statement(
                live, own, attempt.content.tables, self.group, request.step
            )
            with contextlib.suppress(FileExistsError):  # only the answer was lost
                store.create(names.note("JOIN", attempt.attempt, 0), opening.encode())
        except BaseException as error:
            failure = failure_of(self.group, error)
            with contextlib.suppress(CheckpointError):
                self.group.say(self.topic, Word("", host, store.url, [failure]).encode())
            raise
        try:
            self.group.say(self.topic, Word(attempt.attempt, host, store.url).encode())
        except BaseException as error:
            attempt.give_up(error)
            raise
        return attempt

    def join(self, store: Storage) -> JointAttempt:
        """Begin in another process: hear the word, and compare the tree with that of process 0."""
        word = self._hear(store)
        attempt = word.attempt
        try:
            data = waiting.for_opening(store, attempt, self.group.timeout)
        except CheckpointError as error:
            leave(store, self.group, attempt, error)
            raise
        if data is None:
            self._raise_aborted(store, attempt)
            raise ProcessError(
                f"{store.url}: {self.group} does not see the files that process 0 (host "
                f"{word.host}) writes to {word.url}; pass a path in a directory, or a bucket, that "
                "all processes share",
                reason=Reason.NOT_SHARED,
            )
        try:
            opening = Opening.decode(data, f"{store.url}: {names.note('JOIN', attempt, 0)}")
            live = self._live()
            own = outline_of(live)
            where = f"{store.url}: nothing was saved"
            agreement.compare(where, opening, live, own, self.group, self.request.step)
            share = self._attempt(store, attempt, live, own, None)
            store.prepare()
            self._leave_join(store, attempt)
            return share
        except BaseException as error:
            leave(store, self.group, attempt, error)
            raise

    def _live(self) -> LiveTree:
        if isinstance(self.tree, CheckpointError):
            raise self.tree
        return self.tree

    def _hear(self, store: Storage) -> Word:
        """Return the word of process 0 about this save."""

        def is_stale(data: bytes) -> bool:
            """Return whether process 0 gave a save up because this process did not come."""
            word = Word.decode(data, self.topic)
            try:
                if not word.attempt or not waiting.is_aborted(store, word.attempt):
                    return False
            except CheckpointError as error:
                leave(store, self.group, word.attempt, error)
                raise
            failures = waiting.read_failures(store, names.aborted(word.attempt))
            me = self.group.index
            return any(f.process == me and f.reason == Reason.LOST_PROCESS for f in failures)

        word = Word.decode(self.group.hear(self.topic, is_stale), self.topic)
        if word.failures:
            if isinstance(self.tree, CheckpointError):
                raise self.tree
            raise error_of(store.url, word.failures)
        return word

    def _raise_aborted(self, store: Storage, attempt: str) -> None:
        try:
            waiting.verdict(store, attempt)
        except Failed as failed:
            raise error_of(store.url, failed.failures) from None

    def _leave_join(self, store: Storage, attempt: str) -> None:
        """Leave the note that this process joins; process 0 writes no data before all have."""
        name, content = names.note("JOIN", attempt, self.group.index), os.urandom(16)
        try:
            store.create(name, content)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # process 0 has given up meanwhile
                if store.read(name, NOTE_NBYTES) != content:  # or only the answer was lost
                    raise twice(store.url, self.group) from None

    def _attempt(
        self, store: Storage, attempt: str, live: LiveTree, own: Outline, replaced: Any
    ) -> JointAttempt:
        """Return the attempt, with the share of this process planned."""
        request, group = self.request, self.group
        sizes = itemsizes(live)
        held = [_held(live, leaf, sizes[leaf], group.count) for leaf in own.leaves]
        shares = share_out(held, LARGE_NBYTES)
        staging = Staging(live, _share(live, own.leaves, held, shares, group.index))
        total = sum(h.itemsize * _elements(h.grid) for h in held)
        content = None
        if group.index == 0:
            grids = dict(zip(own.leaves, (share.grid for share in shares), strict=True))
            ordered = [grids[leaf] for leaf in range(len(live.leaves))]
            content = Content.of(live, request, attempt, staging.nbytes, ordered, group.count)
        return JointAttempt(
            store=store,
            group=group,
            topic=self.topic,
            attempt=attempt,
            staging=staging,
            total=total,
            series=self.series,
            leaves=own.leaves,
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
    for number, array, shared in zip(leaves, held, shares, strict=True):
        leaf = live.leaves[number]
        cells = leaf.cells or (leaf,)
        is_cut = len(cells) < len(shared.grid)
        at = 0
        for cell, (box, writer) in enumerate(zip(shared.grid, shared.writers, strict=True)):
            nbytes, piece = math.prod(shape_of(box)) * array.itemsize, (number, cell)
            if writer == index:
                own.sources[piece] = cells[0 if is_cut else cell]
                own.nbytes[piece] = nbytes
                if is_cut:
                    own.runs[piece] = at, _elements(array.grid) * array.itemsize
            at += nbytes
    return own
