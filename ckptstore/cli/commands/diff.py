"""``ckptstore diff``: what differs between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import click

from ckptstore import Node, analysis
from ckptstore.analysis import Change, Diff
from ckptstore.cli import tables, texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import open_place

_MARKS = {"added": "+", "removed": "-"}
_HEADS = ["", "PATH", "CHANGED", "MOVED", "LARGEST", ""]
_SIDE_SHOWN = 60


@click.command(epilog="Example: ckptstore diff run@300 run@400 params")
@common
@click.argument("before")
@click.argument("after")
@click.argument("patterns", nargs=-1)
@click.option("-d", "--depth", type=click.IntRange(1), help="Show so many levels.")
@click.option("--structure", is_flag=True, help="Read no data: say which arrays differ, not how.")
@click.option("--atol", type=float, default=0.0, help="Changes within it do not count.")
@click.option("--rtol", type=float, default=0.0, help="The same, relative to the later value.")
@click.option("-a", "--all", "whole", is_flag=True, help="Show all rows.")
def command(
    output: Output,
    before: str,
    after: str,
    patterns: tuple[str, ...],
    depth: int | None,
    structure: bool,
    atol: float,
    rtol: float,
    whole: bool,
) -> int:
    """Compare two checkpoints: structure, values, and by how much arrays moved.

    Digests are compared first, so arrays that are equal are not read. MOVED is the norm of the
    difference over that of the array before. Exits with 1 if there is a difference.
    """
    with open_place(before, output.options) as one, open_place(after, output.options) as two:
        select = list(patterns) or None
        found = analysis.diff(one, two, select, data=not structure, atol=atol, rtol=rtol)
        if output.as_json:
            output.json("diff", before=one.url, after=two.url, **found.to_dict())
            return int(found.differs)
        roots = [two.tree] if select is None else two.select(select)
        rows = [*_rows(roots, found, depth)]
    limit = None if whole else tables.ROWS_SHOWN
    output.lines(tables.lines(rows, _HEADS if rows else [], right="<<>>><", gives=1, limit=limit))
    output.lines(_end(found))
    return int(found.differs)


def _rows(roots: Sequence[Node], found: Diff, depth: int | None) -> Iterator[Sequence[str]]:
    """Yield the rows: the nodes in which something differs, and below each what does."""
    changes = {change.path: change for change in found.changes}
    inside = _containers(roots, changes)
    done = set[str]()
    stack = [(root, "", "", 0) for root in reversed(roots)]
    while stack:
        node, lead, indent, level = stack.pop()
        name = node.short if not level or (level == 1 and not lead) else node.name
        if node.path in changes:
            done.add(node.path)
            yield _of_change(changes[node.path], lead + texts.clean(name))
        elif node.path != "$":
            yield _of_container(node, inside[node.path], lead + texts.clean(name))
        if depth is not None and level >= depth:
            done.update(change.path for change in inside.get(node.path, ()))
            continue
        below = [child for child in node.children if child.path in inside or child.path in changes]
        for number, child in reversed([*enumerate(below)]):
            is_last = number == len(below) - 1
            if node.path == "$":
                stack.append((child, "", "", 1))
                continue
            branch, rest = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            stack.append((child, indent + branch, indent + rest, level + 1))
    for change in found.changes:
        if change.path not in done and change.what == "removed":
            yield _of_change(change, texts.clean(change.short))


def _containers(roots: Sequence[Node], changes: dict[str, Change]) -> dict[str, list[Change]]:
    """Return the changes below each node that has some."""
    inside: dict[str, list[Change]] = {}
    stack: list[tuple[Node, tuple[str, ...]]] = [(root, ()) for root in reversed(roots)]
    while stack:
        node, above = stack.pop()
        if node.path in changes:
            for path in above:
                inside.setdefault(path, []).append(changes[node.path])
        stack += [(child, (*above, node.path)) for child in node.children]
    return inside


def _of_container(node: Node, changes: Sequence[Change], name: str) -> Sequence[str]:
    arrays = [change for change in changes if change.what in ("elements", "unknown")]
    known = [c for c in arrays if c.distance is not None and c.norm is not None]
    moved = largest = ""
    if known:
        distance = math.hypot(*(c.distance or 0.0 for c in known))
        norm = math.hypot(*(c.norm or 0.0 for c in known))
        moved = texts.percent(distance / norm) if norm else ""
        largest = texts.number(max(c.largest or 0.0 for c in known))
    others = len(changes) - len(arrays)
    count = f"{len(arrays)} of {node.arrays}" if arrays else ""
    more = f"{others} other change{'' if others == 1 else 's'}" if others else ""
    return "~", name, count, moved, largest, more


def _of_change(change: Change, name: str) -> Sequence[str]:
    mark = _MARKS.get(change.what, "~")
    if change.what == "elements":
        changed = "yes" if change.changed is None else texts.count(change.changed)
        nan = f"{change.nan:+d} NaN" if change.nan else ""
        close = "within the tolerance" if change.close else ""
        largest = texts.number(change.largest)
        return mark, name, changed, texts.percent(change.moved), largest, nan or close
    if change.what == "unknown":
        return mark, name, "perhaps", "", "", "stored in other cuts, and not read"
    sides = [side for side in (change.before, change.after) if side is not None]
    words = " → ".join(texts.elided(texts.clean(side), _SIDE_SHOWN) for side in sides)
    return mark, name, "", "", "", words


def _end(found: Diff) -> Iterator[str]:
    differing = found.arrays - found.equal
    equal = f"{found.equal} bit-equal ({texts.size(found.equal_nbytes)})"
    yield f"{found.arrays} arrays in both: {differing} changed, {equal}"
