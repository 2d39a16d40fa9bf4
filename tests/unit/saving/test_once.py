"""One save encodes each part once and looks at it once; one load decodes each part once."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckptstore
from ckptstore import Manager
from ckptstore.digests import digest
from ckptstore.format import (
    File,
    Index,
    Manifest,
    decode_index,
    decode_manifest,
    encode_draft,
    encode_index,
    encode_manifest,
    encode_metadata,
    manifest,
    metadata,
    names,
    seal,
    wire,
)
from ckptstore.saving import contents, placement
from ckptstore.storage.local import LocalStorage
from ckptstore.tree import flatten

LARGE = np.arange(1 << 19, dtype=np.float32)
ONCE = {"encode_manifest": 1, "encode_index": 1, "encode_metadata": 1}
LOOKED_AT = {"decode_manifest": 1, "decode_index": 1, "decode_metadata": 1}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of the functions that encode and decode, wherever they are imported."""
    counted = Counter[str]()

    def counting(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            counted[real.__name__] += 1
            return real(*args, **options)

        return call

    functions = (
        *(encode_manifest, encode_index, encode_metadata),
        *(decode_manifest, decode_index, metadata.decode_metadata),
        *(wire.scan, placement.place),
    )
    modules = [module for name, module in sys.modules.items() if name.startswith("ckptstore")]
    for real in functions:
        wrapped = counting(real)
        for module in modules:
            if vars(module).get(real.__name__) is real:
                monkeypatch.setattr(module, real.__name__, wrapped)
    return counted


def taken(calls: Counter[str], *others: str) -> dict[str, int]:
    """Return the counts since the last look, without those of other functions."""
    counts = {name: n for name, n in calls.items() if name not in others}
    calls.clear()
    return counts


def tree(step: int) -> dict[str, Any]:
    return {"frozen": LARGE, "changing": LARGE + step, "step": step, "name": "x" * 10_000}


def test_one_save(tmp_path: Path, calls: Counter[str]) -> None:
    ckptstore.save(tmp_path / "a", tree(1), metadata={"of": [1, 2]}, metrics={"loss": 1.0})
    assert taken(calls, "scan") == {**ONCE, **LOOKED_AT, "place": 1}
    ckptstore.save_async(tmp_path / "b", tree(1), metadata={"of": [1, 2]}).result()
    assert taken(calls, "scan") == {**ONCE, **LOOKED_AT, "place": 1}


def test_an_index_that_is_too_large_for_the_manifest(tmp_path: Path, calls: Counter[str]) -> None:
    ckptstore.save(tmp_path, {f"key {i}": i for i in range(200_000)})
    assert taken(calls, "scan") == {**ONCE, **LOOKED_AT, "place": 1}
    assert len(list(tmp_path.glob("index-*"))) == 1


def test_an_overwrite_also_decodes_what_it_replaces(tmp_path: Path, calls: Counter[str]) -> None:
    ckptstore.save(tmp_path, tree(1))
    calls.clear()
    ckptstore.save(tmp_path, tree(2), overwrite=True)
    replaced = {"decode_manifest": 2, "decode_index": 1, "decode_metadata": 2}
    assert taken(calls, "scan") == {**ONCE, **replaced, "place": 1}


def test_each_save_of_a_manager(tmp_path: Path, calls: Counter[str]) -> None:
    with Manager(tmp_path) as manager:
        for step in range(5):
            manager.save(step, tree(step), metadata={"of": step})
            assert taken(calls, "scan") == {**ONCE, **LOOKED_AT, "place": 1}
    shared = [path for path in tmp_path.glob("*/data-*") if path.stat().st_nlink > 1]
    assert shared, "something was taken over"


def test_a_save_in_the_background_plans_anew_what_it_takes_over(
    tmp_path: Path, calls: Counter[str]
) -> None:
    """It refuses in the call, and compares in its thread: so again, but the metadata."""
    with Manager(tmp_path) as manager:
        manager.save(0, tree(0), metadata={"of": 0})
        calls.clear()
        manager.save_async(1, tree(1), metadata={"of": 1})
    counts = taken(calls, "scan", "decode_metadata", "decode_manifest", "decode_index")
    assert counts == {"encode_manifest": 2, "encode_index": 2, "encode_metadata": 1, "place": 2}


def test_a_link_that_cannot_be_made(
    tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Manager(tmp_path) as manager:
        manager.save(0, tree(0))
        manager.save(1, tree(1))  # the frozen leaf is set apart
        monkeypatch.setattr(LocalStorage, "link", lambda *_: False)
        calls.clear()
        manager.save(2, tree(2))
        assert taken(calls)["encode_index"] == 2
    assert ckptstore.verify(tmp_path / names.step_name(2)) == []
    assert np.array_equal(ckptstore.load(tmp_path / names.step_name(2))["frozen"], LARGE)


def test_one_load(tmp_path: Path, calls: Counter[str]) -> None:
    ckptstore.save(tmp_path, tree(1), metadata={"of": 1})
    calls.clear()
    ckptstore.load(tmp_path)
    scans = {"scan": 4}  # checksum, payload, metadata, index
    assert taken(calls) == {**LOOKED_AT, **scans}
    ckptstore.load(tmp_path, tree(0))
    assert taken(calls) == {**LOOKED_AT, **scans}
    ckptstore.load(tmp_path, tree(0), select="$.step")
    assert taken(calls) == {**LOOKED_AT, **scans}


# The bytes.

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=6)
digests = st.binary(min_size=16, max_size=16)


@st.composite
def drafts(draw: st.DrawFn) -> tuple[Manifest, Index, bytes]:
    """A manifest and an index as a save has them before it writes."""
    value = st.recursive(
        st.none() | st.integers(-9, 9) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    )
    leaves = [np.zeros(shape, draw(st.sampled_from(["u1", "f4"]))) for shape in draw(shapes)]
    live = flatten({"leaves": leaves, "value": draw(value)})
    placed = placement.place({(n, 0): leaf.nbytes for n, leaf in enumerate(leaves)})
    of = draw(st.integers(0, 2**128 - 1)).to_bytes(16, "big").hex()
    ages = draw(st.lists(st.integers(0, 300), min_size=9, max_size=9))
    user = draw(st.dictionaries(st.text(max_size=5), value, max_size=3))
    return (
        Manifest(
            attempt=of,
            time_ms=0,
            step=draw(st.none() | st.integers(0, 2**53 - 1)),
            metrics={},
            writer={},
            metadata=user,
            files=[
                File(names.file_name("data", of, 0, n), nbytes, "data", age=ages[n])
                for n, nbytes in enumerate(placed.file_nbytes)
            ],
            index=None,
        ),
        Index(
            types=live.types,
            dtypes=live.dtypes,
            nodes=live.nodes(),
            leaves=contents._leaf_table(live, [leaf.grid for leaf in live.leaves]),
            spans=contents.span_table(placed),
        ),
        encode_metadata(user),
    )


@given(drafts(), st.data(), st.booleans())
def test_digests_that_are_put_in_give_the_bytes_that_encoding_with_them_gives(
    drawn: tuple[Manifest, Index, bytes], data: st.DataObject, inside: bool
) -> None:
    told, index, user = drawn
    count = len(index.spans)
    final = data.draw(st.lists(digests, min_size=count, max_size=count))
    with pytest.MonkeyPatch.context() as patch:
        if not inside:
            patch.setattr(manifest, "MANIFEST_MAX_NBYTES", len(encode_manifest(told)) + 120)
        draft = seal(encode_draft(told, index, user), final)
    spans = dataclasses.replace(index.spans, digests=final)
    encoded = encode_index(dataclasses.replace(index, spans=spans))
    assert draft.index == encoded
    if draft.index_file is None:
        expected = dataclasses.replace(told, index=encoded)
    else:
        name = names.file_name("index", told.attempt, 0, 0)
        file = File(name, len(encoded), "index", digest(encoded))
        expected = dataclasses.replace(told, files=[*told.files, file])
        assert draft.index_file == file
    assert draft.data == encode_manifest(expected)
    expected = dataclasses.replace(expected, required=[], optional=[])
    assert decode_manifest(draft.data, where="") == draft.manifest == expected
