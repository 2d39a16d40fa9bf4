"""From a path or a URL to its storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ckptstore.errors import Reason, StorageError
from ckptstore.storage import urls
from ckptstore.storage.base import Storage
from ckptstore.storage.local import LocalStorage


def open(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    inside: bool = False,
) -> Storage:
    """Return the storage of a directory.

    Args:
        url: a path (relative, with ``~``, or os.PathLike), or a URL.
        storage_options: options of the store, as fsspec takes them. A local disk has none but those
            under the key ``ckptstore``.
        inside: it is a part of a larger directory, such as a step of a run, so that nothing is
            written or removed through it if it is a symbolic link.

    Raises:
        StorageError: reason ``bad-url``, ``bad-options``, ``no-such-store`` or
            ``missing-package``.
    """
    text = urls.text_of(url)
    if urls.is_remote(text):
        from ckptstore.storage import connect  # fsspec, which takes 0.1 s to import

        return connect.bucket(text, storage_options)
    path = urls.local_path(text)
    return LocalStorage(path, inside=inside, assume_atomic=_assumes_atomic(path, storage_options))


def _assumes_atomic(path: str, storage_options: Mapping[str, Any] | None) -> bool:
    """Check the options of a path, which are those of this package alone."""
    if not storage_options:
        return False
    from ckptstore.storage import options  # fsspec, which takes 0.1 s to import

    settings, others = options.split(path, storage_options)
    if others:
        raise StorageError(
            f"{path}: a local disk takes no storage_options, found {', '.join(others):.200}; leave "
            "them out",
            reason=Reason.BAD_OPTIONS,
        )
    return settings.assume_atomic
