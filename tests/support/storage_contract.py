"""What every storage promises: subclass `StorageContract` and give it a `storage` fixture."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ckptstore import storage as storage_package
from ckptstore.errors import OutcomeUnknownError, StorageError
from ckptstore.storage import Storage
from ckptstore.storage.local import LocalStorage


def put(place: Storage, name: str, content: bytes) -> None:
    """Put a file of one chunk."""
    place.put(name, [content], len(content))


class StorageContract:
    """The `storage` fixture gives an empty place that `prepare` was not yet called on."""

    links = True
    """Whether the store can give a new file the content of another."""

    puts_large_atomically = True
    """Whether a file of any size can appear at once under a name that others use."""

    @pytest.fixture
    def place(self, storage: Storage) -> Iterator[Storage]:
        with storage as ready:
            ready.prepare()
            yield ready

    def again(self, storage: Storage) -> Storage:
        """Return another storage of the same place, as another process would."""
        return storage_package.open(storage.url, self.options())

    def beside(self, place: Storage) -> Storage:
        """Return the directory `other` beside the place, which is ready."""
        other = storage_package.open(place.url.rpartition("/")[0] + "/other", self.options())
        other.prepare()
        return other

    def options(self) -> dict[str, Any] | None:
        """Return the `storage_options` of the place."""
        return None

    def test_a_place_that_is_not_there_is_empty(self, storage: Storage) -> None:
        assert storage.list() == {}
        assert storage.sizes(["data"]) == {}
        with pytest.raises(FileNotFoundError):
            storage.read("MANIFEST", 10)
        storage.delete("MANIFEST")

    def test_prepare_twice_is_once(self, storage: Storage) -> None:
        storage.prepare()
        storage.prepare()
        assert storage.list() == {}

    def test_put_joins_its_chunks(self, place: Storage) -> None:
        place.put("data", [b"one", bytearray(b"two"), memoryview(b"three"), b""], 11)
        place.flush()
        assert place.read("data", 100) == b"onetwothree"
        assert place.list() == {"data": 11}

    def test_put_lets_go_of_a_chunk_before_it_asks_for_the_next(self, place: Storage) -> None:
        slab = bytearray(b"first")

        def chunks() -> Iterator[bytearray]:
            yield slab
            slab[:] = b"other"  # a BufferError if a view of it were still held
            slab.append(33)
            yield slab

        place.put("data", chunks(), 11)
        assert place.read("data", 100) == b"firstother!"

    def test_an_error_of_the_chunks_is_passed_on(self, place: Storage) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"begun"
            raise ValueError("the leaf is gone")

        with pytest.raises(ValueError, match="the leaf is gone"):
            place.put("data", chunks(), 11)

    def test_read_gives_at_most_one_byte_beyond_its_limit(self, place: Storage) -> None:
        put(place, "data", b"0123456789")
        assert place.read("data", 4) == b"01234"
        assert place.read("data", 10) == b"0123456789"

    def test_put_atomic_makes_a_whole_file_where_none_is(self, storage: Storage) -> None:
        with storage.child("below") as place:
            if isinstance(place, LocalStorage):
                place.prepare()
            for name, chunks in (
                ("small", [b"one", b"two"]),
                ("large", [b"1" * (4 << 20), b"2" * (5 << 20)]),  # in parts
            ):
                nbytes = sum(map(len, chunks))
                if name == "large" and not self.puts_large_atomically:
                    for replace in (False, True):
                        with pytest.raises(StorageError) as caught:
                            place.put_atomic(name, chunks, nbytes, replace=replace)
                        assert caught.value.reason == "not-atomic"
                    assert place.list() == {"small": 6}
                    return
                place.put_atomic(name, chunks, nbytes, replace=False)
                with pytest.raises(FileExistsError):
                    place.put_atomic(name, [bytes(nbytes)], nbytes, replace=False)
                assert place.read(name, nbytes) == b"".join(chunks)
                place.put_atomic(name, [bytes(nbytes)], nbytes, replace=True)
                assert place.read(name, nbytes) == bytes(nbytes)
                with pytest.raises(ZeroDivisionError):
                    place.put_atomic(name, (b"x" * (1 // n) for n in (1, 0)), nbytes, replace=True)
                assert place.read(name, nbytes) == bytes(nbytes)
            assert place.list() == {"small": 6, "large": 9 << 20}
            assert place.unfinished() == {}

    def test_create_is_refused_where_a_file_is(self, place: Storage) -> None:
        place.create("MANIFEST", b"first")
        with pytest.raises(FileExistsError):
            place.create("MANIFEST", b"second")
        assert place.read("MANIFEST", 100) == b"first"
        assert place.list() == {"MANIFEST": 5}

    def test_one_of_many_creates_wins(self, place: Storage) -> None:
        start = threading.Barrier(8)

        def attempt(number: int) -> bytes | None:
            data = b"%d" % number * 1000
            with self.again(place) as mine:
                start.wait()
                try:
                    mine.create("MANIFEST", data)
                    return data
                except FileExistsError:
                    return None

        for _ in range(10):
            with ThreadPoolExecutor(8) as pool:
                winners = [data for data in pool.map(attempt, range(8)) if data]
            assert winners == [place.read("MANIFEST", 1 << 20)]
            place.delete("MANIFEST")

    def test_swap_needs_the_expected_bytes(self, place: Storage) -> None:
        with pytest.raises(FileNotFoundError):
            place.swap("MANIFEST", b"new", b"old")
        place.create("MANIFEST", b"old")
        for other in (b"ol", b"olde", b"", b"odd"):
            with pytest.raises(FileExistsError):
                place.swap("MANIFEST", b"new", other)
        assert place.read("MANIFEST", 100) == b"old"
        place.swap("MANIFEST", b"new", b"old")
        assert place.read("MANIFEST", 100) == b"new"
        assert place.list() == {"MANIFEST": 3}

    def test_one_of_many_swaps_wins(self, place: Storage) -> None:
        start = threading.Barrier(8)
        place.create("MANIFEST", b"0")

        def attempt(job: tuple[int, int, bytes]) -> bytes | None:
            turn, number, expected = job
            data = b"%d of turn %d" % (number, turn)  # what was there once never comes back
            with self.again(place) as mine:
                start.wait()
                try:
                    mine.swap("MANIFEST", data, expected)
                    return data
                except FileExistsError:
                    return None

        for turn in range(10):
            expected = place.read("MANIFEST", 1 << 20)
            with ThreadPoolExecutor(8) as pool:
                won = [d for d in pool.map(attempt, [(turn, n, expected) for n in range(8)]) if d]
            assert won == [place.read("MANIFEST", 1 << 20)]

    def test_get_fills_the_buffer_or_says_why_not(self, place: Storage) -> None:
        put(place, "data", b"0123456789")
        assert place.sizes(["data", "other"]) == {"data": 10}
        buffer = bytearray(4)
        place.get("data", 3, buffer)
        assert buffer == b"3456"
        place.get("data", 10, bytearray(0))
        with pytest.raises(EOFError, match="data"):
            place.get("data", 8, buffer)
        with pytest.raises(FileNotFoundError):
            place.get("other", 0, buffer)

    def test_delete_takes_only_what_is_expected(self, place: Storage) -> None:
        place.create("MANIFEST", b"theirs")
        place.delete("MANIFEST", expected=b"mine")
        assert place.read("MANIFEST", 100) == b"theirs"
        place.delete("MANIFEST", expected=b"theirs")
        place.delete("MANIFEST", expected=b"theirs")
        place.delete("MANIFEST")
        assert place.list() == {}

    def test_many_files_are_deleted_and_others_stay(self, place: Storage) -> None:
        place.delete_many([])
        for name in ("data-0", "data-1", "data-2", "data-10"):
            put(place, name, b"1")
        place.delete_many(["data-1"])
        place.delete_many(["data-0", "data-1", "data-2", "data-3"])
        assert place.list() == {"data-10": 1}

    def test_changed_gives_times_of_one_clock(self, place: Storage) -> None:
        assert place.changed() == {}
        put(place, "first", b"1")
        time.sleep(1.1)  # some stores count whole seconds
        put(place, "second", b"2")
        first, second = (place.changed()[name] for name in ("first", "second"))
        assert 1 <= second - first < 60
        assert place.unfinished() == {}
        place.abort("first")
        assert place.list() == {"first": 1, "second": 1}

    def test_what_is_below(self, place: Storage) -> None:
        assert place.children() == []
        assert place.holders("MANIFEST") == []
        for name, file in (("b", "MANIFEST"), ("a", "data"), ("c d%", "MANIFEST"), ("a", "x")):
            with self.again(place).child(name) as below:
                below.prepare()
                put(below, file, b"content")
        put(place, "MANIFEST", b"mine")
        assert sorted(place.children()) == ["a", "b", "c d%"]
        assert sorted(place.holders("MANIFEST")) == ["b", "c d%"]
        assert place.list() == {"MANIFEST": 4}
        below = place.child("b")
        assert below.url == f"{place.url}/b"
        above, name = below.parent()
        assert (above.url, name) == (place.url, "b")
        assert above.list() == {"MANIFEST": 4}
        assert below.list() == {"MANIFEST": 7}
        assert below.holds("MANIFEST")
        assert not below.holds("data")
        below.delete("MANIFEST")
        below.remove()
        place.child("a").remove()
        assert sorted(place.children()) == ["a", "c d%"]

    def test_a_link_has_the_content_of_a_file_of_a_sibling_and_outlives_it(
        self, place: Storage
    ) -> None:
        content = bytes(range(256)) * 100
        with self.beside(place) as other:
            put(other, "data", content)
            assert place.link("mine", other, "data", len(content)) is self.links
            assert place.list() == ({"mine": len(content)} if self.links else {})
            if self.links:
                place.flush()
                other.delete("data")
                assert place.read("mine", len(content)) == content

    def test_what_cannot_be_linked_leaves_nothing(self, place: Storage) -> None:
        with self.beside(place) as other:
            assert not place.link("mine", other, "data", 10)
            put(other, "data", b"0123456789")
            for nbytes in (0, 9, 11):
                assert not place.link("mine", other, "data", nbytes)
            assert place.list() == {}
            assert other.read("data", 10) == b"0123456789"
            assert place.link("mine", other, "data", 10) is self.links

    def test_a_link_is_as_young_as_it_is(self, place: Storage) -> None:
        with self.beside(place) as other:
            put(other, "data", b"0123456789")
            put(place, "first", b"1")
            time.sleep(1.1)  # some stores count whole seconds
            if place.link("mine", other, "data", 10):
                times = place.changed()
                assert 1 <= times["mine"] - times["first"] < 60

    def test_many_threads_may_get_at_once(self, place: Storage) -> None:
        content = bytes(range(256)) * 64
        names = [f"data-{n}" for n in range(4)]
        for name in names:
            put(place, name, content)
        place.sizes(names)

        def get(number: int) -> bool:
            buffer = bytearray(256)
            place.get(names[number % 4], number, buffer)
            return buffer == content[number : number + 256]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(get, range(400)))

    def test_errors_are_of_the_documented_classes(self) -> None:
        assert not issubclass(OutcomeUnknownError, StorageError)
