"""A directory that you may enter and not list: a drop box (mode 0733), or one to read (0711)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptstore
from ckptstore.format.names import step_name
from tests.support import ROOT

SAVE = """
import os, sys, tempfile
import numpy as np
import ckptstore
from ckptstore.format import manifest
from ckptstore.saving import placement

placement.FILE_NBYTES = 4000
if sys.argv[2] == "index":
    manifest.MANIFEST_MAX_NBYTES = 600
tree = {"w": [np.full(800, i) for i in range(4)]}
with tempfile.TemporaryDirectory() as directory:
    ckptstore.save(directory, tree)  # imports everything, as the user who may
os.setgroups([])
os.setgid(NOBODY)
os.setuid(NOBODY)
try:
    ckptstore.save(sys.argv[1], tree, overwrite=sys.argv[3] == "overwrite")
except ckptstore.CheckpointError as error:
    print(error.reason, error)
else:
    print("saved")
""".replace("NOBODY", "65534")


@pytest.fixture
def box() -> Iterator[Path]:
    """A directory of another user, with mode 0733, below one that everybody may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        os.chmod(above, 0o711)
        box = Path(above) / "box"
        box.mkdir()
        os.chmod(box, 0o733)
        yield box
        os.chmod(box, 0o700)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("index", ["inside", "index"])
@pytest.mark.parametrize("how", ["create", "overwrite"])
def test_a_failed_save_leaves_no_file_where_it_may_not_list(
    index: str, how: str, box: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(box), index, how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("permission"), (done.stdout, done.stderr)
    assert "check the owner and the mode" in done.stdout
    assert list(box.iterdir()) == []


READ = """
import os, sys, tempfile
import ckptstore
with tempfile.TemporaryDirectory() as directory:
    ckptstore.Manager(directory).save(1, 1)
    ckptstore.Manager(directory).load()
os.setgroups([])
os.setgid(NOBODY)
os.setuid(NOBODY)
run, expression = sys.argv[1:]
try:
    print(eval(expression, {"manager": ckptstore.Manager(run)}))
except ckptstore.CheckpointError as error:
    print(error.reason, error)
""".replace("NOBODY", "65534")


def read_by_nobody(run: Path, expression: str) -> str:
    """Return the value, or the reason and the error, of an expression with `manager`."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(run), expression],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o711, 0o733, 0o700])
def test_a_run_that_you_may_not_list_loads_the_step_that_you_name_and_never_begins_anew(
    box: Path, mode: int
) -> None:
    ckptstore.Manager(box).save(2, {"a": 1})
    os.chmod(box, mode)
    loaded = read_by_nobody(box, "manager.load(2)")
    assert loaded == "{'a': 1}" if mode & 1 else loaded.startswith("permission")
    for call in ("manager.load_or_init(lambda: 0)", "manager.latest()", "manager.steps()"):
        assert read_by_nobody(box, call).startswith("permission")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("link", [False, True])
def test_an_unfinished_step_that_you_may_not_list_is_no_step_and_stops_nothing(
    box: Path, link: bool
) -> None:
    os.chmod(box, 0o755)
    unfinished = box / step_name(3)
    if link:
        (box / "elsewhere").mkdir()
        unfinished.symlink_to("elsewhere")
    else:
        unfinished.mkdir()
    os.chmod(unfinished, 0o711)
    for call in ("manager.load_or_init(lambda: 1)", "manager.load_or_init(lambda: 1, fallback=1)"):
        assert read_by_nobody(box, call) == "1"
    assert read_by_nobody(box, "manager.latest(), manager.steps()") == "(None, [])"
    ckptstore.Manager(box).save(2, 2)
    assert read_by_nobody(box, "manager.load()") == "2"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_step_that_hides_its_files_is_an_error_that_names_it(box: Path) -> None:
    os.chmod(box, 0o755)
    ckptstore.Manager(box).save(2, 2)
    os.chmod(box / step_name(2), 0o700)
    for call in ("manager.load_or_init(lambda: 0, fallback=True)", "manager.load(2)"):
        found = read_by_nobody(box, call)
        assert found.startswith("permission") and step_name(2) in found
