"""No secret in any text: not of options, of the environment, of a URL, or of an echoed request."""

from __future__ import annotations

import logging
import pickle
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest

import ckptstore
from ckptstore.storage.address import redacted
from ckptstore.storage.redaction import redact
from tests.support.servers.lying import Asked, LyingS3, Reply, error

SECRET = "zz/Secret+Shown=Never02"
ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET", "GOOGLE_OAUTH_ACCESS_TOKEN",
    "GCSFS_TOKEN", "FSSPEC_S3_SECRET", "MY_API_TOKEN", "WANDB_SECRET", "DB_PASSWORD",
)  # fmt: skip
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in a URL": lambda text: urllib.parse.quote(text, safe=""),
    "in a query": lambda text: urllib.parse.quote_plus(text),
    "in XML": lambda text: text.replace("&", "&amp;").replace("<", "&lt;"),
}


def texts(caught: BaseException) -> Iterator[str]:
    """Yield all texts of an error, and of the errors that it leads to."""
    todo, seen = [caught], set[int]()
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield from (str(one), repr(one), str(one.args), *traceback.format_exception(one))
            todo += [e for e in (one.__cause__, one.__context__) if e is not None]
    yield pickle.dumps(caught).decode("latin-1")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_secret_of_the_environment_is_not_shown(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = SECRET + ("<&" if form == "in XML" else "")
    monkeypatch.setenv(name, secret)
    shown = redact(f"the header was {FORMS[form](secret)!r}.", {}, "s3")
    assert shown == "the header was '***'."


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({"secret": SECRET}, SECRET),
        ({"client_kwargs": {"aws_session_token": SECRET}}, SECRET),
        ({"headers": [{"Cookie": SECRET}]}, SECRET),
        ({"connection_string": f"AccountName=name;AccountKey={SECRET}"}, SECRET),
        ({"sas_token": f"?sv=2020&sig={SECRET}"}, SECRET),
        ({"endpoint_url": "user:hunter2@host:9000"}, "hunter2"),
        ({"endpoint_url": "http://user:hunter2@host:9000"}, "hunter2"),
        ({"endpoint_url": "http://hunter2@host:9000"}, "hunter2"),
        ({"client_kwargs": {"endpoint_url": "user:hunter%402@host"}}, "hunter@2"),
        ({"url": "http://host/x?t=hunter2"}, "t=hunter2"),
        ({"proxies": {"https": "http://me:hunter2@proxy"}}, "hunter2"),
    ],
    ids=str,
)
def test_a_secret_of_the_options_is_not_shown(options: dict[str, Any], hidden: str) -> None:
    for form in FORMS.values():
        assert hidden not in redact(f"no such thing: {form(hidden)}", options, "s3")
        assert form(hidden) not in redact(f"no such thing: {form(hidden)}", options, "s3")


@pytest.mark.parametrize(
    "text",
    [
        f"{{'Authorization': 'AWS4-HMAC-SHA256 Credential=AKIA/x, Signature={SECRET}'}}",
        f"{{'X-Amz-Security-Token': '{SECRET}'}}",
        f"x-amz-security-token: {SECRET}\r\n",
        f"Authorization=Bearer {SECRET}",
        f'"Cookie": "session={SECRET}"',
        f"https://host/x?sv=1&sig={SECRET}",
        f"https://host/x?X-Amz-Signature={SECRET}&a=b",
        f"https://host/x?access_token={SECRET}",
        f"AccountName=a;AccountKey={SECRET};EndpointSuffix=b",
        f"could not reach http://me:{SECRET.replace('/', '')}@host/x",
    ],
)
def test_a_secret_that_nobody_named_is_known_by_its_place(text: str) -> None:
    shown = redact(text, {}, "s3")
    assert SECRET not in shown and "Shown" not in shown


def test_texts_without_secrets_stay_as_they_are() -> None:
    for text in (
        "404 NoSuchKey (The specified key does not exist.)",
        "400 InvalidToken (the token is malformed)",
        "could not list abfs://container@account.dfs.core.windows.net/run",
        "s3://bucket/run/step-000000000001/MANIFEST: could not read",
        "the authorization header is malformed; the region 'us-east-1' is wrong",
    ):
        assert redact(text, {"anon": True, "endpoint_url": "http://host"}, "s3") == text


def test_the_configuration_of_fsspec_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"secret": SECRET})
    assert redact(f"no {SECRET}", {}, "s3") == "no ***"


# Whole calls.


@pytest.fixture
def echo() -> Iterator[LyingS3]:
    """A server that answers each request by an error with all its headers."""

    def lie(asked: Asked, _: Reply) -> Reply:
        return error(403, "AccessDenied", f"{dict(asked.headers)} {dict(asked.query)}")

    with LyingS3() as server:
        server.lie = lie
        yield server


def options_of(protocol: str, endpoint: str) -> dict[str, Any]:
    own = {"ckptstore": {"timeout": 1.0, "deadline": 1.0}}
    if protocol == "s3":
        return {"endpoint_url": endpoint, **own}
    if protocol == "gs":
        return {"token": "anon", "endpoint_url": endpoint, **own}
    blob = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint={endpoint}/a;"
    return {"connection_string": blob, **own}


@pytest.mark.parametrize("protocol", ["s3", "gs", "abfs"])
def test_an_echoed_request_shows_no_credentials_of_the_environment(
    protocol: str,
    echo: LyingS3,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "ckptstore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"1{SECRET}")
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"2{SECRET}")
    url, options = f"{protocol}://bucket/run", options_of(protocol, echo.endpoint)
    calls: list[Callable[[], Any]] = [
        lambda: ckptstore.save(url, {"x": 1}, storage_options=options),
        lambda: ckptstore.save_async(url, {"x": 1}, storage_options=options).result(),
        lambda: ckptstore.load(url, storage_options=options),
        lambda: ckptstore.Manager(url, storage_options=options).steps(),
    ]
    for call in calls:
        with pytest.raises(ckptstore.CheckpointError) as caught:
            call()
        shown = [*texts(caught.value), caplog.text]
        assert not [text for text in shown if SECRET in text or "AKIAENVIRONMENT" in text]
    assert echo.asked


@pytest.mark.parametrize(
    "endpoint", ["user:hunter2@host:9", "http://user:hunter2@host:9/?t=hunter2"]
)
@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_an_endpoint_with_a_password_is_not_shown(
    protocol: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptstore.storage.retry._UNREACHABLE", 0.3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    url, options = f"{protocol}://bucket/run", options_of(protocol, endpoint)
    manager = ckptstore.Manager(url, storage_options=options)
    with pytest.raises(ckptstore.CheckpointError) as caught:
        manager.steps()
    shown = [*texts(caught.value), repr(manager), str(manager.url)]
    assert not [text for text in shown if "hunter2" in text]


@pytest.mark.parametrize(
    "url", ["jupyter://h/x?token=hunter2", "ftp://h/x?a=hunter2", "sftp://me:hunter2@h/x?y"]
)
def test_the_query_of_a_url_is_not_shown(url: str) -> None:
    manager = ckptstore.Manager(url)
    assert manager.url == redacted(url)
    step = manager._run.open().child("step-1")
    shown = [repr(manager), str(manager.url), repr(step), step.url, step._requests.at("a?hunter2")]  # type: ignore[attr-defined]
    assert not [text for text in shown if "hunter2" in text]
