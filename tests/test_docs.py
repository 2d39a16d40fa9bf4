"""The code of the README and of docs/ is run as it stands."""

import ast
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
    named = re.findall(r"`(\w+\.py)::(\w+)(?:::(\w+))?`", text)
    assert len(named) >= 8
    for file, *names in named:
        source = (ROOT / "tests" / file).read_text()
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


def takers():
    """Return the functions and classes that take a reason by position, and where it stands."""
    out = {}
    for _, node in nodes((ast.FunctionDef, ast.ClassDef)):
        if isinstance(node, ast.FunctionDef):
            names = [a.arg for a in node.args.args]
        else:
            made = [d for d in node.body if getattr(d, "name", "") == "__init__"]
            fields = [named(d.target) for d in node.body if isinstance(d, ast.AnnAssign)]
            names = [a.arg for a in made[0].args.args[1:]] if made else fields  # a dataclass's
        if "reason" in names:
            out[node.name] = names.index("reason")
    return out


def reason_codes():
    """Return (place, code) of every reason in the sources; a form that is not known fails."""
    positions, found, tables = takers(), [], {"_REASONS"}
    for place, call in nodes(ast.Call):
        values = [k.value for k in call.keywords if k.arg == "reason"]
        at = positions.get(named(call.func))
        if not values and at is not None and len(call.args) > at:
            values = [call.args[at]]
        for value in values:
            codes = strings(value)
            looked_up = {  # _REASONS.get(…, "storage"), _REASONS[…]
                named(node.func.value if isinstance(node, ast.Call) else node.value)
                for node in ast.walk(value)
                if isinstance(node, ast.Call | ast.Subscript)
            }
            tables |= looked_up
            passed_on = isinstance(value, ast.Attribute | ast.Name) and named(value) == "reason"
            known = codes or passed_on or looked_up
            assert known, f"{place}: where does {ast.unparse(value)} come from?"
            found += [(place, code) for code in codes]
    for place, loop in nodes(ast.For):  # for what, given, reason in ((…, "metadata"), …)
        names = [named(t) for t in getattr(loop.target, "elts", [])]
        if "reason" in names and isinstance(loop.iter, ast.Tuple):
            at = names.index("reason")
            found += [(place, code) for row in loop.iter.elts for code in strings(row.elts[at])]
    for place, made in nodes(ast.Assign):  # reason = "storage", of a class of errors.py; a table
        if named(made.targets[0]) == "reason":
            found += [(place, code) for code in strings(made.value)]
        if named(made.targets[0]) in tables and isinstance(made.value, ast.Dict):
            found += [(place, code) for value in made.value.values for code in strings(value)]
    return found


def test_the_spec_lists_every_reason_code():
    spec = (ROOT / "docs" / "spec.md").read_text()
    section = spec[spec.index("## 12 Reason codes") : spec.index("## 13 ")]
    listed = set(re.findall(r"`([a-z][a-z0-9-]*)`", section))
    found = reason_codes()
    assert len({code for _, code in found}) > 60
    for place, code in found:
        assert CODE.fullmatch(code), f"{place}: {code!r}"
    missing = sorted({f"{place}: {code}" for place, code in found if code not in listed})
    assert not missing
    everywhere = {text for module in SOURCES.values() for text in strings(module)}
    assert not sorted(listed - everywhere - {"ckptstore"})
