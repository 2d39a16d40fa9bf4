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
from ckptstore.digests import Digest, digest
from ckptstore.distributed import Failed, Processes, error_of, failure_of, waiting
from ckptstore.errors import CheckpointError, ProcessError, Reason, listed
from ckptstore.format import (
    LARGE_NBYTES,
    NOTE_NBYTES,
    Opening,
    Word,
    decode_tables,
    dtypes,
    encode_index,
    lay_out,
    names,
)
from ckptstore.format.wire import DIGEST_NBYTES
from ckptstore.saving import incremental
from ckptstore.saving.contents import Content
from ckptstore.saving.joint_attempt import JointAttempt, leave, twice
from ckptstore.saving.placement import place
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import Share, Staging, itemsizes, read_checked
from ckptstore.sharding import Grid, Held, Shared, shape_of, share_out
from ckptstore.storage import Storage
from ckptstore.tree import LiveTree, Outline, StoredTree, outline_of
from ckptstore.types import package_version

_COMPARED_NBYTES = 64 << 10
"""An array of at most so many bytes is compared whole; of a larger one, a sample of this host's."""

Check = Callable[[SaveRequest, Processes], SaveRequest]
"""A function of a `Manager` that completes a request, or raises the error of the save."""

_LINES_SHOWN = 20
_NOT_COMPARED = bytes(DIGEST_NBYTES)


def begin(
    url: str | os.PathLike[str],
    tree: LiveTree | CheckpointError,
    request: SaveRequest,
    group: Processes,
    check: Check | None = None,
) -> JointAttempt:
    """Begin a save by several processes: refuse what cannot be saved, in all of them.

    Args:
        url: the checkpoint's own directory.
        tree: the flattened tree, or the error of flattening it, which the others are told.
        request: the other arguments of the save.
        group: the processes.
        check: completes the request in process 0; the others are told its error.

    Raises:
        ProcessError: reason ``no-word``, ``not-shared``, ``trees-differ``, ``values-differ``,
            ``twice`` or ``aborted``.
        CheckpointError: as for `save`.
    """
    address = storage.absolute(url).rstrip("/")
    name = address.rpartition("/")[2]  # hosts may name the rest in their own way
    beginning = _Beginning(url, tree, request, group, f"saving {name}", check)
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
            opening = Opening(
                host,
                _version(),
                self.group.count,
                self.request.step,
                own.digest,
                _value_digests(live, own),
                encode_index(attempt.content.tables),
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
        data = waiting.for_opening(store, attempt, self.group.timeout)
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
            self._compare(store, opening, live, own)
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
            if not word.attempt or not waiting.is_aborted(store, word.attempt):
                return False
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
            if store.read(name, NOTE_NBYTES) != content:  # or only the answer was lost
                raise twice(store.url, self.group) from None

    def _compare(self, store: Storage, opening: Opening, live: LiveTree, own: Outline) -> None:
        """Raise ProcessError if this process would save something else than process 0."""
        here, there = f"process {self.group.index}", f"process 0 (host {opening.host})"
        mine = [_version(), f"{self.group.count} processes"]
        theirs = [opening.version, f"{opening.count} processes"]
        lines = [
            f"{a} in {here}, {b} in {there}" for a, b in zip(mine, theirs, strict=True) if a != b
        ]
        if lines:
            raise _differ(store, lines, are_values=False)
        if own.digest != opening.outline:
            index = decode_tables([opening.tables], where=store.url)
            layout = lay_out(index.nodes.arity.tolist(), where=store.url)
            other = outline_of(StoredTree(index, layout, store.url))
            lines, are_values = own.differences(other, here, there)
            raise _differ(store, lines, are_values=are_values)
        rows = enumerate(zip(_value_digests(live, own), opening.values, strict=True))
        lines = [
            f"{own.path(own.leaf_places[place])}: other values in {here} than in {there}"
            for place, (a, b) in rows
            if a != b and _NOT_COMPARED not in (a, b)
        ]
        if self.request.step != opening.step:
            lines.insert(0, f"step: {self.request.step} in {here}, {opening.step} in {there}")
        if lines:
            raise _differ(store, lines, are_values=True)

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
            placement=place(staging.nbytes, total=total),
            leaves=own.leaves,
            content=content,
            replaced=replaced,
            step=request.step,
            place=self.url,
            options=request.storage_options,
        )


def _version() -> str:
    return f"ckptstore {package_version('ckptstore')}"


def _differ(store: Storage, lines: Sequence[str], *, are_values: bool) -> ProcessError:
    text = (
        "values that must be equal in all processes differ; make them equal (take those of process "
        "0), or gather the values of all processes and save the list of them in each"
        if are_values
        else "the processes have different trees; give each of them the same tree"
    )
    return ProcessError(
        "\n  ".join([f"{store.url}: nothing was saved: {text}:", *listed(lines, _LINES_SHOWN)]),
        reason=Reason.VALUES_DIFFER if are_values else Reason.TREES_DIFFER,
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


def _value_digests(live: LiveTree, own: Outline) -> list[Digest]:
    """Return a digest for each leaf that all processes have, as far as it is read without a copy.

    Args:
        live: the tree.
        own: its outline, which gives the order.
    """
    return [_value_digest(live, number) for number in own.leaves]


def _value_digest(live: LiveTree, number: int) -> Digest:
    leaf = live.leaves[number]
    itemsize = dtypes.item_nbytes(live.dtypes[live.leaf_dtype[number]], where="save")
    nbytes = math.prod(leaf.shape) * itemsize
    if leaf.holders is not None and len(leaf.holders) > 1:
        return _NOT_COMPARED
    if nbytes > _COMPARED_NBYTES and (leaf.grid is not None or not leaf.is_near):
        return _NOT_COMPARED
    read = leaf.read if leaf.holders is None else leaf.cells[0].read
    host = read_checked(live, number, read, nbytes)
    return digest(host) if nbytes <= _COMPARED_NBYTES else incremental.sample(host)
