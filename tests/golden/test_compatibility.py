"""The ckptstore that froze the format, in a venv of its own, and today's, side by side.

`docs/compatibility.md` promises what these tests hold. They run whole children, so `make test-all`
runs them.
"""

from __future__ import annotations

import io
import pathlib
import subprocess
import sys
import tarfile

import golden_trees
import pytest

import ckptstore
from tests.golden import compare_bytes
from tests.support import ROOT

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]

FROZEN = "a76152b"  # the commit whose checkpoints are in golden/ckptstore-0.1
SPANS = ("SPAN_NBYTES = 16 << 20", "SPAN_NBYTES = 4 << 20")
"""The one difference since then: larger leaves are cut into smaller spans (CHANGELOG.md)."""
TODAY = pathlib.Path(ckptstore.__file__).resolve().parents[1]
COUNT = sum(len(golden_trees.archived("0.1", name)) for name in golden_trees.FRAMEWORKS)
"""The cases that the old version can write: later ones hold types that it does not know."""


def sources(into: pathlib.Path) -> None:
    """Put the package as it was at the frozen commit into a directory."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "archive", FROZEN, "ckptstore"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.fail(
            f"the history here lacks the commit {FROZEN}: in a shallow clone run "
            f"`git fetch --unshallow`. git said: {done.stderr.decode().strip()}"
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(into, filter="data")


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a venv with the old ckptstore, and the frameworks of the environment that runs this."""
    venv = tmp_path_factory.mktemp("old") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    sources(site)
    # A path in a .pth file comes after the directory of the file, and its own .pth files are not
    # read: an editable install of today's ckptstore does not come before the old one.
    frameworks = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "frameworks.pth").write_text("\n".join(frameworks))
    return str(venv / "bin" / "python")


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Let today's ckptstore write the catalogue."""
    place = tmp_path_factory.mktemp("today") / "trees"
    assert compare_bytes.run("write", place, checkout=TODAY)[-1] == str(COUNT)
    return place


def test_the_old_version_reads_what_today_s_writes(old_python: str, today: pathlib.Path) -> None:
    imported, *found, count = compare_bytes.run("check", today, python=old_python)
    assert pathlib.Path(imported).is_relative_to(pathlib.Path(old_python).parents[1]), imported
    assert found == []
    assert count == str(COUNT)


def test_the_same_tree_gives_the_same_bytes_as_in_the_old_version(
    today: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    sources(tmp_path)
    plan = tmp_path / "ckptstore/plan.py"
    assert SPANS[0] in plan.read_text()
    plan.write_text(plan.read_text().replace(*SPANS))
    old = tmp_path / "trees"
    assert compare_bytes.run("write", old, checkout=tmp_path)[-1] == str(COUNT)
    assert compare_bytes.differences(old, today) == (COUNT, [])


def test_a_history_without_the_old_version_is_told_with_the_remedy(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "FROZEN", "0" * 40)
    with pytest.raises(pytest.fail.Exception, match="git fetch --unshallow"):
        sources(tmp_path)
