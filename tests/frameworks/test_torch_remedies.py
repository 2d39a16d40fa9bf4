"""What the refusals of PyTorch's objects tell you to do, done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import ckptstore
from ckptstore import StructureError, UnsupportedError
from ckptstore.types import registry
from tests.support.compare import assert_exact, differences, roundtrip

follows = pytest.mark.follows


@pytest.fixture(autouse=True)
def experimental() -> Iterator[None]:
    """Let torch say once what is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class Sub(torch.Tensor):
    pass


def refused(place: Path, tree: Any) -> str:
    with pytest.raises(StructureError) as caught:
        ckptstore.save(place / "refused", tree)
    return str(caught.value)


def trained() -> nn.Linear:
    model = nn.Linear(3, 2)
    model(torch.ones(2, 3)).sum().backward()
    return model


def follow(tmp_path: Path, x: Any, remedy: Callable[[Any], Any] | str) -> Any:
    """See that save refuses `x`, and takes what the remedy makes of it; return what was loaded."""
    words = refused(tmp_path, {"x": x})
    if isinstance(remedy, str):
        assert remedy in words
        expression = remedy.removeprefix("the list ")
        return assert_exact(tmp_path, eval(expression, {"x": x, "torch": torch}))
    return assert_exact(tmp_path, remedy(x))


@follows("adapters.torch_refusals", "save x.detach(), or x.item()")
def test_a_tensor_with_a_graph(tmp_path: Path) -> None:
    loss = nn.Linear(3, 2)(torch.ones(3)).sum()
    follow(tmp_path, loss, "x.detach()")
    assert follow(tmp_path, loss, "x.item()") == loss.item()


@follows(
    "adapters.torch_refusals",
    "save x.detach() (as state_dict() does) and, if you need it, x.grad beside it, or clear it by "
    "x.grad = None",
)
def test_a_parameter_with_a_gradient(tmp_path: Path) -> None:
    model = trained()
    refused(tmp_path, dict(model.named_parameters()))
    assert_exact(tmp_path, model.state_dict())
    x = model.weight
    assert_exact(tmp_path, [x.detach(), x.grad])
    x.grad = None
    assert_exact(tmp_path, [x])


@follows("adapters.torch_refusals", "save x.detach()")
def test_a_tensor_with_hooks(tmp_path: Path) -> None:
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda grad: None)
    follow(tmp_path, x, "x.detach()")


@follows("adapters.torch_refusals", "save x.rename(None)")
def test_a_tensor_with_named_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch had them until 2.12. Where they are gone, a tensor stands in that says it has some."""
    if hasattr(torch.Tensor, "rename"):
        follow(tmp_path, torch.ones(2, 3, names=("a", "b")), "x.rename(None)")
        return
    x = torch.ones(2, 3)
    monkeypatch.setattr(torch.Tensor, "names", ("a", "b"), raising=False)
    refused(tmp_path, x)
    monkeypatch.setattr(torch.Tensor, "names", (None, None), raising=False)
    assert_exact(tmp_path, x)


@follows("adapters.torch_refusals", "save x.detach(), or delete the attribute")
def test_a_tensor_with_an_attribute(tmp_path: Path) -> None:
    x: Any = torch.ones(2)
    x.is_sharded = True
    follow(tmp_path, x, "x.detach()")
    del x.is_sharded
    assert_exact(tmp_path, x)


@follows(
    "adapters.torch_refusals",
    "make it on a device, or leave it out (as a placeholder it belongs in `like`)",
)
def test_a_tensor_without_values(tmp_path: Path) -> None:
    x = torch.empty(2, device="meta")
    made = torch.zeros_like(x, device="cpu")
    follow(tmp_path, x, lambda x: made)
    assert_exact(tmp_path, {})
    loaded = roundtrip(tmp_path, {"x": made}, like={"x": x})
    assert differences({"x": made}, loaded) == []


@follows("adapters.torch", "save outside of it, and before the storage is freed")
def test_a_tensor_without_memory(tmp_path: Path) -> None:
    x = torch.ones(3, 2)

    def save(row: torch.Tensor) -> torch.Tensor:
        refused(tmp_path, row)
        return row.sum()

    torch.vmap(save)(x)
    assert_exact(tmp_path, x)
    assert_exact(tmp_path, torch.vmap(lambda row: row.sum())(x))
    before, after = torch.ones(3, 2), torch.ones(3, 2)
    assert_exact(tmp_path, before)
    after.untyped_storage().resize_(0)
    refused(tmp_path, after)


def _of_csr(parts: Any, make: Any) -> torch.Tensor:
    *indices, values, shape = parts
    made: torch.Tensor = make(*indices, values, shape)
    return made


SPARSE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Any]] = {
    "coo": (
        lambda x: x.to_sparse(),
        lambda indices, values, shape: torch.sparse_coo_tensor(indices, values, shape),
    ),
    "csr": (lambda x: x.to_sparse_csr(), torch.sparse_csr_tensor),
    "csc": (lambda x: x.to_sparse_csc(), torch.sparse_csc_tensor),
    "bsr": (lambda x: x.to_sparse_bsr((1, 1)), torch.sparse_bsr_tensor),
    "bsc": (lambda x: x.to_sparse_bsc((1, 1)), torch.sparse_bsc_tensor),
}


@follows("adapters.torch_refusals", "save {}")
@pytest.mark.parametrize("layout", SPARSE)
def test_a_sparse_tensor(layout: str, tmp_path: Path) -> None:
    make, build = SPARSE[layout]
    dense = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 5.0]])
    x = make(dense)
    named = refused(tmp_path, x).partition("; save ")[2].partition(", or ")
    parts = named[0].replace(" and ", ", ").replace("(), .values()", "(), x.coalesce().values()")
    loaded = assert_exact(tmp_path, eval(f"({parts},)", {"x": x}))
    again = build(*loaded)
    assert again.layout == x.layout and torch.equal(again.to_dense(), dense)
    if named[2]:
        assert torch.equal(assert_exact(tmp_path, eval(named[2], {"x": x})), dense)


@follows("adapters.torch_refusals", "save {}")
def test_a_tensor_of_mkldnn(tmp_path: Path) -> None:
    follow(tmp_path, torch.eye(2).to_mkldnn(), "x.to_dense()")


@follows("adapters.torch_refusals", "save the list x.unbind()")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_a_nested_tensor(layout: torch.layout, tmp_path: Path) -> None:
    x = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=layout)
    parts = follow(tmp_path, x, lambda x: list(x.unbind()))
    again = torch.nested.nested_tensor(parts, layout=layout)
    assert all(map(torch.equal, again.unbind(), x.unbind()))


@follows(
    "adapters.torch_refusals",
    "save x.int_repr() with its scales and zero points, or x.dequantize()",
)
def test_a_quantized_tensor(tmp_path: Path) -> None:
    values = torch.tensor([0.5, -1.0, 2.0])
    x = torch.quantize_per_tensor(values, 0.1, 3, torch.qint8)
    parts = follow(tmp_path, x, lambda x: (x.int_repr(), x.q_scale(), x.q_zero_point()))
    again = torch._make_per_tensor_quantized_tensor(*parts)
    assert torch.equal(again.dequantize(), x.dequantize())
    follow(tmp_path, x, "x.dequantize()")
    scales, zeros = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2])
    x = torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8)
    parts = follow(
        tmp_path,
        x,
        lambda x: (x.int_repr(), x.q_per_channel_scales(), x.q_per_channel_zero_points(), 0),
    )
    again = torch._make_per_channel_quantized_tensor(*parts)
    assert torch.equal(again.dequantize(), x.dequantize())


@follows("adapters.torch_elements", "view the tensor as integers")
@pytest.mark.parametrize("name", ["qint8", "quint8", "qint32"])
def test_a_dtype_that_the_format_lacks(name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, name)
    x = torch.arange(8, dtype=torch.uint8).view(dtype)
    integers = {1: torch.uint8, 4: torch.int32}[dtype.itemsize]
    loaded = follow(tmp_path, x, lambda x: x.view(integers))
    assert loaded.view(dtype).dtype == dtype


@follows("adapters.torch_refusals", "run the module once, so that it gets its shape")
def test_a_lazy_parameter(tmp_path: Path) -> None:
    module = nn.LazyLinear(2)
    refused(tmp_path, module.state_dict())
    module(torch.ones(1, 3))
    assert_exact(tmp_path, module.state_dict())


@follows("adapters.torch_refusals", "save x.as_subclass(torch.Tensor), or use ckptstore.register")
def test_a_subclass_of_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_BY_CLASS", "_BY_NAME"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    x = torch.ones(2).as_subclass(Sub)
    follow(tmp_path, x, "x.as_subclass(torch.Tensor)")
    ckptstore.register(
        Sub,
        flatten=lambda x: ((x.as_subclass(torch.Tensor),), None),
        unflatten=lambda _, children: children[0].as_subclass(Sub),
    )
    assert_exact(tmp_path, x)


@follows("adapters.torch", "save x.state_dict(), and restore it by x.load_state_dict(loaded)")
def test_objects_with_a_state_dict(tmp_path: Path) -> None:
    def made() -> list[Any]:
        torch.manual_seed(0)
        model = trained()
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.step()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return [model, optimizer, scheduler, torch.amp.GradScaler("cpu")]

    fresh = made()
    for x, other in zip(made(), fresh, strict=True):
        refused(tmp_path, x)
        loaded = assert_exact(tmp_path, x.state_dict())
        other.load_state_dict(loaded)
        assert differences(x.state_dict(), other.state_dict()) == []


@follows("adapters.torch_elements", 'load with arrays="numpy", or with a newer torch')
def test_a_dtype_that_torch_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch without bfloat16 stands for an old one."""
    from ckptstore.adapters import torch_elements

    x, real = torch.ones(2, dtype=torch.bfloat16), torch_elements.torch_dtypes()
    ckptstore.save(tmp_path / "c", x)
    old = {dtype: value for dtype, value in real.items() if value != torch.bfloat16}
    monkeypatch.setattr(torch_elements, "torch_dtypes", lambda: old)
    with pytest.raises(UnsupportedError):
        ckptstore.load(tmp_path / "c")
    host = ckptstore.load(tmp_path / "c", arrays="numpy")
    assert differences(np.ones(2, ml_dtypes.bfloat16), host) == []
    monkeypatch.undo()
    assert differences(x, ckptstore.load(tmp_path / "c")) == []


@follows("adapters.torch", 'load with arrays="numpy"')
def test_a_tensor_that_torch_cannot_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptstore.adapters import torch as adapter

    def fail(name: str) -> Any:
        raise RuntimeError("no memory on the device")

    ckptstore.save(tmp_path / "c", torch.ones(2))
    monkeypatch.setattr(adapter, "_device", fail)
    with pytest.raises(UnsupportedError):
        ckptstore.load(tmp_path / "c")
    assert differences(np.ones(2, "f4"), ckptstore.load(tmp_path / "c", arrays="numpy")) == []
