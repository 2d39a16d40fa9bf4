"""Every order in which the storage calls of a few actors can come, on a model of a store.

An actor is a function that uses ckptstore. It is run again and again with the answers that its
calls had so far, until it asks for something that was not answered yet: so its next call is known
for each history, without threads. States that are the same (what the store holds, and what each
actor has seen) are explored once, however many orders lead there.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import ckptstore
from ckptstore import concurrency
from ckptstore import storage as storage_package
from ckptstore.checkpoint import garbage, manifest_file
from ckptstore.format import names
from ckptstore.handling import duplicate
from ckptstore.saving import attempt, contents
from ckptstore.storage.base import Traffic

OLD, YOUNG = 0.0, 1000.0  # when files were changed, by the store's clock, which stands at YOUNG
GRACE = 500.0

Call = tuple[Any, ...]
Answer = tuple[str, Any]  # "is" and a value, or "raises" and the class of an exception
Files = tuple[tuple[str, bytes, float], ...]  # sorted by name


class _Pause(BaseException):
    """The next call has no answer yet."""


class Model:
    """A `Storage` that hands each call to `ask`. Calls that nobody else can see are left out.

    Args:
        ask: answers a call, or raises.
        listing: "at once"; "stat", as a disk lists names and then looks at each in their order, or
            "stat backwards"; "pages" of one.
        loses: the answer of the first commit that is asked for, so that the client library below
            asks again.
    """

    traffic = Traffic(writes=1, reads=1, piece_nbytes=1 << 20, alone_nbytes=1 << 20, gap_nbytes=64)
    url = "model"

    def __init__(self, ask: Callable[[Call], Any], listing: str, loses: bool = False) -> None:
        self._ask = ask
        self._listing = listing
        self._loses = loses

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def prepare(self, *, swap: bool = False) -> None:
        pass

    def expect(self, nbytes: int) -> None:
        pass

    def refuse_link(self) -> None:
        pass

    def put(self, name: str, chunks: Iterable[Any], nbytes: int) -> None:
        self._ask(("put", name, b"".join(bytes(chunk) for chunk in chunks)))

    def link(self, name: str, origin: Model, source: str, nbytes: int) -> bool:
        return origin is self and bool(self._ask(("link", name, source, nbytes)))

    def is_same(self, other: Model) -> bool:
        return other is self

    def flush(self) -> None:
        pass

    def create(self, name: str, data: bytes) -> None:
        self._commit(("create", name, bytes(data)))

    def swap(self, name: str, data: bytes, expected: bytes) -> None:
        self._commit(("swap", name, bytes(data), expected))

    def sizes(self, names: Sequence[str], among: int = 0) -> Mapping[str, int]:
        found = self.list()
        return {name: found[name] for name in names if name in found}

    def get(self, name: str, offset: int, buffer: Any) -> None:
        view = memoryview(buffer).cast("B")
        view[:] = self._ask(("get", name, offset, view.nbytes))

    def read(self, name: str, limit: int) -> bytes:
        data: bytes = self._ask(("read", name))
        return data[: limit + 1]

    def holds(self, name: str) -> bool:
        found: bool = self._ask(("holds", name))
        return found

    def list(self) -> Mapping[str, int]:
        return {name: nbytes for name, (nbytes, _) in self._list().items()}

    def changed(self) -> Mapping[str, float]:
        return {name: time for name, (_, time) in self._list().items()}

    def delete(self, name: str, expected: bytes | None = None) -> None:
        self._ask(("delete", name, expected))

    def delete_many(self, names: Sequence[str]) -> None:
        """A batch is not one step: a file goes after the other, from either end, or stays."""
        first: ckptstore.CheckpointError | None = None
        for name in names if self._listing == "at once" else reversed(names):
            try:
                self.delete(name)
            except ckptstore.CheckpointError as error:
                first = first or error
        if first is not None:
            raise first

    def unfinished(self) -> Mapping[str, float]:
        return {}

    def abort(self, name: str) -> None:
        pass

    def remove(self) -> None:
        pass

    def children(self) -> Sequence[str]:
        return []

    def holders(self, name: str) -> Sequence[str]:
        return []

    def exists(self) -> bool:
        return True

    def parent(self) -> tuple[Model, str]:
        return self, ""

    def stop(self) -> None:
        pass

    def _commit(self, call: Call) -> None:
        if self._loses and call[1] == names.MANIFEST:
            self._loses = False
            with contextlib.suppress(OSError):
                self._ask(call)
        self._ask(call)

    def _list(self) -> dict[str, tuple[int, float]]:
        if self._listing == "at once":
            return dict(self._ask(("list",)))
        if self._listing.startswith("stat"):
            names = [name for name, _ in self._ask(("list",))]
            names = names[::-1] if self._listing == "stat backwards" else names
            rows = [(name, self._ask(("stat", name))) for name in names]
            return {name: found for name, found in rows if found is not None}
        found, after = {}, ""
        while (page := self._ask(("page", after))) is not None:
            after, found[page[0]] = page
        return found


def apply(files: Files, call: Call, fair: bool) -> tuple[Files, Answer]:
    """Return what the store holds after a call, and the answer."""
    held = {name: (data, time) for name, data, time in files}
    kind, *rest = call
    if kind == "list":
        return files, ("is", tuple((n, (len(d), t)) for n, d, t in files))
    if kind == "page":
        later = [(n, (len(d), t)) for n, d, t in files if n > rest[0]]
        return files, ("is", later[0] if later else None)
    name = rest[0]
    data, time = held.get(name, (None, 0.0))
    if kind == "stat":
        return files, ("is", None if data is None else (len(data), time))
    if kind == "holds":
        return files, ("is", data is not None)
    if kind == "link":
        data = held.get(rest[1], (b"", 0.0))[0]
        if len(data) != rest[2]:
            return files, ("is", False)
        held[name] = data, _time(name, fair)
        return tuple(sorted((n, d, t) for n, (d, t) in held.items())), ("is", True)
    if kind == "put" or kind == "create":
        if kind == "create" and data is not None:
            return files, ("raises", FileExistsError)
        held[name] = rest[1], _time(name, fair)
    elif kind == "delete":
        if data is not None and rest[1] in (None, data):
            del held[name]
    elif data is None:
        return files, ("raises", FileNotFoundError)
    elif kind == "read":
        return files, ("is", data)
    elif kind == "get":
        return files, ("is", data[rest[1] : rest[1] + rest[2]])
    else:
        assert kind == "swap"
        if data != rest[2]:
            return files, ("raises", FileExistsError)
        held[name] = rest[1], _time(name, fair)
    return tuple(sorted((n, d, t) for n, (d, t) in held.items())), ("is", None)


def _time(name: str, fair: bool) -> float:
    """The worst case: data is old as soon as it is there. Unfair: the manifest is so, too."""
    if names.attempt_of(name) is not None or (name == names.MANIFEST and not fair):
        return OLD
    return YOUNG


@dataclass(frozen=True)
class Actor:
    """Something that uses the store; the same run gets the same random names each time."""

    name: str
    run: Callable[[], Any]
    loses: bool = False


@dataclass
class _Node:
    """What an actor has seen so far, and what it does next."""

    number: int
    answers: tuple[Answer, ...]
    call: Call | None = None
    outcome: str = ""  # how it ended, where `call` is None
    after: dict[Answer, _Node] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What the store holds and how each actor ended ("" for one that did not)."""

    files: Files
    outcomes: Mapping[str, str]
    trace: Callable[[], list[str]]

    @property
    def over(self) -> bool:
        return all(self.outcomes.values())


class World:
    """Actors on one store."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        actors: Sequence[Actor],
        *,
        listing: str = "at once",
        fair: bool = True,
        before: Files = (),
    ) -> None:
        self.actors = actors
        self.before = before
        self._fair = fair
        self._listing = listing
        self._nodes = 0
        self._storage: Model | None = None
        self._seed, self._drawn = "", 0
        self._loaded: dict[Files, str] = {}
        self.source: Files = ()  # a checkpoint in another store, which nobody changes
        patch.setattr(storage_package, "open", self._open)
        for module in (attempt, duplicate):
            patch.setattr(module, "secrets", SimpleNamespace(token_hex=self._hex))
        patch.setattr(contents, "time", SimpleNamespace(time_ns=lambda: 0))
        patch.setattr(garbage, "os", SimpleNamespace(urandom=self._bytes))
        patch.setattr(concurrency, "pause", lambda seconds: None)  # it would last in each order

    def _open(self, url: str, *_: Any, **__: Any) -> Model:
        if url != "source":
            assert self._storage is not None
            return self._storage
        return Model(lambda call: _give(apply(self.source, call, self._fair)[1]), self._listing)

    def alone(self, run: Callable[[], Any], files: Files = (), seed: str = "alone") -> Files:
        """Let one function run without anybody else, and return what the store then holds."""
        return self._alone(run, files, seed)[0]

    def load(self, files: Files) -> str:
        """Return what a reader finds now."""
        if files not in self._loaded:
            self._loaded[files] = self._alone(read, files, "load")[1]
        return self._loaded[files]

    def explore(self, at_most: int | None = None) -> Iterator[tuple[State, int]]:
        """Give every state that can be reached, and in how many orders.

        With `at_most`, of the states after each number of calls so many are followed, by chance.
        """
        chance = random.Random(1)
        roots = tuple(self._node(actor, ()) for actor in self.actors)
        first = (self.before, tuple(node.number for node in roots))
        layer: dict[Any, list[Any]] = {first: [1, roots, None, ""]}
        while layer:
            following: dict[Any, list[Any]] = {}
            if at_most is not None and len(layer) > at_most:
                layer = {key: layer[key] for key in chance.sample(list(layer), at_most)}
            for key, entry in layer.items():
                orders, nodes, _, _ = entry
                outcomes = {a.name: n.outcome for a, n in zip(self.actors, nodes, strict=True)}
                yield State(key[0], outcomes, partial(_trace, entry)), orders
                for which, actor in enumerate(self.actors):
                    node = nodes[which]
                    if node.call is None:
                        continue
                    files, answer = apply(key[0], node.call, self._fair)
                    if answer not in node.after:
                        node.after[answer] = self._node(actor, (*node.answers, answer))
                    then = (*nodes[:which], node.after[answer], *nodes[which + 1 :])
                    state = (files, tuple(node.number for node in then))
                    shown = f"{actor.name}: {_shown(node.call)} -> {_answer(answer)}"
                    following.setdefault(state, [0, then, entry, shown])[0] += orders
            layer = following

    def _node(self, actor: Actor, answers: tuple[Answer, ...]) -> _Node:
        """Find out what an actor does after these answers."""
        self._nodes += 1
        node, given = _Node(self._nodes, answers), iter(answers)

        def ask(call: Call) -> Any:
            answer = next(given, None)
            if answer is None:
                node.call = node.call or call  # what it does after this is not for anybody
                raise _Pause
            return _give(answer)

        outcome = self._run(actor.run, ask, actor.name, actor.loses)
        if node.call is None:
            node.outcome = outcome
        return node

    def _alone(self, run: Callable[[], Any], files: Files, seed: str) -> tuple[Files, str]:
        def ask(call: Call) -> Any:
            nonlocal files
            files, answer = apply(files, call, self._fair)
            return _give(answer)

        outcome = self._run(run, ask, seed)
        return files, outcome

    def _run(
        self, run: Callable[[], Any], ask: Callable[[Call], Any], seed: str, loses: bool = False
    ) -> str:
        self._storage, self._seed, self._drawn = Model(ask, self._listing, loses), seed, 0
        try:
            return f"returned {run()}"
        except ckptstore.CheckpointError as error:
            return f"{type(error).__name__} {error.reason}"
        except _Pause:
            return ""

    def _bytes(self, size: int) -> bytes:
        self._drawn += 1
        return hashlib.sha256(f"{self._seed} {self._drawn}".encode()).digest()[:size]

    def _hex(self, size: int) -> str:
        return self._bytes(size).hex()


def read() -> str:
    """A reader, which says whose checkpoint it got."""
    found = ckptstore.load("model")
    assert found["leaf"].tolist() == leaf(found["who"])
    return str(found["who"])


def leaf(who: str) -> list[int]:
    return [*who.encode()] * 3


def _give(answer: Answer) -> Any:
    if answer[0] == "raises":
        raise answer[1]
    return answer[1]


def _trace(entry: Any) -> list[str]:
    lines = []
    while entry[2] is not None:
        lines.append(entry[3])
        entry = entry[2]
    return lines[::-1]


def _shown(call: Call) -> str:
    return " ".join(str(part)[:14] for part in call if not isinstance(part, bytes))


def _answer(answer: Answer) -> str:
    kind, value = answer
    if kind == "raises":
        return str(value.__name__)
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return "[" + " ".join(name[:10] for name, _ in value) + "]"
    if isinstance(value, bytes):
        return manifest_file.Committed.of(value, where="").attempt or f"{len(value)} bytes"
    return str(value)


def count(found: Iterable[tuple[State, int]]) -> Counter[str]:
    """Return the number of states and orders, and of the ways that it ended."""
    total = Counter[str]()
    for state, orders in found:
        total["states"] += 1
        if state.over:
            total["ends"] += 1
            total["orders"] += orders
    return total
