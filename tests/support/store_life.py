"""The life of checkpoints in a store: everything that a training run does there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import ckptstore
from ckptstore.runs import directory

CALLS = ("save", "overwrite", "manager", "save_async", "load", "gc")


def tree(step: int) -> dict[str, Any]:
    """A state with an array that changes and one that steps share, each of more than one part."""
    return {
        "step": step,
        "changes": np.arange(80_000, dtype=np.float64) + step,
        "stays": np.arange(140_000, dtype=np.float64),
        "small": np.full(10, step, np.float32),
    }


def is_tree(loaded: Mapping[str, Any], step: int) -> bool:
    names = {"changes", "stays", "small"}
    same = all(np.array_equal(loaded[name], tree(step)[name]) for name in names)
    return same and loaded["step"] == step


def live(url: str, options: Mapping[str, Any], *, overwrites: bool = True) -> Iterator[str]:
    """Do all of it below a URL, and yield the name of each call that has ended as it should."""
    one, run = f"{url}/one", f"{url}/run"
    ckptstore.save(one, tree(1), storage_options=options)
    assert is_tree(ckptstore.load(one, storage_options=options), 1)
    yield "save"
    if overwrites:
        ckptstore.save(one, tree(2), overwrite=True, storage_options=options)
        assert is_tree(ckptstore.load(one, storage_options=options), 2)
        yield "overwrite"
    keep = ckptstore.keep_last(2)
    with ckptstore.Manager(run, every=1, keep=keep, storage_options=options) as manager:
        for step in (1, 2, 3):
            manager.save(step, tree(step))
        yield "manager"
        manager.save_async(4, tree(4)).result()
        assert manager.latest() == 4
        yield "save_async"
    with ckptstore.Manager(run, storage_options=options) as manager:
        assert is_tree(manager.load(), 4)
        assert is_tree(
            ckptstore.load(f"{run}/{directory.step_name(3)}", storage_options=options), 3
        )
        yield "load"
        manager.gc(grace=3600)
        yield "gc"


def lived(url: str, options: Mapping[str, Any], **how: bool) -> tuple[str, ...]:
    """Return the names of the calls of `live`; the first that fails raises."""
    began = time.monotonic()
    done = tuple(live(url, options, **how))
    print(f"{', '.join(done)} in {time.monotonic() - began:.1f} s")
    return done
