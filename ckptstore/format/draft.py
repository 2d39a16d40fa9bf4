"""A manifest and an index that are encoded and checked before their digests are known.

The digests have a fixed size and fixed places, so they are put into the encoded bytes once the data
files are written: nothing is encoded twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ckptstore.digests import Digest, digest
from ckptstore.errors import CorruptError, Reason
from ckptstore.format import manifest as manifests
from ckptstore.format.index import INDEX_MAX_NBYTES, Index, encode_index, with_digests
from ckptstore.format.manifest import (
    File,
    Manifest,
    decode_manifest,
    encode_manifest,
    sealed,
    version_of,
)
from ckptstore.format.names import file_name
from ckptstore.format.validate import decode_index
from ckptstore.format.wire import DIGEST_NBYTES


@dataclass(frozen=True, slots=True)
class Draft:
    """The bytes of a manifest and its index.

    Attributes:
        manifest: the manifest as a reader decodes it.
        data: the bytes of `MANIFEST`.
        index: the bytes of the index, which are also in the manifest if they fit.
    """

    manifest: Manifest
    data: bytes
    index: bytes

    @property
    def nbytes(self) -> int:
        """The number of bytes of the files that hold them."""
        return len(self.data) + (len(self.index) if self.manifest.index is None else 0)

    @property
    def index_file(self) -> File | None:
        """The file that holds the index; None if the index is in the manifest."""
        return self.manifest.files[-1] if self.manifest.index is None else None


def encode_draft(manifest: Manifest, index: Index, metadata: bytes) -> Draft:
    """Encode a manifest and its index, and run every check of a reader on the bytes.

    Args:
        manifest: the manifest without its index; its metadata are ignored.
        index: all tables; a digest that is not known yet is 16 zero bytes.
        metadata: the encoded metadata.

    Raises:
        CorruptError: with the reason of the first check that fails.
    """
    manifest = dataclasses.replace(manifest, version=version_of(index.types))
    encoded = encode_index(index)
    if len(encoded) > INDEX_MAX_NBYTES:
        raise CorruptError(
            f"the index has {len(encoded)} bytes, more than the {INDEX_MAX_NBYTES} allowed",
            reason=Reason.TOO_MANY,
        )
    data = b""
    inside = len(encoded) <= manifests.MANIFEST_MAX_NBYTES
    if inside:
        data = encode_manifest(dataclasses.replace(manifest, index=encoded), metadata)
        inside = len(data) <= manifests.MANIFEST_MAX_NBYTES
    if not inside:
        name = file_name("index", manifest.attempt, 0, 0)
        file = File(name, len(encoded), "index", bytes(DIGEST_NBYTES))
        outside = dataclasses.replace(manifest, files=[*manifest.files, file], index=None)
        data = encode_manifest(outside, metadata)
    decoded = decode_manifest(data, where="manifest")
    decode_index([encoded], decoded.files, where="manifest")
    return Draft(decoded, data, encoded)


def seal(draft: Draft, digests: Sequence[Digest]) -> Draft:
    """Return a draft with the digests of its spans and those of its manifest and index."""
    manifest, index = draft.manifest, with_digests(draft.index, digests)
    if manifest.index is not None:
        manifest = dataclasses.replace(manifest, index=index)
    else:
        file = dataclasses.replace(manifest.files[-1], digest=digest(index))
        manifest = dataclasses.replace(manifest, files=[*manifest.files[:-1], file])
    return Draft(manifest, sealed(draft.data, manifest), index)
