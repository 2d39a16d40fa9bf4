"""The engines that connect processes, and the store of keys that each keeps for them.

An engine is looked for among the modules that the program has imported already. Its store needs no
collective: a process that is missing stops nobody.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore import ranks, signals
from ckptstore.distributed.word import Counts, Words

_SLICE = 1.0
"""The longest wait inside an engine, in seconds: only between two does Python see a signal."""

_SLOWEST = 0.5
"""The longest pause between two looks into the store of torch, in seconds."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that connects this process with others.

    Attributes:
        name: its module, such as ``"jax.distributed"``.
        index: the number of this process.
        count: the number of processes.
        words: the words of this process; None where the store of the engine cannot be reached.
        broadcast: a collective, for then.
    """

    name: str
    index: int
    count: int
    words: Words | None
    broadcast: Callable[[bytes], bytes]


def running() -> Engine | None:
    """Return the engine that connects this process with others; None if there is none."""
    return _jax() or _torch()


class JaxStore:
    """The store of keys of `jax.distributed`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        names = "key_value_set_bytes", "blocking_key_value_get_bytes"
        self._takes_bytes = all(hasattr(client, name) for name in names)

    def set(self, key: str, value: bytes) -> None:
        """Set a key."""
        try:
            self._set(key, value)
        except Exception as error:
            signals.pass_on(error)
            if "ALREADY_EXISTS" not in str(error):
                raise
            self.delete(key)
            self._set(key, value)

    def _set(self, key: str, value: bytes) -> None:
        if self._takes_bytes:
            self._client.key_value_set_bytes(key, value)
        else:
            self._client.key_value_set(key, base64.b64encode(value).decode())

    def get(self, key: str, seconds: float) -> bytes | None:
        """Return the value of a key, or None."""
        if seconds <= 0 and hasattr(self._client, "key_value_try_get_bytes"):
            return self._look(key)
        end = time.monotonic() + seconds
        left = seconds if seconds > 0 else _SLICE / 2  # The request itself may take that long.
        while left > 0:
            milliseconds = max(int(min(left, _SLICE) * 1000), 1)
            try:
                if self._takes_bytes:
                    return bytes(self._client.blocking_key_value_get_bytes(key, milliseconds))
                return base64.b64decode(self._client.blocking_key_value_get(key, milliseconds))
            except Exception as error:
                signals.pass_on(error)
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            left = end - time.monotonic()
        return None

    def _look(self, key: str) -> bytes | None:
        try:
            return bytes(self._client.key_value_try_get_bytes(key))
        except Exception as error:
            signals.pass_on(error)
            if "NOT_FOUND" not in str(error):
                raise
        return None

    def delete(self, key: str) -> bool:
        """Delete a key, and all below it."""
        with contextlib.suppress(TypeError):  # jax 0.4.20 deletes it and cannot convert the answer
            self._client.key_value_delete(key)
        return False


class TorchStore:
    """The store of keys of `torch.distributed`."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def set(self, key: str, value: bytes) -> None:
        """Set a key."""
        self._store.set(key, value)

    def get(self, key: str, seconds: float) -> bytes | None:
        """Return the value of a key, or None. A wait of torch's own would warn on stderr."""
        began = time.monotonic()
        while not self._store.check([key]):
            waited = time.monotonic() - began
            if waited >= seconds:
                return None
            time.sleep(min(max(waited / 10, 0.001), _SLOWEST, seconds - waited))
        return bytes(self._store.get(key))

    def delete(self, key: str) -> bool:
        """Delete a key; tell whether it was there."""
        return bool(self._store.delete_key(key))


_known: dict[str, tuple[Callable[[], object], Counts]] = {}
"""The client or store of each engine, which was there last, and the counts that belong to it."""


def _counts_of(name: str, client: Any) -> Counts:
    """Return the counts of an engine's client; a new client begins with new ones."""
    known = _known.get(name)
    if known is None or known[0]() is not client:
        known = _known[name] = (_reference(client), Counts())
    return known[1]


def _reference(client: Any) -> Callable[[], object]:
    """Return a function that gives the client; if possible it does not keep it alive.

    The store of torch holds its port until it is gone. The client of jax takes no weak reference.
    """
    try:
        return weakref.ref(client)
    except TypeError:
        return lambda: client


def _jax() -> Engine | None:
    name = "jax.distributed"
    if rank := ranks.of_jax():
        client = sys.modules["jax._src.distributed"].global_state.client
        words = Words(JaxStore(client), _counts_of(name, client))
        return Engine(name, rank.number, rank.count or 0, words, _one_to_all)
    jax: Any = sys.modules.get("jax")
    if jax is None or hasattr(sys.modules.get("jax._src.distributed"), "global_state"):
        return None
    with contextlib.suppress(AttributeError):  # a later jax, without these private names
        if jax.distributed.is_initialized() and jax.process_count() > 1:
            return Engine(name, jax.process_index(), jax.process_count(), None, _one_to_all)
    return None


def _torch() -> Engine | None:
    name = "torch.distributed"
    rank = ranks.of_torch()
    if rank is None:
        return None
    store, words = None, None
    with contextlib.suppress(Exception):  # a private name; and MPI has no store
        store = sys.modules[name].distributed_c10d._get_default_store()
    if store is not None:
        words = Words(TorchStore(store), _counts_of(name, store))
    return Engine(name, rank.number, rank.count or 0, words, _object_list)


def _one_to_all(data: bytes) -> bytes:
    """Broadcast by jax, whose arrays have one shape in all processes: the size comes first."""
    to_all = importlib.import_module("jax.experimental.multihost_utils").broadcast_one_to_all
    size = int(to_all(np.array(len(data), np.int32)))
    buffer = np.frombuffer(data.ljust(size, b"\0")[:size], np.uint8)
    return np.asarray(to_all(buffer)).astype(np.uint8).tobytes()


def _object_list(data: bytes) -> bytes:
    """Broadcast by torch."""
    box = [data]
    sys.modules["torch.distributed"].broadcast_object_list(box, src=0)
    return box[0]
