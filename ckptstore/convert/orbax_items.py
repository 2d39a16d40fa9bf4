"""The directory of one item of Orbax: of the only one, or of the newest step of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ckptstore.checkpoint import numbered
from ckptstore.errors import NotCommittedError, Reason, StorageError, StructureError, listed
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")

_TREE = "_METADATA"
_GCS = "gs://", "gcs://"
_FINISHED = "commit_success.txt"
"""The file that Orbax writes last in stores where it cannot rename a directory."""

_SHOWN = 20


def item(place: Storage) -> Storage:
    """Return the directory of the only item, or that of the newest step.

    Raises:
        NotCommittedError: reason ``unfinished``.
        StorageError: no such directory.
        StructureError: reason ``ambiguous``; the message lists the items.
    """
    if place.holds(_TREE):
        return _finished(place)
    children = sorted(place.children())
    if steps := numbered.newest_first(children):
        return _newest(place, steps)
    items = sorted(place.holders(_TREE))
    if len(items) == 1:
        return _finished(place.child(items[0]))
    names = items or children
    if not names and not place.list():
        raise StorageError(f"{place.url}: the directory does not exist or is empty")
    raise StructureError(
        f"{place.url}: not an item of Orbax, which has a file {_TREE}; pass one of its "
        f"directories: {', '.join(listed(names, _SHOWN)) or 'there are none'}",
        reason=Reason.AMBIGUOUS,
    )


def _newest(place: Storage, steps: Sequence[str]) -> Storage:
    """Return the item of the newest step that Orbax finished."""
    first: NotCommittedError | None = None
    for step in steps:
        try:
            found = item(place.child(step))
        except NotCommittedError as error:
            _log.warning("%s; the step before it is read", error)
            first = first or error
            continue
        numbered.log_choice(place.url, step, len(steps))
        return found
    assert first is not None
    raise first


def _finished(place: Storage) -> Storage:
    if place.url.startswith(_GCS) and not place.holds(_FINISHED):
        raise NotCommittedError(
            f"{place.url}: no file {_FINISHED}, so Orbax did not finish it; use another step, or, "
            "if it was copied there from a disk, copy it back and pass that path",
            reason=Reason.UNFINISHED,
        )
    return place
