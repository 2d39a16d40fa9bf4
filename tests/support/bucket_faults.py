"""A checkpoint in a bucket behind a proxy that makes requests fail, and a look at what is left.

Run as a script it saves in children that may be killed: `bucket_faults.py URL OPTIONS` forks one
for each line of stdin, which says how, prints its process id and then how it ended.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import random
import re
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import storage
from ckptstore.checkpoint import deletion
from ckptstore.format import decode_manifest, names
from ckptstore.format import manifest as format
from ckptstore.saving import placement
from ckptstore.storage import proof, retry, uploads
from tests.support.servers import Gcs, Moto, S3Server, Server
from tests.support.servers.proxy import Action, FaultProxy, Match, Request

OLD, NEW, NEXT = "old", "new", "next"
DIRECTORY = "run/step"
PART_NBYTES = 256 << 10  # what GCS takes at least
TIMEOUT, DEADLINE = 1.0, 60.0  # on a busy machine, a sound request may time out again and again

FOREIGN_OBJECTS = {
    f"{DIRECTORY}/data-{'e' * 32}-0-0.bin": b"of a save that still goes on",
    f"{DIRECTORY}/notes.txt": b"somebody's",
    f"{DIRECTORY}-other/MANIFEST": b"of a neighbour",
    f"{DIRECTORY}/below/MANIFEST": b"of one below",
}
FOREIGN_UPLOAD = f"{DIRECTORY}/data-{'f' * 32}-0-0.bin"


def tree(who: str) -> dict[str, Any]:
    """A state that tells its saves apart in every leaf, in objects of one request and of parts."""
    seed = sum(who.encode())
    small = [np.full(400, seed + i, np.float32) for i in range(3)]
    large = np.arange(80_000, dtype=np.float64) + seed
    return {"who": who, "small": small, "large": large, "count": np.int64(seed)}


def moto_of_small_parts() -> Iterator[Moto]:
    """Yield a moto that takes parts of `PART_NBYTES`, and stop it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_UPLOAD_PART_MIN_SIZE", str(PART_NBYTES))
        server = Moto()
    yield server
    server.stop()


def make_small(settings: Callable[[Any, str, Any], None]) -> None:
    """Let `tree` make a data object in three parts, two in one request each, and an index."""
    settings(placement, "FILE_NBYTES", 4000)
    settings(format, "MANIFEST_MAX_NBYTES", 900)
    settings(uploads, "PART_NBYTES", PART_NBYTES)
    settings(uploads, "_UNIT", PART_NBYTES)
    settings(retry, "_WAITS", (0.02, 0.2))


class Place:
    """One directory in a bucket of its own, reached through a proxy of its own, and directly."""

    def __init__(
        self, server: Server, upstream: Any = None, *, probes: bool = False, **settings: Any
    ) -> None:
        self.server = server
        self.bucket = server.new_bucket()
        self.proxy = FaultProxy(upstream or server)
        self.probes = probes
        self.url = f"{server.protocol}://{self.bucket}/{DIRECTORY}"
        own = {"timeout": TIMEOUT, "deadline": DEADLINE, **settings}
        self.options = self.proxy.storage_options() | {"ckptstore": own}
        self.direct = server.storage_options()
        self.foreign: list[str] = []
        self.saved: dict[str, bytes] = {}
        self.is_old = False
        if not probes:
            ckptstore.save(self.url, tree(OLD), storage_options=self.direct)
            with storage.open(self.url, self.options) as store:
                for _ in range(5):  # connects, which may take longer than a timeout, and probes
                    with contextlib.suppress(ckptstore.StorageError):
                        store.prepare(swap=True)
                        break
            self.saved = {key: server.get(self.bucket, key) for key in server.objects(self.bucket)}

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.stop()

    def restore(self, before: str | None) -> None:
        """Make it what it was: nothing or OLD of ours, and what others have there."""
        self.proxy.reset()
        if self.probes:
            proof._proven.clear()
        if not self.foreign:
            begin_upload(self.server, self.bucket, FOREIGN_UPLOAD)
            self.foreign = self.server.uploads(self.bucket)
            assert self.foreign == [FOREIGN_UPLOAD]
            for key, data in FOREIGN_OBJECTS.items():
                self.server.put(self.bucket, key, data)
        if before and self.is_old:
            return
        gone = set(self.server.objects(self.bucket)) - set(FOREIGN_OBJECTS)
        delete_objects(self.server, self.bucket, gone)
        for key, data in self.saved.items() if before else ():
            self.server.put(self.bucket, key, data)
        for key in self.server.uploads(self.bucket):
            if key != FOREIGN_UPLOAD:
                abort_uploads(self.server, self.bucket, key)

    def which(self) -> str | None:
        """Return who saved the checkpoint, which must be whole; asked of the server directly."""
        return which(self.url, self.direct)

    def left(self) -> list[str]:
        """Return what is there and belongs neither to the checkpoint nor to anybody else.

        Uploads that were not finished end in "?".
        """
        found = set(self.server.objects(self.bucket))
        manifest = f"{DIRECTORY}/{names.MANIFEST}"
        for key, data in FOREIGN_OBJECTS.items():
            assert self.server.get(self.bucket, key) == data, f"{key} was touched"
        if manifest in found:
            read = decode_manifest(self.server.get(self.bucket, manifest), where=manifest)
            found -= {manifest, *(f"{DIRECTORY}/{file.name}" for file in read.files)}
        open_uploads = self.server.uploads(self.bucket)
        assert FOREIGN_UPLOAD in open_uploads, "somebody else's upload was aborted"
        open_uploads.remove(FOREIGN_UPLOAD)
        return sorted(found - set(FOREIGN_OBJECTS)) + [f"{key}?" for key in open_uploads]


def begin_upload(server: Server, bucket: str, key: str) -> None:
    """Begin an upload in parts and leave it."""
    if isinstance(server, S3Server):
        begun = server.client.create_multipart_upload(Bucket=bucket, Key=key)
        part = {"UploadId": begun["UploadId"], "PartNumber": 1, "Body": b"theirs"}
        server.client.upload_part(Bucket=bucket, Key=key, **part)
    else:
        assert isinstance(server, Gcs)
        path = f"/upload/storage/v1/b/{bucket}/o"
        server.call("POST", path, b"", uploadType="resumable", name=key).expect(200)


def abort_uploads(server: Server, bucket: str, key: str) -> None:
    """Give up the uploads of a key, where the server says what they are."""
    if isinstance(server, S3Server):
        for item in server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
            if item["Key"] == key:
                server.client.abort_multipart_upload(
                    Bucket=bucket, Key=key, UploadId=item["UploadId"]
                )


def delete_objects(server: Server, bucket: str, keys: Iterable[str]) -> None:
    """Delete some objects, in one request where that goes."""
    if isinstance(server, S3Server):
        found = [{"Key": key} for key in keys]
        if found:
            server.client.delete_objects(Bucket=bucket, Delete={"Objects": found})
    else:
        for key in keys:
            server.delete(bucket, key)


def which(url: str, options: Mapping[str, Any]) -> str | None:
    """Return who saved the checkpoint, all of which must be theirs; None where there is none."""
    try:
        return sound(ckptstore.load(url, storage_options=options))
    except ckptstore.NotCommittedError:
        return None


def sound(loaded: Any) -> str:
    """Return who saved a tree, all of which must be theirs."""
    want = tree(loaded["who"])
    assert list(loaded) == list(want) and loaded["count"] == want["count"]
    for have, expected in zip(loaded["small"], want["small"], strict=True):
        assert have.dtype == expected.dtype and np.array_equal(have, expected)
    assert np.array_equal(loaded["large"], want["large"])
    return str(loaded["who"])


@dataclass(frozen=True)
class Operation:
    """What is done behind the faults.

    Attributes:
        run: does it.
        before: whose checkpoint is there before.
        after: whose is there after success.
    """

    run: Callable[[Place], None]
    before: str | None
    after: str | None
    writes: bool = True


def save(place: Place) -> None:
    ckptstore.save(place.url, tree(NEW), storage_options=place.options)


def overwrite(place: Place) -> None:
    ckptstore.save(place.url, tree(NEW), overwrite=True, storage_options=place.options)


def load(place: Place) -> None:
    assert sound(ckptstore.load(place.url, storage_options=place.options)) == OLD


def inspect(place: Place) -> None:
    ckptstore.inspect(place.url, storage_options=place.options)


def verify(place: Place) -> None:
    problems = ckptstore.verify(place.url, storage_options=place.options)
    if problems:
        raise ckptstore.CorruptError(str(problems[0]))


def copy_in(place: Place) -> None:
    """Copy a checkpoint of another store there."""
    source = f"memory://copied/of-{place.bucket}"
    ckptstore.save(source, tree(NEW), overwrite=True)
    ckptstore.copy_checkpoint(source, place.url, dst_storage_options=place.options)


def copy_out(place: Place) -> None:
    """Copy the checkpoint to another store."""
    target = f"memory://copied/{place.bucket}"
    with contextlib.suppress(ckptstore.NotCommittedError):
        ckptstore.delete_checkpoint(target)
    ckptstore.copy_checkpoint(place.url, target, storage_options=place.options)
    assert which(target, {}) == OLD


def delete(place: Place) -> None:
    with storage.open(place.url, place.options) as store:
        deletion.delete(store)


OPERATIONS = {
    "create": Operation(save, None, NEW),
    "overwrite": Operation(overwrite, OLD, NEW),
    "load": Operation(load, OLD, OLD, writes=False),
    "verify": Operation(verify, OLD, OLD, writes=False),
    "delete": Operation(delete, OLD, None),
    "copy-in": Operation(copy_in, None, NEW),
    "copy-out": Operation(copy_out, OLD, OLD, writes=False),
}

_OBJECT = re.compile(r"/(MANIFEST|VOID|PROBE|data|index)\b(?:-[0-9a-f]{32})?(?:-\d+-(\d+)\.bin)?")
_TELLING = re.compile(r"[?&](uploads|uploadId|list-type|delete|partNumber=\d+|uploadType=\w+)")


def label(request: Request) -> str:
    """Name a request so that it has the same name whenever the same operation sends it."""
    target = urllib.parse.unquote(request.target)
    found = _OBJECT.search(target)
    kind = "".join(part or "" for part in found.groups()) if found else "-"
    if "upload_id=" in target:
        place = request.headers.get("content-range", "")
        return f"{request.method} {kind} session {place}".strip()
    return " ".join([request.method, kind, *sorted(_TELLING.findall(target))])


def labelled(wanted: str) -> Match:
    return lambda request: label(request) == wanted


Point = tuple[str, int]
"""A request: its label, and how many with the same label came before."""


def points(log: Sequence[Request]) -> list[Point]:
    """Return the requests of a run, the same ones whatever the order in which they came."""
    counts = Counter(label(request) for request in log)
    return [(name, n) for name, count in sorted(counts.items()) for n in range(count)]


@contextlib.contextmanager
def places(make: Callable[[], Place], count: int) -> Iterator[queue.Queue[Place]]:
    """Give some places, for threads to share."""
    with contextlib.ExitStack() as stack:
        free: queue.Queue[Place] = queue.Queue()
        for _ in range(count):
            free.put(stack.enter_context(make()))
        yield free


def attempt(place: Place, operation: Operation) -> BaseException | None:
    """Run an operation and return what it raised."""
    try:
        operation.run(place)
    except Exception as error:
        return error
    return None


def check(
    place: Place, operation: Operation, error: BaseException | None, where: str, *, clean: bool
) -> str:
    """Hold what is there against what the operation said; return what it said.

    With `clean`, nothing may be left of an attempt that is not the checkpoint.
    """
    found = place.which()
    outcome = "returned" if error is None else type(error).__name__
    said = f"{where}: {outcome} ({error}), found {found}"
    if error is None:
        assert found == operation.after, said
    elif isinstance(error, ckptstore.OutcomeUnknownError):
        assert operation.writes and found in (operation.before, operation.after), said
    else:
        assert type(error) is ckptstore.StorageError, said
        allowed = (operation.before,) if operation.after else (operation.before, operation.after)
        assert found in allowed, said
        assert f"{place.server.protocol}://{place.bucket}/" in str(error), said
    left = place.left()
    if isinstance(place.server, Gcs):  # it shows its sessions to nobody, and lets them expire
        left = [key for key in left if not key.endswith("?")]
    if clean and not isinstance(error, ckptstore.OutcomeUnknownError):
        assert not left, f"{said}, left behind: {left}"
    return outcome


def check_next(place: Place, where: str) -> None:
    """The next save succeeds, whatever is left of this one. It makes the place OLD again."""
    place.proxy.reset()
    ckptstore.save(place.url, tree(OLD), overwrite=True, storage_options=place.direct)
    assert place.which() == OLD, where
    place.is_old = not place.left()


@dataclass
class Report:
    """What came of a sweep."""

    title: str
    requests: int
    points: int
    outcomes: Counter[tuple[str, str]]
    raised: list[str]
    unreached: int
    slowest: float
    seconds: float

    def __str__(self) -> str:
        by_action: dict[str, Counter[str]] = {}
        for (action, outcome), count in sorted(self.outcomes.items()):
            by_action.setdefault(action, Counter())[outcome] += count
        lines = [f"{self.title}: {self.points} points in {self.seconds:.0f} s"]
        lines += [f"  {action}: {dict(counts)}" for action, counts in by_action.items()]
        return "\n".join(lines + [f"  raised at {line}" for line in self.raised])

    def count(self, outcome: str) -> int:
        return sum(count for (_, each), count in self.outcomes.items() if each == outcome)


def sweep(
    make: Callable[[], Place],
    operation_name: str,
    actions: Mapping[str, Action],
    *,
    size: int | None = None,
    at_once: int = 4,
    times: float = 1,
    clean: bool = True,
) -> Report:
    """Let each action happen to each request of an operation, and check what comes of it.

    Args:
        make: makes a place.
        operation_name: of `OPERATIONS`.
        actions: by name.
        size: how many points are tried; None: all.
        at_once: places used at once.
        times: how many requests of the same label fail; infinity: everything from there on.
        clean: nothing may be left behind.
    """
    operation, began = OPERATIONS[operation_name], time.monotonic()
    outcomes, raised, lock = Counter[tuple[str, str]](), list[str](), threading.Lock()
    unreached, slowest = 0, 0.0
    with places(make, at_once) as free:
        first = free.get()
        logs: list[list[Request]] = []
        for _ in range(20):  # on a busy machine a request may be sent twice, or wait too long
            first.restore(operation.before)
            error = attempt(first, operation)
            if error is None:
                logs.append(list(first.proxy.log))
                assert first.which() == operation.after and not first.left()
            if len(logs) == 2:
                break
        assert logs, error
        log = min(logs, key=len)
        requests = len(log)
        rows = [(*point, name) for point in points(log) for name in actions]
        free.put(first)
        if size is not None:
            rows = sampled(rows, size, first.server.kind)

        def one(row: tuple[str, int, str]) -> None:
            nonlocal unreached, slowest
            name, before, action = row
            place = free.get()
            try:
                place.restore(operation.before)
                place.is_old = not operation.writes
                if times == float("inf"):
                    gone = Gone(labelled(name), before)
                    place.proxy.rule(gone, actions[action], times=times)
                else:
                    place.proxy.rule(labelled(name), actions[action], times=times, skip=before)
                started = time.monotonic()
                error = attempt(place, operation)
                took = time.monotonic() - started
                hit = any(request.action for request in place.proxy.log)
                where = f"{place.server.kind} {operation_name}: {action} at {name} [{before}]"
                outcome = check(place, operation, error, where, clean=clean)
                if operation.writes:
                    check_next(place, where)
                with lock:
                    unreached += not hit
                    slowest = max(slowest, took)
                    outcomes[action, outcome] += 1
                    if error is not None:
                        raised.append(f"{action} at {name} [{before}]: {outcome}: {error}")
            finally:
                free.put(place)

        with ThreadPoolExecutor(at_once) as pool:
            tasks = [pool.submit(one, row) for row in rows]
            failed = [error for task in tasks if (error := task.exception()) is not None]
        if failed:
            said = "\n".join(f"{type(error).__name__}: {error}" for error in failed)
            raise AssertionError(f"{len(failed)} of {len(rows)} points:\n{said}") from failed[0]
    title = f"{first.server.kind} {operation_name}"
    seconds = time.monotonic() - began
    return Report(title, requests, len(rows), outcomes, sorted(raised), unreached, slowest, seconds)


def sampled(
    rows: Sequence[tuple[str, int, str]], count: int, seed: str
) -> list[tuple[str, int, str]]:
    """Return some of the rows, as many of each action as of any other, give or take one."""
    chance, by_action = random.Random(seed), dict[str, list[tuple[str, int, str]]]()
    for row in chance.sample(rows, len(rows)):
        by_action.setdefault(row[2], []).append(row)
    turns = itertools.zip_longest(*chance.sample([*by_action.values()], len(by_action)))
    return [row for turn in turns for row in turn if row is not None][:count]


class Gone:
    """Matches everything from the request on that a match finds for the n-th time."""

    def __init__(self, match: Match, before: int) -> None:
        self.match = match
        self.before = before

    def __call__(self, request: Request) -> bool:
        if self.before >= 0 and self.match(request):
            self.before -= 1
        return self.before < 0


def main(url: str, options: str) -> None:
    """Save in children, one for each line of stdin: "create" or "overwrite"."""
    import s3fs  # noqa: F401 - imported once, not by each child

    make_small(setattr)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                again = line.strip() == "overwrite"
                ckptstore.save(url, tree(NEW), overwrite=again, storage_options=json.loads(options))
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
