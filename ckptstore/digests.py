"""The digest of the format, xxh3-128: the one place that names the hash. Spec: section 3."""

from __future__ import annotations

from typing import Any

import xxhash

Buffer = Any
"""What `memoryview` takes; `collections.abc.Buffer` says so from Python 3.12 on."""
Digest = bytes


def digest(*buffers: Buffer) -> Digest:
    """Return the xxh3-128 digest (16 bytes, big-endian canonical form) of buffers joined."""
    if len(buffers) == 1:
        return xxhash.xxh3_128_digest(buffers[0])
    state = Hasher()
    for buffer in buffers:
        state.update(buffer)
    return state.digest()


Hasher = xxhash.xxh3_128
"""The same, of bytes that come a piece at a time: ``update(buffer)``, ``digest()``."""
