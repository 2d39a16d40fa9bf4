"""One directory of files, on a disk or in a bucket: `open` returns its storage."""

from ckptstore.storage.base import Storage, Traffic
from ckptstore.storage.local import LocalStorage
from ckptstore.storage.notices import warn_once
from ckptstore.storage.opening import open
from ckptstore.storage.urls import absolute

__all__ = ["LocalStorage", "Storage", "Traffic", "absolute", "open", "warn_once"]
