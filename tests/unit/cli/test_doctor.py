"""`doctor` tries a place for real, says what it lacks, and leaves nothing there."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("click")

import ckptstore
from ckptstore import Manager
from ckptstore.cli import application
from tests.support import remedies
from tests.support.servers import Moto


def doctor(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> list[str]:
    assert application.run(["doctor", *map(str, arguments)]) == code
    return capsys.readouterr().out.splitlines()


def test_a_disk_keeps_the_promises(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    lines = doctor(capsys, tmp_path / "new")
    assert [line[:2] for line in lines[-6:]] == ["ok"] * 6
    assert "ok      unchanged files are shared by later steps" in lines
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    found = json.loads(doctor(capsys, tmp_path / "old", "--json")[0])
    assert [row["kind"] for row in found["tried"]] == ["ok"] * 6
    assert found["installed"]["ckptstore"]["ckptstore"] == ckptstore.__version__
    assert [*(tmp_path / "old").iterdir()] == []


def test_without_a_place_it_says_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = doctor(capsys)
    assert any(line.startswith("stores      fsspec ") for line in lines)


def test_a_place_that_takes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("x")
    lines = doctor(capsys, tmp_path / "file", code=10)
    assert lines[-2].startswith("failed  ")
    assert "[not-a-directory]" in lines[-1]


def test_a_place_that_commits_twice(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Manager.save

    def careless(self: Manager, step: int, tree: Any, **options: Any) -> Any:
        return save(self, step, tree, **{**options, "overwrite": True})

    monkeypatch.setattr(Manager, "save", careless)
    lines = doctor(capsys, tmp_path / "new", code=10)
    assert lines[-2:] == [
        "failed  a second save of the same step is refused",
        "        it was not refused: two jobs may overwrite each other there [broken]",
    ]


@pytest.mark.ci
def test_a_bucket_that_keeps_versions_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with Moto() as server:
        bucket = server.new_bucket()
        server.client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
        options = [f"-o{name}={value}" for name, value in server.storage_options().items()]
        lines = doctor(capsys, f"s3://{bucket}/run", *options)
        assert [line for line in lines if "keeps the versions of deleted objects" in line]
        assert server.objects(bucket) == {}


@pytest.mark.follows("cli.commands.demo", 'pip install "ckptstore[demo]"')
def test_the_demonstration_says_what_it_needs() -> None:
    script = (
        "import sys; sys.modules['rich'] = None\n"
        "from ckptstore.cli.application import run; sys.exit(run(['demo', 'place']))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    remedies.seen(ran.stderr)
    from ckptstore.demo import __main__ as installed

    with pytest.raises(SystemExit):
        installed.main(["--help"])
