"""One attempt of several processes to save: each writes a share, and process 0 commits.

Process 0 leads: it waits for the others, merges their parts and commits. Nobody calls the engine
here, so a thread may do it: all goes through the store. Steps and invariants: docs/commit.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from ckptstore import concurrency, storage
from ckptstore.checkpoint import (
    Checkpoint,
    Committed,
    Snapshot,
    commit,
    deletion,
    read_snapshot,
)
from ckptstore.distributed import (
    Failed,
    Processes,
    error_of,
    failure_of,
    leave,
    merge,
    twice,
    waiting,
)
from ckptstore.errors import (
    AlreadyCommittedError,
    CheckpointError,
    NotCommittedError,
    OutcomeUnknownError,
    StorageError,
)
from ckptstore.format import (
    NOTE_NBYTES,
    Draft,
    Failure,
    Joining,
    Part,
    decode_tables,
    encode_failures,
    names,
    seal,
)
from ckptstore.saving import incremental
from ckptstore.saving.contents import Content, place_files, span_table
from ckptstore.saving.incremental import Previous, Series
from ckptstore.saving.staging import Job, Staging, link_files, write_files
from ckptstore.storage import Storage


@dataclass(eq=False, repr=False)
class JointAttempt:
    """The share of this process in a save; it holds the place open until its `with` block ends.

    Attributes:
        store: the place.
        group: the processes.
        topic: the topic of the word that began the save.
        attempt: the id of the attempt.
        staging: the bytes of the pieces that this process writes.
        total: the bytes of all processes.
        series: the saves of the run, if this save belongs to one.
        leaves: the leaves in the order that all processes share, then those of own values.
        own: the nodes of the values that this process has of its own, in that order.
        common: the number of leaves outside of them.
        content: the contents of the save, in process 0; None in the others.
        replaced: the manifest that an overwrite replaces, in process 0.
        step: the step of training.
        place: the place, as your program names it.
        options: the options of the store.
    """

    store: Storage
    group: Processes
    topic: str
    attempt: str
    staging: Staging
    total: int
    series: Series | None
    leaves: Sequence[int]
    own: Sequence[int]
    common: int
    content: Content | None
    replaced: Committed | None
    step: int | None
    place: str | os.PathLike[str]
    options: Mapping[str, Any] | None
    _has_begun: bool = False
    _names: list[str] = field(default_factory=list)
    _before: Previous | None = None
    _share: Previous | None = None

    def __post_init__(self) -> None:
        if self.series is not None and self.series.keep_full_every > 1:
            self._before = self.series.share

    @property
    def url(self) -> str:
        """The place, for messages."""
        return self.store.url

    def __repr__(self) -> str:
        return f"<JointAttempt {self.url} step={self.step} of {self.group}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._has_begun:
            self.give_up(StorageError(f"{self.url}: the save was cancelled before it began"))
        self.staging.let_go()
        self.store.__exit__(*exc)

    def fix(self) -> None:
        """Keep the values that the tree holds now, as described at `Staging.fix`."""
        try:
            self.staging.fix()
        except BaseException as error:
            self.give_up(error)
            raise

    def give_up(self, error: BaseException) -> None:
        """Tell the other processes that this one failed, before it handed in its part.

        Args:
            error: the reason, for their messages.
        """
        self._has_begun = True
        if self.group.index:
            leave(self.store, self.group, self.attempt, error)
        else:
            self._abort([failure_of(self.group, error)])

    def finish(self) -> Checkpoint:
        """Write this share, and wait until the shares of all are committed.

        Raises:
            CheckpointError: as for `save`.
        """
        self._has_begun = True
        return self._follow() if self.content is None else self._lead(self.content)

    # The work of process 0.

    def _lead(self, content: Content) -> Checkpoint:
        store, group = self.store, self.group
        try:
            waiting.for_notes(store, self.attempt, "JOIN", group.count, group.timeout)
            content, orders = self._with_values(content)
            with contextlib.suppress(FileExistsError):  # only the answer was lost
                store.create(names.started(self.attempt), b"")
            own = self._write()
            waiting.for_notes(store, self.attempt, "PART", group.count, group.timeout)
            draft = self._merge(content, orders, own)
            mark = commit.hold(store, draft.manifest, self._look)
        except Failed as failed:
            self._abort(failed.failures)
            raise error_of(self.url, failed.failures) from None
        except BaseException as error:
            self.give_up(error)
            raise
        try:
            commit.publish_held(store, draft.manifest, draft.data, self.replaced, mark)
        except (AlreadyCommittedError, StorageError) as error:  # it never will be committed
            self.give_up(error)
            raise
        group.heard(self.topic)
        self._saved()
        return Checkpoint(self.url, draft.manifest, [draft.index])

    def _look(self, sizes: Mapping[str, int]) -> None:
        waiting.raise_failures(self.store, self.attempt, sizes)

    def _notes(self, kind: names.Note) -> Sequence[tuple[bytes, str]]:
        """Return the notes of the others, and their places."""

        def read(number: int) -> tuple[bytes, str]:
            name = names.note(kind, self.attempt, number)
            try:
                return self.store.read(name, NOTE_NBYTES), f"{self.url}: {name}"
            except FileNotFoundError:
                raise commit.collected(self.store, self.attempt) from None

        others = range(1, self.group.count)
        return concurrency.map(read, others, self.store.traffic.reads, name="ckptstore-note")

    def _with_values(self, content: Content) -> tuple[Content, Sequence[Sequence[int]]]:
        """Return the contents with the values of each process, and the order of its leaves."""
        if not self.own:
            return content, [self.leaves] * self.group.count
        notes = [(Joining.decode(*note).tables, note[1]) for note in self._notes("JOIN")]
        others = [decode_tables([tables], where=where) for tables, where in notes]
        return content.with_values(self.own, others, self.leaves, self.common)

    def _merge(self, content: Content, orders: Sequence[Sequence[int]], own: Part) -> Draft:
        """Merge the parts, and write the index if it does not fit in the manifest."""
        store, notes = self.store, self._notes("PART")
        others = [Part.decode(data, self.attempt, where) for data, where in notes]
        files, spans = merge([own, *others], orders)
        draft = seal(content.draft(files, spans), spans.digests)
        if (file := draft.index_file) is not None:
            store.put(file.name, [draft.index], len(draft.index))
            store.flush()
        return draft

    def _abort(self, failures: Sequence[Failure]) -> None:
        """Say that the attempt is not committed and never will be, and remove its files."""
        note = names.aborted(self.attempt)
        with contextlib.suppress(CheckpointError, FileExistsError):
            self.store.create(note, encode_failures(failures))
        deletion.discard(self.store, self.attempt, ())

    # The work of each other process.

    def _follow(self) -> Checkpoint:
        try:
            if not waiting.for_start(self.store, self.attempt, self.group.timeout):
                raise twice(self.url, self.group)  # all that it counts on have handed in
        except Failed as failed:
            raise error_of(self.url, failed.failures) from None
        except BaseException as error:
            self.give_up(error)
            raise
        try:
            part = self._write().encode()
            waiting.verdict(self.store, self.attempt)
        except Failed as failed:
            self._remove()
            raise error_of(self.url, failed.failures) from None
        except BaseException as error:
            self.give_up(error)
            self._remove(notes=False)  # process 0 has yet to read them
            raise
        self._hand_in(part)
        # From here on, only process 0 may say that the data are not needed.
        manifest = self._await().manifest()
        self._saved()
        parts = self._read_index if manifest.index is None else [manifest.index]
        return Checkpoint(self.url, manifest, parts)

    def _hand_in(self, part: bytes) -> None:
        """Create the note that holds the part. It fails only if no commit can name the part.

        The data stay after an error, too: process 0 removes them. It also removes the note once it
        has committed, so a note that is not there may have been there.
        """
        name = names.note("PART", self.attempt, self.group.index)
        try:
            self.store.create(name, part)
        except (FileExistsError, OutcomeUnknownError):
            pass  # its own, because no other process could join with this number
        except CheckpointError as error:
            if self._is_not_handed_in(name):
                self.give_up(error)
                raise

    def _is_not_handed_in(self, name: str) -> bool:
        """Return whether the note with the part is not there, and never was."""
        try:
            return not self.store.holds(name) and waiting.verdict(self.store, self.attempt) is None
        except (CheckpointError, Failed):
            return False

    def _await(self) -> Committed:
        """Wait until process 0 has committed or given up."""
        store, group = self.store, self.group
        text = (
            f"{self.url}: process 0 said for {2 * group.timeout:g} s neither that the save is "
            "committed nor that it failed; nothing was removed; see whether process 0 runs, and "
            "load the checkpoint to see whether it exists"
        )
        unknown = OutcomeUnknownError(text)
        try:
            holder = waiting.for_verdict(store, self.attempt, group.timeout)
            if holder is None:
                self.give_up(unknown)
                holder = waiting.verdict(store, self.attempt)
            if holder is not None:
                store.flush()  # process 0 may not have come to it yet
        except Failed as failed:
            self._remove()
            raise error_of(self.url, failed.failures) from None
        except CheckpointError as error:
            raise OutcomeUnknownError(f"{text} ({error})") from error
        if holder is None:
            raise unknown
        return holder

    def _remove(self, *, notes: bool = True) -> None:
        """Remove the files of this process, which no manifest names or will name."""
        deletion.discard(self.store, self.attempt, self._names, self.group.index, notes=notes)

    def _read_index(self) -> Sequence[bytes]:
        """Return the parts of the index, for the description of the checkpoint."""

        def parts(snapshot: Snapshot) -> Sequence[bytes]:
            if snapshot.manifest.attempt != self.attempt:
                raise NotCommittedError(
                    f"{self.url}: the checkpoint of this save (attempt {self.attempt}) was "
                    "overwritten; inspect the place to describe the one that is there now"
                )
            return snapshot.index_parts

        with storage.open(self.place, self.options) as store:
            return read_snapshot(store, parts, some=True)

    # The work of all.

    def _write(self) -> Part:
        """Write the data files of this process, but for those that it takes over."""
        store, index, nbytes = self.store, self.group.index, self.staging.nbytes
        previous, comparison, linked = self._before, None, set[int]()
        if previous is not None and self.series is not None:
            comparison = incremental.compare(
                previous, nbytes, self.staging.read, self.series.keep_full_every
            )
            new = comparison.names(self.attempt, index)
            self._names += new.values()
            linked = link_files(store, previous, new)
        placement, files = place_files(
            nbytes, self.attempt, previous, comparison, linked, process=index, total=self.total
        )
        self._names += [file.name for file in files]
        store.expect(sum(placement.file_nbytes[placement.taken :]))
        samples = dict(comparison.samples) if comparison is not None else {}
        job = Job(placement, self.staging, samples)
        write_files(store, [file.name for file in files], job)
        store.flush()
        spans = span_table(placement, job.digests)
        misses = comparison.misses if comparison is not None else {}
        directory = self.url.rpartition("/")[2]
        self._share = incremental.previous(directory, files, spans, job.samples, misses)
        places = np.argsort(np.array(self.leaves, np.int64))  # the place of each leaf
        return Part(files, dataclasses.replace(spans, leaf=places[spans.leaf]))

    def _saved(self) -> None:
        """Let the next joint save of this process take over the files of this one."""
        if self.series is not None and self.series.share is self._before:
            self.series.share = self._share
