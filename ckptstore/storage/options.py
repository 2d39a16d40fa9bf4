"""`storage_options`: the settings of this package, the secrets, and a client's other inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fsspec.config import conf  # type: ignore[import-untyped, unused-ignore]
from fsspec.utils import tokenize  # type: ignore[import-untyped, unused-ignore]

from ckptstore.errors import Reason, StorageError
from ckptstore.storage.clients.base import Settings

ENVIRONMENT = "AWS_", "AZURE_", "FSSPEC_", "GCSFS_", "GOOGLE_", "STORAGE_"
"""The prefixes of the environment variables that clients read."""

_OWN = "ckptstore"


def split(where: str, storage_options: Mapping[str, Any] | None) -> tuple[Settings, dict[str, Any]]:
    """Split options into ours, under the key ``ckptstore``, and those of the client library.

    Args:
        where: the URL, for messages.
        storage_options: the argument of the caller.

    Raises:
        StorageError: reason ``bad-options``.
    """
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise StorageError(
            f"{where}: storage_options is a {type(storage_options).__name__}, expected a dict",
            reason=Reason.BAD_OPTIONS,
        )
    options = dict(storage_options or {})
    if not all(isinstance(name, str) for name in options):
        raise StorageError(
            f"{where}: storage_options has a key that is not a str; use the option names of fsspec",
            reason=Reason.BAD_OPTIONS,
        )
    if "assume_atomic" in options:
        raise StorageError(
            f"{where}: storage_options has assume_atomic beside the options of the store, expected "
            "it inside; pass storage_options={'ckptstore': {'assume_atomic': True}}",
            reason=Reason.BAD_OPTIONS,
        )
    own = options.pop(_OWN, {})
    known = [field.name for field in fields(Settings)]
    if not isinstance(own, Mapping) or not set(own) <= set(known):
        found = ", ".join(map(str, own)) if isinstance(own, Mapping) else type(own).__name__
        raise StorageError(
            f"{where}: storage_options[{_OWN!r}] has {found:.200}; expected a dict with some of "
            + ", ".join(known),
            reason=Reason.BAD_OPTIONS,
        )
    for name, value in own.items():
        if name in ("timeout", "deadline"):
            fits = type(value) in (int, float) and value > 0
            expected = "a number of seconds, more than 0"
        else:
            fits, expected = type(value) is bool, "True or False"
        if not fits:
            found = value if type(value) in (int, float, bool) else f"a {type(value).__name__}"
            raise StorageError(
                f"{where}: storage_options[{_OWN!r}][{name!r}] is {found}, expected {expected}",
                reason=Reason.BAD_OPTIONS,
            )
    return Settings(**own), options


def fingerprint(protocol: str, bucket: str, options: Mapping[str, Any], settings: Settings) -> str:
    """Return a text that changes with anything that a client of a bucket is made from.

    These are the arguments, the environment and fsspec's configuration.
    """
    environment = {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT)}
    around = environment, conf.get(protocol)
    token: str = tokenize(protocol, bucket, dict(options), settings, around)
    return token
