"""URLs taken apart, and shown without secrets."""

from __future__ import annotations

import pytest

from ckptstore.errors import StorageError
from ckptstore.storage.address import address_of, redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://host/run", "sftp://host/run"),
        ("sftp://me@host/run", "sftp://***@host/run"),
        ("sftp://me:p/w@x@host/run", "sftp://***@host/run"),
        ("http://host/run?token=1", "http://host/run***"),
        ("http://me:pw@host/run?token=1", "http://***@host/run***"),
        ("http://host/run?a=1&b=x@y", "http://***@y"),
        ("s3://bucket/run@home?", "s3://bucket/run@home?"),  # keys may have them
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("gs://bucket/run//x/", "bucket", "run//x/"),
        ("memory:///bucket/run", "bucket", "run/"),
        (
            "abfs://container@account.dfs.core.windows.net/a",
            "container@account.dfs.core.windows.net",
            "a/",
        ),
        ("sftp://me:pw@host:22/run", "me:pw@host:22", "run/"),
    ],
)
def test_a_url_is_taken_apart(url: str, bucket: str, prefix: str) -> None:
    address = address_of(url)
    assert (address.bucket, address.prefix) == (bucket, prefix)
    assert address.root == f"{url.partition('://')[0]}://{bucket}/"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "names no bucket; write s3://BUCKET/DIRECTORY"),
        ("s3:///run", "names no bucket"),
        ("s3://key:hunter2@bucket/run", "must not contain a host or credentials"),
        ("gs://host:80/bucket", "must not contain a host or credentials"),
        ("http://host/run?token=hunter2", "must not contain a query"),
        ("sftp://me:hunter2/hunter2@host/run", "or a password with a slash"),
        ("s3://bucket/a/../b", "a part . or .."),
        ("s3://bucket/" + "x" * 901, "901 bytes, expected at most 900"),
    ],
)
def test_a_url_that_is_no_directory_of_a_store_is_refused(url: str, words: str) -> None:
    with pytest.raises(StorageError) as caught:
        address_of(url)
    assert caught.value.reason == "bad-url"
    assert words in str(caught.value) and "hunter2" not in str(caught.value)
