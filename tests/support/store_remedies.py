"""Doing what an error says: the options that it names, taken out of its text."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckptstore.storage import atomic_upload, proof, retry


def begin_anew(settings: Callable[[Any, str, Any], None]) -> None:
    """Forget what is known of stores, and let requests be sent again soon."""
    settings(retry, "_WAITS", (0.02, 0.2))
    settings(retry, "_UNREACHABLE", 1.0)
    proof._proven.clear()
    atomic_upload._proven.clear()


def options_in(message: str) -> list[dict[str, Any]]:
    """Return each dict that a message names, as it stands there."""
    return list(_dicts(message))


def follow(
    message: str, options: Mapping[str, Any], which: str = "", **fills: str
) -> dict[str, Any]:
    """Return storage_options with the dict that a message names merged into them.

    Args:
        message: the text of an error.
        options: the options that failed.
        which: a word of the dict that is meant, where it names several.
        fills: the values for its places, such as ``<key>``.
    """
    found = [each for each in options_in(message) if which in repr(each)]
    assert len(found) == 1, f"{which or 'one dict'} expected in: {message}"
    filled = _filled(found[0], fills)
    return _merged(dict(options), filled)


def _dicts(message: str) -> Iterator[dict[str, Any]]:
    at = 0
    while (start := message.find('{"', at)) >= 0:
        depth = 0
        for end in range(start, len(message)):
            depth += {"{": 1, "}": -1}.get(message[end], 0)
            if not depth:
                break
        text = message[start : end + 1]
        yield ast.literal_eval(re.sub(r": \.\.\.", ': "<...>"', text))
        at = end + 1


def _filled(value: Any, fills: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(inner, fills) for name, inner in value.items()}
    if isinstance(value, str) and (place := re.fullmatch(r"<(.*)>", value)):
        return fills[place[1].replace("...", "value")]
    return value


def _merged(options: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in more.items():
        old = options.get(name)
        options[name] = _merged(dict(old), value) if isinstance(old, Mapping) else value
    return options
