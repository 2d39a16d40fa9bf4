"""Each command prints what is there, exits with its code, and obeys no name of a file."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("click")

import ckptstore
from ckptstore.cli import application, tables
from tests.support import ROOT, remedies

ESCAPE, BIDI = "\x1b[31m", "\u202e"
HOSTILE = [f"{ESCAPE}red", "[red]x[/red]", "<script>alert(1)</script>", f"a{BIDI}b", "new\nline"]


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.err = ""

    def __call__(self, *arguments: Any, code: int = 0) -> str:
        status = application.run([*map(str, arguments)])
        out, self.err = self.capsys.readouterr()
        assert status == code, (status, out, self.err)
        return out

    def json(self, *arguments: Any, code: int = 0) -> Any:
        lines = [json.loads(line) for line in self(*arguments, "--json", code=code).splitlines()]
        assert all(line["schema"] == 1 and line["command"] == arguments[0] for line in lines)
        return lines[0] if len(lines) == 1 else lines


@pytest.fixture
def sh(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def state(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    layer = {"norm": np.ones(8, np.float32), "w": np.full((8, 8), step, np.float32)}
    params = {"embed": rng.standard_normal((64, 8), np.float32), "layers": [layer, layer.copy()]}
    params["layers"][1] = {name: array.copy() for name, array in layer.items()}
    ema = {"embed": params["embed"] + 1, "layers": [dict(x) for x in params["layers"]]}
    ema["layers"] = [{n: a + 0 for n, a in x.items()} for x in params["layers"]]
    return {"params": params, "ema": ema, "count": np.array(step), "step": step, "name": "run"}


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    with ckptstore.Manager(tmp_path / "run") as manager:
        for step in (100, 200, 300):
            metrics = {"loss": 100 / step, "acc": 0.5 if step == 200 else 0.1}
            manager.save(step, state(step), metrics=metrics)
    return tmp_path / "run"


def flip(place: pathlib.Path) -> None:
    file = max(place.glob("data-*"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def test_ls(sh: Shell, run: pathlib.Path) -> None:
    lines = sh("ls", run).splitlines()
    assert re.split(r"\s{2,}", lines[0]) == ["STEP", "SAVED", "SIZE", "NEW", "loss", "acc"]
    assert lines[3].endswith("latest") and "0.3333" in lines[3]
    assert lines[4].startswith("3 steps, ")
    found = sh.json("ls", run, "--sort", "acc")
    assert [row["step"] for row in found["steps"]] == [100, 300, 200]
    assert found["steps"][0]["metrics"] == {"acc": 0.1, "loss": 1.0}
    for number in (100, 300):
        ckptstore.Manager(run).pin(number)
    lines = sh("ls", run).splitlines()
    assert lines[1].endswith("  pinned") and lines[3].endswith("  latest, pinned")
    assert sh.json("ls", run)["pinned"] == [100, 300]
    step = run / "step-000000000200" / "MANIFEST"
    step.write_bytes(b"x" * 50)
    (run / "step-000000000400").mkdir()
    (run / "step-000000000400" / f"data-{'0' * 32}-0-0.bin").write_bytes(b"killed")
    out = sh("ls", run)
    assert "damaged manifest: step 200" in out
    assert "not finished, by a save that was killed or still runs: step 400" in out
    found = sh.json("ls", run)
    assert (found["damaged"], found["unfinished"]) == ([200], [400])


def test_show(sh: Shell, run: pathlib.Path) -> None:
    out = sh("show", f"{run}@200")
    assert "saved 20" in out and "metrics  " in out and "loss 0.5" in out
    assert re.search(r"0…1 +dict ×2, each:", out)
    assert re.search(r"w +f32\[8,8\] +64 +256 B", out)
    assert re.search(r"ema +dict like params", out)
    assert re.search(r"count +i64\[\] = 200", out)
    assert re.search(r"step +int = 200", out)
    assert re.search(r"name +str = 'run'", out)
    assert "×2" not in sh("show", run, "--all")
    assert "norm" not in sh("show", run, "-d", "1")
    assert sh("show", run, "params.layers.0").count("f32") == 2
    found = sh.json("show", run, "params.embed")
    assert found["step"] == 300 and found["tree"][0]["shape"] == [64, 8]


def test_parts_that_differ_are_not_folded(sh: Shell, tmp_path: pathlib.Path) -> None:
    layers = [{"w": np.zeros((4, 4)), "n": np.array(n)} for n in range(3)]
    ckptstore.save(tmp_path / "c", {"layers": layers, "n": [np.zeros(2), np.zeros(2)]})
    out = sh("show", tmp_path / "c")
    assert [f"= {n}" in out for n in range(3)] == [True] * 3
    assert "0…1" in out


def test_cat(sh: Shell, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    embed = state(300)["params"]["embed"]
    assert sh("cat", run, "params.embed", "-n", "3").startswith(f"{embed[0, 0]:.6g} ")
    assert "first 3 of 512" in sh("cat", run, "params.embed", "-n", "3")
    assert sh.json("cat", run, "params.embed", "--slice", "5:7,:2")["values"] == [
        float(x) for x in embed[5:7, :2].reshape(-1)
    ]
    assert sh("cat", run, "step") == "300\n"
    assert sh.json("cat", run, "count")["values"] == [300]
    sh("cat", run, "params.embed", "--npy", tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npy"), embed)
    sh("cat", run, "params.embed", "--slice", "a", code=2)
    sh("cat", run, "params.embed", "--slice", "100", code=3)
    assert "does not fit an array of shape" in sh.err


def test_stats(sh: Shell, tmp_path: pathlib.Path) -> None:
    w = np.ones((4, 4), np.float32)
    w[0, :2] = np.nan
    ckptstore.save(tmp_path / "c", {"w": w, "z": np.zeros(3), "text": np.array(["a"])})
    out = sh("stats", tmp_path / "c")
    assert re.search(r"w +f32\[4,4\] +1 +0 +1 +1 +3\.742 +2 NaN", out)
    assert "all zero" in out
    sh("stats", tmp_path / "c", "--fail-on", "nan", code=1)
    sh("stats", tmp_path / "c", "z", "--fail-on", "nan,inf")
    sh("stats", tmp_path / "c", "--fail-on", "zero", code=2)
    found = sh.json("stats", tmp_path / "c", "--sort", "norm")
    assert [row["short"] for row in found["arrays"]] == ["w", "z", "text"]


def test_verify(sh: Shell, run: pathlib.Path) -> None:
    assert sh("verify", run).startswith("sound ")
    flip(run / "step-000000000100")
    out = sh("verify", run, "--all", code=6)
    assert re.search(r"damaged  step 100 .* damaged bytes of \$\['", out)
    assert out.endswith("3 steps: 2 sound, 1 damaged\n")
    rows = sh.json("verify", run, "--all", code=6)
    assert [row["sound"] for row in rows] == [False, True, True]
    (problem,) = rows[0]["problems"]
    assert problem["reason"] == "checksum" and problem["path"].startswith("$['")
    sh("verify", f"{run}@200", "--finite")


def test_verify_finite(sh: Shell, tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {"w": np.array([1.0, np.inf])})
    assert "0 NaN, 1 Inf" in sh("verify", tmp_path / "c", "--finite", code=1)


def test_diff(sh: Shell, run: pathlib.Path) -> None:
    out = sh("diff", f"{run}@100", f"{run}@200", code=1)
    assert re.search(r"~ +params +2 of 5 ", out)
    assert re.search(r"~ +count +1 +100 % +100", out)
    assert re.search(r"~ +step +100 → 200", out)
    assert "11 arrays in both: 5 changed, 6 bit-equal" in out
    assert "embed" not in out
    assert "bit-equal" in sh("diff", f"{run}@100", f"{run}@100")
    found = sh.json("diff", f"{run}@100", f"{run}@200", "step", code=1)
    assert [change["short"] for change in found["changes"]] == ["step"]
    assert "yes" in sh("diff", f"{run}@100", f"{run}@200", "--structure", code=1)
    sh("diff", f"{run}@100", f"{run}@200", "params", "--atol", "1000")


@pytest.mark.parametrize(
    ("place", "step"),
    [("run", 300), ("run@100", 100), ("run@-1", 300), ("run@-3", 100), ("run@latest", 300),
     ("run@best:loss", 300), ("run@best:acc:max", 200), ("run/step-000000000200", 200)],
)  # fmt: skip
def test_a_step_has_many_names(sh: Shell, run: pathlib.Path, place: str, step: int) -> None:
    assert sh.json("show", run.parent / place, "step")["step"] == step


@pytest.mark.parametrize(
    ("place", "code", "text"),
    [("run@150", 7, "no step 150; take one of 100, 200, 300"), ("run@-4", 2, "has 3 steps"),
     ("run@best:nope", 3, "nope"), ("nothing", 7, "no-manifest"), ("nothing@3", 7, "no-step"),
     ("run@x", 7, "no-manifest")],
)  # fmt: skip
def test_a_step_that_is_not_there(
    sh: Shell, run: pathlib.Path, place: str, code: int, text: str
) -> None:
    assert sh("show", run.parent / place, code=code) == ""
    assert text in sh.err and "Traceback" not in sh.err


def test_a_directory_goes_before_a_step(sh: Shell, run: pathlib.Path) -> None:
    ckptstore.save(run.parent / "run@100", {"x": 1})
    assert "x" in sh("show", run.parent / "run@100")


@pytest.mark.follows("cli.places", "take one of {}")
def test_the_step_that_an_error_names_is_there(sh: Shell, run: pathlib.Path) -> None:
    sh("show", f"{run}@150", code=7)
    first = re.findall(r"take one of (\d+)", sh.err)[0]
    sh("show", f"{run}@{first}")


@pytest.mark.follows("cli.places", "check the path")
def test_the_path_of_a_run_that_is_not_there(sh: Shell, run: pathlib.Path) -> None:
    sh("ls", f"{run}s", code=7)
    assert "check the path" in sh.err
    sh("ls", run)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_file_reaches_the_terminal(
    sh: Shell, name: str, tmp_path: pathlib.Path
) -> None:
    with ckptstore.Manager(tmp_path / "run") as manager:
        for step in (1, 2):
            tree = {name: {name: np.full((3, 3), step)}, "text": name, "n": np.array([step])}
            metadata = {name: name}
            manager.save(step, tree, metrics={name: 1.0}, metadata=metadata)
    run = tmp_path / "run"
    commands = [("ls", run), ("show", run), ("stats", run), ("verify", run), ("cat", run, "text")]
    for command in [*commands, ("diff", f"{run}@1", f"{run}@2")]:
        code = 1 if command[0] == "diff" else 0
        for more in ([], ["--json"]):
            out = sh(*command, *more, code=code)
            assert not {c for c in out if not c.isprintable()} - {"\n"}, command
            assert "red" not in name or "red" in out or command[0] == "verify"
    sh("show", run, f"['{name}'].nope", code=3)
    assert not {c for c in sh.err if not c.isprintable()} - {"\n"}


def test_a_narrow_terminal_elides_the_path_alone(
    sh: Shell, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ckptstore.save(tmp_path / "c", {"a_long_name_of_a_layer" * 4: np.ones((1234, 2))})
    whole = sh("stats", tmp_path / "c")
    assert "a_long_name_of_a_layer" * 4 in whole
    monkeypatch.setattr(tables, "width", lambda: 60)
    cut = sh("stats", tmp_path / "c")
    assert all(len(line) <= 60 for line in cut.splitlines())
    assert "…" in cut and "49.68" in cut and "f64[1234,2]" in cut


def test_more_rows_than_are_shown(sh: Shell, tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {f"w{n}x": np.full(n + 1, n) for n in range(250)})
    assert sh("stats", tmp_path / "c").endswith("… and 50 more: --all, or --json\n")
    assert len(sh("stats", tmp_path / "c", "--all").splitlines()) == 251
    assert sh("stats", tmp_path / "c", "-q") == ""


def test_every_command_shows_an_example(sh: Shell) -> None:
    for name, text in application.COMMANDS.items():
        assert f"Example: ckptstore {name} " in sh(name, "--help")
        assert text in sh("--help")
    sh("nonsense", code=2)
    sh("show", code=2)


def test_an_option_of_the_store_is_passed_on(sh: Shell, run: pathlib.Path) -> None:
    sh("ls", "s3://bucket/run", "-o", "nonsense", code=2)
    sh("ls", run, "-o", 'ckptstore={"nonsense": 1}', code=10)
    assert "bad-options" in sh.err


COMMAND = [sys.executable, "-m", "ckptstore"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_closed_pipe_is_quiet(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", {f"w{n}": np.full(2, n) for n in range(3000)})
    piped = subprocess.Popen(
        [*COMMAND, "stats", str(tmp_path / "c"), "--all"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert piped.stdout is not None and piped.stderr is not None
    piped.stdout.readline()
    piped.stdout.close()
    assert piped.wait(60) in (0, application.CLOSED_PIPE)
    assert piped.stderr.read() == b""
    piped.stderr.close()


def test_ctrl_c_ends_in_one_word(tmp_path: pathlib.Path) -> None:
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ckptstore import analysis\n"
        "def wait(*a, **k):\n"
        "    print('waits', flush=True)\n"
        "    signal.pause()\n"
        "analysis.stats = wait\n"
        "from ckptstore.cli import main\n"
        "main()\n"
    )
    ckptstore.save(tmp_path / "c", {"w": np.ones(3)})
    piped = subprocess.Popen(
        [sys.executable, "-c", script, "stats", str(tmp_path / "c")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True,
    )  # fmt: skip
    assert piped.stdout is not None
    assert piped.stdout.readline() == "waits\n"
    piped.send_signal(signal.SIGINT)
    end = time.monotonic() + 60
    out, err = piped.communicate(timeout=end - time.monotonic())
    assert (piped.returncode, out, err) == (application.INTERRUPTED, "", "\n")


def test_no_framework_is_imported_by_any_command(tmp_path: pathlib.Path) -> None:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with ckptstore.Manager(tmp_path / "run") as manager:
        params = {"w": jax.numpy.ones((4, 4))}
        for step in (1, 2):
            tree = {"params": params, "opt": optax.adam(1e-3).init(params), "step": step}
            manager.save(step, tree)
    commands = [["ls", "R"], ["show", "R"], ["cat", "R", "params.w"], ["stats", "R"]]
    commands += [["pin", "R"], ["prune", "R", "--keep-last", "1", "-n"], ["gc", "R"]]
    commands += [["verify", "R"], ["diff", "R@1", "R@2"]]
    script = (
        "import sys, json\n"
        "from ckptstore.cli.application import run\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert run(command) in (0, 1), command\n"
        "print(sorted({'jax', 'optax', 'torch', 'flax'} & {*sys.modules}))\n"
    )
    texts = [[x.replace("R", str(tmp_path / "run")) for x in command] for command in commands]
    ran = subprocess.run(
        [sys.executable, "-c", script, json.dumps(texts)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("[]\n")


@pytest.mark.follows("cli.__init__", 'pip install "ckptstore[cli]"')
def test_without_click_one_line_says_how_to_install_it() -> None:
    script = "import sys; sys.modules['click'] = None; from ckptstore.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == 'ckptstore: this needs click: pip install "ckptstore[cli]"\n'
    remedies.seen(ran.stderr)
    ran = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, env=ENVIRONMENT)
    assert ran.stdout == f"ckptstore, version {ckptstore.__version__}\n"  # here it is installed
