"""The proof that a store honours the conditions of a write, by an object of its own."""

from __future__ import annotations

import contextlib
import os

from ckptstore.errors import CheckpointError, Reason, StorageError
from ckptstore.storage import listing
from ckptstore.storage.clients.base import ABSENT, Kind, Version
from ckptstore.storage.retry import Requests

_CONTENT = b"ckptstore"

_proven: dict[tuple[str, str], str] = {}
"""(endpoint, root) of the stores that have given the proof, in this process.

With the version that the store gave and then did not take: "" if it took its own version.
"""


def prove(requests: Requests, prefix: str, *, swap: bool) -> None:
    """Check that a store honours conditions, unless that is known.

    Args:
        requests: the bucket.
        prefix: the prefix of the keys of a directory.
        swap: the save overwrites, so a write must succeed on the condition that the store's own
            version holds.

    Raises:
        StorageError: reason ``not-atomic``; reason ``not-supported``: an overwrite cannot succeed;
            or the store refused the first write.
    """
    store = requests.link.client.endpoint, requests.root
    if store not in _proven or (swap and _proven[store]):
        _proven[store] = _try(requests, prefix)
    if swap and _proven[store]:
        raise _no_swap(requests, prefix, _proven[store])


def _try(requests: Requests, prefix: str) -> str:
    """Write an object on each condition; return the version that the store does not take, or ""."""
    client = requests.link.client
    for _ in listing.pages(requests, prefix):  # a save needs this permission later
        pass
    key = f"{prefix}PROBE-{os.urandom(16).hex()}"
    try:
        _put(requests, key, _CONTENT, None)
        for condition, meaning in (
            (ABSENT, "that the object must not exist"),
            (client.foreign, "that the object has a given version"),
        ):
            if not _is_refused(requests, key, condition):
                raise _not_atomic(requests, prefix, meaning)
        _, version = requests.ask("read", key, lambda client, _: client.read(key, len(_CONTENT)))
        if not version:
            return "no version"
        return f"the version {version}" if _is_refused(requests, key, version) else ""
    finally:
        with contextlib.suppress(CheckpointError, FileNotFoundError):
            requests.ask("delete", key, lambda client, _: client.delete(key), Kind.MISSING)


def _put(requests: Requests, key: str, data: bytes, condition: Version | None) -> None:
    expected = () if condition is None else (Kind.CONDITION, Kind.MISSING)
    requests.ask("write", key, lambda client, _: client.put(key, data, condition), *expected)


def _is_refused(requests: Requests, key: str, condition: Version) -> bool:
    """Return whether the store refuses a write because its condition does not hold."""
    try:
        _put(requests, key, b"", condition)
    except (FileExistsError, FileNotFoundError):
        return True
    except StorageError as error:
        if error.reason != Reason.NOT_SUPPORTED:
            raise
    return False


def _not_atomic(requests: Requests, prefix: str, meaning: str) -> StorageError:
    return StorageError(
        f"{_store(requests, prefix)} does not honour the condition of a write {meaning}, so a "
        "commit there would not be atomic: two saves at once could destroy each other; save to "
        "another store, or, if only one process ever writes, pass "
        'storage_options={"ckptstore": {"assume_atomic": True}}',
        reason=Reason.NOT_ATOMIC,
    )


def _no_swap(requests: Requests, prefix: str, given: str) -> StorageError:
    return StorageError(
        f"{_store(requests, prefix)} gives {given} for an object and then refuses a write on the "
        "condition that it has it, so nothing can be overwritten there, and the old checkpoint is "
        "untouched; a proxy that changes ETags, as compression does, is often the cause: switch "
        "that off there, or save to a new place without overwrite=True",
        reason=Reason.NOT_SUPPORTED,
    )


def _store(requests: Requests, prefix: str) -> str:
    url = requests.at(prefix).rstrip("/")
    return f"{url}: this store ({requests.link.client.endpoint})"
