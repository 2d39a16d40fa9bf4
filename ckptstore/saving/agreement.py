"""The comparison of trees between processes: structure, scalars, and values that must be equal."""

from __future__ import annotations

import dataclasses
import math
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np

from ckptstore.digests import Digest, digest
from ckptstore.distributed import (
    Processes,
    by_leader,
    error_of,
    failures_of_all,
    processes,
)
from ckptstore.errors import ProcessError, Reason, listed
from ckptstore.format import Index, Leaves, Opening, decode_tables, encode_index, lay_out
from ckptstore.format.wire import DIGEST_NBYTES
from ckptstore.saving import incremental
from ckptstore.saving.contents import tables_of
from ckptstore.saving.request import checked_patterns
from ckptstore.saving.staging import itemsizes, read_checked
from ckptstore.tree import LiveTree, Outline, StoredTree, flatten, outline_of
from ckptstore.types import package_version

_COMPARED_NBYTES = 64 << 10
"""An array of at most so many bytes is compared whole; of a larger one, a sample of this host's."""

_LINES_SHOWN = 20
_NOT_COMPARED = bytes(DIGEST_NBYTES)


def in_step(
    tree: Any, *, processes: Processes | None = None, per_process: Sequence[str] = ()
) -> None:
    """Raise unless a tree is in step in all processes, for example after a load.

    All processes call this. The structure, the types, the scalars, and each array of which all
    processes have a copy must be equal: counters, keys and RNG states among them. Up to 64 KiB are
    compared whole; of a larger array on the host a sample is. Arrays that are spread over the
    processes are compared by shape and dtype.

    Args:
        tree: the state.
        processes: the processes; None: those that an engine connects.
        per_process: patterns of paths whose values differ between processes, as for `save`; they
            are not compared.

    Raises:
        ProcessError: reason ``trees-differ`` or ``values-differ``, in all processes alike, with the
            paths. Reason ``no-word``: a process did not call this.
        StructureError: a pattern is none, or matches nothing; reason ``bad-pattern``.

    Example:
        >>> import ckptstore
        >>> ckptstore.in_step({"step": 7})  # one process is always in step

    Source: docs/processes.md.
    """
    group = _running() if processes is None else processes
    patterns = checked_patterns("per_process", per_process, '["$.rng"]', "in_step")
    if group.count == 1:
        return
    live = flatten(tree, per_process=patterns)
    own = outline_of(live)

    def stated() -> bytes:
        return statement(live, own, tables_of(live), group, None).encode()

    rows = group.gather("in_step", digest(own.digest, *_value_digests(live, own, group)))
    if len(set(rows)) == 1:
        return
    said = by_leader(group, "in_step", stated)
    first = Opening.decode(said, "in_step")
    error: ProcessError | None = None
    try:
        compare("in_step", first, live, own, group, None)
    except ProcessError as caught:
        error = caught
    failures = failures_of_all(group, "in_step", error)
    if failures:
        raise error if error is not None else error_of("in_step", failures, "compared")


_running = processes


def statement(
    live: LiveTree,
    own: Outline,
    tables: Index,
    group: Processes,
    step: int | None,
    token: bytes = b"",
) -> Opening:
    """Return all that must be the same in each process.

    Args:
        live: the tree.
        own: its outline.
        tables: its tables, to name the differences.
        group: the processes.
        step: the step of training, or None.
        token: random bytes, which no other statement has.
    """
    return Opening(
        socket.gethostname(),
        _version(),
        group.count,
        step,
        own.digest,
        _value_digests(live, own, group),
        encode_index(dataclasses.replace(tables, leaves=_uncut(tables.leaves))),
        live.own,
        token,
    )


def _uncut(leaves: Leaves) -> Leaves:
    """Return the table without grids: each of thousands of processes reads it."""
    return dataclasses.replace(leaves, grid=np.ones_like(leaves.grid), cuts=np.zeros(0, np.int64))


def compare(
    where: str,
    opening: Opening,
    live: LiveTree,
    own: Outline,
    group: Processes,
    step: int | None,
) -> None:
    """Raise ProcessError if this process has something else than process 0.

    Args:
        where: the place or the call, for messages.
        opening: the statement of process 0.
        live: the tree of this process.
        own: its outline.
        group: the processes.
        step: the step of training, or None.
    """
    here, there = f"process {group.index}", f"process 0 (host {opening.host})"
    mine = [_version(), f"{group.count} processes"]
    theirs = [opening.version, f"{opening.count} processes"]
    pairs = zip(mine, theirs, strict=True)
    lines = [f"{a} in {here}, {b} in {there}" for a, b in pairs if a != b]
    if lines:
        raise _differ(where, lines, are_values=False)
    if own.digest != opening.outline:
        index = decode_tables([opening.tables], where=where)
        layout = lay_out(index.nodes.arity.tolist(), where=where)
        stored = StoredTree(index, layout, where)
        stored.own = opening.own
        other = outline_of(stored)
        lines, are_values = own.differences(other, here, there)
        raise _differ(where, lines, are_values=are_values)
    rows = enumerate(zip(_value_digests(live, own, group), opening.values, strict=True))
    lines = [
        f"{own.path(own.leaf_places[place])}: other values in {here} than in {there}"
        for place, (a, b) in rows
        if a != b and _NOT_COMPARED not in (a, b)
    ]
    if step != opening.step:
        lines.insert(0, f"step: {step} in {here}, {opening.step} in {there}")
    if lines:
        raise _differ(where, lines, are_values=True)


def _version() -> str:
    return f"ckptstore {package_version('ckptstore')}"


def _differ(where: str, lines: Sequence[str], *, are_values: bool) -> ProcessError:
    text = (
        "values that must be equal in all processes differ; make them equal (take those of process "
        '0), or save one of each process: per_process=["$.rng"]'
        if are_values
        else "the processes have different trees; give each of them the same tree, or name the "
        'places that should differ: per_process=["$.rng"]'
    )
    return ProcessError(
        "\n  ".join([f"{where}: {text}:", *listed(lines, _LINES_SHOWN)]),
        reason=Reason.VALUES_DIFFER if are_values else Reason.TREES_DIFFER,
    )


def _value_digests(live: LiveTree, own: Outline, group: Processes) -> list[Digest]:
    """Return a digest for each leaf that all processes have, as far as it is read without a copy.

    Args:
        live: the tree.
        own: its outline, which gives the order.
        group: the processes.
    """
    sizes = itemsizes(live)
    return [_value_digest(live, number, sizes[number], group.count) for number in own.leaves]


def _value_digest(live: LiveTree, number: int, itemsize: int, count: int) -> Digest:
    leaf = live.leaves[number]
    nbytes = math.prod(leaf.shape) * itemsize
    if leaf.holders is not None and not (len(leaf.holders) == 1 and len(leaf.holders[0]) == count):
        return _NOT_COMPARED
    if nbytes > _COMPARED_NBYTES and (leaf.grid is not None or not leaf.is_near):
        return _NOT_COMPARED
    read = leaf.read if leaf.holders is None else leaf.cells[0].read
    host = read_checked(live, number, read, nbytes)
    return digest(host) if nbytes <= _COMPARED_NBYTES else incremental.sample(host)
