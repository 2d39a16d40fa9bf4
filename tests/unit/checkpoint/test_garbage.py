"""The collector and the deletion of a checkpoint: every order of calls, and every call failing."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import storage as storage_package
from ckptstore.checkpoint import commit, deletion, garbage, manifest_file, pins
from ckptstore.format import names
from ckptstore.storage import local, retry
from ckptstore.storage.bucket import BucketStorage
from tests.support import faults, interleavings, places
from tests.support.faults import NEW, OLD, Faults, faulty
from tests.support.interleavings import GRACE, Actor, State, World, leaf
from tests.support.places import BucketPlace, Place
from tests.support.servers import S3Server
from tests.support.servers import proxy as proxies
from tests.support.servers.proxy import FaultProxy, everything, matching

ALL = -60.0  # a grace period after which everything is old
HOUR = 3600.0
DEAD, DEAD_TOO = "a" * 32, "b" * 32


def data_of(attempt: str, number: int = 0) -> str:
    return names.file_name("data", attempt, 0, number)


def tree(who: str) -> dict[str, Any]:
    return {"who": who, "leaf": np.array(leaf(who), np.int64)}


# Every order of the calls of a few, on a model.


def saves(who: str, *, loses: bool = False, **options: Any) -> Actor:
    """A save; with `loses`, of whose commit the first answer is lost."""

    def run() -> str:
        ckptstore.save("model", tree(who), **options)
        return who

    return Actor(who, run, loses)


def copies(**options: Any) -> Actor:
    """A copy of what NEW saved in another store."""

    def run() -> str:
        ckptstore.copy_checkpoint("source", "model", **options)
        return NEW

    return Actor(NEW, run)


def collects(name: str = "collector", grace: float = GRACE) -> Actor:
    return Actor(name, lambda: len(garbage.collect(storage_package.open("model"), grace)))


READER = Actor("reader", interleavings.read)
DELETER = Actor("deleter", lambda: deletion.delete(storage_package.open("model")))
LISTINGS = ("at once", "stat", "pages")


def world(patch: pytest.MonkeyPatch, *actors: Actor, before: str | None = OLD, **how: Any) -> World:
    """Return actors on a store where `before` was saved long ago."""
    made = World(patch, actors, **how)
    if before:
        files = made.alone(saves(before).run, seed=before)
        made.before = tuple((name, data, interleavings.OLD) for name, data, _ in files)
    return made


def check(world: World, state: State, before: str | None) -> None:
    """What a save said is so; a state where an actor never goes on is one where it was killed."""
    writers = [actor.name for actor in world.actors if actor.name.startswith(NEW)]
    ended = {who: outcome for who in writers if (outcome := state.outcomes[who])}
    won = [who for who, outcome in ended.items() if outcome == f"returned {who}"]
    deleted = "deleter" in state.outcomes
    nothing = "NotCommittedError"
    if len(ended) == len(writers):
        wanted = set(won) or {before or nothing}
        if deleted and not (won and "Already" in state.outcomes["deleter"]):
            wanted.add(nothing)  # what it raises may say that another came after what it deleted
        found = world.load(state.files).removeprefix("returned ").split()[0]
        assert found in wanted, f"{found} instead of {wanted}: {state.outcomes}\n{lines(state)}"
    if read := state.outcomes.get("reader"):
        failed = len(ended) > len(won)  # what it had committed may vanish before a reader's eyes
        allowed = {f"returned {who}" for who in (*writers, before) if who}
        allowed |= (
            {f"{nothing} unfinished", f"{nothing} no-manifest"} if not before or deleted else set()
        )
        # Or one was collected, and replaced before its writer looked: as if it were overwritten.
        hidden = len(writers) > 1 and "collector" in state.outcomes
        missing = failed or hidden or len(ended) < len(writers)
        allowed |= {"CorruptError missing-file"} if missing else set()
        assert read in allowed, f"the reader: {read}, {state.outcomes}\n{lines(state)}"


def lines(state: State) -> str:
    return "\n".join(state.trace())


def explore(world: World, before: str | None, at_most: int | None = None) -> Counter[str]:
    """Check every state; once all are done, a collector with time on its side leaves no garbage."""
    total, ended = Counter[str](), set()
    for state, orders in world.explore(at_most):
        check(world, state, before)
        total["states"] += 1
        if state.over:
            total["orders"] += orders
            total[" ".join(f"{k}={v};" for k, v in state.outcomes.items())] += orders
            ended.add(state.files)
    for files in ended:
        aged = tuple((name, data, interleavings.OLD) for name, data, _ in files)
        left = world.alone(collects().run, aged, seed="the last")
        attempts = {names.attempt_of(name) for name, _, _ in left} - {None}
        assert len(attempts) <= 1 and len(left) == 2 * len(attempts), [row[0] for row in left]
    return total


def shown(total: Counter[str]) -> None:
    print(*(f"{count:>15,} {what}" for what, count in total.most_common(12)), sep="\n")


@pytest.mark.parametrize("listing", LISTINGS)
@pytest.mark.parametrize("before", [None, OLD])
def test_no_order_lets_a_collector_break_a_save(
    before: str | None, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All data counts as old at once: every save is one that took longer than the grace period."""
    actors = saves(NEW, overwrite=before is not None), collects()
    total = explore(world(monkeypatch, *actors, before=before, listing=listing), before)
    shown(total)
    assert total["orders"] > 1000
    assert any("new=StorageError collected" in how for how in total)
    assert any("new=returned new" in how and "collector=returned 0" in how for how in total)


@pytest.mark.ci
@pytest.mark.parametrize("before", [None, OLD])
def test_no_order_lets_a_collector_break_a_copy_that_goes_on(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy was killed, and a collector comes for its file, while another copy takes it over."""
    made = world(monkeypatch, copies(overwrite=bool(before)), collects(), READER, before=before)
    made.source = made.alone(saves(NEW).run, seed="of the source")
    killed = [(name, data) for name, data, _ in made.source if name != names.MANIFEST]
    rows = [(names.renamed(name, DEAD), data, interleavings.OLD) for name, data in killed]
    made.before = tuple(sorted([*made.before, *rows]))
    total = explore(made, before, at_most=100)
    shown(total)
    assert total["orders"] > 1000
    assert any("new=returned new" in how and "collector=returned 1" in how for how in total)
    assert any("new=StorageError collected" in how for how in total)


@pytest.mark.parametrize("before", [None, OLD])
def test_no_order_shows_a_reader_what_nobody_saved(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = saves(NEW, overwrite=before is not None), collects(), READER
    total = explore(world(monkeypatch, *actors, before=before), before, at_most=400)
    assert total["orders"] > 1000
    assert any("reader=returned new" in how for how in total)


@pytest.mark.parametrize("before", [pytest.param(None, marks=pytest.mark.ci), OLD])
def test_no_order_of_two_collectors_breaks_a_save(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = saves(NEW, overwrite=before is not None), collects("one"), collects("two")
    total = explore(world(monkeypatch, *actors, before=before), before, at_most=250)
    assert total["orders"] > 1000


def test_no_order_of_two_saves_and_a_collector_breaks_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actors = saves(NEW, overwrite=True), saves("newer", overwrite=True), collects()
    total = explore_many(world(monkeypatch, *actors), 250)
    assert any("new=returned new" in how for how in total)


def explore_many(world: World, at_most: int | None) -> Counter[str]:
    """Of several saves the last that won is there; of none, the one before."""
    total = Counter[str]()
    for state, orders in world.explore(at_most):
        total["states"] += 1
        if not state.over:
            continue
        total["orders"] += orders
        total[" ".join(f"{k}={v};" for k, v in state.outcomes.items())] += orders
        won = {who for who, outcome in state.outcomes.items() if outcome == f"returned {who}"}
        found = world.load(state.files).removeprefix("returned ")
        assert found in (won or {OLD}), f"{found}: {state.outcomes}\n{lines(state)}"
    return total


@pytest.mark.parametrize("loser", ["create", "overwrite"])
@pytest.mark.parametrize(
    "at_most", [150, pytest.param(20_000, marks=[pytest.mark.whole, pytest.mark.timeout(3600)])]
)
def test_no_order_breaks_a_create_an_overwrite_a_collector_or_a_reader_where_an_answer_is_lost(
    at_most: int, loser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = saves(NEW, loses=loser == "create")
    overwrite = saves("newer", overwrite=True, loses=loser == "overwrite")
    actors = create, overwrite, collects(), READER
    total = explore(world(monkeypatch, *actors, before=None), None, at_most)
    shown(total)
    assert total["orders"] > 1000


@pytest.mark.parametrize("before", [None, OLD])
def test_no_order_takes_a_lost_answer_for_a_conflict(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = saves(NEW, overwrite=before is not None, loses=True), READER
    total = explore(world(monkeypatch, *actors, before=before), before)
    assert total["orders"] > 20
    assert not any("new=Already" in how or "new=Outcome" in how for how in total)


@pytest.mark.parametrize("listing", ["at once", "pages"])
def test_no_order_of_a_delete_and_an_overwrite_touches_the_new_one(
    listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(monkeypatch, saves(NEW, overwrite=True), DELETER, listing=listing)
    total = explore(made, OLD)
    shown(total)
    assert any("deleter=AlreadyCommittedError" in how for how in total)
    assert any("deleter=returned None" in how for how in total)


def test_no_order_of_a_delete_shows_a_reader_a_damaged_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    total = Counter[str]()
    for state, orders in world(monkeypatch, DELETER, READER, listing="pages").explore():
        assert "Corrupt" not in state.outcomes["reader"], lines(state)
        total[state.outcomes["reader"] if state.over else "on the way"] += orders
    assert total["returned old"] and total["NotCommittedError no-manifest"]


def test_no_order_of_two_deletes_fails_but_for_what_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Actor("other", DELETER.run)
    made = world(monkeypatch, DELETER, other)
    for state, _ in made.explore():
        if state.over:
            assert state.files == ()
            assert {o.split()[0] for o in state.outcomes.values()} <= {
                "returned", "NotCommittedError",
            }  # fmt: skip


@pytest.mark.parametrize("before", [None, OLD])
def test_no_order_of_a_delete_an_overwrite_and_a_collector_is_corrupt(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = saves(NEW, overwrite=True), DELETER, collects()
    explore(world(monkeypatch, *actors, before=before), before, at_most=300)


PINNER = Actor("pinner", lambda: pins.pin(storage_package.open("model"), lambda: None))


@pytest.mark.parametrize("deleters", [1, 2])
def test_no_order_of_a_pin_and_deletes_loses_a_step_but_where_a_look_came_before_the_pin(
    deleters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a step there half. `settle` makes the exception rare: no delete waits so long."""
    actors = [DELETER, Actor("other", DELETER.run)][:deleters]
    total = Counter[str]()
    for state, orders in world(monkeypatch, PINNER, *actors).explore():
        if not state.over:
            continue
        there = {name for name, _, _ in state.files}
        pinned = state.outcomes["pinner"] == "returned None"
        total[" ".join(f"{k}={v};" for k, v in state.outcomes.items())] += orders
        if names.MANIFEST in there:
            assert pinned and names.PINNED in there and len(there) == 3, lines(state)
            assert all(state.outcomes[a.name] == "StorageError pinned" for a in actors)
        elif not pinned:
            assert there == set(), lines(state)
        else:
            steps = [line.partition(" -> ")[0] for line in state.trace()]
            made = steps.index("pinner: create PINNED")
            looked = len(steps) - 1 - steps[::-1].index("pinner: holds MANIFEST")
            assert any(
                f"{actor.name}: holds PINNED" in steps[:made]
                and f"{actor.name}: delete MANIFEST" in steps[looked:]
                for actor in actors
            ), lines(state)
    shown(total)
    assert any("StorageError pinned" in how for how in total)
    assert any("pinner=NotCommittedError" in how for how in total)


def test_no_order_of_a_pin_changes_what_a_save_and_a_collector_promise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = world(monkeypatch, saves(NEW, overwrite=True), PINNER, collects())
    for state, _ in made.explore(at_most=200):
        check(made, state, OLD)
        if state.outcomes["pinner"] == "returned None":
            assert names.PINNED in {name for name, _, _ in state.files}


WHOLE = {
    "lost": (saves(NEW, overwrite=True, loses=True), collects(), READER),
    "reader": (saves(NEW, overwrite=True), collects(), READER),
    "two collectors": (saves(NEW, overwrite=True), collects("one"), collects("two")),
    "delete": (saves(NEW, overwrite=True), DELETER, collects()),
}


@pytest.mark.whole
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("listing", LISTINGS[:2])
@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize("who", WHOLE)
def test_no_order_of_three_breaks_a_promise(
    who: str, before: str | None, listing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_most = None if listing == "at once" else 4000
    made = world(monkeypatch, *WHOLE[who], before=before, listing=listing)
    shown(explore(made, before, at_most))


# What must go wrong where a rule is left out.


def breaks(world: World, before: str | None, at_most: int | None = None) -> bool:
    try:
        explore(world, before, at_most)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("before", [None, OLD])
def test_the_model_finds_a_collector_that_does_not_look_again(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(storage: Any, attempt: str, files: Any) -> bool:
        storage.create(names.mark(attempt), b"")
        for name in (*files, names.mark(attempt)):
            storage.delete(name)
        return True

    actors = saves(NEW, overwrite=before is not None), collects()
    made = world(monkeypatch, *actors, before=before)
    monkeypatch.setattr(garbage, "_remove", remove)
    assert breaks(made, before)


def test_the_model_finds_a_save_that_takes_a_lost_answer_for_a_conflict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send(
        storage: Any, attempt: str, known: Sequence[str], data: bytes, replaced: bytes | None
    ) -> None:
        try:
            storage.create(names.MANIFEST, data)
        except FileExistsError:
            deletion.discard(storage, attempt, known)
            raise ckptstore.AlreadyCommittedError("somebody was first") from None

    assert not breaks(world(monkeypatch, saves(NEW, loses=True), before=None), None)
    monkeypatch.setattr(commit, "_send", send)
    assert breaks(world(monkeypatch, saves(NEW, loses=True), before=None), None)


def test_the_model_finds_a_collector_that_makes_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(storage: Any, attempt: str, files: Any) -> bool:
        if manifest_file.attempt_of(manifest_file.committed(storage)) == attempt:
            return False
        for name in files:
            storage.delete(name)
        return True

    made = world(monkeypatch, saves(NEW, overwrite=True), collects())
    monkeypatch.setattr(garbage, "_remove", remove)
    assert breaks(made, OLD)


def test_the_model_finds_a_collector_that_takes_back_the_mark_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def remove(storage: Any, attempt: str, files: Any) -> bool:
        with contextlib.suppress(FileExistsError):
            storage.create(names.mark(attempt), b"")
        uncommitted = manifest_file.attempt_of(manifest_file.committed(storage)) != attempt
        for name in (*(files if uncommitted else ()), names.mark(attempt)):
            storage.delete(name)
        return uncommitted

    made = world(monkeypatch, saves(NEW), collects("one"), collects("two"), before=None)
    monkeypatch.setattr(garbage, "_remove", remove)
    assert breaks(made, None, at_most=3000)


@pytest.mark.parametrize("before", [None, OLD])
def test_the_model_finds_a_listing_that_looks_at_the_marks_last(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the data, then the collector removes data and mark, then it sees no mark."""
    actors = saves(NEW, overwrite=before is not None), collects()
    made = world(monkeypatch, *actors, before=before, listing="stat backwards")
    assert breaks(made, before)


@pytest.mark.ci
def test_the_model_finds_a_collector_that_does_not_wait_for_the_manifest_to_be_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One takes the new save for dead; the other sees it committed and takes the old for garbage.

    The save sees the mark of the first and puts back a checkpoint whose files the second removes.
    """
    actors = saves(NEW, overwrite=True), collects("one"), collects("two")
    assert breaks(world(monkeypatch, *actors, fair=False), OLD, at_most=3000)


def test_the_model_finds_a_save_that_does_not_look_after_its_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = world(monkeypatch, saves(NEW, overwrite=True), collects())
    monkeypatch.setattr(commit, "_lost", lambda *_: None)
    real = names.mark
    monkeypatch.setattr(names, "mark", lambda attempt: f"{real(attempt)}?")
    assert breaks(made, OLD)


# The collector on disks and buckets.


@pytest.fixture(params=places.KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


@pytest.fixture
def store(place: Place) -> Iterator[storage_package.Storage]:
    with storage_package.open(place.url, place.options) as opened:
        yield opened


def save(place: Place, who: str = OLD, **options: Any) -> str:
    return ckptstore.save(place.url, tree(who), storage_options=place.options, **options).attempt


def load(place: Place) -> str | None:
    try:
        found = ckptstore.load(place.url, storage_options=place.options)
    except ckptstore.NotCommittedError:
        return None
    assert found["leaf"].tolist() == leaf(found["who"])
    assert ckptstore.verify(place.url, storage_options=place.options) == []
    return str(found["who"])


LEFT = (
    data_of(DEAD), data_of(DEAD, 1), names.file_name("index", DEAD, 0, 0), data_of(DEAD_TOO),
    f"PROBE-{'c' * 32}", f"VOID-{'d' * 32}", f"MANIFEST.{'e' * 16}.tmp",
    f"VOID-{'d' * 32}.{'e' * 16}.tmp",
)  # fmt: skip
FOREIGN = (
    "notes.txt", "data-1.bin", f"data-{DEAD}-0-00.bin", f"data-{DEAD.upper()}-0-0.bin",
    "MANIFEST.tmp", "MANIFEST.bak", "PROBE", "VOID-", f"VOID-{DEAD}.txt",
    f"below/{data_of(DEAD)}",
)  # fmt: skip


@pytest.mark.parametrize("committed", [False, True])
def test_what_killed_saves_left_goes_and_all_else_stays(
    committed: bool, place: Place, store: Any
) -> None:
    kept = {*FOREIGN}
    for name in (*LEFT, *FOREIGN):
        place.put(name)
    if committed:
        kept |= {"MANIFEST", data_of(save(place))}
    before = place.files()
    assert garbage.collect(store, HOUR) == []
    assert place.files() == before
    told = garbage.collect(store, ALL, dry_run=True)
    assert place.files() == before
    assert garbage.collect(store, ALL) == told
    assert sorted(told) == sorted(LEFT)
    assert place.files() == kept
    assert load(place) == (OLD if committed else None)
    assert garbage.collect(store, ALL) == []


def test_a_place_that_is_not_there_has_no_garbage(place: Place, store: Any) -> None:
    assert garbage.collect(store, ALL) == []
    assert place.files() == set()


def test_a_step_that_is_deleted_while_it_is_looked_at_has_no_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, real = ckptstore.Manager(tmp_path), local.LocalStorage.unfinished
    manager.save(1, tree("old"))
    (tmp_path / "step-000000000001" / data_of(DEAD)).write_bytes(b"x")

    def unfinished(self: local.LocalStorage) -> Any:
        shutil.rmtree(self.url)
        return real(self)

    monkeypatch.setattr(local.LocalStorage, "unfinished", unfinished)
    assert manager.gc(grace=0) == {}


def test_a_damaged_manifest_keeps_everything(place: Place, store: Any) -> None:
    attempt = save(place)
    for name in LEFT:
        place.put(name)
    whole = place.get("MANIFEST")
    for damaged in (b"", whole[:-1], whole[:40] + b"\xff" + whole[41:], b"x" * (2 << 20)):
        place.put("MANIFEST", damaged)
        with pytest.raises(ckptstore.CorruptError, match="nothing was removed"):
            garbage.collect(store, ALL)
        assert place.files() == {"MANIFEST", data_of(attempt), *LEFT}
    place.put("MANIFEST", whole)
    assert load(place) == OLD


def storage_class(place: Place) -> type:
    return BucketStorage if isinstance(place, BucketPlace) else local.LocalStorage


@pytest.mark.parametrize("offset", [-365 * 24 * HOUR, 0.0, 365 * 24 * HOUR])
def test_the_grace_period_is_by_the_clock_of_the_store(
    offset: float, place: Place, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's clock is a year off, or this machine's is."""
    ages = {data_of(DEAD): 2 * HOUR, data_of(DEAD_TOO): 0.5 * HOUR}
    for name in ages:
        place.put(name)
    places.aged(monkeypatch, storage_class(place), ages, offset)
    assert garbage.collect(store, HOUR) == [data_of(DEAD)]
    assert place.files() == {data_of(DEAD_TOO)}


def test_an_attempt_is_as_young_as_its_youngest_file(
    place: Place, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        place.put(data_of(DEAD, number))
    ages = {data_of(DEAD, 0): 3 * HOUR, data_of(DEAD, 2): 2 * HOUR}
    places.aged(monkeypatch, storage_class(place), ages)
    assert garbage.collect(store, HOUR) == []
    assert len(place.files()) == 3


def test_nothing_goes_while_the_manifest_is_young(
    place: Place, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(place)
    place.put(data_of(DEAD))
    ages = {data_of(DEAD): 2 * HOUR}
    places.aged(monkeypatch, storage_class(place), ages)
    assert garbage.collect(store, HOUR) == []
    ages["MANIFEST"] = 2 * HOUR
    assert garbage.collect(store, HOUR) == [data_of(DEAD)]
    assert load(place) == OLD


def test_an_attempt_that_another_collector_marked_is_left_to_it(
    place: Place, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = names.mark(DEAD)
    for name in (data_of(DEAD), data_of(DEAD_TOO)):
        place.put(name)
    place.put(mark, b"its own")
    ages = {data_of(DEAD): 2 * HOUR, data_of(DEAD_TOO): 2 * HOUR}
    places.aged(monkeypatch, storage_class(place), ages)
    assert garbage.collect(store, HOUR, dry_run=True) == [data_of(DEAD_TOO)]
    assert garbage.collect(store, HOUR) == [data_of(DEAD_TOO)]
    assert place.files() == {data_of(DEAD), mark}
    ages[mark] = 2 * HOUR  # that one was killed
    assert garbage.collect(store, HOUR) == [mark, data_of(DEAD)]
    assert place.files() == set()


def test_a_mark_that_comes_after_the_listing_is_left_too(
    place: Place, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(data_of(DEAD))
    clock = garbage._clock

    def late(storage: Any) -> float:
        place.put(names.mark(DEAD), b"")
        return clock(storage)

    monkeypatch.setattr(garbage, "_clock", late)
    assert garbage.collect(store, ALL) == []
    assert place.files() == {data_of(DEAD), names.mark(DEAD)}


def test_a_save_that_commits_while_it_is_marked_stays(
    place: Place, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = save(place)
    whole = place.get("MANIFEST")
    place.delete("MANIFEST")
    real = garbage._remove

    def late(storage: Any, *args: Any) -> bool:
        place.put("MANIFEST", whole)
        return real(storage, *args)

    monkeypatch.setattr(garbage, "_remove", late)
    assert garbage.collect(store, ALL) == []
    assert place.files() == {"MANIFEST", data_of(attempt)}
    assert load(place) == OLD


def test_a_probe_that_another_collector_removed_is_an_error_that_says_so(
    place: Place, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(data_of(DEAD))
    kind: Any = storage_class(place)
    real = kind.put

    def put(self: Any, name: str, chunks: Any, nbytes: int) -> None:
        real(self, name, chunks, nbytes)
        self.delete(name)

    monkeypatch.setattr(kind, "put", put)
    with pytest.raises(ckptstore.StorageError, match="another collector"):
        garbage.collect(store, HOUR)
    assert place.files() == {data_of(DEAD)}


def test_unfinished_uploads_of_dead_attempts_are_aborted(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = BucketPlace(s3)
    committed = save(place)
    young, both = "e" * 32, DEAD_TOO
    mine = [data_of(DEAD), data_of(both, 1)]
    others = ["notes.bin", data_of(young), data_of(committed, 7), f"below/{data_of(DEAD)}"]
    for name in (*mine, *others, data_of(DEAD)):  # one key has two
        s3.client.create_multipart_upload(Bucket=place.bucket, Key=f"run/{name}")
    place.put(data_of(both))
    ages = dict.fromkeys((*mine, data_of(both), data_of(committed, 7), "MANIFEST"), 2 * HOUR)
    places.aged(monkeypatch, BucketStorage, ages)
    with storage_package.open(place.url, place.options) as store:
        told = garbage.collect(store, HOUR, dry_run=True)
        assert sorted(told) == sorted([*mine, data_of(both)])
        assert len(s3.uploads(place.bucket)) == 7
        assert garbage.collect(store, HOUR) == told
    assert s3.uploads(place.bucket) == sorted(f"run/{name}" for name in others)
    assert place.files() == {"MANIFEST", data_of(committed)}
    assert load(place) == OLD


def test_a_young_upload_keeps_the_whole_attempt(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = BucketPlace(s3)
    place.put(data_of(DEAD))
    s3.client.create_multipart_upload(Bucket=place.bucket, Key=f"run/{data_of(DEAD, 1)}")
    places.aged(monkeypatch, BucketStorage, {data_of(DEAD): 2 * HOUR})
    with storage_package.open(place.url, place.options) as store:
        assert garbage.collect(store, HOUR) == []
    assert place.files() == {data_of(DEAD)} and len(s3.uploads(place.bucket)) == 1


def test_a_save_whose_upload_is_aborted_raises_what_it_should(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector takes a slow save for dead while it still uploads."""
    from ckptstore.storage import uploads
    from ckptstore.storage.clients import s3 as s3_module

    place = BucketPlace(s3)
    save(place)
    monkeypatch.setattr(uploads, "PART_NBYTES", 5 << 20)
    real = s3_module.S3Client.part

    def part(self: Any, upload: Any, number: int, *args: Any) -> str:
        tag = real(self, upload, number, *args)
        if number == 1:
            self.abort(upload)
        return tag

    monkeypatch.setattr(s3_module.S3Client, "part", part)
    with pytest.raises(ckptstore.StorageError):
        ckptstore.save(
            place.url, {"a": np.zeros(11 << 20, np.uint8)}, overwrite=True,
            storage_options={**s3.storage_options(), "ckptstore": {"deadline": 3.0}},
        )  # fmt: skip
    assert load(place) == OLD


def test_a_listing_on_a_disk_looks_at_a_mark_before_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector removes its mark last: who sees the files and then no mark, must see it whole."""
    save(Place(tmp_path / "run"))
    (tmp_path / "run" / "MANIFEST").rename(tmp_path / "MANIFEST")
    (name,) = os.listdir(tmp_path / "run")
    mark = tmp_path / "run" / names.mark(names.attempt_of(name) or "")
    mark.touch()
    real = os.scandir

    class Entry:
        def __init__(self, entry: Any) -> None:
            self.name, self._entry = entry.name, entry

        def is_file(self, **how: Any) -> bool:
            return bool(self._entry.is_file(**how))

        def stat(self, **how: Any) -> os.stat_result:
            found = self._entry.stat(**how)
            if self.name == name:  # between this and the next, the collector is done
                (tmp_path / "run" / name).unlink()
                mark.unlink()
            return os.stat_result(found)

    @contextlib.contextmanager
    def scandir(path: str) -> Iterator[Any]:
        with real(path) as entries:
            yield iter(sorted(map(Entry, entries), key=lambda entry: entry.name != name))

    class Os:
        def __getattr__(self, what: str) -> Any:
            return scandir if what == "scandir" else getattr(os, what)

    monkeypatch.setattr(local, "os", Os())
    found = local.LocalStorage(str(tmp_path / "run")).list()
    assert mark.name in found or name not in found


class Dead(BaseException):
    """The process is gone; what it would still do does not happen."""


class Dies:
    """A storage that is cut off at its call number `at`."""

    def __init__(self, storage: Any, at: float) -> None:
        self._storage, self._at, self.calls = storage, at, list[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) > self._at:
                raise Dead
            return found(*args, **kwargs)

        return call


def test_a_collector_that_is_killed_leaves_work_that_the_next_one_finishes(place: Place) -> None:
    at, points = 0, 0
    step = 5 if isinstance(place, BucketPlace) else 1
    while True:
        for name in place.files():
            place.delete(name)
        kept = {"MANIFEST", "notes.txt", data_of(save(place))}
        for name in (data_of(DEAD), data_of(DEAD, 1), data_of(DEAD_TOO), "notes.txt"):
            place.put(name)
        with storage_package.open(place.url, place.options) as store:
            dying = Dies(store, at)
            with contextlib.suppress(Dead):
                garbage.collect(dying, ALL)
            if len(dying.calls) <= at:
                break
            assert place.files() >= kept and load(place) == OLD
            garbage.collect(store, ALL)
            assert place.files() == kept and load(place) == OLD
        at, points = at + step, points + 1
    assert points * step >= 15
    assert place.files() == kept


# Deleting.


class Log:
    """A storage that notes its changes."""

    def __init__(self, storage: Any) -> None:
        self._storage, self.log = storage, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def delete(self, name: str, expected: bytes | None = None) -> None:
        self.log.append(f"{name.split('-')[0]}{' if' if expected else ''}")
        self._storage.delete(name, expected)

    def delete_many(self, names: Sequence[str]) -> None:
        for name in names:
            self.delete(name)

    def remove(self) -> None:
        self.log.append("directory")
        self._storage.remove()


def test_a_delete_removes_the_manifest_first_and_then_its_own_files(
    place: Place, store: Any
) -> None:
    save(place)
    log = Log(store)
    deletion.delete(log)
    assert log.log == ["MANIFEST if", "data", "directory"]
    assert place.files() == set()
    assert load(place) is None
    with pytest.raises(ckptstore.NotCommittedError):
        deletion.delete(store)


def test_a_delete_touches_nothing_of_others(place: Place, store: Any) -> None:
    theirs = {data_of(DEAD), "notes.txt", f"below/{data_of(DEAD)}", names.mark(DEAD)}
    save(place)
    for name in theirs:
        place.put(name)
    deletion.delete(store)
    assert place.files() == theirs
    with pytest.raises(ckptstore.NotCommittedError, match="1 unfinished") as caught:
        deletion.delete(store)
    assert caught.value.reason == "unfinished"


def test_a_damaged_checkpoint_can_be_deleted(place: Place, store: Any) -> None:
    attempt = save(place)
    place.put("MANIFEST", b"damaged")
    deletion.delete(store)
    assert place.files() == {data_of(attempt)}
    save(place)
    assert load(place) == OLD


def whole_or_none(place: Place) -> str | None:
    """Return who is there; CorruptError is what must never be."""
    return load(place)


@pytest.mark.parametrize("act", ["fail", "lost", "kill-before", "kill-after"])
def test_a_delete_on_a_disk_that_fails_at_any_call_is_done_or_not(act: str, tmp_path: Path) -> None:
    at, outcomes = 0, Counter[str]()
    while True:
        place = Place(tmp_path / str(at))
        save(place)
        log = Dying(at, act)
        said = "returned"
        with storage_package.open(place.url) as store, faulty(log):
            try:
                deletion.delete(store)
            except ckptstore.CheckpointError as error:
                said = f"{type(error).__name__} {error.reason}"
            except Dead:
                said = "killed"
        if len(log.log) <= at:
            break
        found = whole_or_none(place)
        outcomes[f"{said}: {found}"] += 1
        if said == "returned" or "not-removed" in said:
            assert found is None, (at, log.log[at])
        elif "StorageError" in said:
            assert found == OLD, (at, log.log[at], "the error says that it is there still")
        with contextlib.suppress(ckptstore.NotCommittedError), storage_package.open(place.url) as s:
            deletion.delete(s)
        assert whole_or_none(place) is None
        save(place, NEW)
        assert whole_or_none(place) == NEW
        at += 1
    print(act, at, dict(outcomes))
    assert at > 10


class Dying(Faults):
    """The call fails, or its answer is lost, or the process dies: then no later call happens."""

    def __init__(self, at: int, act: str) -> None:
        super().__init__(
            at, {"fail": faults.fail, "lost": faults.lost}.get(act, self.die)(errno.EIO)
        )
        self.kind = act

    def die(self, _: int) -> Any:
        return self.killed

    def killed(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self.gone = True
        if self.kind == "kill-after":
            with contextlib.suppress(OSError):
                result = real(*args)
                if name == "scandir":
                    result.close()
                if name == "open":
                    os.close(result)
        raise Dead

    gone = False

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        inner = super().wrap(name, real)

        def call(*args: Any) -> Any:
            if self.gone and name not in ("close", "flock"):
                raise Dead
            return inner(*args)

        return call


BROKEN = {
    "dropped before": (proxies.DROP_BEFORE, math.inf),
    "dropped after": (proxies.DROP_AFTER, math.inf),
    "once, before": (proxies.ERROR_BEFORE, 1),
    "once, after": (proxies.DROP_AFTER, 1),
    "refused": (proxies.status(403, "AccessDenied"), 1),
}


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.whole)])
@pytest.mark.parametrize("how", BROKEN)
@places.LESS
def test_a_delete_in_a_bucket_that_fails_at_any_request_is_done_or_not(
    how: str, first: int, server: Any, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_WAITS", (0.01, 0.05))
    action, times = BROKEN[how]
    deadline = 20.0 if times == 1 else 0.1
    options = proxy.storage_options() | {"ckptstore": {"timeout": 5.0, "deadline": deadline}}
    step = 1 if first else 4
    at, outcomes = first, Counter[str]()
    while True:
        place = BucketPlace(server)
        save(place)
        proxy.reset()
        proxy.rule(everything, action, times=times, skip=at)
        said = "returned"
        with storage_package.open(place.url, options) as store:
            try:
                deletion.delete(store)
            except ckptstore.CheckpointError as error:
                said = f"{type(error).__name__} {error.reason}"
        if proxy.count() <= at:
            break
        proxy.reset()
        found = whole_or_none(place)
        outcomes[f"{said}: {found}"] += 1
        if said == "returned" or "not-removed" in said:
            assert found is None, at
        elif how == "refused" and "outcome-unknown" not in said:
            assert found == OLD, at
        if times == 1 and how != "refused":
            assert said == "returned" and place.files() == set(), at
        with (
            contextlib.suppress(ckptstore.NotCommittedError),
            storage_package.open(place.url, place.options) as store,
        ):
            deletion.delete(store)
        assert whole_or_none(place) is None
        at += step
    print(server.kind, how, at, dict(outcomes))
    assert at >= 5


def test_a_delete_that_the_store_denies_says_so_and_the_checkpoint_is_whole(
    server: Any, proxy: FaultProxy
) -> None:
    place = BucketPlace(server)
    save(place)
    proxy.rule(matching("DELETE"), proxies.status(403, "AccessDenied"), times=math.inf)
    with (
        storage_package.open(place.url, proxy.storage_options()) as store,
        pytest.raises(ckptstore.StorageError, match=r"MANIFEST.*ask for permission") as caught,
    ):
        deletion.delete(store)
    assert caught.value.reason == "permission"
    assert load(place) == OLD


def test_a_delete_whose_data_the_store_keeps_says_that_the_checkpoint_is_gone(
    server: Any, proxy: FaultProxy
) -> None:
    place = BucketPlace(server)
    save(place)
    proxy.rule(matching("DELETE", "data-"), proxies.status(403, "AccessDenied"), times=math.inf)
    with (
        storage_package.open(place.url, proxy.storage_options()) as store,
        pytest.raises(ckptstore.StorageError, match="the checkpoint is deleted") as caught,
    ):
        deletion.delete(store)
    assert caught.value.reason == "not-removed"
    assert load(place) is None and len(place.files()) == 1


def test_a_delete_on_a_disk_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path / "run")
    save(place)

    class ReadOnly(Faults):
        def happened(self, name: str, args: tuple[Any, ...], result: Any) -> None: ...

        def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            return super().wrap(name, denied if name == "unlink" else real)

    def denied(*args: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    with (
        storage_package.open(place.url) as store,
        faulty(ReadOnly()),
        pytest.raises(ckptstore.StorageError, match=r"could not delete.*mode") as caught,
    ):
        deletion.delete(store)
    assert caught.value.reason == "permission"
    assert load(place) == OLD


def test_an_overwrite_between_the_calls_of_a_delete_stays(place: Place) -> None:
    """At each call of the delete in turn, a whole overwrite comes in between."""
    at = 0
    while True:
        for name in place.files():
            place.delete(name)
        save(place)
        with storage_package.open(place.url, place.options) as store:
            deleting = Between(store, at, lambda: save(place, NEW, overwrite=True))
            try:
                deletion.delete(deleting)
                said = None
            except ckptstore.AlreadyCommittedError:
                said = "another"
        if deleting.calls <= at:
            break
        found = load(place)
        assert found in (NEW, None), at
        # What the delete saw first may go; what came after that it never touches.
        assert found == NEW if at else found is None, (at, said, found)
        at += 1
    assert at >= 5


class Between:
    """A storage where something happens before its call number `at`."""

    def __init__(self, storage: Any, at: int, event: Callable[[], Any]) -> None:
        self._storage, self._at, self._event, self.calls = storage, at, event, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._at + 1:
                self._event()
            return found(*args, **kwargs)

        return call
