"""Servers whose answers contradict themselves: an error within the deadline, or the right result.

Never another value, and never more memory than the request asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore.runs import directory
from ckptstore.storage import proof
from tests.support.servers.lying import Asked, Lie, LyingS3, Reply, error, listing, xml

TREE = {"w": np.arange(1000.0), "x": 5}
RUN = "s3://bucket/run"
QUICK_LIES = {"truncated", "same-token", "endless-manifest", "weak-etags"}
ENOUGH_NBYTES = 64 << 20
QUICK = {"timeout": 1.0, "deadline": 1.0}


@pytest.fixture(scope="module")
def running() -> Iterator[LyingS3]:
    """A server with a run of the steps 1 and 2."""
    with LyingS3() as server:
        for step in (1, 2):
            ckptstore.save(f"{RUN}/step-{step:012}", TREE, storage_options=server.options())
        yield server


@pytest.fixture
def server(running: LyingS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingS3]:
    """The same server for each test, as it was at first, and never tested for its conditions."""
    monkeypatch.setattr("ckptstore.storage.retry._WAITS", (0.05, 0.2))
    before = dict(running.objects)
    proof._proven.clear()
    running.asked.clear()
    yield running
    running.lie = None
    running.objects = before


# The lies.


def of(kind: str, lie: Callable[[Asked, Reply], Reply], key: str = "") -> Lie:
    """Return a lie about one kind of request, or about the objects whose key ends so."""

    def answer(asked: Asked, honest: Reply) -> Reply:
        return lie(asked, honest) if asked.kind == kind and asked.key.endswith(key) else honest

    return answer


def first_entries(token: str = "") -> Lie:
    """Show one entry of a listing, and say that there are more."""

    def lie(asked: Asked, honest: Reply) -> Reply:
        text = honest.body.decode()
        rows = re.findall("<Contents>.*?</Contents>|<CommonPrefixes>.*?</CommonPrefixes>", text)
        more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        return xml(
            f"<ListBucketResult><IsTruncated>true</IsTruncated>{''.join(rows[:1])}{more}"
            "</ListBucketResult>"
        )

    return of("list", lie)


def counting(shown: Callable[[Asked, int], dict[str, int]]) -> Lie:
    """Name another next page in each answer."""
    count = iter(range(1 << 30))

    def lie(asked: Asked, _: Reply) -> Reply:
        number = next(count)
        return listing(shown(asked, number), token=f"token-{number}")

    return of("list", lie)


def with_headers(change: Callable[[str, str], str | None]) -> Lie:
    """Change the headers of answers about objects; None drops one."""

    def lie(asked: Asked, honest: Reply) -> Reply:
        if asked.method in ("GET", "HEAD") and asked.key:
            new = {name: change(name, value) for name, value in honest.headers.items()}
            honest.headers = {name: value for name, value in new.items() if value is not None}
        return honest

    return lie


def below(asked: Asked) -> str:
    return asked.query.get("prefix", "") + "x"


ENDLESS = Reply(206, b"", {"Content-Range": "bytes 0-1048576/1048577", "ETag": '"a"'}, endless=True)
UPLOADS = (
    "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>{}</ListMultipartUploadsResult>"
)
MARKERS = "<NextKeyMarker>a</NextKeyMarker><NextUploadIdMarker>b</NextUploadIdMarker>"
LIES: dict[str, Callable[[], Lie]] = {
    "truncated": first_entries,
    "same-token": lambda: first_entries("same"),
    "endless-pages": lambda: counting(lambda asked, number: {f"{below(asked)}{number}": 1}),
    "endless-empty-pages": lambda: counting(lambda asked, number: {}),
    "same-page": lambda: counting(lambda asked, number: {below(asked): 1}),
    "other-keys": lambda: of("list", lambda asked, _: listing({"other/MANIFEST": 3})),
    "no-date": lambda: of(
        "list",
        lambda a, _: xml(listing({below(a): 1}).body[21:].decode().replace("2020-", "never")),
    ),
    "no-size": lambda: of(
        "list",
        lambda a, _: xml(re.sub("<Size>.*?</Size>", "", listing({below(a): 1}).body[21:].decode())),
    ),
    "size-below-0": lambda: of("list", lambda a, _: listing({below(a): -(10**25)})),
    "uploads-truncated": lambda: of("uploads", lambda *_: xml(UPLOADS.format(""))),
    "uploads-same-marker": lambda: of("uploads", lambda *_: xml(UPLOADS.format(MARKERS))),
    "endless-manifest": lambda: of("GET", lambda *_: ENDLESS, "MANIFEST"),
    "endless-data": lambda: of("GET", lambda *_: ENDLESS, ".bin"),
    "endless-listing": lambda: of("list", lambda *_: Reply(200, b"<a>", endless=True)),
    "endless-uploads": lambda: of("uploads", lambda *_: Reply(200, b"<a>", endless=True)),
    "endless-error": lambda: lambda *_: Reply(403, b"<Error>", endless=True),
    "no-etags": lambda: with_headers(lambda name, value: None if name == "ETag" else value),
    "weak-etags": lambda: with_headers(
        lambda name, value: f"W/{value}" if name == "ETag" else value
    ),
    "another-range": lambda: with_headers(
        lambda name, value: "bytes 1-9/10" if name == "Content-Range" else value
    ),
    "zeros": lambda: of(
        "GET", lambda _, honest: Reply(206, bytes(len(honest.body)), honest.headers), "MANIFEST"
    ),
    "an-error-that-is-a-success": lambda: of(
        "PUT", lambda *_: Reply(200, error(500, "InternalError").body, {"ETag": '"x"'}), "MANIFEST"
    ),
    "conditions-never-hold": lambda: of(
        "PUT", lambda *_: error(412, "PreconditionFailed"), "MANIFEST"
    ),
    "redirect-to-itself": lambda: lambda *_: Reply(307, b"", {"Location": "/elsewhere"}),
    "redirect-to-a-file": lambda: lambda *_: Reply(301, b"", {"Location": "file:///etc/passwd"}),
}
CALLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "steps": lambda o: ckptstore.Manager(RUN, storage_options=o).steps(),
    "latest": lambda o: ckptstore.Manager(RUN, storage_options=o).latest(),
    "load": lambda o: ckptstore.load(f"{RUN}/step-{1:012}", storage_options=o)["x"],
    "newest": lambda o: ckptstore.Manager(RUN, storage_options=o).load()["x"],
    "inspect": lambda o: (
        ckptstore.inspect(f"{RUN}/step-{1:012}", storage_options=o).leaves[0].shape
    ),
    "verify": lambda o: [
        p for p in ckptstore.verify(f"{RUN}/step-{1:012}", storage_options=o) if not p.reason
    ],
    "gc": lambda o: ckptstore.Manager(RUN, storage_options=o).gc(grace=0),
    "save": lambda o: ckptstore.save(f"{RUN}/step-{3:012}", TREE, storage_options=o) and None,
    "overwrite": lambda o: (
        ckptstore.save(f"{RUN}/step-{1:012}", TREE, storage_options=o, overwrite=True) and None
    ),
    "delete": lambda o: ckptstore.Manager(RUN, storage_options=o).delete(2),
}
RESULTS = {
    "steps": [1, 2], "latest": 2, "load": 5, "newest": 5, "inspect": (1000,), "verify": [],
    "gc": {}, "save": None, "overwrite": None, "delete": None,
}  # fmt: skip


def cases() -> Iterator[Any]:
    for lie in LIES:
        for call in CALLS:
            mark = "ci" if call in ("steps", "load", "save") else "whole"
            quick = lie in QUICK_LIES and call in ("steps", "load")
            marks = [] if quick else [getattr(pytest.mark, mark)]
            yield pytest.param(lie, call, marks=marks, id=f"{lie}-{call}")


@pytest.mark.parametrize(("lie", "call"), [*cases()])
def test_a_lie_gives_an_error_or_the_right_result_and_takes_no_more_than_was_asked_for(
    lie: str, call: str, server: LyingS3
) -> None:
    server.lie = LIES[lie]()
    before = server.sent
    try:
        found = CALLS[call](server.options())
    except ckptstore.CheckpointError as caught:
        assert RUN in str(caught)
    else:
        assert found == RESULTS[call]
    assert server.sent - before < ENOUGH_NBYTES
    server.lie = None
    steps = [1, 2] if call != "delete" else [1]
    assert steps[0] in CALLS["steps"](server.options())


@pytest.mark.parametrize("call", ["load", "inspect", "newest"])
@pytest.mark.parametrize("lie", ["same-page", "endless-pages"])
def test_a_listing_that_makes_no_sense_does_not_make_a_checkpoint_corrupt(
    lie: str, call: str, server: LyingS3
) -> None:
    """A load with fallback would take an older step."""
    server.lie = LIES[lie]()
    with pytest.raises(ckptstore.StorageError) as caught:
        CALLS[call](server.options())
    assert caught.value.reason == "unavailable"


# Conditions.


@pytest.mark.parametrize("lie", ["weak-etags", "no-etags"])
def test_where_no_version_can_be_named_an_overwrite_is_refused_before_any_data(
    lie: str, server: LyingS3
) -> None:
    server.lie = LIES[lie]()
    before, url = dict(server.objects), f"{RUN}/step-{1:012}"
    with pytest.raises(ckptstore.StorageError, match="without overwrite=True") as caught:
        ckptstore.save(url, TREE, storage_options=server.options(), overwrite=True)
    assert caught.value.reason == "not-supported"
    assert server.objects == before
    assert not [asked for asked in server.asked if asked.method == "PUT" and "data-" in asked.key]
    ckptstore.save(f"{RUN}/step-{3:012}", TREE, storage_options=server.options())  # the remedy
    assert ckptstore.Manager(RUN, storage_options=server.options()).load()["x"] == 5


def test_a_store_that_refuses_what_holds_is_given_up_early(server: LyingS3) -> None:
    def lie(asked: Asked, honest: Reply) -> Reply:
        server.objects.pop(asked.key)
        return error(412, "PreconditionFailed")

    server.lie = of("PUT", lie, "3/MANIFEST")
    with pytest.raises(ckptstore.OutcomeUnknownError, match="cannot be relied on"):
        ckptstore.save(f"{RUN}/step-{3:012}", TREE, storage_options=server.options(deadline=60.0))
    commits = [a for a in server.asked if a.method == "PUT" and a.key.endswith("3/MANIFEST")]
    assert len(commits) == 5


# The other stores.

ACCOUNT = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint={}/a;"
BLOBS = (
    '<?xml version="1.0"?><EnumerationResults ServiceEndpoint="http://a/" ContainerName="bucket">'
    "<Blobs>{}</Blobs><NextMarker>{}</NextMarker></EnumerationResults>"
)
NEXT_PAGES: dict[str, Callable[[int], Reply]] = {
    "gs": lambda n: Reply(200, json.dumps({"kind": "k", "nextPageToken": f"t{n}"}).encode()),
    "abfs": lambda n: Reply(200, BLOBS.format("", f"t{n}").encode(), {"Content-Type": "text/xml"}),
}


def elsewhere(protocol: str, server: LyingS3) -> dict[str, Any]:
    """Return the options by which another protocol reaches the server."""
    pytest.importorskip({"gs": "gcsfs", "abfs": "adlfs"}[protocol])
    own = {"ckptstore": {"timeout": 1.0, "deadline": 1.0}}
    if protocol == "gs":
        return {"token": "anon", "endpoint_url": server.endpoint} | own
    return {"connection_string": ACCOUNT.format(server.endpoint)} | own


@pytest.mark.parametrize("pages", ["same", "always another"])
@pytest.mark.parametrize("protocol", NEXT_PAGES)
@pytest.mark.parametrize("call", ["steps", "latest"])
def test_a_listing_without_an_end_is_an_error_in_every_store(
    protocol: str, pages: str, call: str, server: LyingS3
) -> None:
    count = iter(range(1 << 30))
    server.lie = lambda *_: NEXT_PAGES[protocol](0 if pages == "same" else next(count))
    manager = ckptstore.Manager(
        f"{protocol}://bucket/run", storage_options=elsewhere(protocol, server)
    )
    with pytest.raises(ckptstore.StorageError, match="listing") as caught:
        getattr(manager, call)()
    assert caught.value.reason == "unavailable"
    assert "check the endpoint" in str(caught.value)


@pytest.mark.parametrize("body", [b"{}", b'{"error": {"code": 500}}', b"[]", b"null"])
def test_an_answer_of_gcs_that_is_no_listing_is_no_empty_bucket(
    body: bytes, server: LyingS3
) -> None:
    server.lie = lambda *_: Reply(200, body)
    with pytest.raises(ckptstore.StorageError, match="could not list"):
        ckptstore.Manager("gs://bucket/run", storage_options=elsewhere("gs", server)).steps()


@pytest.mark.parametrize("reply", [Reply(200, b"[", endless=True), Reply(403, b"{", endless=True)])
def test_an_answer_of_gcs_without_an_end_is_read_no_further_than_a_listing_is_long(
    reply: Reply, server: LyingS3
) -> None:
    server.lie = lambda *_: reply
    before = server.sent
    options = elsewhere("gs", server)
    for url in ("gs://bucket/run", "gs://bucket/run/step"):
        with pytest.raises(ckptstore.CheckpointError):
            ckptstore.Manager(url, storage_options=options).steps()
        with pytest.raises(ckptstore.CheckpointError):
            ckptstore.load(url, storage_options=options)
    assert server.sent - before < ENOUGH_NBYTES


def test_a_web_server_that_sends_without_an_end_is_read_no_further_than_was_asked(
    server: LyingS3,
) -> None:
    pytest.importorskip("aiohttp")
    server.lie = lambda *_: Reply(206, b"", endless=True)
    before = server.sent
    with pytest.raises(ckptstore.CheckpointError):
        ckptstore.load(f"{server.endpoint}/bucket/run", storage_options={"ckptstore": QUICK})
    assert server.sent - before < ENOUGH_NBYTES


@pytest.mark.parametrize("call", ["steps", "latest"])
def test_listings_that_never_agree_about_the_steps_are_an_error(
    call: str, server: LyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is listed has no manifest, and the next listing has another step."""
    monkeypatch.setattr(directory, "_LISTINGS", 4)
    count = iter(range(1, 1 << 30))

    def lie(asked: Asked, honest: Reply) -> Reply:
        if asked.kind == "list" and asked.query.get("delimiter"):
            return listing({}, [f"run/step-{next(count):012}/"])
        if asked.kind == "list":
            return listing({})
        return error(404, "NoSuchKey")

    server.lie = lie
    manager = ckptstore.Manager(RUN, storage_options=server.options())
    with pytest.raises(ckptstore.StorageError, match="contradict each other") as caught:
        getattr(manager, call)()
    assert caught.value.reason == "unavailable"


def test_a_step_that_only_one_kind_of_listing_shows_is_an_error(
    server: LyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "_LISTINGS", 4)
    server.lie = of(
        "list", lambda asked, honest: honest if asked.query.get("delimiter") else listing({})
    )
    with pytest.raises(ckptstore.StorageError, match="contradict each other"):
        ckptstore.Manager(RUN, storage_options=server.options()).steps()
