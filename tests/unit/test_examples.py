"""The examples in docstrings are run, each in a directory of its own, and give what they show."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptstore

PACKAGE = Path(ckptstore.__file__).parent
WITH_EXAMPLES = {ckptstore.load, ckptstore.inspect, ckptstore.verify}


def examples() -> Iterator[doctest.DocTest]:
    for source in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in source.read_text():
            path = source.relative_to(PACKAGE.parent).with_suffix("")
            module = importlib.import_module(".".join(path.parts).removesuffix(".__init__"))
            yield from (test for test in doctest.DocTestFinder().find(module) if test.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_an_example_gives_what_it_shows(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, clear_globs=False)
    assert done.attempted
    assert not done.failed


def test_what_reads_a_checkpoint_has_an_example() -> None:
    for function in WITH_EXAMPLES:
        assert ">>> " in (function.__doc__ or ""), function
