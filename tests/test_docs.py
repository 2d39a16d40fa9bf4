"""The code of the README and of docs/ is run as it stands."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks():
    for page in PAGES:
        code = BLOCK.findall(page.read_text())
        if code:
            yield pytest.param("\n".join(code), id=page.name)


def test_there_is_code_to_run():
    assert any(True for _ in blocks())


@pytest.mark.parametrize("code", list(blocks()))
def test_the_code_of_a_page_runs_from_top_to_bottom(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_link_to_a_file_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_invariants_of_the_commit_name_tests_that_exist():
    text = (ROOT / "docs" / "commit.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(\w+)(?:::(\w+))?`", text)
    assert len(named) >= 8
    for file, *names in named:
        source = (ROOT / "tests" / file).read_text()
        for name in filter(None, names):
            assert re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), f"{file}::{name}"


def test_the_spec_lists_the_reason_codes_of_the_format():
    spec = (ROOT / "docs" / "spec.md").read_text()
    modules = ["wire", "format", "index", "validate", "dtypes", "commit", "fetch", "rebuild"]
    for module in modules:
        source = (ROOT / "ckptstore" / f"{module}.py").read_text()
        codes = set(re.findall(r'reason="([a-z-]+)"', source))
        codes |= set(re.findall(r'_fail\([^)]*"([a-z-]+)"\)', source))
        missing = {code for code in codes if f"`{code}`" not in spec}
        assert not missing, f"{module}: {sorted(missing)}"
