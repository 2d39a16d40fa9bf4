"""The shape of the package: names, sizes, and what a folder on `sys.path` may hide."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from pathlib import Path

import pytest

import ckptstore
from tests.support import ROOT

PACKAGE = Path(ckptstore.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
WINGS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
LINES_AT_MOST = 350
FILES_AT_MOST = 12


def name_of(wing: Path) -> str:
    return ".".join(wing.relative_to(PACKAGE.parent).parts)


@pytest.mark.parametrize("wing", WINGS, ids=name_of)
def test_no_public_name_is_that_of_a_submodule(wing: Path) -> None:
    module = importlib.import_module(name_of(wing))
    submodules = {found.name for found in pkgutil.iter_modules([str(wing)])}
    assert not submodules & set(getattr(module, "__all__", ()))


@pytest.mark.parametrize("wing", WINGS, ids=name_of)
def test_a_wing_says_in_a_sentence_what_it_is(wing: Path) -> None:
    first = (importlib.import_module(name_of(wing)).__doc__ or "").partition("\n")[0]
    assert len(first.split()) >= 4
    assert first.endswith((".", ":"))


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lines = {str(p.relative_to(PACKAGE)): p.read_text().count("\n") for p in SOURCES}
    assert not {name: n for name, n in lines.items() if n > LINES_AT_MOST}


def test_the_root_holds_few_files() -> None:
    assert len([path for path in SOURCES if path.parent == PACKAGE]) <= FILES_AT_MOST


def test_no_folder_on_the_path_hides_a_module() -> None:
    known = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    inside = [Path(entry).resolve() for entry in sys.path if entry]
    inside = [entry for entry in inside if entry.is_relative_to(ROOT) and ".venv" not in str(entry)]
    for folder in {ROOT, ROOT / "benchmarks", *inside}:
        names = {found.name for found in pkgutil.iter_modules([str(folder)])}
        assert not names & known - {"ckptstore", "tests", "golden_trees"}, folder
