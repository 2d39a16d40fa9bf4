"""The proof that a store honours the conditions of a write, by an object of its own."""

from __future__ import annotations

import contextlib
import os

from ckptstore.errors import CheckpointError, Reason, StorageError
from ckptstore.storage import listing
from ckptstore.storage.clients.base import ABSENT, Kind, Version
from ckptstore.storage.retry import Requests

_CONTENT = b"ckptstore"
_READS = 3

_NOT_TAKEN = {Reason.NOT_SUPPORTED, Reason.PERMISSION, Reason.STORAGE}
"""The reasons of a store, or of a guard before it, that takes no write with a condition."""

_KEPT = {Reason.PERMISSION, Reason.RETAINED}
"""The reasons of a store that lets nobody here replace an object, whatever the condition."""

_UNTOUCHED = "nothing can be overwritten there, and the old checkpoint is untouched"
_ANEW = "save to a new place without overwrite=True"
_VOUCH = (
    ", or, if only one process ever writes, pass "
    'storage_options={"ckptstore": {"assume_atomic": True}}'
)

_proven: dict[tuple[str, str], str] = {}
"""(endpoint, root) of the stores that have given the proof, in this process.

With the reason why nothing can be overwritten there: "" if it can.
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
        raise StorageError(
            f"{_store(requests, prefix)} {_proven[store]}", reason=Reason.NOT_SUPPORTED
        )


def _try(requests: Requests, prefix: str) -> str:
    """Write an object on each condition; return why nothing can be overwritten, or ""."""
    client = requests.link.client
    for _ in listing.pages(requests, prefix):  # a save needs this permission later
        pass
    key = f"{prefix}PROBE-{os.urandom(16).hex()}"
    absent = "that the object must not exist"
    try:
        try:
            with contextlib.suppress(FileExistsError):  # its own first try, whose answer was lost
                _put(requests, key, _CONTENT, ABSENT)
        except StorageError as error:
            if error.reason not in _NOT_TAKEN:
                raise
            _put(requests, key, _CONTENT, None)  # raises if no write at all is taken
            raise _not_atomic(requests, prefix, absent, f" ({_answer(error, key)})") from None
        if _refusal(requests, key, ABSENT) is None:
            raise _not_atomic(requests, prefix, absent)
        refusal = _refusal(requests, key, client.foreign)
        if refusal is None:
            raise _not_atomic(requests, prefix, "that the object has a given version")
        version = _version(requests, prefix, key)
        if isinstance(refusal, StorageError):
            return _not_replaced(refusal, key)
        return _why_not(requests, key, version)
    finally:
        with contextlib.suppress(CheckpointError, FileNotFoundError):
            requests.ask("delete", key, lambda client, _: client.delete(key), Kind.MISSING)


def _why_not(requests: Requests, key: str, version: Version) -> str:
    """Return why a write on the condition of the version just read fails, or ""."""
    refusal = _refusal(requests, key, version) if version else None
    if version and refusal is None:
        return ""
    if isinstance(refusal, StorageError):
        return _not_replaced(refusal, key)
    given = f"the version {version}" if version else "no version"
    return (
        f"gives {given} for an object, and then refuses a write on the condition that the object "
        f"has that version, so {_UNTOUCHED}; a proxy that changes ETags, as compression does, is "
        f"often the cause: switch that off there, or {_ANEW}{_VOUCH}"
    )


def _not_replaced(refusal: StorageError, key: str) -> str:
    """Return why nothing can be overwritten in a store that refuses every such write."""
    vouch = "" if refusal.reason in _KEPT else _VOUCH
    said = f"does not let you replace an object ({_answer(refusal, key)})"
    return f"{said}, so {_UNTOUCHED}; {_ANEW}{vouch}"


def _put(requests: Requests, key: str, data: bytes, condition: Version | None) -> None:
    expected = () if condition is None else (Kind.CONDITION, Kind.MISSING)
    requests.ask("write", key, lambda client, _: client.put(key, data, condition), *expected)


def _refusal(requests: Requests, key: str, condition: Version) -> Exception | None:
    """Return the refusal of a write whose condition does not hold; None if it was not refused.

    A StorageError says that the store takes no write of that kind, so nothing is replaced.
    """
    try:
        _put(requests, key, b"", condition)
    except (FileExistsError, FileNotFoundError) as error:
        return error
    except StorageError as error:
        if error.reason not in _KEPT | {Reason.NOT_SUPPORTED}:
            raise
        return error
    return None


def _version(requests: Requests, prefix: str, key: str) -> Version:
    """Return the version of the object, which must hold the bytes that were written."""
    for _ in range(_READS):  # the answer may be damaged on its way
        try:
            data, version = requests.ask(
                "read", key, lambda client, _: client.read(key, len(_CONTENT) << 8), Kind.MISSING
            )
        except FileNotFoundError:
            raise StorageError(
                f"{requests.at(key)}: was written, and is not there when it is read; an object of "
                "this store must show at once: check the endpoint, or save to another store",
                reason=Reason.NOT_ATOMIC,
            ) from None
        if data == _CONTENT:
            answer: Version = version
            return answer
    raise StorageError(
        f"{_store(requests, prefix)} keeps other bytes than it is sent (found {data!r:.80}, "
        f"expected {_CONTENT!r}); if it is one of S3, it may keep the checksums that boto sends "
        'behind them: pass storage_options={"config_kwargs": {"request_checksum_calculation": '
        '"when_required"}}',
        reason=Reason.NOT_SUPPORTED,
    )


def _answer(error: StorageError, key: str) -> str:
    """Return the answer of the store in an error of a request."""
    return str(error).partition(f"{key}: ")[2].partition(";")[0] or str(error)


def _not_atomic(requests: Requests, prefix: str, meaning: str, said: str = "") -> StorageError:
    return StorageError(
        f"{_store(requests, prefix)} does not honour the condition of a write {meaning}{said}, so "
        "a commit there would not be atomic: two saves at once could destroy each other; save to "
        f"another store{_VOUCH}",
        reason=Reason.NOT_ATOMIC,
    )


def _store(requests: Requests, prefix: str) -> str:
    url = requests.at(prefix).rstrip("/")
    return f"{url}: this store ({requests.link.client.endpoint})"
