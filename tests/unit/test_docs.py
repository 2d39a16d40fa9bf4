"""The code of the README and of docs/ is run as it stands."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys

import pytest

import ckptstore
from ckptstore import Reason
from tests.golden import compare_bytes
from tests.support import DOCS, ROOT

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "benchmarks" / "README.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
WHOLE = {"README.md", "api.md", "async.md", "buckets.md", "frameworks.md", "incremental.md"}
WHOLE |= {"loading.md", "recipes.md"}
"""Each block of these pages is a script; on other pages a block goes on from the last."""
TO_READERS = [page for page in PAGES if page.name != "spec.md"]
"""The specification speaks of readers and writers instead."""
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
OPTIONAL = ("grain", "torchdata")
RECIPES = DOCS / "recipes.md"
RUNNER = ROOT / "tests" / "support" / "examples.py"


TORCHDATA = "ignore::UserWarning:torchdata.stateful_dataloader.stateful_dataloader"


def code_of(page):
    return BLOCK.findall(page.read_text())


def missing(code):
    """Return the optional packages that a block imports and that are not installed."""
    return [name for name in OPTIONAL if name in code and not importlib.util.find_spec(name)]


def scripts(page, directory):
    """Write each block to a file, and return the files."""
    directory.mkdir()
    codes = [code for code in code_of(page) if not missing(code)]
    files = [directory / f"{page.stem}_{number}.py" for number, _ in enumerate(codes, 1)]
    for file, code in zip(files, codes, strict=True):
        file.write_text(code)
    return files


def execute(arguments, directory):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", TORCHDATA, *map(str, arguments)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def pages(whole):
    """Return the pages with code; recipes.md has a test of its own, which does more."""
    chosen = [page for page in PAGES if (page.name in WHOLE) == whole and code_of(page)]
    return [pytest.param(page, id=page.name) for page in chosen if page != RECIPES]


def test_there_is_code_to_run():
    assert pages(True) and pages(False)
    assert {page.name for page in PAGES} >= WHOLE


@pytest.mark.parametrize("page", pages(False))
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    execute(["-c", "\n".join(code_of(page))], tmp_path)


@pytest.mark.parametrize("page", pages(True))
def test_each_block_of_a_page_runs_by_itself_and_twice_in_one_folder(page, tmp_path):
    files = scripts(page, tmp_path / "code")
    execute([RUNNER, "twice", *files], tmp_path)


def test_each_recipe_that_is_stopped_and_started_again_ends_with_the_same_bytes(tmp_path):
    files = scripts(RECIPES, tmp_path / "code")
    execute([RUNNER, "stopped", *files], tmp_path)
    for file in files:
        (whole,) = (tmp_path / "whole" / file.stem).iterdir()
        (stopped,) = (tmp_path / "stopped" / file.stem).iterdir()
        steps = ckptstore.Manager(whole).steps()
        assert steps == ckptstore.Manager(stopped).steps() and len(steps) >= 2, file
        last = f"step-{steps[-1]:012d}"
        assert compare_bytes.contents(whole / last) == compare_bytes.contents(stopped / last), file


def per_thousand(word, page):
    """Return how often a page says a word, for 1,000 words outside of its blocks of code."""
    prose = FENCED.sub("", page.read_text())
    return 1000 * len(re.findall(rf"\b{word}\b", prose, re.IGNORECASE)) / len(prose.split())


@pytest.mark.parametrize("page", TO_READERS, ids=lambda page: page.name)
def test_a_page_speaks_to_the_reader(page):
    assert per_thousand("you", page) >= 5, "say what the reader does and gets: `If you pass …`"


@pytest.mark.parametrize("page", [*TO_READERS, DOCS / "spec.md"], ids=lambda page: page.name)
def test_a_page_names_the_thing_instead_of_saying_what(page):
    assert per_thousand("what", page) <= 3, "name the thing: `the damage`, not `what is broken`"


def links():
    """Yield every link to a file or a section of this repository."""
    for page in {*PAGES, *ROOT.glob("*.md")}:
        for path, section in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
            yield page.name, page.parent / path if path else page, section


def sections(page):
    """Return the anchors that a page has, as GitHub makes them of its headings."""
    prose = FENCED.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_every_link_to_a_file_leads_somewhere():
    assert [link for link in links() if not link[1].exists()] == []


def test_every_link_to_a_section_leads_somewhere():
    inside = [link for link in links() if link[2]]
    assert [link for link in inside if link[2] not in sections(link[1])] == []
    assert len(inside) > 20


def test_the_calls_name_every_public_name():
    page = (DOCS / "api.md").read_text()
    assert [name for name in ckptstore.__all__ if not re.search(rf"\b{name}\b", page)] == []


PAGES_OF = {"adapters": "adapters.md", "convert": "moving.md", "optax": "optax.md"}


@pytest.mark.parametrize("wing", PAGES_OF)
def test_the_page_of_a_public_module_has_every_name_of_it(wing):
    page = (DOCS / PAGES_OF[wing]).read_text()
    names = getattr(ckptstore, wing).__all__
    assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []


PUBLIC_METHODS = {"api.md": ckptstore.Manager, "adapters.md": ckptstore.adapters.Adapter}


@pytest.mark.parametrize("page", PUBLIC_METHODS)
def test_a_page_has_every_method_of_its_class(page):
    text = (DOCS / page).read_text()
    public = [name for name in dir(PUBLIC_METHODS[page]) if not name.startswith("_")]
    assert len(public) > 10
    assert [name for name in public if not re.search(rf"`{name}\b", text)] == []


def test_the_calls_have_every_argument():
    rows = re.findall(r"`(\w+)\(([^)]*)\)`(?=.*\|$)", (DOCS / "api.md").read_text(), re.MULTILINE)
    calls = [(name, text) for name, text in rows if name in ckptstore.__all__]
    assert len(calls) >= 11
    for name, text in calls:
        told = set(re.findall(r"(\w+)(?==|,|$)", re.sub(r"=\w+", "", text)))
        has = set(inspect.signature(getattr(ckptstore, name)).parameters)
        assert told == has or (told < has and "…" in text), name


def test_the_page_of_the_design_names_every_part_of_the_package():
    text = (DOCS / "design.md").read_text().partition("# Decisions")[0]
    entries = (ROOT / "ckptstore").iterdir()
    parts = {path.stem for path in entries if path.suffix == ".py" or path.is_dir()}
    assert {part for part in parts if part[0] != "_" and f"`{part}`" not in text} == set()


def test_the_invariants_of_the_commit_name_tests_that_exist():
    text = (DOCS / "commit.md").read_text()
    named = re.findall(r"`(\w+\.py)::(\w+)(?:::(\w+))?`", text)
    assert len(named) >= 8
    for file, *names in named:
        (path,) = (ROOT / "tests").rglob(file)
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
    spec = (DOCS / "spec.md").read_text()
    section = spec[spec.index("## 12 Reason codes") : spec.index("## 13 ")]
    listed = set(re.findall(r"`([a-z][a-z0-9-]*)`", section)) - {"ckptstore"}
    assert listed == {*Reason}
    assert all(CODE.fullmatch(code) for code in Reason)
