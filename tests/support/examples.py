"""Run examples of the documentation, each in a folder of its own, in one process.

``python examples.py twice FILE...`` runs each file twice in ``whole/NAME``. ``python examples.py
stopped FILE...`` does so too; then in ``stopped/NAME`` it stops each at one of its saves and
runs it again. One process, because importing the frameworks takes the longest.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import ckptstore

STOPPED_AT = 37
"""A call of `save` at which an example has steps behind it and before it."""


class Stopped(BaseException):
    """Stops an example where it stands."""


def run(file: Path, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    os.chdir(directory)
    runpy.run_path(str(file), run_name="__main__")


def run_until_stopped(file: Path, directory: Path) -> None:
    calls = 0

    def stopping(save: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == STOPPED_AT:
                raise Stopped
            return save(*args, **options)

        return counted

    with pytest.MonkeyPatch.context() as patched:
        for name in ("save", "save_async"):
            patched.setattr(ckptstore.Manager, name, stopping(getattr(ckptstore.Manager, name)))
        with pytest.raises(Stopped):
            run(file, directory)
    assert list(directory.glob("*/*/MANIFEST")), "stopped before its first checkpoint"


def main(how: str, *files: str) -> None:
    top = Path.cwd()
    for file in map(Path, files):
        run(file, top / "whole" / file.stem)
        run(file, top / "whole" / file.stem)
        if how == "stopped":
            run_until_stopped(file, top / "stopped" / file.stem)
            run(file, top / "stopped" / file.stem)


if __name__ == "__main__":
    main(*sys.argv[1:])
