"""fsspec's other spellings of a place: each is refused by name, and its way on is followed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import Manager

STATE = {"w": np.arange(3.0)}


def refused(url: Any) -> str:
    """Return the message that every call gives."""
    said = set()
    for call in (
        ckptstore.load,
        ckptstore.inspect,
        ckptstore.verify,
        Manager,
        lambda url: ckptstore.save(url, STATE),
        lambda url: ckptstore.save_async(url, STATE).result(),
    ):
        with pytest.raises(ckptstore.StorageError) as caught:
            call(url)
        assert caught.value.reason == "no-such-store"
        said.add(str(caught.value))
    (message,) = said
    return message


@pytest.mark.follows(
    "storage.chains",
    "for a local disk, pass the path, or a file:// URL: {}",
    "pass the URL of the place itself{}",
    "pass the URL of the store itself: {}",
    "if it is a path, write ./{}",
    some=True,
)
@pytest.mark.parametrize(
    ("form", "below"),
    [
        ("simplecache::{}", ""),
        ("simplecache::file://{}", ""),
        ("filecache::local://{}", ""),
        ("blockcache::{}", ""),
        ("cached::file://{}", ""),
        ("simplecache::filecache::{}", ""),
        ("local://{}", ""),
        ("asynclocal://{}", ""),
        ("local::{}", ""),
        ("file::{}", ""),
        ("dir://a::{}", "/a"),
        ("dir://a/b::file://{}", "/a/b"),
        ("dir::{}", ""),
        ("generic::file://{}", ""),
    ],
)
def test_another_spelling_of_a_local_place_names_the_path_which_works(
    form: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(form.format(tmp_path / "run"))
    assert os.listdir(tmp_path) == []
    place = re.findall(r": (/[^ ;]*)", message)[-1]
    assert place == f"{tmp_path}/run{below}"
    ckptstore.save(place, STATE)
    assert (ckptstore.load(place)["w"] == STATE["w"]).all()
    if "://" not in form:
        (path,) = re.findall(r"if it is a path, write (.*)$", message)
        ckptstore.save(path, STATE)
        assert (ckptstore.load(path)["w"] == STATE["w"]).all()


@pytest.mark.follows(
    "storage.chains",
    "unpack it ({}) and pass {}",
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("before", ["", "file://"])
def test_an_archive_names_the_command_that_unpacks_it(
    kind: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ckptstore.save(tmp_path / "c", STATE)
    archive = tmp_path / f"c.{kind}"
    shutil.make_archive(str(tmp_path / "c"), kind, tmp_path, "c")
    message = refused(f"{kind}://c::{before}{archive}")
    command, place = re.findall(r"unpack it \((.*)\) and pass (.*)$", message)[0]
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    subprocess.run(words, check=True, cwd=tmp_path)
    assert place == "DIRECTORY/c"
    assert (ckptstore.load(place)["w"] == STATE["w"]).all()


@pytest.mark.parametrize(
    "url", ["zip:///a.zip", "libarchive://c::/a.7z", "reference://x", "dir://x"]
)
def test_a_chain_without_its_end_is_refused_by_name(url: str) -> None:
    message = refused(url)
    assert url in message and ("archive" in message or "view" in message)


def test_no_secret_of_a_chain_is_shown() -> None:
    message = refused("simplecache::ftp://user:secret@host/x")
    assert "secret" not in message and "the URL of the store itself" in message


def test_a_name_with_colons_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("run::1", "./zip::x", tmp_path / "simplecache::x", "a/b::c", "memory::x"):
        ckptstore.save(path, STATE)
        assert (ckptstore.load(path)["w"] == STATE["w"]).all()
    ckptstore.save("memory://chains/a::b", STATE)
    assert (ckptstore.load("memory://chains/a::b")["w"] == STATE["w"]).all()
