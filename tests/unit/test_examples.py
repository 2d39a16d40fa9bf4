"""Each public name shows itself by an example in its docstring; every example runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ckptstore
from ckptstore.adapters import Adapter

FACES = ("ckptstore", "ckptstore.adapters", "ckptstore.analysis", "ckptstore.convert")
FACES += ("ckptstore.optax",)
WITH_METHODS = (
    Adapter,
    ckptstore.Checkpoint,
    ckptstore.Manager,
    ckptstore.PendingSave,
    ckptstore.Preemption,
)
PACKAGES_OF = {
    "from_equinox": "equinox",
    "from_flax": "flax",
    "from_orbax": "orbax.checkpoint",
    "from_safetensors": "safetensors",
    "from_torch": "torch",
}
"""The package that an example needs beside jax and optax, and that may not be installed."""


def public() -> Iterator[tuple[str, Any]]:
    """Yield each face and public callable with its name, and the errors that have an example."""
    for face in FACES:
        module = importlib.import_module(face)
        yield face, module
        for name in module.__all__:
            value = getattr(module, name)
            is_error = isinstance(value, type) and issubclass(value, ckptstore.CheckpointError)
            if not callable(value) or (is_error and "Example:" not in value.__doc__):
                continue
            yield f"{face}.{name}", value
            if value in WITH_METHODS:
                for method, function in inspect.getmembers(value, inspect.isfunction):
                    if not method.startswith("_"):
                        yield f"{face}.{name}.{method}", function


PUBLIC = dict(public())


def examples(name: str, value: Any) -> doctest.DocTest:
    module = value if name in FACES else importlib.import_module(value.__module__)
    found = doctest.DocTestFinder(recurse=False).find(value, name, module, vars(module).copy())
    assert len(found) == 1, f"{name}: no docstring"
    return found[0]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = examples(name, PUBLIC[name])
    assert test.examples, f"{name}: its docstring has no example"
    if (package := PACKAGES_OF.get(name.rpartition(".")[2])) is not None:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the frameworks
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


def test_every_signature_of_a_public_function_is_typed() -> None:
    untyped = []
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            signature = inspect.signature(value)
            rows = [p for p in signature.parameters.values() if p.name != "self"]
            untyped += [
                f"{name}: {p.name}" for p in rows if p.annotation is inspect.Parameter.empty
            ]
            if signature.return_annotation is inspect.Signature.empty:
                untyped.append(f"{name}: its return")
    assert not untyped
