"""The stores that have their own client, by the protocol of their URLs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from ckptstore.storage.clients.base import Client


@dataclass(frozen=True, slots=True)
class Store:
    """A kind of store.

    Attributes:
        module: the module of its client, in this wing.
        client: the client's class.
        library: the library that it needs.
        extra: the extra of this package that installs the library.
        account_in_url: the bucket in a URL is ``CONTAINER@HOST``.
    """

    module: str
    client: str
    library: str
    extra: str
    account_in_url: bool = False

    def load(self) -> Callable[..., Client]:
        """Import the client's class.

        Raises:
            ImportError: the library is missing.
        """
        module = importlib.import_module(f"ckptstore.storage.clients.{self.module}")
        client: Callable[..., Client] = getattr(module, self.client)
        return client


_S3 = Store("s3", "S3Client", "s3fs", "s3")
_GCS = Store("gcs", "GCSClient", "gcsfs", "gcs")
_AZURE = Store("azure", "AzureClient", "adlfs", "azure", account_in_url=True)

STORES = {
    "s3": _S3,
    "s3a": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "az": _AZURE,
    "memory": Store("memory", "MemoryClient", "fsspec", ""),
}

OTHER = Store("fsspec", "FilesystemClient", "fsspec", "")
"""All other protocols of fsspec. Its client takes the protocol first."""
