"""PyTorch: tensors and state_dicts come back exactly, or are refused by their path."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import random
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import ckptstore
from ckptstore.adapters.torch import ADAPTER
from ckptstore.format import TypeKind, TypeRow, dtypes
from ckptstore.types import registry
from tests.support.compare import assert_exact, assert_refused, differences, roundtrip
from tests.support.marks import sampled

DTYPES = {str(x): x for x in list(vars(torch).values()) if isinstance(x, torch.dtype)}
QUANTIZED = {name for name in DTYPES if name.startswith(("torch.qint", "torch.quint"))}
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


@pytest.fixture(autouse=True)
def experimental() -> Iterator[None]:
    """Let torch say once that complex32 is experimental and that quantized tensors will go."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ComplexHalf support", UserWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors", UserWarning)
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        yield


# --- Tensors -----------------------------------------------------------------------------------


def tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Return a tensor of all kinds of bits: NaNs with payloads, -0.0, infinities."""
    draw = np.random.default_rng(0).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    draw = draw & 1 if dtype == torch.bool else draw
    number = {16: "c16"}.get(dtype.itemsize, f"i{dtype.itemsize}")
    host = np.frombuffer(draw.tobytes() or b"", number).reshape(shape).copy()
    return torch.from_numpy(host.view("u1") if dtype.itemsize == 1 else host).view(dtype)


@pytest.mark.parametrize("name", sorted(DTYPES.keys() - QUANTIZED))
def test_every_dtype_comes_back_bit_for_bit_in_every_shape(
    name: str, tmp_path: pathlib.Path
) -> None:
    dtype = DTYPES[name]
    whole = tensor(dtype, 4, 6)
    tree = [
        tensor(dtype),
        tensor(dtype, 7),
        tensor(dtype, 0),
        tensor(dtype, 3, 0, 2),
        whole,
        whole.t(),
        whole[1:, ::2],
        whole[2:],
        tensor(dtype, 1, 3).expand(5, 3),
        tensor(dtype, *[1] * 20),
        dtype,
    ]
    loaded = assert_exact(tmp_path, tree)
    assert all(x.is_contiguous() for x in loaded[:-1])
    loaded[4].view(BITS[dtype.itemsize]).zero_()  # writable, and nobody else's memory
    assert differences(tree[5], loaded[5]) == []
    again = ckptstore.load(tmp_path / "c0", like=tree)
    assert differences(tree, again) == []


def test_all_dtypes_of_torch_are_listed() -> None:
    assert {"torch.float8_e8m0fnu", "torch.complex32", "torch.uint64", "torch.bits16"} <= {*DTYPES}
    assert len(DTYPES.keys() - QUANTIZED) >= 40


def test_a_bool_of_another_byte_is_true(tmp_path: pathlib.Path) -> None:
    odd = torch.tensor([0, 1, 2, 255], dtype=torch.uint8).view(torch.bool)
    assert roundtrip(tmp_path, odd).view(torch.uint8).tolist() == [0, 1, 1, 1]


def tied() -> Any:
    weight = nn.Parameter(torch.ones(2, 2))
    return {"encoder": weight, "decoder": weight}


def inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(2) + 1


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


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(512, 8)
        self.out = nn.Linear(8, 512, bias=False)
        self.out.weight = self.embed.weight


EXACT: dict[str, Callable[[], Any]] = {
    "requires_grad": lambda: [torch.ones(2, requires_grad=True), torch.ones(2)],
    "Parameter": lambda: [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), False)],
    "Parameter of integers": lambda: nn.Parameter(torch.arange(3), requires_grad=False),
    "complex Parameter": lambda: nn.Parameter(torch.ones(2, dtype=torch.complex64)),
    "Buffer": lambda: [nn.Buffer(torch.ones(2)), nn.Buffer(torch.ones(2), persistent=False)],
    "empty Parameter": lambda: nn.Parameter(torch.empty(0, 3)),
    "ParameterList as a list": lambda: list(nn.ParameterList([torch.ones(2), torch.zeros(1)])),
    "one tensor in two places": tied,
    "memory just large enough": lambda: freed(64),
    "channels_last": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "conjugated": lambda: torch.rand(3, dtype=torch.complex64).conj(),
    "negated": lambda: torch.rand(3, dtype=torch.complex64).conj().imag,
    "real part": lambda: torch.rand(3, dtype=torch.complex64).real,
    "detached": lambda: (torch.ones(2, requires_grad=True) * 2).detach(),
    "inference": inference,
    "large, of several spans": lambda: torch.arange(6 << 20, dtype=torch.float32),
    "large and strided": lambda: torch.arange(1 << 20).reshape(1024, 1024).t(),
    "NamedTuple and dataclass": lambda: Point(torch.ones(2), Run({"w": torch.zeros(1)}, 3)),
    "PackedSequence": lambda: nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]),
    "Size": lambda: [torch.ones(2, 3).shape, torch.Size([]), (2, 3)],
    "dtypes": lambda: [*DTYPES.values()],
    "devices": lambda: [torch.device("cpu"), torch.device("cuda:1"), torch.device("cuda")],
    "layout and memory format": lambda: [torch.strided, torch.sparse_coo, torch.channels_last],
    "rng state": lambda: {"torch": torch.get_rng_state(), "python": random.Random(1).getstate()},
    "state_dict": lambda: Net(0).state_dict(),
    "state_dict with its variables": lambda: Net(0).state_dict(keep_vars=True),
    "state_dicts in a checkpoint": lambda: [Net(0).state_dict(), (Net(1).state_dict(), 1)],
    "one state_dict in two places": lambda: (lambda d: {"ema": d, "model": d})(Net(0).state_dict()),
    "ParameterDict's": lambda: nn.ParameterDict({"b": torch.ones(2), "a": torch.ones(1)})
    .state_dict(),
    "GradScaler's": lambda: torch.amp.GradScaler("cpu").state_dict(),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)).state_dict(),
    "LSTM's": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True).state_dict(),
    "averaged model's": lambda: torch.optim.swa_utils.AveragedModel(Net(0)).state_dict(),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXACT)
def test_state_comes_back_exactly_without_a_template(kind: str, tmp_path: pathlib.Path) -> None:
    tree = EXACT[kind]()
    loaded = assert_exact(tmp_path, tree)
    assert differences(tree, ckptstore.load(tmp_path / "c0", like=tree)) == []
    assert differences(loaded, roundtrip(tmp_path, loaded)) == []


def test_metadata_of_a_state_dict_stays_on_it(tmp_path: pathlib.Path) -> None:
    state = Net(0).state_dict()
    assert vars(state)["_metadata"]["norm"] == {"version": 2}
    loaded = assert_exact(tmp_path, {"model": state})
    assert loaded["model"]._metadata == state._metadata  # type: ignore[attr-defined]
    url = tmp_path / "c0"
    assert differences(state, ckptstore.load(url, select="$.model")) == []
    weights = ckptstore.load(url, select="$.model.**")
    assert list(weights) == ["$['model']", *(f"$['model'][{name!r}]" for name in state)]
    bias = ckptstore.load(url, select="$.model['first.bias']")
    assert differences(state["first.bias"], bias) == []


# --- Refused at save ---------------------------------------------------------------------------


class Sub(torch.Tensor):
    pass


def with_gradient() -> Any:
    model = Net(0)
    model(torch.ones(2, 6)).sum().backward()
    return model


def hooked(name: str) -> torch.Tensor:
    x = torch.ones(2, requires_grad=True)
    getattr(x, name)(lambda grad: None)
    return x


def with_attribute(x: torch.Tensor) -> torch.Tensor:
    x.is_sharded = True  # type: ignore[attr-defined]
    return x


def freed(nbytes: int) -> torch.Tensor:
    x = torch.ones(4, 4).t()[1:]
    x.untyped_storage().resize_(nbytes)
    return x


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def jagged() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


def attributed(name: str) -> Any:
    entries = collections.OrderedDict(a=1)
    vars(entries)[name] = 1
    return entries


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a tensor with a graph": (lambda: with_gradient()(torch.ones(2, 6)), "$", "save x.detach()"),
    "a view of a Parameter": (lambda: nn.Parameter(torch.ones(2))[:1], "$", "save x.detach()"),
    "a gradient": (lambda: dict(with_gradient().named_parameters()), "$['last.weight']", ".grad"),
    "a hook": (lambda: hooked("register_hook"), "$", "hooks"),
    "a hook after it": (lambda: hooked("register_post_accumulate_grad_hook"), "$", "hooks"),
    "an attribute": (lambda: with_attribute(torch.ones(2)), "$", "'is_sharded'"),
    "an attribute of a Buffer": (lambda: with_attribute(nn.Buffer(torch.ones(2))), "$", "'is_sh"),
    "a meta tensor": (lambda: torch.empty(2, device="meta"), "$", "no values"),
    "freed memory": (lambda: freed(0), "$", "its storage was freed"),
    "memory freed in part": (lambda: freed(63), "$", "its storage was freed"),
    "a subclass": (lambda: torch.ones(2).as_subclass(Sub), "$", "as_subclass(torch.Tensor)"),
    "a lazy parameter": (lambda: nn.LazyLinear(2).weight, "$", "run the module once"),
    "coo": (lambda: torch.eye(2).to_sparse(), "$", "x.coalesce().indices()"),
    "csr": (lambda: torch.eye(2).to_sparse_csr(), "$", "x.crow_indices()"),
    "csc": (lambda: torch.eye(2).to_sparse_csc(), "$", "x.ccol_indices()"),
    "bsr": (lambda: torch.eye(2).to_sparse_bsr((1, 1)), "$", "x.crow_indices()"),
    "bsc": (lambda: torch.eye(2).to_sparse_bsc((1, 1)), "$", "x.row_indices()"),
    "mkldnn": (lambda: torch.eye(2).to_mkldnn(), "$", "x.to_dense()"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2)]), "$", "x.unbind()"),
    "jagged": (jagged, "$", "x.unbind()"),
    "quantized": (quantized, "$", "x.int_repr()"),
    "a module": (lambda: Net(0), "$", "x.load_state_dict(loaded)"),
    "a compiled module": (lambda: torch.jit.script(nn.Linear(1, 1)), "$", "x.state_dict()"),
    "an optimizer": (lambda: torch.optim.SGD(Net(0).parameters()), "$", "x.load_state_dict("),
    "a scheduler": (
        lambda: lr_scheduler.StepLR(torch.optim.SGD(Net(0).parameters()), 2),
        "$",
        "the torch object StepLR",
    ),
    "a scaler": (lambda: torch.amp.GradScaler("cpu"), "$", "x.state_dict()"),
    "a storage": (lambda: torch.ones(2).untyped_storage(), "$", "cannot be saved"),
    "a function": (lambda: torch.nn.functional.gelu, "$", "no file can hold code"),
    "a tensor as a key": (lambda: {torch.ones(2): 1}, "$", "use str, int"),
    "an attribute in the way of a method": (lambda: attributed("items"), "$", "delete it"),
    "a function in an attribute": (
        lambda: (lambda d: vars(d).update(f=lambda: 1) or d)(collections.OrderedDict()),
        "${attributes}['f']",
        "no file can hold code",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_is_refused_by_path(kind: str, tmp_path: pathlib.Path) -> None:
    make, path, words = REFUSED[kind]
    assert_refused(tmp_path, {"x": make()}, "$['x']" + path[1:], words)


@pytest.mark.parametrize("name", sorted(QUANTIZED))
def test_no_quantized_dtype_is_carried(name: str, tmp_path: pathlib.Path) -> None:
    x = torch.zeros(8 * DTYPES[name].itemsize, dtype=torch.uint8).view(DTYPES[name])
    assert_refused(tmp_path, [x], "$[0]", f"the dtype {name} is not a dtype of the format")


def test_tensors_inside_a_transformation_are_refused(tmp_path: pathlib.Path) -> None:
    def save(x: torch.Tensor) -> torch.Tensor:
        assert_refused(tmp_path, [x], "$[0]", "torch.func")
        return x.sum()

    torch.vmap(save)(torch.ones(3, 2))
    torch.func.grad(save)(torch.ones(3))


def test_a_user_s_subclass_of_tensor_may_be_registered(tmp_path: pathlib.Path) -> None:
    ckptstore.register(
        Sub,
        flatten=lambda x: ((x.as_subclass(torch.Tensor),), None),
        unflatten=lambda static, children: children[0].as_subclass(Sub),
    )
    try:
        assert_exact(tmp_path, {"x": torch.ones(2).as_subclass(Sub)})
    finally:
        registry._BY_CLASS.pop(Sub)
        registry._BY_NAME.pop(f"{Sub.__module__}.Sub")


# --- Tied weights ------------------------------------------------------------------------------


def test_tied_weights_of_a_state_dict_are_stored_once_and_stay_tied(
    tmp_path: pathlib.Path,
) -> None:
    state = Tied().state_dict()
    assert state["embed.weight"] is not state["out.weight"]
    ckptstore.save(tmp_path / "c", state)
    assert len(ckptstore.inspect(tmp_path / "c").leaves) == 1
    loaded = ckptstore.load(tmp_path / "c")
    assert loaded["embed.weight"] is loaded["out.weight"]
    assert torch.equal(loaded["out.weight"], state["out.weight"])
    out = ckptstore.load(tmp_path / "c", select="$['out.weight']")
    assert torch.equal(out, state["out.weight"])
    model = Tied()
    model.load_state_dict(loaded, assign=True)
    with torch.no_grad():
        model.embed.weight.zero_()
    assert not model.out.weight.any()
    for like in (state, Tied().state_dict(), Tied().to("meta").state_dict()):
        again = ckptstore.load(tmp_path / "c", like=like)
        assert again["embed.weight"] is again["out.weight"]


def test_one_of_two_tied_tensors_may_be_supplied_or_selected(tmp_path: pathlib.Path) -> None:
    state = Tied().state_dict()
    ckptstore.save(tmp_path / "c", state, supplied=["$['out.weight']"])
    with pytest.raises(ckptstore.StructureError, match=r"\$\['out.weight'\]: not stored"):
        ckptstore.load(tmp_path / "c")
    stored = ckptstore.load(tmp_path / "c", select="$['embed.weight']")
    assert torch.equal(stored, state["embed.weight"])
    ckptstore.save(tmp_path / "both", state)
    like = Tied().state_dict()
    filled = ckptstore.load(tmp_path / "both", like=like, select="$['out.weight']")
    assert torch.equal(filled["out.weight"], state["out.weight"])
    assert filled["embed.weight"] is like["embed.weight"]


def test_other_views_of_one_memory_are_other_tensors(tmp_path: pathlib.Path) -> None:
    x = torch.rand(4, 4, dtype=torch.complex64)
    others = [x.conj(), x.t(), x[:2], x[2:], x[:, :2], x.real, x.view(torch.int64), x[:0], x[2:2]]
    others += [nn.Parameter(x), nn.Parameter(x, False), x.detach().requires_grad_()]
    others += [x.conj().imag, x.imag, nn.Buffer(x)]
    loaded = assert_exact(tmp_path, [x, *others])
    assert len({y.data_ptr() for y in loaded if y.numel()}) == len(loaded) - 2
    same = roundtrip(tmp_path, [x, x.view(4, 4), x[:], x.detach(), x.data])
    assert {id(y) for y in same} == {id(same[0])}


# --- Memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch.float32", "torch.bfloat16", "torch.bool", "torch.uint4"])
def test_a_contiguous_tensor_is_viewed_and_not_copied(name: str) -> None:
    x = tensor(DTYPES[name], 64, 3)
    leaf = ADAPTER.leaf(x)
    assert leaf is not None
    assert leaf.read().ctypes.data == x.data_ptr()
    assert not leaf.fixed  # anybody can write to it
    host = leaf.read().copy()
    dtype = dtypes.resolve(leaf.dtype, where="test")
    made = ADAPTER.array(host.view(dtype).reshape(64, 3), leaf.row, None)
    assert made.data_ptr() == host.ctypes.data
    assert differences(x, made) == []


# --- Training goes on --------------------------------------------------------------------------


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, 48).reshape(8, 6)
    return x, x.sum(dim=1, keepdim=True)


class Embedded(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(6, 4, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x.argmax(dim=1)).sum(dim=1, keepdim=True)  # type: ignore[no-any-return]


class Matrix(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.w = nn.Parameter(torch.randn(6, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


OPTIMIZERS: dict[str, tuple[str, Callable[[int], nn.Module], dict[str, Any]]] = {
    name: (name, {"SparseAdam": Embedded, "Muon": Matrix}.get(name, Net), {})
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and name != "Optimizer"
}
OPTIMIZERS["LBFGS"] = ("LBFGS", Net, {"max_iter": 3})
OPTIMIZERS |= {
    "SGD with momentum": ("SGD", Net, {"momentum": 0.9, "nesterov": True, "foreach": True}),
    "AMSGrad": ("Adam", Net, {"amsgrad": True, "lr": torch.tensor(1e-2)}),
    "fused AdamW": ("AdamW", Net, {"fused": True, "weight_decay": 0.1}),
    "centered RMSprop": ("RMSprop", Net, {"centered": True, "momentum": 0.5}),
    "LBFGS with line search": ("LBFGS", Net, {"line_search_fn": "strong_wolfe", "max_iter": 4}),
}


def optimizer(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    name, _, options = OPTIMIZERS[kind]
    options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    made: torch.optim.Optimizer = getattr(torch.optim, name)(model.parameters(), **options)
    return made


def train(model: nn.Module, steps: torch.optim.Optimizer, schedule: Any, count: int) -> None:
    x, y = data()

    def closure() -> torch.Tensor:
        steps.zero_grad()
        loss = ((model(x + 0.1 * torch.randn_like(x)) - y) ** 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(count):
        loss = steps.step(closure)
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(loss.item())  # type: ignore[arg-type]
        elif schedule is not None:
            schedule.step()


def goes_on(tmp_path: pathlib.Path, kind: str, scheduled: Callable[[Any], Any]) -> None:
    """Train, save, train on; load into fresh objects, train on, and compare every bit."""

    def fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        model = OPTIMIZERS[kind][1](seed)
        steps = optimizer(kind, model)
        return model, steps, scheduled(steps)

    def state(run: Any) -> dict[str, Any]:
        parts = {"model": run[0].state_dict(), "optimizer": run[1].state_dict()}
        parts |= {"schedule": run[2].state_dict()} if run[2] is not None else {}
        return parts | {"rng": torch.get_rng_state()}

    run = fresh(0)
    train(*run, 3)
    loaded = assert_exact(tmp_path, state(run))
    train(*run, 3)
    other = fresh(1)
    other[0].load_state_dict(loaded["model"])
    other[1].load_state_dict(loaded["optimizer"])
    if other[2] is not None:
        other[2].load_state_dict(loaded["schedule"])
    torch.set_rng_state(loaded["rng"])
    train(*other, 3)
    assert differences(state(run), state(other)) == []


@pytest.mark.parametrize("kind", sampled(OPTIMIZERS))
def test_training_goes_on_bit_for_bit(kind: str, tmp_path: pathlib.Path) -> None:
    goes_on(tmp_path, kind, lambda steps: None)


def test_every_optimizer_of_torch_is_among_them() -> None:
    assert {"SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adafactor", "LBFGS"} <= {*OPTIMIZERS}


class Decay:
    """A schedule that is an object: its attributes are in the state of LambdaLR."""

    def __init__(self) -> None:
        self.rate = 0.9

    def __call__(self, step: int) -> float:
        return self.rate**step


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, Decay()),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
}


@pytest.mark.filterwarnings("ignore::UserWarning:torch.optim.lr_scheduler")
@pytest.mark.parametrize("kind", sampled(SCHEDULES))
def test_a_schedule_goes_on_bit_for_bit(kind: str, tmp_path: pathlib.Path) -> None:
    goes_on(tmp_path, "SGD with momentum", SCHEDULES[kind])


def test_every_schedule_of_torch_is_among_them() -> None:
    found = {
        name
        for name, cls in vars(lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, lr_scheduler.LRScheduler)
    }
    assert found - {*SCHEDULES} <= {"LRScheduler", "_LRScheduler"}


def test_a_generator_goes_on_by_its_state(tmp_path: pathlib.Path) -> None:
    source = torch.Generator().manual_seed(3)
    torch.rand(5, generator=source)
    loaded = assert_exact(tmp_path, {"data": source.get_state()})
    other = torch.Generator()
    other.set_state(loaded["data"])
    assert torch.equal(torch.rand(9, generator=source), torch.rand(9, generator=other))


# --- `like` and devices ------------------------------------------------------------------------


def test_a_model_on_meta_is_a_template(tmp_path: pathlib.Path) -> None:
    state = Net(0).state_dict()
    ckptstore.save(tmp_path / "c", {"model": state, "n": 1})
    with torch.device("meta"):
        like = {"model": Net(0).state_dict(), "n": 0}
    assert differences({"model": state, "n": 1}, ckptstore.load(tmp_path / "c", like=like)) == []
    like["model"]["first.bias"] = torch.empty(9, device="meta")
    like["model"]["last.weight"] = like["model"]["last.weight"].bfloat16()
    like["n"] = torch.ones(1)
    with pytest.raises(ckptstore.StructureError) as caught:
        ckptstore.load(tmp_path / "c", like=like)
    text = str(caught.value)
    assert "3 difference(s)" in text
    assert "$['model']['first.bias']: shape [8] in the checkpoint, [9] in `like`" in text
    assert "$['model']['last.weight']: float32 in the checkpoint, bfloat16 in `like`" in text
    assert "$['n']: int in the checkpoint, torch.Tensor float32[1] in `like`" in text


def test_a_cast_is_made_where_it_is_asked_for(tmp_path: pathlib.Path) -> None:
    x, four = torch.randn(100), tensor(torch.uint4, 2)
    ckptstore.save(tmp_path / "c", [x, four])
    for dtype in (torch.bfloat16, torch.float64, torch.float8_e5m2):
        like = [torch.empty(100, dtype=dtype), four]
        assert differences(x.to(dtype), ckptstore.load(tmp_path / "c", like, cast=True)[0]) == []
    for dtype in (torch.int4, torch.uint8, torch.float32):
        like = [x, torch.empty(2, dtype=dtype, device="meta")]
        with pytest.raises(ckptstore.StructureError, match=r"\$\[1\]: .* no cast converts"):
            ckptstore.load(tmp_path / "c", like, cast=True)


def test_like_may_hold_gradients_and_graphs(tmp_path: pathlib.Path) -> None:
    model = Net(0)
    ckptstore.save(tmp_path / "c", dict(model.named_parameters()))
    like = dict(with_gradient().named_parameters())
    assert differences(dict(model.named_parameters()), ckptstore.load(tmp_path / "c", like)) == []


def test_class_and_requires_grad_are_the_checkpoint_s(tmp_path: pathlib.Path) -> None:
    ckptstore.save(tmp_path / "c", [torch.ones(2, requires_grad=True)])
    assert ckptstore.load(tmp_path / "c", like=[torch.ones(2)])[0].requires_grad
    with pytest.raises(
        ckptstore.StructureError, match=r"torch\.nn\.parameter\.Parameter float32\[2\] in `like`"
    ):
        ckptstore.load(tmp_path / "c", like=[nn.Parameter(torch.ones(2))])
    for other in (np.ones(2, "f4"), jnp.ones(2)):
        with pytest.raises(ckptstore.StructureError, match=r"\$\[0\]: torch\.Tensor float32\[2\]"):
            ckptstore.load(tmp_path / "c", like=[other])
    as_numpy = ckptstore.load(tmp_path / "c", like=[np.ones(2, "f4")], arrays="numpy")
    assert type(as_numpy[0]) is np.ndarray


def row(name: str = "torch.Tensor", **extra: Any) -> TypeRow:
    module, _, last = name.rpartition(".")
    return TypeRow(TypeKind.ARRAY, module, last, extra=extra)


@pytest.mark.parametrize(
    "device", ["cuda:63", "mps:63", "cuda", "meta", "xla:0", "", "é:²", "cuda:"]
)
def test_a_device_that_is_not_here_gives_the_cpu(device: str) -> None:
    made = ADAPTER.array(np.ones(2), row(device=device), None)
    assert made.device == torch.device("cpu")
    assert made.tolist() == [1, 1]


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator on this machine")
def test_a_tensor_returns_to_its_device(tmp_path: pathlib.Path) -> None:
    device = torch.device(torch.accelerator.current_accelerator().type, 0)  # type: ignore[union-attr]
    x = torch.randn(1 << 20, device=device)
    tree = [x, x[::3], nn.Parameter(x[:5].clone()), x.bfloat16(), {"rng": torch.get_rng_state()}]
    loaded = assert_exact(tmp_path, tree)
    assert loaded[0].device == device
    on_cpu = ckptstore.load(tmp_path / "c0", like=[y.cpu() for y in tree[:4]] + tree[4:])
    assert {y.device.type for y in on_cpu[:4]} == {"cpu"}


def test_a_place_in_like_wins(tmp_path: pathlib.Path) -> None:
    made = ADAPTER.array(np.ones(2), row(device="cuda:0"), torch.device("cpu"))
    assert made.device == torch.device("cpu")
    assert ADAPTER.place(torch.ones(1)) == torch.device("cpu")
    assert ADAPTER.place(torch.empty(1, device="meta")) is None


# --- Files of a stranger -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [row("torch.Storage"), row("torch.nn.parameter.Buffer"), row(requires_grad=1), row(device=0),
     row(persistent="no")],
)  # fmt: skip
def test_a_row_that_torch_never_wrote_makes_no_tensor(bad: TypeRow) -> None:
    with pytest.raises(KeyError):
        ADAPTER.array(np.ones(2), bad, None)


@pytest.mark.parametrize("dtype", [">f4", "U2", "M8[s]", "V3", "i4,i4", "g", "O"])
def test_a_dtype_that_torch_lacks_is_said(dtype: str) -> None:
    with pytest.raises(ckptstore.UnsupportedError, match="no dtype for"):
        ADAPTER.array(np.zeros(2, dtype), row(), None)


def test_integers_that_require_a_gradient_are_an_error() -> None:
    for name in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        with pytest.raises(ckptstore.UnsupportedError, match="requires_grad=True"):
            ADAPTER.array(np.ones(2, np.int32), row(name, requires_grad=True), None)


def test_a_file_cannot_make_sizes_and_devices_of_something_else() -> None:
    for cls, values in ((torch.Size, ["ab"]), (torch.Size, [(1, "a")]), (torch.device, [1])):
        record = ADAPTER.record(cls)
        assert record is not None
        with pytest.raises(TypeError):
            record.make(values)
    with pytest.raises(RuntimeError):
        ADAPTER.record(torch.device).make(["no such device"])  # type: ignore[union-attr]
    for name in ("torch.load", "torch.float33", "torch", "torch.serialization.load"):
        with pytest.raises(KeyError):
            ADAPTER.symbol_named(name)


# --- Without torch, and beside jax -------------------------------------------------------------


def test_torch_jax_and_numpy_live_in_one_tree(tmp_path: pathlib.Path) -> None:
    tree = {
        "torch": [torch.ones(2), torch.float32, torch.arange(3)],
        "jax": [jnp.ones(2), jnp.float32, jax.random.key(0)],
        "numpy": [np.ones(2), np.float32, np.arange(3)],
    }
    assert_exact(tmp_path, tree)
    loaded = ckptstore.load(tmp_path / "c0", arrays="numpy")
    assert {type(x[0]) for x in loaded.values()} == {np.ndarray}


BLOCKED = """
    import sys

    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("jax", "jaxlib", "torch", "optax", "flax"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Block())
    import numpy as np
    import ckptstore

    for kind in ("torch", "jax"):
        url = f"{sys.argv[1]}/{kind}"
        assert ckptstore.verify(url) == []
        found = ckptstore.inspect(url)
        assert found.leaves[0].type == {"torch": "torch.Tensor", "jax": "jax.Array"}[kind]
        assert str(found) and found.types
        try:
            ckptstore.load(url)
        except ckptstore.UnknownTypeError as error:
            lines = str(error).splitlines()
            assert "not installed here: pip install" in lines[-1], error
            assert len(set(lines)) == len(lines), error
            assert 'arrays="numpy"' in str(error), error
        else:
            raise AssertionError(f"{kind} is not here")
        tree = ckptstore.load(url, arrays="numpy")
        assert type(tree["w"]) is np.ndarray and tree["w"].dtype.name == "bfloat16", tree["w"]
        assert ckptstore.load(url, select="$.w", arrays="numpy").tolist() == [1.5, 1.5]
        if kind == "jax":
            assert type(tree["opt"][0]).__name__ == "ScaleByAdamState"
            assert tree["state"].params.mapping["a"].tolist() == [1.0], tree["state"]
            continue
        assert tree["model"]._metadata["norm"] == {"version": 2}
        assert tree["model"]["first.weight"].shape == (8, 6)
        assert tree["optimizer"]["param_groups"][0]["params"] == [0, 1, 2, 3, 4]
        assert tree["optimizer"]["state"][0]["exp_avg"].dtype == np.float32
        assert tree["tied"][0] is tree["tied"][1]
        assert tree["size"].dims == (2, 3) and tree["device"].name == "cuda:1"
        assert tree["dtype"].name == "torch.bfloat16"
        assert tree["complex32"].dtype.name == "complex32"
        packed = tree["packed"]["float4_e2m1fn_x2"]
        assert packed.dtype == np.uint8 and packed.tolist() == [18, 52]
    assert not {"jax", "torch", "optax", "flax"} & set(sys.modules)
    print("sound")
"""


def test_checkpoints_of_torch_and_jax_load_as_numpy_where_neither_is_installed(
    tmp_path: pathlib.Path,
) -> None:
    from flax.core import freeze
    from flax.training.train_state import TrainState

    model = Net(0)
    adam = torch.optim.Adam(model.parameters())
    train(model, adam, None, 1)
    ckptstore.save(
        tmp_path / "torch",
        {
            "w": torch.full((2,), 1.5, dtype=torch.bfloat16),
            "model": model.state_dict(),
            "optimizer": adam.state_dict(),
            "tied": list(Tied().state_dict().values()),
            "size": torch.Size([2, 3]),
            "device": torch.device("cuda:1"),
            "dtype": torch.bfloat16,
            "complex32": torch.ones(2, dtype=torch.complex32),
            "packed": torch.tensor([18, 52], dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        },
    )
    params = {"w": jnp.full(2, 1.5, jnp.bfloat16)}
    flax = TrainState.create(apply_fn=len, params=freeze({"a": jnp.ones(1)}), tx=optax.adam(1e-3))
    ckptstore.save(
        tmp_path / "jax", {**params, "opt": optax.adam(1e-3).init(params), "state": flax}
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BLOCKED), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "sound\n"), done.stderr
