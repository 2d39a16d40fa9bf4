"""Make the golden states of the Optax release that this runs in.

The states are frozen: what is there is never made again. README.md beside this file says which
environments made them. Each release gets a directory with

- ``states``: one checkpoint of ``{case: state}``, each state after two real updates;
- ``retired``: one of states of classes that later releases do not have, where there are any;
- ``expected.msgpack.zlib``: what the states are, class by class, field by field and bit by bit,
  written without ckptstore. `describe` says how.

With ``--pickles DIR`` it writes a pickle of each state there instead, for `count_pickles.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import inspect
import math
import pathlib
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np

if importlib.metadata.version("optax") < "0.1.5":  # they need the names of an older jax
    jax.numpy.DeviceArray = jax.Array
    for _module in (jax, jax.tree_util):
        _module.tree_multimap = jax.tree_util.tree_map
    for _name in ("map", "leaves", "flatten", "unflatten", "structure"):
        setattr(jax, f"tree_{_name}", getattr(jax.tree_util, f"tree_{_name}"))

import optax

HERE = pathlib.Path(__file__).parent
STEPS = 2
BATCH = 2
LR = 0.05
BF16 = jnp.bfloat16


class NotHere(Exception):
    """This release of Optax has no such function, or the function no such argument."""


@dataclasses.dataclass(frozen=True)
class Case:
    """How one transformation is made, what it optimises, and what its update is given."""

    make: Callable[[], Any]
    params: Callable[[], Any]
    feed: str
    nan_at: int | None


CASES: dict[str, Case] = {}
"""By name: a function of Optax, then, after a slash, what is special about the case."""


def find(name: str) -> Any:
    """Return a function of Optax from where this release has it."""
    for scope in _scopes() if name.startswith("contrib.") else (optax,):
        found = getattr(scope, name.removeprefix("contrib."), None)
        if callable(found):
            return found
    raise NotHere(name)


@functools.cache
def _scopes() -> tuple[Any, ...]:
    """Return where contributed functions are, or were."""
    found = [getattr(optax, "contrib", None), optax]
    for name in ("contrib.mechanic", "experimental.complex_valued"):
        try:
            found.append(__import__(f"optax._src.{name}", fromlist=["*"]))
        except ImportError:
            found.append(None)
    return tuple(found)


def call(name: str, *args: Any, **options: Any) -> Any:
    """Make a transformation; a random one gets its seed or its key, whichever it takes."""
    make = find(name)
    takes = inspect.signature(make).parameters
    key = options.pop("random", None)
    if key is not None:
        options |= {"seed": key} if "seed" in takes else {"key": jax.random.key(key)}
    absent = options.keys() - takes
    if absent and "kwargs" not in takes:
        raise NotHere(f"{name}({', '.join(sorted(absent))}=)")
    return make(*args, **options)


def add(
    name: str,
    *args: Any,
    params: Any = None,
    feed: str = "plain",
    nan_at: Any = None,
    **options: Any,
) -> None:
    """Add a case that calls one function, of the name up to the slash."""
    make = functools.partial(call, name.partition("/")[0], *args, **options)
    define(name, make, params=params, feed=feed, nan_at=nan_at)


def define(
    name: str,
    make: Callable[[], Any],
    *,
    params: Any = None,
    feed: str = "plain",
    nan_at: int | None = None,
) -> None:
    """Add a case that a function of no arguments makes."""
    assert name not in CASES, name
    CASES[name] = Case(make, params or _params, feed, nan_at)


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    values = jnp.sin(1.0 + jnp.arange(math.prod(shape), dtype=jnp.float32)).reshape(shape)
    return values.astype(dtype)


def _params() -> Any:
    return {"w": _array(2, 3), "b": _array(3)}


def _complex() -> Any:
    return {"z": _array(3) + 1j * _array(3), "r": _array(3)}


def _ramp(step: Any) -> Any:
    return LR / (1.0 + step)


def _matrices(tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda x: x.ndim > 1, tree)


def adam() -> Any:
    """Make the inner optimizer of most wrappers."""
    return optax.adam(LR)


def momentum() -> Any:
    """Make another one."""
    return optax.sgd(LR, momentum=0.9)


_RATED = """
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars
    lion nadam nadamw novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop
    sgd sign_sgd signum yogi contrib.acprop contrib.ademamix contrib.adopt contrib.galore
    contrib.madgrad contrib.muon contrib.schedule_free_adamw contrib.schedule_free_sgd
    contrib.simplified_ademamix
"""
_BARE = """
    centralize identity keep_params_nonnegative normalize_by_update_norm scale_by_adadelta
    scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief
    scale_by_distance_over_gradients scale_by_factored_rms scale_by_lbfgs scale_by_lion
    scale_by_novograd scale_by_optimistic_gradient scale_by_param_block_norm
    scale_by_param_block_rms scale_by_radam scale_by_rms scale_by_rss scale_by_sign
    scale_by_sm3 scale_by_stddev scale_by_trust_ratio scale_by_yogi set_to_zero zero_nans
    additive_weight_decay contrib.cocob contrib.dadapt_adamw contrib.dog contrib.dowg
    contrib.normalize contrib.prodigy contrib.scale_by_acprop contrib.scale_by_ademamix
    contrib.scale_by_adopt contrib.scale_by_cocob contrib.scale_by_galore
    contrib.scale_by_simplified_ademamix
"""
_ONE_NUMBER = """
    adaptive_grad_clip add_decayed_weights clip clip_by_block_rms clip_by_global_norm ema scale
    scale_by_learning_rate scale_by_rprop sm3 trace contrib.scale_by_madgrad
"""
for _name in _RATED.split():
    add(_name, LR)
for _name in _BARE.split():
    add(_name)
for _name in _ONE_NUMBER.split():
    add(_name, 0.1)
for _name in ["adam", "amsgrad", "lion", "contrib.ademamix", "contrib.muon"]:
    add(f"{_name}/bf16_mu", LR, mu_dtype=BF16)
for _name in ["adamw", "adabelief", "radam", "contrib.adopt"]:
    add(f"{_name}/nesterov", LR, nesterov=True)
for _name in ["adam", "adamw", "sgd", "contrib.dowg"]:
    add(f"{_name}/schedule", _ramp)

define("contrib.scale_by_muon", lambda: _muon(), params=lambda: [_array(2, 3), _array(3, 2)])
add("adafactor/factored", LR, min_dim_size_to_factor=2)
add("adafactor/momentum", LR, momentum=0.9, dtype_momentum=BF16, weight_decay_rate=0.01)
add("adamw/mask", LR, mask={"w": True, "b": False})
add("add_decayed_weights/mask", 0.1, mask=_matrices)
add("add_noise", 0.01, 0.55, random=1)
add("apply_every", 2)
add("ema/bf16", 0.9, debias=False, accumulator_dtype=BF16)
add("lars/masks", LR, weight_decay_mask=_matrices, trust_ratio_mask=_matrices)
add("noisy_sgd", LR, random=2)
add("optimistic_adam", LR, optimism=0.1)
add("polyak_sgd", feed="value")
add("rmsprop/centered", LR, centered=True, momentum=0.9)
add("scale_by_factored_rms/factored", min_dim_size_to_factor=2)
add("scale_by_polyak", feed="value")
add("scale_by_rms/with_count", bias_correction=True)
add("scale_by_schedule", _ramp)
add("scale_by_stddev/with_count", bias_correction=True)
add("sgd/momentum_bf16", LR, momentum=0.9, nesterov=True, accumulator_dtype=BF16)
add("stateless", lambda updates, params: updates)
add("stateless_with_tree_map", lambda update, param: update)


def _muon() -> Any:
    flat = getattr(getattr(optax, "contrib", None), "MuonDimensionNumbers", None)
    return call(
        "contrib.scale_by_muon", **({"weight_dimension_numbers": [flat()] * 2} if flat else {})
    )


# Wrappers.
define("chain", lambda: optax.chain(optax.clip(1.0), optax.scale_by_adam(), optax.scale(-LR)))
define("chain/nested", lambda: optax.chain(optax.chain(adam()), optax.identity()))
define("flatten", lambda: optax.flatten(adam()))
define("freeze", lambda: call("freeze", {"w": True, "b": False}))
define("with_extra_args_support", lambda: call("with_extra_args_support", adam()))
define("selective_transform", lambda: call("selective_transform", adam(), freeze_mask=_matrices))
define("named_chain", lambda: call("named_chain", ("z", adam()), ("a", momentum())))
define("masked", lambda: optax.masked(adam(), {"w": True, "b": False}))
define("masked/function", lambda: optax.masked(optax.trace(0.9), _matrices))
define("maybe_update", lambda: call("maybe_update", adam(), lambda step: step % 2 == 0))
for _name in ("conditionally_mask", "conditionally_transform"):
    define(_name, lambda name=_name: call(name, adam(), lambda step: step % 2 == 0))
define("apply_if_finite", lambda: optax.apply_if_finite(adam(), 2), nan_at=1)
define("measure_with_ema", lambda: _monitor())
define("monitor", lambda: call("monitor", {"signs": call("scale_by_sign")}))
define("snapshot", lambda: call("snapshot", "now", lambda updates: updates))


def _monitor() -> Any:
    measured = call("measure_with_ema", lambda updates: optax.global_norm(updates), 0.9)
    return call("monitor", {"norm": measured})


def _groups() -> Any:
    return optax.multi_transform({"slow": momentum(), "fast": adam()}, {"w": "fast", "b": "slow"})


define("multi_transform", _groups)
define(
    "multi_transform/int",
    lambda: optax.multi_transform({7: adam(), -7: optax.set_to_zero()}, {"w": 7, "b": -7}),
)
define("partition", lambda: call("partition", {"a": adam(), "b": momentum()}, {"w": "a", "b": "b"}))
define("MultiSteps", lambda: optax.MultiSteps(adam(), 2))
define("MultiSteps/every_step", lambda: optax.MultiSteps(momentum(), 1))
define("MultiSteps/groups", lambda: optax.MultiSteps(_groups(), 2))
define("MultiSteps/schedule", lambda: optax.MultiSteps(adam(), lambda step: 1 + step))


def _skipping(name: str, **options: Any) -> Any:
    skip = functools.partial(find(name), **options)
    if "should_skip_update_fn" not in inspect.signature(optax.MultiSteps).parameters:
        raise NotHere("MultiSteps(should_skip_update_fn=)")
    return optax.MultiSteps(adam(), 2, should_skip_update_fn=skip)


define("MultiSteps/skip_not_finite", lambda: _skipping("skip_not_finite"), nan_at=1)
define("MultiSteps/skip_large", lambda: _skipping("skip_large_updates", max_squared_norm=1e3))


def _inject(make: Any, *args: Any, **options: Any) -> Any:
    return lambda: call("inject_hyperparams", make)(*args, **options)


define("inject_hyperparams", _inject(optax.adam, LR))
define("inject_hyperparams/schedule", _inject(optax.adamw, _ramp, b1=lambda step: 0.9 - step / 9))
define("inject_hyperparams/array", _inject(optax.sgd, jnp.float32(LR), momentum=0.9))
define(
    "inject_hyperparams/groups",
    lambda: optax.multi_transform(
        {"a": _inject(optax.adam, _ramp)(), "b": _inject(optax.sgd, LR)()}, {"w": "a", "b": "b"}
    ),
)
define(
    "inject_stateful_hyperparams",
    lambda: call("inject_stateful_hyperparams", optax.rmsprop)(_ramp),
)
define("lookahead", lambda: optax.lookahead(momentum(), 2, 0.5), feed="lookahead")
define("contrib.mechanize", lambda: call("contrib.mechanize", adam(), s_init=0.1))
define(
    "contrib.reduce_on_plateau",
    lambda: optax.chain(adam(), call("contrib.reduce_on_plateau", factor=0.5, patience=1)),
    feed="value",
)
define(
    "contrib.reduce_on_plateau/cooldown",
    lambda: call("contrib.reduce_on_plateau", factor=0.5, patience=0, cooldown=3),
    feed="rising",
)
define("contrib.momo", lambda: call("contrib.momo", LR), feed="value")
define("contrib.momo_adam", lambda: call("contrib.momo_adam", LR), feed="value")
define("contrib.sam", lambda: call("contrib.sam", adam(), momentum()))
define(
    "contrib.sam/no_reset",
    lambda: call("contrib.sam", momentum(), adam(), sync_period=3, reset_state=False),
)
define("contrib.schedule_free", lambda: call("contrib.schedule_free", adam(), LR))
define("contrib.sophia", lambda: call("contrib.sophia", LR), feed="function")
define(
    "contrib.hutchinson_estimator_diag_hessian",
    lambda: call("contrib.hutchinson_estimator_diag_hessian"),
    feed="function",
)
define("contrib.split_real_and_imaginary", lambda: call("contrib.split_real_and_imaginary", adam()))
define(
    "contrib.split_real_and_imaginary/complex",
    lambda: call("contrib.split_real_and_imaginary", momentum()),
    params=_complex,
)
_search = "scale_by_backtracking_linesearch"
define(_search, lambda: optax.chain(optax.sgd(1.0), call(_search, 4)), feed="search")
define(f"{_search}/grad", lambda: call(_search, 4, store_grad=True), feed="search")
define(
    "scale_by_zoom_linesearch",
    lambda: optax.chain(optax.sgd(1.0), call("scale_by_zoom_linesearch", 4)),
    feed="search",
)
define("lbfgs", lambda: call("lbfgs", memory_size=2), feed="search")
add("contrib.differentially_private_aggregate", 1.0, 0.1, feed="batch", random=3)
add("contrib.dpsgd", LR, 1.0, 0.1, feed="batch", random=4, momentum=0.9)
define(
    "chain/training",
    lambda: optax.MultiSteps(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            _inject(optax.adamw, _ramp)(),
            optax.masked(optax.add_decayed_weights(0.01), _matrices),
            optax.scale_by_trust_ratio(),
        ),
        1,
    ),
)


def _retired() -> dict[str, Any]:
    """Make states of classes that are gone, with no heir; no transformation holds them."""
    found: dict[str, Any] = {}
    old = getattr(optax._src.transform, "ScaleByFromageState", None)
    if old is not None:
        found["ScaleByFromageState"] = old(count=jnp.int32(3))
    search = getattr(optax._src, "linesearch", None)
    old = getattr(search, "BacktrackingSearchState", None)
    if old is not None:
        values = {name: jnp.float32(i) for i, name in enumerate(old._fields)}
        found["BacktrackingSearchState"] = old(**values)
    return found


def _loss(params: Any, i: Any) -> Any:
    total = jnp.zeros(())
    for k, leaf in enumerate(jax.tree_util.tree_leaves(params)):
        gap = leaf - jnp.cos(0.7 * jnp.arange(leaf.size).reshape(leaf.shape) + k + 0.3 * i)
        total += jnp.sum(jnp.real(gap * jnp.conj(gap)))
    return total


def _feed(kind: str, params: Any, i: int) -> tuple[Any, dict[str, Any]]:
    """Give the gradients and extra arguments of one step."""
    if kind == "lookahead":
        params = params.fast
    if kind == "batch":
        grads = [jax.grad(_loss)(params, BATCH * i + k) for k in range(BATCH)]
        return jax.tree_util.tree_map(lambda *g: jnp.stack(g), *grads), {}
    value, grads = jax.value_and_grad(_loss)(params, i)
    grads = jax.tree_util.tree_map(jnp.conj, grads)
    extra: dict[str, Any] = {}
    if kind == "value":
        extra = {"value": value, "loss": value}
    elif kind == "rising":
        extra = {"value": 1.0 + i * value, "loss": 1.0 + i * value}
    elif kind == "search":
        extra = {"value": value, "grad": grads, "value_fn": lambda p: _loss(p, i)}
    elif kind == "function":
        extra = {"obj_fn": lambda p: _loss(p, i)}
    return grads, extra


def start(name: str) -> tuple[Any, Any, Any]:
    """Make a transformation, its parameters and its first state; raises NotHere."""
    case = CASES[name]
    tx, params = case.make(), case.params()
    if case.feed == "lookahead":
        params = optax.LookaheadParams(params, params)
    return tx, params, tx.init(params)


def trained(name: str) -> Any:
    """Return the state of a case after `STEPS` updates; raises NotHere."""
    case = CASES[name]
    tx, params, state = start(name)
    for i in range(STEPS):
        grads, extra = _feed(case.feed, params, i)
        if case.nan_at == i:
            grads = jax.tree_util.tree_map(lambda g: g * jnp.nan, grads)
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return state


def states() -> Iterator[tuple[str, Any]]:
    """Give every state that this release has, and say what it does not have."""
    for name in CASES:
        try:
            yield name, trained(name)
        except NotHere as error:
            print(f"not in optax {optax.__version__}: {name} ({error})")


def uncovered() -> list[str]:
    """List the public functions that return a transformation and have no case."""
    contrib = getattr(optax, "contrib", None)
    functions = {**(vars(contrib) if contrib else {}), **vars(optax)}
    covered = {name.partition("/")[0].removeprefix("contrib.") for name in CASES}
    return [
        name
        for name, value in functions.items()
        if name not in covered
        and not name.startswith("_")
        and inspect.isfunction(value)
        and "GradientTransformation" in str(inspect.signature(value).return_annotation)
    ]


def describe(x: Any) -> Any:
    """Say what a tree is, in what msgpack carries.

    A record is ``{"class", "fields": [[name, child], …]}``; a list, tuple or dict is
    ``{"kind", "items"}``, of a dict ``[key, child]`` pairs; an array is ``{"kind", "dtype",
    "shape", "weak", "bytes"}``, for a typed key with ``"impl"``; anything else is ``{"value"}``.
    """
    cls = type(x)
    if dataclasses.is_dataclass(x) or hasattr(x, "_fields"):
        names = x._fields if isinstance(x, tuple) else [f.name for f in dataclasses.fields(x)]
        fields = [[name, describe(getattr(x, name))] for name in names]
        return {"class": f"{cls.__module__}.{cls.__qualname__}", "fields": fields}
    if isinstance(x, Mapping):
        return {"kind": cls.__name__, "items": [[k, describe(v)] for k, v in x.items()]}
    if cls in (list, tuple):
        return {"kind": cls.__name__, "items": [describe(v) for v in x]}
    if isinstance(x, jax.Array | np.ndarray | np.generic):
        return _describe_array(x)
    assert x is None or cls in (bool, int, float, str), cls
    return {"value": x}


def _describe_array(x: Any) -> dict[str, Any]:
    kind = "jax" if isinstance(x, jax.Array) else type(x).__name__
    found: dict[str, Any] = {"kind": kind, "weak": getattr(x, "weak_type", False)}
    if kind == "jax" and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        found["impl"] = str(jax.random.key_impl(x))
        x = jax.random.key_data(x)
    host = np.asarray(x)
    return {
        **found,
        "dtype": host.dtype.name,
        "shape": list(host.shape),
        "bytes": host.tobytes(),
    }


def write(root: pathlib.Path) -> None:
    """Write the golden states of this release; refuses where there are some."""
    import ckptstore

    assert not uncovered(), uncovered()
    root.mkdir()
    found, retired = dict(states()), _retired()
    versions = {"optax": optax.__version__, "jax": jax.__version__}
    ckptstore.save(root / "states", found, metadata=versions)
    if retired:
        ckptstore.save(root / "retired", retired, metadata=versions)
    expected = {
        "versions": versions,
        "states": {name: describe(state) for name, state in found.items()},
        "retired": {name: describe(state) for name, state in retired.items()},
    }
    packed = zlib.compress(msgpack.packb(expected), 9)
    (root / "expected.msgpack.zlib").write_bytes(packed)
    print(f"optax {optax.__version__}: {len(found)} states, {len(retired)} retired")


def main() -> None:
    """Write this release's golden states, or the pickles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pickles", type=pathlib.Path)
    pickles = parser.parse_args().pickles
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if pickles is None:
            write(HERE / f"optax-{optax.__version__}")
            return
        pickles.mkdir(parents=True)
        for name, state in states():
            try:
                data = pickle.dumps(state)
            except Exception as error:
                print(f"not pickled: {name}: {error!r}")
                continue
            (pickles / f"{name.replace('/', '~')}.pickle").write_bytes(data)


if __name__ == "__main__":
    main()
