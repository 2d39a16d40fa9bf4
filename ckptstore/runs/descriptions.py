"""The descriptions of all steps of a run, from their manifests alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from ckptstore import concurrency, storage
from ckptstore.checkpoint import Checkpoint, Snapshot, committed, read_snapshot
from ckptstore.errors import CorruptError, UnsupportedError
from ckptstore.format.names import PINNED, step_name, steps_of
from ckptstore.runs.directory import Run, committed_steps, nowhere
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")


def described(run: Run) -> dict[int, Checkpoint]:
    """Return the description of each committed step, in order.

    An index that lies in a file of its own is read when it is asked for. A step whose manifest
    cannot be read is left out, with a line in the log.
    """
    with run.open() as store:
        steps = committed_steps(store)
        found = concurrency.map(
            functools.partial(_described, run, store), steps, store.traffic.reads,
            name="ckptstore-describe",
        )  # fmt: skip
    return {step: info for step, info in zip(steps, found, strict=True) if info is not None}


def unfinished(run: Run) -> list[int]:
    """Return the steps whose directory holds files and no checkpoint, in order."""
    with run.open() as store:
        found = steps_of(store.children())
        done = {*committed_steps(store)}
        names = {name: step for name, step in found.items() if step not in done}
        return sorted(step for name, step in names.items() if _holds_files(store, name))


def _holds_files(store: Storage, name: str) -> bool:
    return nowhere(store, name) is None and bool({*store.child(name).list()} - {PINNED})


def _described(run: Run, store: Storage, step: int) -> Checkpoint | None:
    holder = committed(store.child(step_name(step)))
    if holder is None:  # deleted meanwhile
        return None
    try:
        manifest = holder.manifest()
    except (CorruptError, UnsupportedError) as error:
        _log.warning("%s; so this step is not described", error)
        return None
    if manifest.index is not None:
        return Checkpoint(run.at(step), manifest, [manifest.index])
    return Checkpoint(run.at(step), manifest, functools.partial(_index, run, step))


def _index(run: Run, step: int) -> Sequence[bytes]:
    with storage.open(run.at(step), run.options) as store:
        return read_snapshot(store, _parts, some=True)


def _parts(snapshot: Snapshot) -> Sequence[bytes]:
    return snapshot.index_parts
