"""The code of the README and of docs/ is run as it stands."""

import ast
import re
import subprocess
import sys

import pytest

from ckptstore import Reason
from tests.support import ROOT, TESTS

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
    named = re.findall(r"`(\w+\.py)::(\w+)(?:::(\w+))?`", text)
    assert len(named) >= 8
    for file, *names in named:
        (path,) = TESTS.rglob(file)
        source = path.read_text()
        for name in filter(None, names):
            assert re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE), f"{file}::{name}"


SOURCES = {path: ast.parse(path.read_text()) for path in (ROOT / "ckptstore").rglob("*.py")}
CODE = re.compile(r"[a-z]+(-[a-z0-9]+)*")


def strings(node):
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) is str}


def named(node):
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)


def nodes(kind):
    for path, module in SOURCES.items():
        for node in ast.walk(module):
            if isinstance(node, kind):
                yield f"{path.name}:{getattr(node, 'lineno', 0)}", node


def test_every_reason_is_a_member_and_never_a_text():
    for place, call in nodes(ast.Call):
        for keyword in call.keywords:
            if keyword.arg == "reason" and not place.startswith("registry.py"):
                assert not strings(keyword.value) & {*Reason}, f"{place}: {strings(keyword.value)}"
    used = {node.attr for _, node in nodes(ast.Attribute) if named(node.value) == "Reason"}
    assert used == set(Reason.__members__)


def test_the_spec_lists_every_reason_code():
    spec = (ROOT / "docs" / "spec.md").read_text()
    section = spec[spec.index("## 12 Reason codes") : spec.index("## 13 ")]
    listed = set(re.findall(r"`([a-z][a-z0-9-]*)`", section)) - {"ckptstore"}
    assert listed == {*Reason}
    assert all(CODE.fullmatch(code) for code in Reason)
