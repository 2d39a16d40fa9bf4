"""The file `MANIFEST` of a place, read and decoded once."""

from __future__ import annotations

from dataclasses import dataclass

from ckptstore.checkpoint import foreign_files
from ckptstore.errors import CheckpointError, CorruptError, Reason
from ckptstore.format import MANIFEST_MAX_NBYTES, Manifest, decode_manifest
from ckptstore.format.names import MANIFEST
from ckptstore.storage import Storage

SENDS = 10
"""The number of times that a request with an impossible answer is repeated."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The file `MANIFEST` of a place, decoded once.

    Attributes:
        data: its bytes.
        decoded: the manifest, or the error if this version cannot read it.
    """

    data: bytes
    decoded: Manifest | CheckpointError

    @classmethod
    def of(cls, data: bytes, *, where: str) -> Committed:
        """Decode the bytes of a manifest; `where` is their place, for the message of an error."""
        try:
            return cls(data, decode_manifest(data, where=where))
        except CheckpointError as error:
            return cls(data, _told(data, error, where).with_traceback(None))

    @property
    def attempt(self) -> str | None:
        """The id of the attempt; None if it cannot be read."""
        return self.decoded.attempt if isinstance(self.decoded, Manifest) else None

    @property
    def time(self) -> float | None:
        """The time at which its save began, in seconds since 1970; None if it cannot be read."""
        return self.decoded.time_ms / 1000 if isinstance(self.decoded, Manifest) else None

    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            CorruptError, UnsupportedError: as for `decode_manifest`.
        """
        if isinstance(self.decoded, Manifest):
            return self.decoded
        raise self.decoded


def committed(storage: Storage) -> Committed | None:
    """Return the committed manifest, or None if nothing is committed.

    Bytes that are not a manifest are read again, since the transfer may have damaged them.
    """
    data = committed_bytes(storage)
    for _ in range(SENDS):
        if data is None:
            return None
        holder = Committed.of(data, where=f"{storage.url}/{MANIFEST}")
        if holder.attempt is not None:
            return holder
        before, data = data, committed_bytes(storage)
        if data == before:
            return holder
    return None if data is None else Committed.of(data, where=f"{storage.url}/{MANIFEST}")


def committed_bytes(storage: Storage) -> bytes | None:
    """Return the bytes of `MANIFEST`, read once, or None if there is none."""
    try:
        return storage.read(MANIFEST, MANIFEST_MAX_NBYTES)
    except FileNotFoundError:
        return None


def attempt_of(holder: Committed | None) -> str | None:
    """Return the attempt of a manifest, or None if there is none or it cannot be read."""
    return None if holder is None else holder.attempt


def _told(data: bytes, error: CheckpointError, where: str) -> CheckpointError:
    """Return the error for bytes that are not a manifest, which names their kind."""
    if error.reason not in (Reason.BAD_MAGIC, Reason.TRUNCATED):
        return error
    lead = foreign_files.damage_of(data) or foreign_files.packed_of(data)
    if lead is not None:
        return CorruptError(f"{where}: not a ckptstore manifest, but {lead}", reason=error.reason)
    return CorruptError(
        f"{error}; restore the file from a copy, or load an older checkpoint", reason=error.reason
    )
