"""Trees of PyTorch."""

from __future__ import annotations

import dataclasses
import pathlib
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler

import ckptstore
from golden_trees import Case, Written

# Those of torch 2.4 and later; a later release may take some away.
_DTYPES = """
    bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64 float16
    float32 float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz
    float8_e8m0fnu int1 int16 int2 int3 int32 int4 int5 int6 int64 int7 int8 uint1 uint16 uint2
    uint3 uint32 uint4 uint5 uint6 uint64 uint7 uint8
"""


class Point(NamedTuple):
    x: torch.Tensor
    y: Any


@dataclasses.dataclass
class Run:
    model: Any
    step: int


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))  # type: ignore[no-any-return]


class Matrix(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.w = nn.Parameter(torch.randn(6, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(16, 8)
        self.out = nn.Linear(8, 16, bias=False)
        self.out.weight = self.embed.weight


def _tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Return a tensor of all kinds of bits: NaNs with payloads, -0.0, infinities."""
    draw = np.random.default_rng(0).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    draw = draw & 1 if dtype == torch.bool else draw
    number = {16: "c16"}.get(dtype.itemsize, f"i{dtype.itemsize}")
    host = np.frombuffer(draw.tobytes() or b"", number).reshape(shape).copy()
    return torch.from_numpy(host.view("u1") if dtype.itemsize == 1 else host).view(dtype)


def _dtype(name: str) -> Any:
    dtype = getattr(torch, name)
    whole = _tensor(dtype, 4, 6)
    return [
        _tensor(dtype), _tensor(dtype, 3, 0, 2), whole, whole.t(), whole[1:, ::2],
        _tensor(dtype, 1, 3).expand(5, 3), dtype,
    ]  # fmt: skip


def _trained(name: str, model: type[nn.Module] = Net, schedule: Any = None, **options: Any) -> Any:
    """Train a model for two steps; return all that resuming needs."""
    made = model(0)
    steps = getattr(torch.optim, name)(made.parameters(), **options)
    scheduled = None if schedule is None else schedule(steps)
    x = torch.linspace(-1, 1, 48).reshape(8, 6)

    def closure() -> torch.Tensor:
        steps.zero_grad()
        loss = ((made(x) - x.sum(dim=1, keepdim=True)) ** 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(2):
        loss = steps.step(closure)
        if scheduled is not None:
            scheduled.step(*([loss.item()] if name_of(scheduled) == "ReduceLROnPlateau" else []))
    parts = {"model": made.state_dict(), "optimizer": steps.state_dict()}
    return parts if scheduled is None else parts | {"schedule": scheduled.state_dict()}


def name_of(x: Any) -> str:
    """Return the name of the class of something."""
    return type(x).__name__


def _rng() -> Any:
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    return {
        "torch": torch.get_rng_state(),
        "generator": generator.get_state(),
        "python": random.Random(1).getstate(),
    }


def _views(*, tied: bool = False) -> Any:
    """Make views of one memory; those that are the same view load as one tensor."""
    x = _tensor(torch.complex64, 4, 4)
    same = [x, x] if tied else [x.view(4, 4), x.detach()]
    return [x, x.conj(), x.t(), x[:2], x.real, x.imag, x.conj().imag, *same]


def _tied() -> Any:
    state = Tied().state_dict()
    state["out.weight"] = state["embed.weight"]
    return state


def _dtensors(root: pathlib.Path) -> Mapping[str, Written]:
    """DTensors of a program of one process; as plain tensors they need no process group."""
    from torch import distributed
    from torch.distributed.tensor import DTensor, Replicate, Shard

    w = torch.arange(12.0).reshape(3, 4)
    plain = {"w": w, "n": w.to(torch.int32), "p": nn.Parameter(w), "step": 3}
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "tp"))
        on = [Shard(0), Replicate()]
        tree = {"w": DTensor.from_local(w, mesh, on), "n": DTensor.from_local(plain["n"], mesh, on)}
        tree |= {"p": nn.Parameter(tree["w"]), "step": 3}
        ckptstore.save(root / "ckpt", tree)
    finally:
        distributed.destroy_process_group()
    return {"ckpt": Written(plain)}


def _inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(2) + 1


_TREES: dict[str, Callable[[], Any]] = {
    "requires_grad": lambda: [torch.ones(2, requires_grad=True), torch.ones(2)],
    "Parameters": lambda: [
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.arange(3), requires_grad=False),
        nn.Parameter(torch.ones(2, dtype=torch.complex64)),
        nn.Parameter(torch.empty(0, 3)),
    ],
    "Buffers": lambda: [nn.Buffer(torch.ones(2)), nn.Buffer(torch.ones(2), persistent=False)],
    "one Parameter in two places": lambda: (lambda w: {"encoder": w, "decoder": w})(
        nn.Parameter(torch.ones(2, 2))
    ),
    "channels_last": lambda: _tensor(torch.float32, 2, 3, 4, 5).to(
        memory_format=torch.channels_last
    ),
    "inference": _inference,
    "NamedTuple and dataclass": lambda: Point(torch.ones(2), Run({"w": torch.zeros(1)}, 3)),
    "PackedSequence": lambda: nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]),
    "Size": lambda: [torch.ones(2, 3).shape, torch.Size([]), (2, 3)],
    "dtypes": lambda: [getattr(torch, name) for name in _DTYPES.split()],
    "devices": lambda: [torch.device("cpu"), torch.device("cuda:1"), torch.device("cuda")],
    "layout and memory format": lambda: [torch.strided, torch.sparse_coo, torch.channels_last],
    "states of generators": _rng,
    "state_dict": lambda: Net(0).state_dict(),
    "state_dict with its variables": lambda: Net(0).state_dict(keep_vars=True),
    "one state_dict in two places": lambda: (lambda d: {"ema": d, "model": d})(Net(0).state_dict()),
    "ParameterDict's": lambda: nn.ParameterDict({"b": torch.ones(2), "a": torch.ones(1)})
    .state_dict(),
    "GradScaler's": lambda: torch.amp.GradScaler("cpu").state_dict(),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(
        Net(0).first
    ).state_dict(),
    "averaged model's": lambda: torch.optim.swa_utils.AveragedModel(Net(0)).state_dict(),
}  # fmt: skip
_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "Adagrad": {}, "Adadelta": {}, "Adamax": {}, "ASGD": {}, "Adafactor": {}, "NAdam": {},
    "RAdam": {}, "Rprop": {},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "LBFGS": {"max_iter": 3},
    "Muon": {"model": Matrix},
}  # fmt: skip
_SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
}
CASES = {f"tensors of {name}": Case(lambda name=name: _dtype(name)) for name in _DTYPES.split()}
CASES |= {name: Case(make) for name, make in _TREES.items()}
for _name, _options in _OPTIMIZERS.items():
    CASES[f"optimizer {_name}"] = Case(lambda n=_name, o=_options: _trained(n, **o))
for _name, _make in _SCHEDULES.items():
    CASES[f"schedule {_name}"] = Case(
        lambda make=_make: _trained("SGD", schedule=make, lr=0.01, momentum=0.9)
    )
CASES["views of one memory"] = Case(_views, expect=lambda: _views(tied=True))
CASES["state_dict of tied weights"] = Case(lambda: Tied().state_dict(), expect=_tied)
CASES["DTensors"] = Case(write=_dtensors, load=lambda: {"sharding": "whole"}, since=(0, 2))
CASES["a model on meta is a template"] = Case(
    lambda: {"model": Net(0).state_dict(), "n": 1},
    load=lambda: {"like": {"model": Net(0).to("meta").state_dict(), "n": 0}},
    numpy=False,
)
