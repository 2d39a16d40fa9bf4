"""The format's digest, xxh3-128. No other module names the hash. Spec: section 3."""

from __future__ import annotations

from typing import Any

import xxhash

Buffer = Any
"""Any argument of `memoryview`: `collections.abc.Buffer`, which Python has from 3.12 on."""
Digest = bytes


def digest(*buffers: Buffer) -> Digest:
    """Return the xxh3-128 digest (16 bytes, big-endian canonical form) of the joined buffers."""
    if len(buffers) == 1:
        return xxhash.xxh3_128_digest(buffers[0])
    state = Hasher()
    for buffer in buffers:
        state.update(buffer)
    return state.digest()


Hasher = xxhash.xxh3_128
"""The same for bytes that come a piece at a time: ``update(buffer)``, ``digest()``."""
