"""Every order in which the calls of a save by several processes can come, and of others beside it.

As in `interleavings.py`, an actor is real code that is run again and again with the answers that
its calls had so far. Three things are added, because processes wait for each other:

- **Time.** Each actor has a clock of its own, which moves only while it pauses. A pause in a wait
  has two ends: the wait goes on, as if it had just begun, or more time than any timeout has passed.
  So each timeout happens after any number of looks, at any moment, in every order. An actor is
  "patient" if its clock never moves.
- **Faults.** A call may raise StorageError, done or not; the first answer of a `create` or a `swap`
  may be lost, so that the client library below asks again. A world has a budget of each.
- **Kills.** A killed process makes no more calls, so each state is one where any was killed. The
  invariants are checked in every state, and the others have their timeouts.

The word of the engine is a call, too: "say" adds one, "hear" has it or, late, None.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Processes
from ckptstore import storage as storage_package
from ckptstore.checkpoint import commit, deletion, garbage, manifest_file
from ckptstore.distributed import announcements, group, waiting
from ckptstore.distributed.slurm import JobStep
from ckptstore.format import Manifest, names
from ckptstore.saving import attempt, contents, joint_saves, staging
from ckptstore.saving.joint_attempt import JointAttempt
from tests.support import interleavings
from tests.support.interleavings import GRACE, OLD, Answer, Call, Files, Model, apply, leaf

JOINT, BEFORE = "new", "old"
LOST = "the answer is lost"
LATE = 1000.0
TIMEOUT = 1.5
_WORD = "~word"


class Broken(ckptstore.StorageError):
    """The fault of a store that is planted at a call."""

    def __init__(self) -> None:
        super().__init__("the store is on fire")


FAULT: Answer = ("raises", Broken)


class _Pause(BaseException):
    """The next call has no answer yet."""


class _Store(Model):
    """A client library that asks again where the answer of a create or a swap is lost."""

    def _commit(self, call: Call) -> None:
        if self._ask(call) == LOST:
            self._ask(call)


@dataclass(frozen=True)
class Actor:
    """Something that uses the store; `process`: its number, if it takes part in the joint save.

    `by_note`: it hears of the save by the note of process 0.
    """

    name: str
    run: Callable[[Orders], Any]
    process: int | None = None
    by_note: bool = False


def process(
    index: int,
    count: int = 3,
    *,
    as_index: int | None = None,
    by_note: bool = False,
    **options: Any,
) -> Actor:
    """Return a process of a joint save.

    Args:
        index: its number.
        count: the number of processes.
        as_index: the number that it says that it has.
        by_note: it is a task of Slurm, which hears no word.
        options: a changed `tree`, or arguments of `save`.
    """
    number = index if as_index is None else as_index

    def run(orders: Orders) -> str:
        tree = options.get("tree", joint_tree())
        together = group.connected(lambda: orders.words, number, count, TIMEOUT)
        if by_note:
            step = JobStep("job")
            together = Processes(number, count, step, timeout=TIMEOUT)
        orders.words.by_note = by_note
        others = {name: value for name, value in options.items() if name != "tree"}
        return ckptstore.save("model", tree, processes=together, **others).attempt[:4]

    return Actor("leader" if index == 0 else f"member {index}", run, number, by_note)


def joint_tree() -> dict[str, Any]:
    """A tree of which each of three processes writes one array."""
    arrays = {name: np.array(leaf(JOINT), np.int64) for name in ("leaf", "more", "most")}
    return {"who": JOINT, **arrays}


def saves(who: str, **options: Any) -> Actor:
    """Return a save by another program."""
    tree = {"who": who, "leaf": np.array(leaf(who), np.int64)}
    return Actor(who, lambda _: ckptstore.save("model", tree, **options).attempt[:4])


COLLECTOR = Actor("collector", lambda _: len(garbage.collect(storage_package.open("model"), GRACE)))
DELETER = Actor("deleter", lambda _: deletion.delete(storage_package.open("model")))


class _Words:
    """The words of an engine, for the process that runs now."""

    def __init__(self, ask: Callable[[Call], Any]) -> None:
        self._ask = ask
        self.calls = 0
        self.closed = False
        self.by_note = False
        self.misuse = ""

    def say(self, topic: str, data: bytes) -> None:
        self._count()
        self.misuse = self.misuse or ("two words" if self.calls > 1 else "")
        self._ask(("say", data))

    def hear(self, topic: str, seconds: float) -> bytes | None:
        self._count()
        word: bytes | None = self._ask(("hear", self.calls))
        return word

    def _count(self) -> None:
        self.calls += 1
        if self.closed:
            self.misuse = "j: the engine is asked after the beginning"

    def heard(self, topic: str) -> None:
        """It is known that all have heard it: no call of the engine that anybody waits for."""


@dataclass
class Node:
    """What an actor has seen so far, and what it does next."""

    number: int
    actor: int
    answers: tuple[Answer, ...]
    before: Node | None
    call: Call | None = None
    mark: int = 0  # the number of answers when the wait began that it pauses in
    outcome: str = ""
    kind: str = ""  # "success", "definite", "unknown" or, while it runs, ""
    faults: int = 0
    losses: int = 0
    has_joined: bool = False
    has_given_up: bool = False
    has_committed: bool = False
    after: dict[Answer, Node] = field(default_factory=dict)

    def history(self) -> list[tuple[Call, Answer]]:
        """Return its calls and their answers, the first one first."""
        rows, node = [], self
        while node.before is not None:
            assert node.before.call is not None
            rows.append((node.before.call, node.answers[-1]))
            node = node.before
        return rows[::-1]


@dataclass(frozen=True)
class Facts:
    """What matters of the files: see `Orders.wrong`."""

    committed: bool  # MANIFEST is that of the joint save
    whole: str  # "" or what is wrong with the checkpoint that is there
    aborted: bool
    held: bool  # the mark of the leader stands
    has_data: bool
    unfounded: tuple[str, ...]  # parts whose data are not there


State = tuple[int, ...]  # the number of the files, and that of the node of each actor


class Orders:
    """Actors on one store, and every order of their calls.

    Args:
        actors: the leader first, then the members, then others.
        old: an old checkpoint is there at the beginning.
        patient: no timeout passes.
        ticking: each pause lasts a second, and is no call: waits end by the count of their looks.
        faults, losses: how many calls of processes fail, and how many answers are lost.
        strict: nobody but collectors runs beside, so that what is committed stays.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        actors: Sequence[Actor],
        *,
        old: bool = False,
        patient: bool = False,
        ticking: bool = False,
        faults: int = 0,
        losses: int = 0,
        listing: str = "at once",
    ) -> None:
        self.actors = actors
        self.patient, self.ticking = patient, ticking
        self.faults, self.losses = faults, losses
        self.nodes: list[Node] = []
        self._files: list[Files] = []
        self._file_ids: dict[Files, int] = {}
        self._facts: list[Facts] = []
        self._choices: dict[tuple[int, int], list[tuple[int, Node, int, int]]] = {}
        self._loaded: dict[Files, str] = {}
        self._mark = self._at = self._drawn = self._round = 0
        self._left: tuple[int, int] | None = None  # where a wait began and ended
        self._clock = 0.0
        self._seed = ""
        self._over: dict[Any, Node] = {}  # how an actor ended is all that matters then
        self._answers: tuple[Answer, ...] = ()
        self._pending: tuple[Call, int] | None = None
        self._store = _Store(self._ask, listing)
        self.words: Any = None
        self._patch(patch)
        self._by_note = actors[0].by_note
        self.attempt = self._hex_of("leader", 1)
        if self._by_note:
            self.attempt = JobStep("job").attempt(storage_package.absolute("model"))
        numbers = [actor.process for actor in actors if actor.process is not None]
        self.twins = len(numbers) - len(set(numbers))
        self.others = [a.name for a in actors if a.process is None and a is not COLLECTOR]
        files = self.alone(saves(BEFORE), ())[0] if old else ()
        self.first = self._id(tuple((name, data, OLD) for name, data, _ in files))

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=lambda: self._clock, sleep=self._sleep)
        drawn = SimpleNamespace(urandom=self._bytes, fspath=str, PathLike=object)
        hexes = SimpleNamespace(token_hex=lambda size: self._bytes(size).hex())
        real_pauses, real_finish = waiting._pauses, JointAttempt.finish

        def pauses(seconds: tuple[float, float]) -> Iterator[None]:
            mark = self._mark = self._round = self._at
            try:
                yield from real_pauses(seconds)
            finally:  # the wait is over; without an error, this comes before its next call
                if self._pending is None and self._round > mark:
                    self._left = (mark, self._round)

        def finish(joint: JointAttempt) -> Any:
            assert (self.words.calls == 0) == self.words.by_note, "no word"
            self.words.closed = True
            return real_finish(joint)

        patch.setattr(storage_package, "open", lambda *_, **__: self._store)
        for module in (attempt, announcements):
            patch.setattr(module, "secrets", hexes)
        for module in (garbage, commit, joint_saves):
            patch.setattr(module, "os", drawn)
        for module in (waiting, group):
            patch.setattr(module, "time", clock)
        patch.setattr(contents, "time", SimpleNamespace(time_ns=lambda: 0))
        patch.setattr(joint_saves, "LARGE_NBYTES", 1)  # each process writes an array
        patch.setattr(waiting, "_pauses", pauses)
        patch.setattr(JointAttempt, "finish", finish)
        patch.setattr(staging.concurrency, "run", _one_by_one)

    @property
    def _mark_of_leader(self) -> str:
        """The random bytes of its mark, which it draws after the id and the token of its note."""
        return self._hex_of("leader", 2 if self._by_note else 3)

    # One actor.

    def _ask(self, call: Call) -> Any:
        if self._at < len(self._answers):
            kind, value = self._answers[self._at]
            self._at += 1
            if kind == "raises":
                raise value
            return value
        self._pending = self._pending or (call, self._mark)
        raise _Pause

    def _sleep(self, seconds: float) -> None:
        if not self.ticking:
            self._ask(("pause",))
            self._round = self._at
        self._clock += 1.0 if self.ticking else LATE

    def _bytes(self, size: int) -> bytes:
        self._drawn += 1
        return bytes.fromhex(self._hex_of(self._seed, self._drawn))[:size]

    def _hex_of(self, seed: str, number: int) -> str:
        return random.Random(f"{seed} {number}").randbytes(16).hex()

    def _run(self, actor: Actor, answers: tuple[Answer, ...]) -> tuple[str, str]:
        """Run an actor; return its outcome and of what kind it is, both "" if it goes on."""
        self._answers, self._pending, self._left = answers, None, None
        self._mark = self._at = self._drawn = self._round = 0
        self._clock, self._seed = 0.0, actor.name
        self.words = _Words(self._ask)
        try:
            return f"returned {actor.run(self)}", "success"
        except _Pause:
            return "", ""
        except ckptstore.OutcomeUnknownError as error:
            return f"{type(error).__name__} {error.reason}", "unknown"
        except ckptstore.CheckpointError as error:
            return f"{type(error).__name__} {error.reason}", "definite"
        except AssertionError as error:
            return f"wrong: {error}", "wrong"
        except Exception as error:
            return f"wrong: it raises {type(error).__name__}: {error}", "wrong"

    def _node(self, which: int, before: Node | None, answer: Answer | None) -> Node:
        """Find out what an actor does after one more answer."""
        if before is not None and answer is not None:
            if (known := before.after.get(answer)) is not None:
                return known
            node = Node(len(self.nodes), which, (*before.answers, answer), before)
            node.faults = before.faults + (answer == FAULT)
            node.losses = before.losses + (answer[1] == LOST)
            node.has_joined, node.has_committed = before.has_joined, before.has_committed
            node.has_given_up = before.has_given_up
            before.after[answer] = node
            assert before.call is not None
            kind, *rest = before.call
            node.has_joined |= which == 0 or (kind == "create" and rest[0].startswith("JOIN"))
            node.has_given_up |= kind == "create" and rest[0].startswith("ABORT")
            node.has_given_up |= kind == "delete" and rest[0].startswith("data")
            if kind in ("create", "swap") and rest[0] == names.MANIFEST:
                node.has_committed |= answer[0] == "is" or answer == FAULT  # it may be done
        else:
            node = Node(len(self.nodes), which, (), None)
        self.nodes.append(node)
        outcome, sort = self._run(self.actors[which], node.answers)
        left = self._left
        if self._pending is not None:
            node.call, node.mark = self._pending
            if left is not None and before is not None and answer is not None:
                before.after[answer] = node = self._shorter(node, *left)
        else:
            node.outcome, node.kind = outcome, sort
        actor = self.actors[which]
        if actor.process is not None and node.kind != "wrong":
            told = self.words.misuse or _wrong_by_itself(node, actor)
            if told:
                node.outcome, node.kind, node.call = f"wrong: {told}", "wrong", None
        if node.call is None and before is not None and answer is not None:
            did = (node.has_joined, node.has_committed, node.has_given_up)
            same = self._over.setdefault((which, node.outcome, node.faults, node.losses, did), node)
            before.after[answer] = node = same
        return node

    def _shorter(self, node: Node, mark: int, last: int) -> Node:
        """Return the node of an actor whose wait ended at its first look, if it goes on alike."""
        start, calls = node, list[Call | None]()
        while start.before is not None and len(start.answers) > mark:
            start = start.before
            calls.append(start.call)
        calls = calls[::-1][last - mark :]
        for answer, call in zip(node.answers[last:], calls, strict=True):
            if start.call != call:
                return node
            start = self._node(node.actor, start, answer)
        return start if start.call == node.call else node

    # The store.

    def _id(self, files: Files) -> int:
        if files not in self._file_ids:
            self._file_ids[files] = len(self._files)
            self._files.append(files)
            self._facts.append(self._facts_of(files))
        return self._file_ids[files]

    def _facts_of(self, files: Files) -> Facts:
        held = {name: data for name, data, _ in files}
        aborted = names.aborted(self.attempt) in held
        manifest = held.get(names.MANIFEST)
        holder = None if manifest is None else manifest_file.Committed.of(manifest, where="")
        decoded = None if holder is None else holder.decoded
        lost = ""
        if isinstance(decoded, Manifest):
            missing = [f.name for f in decoded.files if len(held.get(f.name, b"")) != f.nbytes]
            lost = f"{missing} missing" if missing else self._load(files)
        mine = [name for name in held if names.attempt_of(name) == self.attempt]
        data = [name for name in mine if not names.is_note(name)]
        written = {names.process_of(name) for name in data}
        handed = {names.process_of(name) for name in mine if name.startswith("PART")}
        mark = held.get(names.mark(self.attempt))
        return Facts(
            committed=isinstance(decoded, Manifest) and decoded.attempt == self.attempt,
            whole=lost,
            aborted=aborted,
            held=mark is not None and mark == bytes.fromhex(self._mark_of_leader),
            has_data=bool(data),
            unfounded=tuple(f"PART {n}" for n in handed - written),
        )

    def _load(self, files: Files) -> str:
        """Return "" if a reader finds a whole checkpoint, else what it finds."""
        kept = tuple(row for row in files if row[0].startswith(("MANIFEST", "data", "index")))
        if kept not in self._loaded:
            found = self.alone(Actor("load", lambda _: interleavings.read()), kept)[1]
            self._loaded[kept] = "" if found.startswith("returned") else found
        return self._loaded[kept]

    def alone(self, actor: Actor, files: Files) -> tuple[Files, str]:
        """Let one actor run alone; return what the store holds then, and its outcome."""
        saved = (self._answers, self._pending, self._at, self._mark, self._drawn, self._seed)
        saved_words, saved_clock = self.words, self._clock
        answers: tuple[Answer, ...] = ()
        while True:
            outcome, _ = self._run(actor, answers)
            if self._pending is None:
                break
            files, answer = _applied(files, self._pending[0])
            answers = (*answers, answer)
        self._answers, self._pending, self._at, self._mark, self._drawn, self._seed = saved
        self.words, self._clock = saved_words, saved_clock
        return files, outcome

    # All orders.

    def _following(self, files: int, node: Node) -> list[tuple[int, Node, int, int]]:
        """Return what can follow of one actor: files, node, and whether it is a fault or a loss."""
        key = (files, node.number)
        if (known := self._choices.get(key)) is not None:
            return known
        out: list[tuple[int, Node, int, int]] = []
        call, which = node.call, node.actor
        if call is None:
            pass
        elif call[0] == "pause":
            again, late = node, 0
            while len(again.answers) > node.mark:
                assert again.before is not None and again.before.call is not None
                again = again.before
                late += again.call == ("pause",)
            out.append((files, again, 0, 0))
            if not self.patient and late < 2:
                out.append((files, self._node(which, node, ("is", "late")), 0, 0))
        else:
            before = self._files[files]
            after, answer = _applied(before, call)
            if call[0] != "hear" or answer[1] is not None or not self.patient:
                out.append((self._id(after), self._node(which, node, answer), 0, 0))
            is_own = self.actors[which].process is not None and call[0] not in ("say", "hear")
            if self.losses and is_own and call[0] in ("create", "swap") and answer[0] == "is":
                out.append((self._id(after), self._node(which, node, ("is", LOST)), 0, 1))
            if self.faults and is_own:
                broken = self._node(which, node, FAULT)
                out.append((files, broken, 1, 0))
                if after != before:
                    out.append((self._id(after), broken, 1, 0))
        self._choices[key] = out
        return out

    def joined(self) -> State:
        """Return the state after the beginning: all have joined, and process 0 has not seen it."""
        state = self.roots()
        for which, actor in enumerate(self.actors):
            if actor.process is None:
                continue
            first = ("list",) if which == 0 else ("read", names.MANIFEST)
            node = self.nodes[state[which + 1]]
            while not (node.call == first and (node.has_joined or which == 0)):
                files, node, _, _ = self._following(state[0], node)[0]
                state = (files, *state[1 : which + 1], node.number, *state[which + 2 :])
        return state

    def roots(self) -> State:
        """Return the state in which nobody has done anything."""
        roots = [self._node(which, None, None).number for which in range(len(self.actors))]
        return (self.first, *roots)

    def explore(self, at_most: int | None = None, first: State | None = None) -> Counter[str]:
        """Check every state that can be reached.

        Args:
            at_most: of the states after each number of calls so many are followed, by chance.
            first: the state to begin with.

        Raises:
            AssertionError: an invariant is broken; the text has the order of the calls.
        """
        chance, total = random.Random(1), Counter[str]()
        state = self.roots() if first is None else first
        came: dict[State, tuple[State, int] | None] = {state: None}
        edges: list[tuple[State, State]] = []
        ends: list[State] = []
        layer, nodes = [state], self.nodes
        self.ended: set[int] = set()
        while layer:
            if at_most is not None and len(layer) > at_most:
                layer = chance.sample(layer, at_most)
            following: list[State] = []
            total["states"] += len(layer)
            for state in layer:
                here = [nodes[number] for number in state[1:]]
                if told := self.wrong(self._facts[state[0]], here):
                    raise AssertionError(f"{told}\n{self.told(came, state)}")
                if all(node.kind for node in here):
                    total["; ".join(f"{self.actors[n.actor].name} {n.outcome}" for n in here)] += 1
                    total["ends"] += 1
                    ends.append(state)
                    self.ended.add(state[0])
                    continue
                spent = sum(node.faults for node in here), sum(node.losses for node in here)
                for which, node in enumerate(here, 1):
                    for files, then, fault, loss in self._following(state[0], node):
                        if fault + spent[0] > self.faults or loss + spent[1] > self.losses:
                            continue
                        new = (files, *state[1:which], then.number, *state[which + 1 :])
                        if self.patient:
                            edges.append((state, new))
                        if new not in came:
                            came[new] = (state, which)
                            following.append(new)
            layer = following
        total["nodes"] = len(nodes)
        if self.patient and at_most is None:
            self._refuse_stuck(came, edges, ends)
        return total

    def _refuse_stuck(self, came: Any, edges: Any, ends: Sequence[State]) -> None:
        """Raise AssertionError if from some state no order leads to the end of all."""
        into: dict[State, list[State]] = {}
        for start, end in edges:
            into.setdefault(end, []).append(start)
        reach, todo = set(ends), list(ends)
        while todo:
            for start in into.get(todo.pop(), ()):
                if start not in reach:
                    reach.add(start)
                    todo.append(start)
        if stuck := [state for state in came if state not in reach]:
            raise AssertionError(f"without a timeout it never ends\n{self.told(came, stuck[-1])}")

    def told(self, came: Mapping[State, tuple[State, int] | None], state: State) -> str:
        """Return the order of the calls that leads to a state."""
        lines = [f"  then: {[self.nodes[n].outcome or 'runs' for n in state[1:]]}"]
        while (entry := came[state]) is not None:
            before, which = entry
            node, then = self.nodes[before[which]], self.nodes[state[which]]
            answer = then.answers[-1] if len(then.answers) > len(node.answers) else ("is", "again")
            assert node.call is not None
            name = self.actors[node.actor].name
            line = f"  {name}: {interleavings._shown(node.call)} -> {interleavings._answer(answer)}"
            lines.append(line)
            state = before
        return "\n".join(lines[::-1])

    def steps_alone(self, state: tuple[int, int]) -> int:
        """Return after how many calls an actor ends if all others are dead."""
        files, node = state[0], self.nodes[state[1]]
        steps = 0
        while node.call is not None:
            choices = [row for row in self._following(files, node) if not (row[2] or row[3])]
            files, node, _, _ = choices[-1]
            steps += 1
            assert steps < 500, f"{self.actors[node.actor].name} goes on and on"
        return steps

    def places(self) -> list[tuple[int, int]]:
        """Return the files and the node of each actor in each state that was reached."""
        return list(self._choices)

    def files(self, number: int) -> Files:
        """Return the files of that number."""
        return self._files[number]

    # The invariants, by their letters in docs/commit.md.

    def wrong(self, facts: Facts, here: Sequence[Node]) -> str | None:
        """Return which invariant a state breaks."""
        for node in here:
            if node.kind == "wrong":
                return f"{self.actors[node.actor].name}: {node.outcome}"
        own = [node for node in here if self.actors[node.actor].process is not None]
        others = len(own) < len(here)
        # A commit that is sent again after a delete is there until its writer and the delete look.
        is_between = self.losses and DELETER in self.actors and not all(node.kind for node in here)
        if facts.committed and facts.whole and not is_between:
            return f"a: it is committed and not whole: {facts.whole}"
        leaders = [node for node in own if self.actors[node.actor].process == 0]
        if facts.unfounded and not others and not any(node.has_given_up for node in leaders):
            return f"b: {facts.unfounded} without its data"
        if facts.aborted and facts.committed:
            return "d: it is given up and committed"
        joined = {self.actors[node.actor].process for node in own if node.has_joined}
        if facts.has_data and len(joined) < len(own) - self.twins:
            return "data are there before all have joined"
        for node in own:
            if node.kind == "success":
                if self.others and not own[0].has_committed:
                    return "e: success was returned, and it was never committed"
                if not self.others and not facts.committed:
                    return "e: success was returned, and it is not committed"
            is_twin = self.twins and (node is not own[0] or "twice" in node.outcome)
            if node.kind == "definite" and facts.committed and not is_twin:
                return f"f: {node.outcome}, and it is committed"
        if facts.held:
            for node in here[len(own) :]:
                if self.actors[node.actor] is COLLECTOR and _removes_data(node.call, self.attempt):
                    return "h: a collector removes files, and the mark of the leader stands"
        if self.patient and not others and all(node.kind for node in own):
            kinds = {node.kind for node in own}
            spent = sum(node.faults for node in own)
            if len(kinds - {"unknown"}) > 1 or ("unknown" in kinds and not spent):
                return f"g: not all agree: {kinds}"
        return None


def _applied(files: Files, call: Call) -> tuple[Files, Answer]:
    """Return what the store and the engine hold after a call, and the answer."""
    if call[0] == "say":
        number = 1 + sum(name.startswith(_WORD) for name, _, _ in files)
        return tuple(sorted((*files, (f"{_WORD}{number}", call[1], 0.0)))), ("is", None)
    if call[0] == "hear":
        found = [data for name, data, _ in files if name == f"{_WORD}{call[1]}"]
        return files, ("is", found[0] if found else None)
    said = tuple(row for row in files if row[0].startswith(_WORD))
    after, answer = apply(tuple(row for row in files if row not in said), call, True)
    return (*after, *said), answer


def _one_by_one(function: Callable[..., None], rows: Any, *_: Any, **__: Any) -> None:
    for row in rows:
        function(*row)


def _removes_data(call: Call | None, of: str) -> bool:
    return (
        call is not None
        and call[0] == "delete"
        and names.attempt_of(call[1]) == of
        and not names.is_note(call[1])
    )


def _wrong_by_itself(node: Node, actor: Actor) -> str | None:
    """Return which invariant a process breaks whatever the others do."""
    handed, gave_up, knows = 0, False, False
    for call, answer in [*node.history(), (node.call or ("end",), ("is", None))]:
        kind, name = call[0], str(call[1]) if len(call) > 1 else ""
        note = name.partition("-")[0]
        if kind == "create" and note == "PART":
            handed += answer != ("is", LOST)
        if kind == "put" and note == "data" and handed:
            return "b: data are written after the part"
        if kind == "holds" and note == "ABORT":
            knows |= answer == ("is", True)
        if kind == "create" and note == "ABORT":
            gave_up = True
        if kind in ("create", "swap") and note == names.MANIFEST and gave_up:
            return "d: a commit is sent after ABORT"
        if kind == "delete" and note == "data" and actor.process and handed and not knows:
            return "c: data are removed after the part, and no ABORT was seen"
    if handed > 1:
        return "b: two parts"
    return None
