"""The contents of a save: its manifest and tables, and their placement in files."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptstore.digests import Digest
from ckptstore.errors import CorruptError, Reason, StructureError
from ckptstore.format import Draft, File, Index, Leaves, Manifest, Spans, encode_draft
from ckptstore.format.names import file_name
from ckptstore.format.wire import DIGEST_NBYTES
from ckptstore.saving import incremental
from ckptstore.saving.incremental import Comparison, Previous
from ckptstore.saving.placement import Piece, Placement, place
from ckptstore.saving.request import SaveRequest
from ckptstore.sharding import Grid
from ckptstore.tree import LiveTree, joined
from ckptstore.types import package_version


@dataclass(frozen=True, slots=True, repr=False)  # it holds the state
class Content:
    """The contents of a save, without their placement in files.

    Attributes:
        manifest: the manifest without files and metadata.
        tables: the tables of the index without spans.
        metadata: the encoded metadata.
        piece_nbytes: the size of each piece in bytes.
    """

    manifest: Manifest
    tables: Index
    metadata: bytes
    piece_nbytes: Mapping[Piece, int]

    @classmethod
    def of(
        cls,
        live: LiveTree,
        request: SaveRequest,
        attempt: str,
        piece_nbytes: Mapping[Piece, int],
        grids: Sequence[Grid | None] | None = None,
        processes: int = 1,
    ) -> Content:
        """Return the contents of a save.

        Args:
            live: the flattened tree.
            request: the other arguments of the save.
            attempt: the id of the attempt.
            piece_nbytes: the size of each piece in bytes.
            grids: the cells of each leaf; None: those in which its array lies.
            processes: the number of processes that save together.
        """
        manifest = Manifest(
            attempt=attempt,
            time_ms=time.time_ns() // 1_000_000,
            step=request.step,
            metrics=request.metrics,
            writer=_versions(live),
            metadata={},  # encoded already
            files=(),
            index=None,
            processes=processes,
        )
        return cls(manifest, tables_of(live, grids), request.metadata, piece_nbytes)

    def with_values(
        self,
        own: Sequence[int],
        others: Sequence[Index] = (),
        leaves: Sequence[int] = (),
        common: int = 0,
    ) -> tuple[Content, Sequence[Sequence[int]]]:
        """Return the contents with the values that each process has of its own.

        Args:
            own: the nodes of the values of process 0, in the order that all processes share.
            others: the tables of those of each other process.
            leaves: the leaves of process 0: those that all share, and then those of its values.
            common: the number of leaves that all share.

        Returns:
            The contents, and for each process the new number of each of its leaves.
        """
        tables, numbers = joined(self.tables, own, others)
        first = [numbers[0, leaf] for leaf in leaves]
        orders = [first]
        for process, values in enumerate(others, 1):
            new = [numbers[process, leaf] for leaf in range(len(values.leaves))]
            orders.append(first[:common] + new)
        return dataclasses.replace(self, tables=tables), orders

    def plan(
        self, previous: Previous | None, comparison: Comparison | None, linked: Collection[int]
    ) -> Plan:
        """Place the leaves in files, and encode and check the manifest and index.

        Args:
            previous: the save before.
            comparison: the leaves that have not changed since then; None: not known yet.
            linked: the rows of its files that are taken over.

        Raises:
            StructureError: reason ``cannot-carry``.
        """
        placement, files = place_files(
            self.piece_nbytes, self.manifest.attempt, previous, comparison, linked
        )
        spans = span_table(placement)
        return Plan(placement, spans, self.draft(files, spans))

    def draft(self, files: Sequence[File], spans: Spans) -> Draft:
        """Encode the manifest and the index, and run every check of a reader on them.

        Args:
            files: the data files.
            spans: the spans in them.

        Raises:
            StructureError: reason ``cannot-carry``.
        """
        try:
            return encode_draft(
                dataclasses.replace(self.manifest, files=files),
                dataclasses.replace(self.tables, spans=spans),
                self.metadata,
            )
        except CorruptError as error:
            raise StructureError(
                f"save: this tree exceeds a limit of the format: {error}",
                reason=Reason.CANNOT_CARRY,
            ) from None


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """The placement of all bytes, and the manifest without its digests.

    Attributes:
        placement: the files and the spans in them.
        spans: the same as a table of the index.
        draft: the encoded manifest and index.
    """

    placement: Placement
    spans: Spans
    draft: Draft


def place_files(
    piece_nbytes: Mapping[Piece, int],
    attempt: str,
    previous: Previous | None,
    comparison: Comparison | None,
    linked: Collection[int],
    *,
    process: int = 0,
    total: int | None = None,
) -> tuple[Placement, list[File]]:
    """Place the pieces that a process writes in files, after those that it takes over.

    Args:
        piece_nbytes: the size of each piece in bytes.
        attempt: the id of the attempt.
        previous: the save before.
        comparison: the pieces that have not changed since then; None: not known.
        linked: the rows of its files that are taken over.
        process: the number of the process.
        total: as for `place`.
    """
    files: list[File] = []
    if previous is None or comparison is None:
        placement = place(piece_nbytes, total=total)
    else:
        rows = [row for row in comparison.rows if row in linked]
        taken = incremental.taken(previous, rows)
        placement = place(piece_nbytes, comparison.unchanged, taken, total=total)
        names = comparison.names(attempt, process)
        for row in rows:
            file = previous.files[row]
            files.append(File(names[row], file.nbytes, "data", age=file.age + 1))
    first = len(comparison.rows) if comparison is not None else 0
    for number, nbytes in enumerate(placement.file_nbytes[placement.taken :], first):
        files.append(File(file_name("data", attempt, process, number), nbytes, "data"))
    return placement, files


def tables_of(live: LiveTree, grids: Sequence[Grid | None] | None = None) -> Index:
    """Return the tables of a tree, without spans.

    Args:
        live: the tree.
        grids: as for `Content.of`.
    """
    return Index(
        types=live.types,
        dtypes=live.dtypes,
        nodes=live.nodes(),
        leaves=_leaf_table(live, grids or [leaf.grid for leaf in live.leaves]),
        spans=span_table(Placement((), ())),
    )


def _leaf_table(live: LiveTree, grids: Sequence[Grid | None]) -> Leaves:
    cuts = [
        inner
        for leaf, grid in zip(live.leaves, grids, strict=True)
        for inner in ([()] * len(leaf.shape) if grid is None else grid.cuts)
    ]
    columns = (
        live.leaf_type,
        live.leaf_dtype,
        [len(leaf.shape) for leaf in live.leaves],
        [length for leaf in live.leaves for length in leaf.shape],
        [len(inner) + 1 for inner in cuts],
        [cut for inner in cuts for cut in inner],
    )
    return Leaves(*(np.asarray(column, np.int64) for column in columns))


def span_table(placement: Placement, digests: Sequence[Digest] | None = None) -> Spans:
    """Return the table of spans.

    Args:
        placement: the spans.
        digests: their digests, once they are written; until then those of new spans are zero.
    """
    rows = [(*span.piece, span.file, span.offset, span.size) for span in placement.spans]
    leaf, cell, file, offset, size = np.array(rows, np.int64).reshape(-1, 5).T
    if digests is None:
        digests = [span.digest or bytes(DIGEST_NBYTES) for span in placement.spans]
    return Spans(leaf, cell, file, offset, size, list(digests))


def _versions(live: LiveTree) -> dict[str, str]:
    """Return the versions of Python, of this package and of each package with a stored type."""
    packages = {"ckptstore", "numpy"} | {row.package for row in live.types if row.package}
    versions = {name: package_version(name) for name in sorted(packages)}
    known = {name: version for name, version in versions.items() if version is not None}
    return {"python": platform.python_version()} | known
