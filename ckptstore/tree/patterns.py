"""Patterns: their steps, and the short forms that a shell takes: ``params.layers.0.kernel``.

In a pattern ``.name`` and ``['name']`` mean the same, so ``$.params`` finds a field or a key. The
first ``$.`` may be left out, and ``.0`` also means ``[0]``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from ckptstore.errors import Reason, StructureError

_STEP = re.compile(
    r"""\.(?P<field>\*\*|\*|[^.\[\]'"*]+)|\[(?P<item>(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\[\]'"]|\[[^\]]*\])+)\]"""
)

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_/:+@%-]*")
_NUMBER = re.compile(r"\[(0|[1-9][0-9]*)\]")


def parse(pattern: str, where: str = "select") -> tuple[str, ...]:
    """Split a pattern into steps, each normalised by `normal`.

    Args:
        pattern: the pattern.
        where: the argument that holds it, for messages.

    Raises:
        StructureError: reason ``bad-pattern``.
    """
    if not isinstance(pattern, str) or not pattern:
        raise StructureError(
            f"{where}: {pattern!r:.200} is not a pattern; pass one such as $.params or "
            "$.opt_state[0]",
            reason=Reason.BAD_PATTERN,
        )
    pattern = whole(pattern)
    steps, at = [], 1
    while at < len(pattern):
        match = _STEP.match(pattern, at)
        if match is None:
            raise StructureError(
                f"{where}: {pattern!r:.200} cannot be read from {pattern[at:]!r:.80} on; a step is "
                ".name, [0], ['key'], .* or .**",
                reason=Reason.BAD_PATTERN,
            )
        if match["field"] is not None:
            steps.append(match["field"] if match["field"] in ("*", "**") else normal(match[0]))
        else:
            steps.append("*" if match["item"] == "*" else normal(match[0]))
        at = match.end()
    return tuple(steps)


def steps_of(path: str) -> tuple[str, ...]:
    """Return the steps of a path.

    Example:
        >>> steps_of("$['a'][0].mu")
        ("['a']", '[0]', '.mu')
    """
    steps, at = [], 1
    while at < len(path):
        match = _STEP.match(path, at)
        end = len(path) if match is None else match.end()
        steps.append(path[at:end])
        at = end
    return tuple(steps)


def normal(text: str) -> str:
    r"""Bring a step to the form in which ``.name``, ``['name']`` and ``["name"]`` are equal.

    A number after a dot stays as it is, since it may be of a list or of a dict.

    Example:
        >>> normal(".a"), normal('["a"]'), normal(r"['it\'s']")
        ("['a']", "['a']", '["it\'s"]')
    """
    if numbered(text):
        return text
    if text.startswith("."):
        return f"[{text[1:]!r}]"
    if text.startswith('["') or (text.startswith("['") and "\\" in text):
        return f"[{_unquote(text[1:-1])!r}]"
    return text


def fits(wanted: str, step: str) -> bool:
    """Return whether a step of a pattern stands for a step of a path; both are normal.

    Example:
        >>> fits(".0", "[0]"), fits("*", "['a']"), fits("['a']", "['b']")
        (True, True, False)
    """
    return wanted in ("*", step) or step in numbered(wanted)


def _unquote(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text[1:-1]


def short_step(step: str) -> str:
    """Return the short form of a step, which a pattern takes for the same step.

    Example:
        >>> short_step("['layers']"), short_step("[0]"), short_step("['a.b']")
        ('.layers', '.0', "['a.b']")
    """
    if found := _NUMBER.fullmatch(step):
        return f".{found[1]}"
    if step.startswith("['") or step.startswith('["'):
        key = _unquote(step[1:-1])
        if isinstance(key, str) and _PLAIN.fullmatch(key):
            return f".{key}"
    return step


def joined(steps: Sequence[str]) -> str:
    """Return a path in its short form.

    Args:
        steps: the steps from the root, as in a path.

    Example:
        >>> joined(["['params']", "[0]", ".mu", "['a b']"]), joined([]), joined(["['a b']"])
        ("params.0.mu['a b']", '$', "$['a b']")
    """
    text = "".join(map(short_step, steps))
    return text[1:] if text.startswith(".") else f"${text}"


def whole(pattern: str) -> str:
    """Return a pattern that may lack its first ``$.`` with it.

    Example:
        >>> whole("params.0"), whole("$.params"), whole("['a b']")
        ('$.params.0', '$.params', "$['a b']")
    """
    if pattern.startswith("$"):
        return pattern
    return f"${pattern}" if pattern.startswith(("[", ".")) else f"$.{pattern}"


def numbered(step: str) -> tuple[str, ...]:
    """Return the steps that ``.0`` stands for: of a list, and of a dict.

    Example:
        >>> numbered(".0"), numbered(".mu")
        (('[0]', "['0']"), ())
    """
    return (f"[{step[1:]}]", f"['{step[1:]}']") if re.fullmatch(r"\.[0-9]+", step) else ()
