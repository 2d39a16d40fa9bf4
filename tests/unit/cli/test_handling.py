"""`cp`, `rm`, `import` and `export` do what the calls of Python do, and ask before they delete."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")

import ckptstore
from ckptstore import Manager, convert
from ckptstore.cli import application
from tests.support import remedies


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.err = ""

    def __call__(self, *arguments: Any, code: int = 0) -> str:
        status = application.run([*map(str, arguments)])
        out, self.err = self.capsys.readouterr()
        remedies.seen(self.err)
        assert status == code, (status, out, self.err)
        return out

    def json(self, *arguments: Any, code: int = 0) -> list[Any]:
        rows = [json.loads(line) for line in self(*arguments, "--json", code=code).splitlines()]
        assert all(row["schema"] == 1 and row["command"] == arguments[0] for row in rows)
        return rows


@pytest.fixture
def sh(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Manager:
    with Manager(tmp_path / "run") as manager:
        for step in (1, 2, 3):
            manager.save(step, {"params": {"w": np.full((2, 3), step)}, "step": step})
    return manager


def test_cp_of_a_step(sh: Shell, run: Manager, tmp_path: pathlib.Path) -> None:
    out = sh("cp", f"{run.url}@2", tmp_path / "one")
    assert out == f"{tmp_path / 'one'}   48 B\n"
    assert ckptstore.load(tmp_path / "one")["step"] == 2
    [row] = sh.json("cp", run.url, f"{tmp_path}/fork@7")
    fork = Manager(tmp_path / "fork")
    assert (row["src"], row["dst"], row["step"]) == (run.url_of(3), fork.url_of(7), 3)
    assert fork.load(7)["step"] == 3
    sh("cp", f"{run.url}@1", f"{tmp_path}/fork@7", code=8)
    assert "another checkpoint is committed there" in sh.err
    sh("cp", f"{run.url}@1", f"{tmp_path}/fork@7", "--overwrite", "--no-verify")
    assert fork.load(7)["step"] == 1
    sh("cp", f"{run.url}@1", tmp_path / "fork", code=3)
    sh("cp", f"{run.url}@9", tmp_path / "nine", code=7)


def test_cp_of_a_run(sh: Shell, run: Manager, tmp_path: pathlib.Path) -> None:
    place = f"memory://cli-{tmp_path.name}/run"
    sh("cp", f"{run.url}@2", f"{place}@2")
    out = sh("cp", "--all", run.url, place).splitlines()
    steps = [line.partition("/step-")[2].partition(" ")[0] for line in out[:-1]]
    assert [*map(int, steps)] == [1, 3]
    assert out[-1] == "2 steps copied, 1 were there already"
    assert Manager(place).steps() == [1, 2, 3] and Manager(place).load()["step"] == 3
    assert sh.json("cp", "--all", run.url, place) == []
    assert len(sh.json("cp", "--all", run.url, place, "--overwrite")) == 3
    sh("cp", "--all", run.url, run.url_of(1), code=3)
    assert Manager(run.url).steps() == [1, 2, 3]


def test_options_of_both_stores(sh: Shell, run: Manager, tmp_path: pathlib.Path) -> None:
    place = f"memory://cli-{tmp_path.name}/options"
    sh("cp", run.url, place, "-o", 'ckptstore={"timeout": 5}')
    sh("cp", run.url, f"{place}-2", "--dst-option", 'ckptstore={"timeout": "x"}', code=10)
    sh("cp", run.url, f"{place}-2", "--dst-option", "nonsense", code=2)
    assert "--dst-option" in sh.err


@pytest.mark.follows("cli.places", "name the step, such as {}@{}")
def test_rm(sh: Shell, run: Manager, tmp_path: pathlib.Path) -> None:
    sh("rm", f"{run.url}@1", code=2)
    assert "nothing was deleted: there is no terminal" in sh.err and run.steps() == [1, 2, 3]
    assert sh("rm", f"{run.url}@1", f"{run.url}@latest", "-n").splitlines() == [
        f"would delete  {run.url_of(step)}" for step in (1, 3)
    ]
    assert run.steps() == [1, 2, 3]
    [row] = sh.json("rm", f"{run.url}@1", run.url_of(1), "-y")
    assert row["urls"] == [run.url_of(1)] and not row["dry_run"]
    assert run.steps() == [2, 3]
    sh("rm", run.url, "-y", code=2)
    assert f"is a run; name the step, such as {run.url}@3" in sh.err
    sh("rm", f"{run.url}@2", f"{run.url}@9", "-y", code=7)
    assert run.steps() == [2, 3], "nothing goes if one is not there"
    (pathlib.Path(run.url_of(2)) / "MANIFEST").write_bytes(b"damaged")
    sh("rm", f"{run.url}@2", "-y")
    assert run.steps() == [3]
    run.pin(3)
    sh("rm", f"{run.url}@3", "-y", code=10)
    assert run.steps() == [3]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_rm_asks_on_a_terminal(
    answer: str, sh: Shell, run: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return answer == "y"

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", confirm)
    sh("rm", f"{run.url}@1")
    assert asked == [f"Delete {run.url_of(1)}?"]
    assert run.steps() == ([2, 3] if answer == "y" else [1, 2, 3])


@pytest.mark.follows("cli.commands.export", "pass --format npz, for example")
def test_export_and_import(sh: Shell, run: Manager, tmp_path: pathlib.Path) -> None:
    for suffix, read in ("npz", convert.from_npz), ("safetensors", convert.from_safetensors):
        file = tmp_path / f"params.{suffix}"
        out = sh("export", f"{run.url}@2", file, "--select", "params")
        assert out.startswith(f"{file}: 1 arrays, 48 bytes")
        assert read(file)["w"].tolist() == [[2] * 3] * 2
        sh("export", run.url, file, code=8)
        [row] = sh.json("export", run.url, file, "--overwrite")
        assert row["names"] == {"params.w": "$['params']['w']"} and row["nbytes"] == 48
        assert {"path": "$['step']", "kind": "value"}.items() <= row["losses"][0].items()
        [row] = sh.json("import", suffix, file, f"{tmp_path}/from-{suffix}@5")
        assert (row["step"], row["arrays"]) == (5, 1)
        assert Manager(tmp_path / f"from-{suffix}").load()["params.w"].tolist() == [[3] * 3] * 2
    sh("export", run.url, tmp_path / "params", code=2)
    sh("export", run.url, tmp_path / "params", "--format", "npz", "--select", "params.w")
    assert convert.from_npz(tmp_path / "params")["array"].shape == (2, 3)
    sh("import", "npz", tmp_path / "params", f"{tmp_path}/from-npz@5", code=8)
    sh("import", "npz", tmp_path / "params", f"{tmp_path}/from-npz@5", "--overwrite")


@pytest.mark.parametrize("format", ["orbax", "equinox"])
def test_a_format_without_types_says_how_it_is_read(
    format: str, sh: Shell, tmp_path: pathlib.Path
) -> None:
    sh("import", format, tmp_path / "old", tmp_path / "new", code=2)
    assert f"ckptstore.convert.from_{format}" in sh.err.replace("\n", "")
    assert callable(getattr(convert, f"from_{format}"))


def test_no_name_of_a_file_reaches_the_terminal(sh: Shell, tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"\x1b[31mred": np.ones(2), "pair": (1, 2)})
    for arguments in (
        ["cp", tmp_path / "c", tmp_path / "\x1b[31mcopy"],
        ["rm", tmp_path / "\x1b[31mcopy", "-y"],
        ["export", tmp_path / "c", tmp_path / "\x1b[31mx.npz"],
    ):
        assert "\x1b" not in sh(*arguments) + sh.err
