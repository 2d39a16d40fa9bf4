"""``ckptstore cat``: values of one array, or a scalar."""

from __future__ import annotations

import math
import re
from typing import Any

import click
import numpy as np

from ckptstore import ArrayNode
from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import open_place
from ckptstore.texts import plain

_SLICE = re.compile(r"\s*(-?\d*)\s*(?::\s*(-?\d*)\s*(?::\s*(-?\d*)\s*)?)?")


@click.command(epilog="Example: ckptstore cat run@400 params.embed.table --slice 0:2,:8")
@common
@click.argument("place")
@click.argument("path")
@click.option("-n", "count", type=click.IntRange(1), default=32, help="Print so many values.")
@click.option("--slice", "cut", metavar="0:4,:8", help="The part, as numpy takes it.")
@click.option("--npy", type=click.Path(dir_okay=False), help="Write the part to a file.")
def command(
    output: Output, place: str, path: str, count: int, cut: str | None, npy: str | None
) -> None:
    """Print values of one array; only what is printed is read."""
    index = _index(cut)
    with open_place(place, output.options) as reader:
        node = reader[path]
        if not isinstance(node, ArrayNode):
            text = texts.clean(repr(node.value)) if not node.children else texts.clean(node.type)
            value = plain(node.value)
            if output.as_json:
                output.json("cat", path=node.path, kind=node.kind, type=node.type, value=value)
            output.lines([text])
            return
        if npy is not None:
            part = node.read() if cut is None else node[index]
            np.save(npy, part)
            output.lines([f"{npy}: {texts.shape(node.dtype, part.shape)}"])
            return
        part = node[index] if cut is not None else node[_first(node.shape, count)]
        values = part.reshape(-1)[:count]
        if output.as_json:
            shown = [plain(value.item()) for value in values]
            output.json("cat", path=node.path, dtype=node.dtype, shape=part.shape, values=shown)
        output.lines([" ".join(texts.clean(_text(value)) for value in values)])
        if part.size > count or (cut is None and node.elements > count):
            output.lines([f"… the first {len(values)} of {node.elements:,}: -n, or --slice"])


def _first(shape: tuple[int, ...], count: int) -> tuple[slice, ...]:
    """Return an index of the first elements, so that little more than those is read."""
    out, inner = [], math.prod(shape)
    for length in shape:
        inner //= max(length, 1)
        need = -(-count // max(inner, 1))
        out.append(slice(0, min(length, need)))
    return tuple(out)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)


def _index(text: str | None) -> Any:
    if text is None:
        return ...
    items: list[Any] = []
    for part in text.split(","):
        found = _SLICE.fullmatch(part)
        if part.strip() == "...":
            items.append(...)
        elif found is None or not part.strip():
            raise click.BadParameter(f"{part!r} is not an index or a slice", param_hint="--slice")
        elif ":" not in part:
            items.append(int(part))
        else:
            items.append(slice(*(int(x) if x else None for x in found.groups())))
    return tuple(items)
