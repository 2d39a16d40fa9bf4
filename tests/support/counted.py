"""Counting the requests to `memory://`, by who sends them."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from ckptstore.storage.clients.memory import MemoryClient

_REQUESTS = ("read", "get", "put", "copy", "delete", "size", "page", "begin", "part", "finish")


def options(who: int = 0) -> dict[str, Any]:
    """Return the `storage_options` by which a test knows who sends a request."""
    return {"ckptstore": {"deadline": 300.0 + who}}


class Requests:
    """The requests to `memory://` from now on.

    `log` holds of each who sends it, its kind (`page` is a listing) and the last part of its key.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[int, str, str]] = []
        self._lock = threading.Lock()
        real = MemoryClient.__init__

        def init(client: Any, bucket: str, options: Any, settings: Any) -> None:
            real(client, bucket, options, settings)
            client.who = round(settings.deadline - 300.0)

        patch.setattr("ckptstore.storage.connect._clients", {})
        patch.setattr(MemoryClient, "__init__", init)
        for kind in _REQUESTS:
            self._count(patch, kind)

    def _count(self, patch: pytest.MonkeyPatch, kind: str) -> None:
        real = getattr(MemoryClient, kind)

        def counted(client: Any, key: Any, *rest: Any, **more: Any) -> Any:
            name = str(getattr(key, "key", key)).rpartition("/")[2]
            with self._lock:
                self.log.append((client.who, kind, name))
            return real(client, key, *rest, **more)

        patch.setattr(MemoryClient, kind, counted)

    def take(self) -> list[tuple[int, str, str]]:
        """Return the log, and begin a new one."""
        with self._lock:
            log, self.log = self.log, []
        return log


def kinds(log: list[tuple[int, str, str]], who: int = 0) -> Counter[str]:
    """Return how many requests of each kind somebody sent, with the kind of file."""
    rows = (row for row in log if row[0] == who)
    return Counter(f"{kind} {name.partition('-')[0]}".strip() for _, kind, name in rows)
