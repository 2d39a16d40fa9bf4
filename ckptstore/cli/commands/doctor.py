"""``ckptstore doctor``: what is installed, and whether a place keeps the promises of a save."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import platform
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import ckptstore
from ckptstore import AlreadyCommittedError, CheckpointError, Manager, StorageError
from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common

_FRAMEWORKS = ("jax", "optax", "flax", "equinox", "dm-haiku", "chex", "torch", "orbax-checkpoint")
_STORES = ("fsspec", "s3fs", "aiobotocore", "gcsfs", "adlfs")
_ADAPTERS = "ckptstore.adapters"
_ELEMENTS = 1 << 20


@click.command(epilog="Example: ckptstore doctor s3://bucket/run")
@common
@click.argument("url", required=False)
def command(output: Output, url: str | None) -> int:
    """Say what is installed, and try a place: a path, or the URL of a bucket.

    A small run is saved in a directory of its own below the place, overwritten, loaded and
    deleted, as a training run would do it. So you learn here, and not at step 10,000, whether a
    commit happens once, whether unchanged files are shared, and what a deletion frees.
    """
    found = _installed()
    tried = [*_tried(url, output)] if url is not None else []
    failed = next((row for row in tried if row["error"]), None)
    if output.as_json:
        output.json("doctor", url=url, installed=found, tried=tried)
    else:
        output.lines(_lines(found, tried, url, output))
    return 0 if failed is None else int(failed["exit_code"])


def _installed() -> dict[str, dict[str, str]]:
    """Return the versions, without an import of any framework."""
    adapters = importlib.metadata.entry_points(group=_ADAPTERS)
    return {
        "python": {"python": platform.python_version(), "platform": platform.platform()},
        "ckptstore": {"ckptstore": ckptstore.__version__, "numpy": np.__version__},
        "stores": _versions(_STORES),
        "frameworks": _versions(_FRAMEWORKS),
        "adapters": {entry.name: entry.value for entry in adapters},
    }


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


class _Broken(Exception):
    """The place does something else than it promises."""

    reason, exit_code = "broken", StorageError.exit_code


class _Notes(logging.Handler):
    """Keeps what ckptstore logs, but for the lines about the saves and loads of a run."""

    def __init__(self, run: str) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno > logging.INFO or not text.startswith(self._run):
            self.texts.append(text)


def _tried(url: str, output: Output) -> Iterator[dict[str, Any]]:
    """Yield a row for each thing that is tried; after an error nothing more is."""
    place = f"{url.rstrip('/')}/ckptstore-doctor-{secrets.token_hex(4)}"
    own = [place] if "://" in url or Path(url).exists() else [place, url]
    notes, log = _Notes(place), logging.getLogger("ckptstore")
    level = log.level
    log.addHandler(notes)
    log.setLevel(logging.INFO)
    try:
        manager = Manager(place, grace=None, storage_options=output.options)
        for text, act in _acts(manager):
            try:
                said = act()
            except (CheckpointError, _Broken) as error:
                yield _row(text, error=error)
                return
            yield _row(text if said is None else said)
        for note in dict.fromkeys(notes.texts):
            yield _row(note, note=True)
    except CheckpointError as error:
        yield _row("the place can be opened", error=error)
    finally:
        log.removeHandler(notes)
        log.setLevel(level)
        if "://" not in url:
            with contextlib.suppress(OSError):
                for directory in own:
                    Path(directory).rmdir()


def _row(
    text: str, error: CheckpointError | _Broken | None = None, note: bool = False
) -> dict[str, Any]:
    return {
        "text": text,
        "kind": "note" if note else "ok" if error is None else "failed",
        "error": None if error is None else f"{error} [{error.reason}]",
        "exit_code": 0 if error is None else error.exit_code,
    }


def _acts(manager: Manager) -> list[tuple[str, Callable[[], str | None]]]:
    large = np.arange(_ELEMENTS, dtype=np.float32)

    def state(number: int) -> dict[str, Any]:
        return {"large": large, "number": np.array(number)}

    def save() -> None:
        manager.save(1, state(1))

    def twice() -> None:
        with contextlib.suppress(AlreadyCommittedError):
            manager.save(1, state(2), overwrite=False)
            raise _Broken("it was not refused: two jobs may overwrite each other there")

    def overwrite() -> None:
        manager.save(1, state(3), overwrite=True)

    def load() -> None:
        loaded = manager.load(1)
        if not np.array_equal(loaded["large"], large) or int(loaded["number"]) != 3:
            raise _Broken("other values came back")

    def share() -> str | None:
        for step in (2, 3):
            saved = manager.save(step, state(step))
        assert saved is not None
        shared = saved.nbytes_written < large.nbytes
        return None if shared else "unchanged files are written again: this store cannot share them"

    def delete() -> None:
        for step in manager.steps():
            manager.delete(step)

    return [
        ("a save is committed", save),
        ("a second save of the same step is refused", twice),
        ("a step is overwritten in one piece", overwrite),
        ("the values come back, each byte checked", load),
        ("unchanged files are shared by later steps", share),
        ("steps are deleted", delete),
    ]


def _lines(
    found: dict[str, dict[str, str]], tried: list[dict[str, Any]], url: str | None, output: Output
) -> Iterator[str]:
    for name, versions in found.items():
        listed = ", ".join(f"{texts.clean(p)} {texts.clean(v)}" for p, v in versions.items())
        yield f"{name:10}  {listed or 'none'}"
    if url is not None:
        yield ""
        yield texts.clean(url)
    for row in tried:
        mark = output.red("failed") if row["error"] else f"{row['kind']:6}"
        yield f"{mark}  {texts.clean(row['text'])}"
        if row["error"]:
            yield f"        {texts.clean(row['error'])}"
