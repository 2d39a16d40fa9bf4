"""From a tree of Python objects to the table of nodes. `unflattening.py` goes the other way.

The walk is iterative, looks at the exact ``type(x)``, never changes an object, and gathers all
refusals before it raises. Spec: sections 5.2 and 5.3.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ckptstore import signals
from ckptstore.errors import CheckpointError, Reason, StructureError
from ckptstore.format import DICT_KINDS, TREE_MAX_DEPTH, Kind, dtypes
from ckptstore.texts import shown
from ckptstore.tree import encoding, paths, round_trip, symbols
from ckptstore.tree.budget import PER_NODE, Budget
from ckptstore.tree.live import Encode, LiveTree
from ckptstore.tree.own_values import own_nodes
from ckptstore.tree.records import encoder_of
from ckptstore.tree.refusals import Refusals, of_own_code
from ckptstore.tree.scalars import ENCODERS, SCALAR_TYPES
from ckptstore.types import Child, Refusal, module_of, qualname_of


def flatten(
    tree: Any,
    *,
    lenient: bool = False,
    supplied: Sequence[str] = (),
    per_process: Sequence[str] = (),
    where: str = "the tree",
) -> LiveTree:
    """Walk a tree of objects and return its table of nodes.

    Args:
        tree: any tree that the format carries.
        lenient: treat an object that cannot be saved as SUPPLIED, and arrays as the same leaf
            only if they are one object.
        supplied: patterns of paths that are not stored; `load` takes them from `like`.
        per_process: patterns of paths whose values each process has of its own.
        where: the name of the tree in messages about its nodes.

    Raises:
        StructureError: some objects cannot be saved; the message lists the path of each.
    """
    walker = _Walker(where, lenient, _supplied_ids(tree, supplied) if supplied else frozenset())
    walker.run(tree)
    if per_process:
        walker.live.own = own_nodes(walker.live, per_process)
    return walker.live


class _Holds(enum.Enum):
    """The role of a container's children; keys, also those inside keys, are hashed."""

    VALUES = enum.auto()
    ENTRIES = enum.auto()
    KEYS = enum.auto()


_HOLDS: Mapping[int, _Holds] = {
    **dict.fromkeys(DICT_KINDS, _Holds.ENTRIES),
    **dict.fromkeys((Kind.SET, Kind.FROZENSET, Kind.ENUM), _Holds.KEYS),
}


@dataclass(slots=True)
class _Frame:
    """An open container of the walk."""

    children: Iterator[Any]
    holder: int
    holds: _Holds
    _count: int = 0

    def next_is_key(self) -> bool:
        """Return whether the next child is a key, and count it."""
        self._count += 1
        return self.holds is _Holds.KEYS or (self.holds is _Holds.ENTRIES and self._count % 2 == 1)


class _Walker:
    """One walk, which fills the table `live`."""

    def __init__(self, where: str, lenient: bool, supplied: Set[int]) -> None:
        # `like` and `supplied` compare by object
        self.live = LiveTree(where, lenient)
        self._lenient = lenient
        self._supplied = supplied
        self._seen: dict[int, int] = {}  # the node of each object that has an identity, by id
        self._encoders: dict[type, Encode] = {}
        self._refusals = Refusals()

    def run(self, tree: Any) -> None:
        """Walk the whole tree.

        Raises:
            StructureError: some objects cannot be saved; each with its path and the remedy.
        """
        live, kind, objects = self.live, self.live.kind, self.live.objects
        stack = [_Frame(iter((tree,)), 0, _Holds.VALUES)]
        on_path: set[int] = set()  # ids of the open containers, to find cycles
        while stack:
            frame = stack[-1]
            for x in frame.children:
                node = len(kind)
                in_key = frame.next_is_key()
                child = None
                if type(x) is Child:
                    child, x = x, x.value
                below = self._encode(x, on_path, in_key, child)
                objects.append(x)
                if below:
                    if len(stack) > TREE_MAX_DEPTH:
                        raise StructureError(
                            f"the tree is deeper than {TREE_MAX_DEPTH} levels at "
                            f"{shown(paths.path(live, node))}; make it flatter",
                            reason=Reason.TOO_DEEP,
                        )
                    on_path.add(id(x))
                    holds = _Holds.KEYS if in_key else _HOLDS.get(kind[node], _Holds.VALUES)
                    stack.append(_Frame(iter(below), id(x), holds))
                    break
            else:
                stack.pop()
                on_path.discard(frame.holder)
        if self._refusals:
            raise self._refusals.error(live)
        if live.read_whole and not self._lenient:
            _refuse_endless(live)

    def _encode(
        self, x: Any, on_path: set[int], in_key: bool, child: Child | None
    ) -> Sequence[Any] | None:
        """Append the node of `x` and return its children, or None for a node without children."""
        live, cls = self.live, type(x)
        node = len(live.kind)
        try:
            scalar = ENCODERS.get(cls)
        except Exception as error:  # of a hash that the metaclass defines
            self._raised(node, x, error)
            return None
        if scalar is not None:
            live.add_scalar(*scalar(x))
            return None
        seen = None if in_key else self._seen.get(id(x))  # a key is written out each time
        if seen is not None:
            if id(x) in on_path:
                self._refuse(node, "the container holds itself; break the cycle")
            else:
                live.add(Kind.SAME, arg=seen)
            return None
        if id(x) in self._supplied or (child and child.record is None and _needs_like(x)):
            self._supply(x)
            return None
        encode = self._encoders.get(cls)
        try:
            if child is not None and child.record is not None:
                encode = encoder_of(child.record)
            elif encode is None:
                encode = encoding.encoder(cls, x)
                encode = encode if self._lenient else round_trip.for_save(encode)
                self._encoders[cls] = encode
            children = encode(live, x)
        except (Refusal, dtypes.DtypeRefusal) as refusal:
            if self._lenient:
                self._supply(x)
                return None
            self._refuse(node, str(refusal))
            children = None
        except (CheckpointError, MemoryError):
            raise
        except Exception as error:  # of code of the class of `x`
            self._raised(node, x, error)
            return None
        kind = live.kind[node]
        if children is not None or kind == Kind.LEAF:
            if not in_key and kind != Kind.ENUM and not (cls is tuple and not children):
                self._seen[id(x)] = node
            if children is not None:
                live.arity[node] = len(children)
        return children

    def _raised(self, node: int, x: Any, error: Exception) -> None:
        """Refuse an object whose own code raised an error; the lenient walk leaves it out."""
        signals.pass_on(error)
        if self._lenient or id(x) in self._supplied:
            self._supply(x)
        else:
            self._refuse(node, of_own_code(type(x), error))

    def _supply(self, x: Any) -> None:
        cls = type(x)
        name = symbols.own_text(x, "__qualname__") or qualname_of(cls)
        text = f"{module_of(cls)}.{qualname_of(cls)} {name}"
        self.live.add(Kind.SUPPLIED, data=text[:1024].encode("utf-8", "replace"))

    def _refuse(self, node: int, message: str) -> None:
        self.live.replace_from(node)
        self._refusals.add(node, message)


def _refuse_endless(live: LiveTree) -> None:
    """Refuse records that `load` would refuse, since they share their parts too often."""
    budget = Budget(live)
    for node, number in enumerate(live.type):
        reads = live.read_whole.get(number)
        if reads is not None and not budget.allows_whole(node, reads):
            raise StructureError(
                f"{paths.path(live, node)}: this {live.row(node).name} and others before it share "
                "parts, or hold one another, so that a load would read more than "
                f"{PER_NODE} parts for each node of the tree; use a dict, or copies of the parts",
                reason=Reason.CANNOT_CARRY,
            )


def _needs_like(x: Any) -> bool:
    """Return whether a part of `x` cannot be saved."""
    return Kind.SUPPLIED in flatten(x, lenient=True).kind


def _supplied_ids(tree: Any, patterns: Sequence[str]) -> Set[int]:
    """Return the ids of the objects that should not be stored.

    Raises:
        StructureError: reason ``bad-pattern`` if a pattern matches nothing, or a scalar, or an
            object that also stands in a place to be stored.
    """
    outline = flatten(tree, lenient=True)
    end = outline.layout.end
    inside = bytearray(len(outline.kind))
    chosen: dict[int, int] = {}
    matched = paths.matching_nodes(outline, patterns, "supplied")
    for pattern, nodes in zip(patterns, matched, strict=True):
        if not nodes:
            raise StructureError(
                f"supplied: nothing in the tree is at {pattern}", reason=Reason.BAD_PATTERN
            )
        for node in nodes:
            x = outline.objects[node]
            if any(type(x) is scalar for scalar in SCALAR_TYPES):
                raise StructureError(
                    f"supplied: {pattern} is a {type(x).__name__}, which can be stored; leave it "
                    "out of supplied",
                    reason=Reason.BAD_PATTERN,
                )
            chosen[id(x)] = node
            inside[node : end[node]] = b"\1" * (end[node] - node)
    for node, x in enumerate(outline.objects):
        if id(x) in chosen and not inside[node]:
            stored, named = paths.shown_paths(outline, [node, chosen[id(x)]])
            raise StructureError(
                f"supplied: the object at {named} also stands at {stored}; name both, or neither",
                reason=Reason.BAD_PATTERN,
            )
    return chosen.keys()
