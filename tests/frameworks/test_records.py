"""A save that returned loads, whatever somebody put into a field of a class that we know."""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import decimal
import fractions
import functools
import ipaddress
import pathlib
import random
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import equinox
import flax
import haiku
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import omegaconf
import pytest
import torch
from flax import nnx

import ckptstore
from ckptstore.tree import flatten
from ckptstore.types import find_adapter, find_registration
from ckptstore.types.registry import ADAPTERS
from tests.support.compare import differences


class Int(int):
    pass


class Str(str):
    pass


class Tuple(tuple):
    __slots__ = ()


class Dict(dict):
    pass


ODD = (
    *(None, True, 3, -1, 0, 1 << 70, 1.5, float("nan"), 1j, "a", "", "\udc80", "meta", b"x", ...),
    *((), (1,), ("a",), (None,), [1], [], {}, {1: 2}, {"a": 1}, {None: 1}, {"ref": 3}, {"keys": 1}),
    *({1}, frozenset({"a"}), bytearray(b"a"), range(2), slice(1), datetime.timedelta(1)),
    *(datetime.UTC, datetime.date(2020, 1, 1), pathlib.PurePosixPath("a")),
    *(np.int64(3), np.float64(1), np.bool_(True), np.str_("a")),
    *(np.ones(2), np.ones(()), np.ones(2, bool)),
    *(np.dtype("f4"), np.float32, int, max, functools.partial(int, 1), jax.tree_util.Partial(max)),
    *(Int(3), Str("a"), Tuple((1,)), Dict(a=1), Dict({1: 2})),
    *({Str("a"): 1}, (Int(3),), (np.int64(3),)),
    *(collections.OrderedDict(a=1), collections.Counter("a"), collections.deque([1, 2])),
    *(jnp.ones(2), jax.random.key(0), jax.sharding.PartitionSpec("a")),
    *(torch.Size([2]), torch.ones(2)),
    *(flax.core.FrozenDict(a=1), argparse.Namespace(a=1), object()),
)  # fmt: skip


def attribute(make: Callable[[], Any], name: str) -> Callable[[Any], Any]:
    def put(value: Any) -> Any:
        x = make()
        object.__setattr__(x, name, value)
        return x

    return put


def entry(make: Callable[[], Any], key: Any = "a") -> Callable[[Any], Any]:
    """Put a value under a key into the dict of an object, and also a key that is the value."""

    def put(value: Any) -> Any:
        x = make()
        vars(x)[key] = value
        return x

    return put


def named(make: Callable[[], Any]) -> Callable[[Any], Any]:
    def put(value: Any) -> Any:
        x = make()
        vars(x)[value] = 1
        return x

    return put


def state(make: Callable[[], Any], place: int) -> Callable[[Any], Any]:
    def put(value: Any) -> Any:
        x = make()
        parts = [x.func, x.args, x.keywords, None]
        parts[place] = value
        x.__setstate__(tuple(parts))
        return x

    return put


def partial() -> Any:
    return functools.partial(int, "1", base=2)


def jax_partial() -> Any:
    return jax.tree_util.Partial(jnp.add, 1, x2=2)


def keyword(make: Callable[[], Any]) -> Callable[[Any], Any]:
    def put(value: Any) -> Any:
        x = make()
        x.keywords[value] = 1
        return x

    return put


def masked() -> Any:
    return np.ma.array([1, 2], mask=[0, 1])


def struct() -> Any:
    return jax.ShapeDtypeStruct((2,), "float32")


def flat() -> Any:
    return nnx.to_flat_state(nnx.State({"a": nnx.Param(jnp.ones(2))}))


def by_parts(cls: Any, *parts: Any) -> Iterator[Callable[[Any], Any]]:
    """Yield, for each argument of a class, the function that passes another value for it."""
    for i in range(len(parts)):
        yield lambda value, i=i: cls(*parts[:i], value, *parts[i + 1 :])


SPEC = jax.sharding.PartitionSpec
MOMENT = (2020, 1, 2, 3, 4, 5, 6, datetime.UTC)

# Everything by which a value gets into an object, by the stored name of its class.
WAYS: dict[str, list[Callable[[Any], Any]]] = {
    "functools.partial": [*(state(partial, i) for i in range(3)), keyword(partial)],
    "collections.Counter": [
        lambda v: collections.Counter({"a": v}),
        lambda v: collections.Counter({v: 1}),
    ],
    "collections.OrderedDict with attributes": [
        entry(lambda: collections.OrderedDict(a=1)),
        entry(lambda: collections.OrderedDict(a=1), "keys"),
        named(lambda: collections.OrderedDict(a=1)),
    ],
    "collections.deque": [lambda v: collections.deque([v]), lambda v: collections.deque([1], v)],
    "pathlib.PosixPath": [pathlib.PosixPath, lambda v: pathlib.PosixPath("a", v)],
    "pathlib.PurePosixPath": [pathlib.PurePosixPath, lambda v: pathlib.PurePosixPath("/", v)],
    "argparse.Namespace": [entry(argparse.Namespace), named(argparse.Namespace)],
    "types.SimpleNamespace": [entry(types.SimpleNamespace), named(types.SimpleNamespace)],
    "datetime.date": [*by_parts(datetime.date, 2020, 1, 2)],
    "datetime.timedelta": [*by_parts(datetime.timedelta, 1, 2, 3)],
    "datetime.datetime": [
        *by_parts(datetime.datetime, *MOMENT),
        lambda v: datetime.datetime(2020, 1, 1, fold=v),
    ],
    "datetime.timezone": [*by_parts(datetime.timezone, datetime.timedelta(hours=1), "a")],
    "numpy.ma.MaskedArray": [
        *(attribute(masked, name) for name in ("_mask", "_fill_value", "_hardmask", "mask", "own")),
        lambda v: np.ma.array(v, mask=False),
        lambda v: np.ma.array([1, 2], fill_value=v),
    ],
    "jax.tree_util.Partial": [*(state(jax_partial, i) for i in range(3)), keyword(jax_partial)],
    "jax.sharding.PartitionSpec": [
        SPEC, lambda v: SPEC("a", v), lambda v: SPEC(("a", v)),
        lambda v: SPEC("a", unreduced=v), lambda v: SPEC("a", reduced={v}),
    ],
    "jax.ShapeDtypeStruct": [
        lambda v: jax.ShapeDtypeStruct(v, "float32"),
        lambda v: jax.ShapeDtypeStruct((v,), "float32"),
        lambda v: jax.ShapeDtypeStruct((2,), v),
        lambda v: jax.ShapeDtypeStruct((2,), "f4", weak_type=v),
        *(attribute(struct, name) for name in ("shape", "dtype", "weak_type", "sharding")),
    ],
    "flax.core.frozen_dict.FrozenDict": [
        lambda v: flax.core.FrozenDict({"a": v}), lambda v: flax.core.FrozenDict({v: 1}),
        attribute(lambda: flax.core.FrozenDict(a=1), "_dict"),
    ],
    "flax.nnx.statelib.State": [
        lambda v: nnx.State({"a": v}), lambda v: nnx.State({v: 1}),
        entry(lambda: nnx.State({"a": 1}), "_mapping"), entry(lambda: nnx.State({"a": 1}), "own"),
    ],
    "flax.nnx.statelib.FlatState": [attribute(flat, "_keys"), attribute(flat, "_values")],
    "flax.nnx.variablelib.Param": [
        lambda v: nnx.Param._new(v, {}), lambda v: nnx.Param._new(1, v),
        lambda v: nnx.Param._new(1, {v: 1}), lambda v: nnx.Param._new(1, {"ref": v}),
        lambda v: nnx.Param._new(1, {"a": v}),
    ],
    "haiku._src.data_structures.FlatMap": [
        lambda v: haiku.data_structures.to_immutable_dict({"a": v}),
        lambda v: haiku.data_structures.to_immutable_dict({v: 1}),
        attribute(lambda: haiku.data_structures.to_immutable_dict({"a": 1}), "_mapping"),
    ],
    "haiku._src.base.PRNGSequence": [
        attribute(lambda: haiku.PRNGSequence(0), "_key"),
        attribute(lambda: haiku.PRNGSequence(0), "_subkeys"),
    ],
    "equinox.nn._stateful.State": [
        attribute(lambda: object.__new__(equinox.nn.State), "_state"),
    ],
    "equinox.nn._shared.SharedNode": [attribute(equinox.nn._shared.SharedNode, "own")],
    "torch.Size": [torch.Size, lambda v: torch.Size((v,))],
    "torch.device": [torch.device, lambda v: torch.device("cpu", v)],
    "range": [range, *by_parts(range, 1, 5, 2)],
    "slice": [slice, *by_parts(slice, 1, 5, 2)],
    "dict": [lambda v: {"a": v}, lambda v: {v: 1}, lambda v: {(1, v): 1}],
    "defaultdict": [lambda v: collections.defaultdict(v)],
    "set": [lambda v: {v}, lambda v: frozenset({(v, 1)})],
    "builtins.dict with objects as keys": [
        lambda v: {np.int64(1): v}, lambda v: {np.int64(1): 1, v: 2},
        lambda v: {(np.int64(1), v): 1},
    ],
    "builtins.set of objects": [lambda v: {np.int64(1), v}],
    "builtins.frozenset of objects": [lambda v: frozenset({np.int64(1), v})],
    "datetime.time": [*by_parts(datetime.time, 1, 2, 3, 4)],
    "decimal.Decimal": [decimal.Decimal],
    "fractions.Fraction": [fractions.Fraction, *by_parts(fractions.Fraction, 1, 2)],
    **{
        f"ipaddress.{cls.__name__}": [
            cls,
            *(attribute(lambda cls=cls, a=a: cls(a), name) for name in ("_ip", "own")),
        ]
        for cls, a in (
            (ipaddress.IPv4Address, "1.2.3.4"), (ipaddress.IPv6Address, "::1"),
            (ipaddress.IPv4Interface, "1.2.3.4/8"), (ipaddress.IPv6Interface, "::1/8"),
            (ipaddress.IPv4Network, "1.0.0.0/8"), (ipaddress.IPv6Network, "100::/8"),
        )
    },
    "uuid.UUID": [lambda v: uuid.UUID(int=v), attribute(lambda: uuid.UUID(int=1), "int")],
    "zoneinfo.ZoneInfo": [zoneinfo.ZoneInfo, lambda v: [zoneinfo.ZoneInfo("UTC"), v]],
    "random.Random": [
        random.Random, attribute(lambda: random.Random(1), "gauss_next"),
        entry(lambda: random.Random(1), "own"),
    ],
    "random.SystemRandom": [lambda v: [random.Random(1), v], lambda v: random.SystemRandom()],
    "torch.Generator": [torch.Generator, lambda v: torch.Generator().manual_seed(v)],
    "ml_collections.config_dict.config_dict.ConfigDict": [
        lambda v: ml_collections.ConfigDict({"a": v}), lambda v: ml_collections.ConfigDict({v: 1}),
    ],
    "ml_collections.config_dict.config_dict.FrozenConfigDict": [
        lambda v: ml_collections.FrozenConfigDict({"a": v}),
    ],
    "ml_collections.config_dict.config_dict.FieldReference": [
        lambda v: ml_collections.FieldReference(v),
        lambda v: ml_collections.FieldReference(None, field_type=v),
    ],
    "omegaconf.dictconfig.DictConfig": [
        lambda v: omegaconf.OmegaConf.create({"a": v}),
        lambda v: omegaconf.OmegaConf.create({v: 1}),
    ],
    "omegaconf.listconfig.ListConfig": [lambda v: omegaconf.OmegaConf.create([v])],
}  # fmt: skip


def test_every_class_that_has_a_record_is_here() -> None:
    adapters = {id(a): a for a in map(find_adapter, ADAPTERS) if a is not None}
    names = {str(record.row) for a in adapters.values() for record in a.records.values()}
    assert names <= set(WAYS)


@pytest.mark.parametrize("name", WAYS)
def test_an_odd_value_in_a_field_is_refused_at_save_or_comes_back(name: str, tmp_path: Any) -> None:
    taken = []
    for put in WAYS[name]:
        for odd in ODD:
            try:
                x = put(copy.copy(odd))
            except Exception:  # the class takes no such value
                continue
            try:
                flatten([x])
            except ckptstore.StructureError as error:
                assert error.reason == "cannot-carry" and "$[0]" in str(error)
                continue
            taken.append(x)
    assert taken
    ckptstore.save(tmp_path / "c", taken)
    found = ckptstore.load(tmp_path / "c")
    for x, y in zip(taken, found, strict=True):
        assert differences(parts(x), parts(y)) == [], (x, y)


def parts(x: Any) -> Any:
    """Return the fields of an object, as its adapter reads them."""
    if find_registration(type(x)) is not None:  # by another test; it comes first
        return [str(x)]
    adapter = find_adapter(type(x).__module__)
    record = adapter.record(type(x)) if adapter is not None else None
    if record is None or (type(x) is collections.OrderedDict and not vars(x)):
        return [x]
    return [type(x), *record.take(x)]


def test_what_the_error_says_helps(tmp_path: Any) -> None:
    x = jax.ShapeDtypeStruct((np.int64(3),), "float32")
    with pytest.raises(
        ckptstore.StructureError,
        match=r"its shape is a tuple with a int64, expected a tuple of ints; .* make a new one",
    ):
        ckptstore.save(tmp_path / "a", x)
    ckptstore.save(tmp_path / "b", jax.ShapeDtypeStruct(tuple(map(int, x.shape)), x.dtype))
    assert ckptstore.load(tmp_path / "b") == x
