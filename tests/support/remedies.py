"""The remedies that the package prints, read from its source, and the tests that follow them.

A remedy is a clause of a message that tells you to do something: it begins with a verb.
In "cannot save $.x (a Ref); save its array: ref[...]" it is "save its array: ref[...]". What the
program fills in stands as {}.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from tests.support import ROOT, TESTS

PACKAGE = Path(ckptstore.__file__).parent

_VERBS = (
    "add ask assign begin bind break build call change check choose clear close convert copy "
    "correct count create cut declare define delete describe do download drop end expand "
    "export find fit flatten free gather give handle hold import increase install interrupt "
    "join keep leave let limit list load log look lower make mark mask mend merge mount move "
    "name open pad pass pick pip put raise read register remove rename renew replace reset "
    "resize restore resume retry return rewind run save see select send set shorten shut "
    "split start stop store supply switch take tell top try turn uninstall unlink unmount "
    "unpack upgrade use verify view wait wrap write"
)
_FIRST = "(?:and |or |, or |, or, |then |or, |otherwise |please |either )?"
_CONDITION = "(?:(?i:if|to|for|in|when|where) [^;:,]*, )?"
_BEGIN = re.compile(rf"(?:\{{\}})?{_FIRST}{_CONDITION}(?:{_VERBS.replace(' ', '|')})(?= \S)")
_HINTS = (
    *("did you mean", " gives one", " give one", " gives numpy", "lists them"),
    *("begins with $, as in", "ckptstore.register(", " takes the n", "loads its newest"),
    *("may be sound: rewind", "float(value) of", 'metrics={"name": value}', "a step is .name"),
    *("types= takes", "the clocks are", "gc() removes them", "loads in any script"),
    *("comes first", "is one argument", "has steps: `", "is an argument of a run"),
    *("expected a dict with some of", "needs a directory of its own", "may demand more, to be"),
    *("read the line", "see gc()"),
)

_NO_REMEDIES = {
    "flatten of {} returned": "the name of a function, of whose result the message tells",
    "flatten of {}, which must": "the name of a function, which failed",
    "keep returned {}": "the name of a function",
    "list -> {}": "a row of a table of changes",
    "list the uploads of": "the name of an operation that failed",
    "look at": "the name of an operation that failed",
    "look for": "the name of an operation that failed",
    "make the directory": "the name of an operation that failed",
}
"""What begins like a remedy and is none, with the reason."""


@dataclass(frozen=True, order=True)
class Remedy:
    """A remedy that the package prints, and the module that holds it, as in ``tree.symbols``."""

    module: str
    text: str


@functools.cache
def printed() -> set[Remedy]:
    """Return the remedies of the package."""
    return {
        Remedy(module_of(path), clause)
        for path in PACKAGE.rglob("*.py")
        for clause in of_source(path.read_text())
    }


def of_source(source: str) -> Iterator[str]:
    """Yield the remedies in the strings of a module."""
    for text in _texts(ast.parse(source)):
        yield from _clauses(text)


def module_of(path: Path) -> str:
    """Return the name of a module inside the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@functools.cache
def followed() -> dict[Remedy, list[str]]:
    """Return the remedies that a test follows by its mark, each with the places of these tests.

    The text ``*`` stands for all of a module whose remedies are tables: its tests go over these.
    """
    found: dict[Remedy, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if "follows(" in source else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("follows"):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                module, *texts = map(ast.literal_eval, node.args)
                if texts == ["*"]:
                    texts = [remedy.text for remedy in printed() if remedy.module == module]
                for text in texts:
                    found.setdefault(Remedy(module, text), []).append(place)
    return found


_seen: list[list[str]] = []


def seen(text: str) -> None:
    """Note what another process printed, or what no error and no log holds."""
    for texts in _seen:
        texts.append(text)


@contextlib.contextmanager
def met(marks: list[pytest.Mark]) -> Iterator[None]:
    """Require that a test meets each remedy that its marks name, in an error or in the log.

    With ``some=True``, on a test of many parameters, each of these meets one of them.
    """
    errors: list[ckptstore.CheckpointError] = []
    texts: list[str] = []
    _seen.append(texts)
    log = logging.getLogger("ckptstore")
    handler, level = _Kept(texts), log.level
    init = ckptstore.CheckpointError.__init__

    def kept(self: ckptstore.CheckpointError, message: str, **options: Any) -> None:
        init(self, message, **options)
        errors.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ckptstore.CheckpointError, "__init__", kept)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            _seen.remove(texts)
    texts += ["\n".join([str(error), *getattr(error, "__notes__", ())]) for error in errors]
    for mark in marks:
        wanted = [text for text in mark.args[1:] if text != "*"]
        missing = [text for text in wanted if not any(_pattern(text).search(t) for t in texts)]
        enough = len(missing) < len(wanted) if mark.kwargs.get("some") else not missing
        assert enough, f"this test follows remedies that no error in it printed: {missing}"


class _Kept(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())


def _pattern(text: str) -> re.Pattern[str]:
    parts = [re.escape(part) for part in re.split(r"\{\}|\$\.\.\.", text)]
    return re.compile(".*?".join(parts), re.DOTALL)


def _clauses(text: str) -> Iterator[str]:
    for clause in text.split("; "):
        begins = [0, *(m.end() for m in re.finditer(r"(?:[:.)?]\s|\n|\()\s*", clause))]
        found = next((begin for begin in begins if _BEGIN.match(clause, begin)), None)
        if found is not None and not _is_none(clause[found:]):
            yield _whole(clause[found:].strip())
        elif found is None and (hints := [hint for hint in _HINTS if hint in clause]):
            yield clause[clause.rfind(": ", 0, clause.index(hints[0])) + 1 :].strip()
        elif clause == "there is {}":
            yield clause


def _whole(text: str) -> str:
    """Return a text without the parenthesis that it stands in."""
    return text[:-1] if text.count(")") > text.count("(") and text.endswith(")") else text


def _is_none(text: str) -> bool:
    return any(
        text == known or ("{}" in known and text.startswith(known)) for known in _NO_REMEDIES
    )


def _texts(tree: ast.Module) -> Iterator[str]:
    """Yield each string of a module that is no docstring."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if _is_text(node):
            yield _text(node)
            stack += _inside(node)
        else:
            stack += ast.iter_child_nodes(node)


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _text(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[sdr]|\{\w+\}", "{}", text)
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
    return "{}"


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the expressions that a text is filled with."""
    match node:
        case ast.JoinedStr(values=values):
            for value in values:
                if isinstance(value, ast.FormattedValue):
                    yield value.value
        case ast.BinOp(left=left, right=right):
            for side in (left, right):
                if _is_text(side):
                    yield from _inside(side)
                else:
                    yield side
