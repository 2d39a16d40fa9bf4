"""What a function of this wing looks at: an open reader, or a checkpoint that it opens itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ckptstore.reading import Reader, open_checkpoint

Source = Reader | str | os.PathLike[str]
"""A reader, or the URL of a checkpoint."""


@contextlib.contextmanager
def opened(source: Source, storage_options: Mapping[str, Any] | None = None) -> Iterator[Reader]:
    """Yield a reader; one that is opened here is closed at the end of the block."""
    if isinstance(source, Reader):
        yield source
        return
    with open_checkpoint(source, storage_options=storage_options) as reader:
        yield reader
