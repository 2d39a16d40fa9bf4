"""The pages for contributors name commands, files and names that are there."""

from __future__ import annotations

import re
import tomllib

import pytest

import ckptstore
from tests.support import ROOT

FOR_PEOPLE = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
NAME = re.compile(r"`([A-Z]\w+|[a-z]+_\w+)`")
PATH = re.compile(r"`([\w./-]+/[\w.-]*|\w+\.(?:toml|cff))`|\]\(([^)#:]+)[^)]*\)")


def paths(text: str) -> set[str]:
    """Return the files and folders that a page names; not those that a recipe tells to write."""
    named = {in_code or linked for in_code, linked in PATH.findall(text)}
    return {path for path in named - {"dist/"} if "NAME" not in path}


def recipe(target: str) -> list[str]:
    """Return the command lines of a target of the Makefile."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.strip() for line in lines.splitlines()]


@pytest.mark.parametrize(
    "page",
    [*FOR_PEOPLE, ROOT / "README.md", *(ROOT / ".github").rglob("*.*")],
    ids=lambda page: page.name,
)
def test_every_command_that_a_page_names_is_a_target_of_make(page):
    targets = re.findall(r"^([a-z0-9-]+(?: [a-z0-9-]+)*):", MAKEFILE, re.MULTILINE)
    there = {target for line in targets for target in line.split()}
    named = set(re.findall(r"(?:`|^ {4}|^|run: )make ([a-z0-9-]+)", page.read_text(), re.MULTILINE))
    assert named <= there


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda page: page.name)
def test_every_file_that_a_page_for_contributors_names_is_there(page):
    named = paths(page.read_text())
    assert len(named) >= 5
    assert not {path for path in named if not (ROOT / path).exists()}


@pytest.mark.parametrize("page", FOR_PEOPLE, ids=lambda page: page.name)
def test_every_name_of_the_code_that_a_recipe_uses_is_in_a_file_that_it_names(page):
    text = page.read_text()
    files = [ROOT / path for path in paths(text) if (ROOT / path).suffix in (".py", ".toml")]
    words = {word for file in files for word in re.findall(r"\w+", file.read_text())}
    assert set(NAME.findall(text)) - {"NAME", "MANIFEST", "storage_options"} <= words


def test_ci_runs_the_versions_of_python_that_the_package_claims():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = re.findall(r":: (3\.\d+)", "\n".join(project["classifiers"]))
    (matrix,) = re.findall(r"python: \[(.*)\]", WORKFLOW)
    assert re.findall(r"3\.\d+", matrix) == claimed
    assert project["requires-python"] == f">={claimed[0]}"


def test_ci_runs_the_targets_that_a_person_runs():
    assert set(re.findall(r"run: (.*)", WORKFLOW)) == {
        "make test",
        "make test-ci",
        "make demo",
        "make dist",
    }


def test_the_hooks_of_a_commit_are_the_lines_of_make_check():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"entry: \.venv/bin/(.*)", hooks)
    lines = [re.sub(r"^\$\(BIN\)/| \.$", "", line) for line in recipe("check")]
    assert entries == lines
    assert "repo: local" in hooks
    assert "http" not in hooks


def test_the_citation_names_this_version():
    assert f"\nversion: {ckptstore.__version__}\n" in (ROOT / "CITATION.cff").read_text()
