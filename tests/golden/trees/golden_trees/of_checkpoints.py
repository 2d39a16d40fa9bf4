"""Kinds of checkpoint: what stands beside the tree, how many files, how it was written."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

import ckptstore
from golden_trees import Case, Written

MIB = 1 << 20
METADATA = {
    "none": None,
    "numbers": [True, -1, 2**53 - 1, 0.5],
    "text": {"é": "\U0001d11e", "": [[], {}]},
    "bytes": b"\0\xff",
}


def loss(x: Any) -> Any:
    """Stand for what no file carries."""
    return x


def _state(step: int = 1) -> Any:
    return {"params": {"w": np.arange(6.0).reshape(2, 3) * step, "b": np.ones(3, "f4")}, "n": step}


def _with_loss() -> Any:
    return {"params": np.arange(3.0), "loss": loss, "nested": [{"loss": loss}]}


def _blocks(mebibytes: float) -> Any:
    """Return a large array that packs into few bytes: no two blocks of it are the same."""
    count = int(mebibytes * MIB) // 4
    return np.arange(count, dtype=np.uint32) // 4096


def _run(root: pathlib.Path, count: int, **options: Any) -> dict[str, Written]:
    """Save steps of which most does not change; later ones have links to files of earlier ones."""
    manager = ckptstore.Manager(root / "run", **options)
    frozen = {"table": _blocks(2), "other": _blocks(1)[::-1].copy()}
    wrote = {}
    for step in range(1, count + 1):
        trained = {"w": np.full(MIB // 4, step, np.float32), "s": np.full(100, step, "f4")}
        tree = {"frozen": frozen, "trained": trained, "step": step}
        metrics = {"loss": 1 / step, "count": step}
        manager.save(step, tree, metrics=metrics, metadata={"note": f"step {step}"})
        wrote[step] = Written(tree, step, {"note": f"step {step}"}, metrics)
    return {f"run/step-{step:012d}": wrote[step] for step in manager.steps()}


def _overwritten(root: pathlib.Path) -> dict[str, Written]:
    ckptstore.save(root / "ckpt", _state(1), step=1, metadata={"first": True})
    ckptstore.save(root / "ckpt", _state(2), step=2, overwrite=True)
    return {"ckpt": Written(_state(2), 2)}


def _in_background(root: pathlib.Path) -> dict[str, Written]:
    ckptstore.save_async(root / "ckpt", _state(3), step=3).result()
    return {"ckpt": Written(_state(3), 3)}


CASES = {
    "no array": Case(lambda: {"lr": 0.1, "names": ["a", "b"]}),
    "one array": Case(lambda: np.arange(3)),
    "step, metadata and metrics": Case(
        _state,
        save={
            "step": 2**53 - 1,
            "metadata": METADATA,
            "metrics": {"loss": 0.1, "seen": -3, "inf": float("inf")},
        },
    ),
    "step 0": Case(_state, save={"step": 0}),
    "supplied": Case(
        _with_loss,
        save={"supplied": ["$.**.loss"]},
        load=lambda: {"like": _with_loss()},
        numpy=False,
    ),
    "an index in a file": Case(
        lambda: {f"note {i}": f"{i:04d}" * 1000 for i in range(300)} | {"w": np.arange(3)}
    ),
    "many leaves": Case(lambda: [np.full(1 + i % 3, i, "i2") for i in range(1_500)]),
    "several spans": Case(
        lambda: {"large": _blocks(33), "small": np.arange(5), "odd": b"x" * 9000}
    ),
    "large and small": Case(lambda: [_blocks(1.5), np.arange(3), _blocks(1)[::2], _blocks(1)]),
    "overwritten": Case(write=_overwritten),
    "in the background": Case(write=_in_background),
    "a run": Case(write=lambda root: _run(root, 4)),
    "a run that keeps some": Case(
        write=lambda root: _run(
            root, 5, keep=ckptstore.keep_last(1) | ckptstore.keep_best(1, "count")
        )
    ),
}
