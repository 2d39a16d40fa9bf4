"""The bytes of a checkpoint: docs/spec.md, section by section."""

from __future__ import annotations

from ckptstore.format.draft import Draft, encode_draft, seal
from ckptstore.format.index import (
    BLOB_KINDS,
    DICT_KINDS,
    INDEX_MAX_NBYTES,
    KEY_MAX_DEPTH,
    LARGE_ALIGNMENT,
    LARGE_NBYTES,
    SMALL_ALIGNMENT,
    SPAN_MAX_NBYTES,
    TREE_MAX_DEPTH,
    Index,
    Integers,
    Kind,
    Leaves,
    Nodes,
    Spans,
    TypeKind,
    TypeRow,
    decode_tables,
    encode_index,
)
from ckptstore.format.layout import Layout, lay_out
from ckptstore.format.manifest import (
    MANIFEST_MAX_NBYTES,
    File,
    Manifest,
    decode_manifest,
    encode_manifest,
    of_attempt,
)
from ckptstore.format.metadata import Metadata, encode_metadata
from ckptstore.format.notes import (
    NOTE_NBYTES,
    Failure,
    Joining,
    Opening,
    Part,
    Word,
    decode_failures,
    encode_failures,
)
from ckptstore.format.plain_values import plain_value
from ckptstore.format.validate import cell_starts, decode_index

__all__ = [
    "BLOB_KINDS",
    "DICT_KINDS",
    "INDEX_MAX_NBYTES",
    "KEY_MAX_DEPTH",
    "LARGE_ALIGNMENT",
    "LARGE_NBYTES",
    "MANIFEST_MAX_NBYTES",
    "NOTE_NBYTES",
    "SMALL_ALIGNMENT",
    "SPAN_MAX_NBYTES",
    "TREE_MAX_DEPTH",
    "Draft",
    "Failure",
    "File",
    "Index",
    "Integers",
    "Kind",
    "Layout",
    "Leaves",
    "Manifest",
    "Metadata",
    "Nodes",
    "Joining",
    "Opening",
    "Part",
    "Spans",
    "TypeKind",
    "TypeRow",
    "Word",
    "cell_starts",
    "decode_failures",
    "decode_index",
    "decode_manifest",
    "decode_tables",
    "encode_draft",
    "encode_failures",
    "encode_index",
    "encode_manifest",
    "encode_metadata",
    "lay_out",
    "of_attempt",
    "plain_value",
    "seal",
]
