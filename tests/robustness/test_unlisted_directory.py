"""A directory that you may write to and not list (mode 0733): a drop box."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
