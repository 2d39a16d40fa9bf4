"""`Manager`: steps, the newest of them, and the number of requests that finding them takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager, storage
from ckptstore.format import names
from ckptstore.storage.bucket import BucketStorage
from ckptstore.storage.local import LocalStorage
from tests.support import places
from tests.support.places import BucketPlace, Place
from tests.support.runs import is_of, manage, name_of, tree
from tests.support.servers import Server
from tests.support.servers.proxy import FaultProxy

DEAD = names.file_name("data", "a" * 32, 0, 0)


@pytest.fixture(params=places.KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from places.make(request, tmp_path)


def test_steps_are_saved_found_loaded_and_deleted(place: Place) -> None:
    manager = manage(place)
    assert manager.steps() == [] and manager.latest() is None
    for step in (7, 100, 20):
        saved = manager.save(step, tree(step), metadata={"of": step})
        assert saved.step == step and saved.url == f"{manager.url}/{name_of(step)}"
    assert manager.steps() == [7, 20, 100] and manager.latest() == 100
    assert is_of(manager.load(), 100) and is_of(manager.load(7), 7)
    assert is_of(manager.load(20, like=tree(0)), 20)
    with pytest.raises(ckptstore.AlreadyCommittedError):
        manager.save(7, tree(8))
    manager.save(7, tree(8), overwrite=True)
    assert is_of(manager.load(7), 8)
    manager.delete(100)
    assert manager.steps() == [7, 20] and manager.latest() == 20 and is_of(manager.load(), 20)
    with pytest.raises(ckptstore.NotCommittedError, match="step-000000000100"):
        manager.load(100)
    with pytest.raises(ckptstore.NotCommittedError):
        manager.delete(100)


def test_another_manager_sees_each_change_at_once(place: Place) -> None:
    one, two = manage(place), manage(place)
    for step in range(3):
        one.save(step, tree(step))
        assert two.latest() == step and two.steps() == list(range(step + 1))
    two.delete(2)
    assert one.latest() == 1 and one.steps() == [0, 1]


FOREIGN = (
    "notes", "step-000000000008", "step-000000000009.txt", "step-1/MANIFEST", "step-abc/MANIFEST",
    "step-0000000000001/MANIFEST", "step-000000000001x/MANIFEST", "xstep-000000000001/MANIFEST",
    "Step-000000000001/MANIFEST", "step-9007199254740992/MANIFEST",
    "step-9999999999999999/MANIFEST",
    "step-00000000000/MANIFEST", "step-٠٠٠٠٠٠٠٠٠٠٠١/MANIFEST", "notes.d/step-000000000001/MANIFEST",
    "step-000000000007/below/MANIFEST", f"other/{DEAD}", f"step-1/{DEAD}", "MANIFEST",
)  # fmt: skip


def test_what_is_no_step_is_left_alone(place: Place) -> None:
    manager = manage(place)
    for name in FOREIGN:
        place.put(name)
    assert manager.steps() == [] and manager.latest() is None
    with pytest.raises(ckptstore.NotCommittedError) as caught:
        manager.load()
    assert caught.value.reason == "no-step"
    manager.save(5, tree(5))
    assert manager.steps() == [5] and manager.latest() == 5 and is_of(manager.load(), 5)
    assert manager.gc(grace=0) == {}
    manager.delete(5)
    assert place.files() == set(FOREIGN)


def test_saves_that_were_killed_are_passed_over(place: Place) -> None:
    manager = manage(place)
    manager.save(3, tree(3))
    for step in (4, 9):
        place.put(f"{name_of(step)}/{DEAD}")
    assert manager.steps() == [3] and manager.latest() == 3 and is_of(manager.load(), 3)
    with pytest.raises(ckptstore.NotCommittedError) as caught:
        manager.load(9)
    assert caught.value.reason == "unfinished"
    manager.save(9, tree(9))
    assert manager.latest() == 9 and is_of(manager.load(), 9)
    assert manager.gc() == {}
    assert manager.gc(grace=0, dry_run=True) == {4: [DEAD], 9: [DEAD]}
    assert manager.gc(grace=0) == {4: [DEAD], 9: [DEAD]}
    assert manager.gc(grace=0) == {}
    assert manager.steps() == [3, 9] and is_of(manager.load(3), 3) and is_of(manager.load(9), 9)
    assert not any(DEAD in name for name in place.files())


def test_the_newest_is_not_passed_over_for_being_damaged(place: Place) -> None:
    manager = manage(place)
    for step in (1, 2):
        manager.save(step, tree(step))
    place.put(f"{name_of(2)}/MANIFEST", b"damaged")
    place.put(f"{name_of(1)}/{DEAD}")
    assert manager.latest() == 2 and manager.steps() == [1, 2]
    with pytest.raises(ckptstore.CorruptError):
        manager.load()
    with pytest.raises(ckptstore.CorruptError):
        manager.gc(grace=0)
    assert f"{name_of(1)}/{DEAD}" not in place.files(), "the steps before it are done"


def test_a_copied_directory_is_a_step(place: Place) -> None:
    manager = manage(place)
    manager.save(1, tree(1))
    place.copy(name_of(1), name_of(2**53 - 1))
    assert manager.steps() == [1, 2**53 - 1] and is_of(manager.load(2**53 - 1), 1)
    assert manager.latest() == 2**53 - 1 and is_of(manager.load(), 1)


@pytest.mark.parametrize(
    "step", [-1, 2**53, True, 1.0, "1", np.float64(1), np.ones(1, np.int32)], ids=repr
)
def test_a_step_is_an_int_from_0_to_2_53(step: Any, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "run")
    for call in (manager.load, manager.delete, lambda step: manager.save(step, tree(1))):
        with pytest.raises(ckptstore.StructureError, match=r"from 0 to 2\^53 - 1") as caught:
            call(step)
        assert caught.value.reason == "bad-step"
    assert not (tmp_path / "run").exists()


def test_the_first_and_the_last_step(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    for step in (0, 10**12 - 1, 10**12, 2**53 - 1):
        manager.save(step, tree(1))
    assert manager.steps() == [0, 10**12 - 1, 10**12, 2**53 - 1]
    assert manager.latest() == 2**53 - 1


def test_no_step_at_all(place: Place) -> None:
    manager = manage(place)
    with pytest.raises(
        ckptstore.NotCommittedError, match="the run has no committed step"
    ) as caught:
        manager.load()
    assert caught.value.reason == "no-step"
    assert manager.gc(grace=0) == {}
    assert place.files() == set()


def test_the_newest_is_deleted_while_it_is_loaded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manage(place)
    for step in range(4):
        manager.save(step, tree(step))
    kind: Any = BucketStorage if isinstance(place, BucketPlace) else LocalStorage
    real, deleted = kind.sizes, list[int]()

    def sizes(self: Any, names: Any, *among: int) -> Any:
        if len(deleted) < 2:
            deleted.append(manage(place).latest() or 0)
            manage(place).delete(deleted[-1])
        return real(self, names)

    monkeypatch.setattr(kind, "sizes", sizes)
    assert is_of(manager.load(), 1) and deleted == [3, 2]


def test_a_step_that_always_vanishes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path)
    monkeypatch.setattr("ckptstore.runs.directory.Run.newest", lambda *_: 7)
    with pytest.raises(ckptstore.NotCommittedError, match=name_of(7)):
        manager.load()


def test_a_relative_path_is_of_the_directory_where_the_manager_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    manager = Manager("run")
    manager.save(1, tree(1))
    os.chdir("elsewhere")
    manager.save(2, tree(2))
    assert manager.steps() == [1, 2] and is_of(manager.load(), 2)
    assert manager.url == str(tmp_path / "run") and str(tmp_path / "run") in repr(manager)
    assert os.listdir() == []
    manager.delete(2)
    assert sorted(os.listdir(tmp_path / "run")) == [name_of(1)]


def test_a_slash_at_the_end_of_the_url_means_nothing(place: Place) -> None:
    manager = manage(place, f"{place.url}/")
    manager.save(1, tree(1))
    assert {name.split("/")[0] for name in place.files()} == {name_of(1)}
    assert manage(place).steps() == [1] and manager.url == manage(place).url
    assert is_of(manage(place, f"{place.url}//").load(), 1)


def test_the_steps_at_the_root_of_a_bucket(server: Server) -> None:
    url, options = f"{server.protocol}://{server.new_bucket()}", server.storage_options()
    Manager(f"{url}/", storage_options=options).save(1, tree(1))
    manager = Manager(url, storage_options=options)
    assert manager.steps() == [1] and is_of(manager.load(), 1)


def test_a_url_of_files_and_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    manager = Manager(f"file://{tmp_path}/a%20b/")
    manager.save(1, tree(1))
    shutil.move(tmp_path / "a b" / name_of(1), tmp_path / "moved")
    (tmp_path / "a b" / name_of(1)).symlink_to(tmp_path / "moved")
    assert manager.steps() == [1] and is_of(manager.load(), 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_step_that_cannot_be_looked_into_is_not_passed_over(tmp_path: Path) -> None:
    check_unreadable(tmp_path, lambda path: path.chmod(0))


def check_unreadable(tmp_path: Path, spoil: Any) -> None:
    manager = Manager(tmp_path)
    for step in (1, 2):
        manager.save(step, tree(step))
    spoil(tmp_path / name_of(2))
    for call in (manager.latest, manager.steps, manager.load):
        with pytest.raises(ckptstore.StorageError):
            call()


def test_a_disk_that_fails_where_it_is_asked_for_a_manifest_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `latest` would pass over the newest, and a run would go on from an older one."""
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path).endswith(f"{name_of(2)}/MANIFEST"):
            raise OSError(5, "Input/output error", str(path))
        return real(path, *args, **kwargs)

    def spoil(path: Path) -> None:
        monkeypatch.setattr(os, "stat", stat)

    check_unreadable(tmp_path, spoil)


# How many requests it takes.


LISTING = r"list-type=2|/o\?"


def behind(server: Server, proxy: FaultProxy) -> tuple[BucketPlace, Manager]:
    place = BucketPlace(server)
    return place, Manager(place.url, storage_options=proxy.storage_options())


def listings(proxy: FaultProxy) -> int:
    return proxy.count("GET", LISTING)


def test_the_newest_is_found_with_one_listing_and_probes_downwards(
    server: Server, proxy: FaultProxy
) -> None:
    place, manager = behind(server, proxy)
    for step in range(30):
        place.put(f"{name_of(step)}/MANIFEST")
        place.put(f"{name_of(step)}/data")
    manager.latest()
    proxy.reset()
    assert manager.latest() == 29
    assert listings(proxy) == 1 and proxy.count() == 2
    for step in (29, 28, 26):
        place.delete(f"{name_of(step)}/MANIFEST")
    proxy.reset()
    assert manager.latest() == 27
    assert listings(proxy) == 1 and proxy.count() == 4


def test_few_small_steps_are_found_with_one_listing(server: Server, proxy: FaultProxy) -> None:
    place, manager = behind(server, proxy)
    for step in range(30):
        place.put(f"{name_of(step)}/data")
        if step % 3:
            place.put(f"{name_of(step)}/MANIFEST")
    proxy.reset()
    assert manager.steps() == [step for step in range(30) if step % 3]
    assert proxy.count() == listings(proxy) == 1


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("length", [2, 3, 5])
def test_the_steps_are_found_however_pages_end(
    length: int, files: int, moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of so many keys: they end in the middle of a step, or one step takes several."""
    check_pages(moto, length, files, monkeypatch)


def check_pages(
    server: Server, length: int, files: int, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    place = BucketPlace(server)
    manager = manage(place)
    with storage.open(place.url, place.options) as store:
        client: Any = store._requests.link.client  # type: ignore[attr-defined]
    asked = cut_pages(client, length, monkeypatch)
    for step in range(5):
        for number in range(files):
            place.put(f"{name_of(step)}/data-{number}")
        if step != 2:
            place.put(f"{name_of(step)}/MANIFEST")
    place.put("notes")
    assert manager.steps() == [0, 1, 3, 4]
    assert manager.latest() == 4
    return asked


def cut_pages(client: Any, length: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a client list pages of `length` keys or prefixes; return the delimiters it is given."""
    real, asked = type(client).page, []

    def page(self: Any, prefix: str, token: str | None, *, delimiter: str = "") -> Any:
        asked.append(delimiter)
        whole = real(self, prefix, None, delimiter=delimiter)
        assert whole.token is None
        keys = sorted([*whole.sizes, *whole.prefixes])
        start = int(token or 0)
        part = keys[start : start + length]
        return type(whole)(
            {key: size for key, size in whole.sizes.items() if key in part},
            {key: time for key, time in whole.changed.items() if key in part},
            [prefix for prefix in whole.prefixes if prefix in part],
            str(start + length) if start + length < len(keys) else None,
        )

    monkeypatch.setattr(type(client), "page", page)
    return asked


def test_steps_of_more_files_than_a_page_holds_are_each_looked_into(
    moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = check_pages(moto, 7, 10, monkeypatch)
    # The first page is all of one step; then 6 names take one page; `latest` takes another.
    assert asked == ["", "/", "/"]


@pytest.mark.whole
@pytest.mark.timeout(900)
def test_the_steps_of_a_run_with_thousands_of_objects(server: Server, proxy: FaultProxy) -> None:
    """The pages of the server itself: a first step of 1,100 objects, then small ones."""
    place, manager = behind(server, proxy)
    for number in range(1100):
        place.put(f"{name_of(0)}/data-{number}")
    for step in range(4):
        place.put(f"{name_of(step)}/MANIFEST")
    proxy.reset()
    assert manager.steps() == [0, 1, 2, 3]
    assert listings(proxy) == 2 and proxy.count() == 6
    place.delete(f"{name_of(0)}/MANIFEST")
    for number in range(200):
        place.delete(f"{name_of(0)}/data-{number}")
    proxy.reset()
    assert manager.steps() == [1, 2, 3]
    assert listings(proxy) == proxy.count() == 1
