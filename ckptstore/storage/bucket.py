"""A directory in a bucket: conditional writes, and the meaning of their answers.

docs/commit.md describes their order and the reason for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypeVar

from ckptstore import concurrency
from ckptstore.digests import Buffer
from ckptstore.errors import CheckpointError, Reason, StorageError
from ckptstore.storage import listing, proof
from ckptstore.storage.atomic_upload import AtomicUpload
from ckptstore.storage.base import Expected, Storage, Traffic, WithoutLinks
from ckptstore.storage.clients.base import Kind, Version
from ckptstore.storage.conditional_write import ConditionalWrite
from ckptstore.storage.retry import PARALLEL, Requests

T = TypeVar("T")

_GET = Kind.MISSING, Kind.SHORT
_PAGE = 1000
"""The number of objects on a page of a listing."""


class BucketStorage(WithoutLinks):
    """One directory: the objects of a bucket below a prefix.

    Safe to use from many threads, and after a fork.

    Args:
        requests: the bucket.
        prefix: the prefix of all keys: empty, or with a slash at its end.
    """

    traffic = Traffic(
        writes=4, reads=PARALLEL, piece_nbytes=8 << 20, alone_nbytes=8 << 20, gap_nbytes=256 << 10
    )

    def __init__(self, requests: Requests, prefix: str) -> None:
        self.url = requests.at(prefix).rstrip("/")
        self._requests = requests
        self._prefix = prefix

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._requests.close()

    def __repr__(self) -> str:
        return f"BucketStorage({self.url!r})"

    def prepare(self, *, swap: bool = False) -> None:
        """Check, once for each process, that the store honours conditions, with a test object.

        Raises:
            StorageError: reason ``not-atomic`` or ``not-supported``, or the store refused the
                first write.
        """
        if not self._requests.settings.assume_atomic:
            proof.prove(self._requests, self._prefix, swap=swap)

    def put(self, name: str, chunks: Iterable[Buffer], nbytes: int) -> None:
        """Upload a new object."""
        self._requests.link.uploader.send(self._prefix + name, chunks, nbytes)

    def link(self, name: str, origin: Storage, source: str, nbytes: int) -> bool:
        """Copy an object within the bucket, and check the size of the copy."""
        if not isinstance(origin, BucketStorage) or not self._requests.is_same(origin._requests):
            return False
        key, copied = self._prefix + name, origin._prefix + source
        try:
            with concurrency.stopped_by(self._requests.link.uploader.stop):
                self._requests.ask(
                    "copy",
                    key,
                    lambda client, _: client.copy(copied, key, nbytes),
                    Kind.MISSING,
                    Kind.CONDITION,
                )
                if listing.size(self._requests, key) == nbytes:
                    return True
        except (FileNotFoundError, FileExistsError):
            pass
        except StorageError as error:
            if error.reason == Reason.UNAVAILABLE:
                raise
            if error.reason == Reason.NOT_SUPPORTED:
                return False
        with contextlib.suppress(CheckpointError), concurrency.stopped_by(None):
            self.delete(name)  # an attempt that seemed to fail may have made it
        return False

    def is_same(self, other: Storage) -> bool:
        """Compare the buckets, with their options, and the prefixes."""
        if not isinstance(other, BucketStorage) or self._prefix != other._prefix:
            return False
        return self._requests.is_same(other._requests)

    def stop(self) -> None:
        """Make the running uploads fail soon."""
        self._requests.link.uploader.stop.set()

    def flush(self) -> None:
        """Do nothing: an object's name is as durable as its bytes."""

    def put_atomic(
        self, name: str, chunks: Iterable[Buffer], nbytes: int, *, replace: bool
    ) -> None:
        """Store an object of any size; see `AtomicUpload`."""
        upload = AtomicUpload(self, self._requests, self._prefix)
        upload.send(name, chunks, nbytes, replace=replace)

    def create(self, name: str, data: bytes) -> None:
        """Store an object if none exists, in one request."""
        self._write(name).send("commit", data, None)

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        """Replace an object, in one request, if it still has the version that holds `expected`."""
        self._write(name).send("overwrite", data, expected)

    def sizes(self, names: Sequence[str], among: int = 0) -> Mapping[str, int]:
        """List the directory if that takes fewer requests, and ask by name for files not listed.

        Some servers cannot list, and some do not let you. Files in a bucket cannot be held open.
        """
        listed: Mapping[str, int] = {}
        try:
            listed = self.list() if len(names) > 1 + among // _PAGE else {}
        except StorageError as error:
            if error.reason == Reason.UNAVAILABLE:
                raise
        out = {name: listed[name] for name in names if name in listed}
        missing = [name for name in names if name not in out]
        found = concurrency.map(self._size, missing, PARALLEL, name="ckptstore-look")
        sizes = zip(missing, found, strict=True)
        return out | {name: size for name, size in sizes if size is not None}

    def get(self, name: str, offset: int, buffer: Buffer) -> None:
        """Read exactly the buffer's length."""
        key, view = self._prefix + name, memoryview(buffer).cast("B")
        if view.nbytes:  # some stores answer an empty range with the whole object
            self._requests.ask("read", key, lambda client, _: client.get(key, offset, view), *_GET)

    def version(self, name: str) -> Version:
        """Return the version of an object."""
        return self._write(name).read(0)[1]

    def read(self, name: str, limit: int) -> bytes:
        """Read a small object."""
        return self._write(name).read(limit)[0]

    def list(self) -> Mapping[str, int]:
        """List the objects directly below the prefix."""
        return self._names(
            size
            for page in listing.pages(self._requests, self._prefix)
            for size in page.sizes.items()
        )

    def delete(self, name: str, expected: bytes | None = None) -> None:
        """Remove an object; with `expected`, only the version that holds exactly those bytes.

        If the store does not know the condition, the object was looked at just before.
        """
        key = self._prefix + name

        def delete(version: Version | None) -> None:
            self._requests.ask(
                "delete",
                key,
                lambda client, _: client.delete(key, version),
                Kind.MISSING,
                Kind.CONDITION,
            )

        with contextlib.suppress(FileNotFoundError, FileExistsError):
            version = None if expected is None else self._write(name).version(expected)
            try:
                delete(version)
            except StorageError as error:
                if version is None or error.reason not in (Reason.NOT_SUPPORTED, Reason.STORAGE):
                    raise
                delete(None)

    def delete_many(self, names: Sequence[str]) -> None:
        """Remove objects by as few requests as the store takes.

        What the store does not say that it removed is asked for by itself: the answer to that says
        why not. A store that lacks such requests is not asked again by this process.
        """
        left, client = list(names), self._requests.link.client
        if client.batch and len(left) > 1:
            batches = [left[at : at + client.batch] for at in range(0, len(left), client.batch)]
            left = [name for batch in batches for name in self._left_of(batch)]
        failures = concurrency.map(self._failure_of, left, PARALLEL, name="ckptstore-delete")
        for failure in failures:
            if failure is not None:
                raise failure

    def _left_of(self, names: Sequence[str]) -> Sequence[str]:
        """Remove objects by one request, and return those that may still be there."""
        client, start = self._requests.link.client, len(self._prefix)
        if not client.batch:
            return names
        keys = [self._prefix + name for name in names]
        try:
            left: Sequence[str] = self._requests.ask(
                "delete", self._prefix, lambda client, _: client.delete_many(keys)
            )
        except StorageError as error:
            if error.reason == Reason.UNAVAILABLE:
                raise
            if error.reason in (Reason.NOT_SUPPORTED, Reason.STORAGE):
                client.batch = 0
            return names
        return [key[start:] for key in left]

    def _failure_of(self, name: str) -> StorageError | None:
        """Remove an object, and return the error if that fails."""
        try:
            self.delete(name)
        except StorageError as error:
            return error
        return None

    def changed(self) -> Mapping[str, float]:
        """Return the time at which each object was written."""
        return self._names(
            time
            for page in listing.pages(self._requests, self._prefix)
            for time in page.changed.items()
        )

    def unfinished(self) -> Mapping[str, float]:
        """Return the time at which each unfinished multipart upload began."""
        uploads = self._requests.ask(
            "list the uploads of", self._prefix, lambda client, _: client.uploads(self._prefix)
        )
        return self._names((upload.key, upload.begun) for upload in uploads)

    def abort(self, name: str) -> None:
        """Abort the unfinished uploads of one object."""
        self._requests.link.uploader.abort(self._prefix + name)

    def child(self, name: str) -> BucketStorage:
        """Return a subdirectory that shares the connections of this directory."""
        return BucketStorage(self._requests, f"{self._prefix}{name}/")

    def parent(self) -> tuple[BucketStorage, str]:
        """Return the parent, with this one's connections, and this one's name: "" for a bucket."""
        above, slash, name = self._prefix.removesuffix("/").rpartition("/")
        return BucketStorage(self._requests, above + slash), name

    def children(self) -> Sequence[str]:
        """List the subdirectories, with one request for each 1,000."""
        start = len(self._prefix)
        return [
            prefix[start:-1]
            for page in listing.pages(self._requests, self._prefix)
            for prefix in page.prefixes
        ]

    def holders(self, name: str, expected: Expected | None = None) -> Sequence[str]:
        """Find the subdirectories with an object of that name, in as few requests as possible.

        That is one listing of everything below. If its first page shows that this would take more
        requests than asking for each subdirectory, each is asked for.
        """
        first = listing.page(self._requests, self._prefix, "")
        rows = (key[len(self._prefix) :].partition("/") for key in first.sizes)
        below = {child for child, slash, _ in rows if slash}
        if first.token is None or len(below) > 1:
            holders = []
            for page in listing.pages(self._requests, self._prefix, "", first):
                parts = (key[len(self._prefix) :].split("/") for key in page.sizes)
                holders += [part[0] for part in parts if len(part) == 2 and part[1] == name]
            return [child for child in holders if expected is None or expected(child)]
        names = [child for child in self.children() if expected is None or expected(child)]
        holds = concurrency.map(
            lambda child: self.child(child).holds(name), names, PARALLEL, name="ckptstore-look"
        )
        return [child for child, is_holder in zip(names, holds, strict=True) if is_holder]

    def holds(self, name: str) -> bool:
        """Return whether an object exists."""
        try:
            self.read(name, 0)
            return True
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Do nothing: a prefix disappears with its last object."""

    def _write(self, name: str) -> ConditionalWrite:
        return ConditionalWrite(self._requests, self._prefix + name)

    def _size(self, name: str) -> int | None:
        """Return the size of an object; where you may not list, by asking for it alone."""
        key = self._prefix + name
        try:
            return listing.size(self._requests, key)
        except StorageError as error:
            if error.reason != Reason.PERMISSION:
                raise
        try:
            size: int = self._requests.ask(
                "read", key, lambda client, _: client.size(key), Kind.MISSING
            )
            return size
        except FileNotFoundError:
            return None

    def _names(self, rows: Iterable[tuple[str, T]]) -> dict[str, T]:
        """Return the rows directly below the prefix, by name."""
        start = len(self._prefix)
        names = ((key[start:], value) for key, value in rows)
        return {name: value for name, value in names if name and "/" not in name}
