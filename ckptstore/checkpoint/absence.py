"""The errors for a place without a checkpoint or a run, which name its content instead."""

from __future__ import annotations

from ckptstore.checkpoint import foreign_directories
from ckptstore.errors import CheckpointError, NotCommittedError, Reason, StorageError, listed
from ckptstore.format import NOTE_NBYTES, decode_failures, names
from ckptstore.format.names import MANIFEST
from ckptstore.storage import Storage

_FAILURES_SHOWN = 8


def not_committed(storage: Storage) -> NotCommittedError:
    """Return the error for a place without a manifest, which describes its files.

    Raises:
        StorageError: reason ``dangling-link``: the place is behind a symbolic link to nothing.
    """
    files, children = storage.list(), storage.children()
    if run := names.steps_of(children):
        return NotCommittedError(
            f"{storage.url}: not a checkpoint but a run, with directories of {len(run)} step(s) up "
            f"to step {max(run.values())}: Manager(url).load() loads its newest, "
            "Manager(url).load(step) another; for the place of one, take Manager(url).url_of(step)",
            reason=Reason.IS_A_RUN,
        )
    attempts = {names.attempt_of(name) for name in files} - {None}
    if aborted := [note for note in map(names.aborted, filter(None, attempts)) if note in files]:
        return _aborted(storage, max(aborted))
    if attempts:
        return NotCommittedError(
            f"{storage.url}: not a committed checkpoint: {len(attempts)} unfinished save(s), no "
            f"{MANIFEST}; the save was killed or is still going on; load an older checkpoint",
            reason=Reason.UNFINISHED,
        )
    if (lead := foreign_directories.lead_of(storage, (files, children))) is not None:
        text = f"not a checkpoint, but {lead}"
    else:
        if not files and not children:
            _refuse_dangling_link(storage)
        text = (
            f"not a checkpoint: no {MANIFEST} there"
            + (" (it holds other files)" if files else "")
            + "; check the path"
        )
    return NotCommittedError(f"{storage.url}: {text}", reason=Reason.NO_MANIFEST)


def _aborted(storage: Storage, note: str) -> NotCommittedError:
    """Return the error for the place of a save of several processes that failed."""
    try:
        failures = decode_failures(storage.read(note, NOTE_NBYTES), f"{storage.url}: {note}")
        texts = [f"process {f.process}: {f.error}: {f.text}" for f in failures]
    except (CheckpointError, FileNotFoundError) as error:
        texts = [f"{note} cannot be read: {error}"]
    lines = "\n  ".join(listed(texts, _FAILURES_SHOWN))
    return NotCommittedError(
        f"{storage.url}: not a committed checkpoint: a save of several processes failed; load an "
        f"older checkpoint, or save again:\n  {lines}",
        reason=Reason.UNFINISHED,
    )


def no_step(run: Storage) -> NotCommittedError:
    """Return the error for the directory of a run without a step, which names its content.

    Raises:
        StorageError: reason ``dangling-link``: it is behind a symbolic link to nothing.
    """
    _refuse_dangling_link(run)
    lead = foreign_directories.lead_of(run)
    text = "the run has no committed step; check the path, or save a step first"
    return NotCommittedError(
        f"{run.url}: {text if lead is None else f'not a run, but {lead}'}", reason=Reason.NO_STEP
    )


def refuse_other(run: Storage) -> None:
    """Raise StorageError, which names the content, if the place of a run is not a directory."""
    try:
        run.exists()
    except StorageError as error:
        lead = foreign_directories.lead_of(run)
        if lead is None or error.reason != Reason.NOT_A_DIRECTORY:
            raise
        raise StorageError(f"{run.url}: not a run, but {lead}", reason=error.reason) from error


def _refuse_dangling_link(storage: Storage) -> None:
    """Raise StorageError if a place, or a directory above it, is a symbolic link to nothing."""
    name = "."
    while name:
        try:
            if storage.exists():
                return
        except StorageError as error:
            if error.reason == Reason.DANGLING_LINK:
                raise
            return
        storage, name = storage.parent()
