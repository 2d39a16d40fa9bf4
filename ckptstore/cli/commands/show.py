"""``ckptstore show``: the tree of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from ckptstore import ArrayNode, CheckpointError, Node, Reader
from ckptstore.cli import tables, texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import open_place
from ckptstore.cli.trees import branch_of, lines_of
from ckptstore.texts import plain

_VALUES_READ = 2000


@click.command(epilog="Example: ckptstore show run@400 params")
@common
@click.argument("place")
@click.argument("patterns", nargs=-1)
@click.option("-d", "--depth", type=click.IntRange(1), help="Show so many levels.")
@click.option("-a", "--all", "whole", is_flag=True, help="Fold nothing, and show all rows.")
def command(
    output: Output, place: str, patterns: tuple[str, ...], depth: int | None, whole: bool
) -> None:
    """Show the tree of a checkpoint: types, shapes, sizes, scalars.

    No array is read, but those without axes. Layers that are alike are folded, and a part that is
    shaped like an earlier one is named. A pattern is a path, such as params.layers.0 or
    'opt_state.**.mu'.
    """
    with open_place(place, output.options) as reader:
        roots = reader.select(list(patterns)) if patterns else [reader.tree]
        values = _values(reader, roots)
        if output.as_json:
            output.json("show", **_described(reader), tree=[_to_dict(r, values) for r in roots])
            return
        tops = [branch_of(root, values) for root in roots]
        if not patterns:
            tops = tops[0].children or tops
        rows = [*lines_of(tops, values, depth=depth, fold=not whole)]
        output.lines(_head(reader, place))
        output.lines(
            tables.lines(
                rows,
                ["PATH", "TYPE", "ELEMENTS", "SIZE"],
                right="<<>>",
                gives=1,
                limit=None if whole else tables.ROWS_SHOWN,
            )
        )


def _values(reader: Reader, roots: Sequence[Node]) -> dict[str, Any]:
    """Return the values of the arrays without axes; none of one that cannot be read here."""
    nodes = [
        node
        for root in roots
        for node in root.walk()
        if isinstance(node, ArrayNode) and node.shape == () and node.same is None
    ]
    try:
        found = reader.read(nodes[:_VALUES_READ])
    except CheckpointError:
        return {}
    return {path: array.item() for path, array in found.items()}


def _head(reader: Reader, place: str) -> Iterator[str]:
    info, tree = reader.checkpoint, reader.tree
    step = "" if info.step is None else f"step {info.step}, "
    saved = f"saved {info.time:%Y-%m-%d %H:%M:%S} UTC ({texts.age(info.time)})"
    yield (
        f"{texts.clean(place)}  {step}{saved}, {tree.arrays} arrays, "
        f"{texts.count(tree.elements)} elements, {texts.size(info.nbytes)}"
    )
    if info.metrics:
        rows = (f"{texts.clean(name)} {texts.number(x)}" for name, x in info.metrics.items())
        yield f"metrics  {'  '.join(rows)}"
    versions = (f"{texts.clean(name)} {texts.clean(v)}" for name, v in info.writer.items())
    yield f"writer   {'  '.join(versions)}"


def _described(reader: Reader) -> dict[str, Any]:
    info = reader.checkpoint
    return {
        "url": reader.url,
        "step": info.step,
        "time": info.time.isoformat(),
        "attempt": info.attempt,
        "metrics": dict(info.metrics),
        "writer": dict(info.writer),
        "processes": info.processes,
        "nbytes": info.nbytes,
        "nbytes_written": info.nbytes_written,
    }


def _to_dict(root: Node, values: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, dict[str, Any]] = {}
    for node in root.walk():
        row: dict[str, Any] = {"path": node.path, "short": node.short, "kind": node.kind}
        row |= {"type": node.type}
        if node.same is not None:
            row["same"] = node.same
        if isinstance(node, ArrayNode):
            row |= {"dtype": node.dtype, "shape": list(node.shape), "digest": node.digest}
            if node.key is not None:
                row["key"] = node.key
            if node.path in values:
                row["value"] = plain(values[node.path])
        elif not node.is_long and not node.children:
            row["value"] = plain(node.value)
        row |= {"arrays": node.arrays, "elements": node.elements, "nbytes": node.nbytes}
        row["children"] = []
        made[node.path] = row
    return _nested(root, made)


def _nested(root: Node, made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    stack = [root]
    while stack:
        node = stack.pop()
        made[node.path]["children"] = [made[child.path] for child in node.children]
        stack += node.children
    return made[root.path]
