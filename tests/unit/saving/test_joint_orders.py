"""A save by several processes in every order of their calls, and of others beside them.

The letters are those of the invariants in docs/commit.md, section "Several processes". Each state
is checked, so a kill of any process at any call is among them.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.checkpoint import commit
from ckptstore.distributed import Failed, waiting
from ckptstore.format import names
from ckptstore.saving import joint_attempt
from ckptstore.saving.joint_attempt import JointAttempt
from tests.support import interleavings
from tests.support.joint_orders import (
    COLLECTOR,
    DELETER,
    Actor,
    Orders,
    joint_tree,
    process,
    saves,
)

Patch = pytest.MonkeyPatch

TWO = process(0, 2), process(1, 2)
THREE = process(0), process(1), process(2)
TWO_OVER = process(0, 2, overwrite=True), process(1, 2, overwrite=True)
THREE_OVER = tuple(process(index, overwrite=True) for index in range(3))
TWO_BY_NOTE = process(0, 2, by_note=True), process(1, 2, by_note=True)
THREE_BY_NOTE = tuple(process(index, by_note=True) for index in range(3))
NEWER = saves("newer", overwrite=True)

WHOLE = [pytest.mark.whole, pytest.mark.timeout(3600)]
SOME = 120
SWEEP = [
    40,
    pytest.param(SOME, marks=pytest.mark.ci),
    pytest.param(20_000, marks=WHOLE),
]
"""Of the states after each number of calls so many are followed."""

EACH_FAULT = pytest.mark.parametrize(
    ("faults", "losses", "at_most"),
    [
        (0, 0, None),
        pytest.param(1, 0, None, marks=pytest.mark.ci),
        pytest.param(0, 1, None, marks=pytest.mark.ci),
        pytest.param(1, 1, SOME, marks=pytest.mark.ci),
        pytest.param(1, 1, None, marks=WHOLE),
    ],
)


def explore(orders: Orders, at_most: int | None = None, *, joined: bool = False) -> Counter[str]:
    """Check every state; once all are done, a collector with time on its side leaves no garbage."""
    total = orders.explore(at_most, orders.joined() if joined else None)
    shown = (f"{count:>12,} {what}" for what, count in total.most_common(14))
    print(*shown, sep="\n")
    for number in sorted(orders.ended)[:300]:
        aged = [(name, data, interleavings.OLD) for name, data, _ in orders.files(number)]
        left = orders.alone(COLLECTOR, tuple(aged))[0]
        held = {name for name, _, _ in left if not name.startswith("~")}
        attempts = {names.attempt_of(name) for name in held} - {None}
        assert len(attempts) == (names.MANIFEST in held), held
    return total


def ended(total: Counter[str], *parts: str) -> bool:
    """Return whether it ended at least once in a way that has these parts."""
    return any(all(part in how for part in parts) for how in total)


# The processes alone.


@EACH_FAULT
def test_no_order_of_two_processes_breaks_a_promise(
    faults: int, losses: int, at_most: int | None, monkeypatch: Patch
) -> None:
    """All orders, with every timeout, one call that fails and one answer that is lost."""
    orders = Orders(monkeypatch, TWO, faults=faults, losses=losses)
    total = explore(orders, at_most)
    assert total["states"] > 3000
    assert ended(total, "leader returned", "member 1 returned")
    assert ended(total, "leader returned", "member 1 OutcomeUnknownError")
    assert ended(total, "leader ProcessError lost-process", "member 1 ProcessError no-word")
    assert ended(total, "leader Broken", "member 1 ProcessError aborted") == bool(faults)


@pytest.mark.parametrize("at_most", SWEEP)
@pytest.mark.parametrize("fault", ["none", "fault", "loss"])
def test_no_order_of_three_processes_breaks_a_promise(
    fault: str, at_most: int, monkeypatch: Patch
) -> None:
    budget = {"faults": fault == "fault", "losses": fault == "loss"}
    total = explore(Orders(monkeypatch, THREE, **budget), at_most)
    assert total["ends"] >= 5


@pytest.mark.parametrize("at_most", [100, SWEEP[-1]])
@pytest.mark.parametrize(
    "fault", ["none", *(pytest.param(one, marks=pytest.mark.ci) for one in ["fault", "loss"])]
)
def test_no_order_of_three_processes_that_joined_breaks_a_promise(
    fault: str, at_most: int, monkeypatch: Patch
) -> None:
    budget = {"faults": fault == "fault", "losses": fault == "loss"}
    total = explore(Orders(monkeypatch, THREE, **budget), at_most, joined=True)
    assert ended(total, "leader returned", "member 1 returned", "member 2 returned")


def test_no_order_of_a_save_with_an_index_of_its_own_breaks_a_promise(monkeypatch: Patch) -> None:
    draft = importlib.import_module("ckptstore.format.draft")
    monkeypatch.setattr(draft, "manifests", SimpleNamespace(MANIFEST_MAX_NBYTES=0))
    total = explore(Orders(monkeypatch, TWO, losses=1), None, joined=True)
    assert ended(total, "leader returned", "member 1 returned")


# Tasks of Slurm, without a word.


@pytest.mark.ci
@EACH_FAULT
def test_no_order_of_two_tasks_without_a_word_breaks_a_promise(
    faults: int, losses: int, at_most: int | None, monkeypatch: Patch
) -> None:
    """All orders, with every timeout: the opening note of process 0 is the word."""
    orders = Orders(monkeypatch, TWO_BY_NOTE, faults=faults, losses=losses)
    total = explore(orders, at_most)
    assert ended(total, "leader returned", "member 1 returned")
    assert ended(total, "leader returned", "member 1 OutcomeUnknownError")
    assert ended(total, "leader ProcessError lost-process", "member 1 ProcessError no-word")
    assert ended(total, "leader Broken", "member 1 ProcessError aborted") == bool(faults)


@pytest.mark.parametrize("at_most", [20, *SWEEP[1:]])
@pytest.mark.parametrize("who", ["three", "a collector", "an overwrite", "a second program"])
def test_no_order_of_tasks_without_a_word_and_others_breaks_a_promise(
    who: str, at_most: int, monkeypatch: Patch
) -> None:
    """A second program of one step has the same attempt: one of the two leaders is refused."""
    over = tuple(process(index, 2, by_note=True, overwrite=True) for index in range(2))
    actors, options = {
        "three": (THREE_BY_NOTE, {}),
        "a collector": ((*TWO_BY_NOTE, COLLECTOR), {"losses": 1}),
        "an overwrite": ((*over, NEWER), {"old": True, "faults": 1}),
        "a second program": ((*TWO_BY_NOTE, process(2, 2, as_index=0, by_note=True)), {}),
    }[who]
    total = explore(Orders(monkeypatch, actors, **options), at_most)
    assert total["ends"]
    if who == "a second program" and at_most > 20:
        assert ended(total, "leader returned", "member 2 ProcessError twice")


def with_own(index: int, count: int) -> Actor:
    """A process with a value of its own, whose structure differs too."""
    tree = joint_tree() | {"own": [np.arange(index + 2), index, "of a process"][: 3 - index]}
    return process(index, count, tree=tree, per_process=["$.own"])


@pytest.mark.parametrize("at_most", [20, *SWEEP[1:]])
@pytest.mark.parametrize("fault", ["none", "fault", "loss"])
def test_no_order_of_processes_with_values_of_their_own_breaks_a_promise(
    fault: str, at_most: int, monkeypatch: Patch
) -> None:
    budget = {"faults": fault == "fault", "losses": fault == "loss"}
    actors = [with_own(index, 2) for index in range(2)]
    total = explore(Orders(monkeypatch, actors, **budget), at_most)
    assert total["ends"]
    assert ended(total, "leader returned", "member 1 returned") or at_most < 400


# (g)

PATIENT: dict[str, tuple[tuple[Actor, ...], int, int]] = {
    "two": (TWO, 1, 1),
    "three": (THREE, 0, 0),
    "two that overwrite": (TWO_OVER, 1, 1),
    "two by note": (TWO_BY_NOTE, 1, 1),
}


@pytest.mark.parametrize(
    ("who", "at_most"),
    [
        ("two", None),
        ("three", None),
        pytest.param("two that overwrite", None, marks=pytest.mark.ci),
        pytest.param("two by note", None, marks=pytest.mark.ci),
        pytest.param("three, a fault", SOME, marks=pytest.mark.ci),
        pytest.param("three, a fault", None, marks=WHOLE),
    ],
)
def test_where_nobody_is_killed_and_no_timeout_passes_all_agree(
    who: str, at_most: int | None, monkeypatch: Patch
) -> None:
    """And all end: a call that fails in one process is told to the others."""
    actors, faults, losses = PATIENT.get(who, (THREE, 1, 0))
    orders = Orders(
        monkeypatch, actors, patient=True, faults=faults, losses=losses, old="over" in who
    )
    total = explore(orders, at_most)
    assert ended(total, "leader returned", "member 1 returned")
    assert ended(total, "leader Broken", "member 1 ProcessError aborted") == bool(faults)


def odd(kind: str) -> Any:
    return {"other tree": {"who": 1}, "cannot be saved": {"f": print}}[kind]


@pytest.mark.parametrize(
    ("patient", "at_most"),
    [
        pytest.param(True, None, id="patient"),
        pytest.param(False, SOME, id="timeouts"),
        pytest.param(False, 20_000, id="whole", marks=WHOLE),
    ],
)
@pytest.mark.parametrize("kind", ["other tree", "cannot be saved"])
@pytest.mark.parametrize("who", [0, 1])
def test_no_order_saves_a_tree_that_one_process_lacks(
    who: int, kind: str, patient: bool, at_most: int | None, monkeypatch: Patch
) -> None:
    actors = [process(i, **({"tree": odd(kind)} if i == who else {})) for i in range(3)]
    total = explore(Orders(monkeypatch, actors, patient=patient), at_most)
    assert not ended(total, "returned")
    if patient:
        reason = "trees-differ" if kind == "other tree" else "aborted"
        assert ended(total, f"member 2 ProcessError {reason}")


# Others beside them.

BESIDE: dict[str, tuple[tuple[Actor, ...], dict[str, Any]]] = {
    "collector": ((*TWO, COLLECTOR), {}),
    "collector, an old one": ((*TWO_OVER, COLLECTOR), {"old": True}),
    "collector, a loss": ((*TWO, COLLECTOR), {"losses": 1}),
    "collector, a fault": ((*TWO, COLLECTOR), {"faults": 1}),
    "collector, listing by stat": ((*TWO, COLLECTOR), {"listing": "stat"}),
    "collector, three": ((*THREE, COLLECTOR), {}),
    "overwrite": ((*TWO_OVER, NEWER), {"old": True, "losses": 1}),
    "overwrite of it": ((*TWO, NEWER), {"losses": 1}),
    "overwrite, a fault": ((*TWO_OVER, NEWER), {"old": True, "faults": 1}),
    "overwrite, three": ((*THREE_OVER, NEWER), {"old": True}),
    "delete": ((*TWO_OVER, DELETER), {"old": True}),
    "delete of it": ((*TWO, DELETER), {}),
    "delete of it, a loss": ((*TWO, DELETER), {"losses": 1}),
    "delete, a loss": ((*TWO_OVER, DELETER), {"old": True, "losses": 1}),
    "overwrite and collector": ((*TWO_OVER, NEWER, COLLECTOR), {"old": True}),
    "all": ((*TWO_OVER, NEWER, DELETER, COLLECTOR), {"old": True, "losses": 1}),
    "all, three": ((*THREE_OVER, NEWER, DELETER, COLLECTOR), {"old": True, "losses": 1}),
}


HOW = [
    pytest.param(25, False, id="all of it", marks=pytest.mark.ci),
    pytest.param(SOME, True, id="more, joined", marks=pytest.mark.ci),
    pytest.param(20_000, True, id="whole, joined", marks=WHOLE),
    pytest.param(20_000, False, id="whole", marks=WHOLE),
]


@pytest.mark.parametrize(
    ("who", "at_most", "joined"),
    [
        *(pytest.param(who, 25, True, id=f"{who}-joined") for who in [*BESIDE][::4]),
        *(
            pytest.param(who, *how.values, id=f"{who}-{how.id}", marks=how.marks)
            for how in HOW
            for who in BESIDE
        ),
    ],
)
def test_no_order_of_a_joint_save_and_others_breaks_a_promise(
    who: str, at_most: int, joined: bool, monkeypatch: Patch
) -> None:
    """(a), (d), (e), (f), (h): data count as old at once, so every collector takes it for dead."""
    actors, options = BESIDE[who]
    total = explore(Orders(monkeypatch, actors, **options), at_most, joined=joined)
    assert total["states"] > 500


@pytest.mark.parametrize("at_most", SWEEP)
def test_no_order_of_two_processes_with_one_number_breaks_what_is_committed(
    at_most: int, monkeypatch: Patch
) -> None:
    twins = process(0, 2), process(1, 2), process(2, 2, as_index=1)
    total = explore(Orders(monkeypatch, twins), at_most)
    assert ended(total, "leader returned", "ProcessError twice")


# (i)


@pytest.mark.parametrize("losses", [0, pytest.param(1, marks=pytest.mark.ci)])
def test_each_process_ends_soon_whoever_else_was_killed(losses: int, monkeypatch: Patch) -> None:
    """From each state of each process, left alone, with no timeout cut short."""
    orders = Orders(monkeypatch, TWO, losses=losses)
    explore(orders)
    most = max(map(orders.steps_alone, orders.places()))
    print("calls at most:", most)
    assert most <= 40


@pytest.mark.parametrize("at_most", [20, *SWEEP[1:]])
@pytest.mark.parametrize("fault", ["none", "fault", "loss"])
def test_each_process_ends_after_a_bounded_number_of_its_calls(
    fault: str, at_most: int, monkeypatch: Patch
) -> None:
    """Each pause lasts a second, and the timeout 1.5: no look is left out."""
    budget = {"faults": fault == "fault", "losses": fault == "loss"}
    orders = Orders(monkeypatch, THREE, ticking=True, **budget)
    total = explore(orders, at_most)
    most = max(len(node.answers) for node in orders.nodes)
    print("calls at most:", most)
    assert total["ends"] and most <= 120


# What must go wrong where a rule is left out.


def hold_without_mark(storage: Any, manifest: Any, look: Any) -> tuple[str, bytes]:
    sizes = storage.list()
    look(sizes)
    commit._refuse_lost(storage, manifest, sizes)
    return names.mark(manifest.attempt), b"none"


def withdraw_after_commit(patch: Patch) -> None:
    """As a save by one process does: look after the commit, and withdraw."""
    patch.setattr(commit, "hold", hold_without_mark)
    patch.setattr(commit, "publish_held", lambda *arguments: commit.publish(*arguments[:4]))


def no_mark(patch: Patch) -> None:
    patch.setattr(commit, "hold", hold_without_mark)


def no_last_look(patch: Patch) -> None:
    def hold(storage: Any, manifest: Any, look: Any) -> tuple[str, bytes]:
        try:
            storage.create(names.mark(manifest.attempt), b"mine")
        except FileExistsError:
            raise commit.collected(storage, manifest.attempt) from None
        return names.mark(manifest.attempt), b"mine"

    patch.setattr(commit, "hold", hold)


def removed_when_another_fails(patch: Patch) -> None:
    real = waiting.verdict

    def verdict(storage: Any, attempt: str) -> Any:
        waiting.raise_failures(storage, attempt, storage.list())
        return real(storage, attempt)

    patch.setattr(waiting, "verdict", verdict)


def removed_after_a_timeout(patch: Patch) -> None:
    real = JointAttempt._await

    def wait(joint: JointAttempt) -> Any:
        try:
            return real(joint)
        except ckptstore.OutcomeUnknownError:
            joint._remove()
            raise

    patch.setattr(JointAttempt, "_await", wait)


def part_first(patch: Patch) -> None:
    real, later = JointAttempt._hand_in, dict[int, list[Any]]()

    def write_files(store: Any, files: Any, job: Any) -> None:
        rows = zip(files, job.placement.by_file(), strict=True)
        later[id(store)] = [(name, b"".join(map(bytes, job.chunks(n)))) for name, n in rows]
        if names.process_of(files[0]) == 0:
            write(store)

    def write(store: Any) -> None:
        for name, data in later.pop(id(store)):
            store.put(name, [data], len(data))

    def hand_in(joint: JointAttempt, part: bytes) -> None:
        real(joint, part)
        write(joint.store)

    patch.setattr(joint_attempt, "write_files", write_files)
    patch.setattr(JointAttempt, "_hand_in", hand_in)


def given_up_after_the_commit(patch: Patch) -> None:
    real = commit.publish_held

    def publish(storage: Any, manifest: Any, *arguments: Any) -> None:
        real(storage, manifest, *arguments)
        try:
            waiting.raise_failures(storage, manifest.attempt, storage.list())
        except Failed:
            raise ckptstore.StorageError("another process failed") from None

    patch.setattr(commit, "publish_held", publish)


def no_look_after_the_commit(patch: Patch) -> None:
    patch.setattr(commit, "_refuse_deleted", lambda storage, *_: storage.list())


def nobody_waited_for(patch: Patch) -> None:
    real = waiting.for_notes

    def for_notes(storage: Any, attempt: str, kind: Any, *arguments: Any) -> Any:
        return {} if kind == "JOIN" else real(storage, attempt, kind, *arguments)

    patch.setattr(waiting, "for_notes", for_notes)


def removed_where_the_part_is_gone(patch: Patch) -> None:
    """An error of the part, and then no part: process 0 may have read and removed it."""

    def hand_in(joint: JointAttempt, part: bytes) -> None:
        name = names.note("PART", joint.attempt, joint.group.index)
        try:
            joint.store.create(name, part)
        except ckptstore.StorageError:
            if not joint.store.holds(name):
                joint._remove()
                raise

    patch.setattr(JointAttempt, "_hand_in", hand_in)


def removed_where_it_never_started(patch: Patch) -> None:
    """A second process of one number comes after the commit, and clears up behind itself."""
    real = waiting.for_start

    def for_start(storage: Any, attempt: str, timeout: float) -> bool:
        if not real(storage, attempt, timeout):
            for name in storage.list():
                if names.attempt_of(name) == attempt and names.process_of(name) == 1:
                    storage.delete(name)
            return False
        return True

    patch.setattr(waiting, "for_start", for_start)


def words_in_the_background(patch: Patch) -> None:
    real = JointAttempt._lead

    def lead(joint: JointAttempt, content: Any) -> Any:
        joint.group.say("save", b"another word")
        return real(joint, content)

    patch.setattr(JointAttempt, "_lead", lead)


def waits_without_a_bound(patch: Patch) -> None:
    real = waiting.for_verdict

    def for_verdict(storage: Any, attempt: str, timeout: float) -> Any:
        return real(storage, attempt, 1e9)

    patch.setattr(waiting, "for_verdict", for_verdict)


BUGS: dict[Callable[[Patch], None], tuple[str, str, dict[str, Any]]] = {
    withdraw_after_commit: ("e: ", "collector", {"joined": True}),
    no_mark: ("a: ", "collector", {"joined": True}),
    no_last_look: ("a: ", "collector", {"joined": True}),
    removed_when_another_fails: ("c: ", "three", {"joined": True}),
    removed_after_a_timeout: ("c: ", "two", {}),
    part_first: ("b: ", "two", {}),
    given_up_after_the_commit: ("d: ", "two", {}),
    no_look_after_the_commit: ("a: ", "delete of it, a loss", {"joined": True, "at_most": 3000}),
    nobody_waited_for: ("data are there", "two", {}),
    removed_where_the_part_is_gone: ("c: ", "a fault", {"at_most": None}),
    removed_where_it_never_started: ("a: ", "twins", {}),
    words_in_the_background: ("j: ", "two", {}),
}
SCENES: dict[str, tuple[tuple[Actor, ...], dict[str, Any]]] = {
    **BESIDE,
    "two": (TWO, {}),
    "three": (THREE, {}),
    "a fault": (TWO, {"faults": 1}),
    "twins": ((*TWO, process(2, 2, as_index=1)), {}),
}


@pytest.mark.ci
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_orders_find(bug: Callable[[Patch], None], monkeypatch: Patch) -> None:
    told, who, how = BUGS[bug]
    actors, options = SCENES[who]
    orders = Orders(monkeypatch, actors, **options)
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=told) as caught:
        explore(orders, **{"at_most": 400, **how})
    print(str(caught.value).partition("\n")[0])


def test_a_wait_without_a_bound_is_found(monkeypatch: Patch) -> None:
    orders = Orders(monkeypatch, TWO)
    waits_without_a_bound(monkeypatch)
    orders.explore()
    with pytest.raises(AssertionError, match="member 1 goes on and on"):
        for place in orders.places():
            orders.steps_alone(place)


def test_a_failure_that_is_told_to_nobody_is_found(monkeypatch: Patch) -> None:
    orders = Orders(monkeypatch, TWO, patient=True, faults=1)
    monkeypatch.setattr(JointAttempt, "give_up", lambda *_: None)
    with pytest.raises(AssertionError, match="without a timeout it never ends"):
        explore(orders)
