"""The names that the clients use of libraries that do not promise them, each with what needs it.

Where a new release lacks one, a test here says so by name, before a hundred others fail. What S3
and Azure need is public.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

fsspec_asyn = pytest.importorskip("fsspec.asyn")


def missing(owner: Any, name: str, needs: str) -> str:
    return (
        f"{owner.__module__}.{owner.__qualname__}.{name}, which {needs}, is gone or is not what it "
        "was: look for what took its place, or ask for an older release in pyproject.toml"
    )


def test_gcsfs_has_its_session() -> None:
    core = pytest.importorskip("gcsfs.core")
    owner, name = core.GCSFileSystem, "_set_session"
    needs = "clients/gcs_api.py needs for connections with the client certificates of the options"
    assert inspect.iscoroutinefunction(getattr(owner, name, None)), missing(owner, name, needs)
    assert [*inspect.signature(getattr(owner, name)).parameters] == ["self"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("_strip_protocol", ["path"]),
        ("_parent", ["path"]),
        ("_get_kwargs_from_urls", ["path"]),
    ],
)
def test_every_file_system_of_fsspec_reads_urls(name: str, arguments: list[str]) -> None:
    owner = fsspec_asyn.AbstractFileSystem
    needs = "clients/fsspec_files.py needs to go from a URL to a path and to options"
    assert callable(getattr(owner, name, None)), missing(owner, name, needs)
    assert [*inspect.signature(getattr(owner, name)).parameters] == arguments


@pytest.mark.parametrize(
    "name", ["_cat_file", "_find", "_info", "_ls", "_makedirs", "_pipe_file", "_rm_file"]
)
def test_an_asynchronous_file_system_has_a_coroutine_of_every_call(name: str) -> None:
    owner = fsspec_asyn.AsyncFileSystem
    needs = "clients/fsspec_files.py awaits"
    assert inspect.iscoroutinefunction(getattr(owner, name, None)), missing(owner, name, needs)
