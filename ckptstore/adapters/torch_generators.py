"""PyTorch's generators of random numbers: the state, and the device that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ckptstore.types import Record, object_row


def _take(x: Any) -> Sequence[Any]:
    return (str(x.device), x.get_state())


def _check(values: Sequence[Any]) -> None:
    device, state = values
    if type(device) is not str or type(state) not in (torch.Tensor, np.ndarray):
        raise TypeError("its fields have wrong types")


def _make(values: Sequence[Any]) -> Any:
    _check(values)
    device, state = values
    kind, _, number = device.partition(":")
    module: Any = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}.get(kind)
    if device != "cpu" and (module is None or int(number or 0) >= module.device_count()):
        raise LookupError(
            f"its device {device[:40]} is not here; load it where that device is. Here, name the "
            'other parts in select=["$..."]; at PATH.state are the bytes of the generator'
        )
    made = torch.Generator(device)
    made.set_state(state if type(state) is torch.Tensor else torch.from_numpy(state))
    return made


RECORDS: Mapping[type, Record] = {
    torch.Generator: Record(
        object_row("torch.Generator", "device", "state"), _take, _make, check=_check
    ),
}
"""By exact type."""
