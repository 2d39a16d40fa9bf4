"""Small states of a run, one for each step, which show whose they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptstore import Manager
from tests.support.places import Place


def manage(place: Place, url: str = "", **options: Any) -> Manager:
    return Manager(url or place.url, storage_options=place.options, **options)


def tree(step: int) -> dict[str, Any]:
    return {"step": step, "leaf": np.arange(3) + step}


def name_of(step: int) -> str:
    return f"step-{step:012d}"


def is_of(loaded: Any, step: int) -> bool:
    return bool(loaded["step"] == step and np.array_equal(loaded["leaf"], np.arange(3) + step))
