"""The choice of a value where a checkpoint has one of each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ckptstore import tree
from ckptstore.distributed import Processes
from ckptstore.errors import Reason, StructureError, bad_argument
from ckptstore.tree import StoredTree, paths

Choose = Callable[[str, tuple[Any, ...]], Any]
"""A function that returns the value of this process, of the path and the values of all."""


class Choice:
    """The choice of one load.

    Args:
        whole: the stored tree.
        group: the processes that load.
        choose: the argument ``per_process=`` of the load.
        shows: whether the values of another number of processes come as a `PerProcess`.

    Attributes:
        tree: the tree with one value in the place of all, as far as there is one for this process;
            with `choose`, it lacks them all.
    """

    def __init__(self, whole: StoredTree, group: Processes, choose: Any, *, shows: bool) -> None:
        if choose is not None and not callable(choose):
            expected = "a function: per_process=lambda path, values: values[0]"
            raise bad_argument("load", "per_process", choose, expected)
        self._whole, self._group, self._choose = whole, group, choose
        self._records = tree.own_records(whole)
        chosen: dict[int, int | None] = {}
        for node, values in self._records.items():
            if choose is not None:
                chosen[node] = None
            elif len(values) == group.count:
                chosen[node] = values[group.index]
        self.tree, self._moved = tree.resolved(whole, chosen) if chosen else (whole, {})
        is_refused = choose is None and not shows and bool(self._records)
        self._left = tree.own_records(self.tree) if is_refused else {}

    def refuse(self, roots: Sequence[int]) -> None:
        """Refuse values of another number of processes.

        Args:
            roots: the nodes of `tree` to load.

        Raises:
            StructureError: reason ``per-process``.
        """
        for node in tree.within(self.tree, roots, list(self._left)):
            count, group = len(self._left[node]), self._group
            alone = (
                ', or load what this process has saved alone with processes="one"'
                if count == 1
                else ""
            )
            raise StructureError(
                f"{self.tree.where}: {paths.path(self.tree, node)} holds a value of each of "
                f"{count} process(es), and this is {group}; pass per_process=f, whose "
                "f(path, values) returns the value of this process, or load the rest by "
                f"select={alone}",
                reason=Reason.PER_PROCESS,
            )

    def values(
        self, roots: Sequence[int], build: Callable[[StoredTree, Sequence[int]], Sequence[Any]]
    ) -> Mapping[int, Any]:
        """Return what `choose` returns for each place, by its node in `tree`.

        Args:
            roots: the nodes of `tree` to load.
            build: builds the values of nodes of a tree.
        """
        if self._choose is None:
            return {}
        wanted = set(tree.within(self.tree, roots, list(self._moved.values())))
        found: dict[int, Any] = {}
        for node, moved in self._moved.items():
            if moved in wanted:
                values = build(self._whole, self._records[node])
                (path,) = paths.format_paths(self._whole, [node])
                found[moved] = self._choose(path, tuple(values))
        return found
