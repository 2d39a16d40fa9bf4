"""A catalogue of small trees: every framework, and every kind of value that a checkpoint carries.

`cases(framework)` gives them by name. Each is built from fixed seeds, without a clock. The names of
cases, of classes and of the modules here stand in frozen checkpoints (`golden/README.md`): add to
them, and change none.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import ckptstore

FRAMEWORKS = {
    "python": "of_python",
    "numpy": "of_numpy",
    "ml_dtypes": "of_ml_dtypes",
    "jax": "of_jax",
    "optax": "of_optax",
    "flax": "of_flax",
    "nnx": "of_nnx",
    "equinox": "of_equinox",
    "haiku": "of_haiku",
    "torch": "of_torch",
    "types": "of_types",
    "checkpoints": "of_checkpoints",
}


@dataclasses.dataclass(frozen=True)
class Written:
    """One checkpoint that a case wrote: what it loads as, and what `inspect` says of it."""

    tree: Any
    step: int | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """One tree, and how it is saved and loaded.

    Attributes:
        make: builds the tree.
        save: the options of `ckptstore.save`.
        load: makes the options of `ckptstore.load`.
        expect: builds what it loads as, where that is another tree.
        write: instead of one save: writes checkpoints below a directory and says which.
        numpy: whether ``arrays="numpy"`` loads it too.
        longdouble: whether it holds numbers that only some platforms have.
        since: the first minor version whose archives have it.
    """

    make: Callable[[], Any] = dict
    save: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    load: Callable[[], Mapping[str, Any]] = dict
    expect: Callable[[], Any] | None = None
    write: Callable[[pathlib.Path], Mapping[str, Written]] | None = None
    numpy: bool = True
    longdouble: bool = False
    since: tuple[int, int] = (0, 1)


def cases(framework: str) -> dict[str, Case]:
    """Return the cases of a framework by name."""
    module = importlib.import_module(f"{__name__}.{FRAMEWORKS[framework]}")
    found: dict[str, Case] = module.CASES
    return found


def archived(version: str, framework: str) -> dict[str, Case]:
    """Return the cases that the archive of a minor version has."""
    number = tuple(map(int, version.split(".")))
    return {name: case for name, case in cases(framework).items() if case.since <= number}


def write(case: Case, root: pathlib.Path) -> Mapping[str, Written]:
    """Write the checkpoints of a case below `root`; return what they are by relative path."""
    root.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a framework has to say of its own functions
        if case.write is not None:
            return case.write(root)
        tree = case.make()
        ckptstore.save(root / "ckpt", tree, **case.save)
        loaded = tree if case.expect is None else case.expect()
    about = {name: case.save[name] for name in ("step", "metadata", "metrics") if name in case.save}
    return {"ckpt": Written(loaded, **about)}


def load(case: Case, place: pathlib.Path, **options: Any) -> Any:
    """Load one checkpoint of a case."""
    return ckptstore.load(place, **case.load(), **options)
