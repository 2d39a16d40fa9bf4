"""Whatever request to a bucket fails and however: the old checkpoint or the new one, wholly."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import traceback
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import ckptstore
from ckptstore import storage
from ckptstore.format import names
from tests.support import ROOT, bucket_faults
from tests.support.bucket_faults import (
    DIRECTORY,
    FOREIGN_OBJECTS,
    NEW,
    NEXT,
    OLD,
    OPERATIONS,
    Operation,
    Place,
    attempt,
    check,
    check_next,
    labelled,
    points,
    sampled,
    sound,
    sweep,
    tree,
)
from tests.support.places import LESS
from tests.support.servers import Gcs, Moto, S3Server, Server, policies
from tests.support.servers.proxy import (
    ACTIONS,
    CONFLICT,
    CORRUPT_REQUEST,
    DROP_AFTER,
    DROP_BEFORE,
    ERROR_AFTER,
    ERROR_BEFORE,
    HANG_AFTER,
    HANG_BEFORE,
    SLOW_DOWN,
    UNCONDITIONAL,
    Action,
    Request,
    delay,
    everything,
    matching,
    status,
)

ONCE = {name: action for name, action in ACTIONS.items() if name != "corrupt-request"}
GONE = {
    "drop-before": DROP_BEFORE,
    "drop-after": DROP_AFTER,
    "hang-before": HANG_BEFORE,
    "hang-after": HANG_AFTER,
    "error-before": ERROR_BEFORE,
    "error-after": ERROR_AFTER,
    "slow-down": SLOW_DOWN,
    "conflict": CONFLICT,
}
LOST = {"drop": DROP_AFTER, "error": ERROR_AFTER, "hang": HANG_AFTER}

FEWEST_REQUESTS = {"create": 11, "overwrite": 15, "load": 6, "verify": 6, "delete": 7}
FEWEST_REQUESTS |= {"copy-in": 11, "copy-out": 6}
"""A sweep over fewer would show that the faults no longer reach the requests."""


def sizes(sample: int | None) -> pytest.MarkDecorator:
    """Run with a sample in `make test`, and with everything in `make test-all`."""
    whole = pytest.param(None, id="whole", marks=[pytest.mark.whole, pytest.mark.timeout(900)])
    return pytest.mark.parametrize("size", [pytest.param(sample, id="sample"), whole])


def less_of(*whole: str) -> list[Any]:
    """Return the operations; some run in `make test-all` alone."""
    return [pytest.param(o, marks=pytest.mark.whole if o in whole else []) for o in OPERATIONS]


def until_the_deadline(*operations: str) -> pytest.MarkDecorator:
    """Run operations that wait for a deadline on one server each, and in `make test-all` on all."""
    once = {("create", "moto"), ("overwrite", "gcs"), ("load", "moto"), ("delete", "gcs")}
    each = [(name, server) for name in operations for server in ("moto", "ministack", "gcs")]
    rows = [pytest.param(*row, marks=[] if row in once else pytest.mark.whole) for row in each]
    return pytest.mark.parametrize(("operation", "server"), rows, indirect=["server"])


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    """A moto that takes parts of `bucket_faults.PART_NBYTES`."""
    yield from bucket_faults.moto_of_small_parts()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket_faults.make_small(monkeypatch.setattr)


def commits(request: Request) -> bool:
    """Whether a request is the conditional write of a manifest."""
    target = urllib.parse.unquote(request.target)
    return request.method in ("PUT", "POST") and f"{DIRECTORY}/MANIFEST" in target


def reads_manifest(request: Request) -> bool:
    target = urllib.parse.unquote(request.target)
    return request.method == "GET" and f"{DIRECTORY}/MANIFEST" in target


# One fault, or many.


@sizes(3)
@pytest.mark.parametrize("operation", less_of("copy-out"))
@LESS
def test_one_fault_at_any_request_is_survived(
    operation: str, size: int | None, server: Server
) -> None:
    report = sweep(
        lambda: Place(server), operation, ONCE, size=size, at_once=4 if size is None else 2
    )
    print(report)
    assert report.requests >= FEWEST_REQUESTS[operation]
    assert report.unreached == 0
    assert report.count("returned") == report.points, "each of them can be tried again"


@sizes(3)
@LESS
def test_one_fault_at_any_request_of_the_first_save_to_a_store_is_survived(
    size: int | None, server: Server
) -> None:
    report = sweep(lambda: Place(server, probes=True), "create", ONCE, size=size, at_once=1)
    print(report)
    assert report.requests >= FEWEST_REQUESTS["create"] + 3
    assert report.count("returned") == report.points


@sizes(2)
@until_the_deadline(*OPERATIONS)
def test_a_store_that_goes_away_at_any_request_leaves_the_old_or_the_new(
    operation: str, size: int | None, server: Server
) -> None:
    def make() -> Place:
        return Place(server, timeout=1.0, deadline=1.5)

    at_once = 4 if size is None else 2
    report = sweep(make, operation, GONE, size=size, at_once=at_once, times=math.inf, clean=False)
    print(report)
    assert report.unreached <= 1 + report.points // 20, "a busy machine may time out before"
    assert report.count("StorageError") >= report.points / 4
    assert report.slowest < 30, "it is given up soon after the deadline"
    if not OPERATIONS[operation].writes:
        assert report.count("StorageError") == report.points


COPIES = (("PUT", f"{DIRECTORY}/copy"), ("POST", "rewriteTo"))


def copies(request: Request) -> bool:
    """Whether a request copies an object inside the store."""
    target = urllib.parse.unquote(request.target)
    return any(request.method == method and part in target for method, part in COPIES)


@pytest.fixture
def linking(server: Server) -> Iterator[Place]:
    """A place beside which there is the object `other/data`."""
    with Place(server) as place:
        server.put(place.bucket, "run/other/data", b"0123456789")
        yield place


def linked(place: Place) -> bool:
    """Link that object, as `copy`; what is there afterwards is that or nothing."""
    with storage.open(place.url, place.options) as store:
        other = store.parent()[0].child("other")
        done = store.link("copy", other, "data", 10)
    there = f"{DIRECTORY}/copy" in place.server.objects(place.bucket)
    assert there == done
    if done:
        assert place.server.get(place.bucket, f"{DIRECTORY}/copy") == b"0123456789"
        place.server.delete(place.bucket, f"{DIRECTORY}/copy")
    return done


@LESS
def test_one_fault_at_any_request_of_a_link_is_survived(linking: Place) -> None:
    assert linked(linking)
    assert sum(map(copies, linking.proxy.log)) == 1, "no byte is read or sent"
    for name, action in ONCE.items():
        for number in range(len(linking.proxy.log)):
            linking.proxy.reset()
            linking.proxy.at(number, action)
            assert linked(linking), f"{name} at {number}"


@LESS
def test_what_a_store_does_not_copy_is_left_to_the_caller(linking: Place) -> None:
    for action in (
        status(404, "NoSuchKey"),
        status(412, "PreconditionFailed"),
        status(403, "AccessDenied"),
        status(403, "AccessDenied", after=True),
        status(400, "InvalidRequest"),
        status(501, "NotImplemented"),
    ):
        linking.proxy.reset()
        linking.proxy.rule(copies, action, times=math.inf)
        assert not linked(linking), action


def test_a_store_that_goes_away_during_a_link_is_an_error(server: Server) -> None:
    with Place(server, timeout=1.0, deadline=1.5) as place:
        server.put(place.bucket, "run/other/data", b"0123456789")
        place.proxy.rule(everything, ERROR_BEFORE, times=math.inf)
        with pytest.raises(ckptstore.StorageError) as raised:
            linked(place)
        assert raised.value.reason == "unavailable"


@sizes(2)
@LESS
def test_random_faults_leave_a_whole_checkpoint(size: int | None, server: Server) -> None:
    outcomes, actions = Counter[str](), [*ONCE.values()]
    with Place(server) as place:
        place.restore(None)
        now: str | None = None
        for round in range(size or 100):
            place.proxy.reset()
            place.proxy.some(random.Random(round).uniform(0.1, 0.2), *actions, seed=round)
            who = f"round {round}"
            write = Operation(lambda place, who=who: save_as(place, who, now), now, who)  # noqa: B023
            error = attempt(place, write)
            outcome = check(place, write, error, who, clean=False)
            now = place.which()
            if now is not None:
                read = Operation(lambda place: is_saved_by(place, now), now, now, writes=False)  # noqa: B023
                error = attempt(place, read)
                outcomes["load " + check(place, read, error, who, clean=False)] += 1
            outcomes["save " + outcome] += 1
        check_next(place, "after the faults")
    print(f"{server.kind}: {size or 100} rounds: {dict(outcomes)}")
    assert outcomes["save returned"] and outcomes["load returned"]


def save_as(place: Place, who: str, before: str | None) -> None:
    ckptstore.save(
        place.url, tree(who), overwrite=before is not None, storage_options=place.options
    )


def is_saved_by(place: Place, who: str | None) -> None:
    assert sound(ckptstore.load(place.url, storage_options=place.options)) == who


@sizes(4)
@pytest.mark.parametrize("operation", ["create", "overwrite"])
@LESS
def test_bytes_that_change_on_the_way_to_the_store_never_load(
    operation: str, size: int | None, server: Server
) -> None:
    """Most are found by sums that the store checks; where it checks none, a load finds them."""
    outcomes, tried = Counter[str](), OPERATIONS[operation]
    with Place(server) as place:
        place.restore(tried.before)
        assert attempt(place, tried) is None
        sent = {r.number for r in place.proxy.log if r.length}
        log = [request for request in place.proxy.log if request.number in sent]
        rows = [(*point, "corrupt-request") for point in points(log)]
        for name, before, _ in rows if size is None else sampled(rows, size, server.kind):
            place.restore(tried.before)
            place.is_old = False
            place.proxy.rule(labelled(name), CORRUPT_REQUEST, skip=before)
            error = attempt(place, tried)
            try:
                found = check(place, tried, error, f"{operation}: {name}", clean=True)
            except ckptstore.CorruptError:
                found = "undetected until the load"
                assert ckptstore.verify(place.url, storage_options=place.direct)
            outcomes[f"{name.split()[0]} {found}"] += 1
            check_next(place, name)
    print(f"{server.kind} {operation}: {dict(outcomes)}")
    assert sum(outcomes.values()) >= 4
    if isinstance(server, Gcs):
        assert not any("undetected" in outcome for outcome in outcomes), "it checks every sum"


# The answer to the commit.


@sizes(3)
@pytest.mark.parametrize("operation", ["create", "overwrite"])
@LESS
def test_an_answer_lost_at_the_commit_is_no_error(
    operation: str, size: int | None, server: Server
) -> None:
    tried, rounds = OPERATIONS[operation], size or 36
    with Place(server) as place:
        for round in range(rounds):
            place.restore(tried.before)
            place.is_old = False
            place.proxy.rule(commits, [*LOST.values()][round % 3])
            tried.run(place)
            sent = [request for request in place.proxy.log if commits(request)]
            assert sent[0].action and sent[0].applied in (200, 201)
            assert place.which() == NEW and not place.left()
            check_next(place, f"round {round}")
    print(f"{server.kind} {operation}: {rounds} lost answers")


@pytest.mark.parametrize("operation", ["create", "overwrite"])
@LESS
def test_several_answers_lost_at_the_commit_are_no_error(operation: str, server: Server) -> None:
    tried = OPERATIONS[operation]
    with Place(server) as place:
        reads_back = ReadsBack(place)
        for actions in (
            [(commits, DROP_BEFORE), (commits, DROP_AFTER)],
            [(commits, DROP_AFTER), (reads_back, DROP_AFTER), (reads_back, ERROR_BEFORE)],
            [(commits, ERROR_BEFORE), (reads_back, DROP_BEFORE), (commits, HANG_AFTER)],
            [(commits, CONFLICT), (commits, CONFLICT), (commits, ERROR_AFTER)],
        ):
            place.restore(tried.before)
            place.is_old = False
            for match, action in actions:
                place.proxy.rule(match, action)
            tried.run(place)
            acted = [request for request in place.proxy.log if request.action]
            assert len(acted) == len(actions)
            assert place.which() == NEW and not place.left()


class ReadsBack:
    """Matches a read of the manifest after a commit was asked for."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __call__(self, request: Request) -> bool:
        return reads_manifest(request) and any(map(commits, self.place.proxy.log))


@pytest.mark.parametrize(
    "lost", ["drop", *(pytest.param(n, marks=pytest.mark.whole) for n in LOST if n != "drop")]
)
@pytest.mark.parametrize("operation", ["create", "overwrite"])
@LESS
def test_a_lost_answer_and_then_another_save_is_a_conflict(
    operation: str, lost: str, server: Server
) -> None:
    """The other save replaced ours before we could see that ours was there."""
    tried = OPERATIONS[operation]
    with Place(server) as place:
        place.restore(tried.before)
        read_back = ReadsBack(place)

        def other_comes_first(request: Request) -> bool:
            if read_back(request):
                assert place.which() == NEW
                ckptstore.save(place.url, tree(NEXT), overwrite=True, storage_options=place.direct)
                return True
            return False

        place.proxy.rule(commits, LOST[lost])
        place.proxy.rule(other_comes_first, delay(0))
        with pytest.raises(ckptstore.AlreadyCommittedError, match="committed there first"):
            tried.run(place)
        assert place.which() == NEXT
        left = place.left()
        # An overwrite whose commit was replaced cannot tell that it replaced the old one.
        assert not left or operation == "overwrite", left
        check_next(place, "after the conflict")


@until_the_deadline("create", "overwrite")
def test_a_commit_whose_outcome_stays_unknown_deletes_nothing(
    operation: str, server: Server
) -> None:
    action, found = (HANG_BEFORE, None) if operation == "create" else (HANG_AFTER, NEW)
    # A sound request has two tries of three seconds, which a busy machine may need.
    with Place(server, timeout=3.0, deadline=6.5) as place:
        tried = OPERATIONS[operation]
        place.restore(tried.before)
        place.is_old = False
        place.proxy.rule(commits, action, times=math.inf)
        place.proxy.rule(ReadsBack(place), HANG_BEFORE, times=math.inf)
        with pytest.raises(ckptstore.OutcomeUnknownError, match="nothing was deleted"):
            tried.run(place)
        assert place.which() == found
        assert place.left(), "the data of the save, or of what it replaced"
        check_next(place, "after the unknown outcome")


# A process that dies.


@sizes(2)
@pytest.mark.parametrize("operation", ["create", "overwrite"])
@LESS
def test_a_kill_at_any_request_leaves_the_old_or_the_new(
    operation: str, size: int | None, server: Server
) -> None:
    tried, outcomes = OPERATIONS[operation], Counter[str]()
    with Place(server) as place, Children(place, operation) as children:
        place.restore(tried.before)
        assert attempt(place, tried) is None
        acts = {"before": HANG_BEFORE, "after": HANG_AFTER}
        # The children probe, each anew.
        rows = [(*point, name) for point in points(place.proxy.log) for name in acts]
        for name, before, act in rows if size is None else sampled(rows, size, server.kind):
            place.restore(tried.before)
            place.is_old = False
            earlier = set(place.left())  # sessions that GCS does not give up
            place.proxy.rule(labelled(name), acts[act], skip=before)
            assert children.killed_at_the_fault(act == "after") == -signal.SIGKILL
            where = f"{server.kind} {operation}: killed {act} {name} [{before}]"
            found = place.which()
            assert found in (tried.before, NEW), where
            left = set(place.left()) - earlier
            attempts = {names.attempt_of(key.rstrip("?").rpartition("/")[2]) for key in left}
            assert len(attempts) <= 1 and None not in attempts, f"{where}: left {left}"
            outcomes[f"{found}, {'garbage' if left else 'clean'}"] += 1
            check_next(place, where)
    print(f"{server.kind} {operation}: {sum(outcomes.values())} kills: {dict(outcomes)}")
    assert outcomes.total() >= (size or FEWEST_REQUESTS[operation])
    if size is None:
        assert all(any(key.startswith(str(who)) for key in outcomes) for who in (tried.before, NEW))


class Children:
    """Processes that save behind the proxy, forked from one that has imported everything."""

    def __init__(self, place: Place, operation: str) -> None:
        self.proxy = place.proxy
        self.operation = operation
        own = place.options["ckptstore"] | {"assume_atomic": True}
        options = json.dumps(place.options | {"ckptstore": own | {"timeout": 30.0}})
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.bucket_faults", place.url, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        )

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def killed_at_the_fault(self, applied: bool) -> int:
        """Start one, kill it once a fault has hit it, and return how it ended."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{self.operation}\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        try:
            self.proxy.wait(
                lambda proxy: any(
                    request.action and (request.applied or not applied) for request in proxy.log
                )
            )
        finally:
            os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())


# Stores that lie, and stores that refuse.


@pytest.mark.parametrize("which_condition", ["create", "replace"])
def test_a_store_that_ignores_a_condition_is_refused_before_any_data(
    which_condition: str, server: Server
) -> None:
    header = "if-none-match" if which_condition == "create" else "if-match"
    query = r"ifGenerationMatch=0\b" if which_condition == "create" else r"ifGenerationMatch=[1-9]"

    def ignored(request: Request) -> bool:
        return header in request.headers or bool(matching("", query)(request))

    with Place(server, probes=True) as place:
        place.restore(None)
        place.proxy.rule(ignored, UNCONDITIONAL, times=math.inf)
        for again in (False, True):
            with pytest.raises(ckptstore.StorageError, match="assume_atomic") as caught:
                ckptstore.save(place.url, tree(NEW), overwrite=again, storage_options=place.options)
            assert caught.value.reason == "not-atomic" and place.url in str(caught.value)
        assert not any("data" in bucket_faults.label(r) for r in place.proxy.log)
        assert place.which() is None and not place.left()
        own = place.options["ckptstore"] | {"assume_atomic": True}
        ckptstore.save(place.url, tree(NEW), storage_options={**place.options, "ckptstore": own})
        assert place.which() == NEW and not place.left()


class Speaking:
    """A server whose errors, where the proxy makes them up, have a text of the test's choosing."""

    def __init__(self, server: Server, text: str, more: str = "") -> None:
        self.server = server
        self.port, self.protocol = server.port, server.protocol
        self.text = text
        self.more = more

    def error_body(self, code: int, error: str) -> tuple[str, bytes]:
        kind, body = self.server.error_body(code, error)
        said = body.replace(b"Injected.", self.text.encode())
        return kind, said.replace(b"</Message>", f"</Message>{self.more}".encode())

    def storage_options(self, endpoint: str | None = None) -> dict[str, Any]:
        options = self.server.storage_options(endpoint)
        return options | SECRETS if self.protocol == "s3" else options


SECRETS = {
    "key": "AKIAC3VERYSECRET",
    "secret": "sEcReT/vAlUe+123456",
    "token": "FwoGZXIvYXdzEsessiontoken",
}

WHERE = {
    "write": lambda r: r.method in ("PUT", "POST") and "data" in r.target,
    "read": reads_manifest,
    "list": lambda r: r.method == "GET" and "prefix=" in r.target,
    "delete": policies.deletes,
    "commit": commits,
    "all": everything,
}

REFUSALS_S3 = [
    (403, "AccessDenied", "permission", ["write", "read", "list", "commit"]),
    (404, "NoSuchBucket", "no-bucket", ["write", "read", "list", "commit", "all"]),
    (400, "ExpiredToken", "credentials", ["write", "read", "list", "commit", "all"]),
    (403, "InvalidAccessKeyId", "credentials", ["write", "all"]),
    (403, "SignatureDoesNotMatch", "credentials", ["write", "all"]),
    (301, "PermanentRedirect", "wrong-region", ["write", "all"]),
    (400, "AuthorizationHeaderMalformed", "wrong-region", ["write", "all"]),
    (403, "QuotaExceeded", "disk-full", ["write", "commit"]),
]
REFUSALS_GCS = [
    (403, "forbidden", "permission", ["write", "read", "list", "commit"]),
    (404, "notFound", "no-bucket", ["write", "read", "list", "commit", "all"]),
    (401, "authError", "credentials", ["write", "read", "list", "commit", "all"]),
]
REMEDY = {
    "permission": "permission to read, write, list and delete",
    "no-bucket": "create the bucket",
    "credentials": "renew the credentials",
    "wrong-region": "set the bucket's region",
    "disk-full": "",
}


def refusals() -> Iterator[Any]:
    for kind, rows in (("ministack", REFUSALS_S3), ("gcs", REFUSALS_GCS)):
        for code, error, reason, at in rows:
            yield pytest.param(kind, code, error, reason, at, id=f"{kind}-{error}")


def refused(place: Place) -> int:
    """Return how many requests the proxy refused: one tried until the deadline is dozens."""
    return len([request for request in place.proxy.log if request.action])


@pytest.mark.parametrize(("kind", "code", "error", "reason", "at"), [*refusals()])
def test_a_refusal_is_one_clear_error_at_once_and_tells_no_secret(
    kind: str,
    code: int,
    error: str,
    reason: str,
    at: list[str],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server: Server = request.getfixturevalue(kind)
    caplog.set_level(logging.DEBUG, "ckptstore")
    text = f"The key {SECRETS['key']}, {SECRETS['secret']}, {SECRETS['token']} is not good."
    if reason == "no-bucket":
        text = "The specified bucket does not exist."
    speaking = Speaking(server, text, "<Region>eu-west-7</Region>")
    with Place(server, speaking) as place:
        for where in at:
            for tried in (OPERATIONS["create" if where == "list" else "overwrite"],):
                place.restore(tried.before)
                place.is_old = False
                place.proxy.rule(WHERE[where], status(code, error), times=math.inf)
                with pytest.raises(ckptstore.StorageError) as caught:
                    tried.run(place)
                said = str(caught.value)
                assert refused(place) <= 8, "a refusal is not tried again"
                assert caught.value.reason == reason, said
                assert f"{server.protocol}://{place.bucket}/{DIRECTORY}" in said
                assert "could not" in said and REMEDY[reason] in said and str(code) in said
                if reason == "wrong-region":
                    assert "eu-west-7" in said
                shown = [said, repr(caught.value), *traceback.format_exception(caught.value)]
                shown += [repr(storage.open(place.url, place.options)), caplog.text]
                if server.protocol == "s3":
                    for secret in SECRETS.values():
                        assert not any(secret in each for each in shown), shown
                place.proxy.reset()
                assert place.which() == tried.before
                assert where in ("list", "all") or not place.left()


@pytest.mark.parametrize("operation", ["load", "verify", "delete"])
def test_a_refused_read_is_one_clear_error(operation: str, server: Server) -> None:
    code, error = (403, "AccessDenied") if server.protocol == "s3" else (403, "forbidden")
    with Place(server) as place:
        place.restore(OLD)
        place.proxy.rule(WHERE["read"], status(code, error), times=math.inf)
        with pytest.raises(ckptstore.StorageError, match="ask for permission") as caught:
            OPERATIONS[operation].run(place)
        assert refused(place) <= 8, "a refusal is not tried again"
        assert caught.value.reason == "permission"
        assert place.which() == OLD


@pytest.mark.parametrize("operation", ["load", "verify"])
def test_where_you_may_not_list_each_file_is_asked_for_by_its_name(
    operation: str, server: Server
) -> None:
    code, error = (403, "AccessDenied") if server.protocol == "s3" else (403, "forbidden")
    with Place(server) as place:
        place.restore(OLD)
        place.proxy.rule(WHERE["list"], status(code, error), times=math.inf)
        OPERATIONS[operation].run(place)
        assert refused(place) <= 8, "a refusal is not tried again"


def test_a_bucket_that_denies_deletion_can_be_saved_to(server: Server) -> None:
    code, error = (403, "AccessDenied") if server.protocol == "s3" else (403, "forbidden")
    # A request that was slow and is made again may leave an upload, which nobody may give up here.
    with Place(server, probes=True, timeout=60.0, deadline=60.0) as place:
        place.restore(None)
        place.proxy.rule(WHERE["delete"], status(code, error), times=math.inf)
        OPERATIONS["create"].run(place)
        assert place.which() == NEW
        data = {key for key in server.objects(place.bucket) if "/data-" in key or "/index-" in key}
        data -= set(FOREIGN_OBJECTS)
        OPERATIONS["overwrite"].run(place)
        assert place.which() == NEW
        assert {key for key in place.left() if "/PROBE-" not in key} == data
        with pytest.raises(ckptstore.StorageError, match="ask for permission") as caught:
            OPERATIONS["delete"].run(place)
        assert caught.value.reason == "permission" and place.which() == NEW


# An upload in parts that is lost.


def test_an_upload_in_parts_that_somebody_gives_up_is_an_error(s3: S3Server) -> None:
    with Place(s3) as place:
        for tried in (OPERATIONS["create"], OPERATIONS["overwrite"]):
            place.restore(tried.before)
            place.is_old = False
            place.proxy.rule(matching("PUT", "partNumber=2"), status(404, "NoSuchUpload"))
            with pytest.raises(ckptstore.StorageError, match="save again") as caught:
                tried.run(place)
            assert caught.value.reason == "lost-file"
            assert place.which() == tried.before and not place.left()


@pytest.mark.parametrize("lost", [DROP_AFTER, ERROR_AFTER], ids=["drop", "error"])
def test_an_upload_whose_beginning_was_not_answered_is_given_up_however_often_it_takes(
    lost: Action, s3: S3Server
) -> None:
    with Place(s3) as place:
        place.restore(None)
        place.proxy.rule(matching("POST", r"\?uploads"), lost)
        place.proxy.rule(matching("GET", r"\?(.*&)?uploads"), ERROR_BEFORE)
        place.proxy.rule(matching("DELETE", "uploadId="), ERROR_BEFORE)
        OPERATIONS["create"].run(place)
        assert len([request for request in place.proxy.log if request.action]) == 3
        assert place.which() == NEW and not place.left()


def test_an_upload_whose_id_was_damaged_on_its_way_leaves_nothing(s3: S3Server) -> None:
    with Place(s3, deadline=2.0) as place:
        place.restore(None)
        place.proxy.rule(
            matching("POST", r"\?uploads"), Action("corrupt-answer", True, position=-55)
        )
        error = attempt(place, OPERATIONS["create"])
        assert isinstance(error, ckptstore.StorageError)
        assert place.which() is None and not place.left()
        check_next(place, "after the damaged id")
