"""A catalogue of optax 0.2.8: a small trained state for every public transformation.

``CASES`` maps a name to a builder, which builds its ``Case`` once, on the first call. The state
of a case is what three real updates leave behind, and ``Case.advance`` makes further ones.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import math
import pathlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax import contrib
from optax._src import linesearch
from optax.experimental import aggregating
from optax.microbatching import _microbatching

Tree = Any
Step: TypeAlias = int | jax.Array

WARM_STEPS = 3
BATCH = 4
LR = 0.05
BF16 = jnp.bfloat16


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One transformation, with the parameters and the state that three updates have left.

    A case without a transformation (``tx`` is None) only holds a state, built by hand.
    """

    name: str
    tx: Any
    params: Tree
    state: Tree
    jittable: bool = True
    kind: str = "plain"
    rate: float = 1.0
    nan_at: int | None = None

    def advance(self, params: Tree, state: Tree, i: Step) -> tuple[Tree, Tree]:
        """Make training step ``i``, which depends on nothing but the arguments."""
        if self.tx is None:
            return params, state
        return self.apply(params, state, i, *_feed(self.kind, params, i))

    def apply(
        self, params: Tree, state: Tree, i: Step, grads: Tree, extra: dict[str, Any]
    ) -> tuple[Tree, Tree]:
        """Make training step ``i`` with gradients and extra arguments from outside."""
        if self.nan_at is not None:
            grads = jax.tree.map(lambda g: jnp.where(i == self.nan_at, jnp.nan, g), grads)
        updates, state = self.tx.update(grads, state, params, **extra)
        if self.kind == "pair":
            updates = updates[0]
        if self.rate != 1.0:
            updates = jax.tree.map(lambda u: self.rate * u, updates)
        return optax.apply_updates(params, updates), state


class Group(enum.Enum):
    """Labels that do not sort."""

    FAST = "fast"
    SLOW = "slow"


class TextGroup(enum.StrEnum):
    """Labels that sort as text."""

    FAST = "fast"
    SLOW = "slow"


class NumberGroup(enum.IntEnum):
    """Labels that sort as numbers."""

    FAST = 7
    SLOW = -7


class Layer(NamedTuple):
    """Parameters in a class of the user."""

    kernel: Any
    bias: Any


class DecayState(NamedTuple):
    """The state of ``Decay``."""

    best: Any
    rate: Any


class Decay:
    """A stateful schedule, which halves the rate when the loss does not fall."""

    def init(self) -> DecayState:
        """Give the first state."""
        return DecayState(jnp.float32(jnp.inf), jnp.float32(LR))

    def update(self, state: DecayState, *, value: Any, **extra: Any) -> DecayState:
        """Give the state that follows a loss of ``value``."""
        rate = jnp.where(value < state.best, state.rate, 0.5 * state.rate)
        return DecayState(jnp.minimum(state.best, value), rate)

    def __call__(self, state: DecayState, **extra: Any) -> Any:
        """Give the rate."""
        return state.rate


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    values = jnp.sin(1.0 + jnp.arange(math.prod(shape), dtype=jnp.float32)).reshape(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * values[::-1]
    return values.astype(dtype)


def _params() -> Tree:
    layers = [_array(4, 3), (_array(3),)]
    return {"dense": {"w": _array(4, 3), "b": _array(3)}, "layers": layers, "scale": _array()}


def _labels(fast: Any, slow: Any) -> Tree:
    return {"dense": {"w": fast, "b": slow}, "layers": slow, "scale": fast}


def _matrices(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x.ndim > 1, tree)


def loss(params: Tree, i: Step) -> jax.Array:
    """Give the loss of step ``i``: the distance to a target that moves from step to step."""
    total = jnp.zeros(())
    for k, leaf in enumerate(jax.tree.leaves(params)):
        angle = 0.7 * jnp.arange(leaf.size, dtype=jnp.float32).reshape(leaf.shape)
        gap = leaf - jnp.cos(angle + k + 0.3 * i)
        square = jnp.real(gap * jnp.conj(gap)).astype(jnp.float32)
        total += jnp.sum(square + 0.05 * square**2)
    return total


_value_and_grad = jax.jit(jax.value_and_grad(loss))
_batch_grads = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))


def _feed(kind: str, params: Tree, i: Step) -> tuple[Tree, dict[str, Any]]:
    """Give the gradients and the extra arguments that a case of this kind takes."""
    if kind in ("batch", "pair"):
        return _batch_grads(params, BATCH * i + jnp.arange(BATCH)), {}
    if kind == "lookahead":
        return _value_and_grad(params.fast, i)[1], {}
    value, grads = _value_and_grad(params, i)
    grads = jax.tree.map(jnp.conj, grads)
    extra: dict[str, Any] = {}
    if kind == "value":
        extra = {"value": value}
    elif kind == "search":
        extra = {"value": value, "grad": grads, "value_fn": lambda p: loss(p, i)}
    elif kind == "curvature":
        extra = {"obj_fn": lambda p: loss(p, i)}
    elif kind == "inner":
        extra = {"grad_fn": lambda p, k: _value_and_grad(p, i + k)[1]}
    elif kind == "moments":
        extra = {"sum_sq_diff_grads": jax.tree.map(jnp.square, grads), "sample_size": BATCH}
    return grads, extra


def _build(name: str, tx: Any, params: Callable[[], Tree] = _params, **options: Any) -> Case:
    """Initialise a transformation, or what a function makes, and train ``WARM_STEPS`` steps.

    The updates run without jit: their small primitives are compiled once for all the cases,
    whereas each ``lax.cond`` and each loop would be compiled anew at each step.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tx, now = tx() if callable(tx) else tx, params()
        state = tx.init(now)
        case = Case(name, tx, now, state, **options)
        for i in range(WARM_STEPS):
            grads, extra = _feed(case.kind, now, i)
            with jax.disable_jit():
                now, state = case.apply(now, state, i, grads, extra)
    return dataclasses.replace(case, params=now, state=state)


CASES: dict[str, Callable[[], Case]] = {}


def _add(table: Mapping[str, Any], **options: Any) -> None:
    for name, tx in table.items():
        assert name not in CASES, name
        CASES[name] = functools.cache(functools.partial(_build, name, tx, **options))


def _named(names: str, suffix: str = "", *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Make a table of public factories, given by their names, with the same arguments."""
    table: dict[str, Any] = {}
    for name in names.split():
        factory = functools.reduce(getattr, name.split("."), optax)
        table[name + suffix] = functools.partial(factory, *args, **kwargs)
    return table


def _ramp(step: Any) -> Any:
    return LR / (1.0 + step)


ADAM = optax.adam(LR)
MOMENTUM = optax.sgd(LR, momentum=0.9)

# Optimizers, whose updates are ready to be added.
_RATED = """
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars
    lion nadam nadamw novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop
    sgd sign_sgd signum yogi contrib.acprop contrib.ademamix contrib.adopt contrib.galore
    contrib.madgrad contrib.muon contrib.schedule_free_adamw contrib.schedule_free_sgd
    contrib.simplified_ademamix
"""
_BF16_MU = "adam amsgrad lion optimistic_adam_v2 contrib.ademamix contrib.muon"
_NESTEROV = "adamw adabelief radam contrib.adopt"
_OPTIMIZERS = {
    "adafactor_factored": optax.adafactor(LR, min_dim_size_to_factor=2),
    "adafactor_momentum": optax.adafactor(
        LR, momentum=0.9, dtype_momentum=BF16, weight_decay_rate=0.01, weight_decay_mask=_matrices
    ),
    "adamw_mask": optax.adamw(LR, mask=_labels(True, False)),
    "optimistic_adam": lambda: optax.optimistic_adam(LR, optimism=0.1),
    "rmsprop_centered": optax.rmsprop(LR, centered=True, momentum=0.9),
    "sgd_momentum": MOMENTUM,
    "sgd_nesterov_bf16": optax.sgd(LR, momentum=0.9, nesterov=True, accumulator_dtype=BF16),
    "sgd_schedule": optax.sgd(optax.warmup_cosine_decay_schedule(0.0, LR, 2, 9)),
    "contrib.cocob": contrib.cocob(weight_decay=0.01, mask=_matrices),
    "contrib.dadapt_adamw": contrib.dadapt_adamw(estim_lr0=0.01),
    "contrib.dog": contrib.dog(init_step=("heuristic", 0.01)),
    "contrib.dowg": contrib.dowg(init_estim_sq_dist=0.01),
    "contrib.galore_lion": contrib.galore(LR, rank=1, base_optimizer=optax.scale_by_lion()),
    "contrib.mechanize": contrib.mechanize(ADAM, s_init=0.1),
    "contrib.muon_dion": contrib.muon(_ramp, ns_coeffs="dion", weight_decay=0.01),
    "contrib.prodigy": contrib.prodigy(estim_lr0=0.01),
    "contrib.sam": contrib.sam(ADAM, optax.chain(contrib.normalize(), MOMENTUM)),
    "contrib.sam_no_reset": contrib.sam(MOMENTUM, ADAM, sync_period=3, reset_state=False),
    "contrib.schedule_free": contrib.schedule_free(ADAM, LR, state_dtype=BF16),
}
_add(_named(_RATED, "", LR))
_add(_named(_BF16_MU, "_bf16_mu", LR, mu_dtype=BF16))
_add(_named(_NESTEROV, "_nesterov", LR, nesterov=True))
_add(_OPTIMIZERS)

# Transformations that scale or change the gradients, which are then added at a small rate.
_BARE = """
    centralize identity keep_params_nonnegative normalize_by_update_norm scale_by_adadelta
    scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief
    scale_by_distance_over_gradients scale_by_factored_rms scale_by_lion
    scale_by_novograd scale_by_optimistic_gradient scale_by_param_block_norm
    scale_by_param_block_rms scale_by_radam scale_by_rms scale_by_rss scale_by_sign
    scale_by_stddev scale_by_trust_ratio scale_by_yogi set_to_zero contrib.normalize
    contrib.scale_by_acprop contrib.scale_by_ademamix contrib.scale_by_adopt
    contrib.scale_by_cocob contrib.scale_by_galore contrib.scale_by_simplified_ademamix
"""
_ONE_NUMBER = """
    adaptive_grad_clip add_decayed_weights clip clip_by_block_rms clip_by_global_norm ema scale
    scale_by_rprop trace contrib.scale_by_madgrad
"""
_TRANSFORMS = {
    "add_decayed_weights_schedule": optax.add_decayed_weights(_ramp, mask=_matrices),
    "add_noise": lambda: optax.add_noise(0.01, 0.55, key=jax.random.key(1)),
    "apply_every": optax.apply_every(2),
    "ema_bf16": optax.ema(0.9, debias=False, accumulator_dtype=BF16),
    "flatten": optax.flatten(optax.scale_by_adam()),
    "freeze": optax.freeze(_labels(True, False)),
    "measure_with_ema": optax.monitor({"norm": optax.measure_with_ema(optax.tree.norm, 0.9)}),
    "monitor": optax.monitor({"norm": optax.tree.norm, "signs": optax.scale_by_sign()}),
    "scale_by_factored_rms_factored": optax.scale_by_factored_rms(min_dim_size_to_factor=2),
    "scale_by_lbfgs": optax.scale_by_lbfgs(memory_size=2),
    "scale_by_learning_rate": optax.scale_by_learning_rate(_ramp, flip_sign=False),
    "scale_by_rms_with_count": optax.scale_by_rms(bias_correction=True),
    "scale_by_schedule": optax.scale_by_schedule(optax.linear_schedule(1.0, 0.1, 5)),
    "scale_by_stddev_with_count": optax.scale_by_stddev(bias_correction=True),
    "snapshot": optax.snapshot("signs", lambda u: jax.tree.map(jnp.sign, u)),
    "stateless": optax.stateless(lambda u, p: jax.tree.map(jnp.add, u, p)),
    "stateless_with_tree_map": optax.stateless_with_tree_map(lambda u, p: u + 0.1 * p),
    "with_extra_args_support": optax.with_extra_args_support(optax.scale_by_rss()),
    "aggregating.accumulate_avg_updates": aggregating.accumulate_avg_updates(2),
}
_add(_named(_BARE), rate=-LR)
_add(_named(_ONE_NUMBER, "", 0.1), rate=-LR)
_add(_TRANSFORMS, rate=-LR)


# Wrappers.
def _split(fast: Any, slow: Any) -> Any:
    return optax.multi_transform({slow: MOMENTUM, fast: ADAM}, _labels(fast, slow))


_inject = optax.inject_hyperparams
_skip_large = functools.partial(optax.skip_large_updates, max_squared_norm=1e3)
_parts = {"a": _inject(optax.adamw)(_ramp), "b": contrib.muon(LR)}
_many = optax.named_chain(
    ("clip", optax.clip_by_global_norm(1.0)),
    ("parts", optax.partition(_parts, _labels("a", "b"))),
    ("ema", optax.masked(optax.ema(0.9), _matrices)),
)
_WRAPPERS = {
    "chain": optax.chain(optax.clip(1.0), optax.scale_by_adam(), optax.scale(-LR)),
    "chain_nested": optax.chain(optax.chain(optax.chain(ADAM)), optax.identity()),
    "conditionally_mask": optax.conditionally_mask(ADAM, lambda step: step % 2 == 0),
    "conditionally_transform": optax.conditionally_transform(MOMENTUM, lambda step: step < 2),
    "inject_hyperparams": _inject(optax.adam)(LR),
    "inject_hyperparams_bf16": _inject(optax.sgd, hyperparam_dtype=BF16)(LR, momentum=0.9),
    "inject_hyperparams_schedules": _inject(optax.adamw)(_ramp, b1=lambda step: 0.9 - _ramp(step)),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.rmsprop)(_ramp),
    "masked": optax.masked(ADAM, _labels(True, False)),
    "multi_steps": optax.MultiSteps(ADAM, 2),
    "multi_steps_bf16": optax.MultiSteps(ADAM, 2, accumulator_dtype=BF16),
    "multi_steps_many": optax.MultiSteps(_many, 2).gradient_transformation(),
    "multi_steps_schedule": optax.MultiSteps(MOMENTUM, lambda step: 1 + jnp.minimum(step, 1)),
    "multi_steps_skip_large": optax.MultiSteps(ADAM, 2, should_skip_update_fn=_skip_large),
    "multi_transform": _split("fast", "slow"),
    "multi_transform_int": _split(1, 0),
    "multi_transform_number_enum": _split(NumberGroup.FAST, NumberGroup.SLOW),
    "multi_transform_text_enum": _split(TextGroup.FAST, TextGroup.SLOW),
    "named_chain": optax.named_chain(("z", optax.scale_by_adam()), ("a", optax.sgd(LR))),
    "partition": optax.partition({"b": MOMENTUM, "a": ADAM, "unused": ADAM}, _labels("a", "b")),
    "selective_transform": optax.selective_transform(ADAM, freeze_mask=_labels(True, False)),
    "contrib.split_real_and_imaginary": contrib.split_real_and_imaginary(ADAM),
}
# In these the keys of a dict do not sort, so that jax does not take the state as a tree.
_UNSORTED = {
    "multi_transform_enum": _split(Group.FAST, Group.SLOW),
    "multi_transform_mixed_keys": _split(2, "slow"),
}
# These meet gradients that are not finite, in the second step.
_skip_not_finite = functools.partial(optax.MultiSteps, should_skip_update_fn=optax.skip_not_finite)
_SPOILT = {
    "apply_if_finite": optax.apply_if_finite(ADAM, 2),
    "multi_steps_skip_not_finite": _skip_not_finite(MOMENTUM, 2),
    "zero_nans": optax.chain(optax.zero_nans(), ADAM),
}
_add(_WRAPPERS)
_add(_UNSORTED, jittable=False)
_add(_SPOILT, nan_at=1)

# The update takes the loss.
_plateau = contrib.reduce_on_plateau(factor=0.5, patience=1, cooldown=1, accumulation_size=2)
_VALUE = {
    "conditionally_mask_value": optax.conditionally_mask(
        ADAM, lambda step, value: value > 1.0, forward_extra_args=True
    ),
    "inject_hyperparams_stateful": _inject(optax.adam)(Decay()),
    "polyak_sgd": optax.polyak_sgd(max_learning_rate=LR),
    "contrib.momo": contrib.momo(),
    "contrib.momo_adam": contrib.momo_adam(LR, adapt_lower_bound=True),
    "contrib.reduce_on_plateau": optax.chain(ADAM, _plateau),
}
_add(_VALUE, kind="value")
_add({"scale_by_polyak": optax.scale_by_polyak()}, kind="value", rate=-1.0)

# The update takes the function, or its gradient.
_SEARCHES = {
    "scale_by_backtracking_linesearch": optax.scale_by_backtracking_linesearch(5),
    "scale_by_backtracking_linesearch_grad": optax.scale_by_backtracking_linesearch(
        5, store_grad=True
    ),
    "scale_by_zoom_linesearch": optax.scale_by_zoom_linesearch(5),
}
_CURVATURE = {
    "contrib.hutchinson": contrib.hutchinson_estimator_diag_hessian(),
    "contrib.hutchinson_key": lambda: contrib.hutchinson_estimator_diag_hessian(jax.random.key(4)),
}
_OPAQUE = {"contrib.sam_opaque": contrib.sam(ADAM, optax.sgd(0.1), opaque_mode=True)}
_add({name: optax.chain(optax.sgd(1.0), tx) for name, tx in _SEARCHES.items()}, kind="search")
_add({"lbfgs": optax.lbfgs(memory_size=2)}, kind="search")
_add({"contrib.sophia": contrib.sophia(LR, update_interval=2)}, kind="curvature")
_add(_CURVATURE, kind="curvature", rate=-LR)
_add(_OPAQUE, kind="inner")

# The update takes a gradient for each example, or what is made of those.
_noisy_mean = contrib.differentially_private_aggregate
_average = aggregating.average_incrementally_updates(0, 2)
_sums = aggregating.get_per_element_mean_and_sum_sq_diff_grads(0, 2)
_track = aggregating.track_per_element_mean_and_variance_with_ema()
_EXAMPLES = {
    "contrib.dpsgd": lambda: contrib.dpsgd(LR, 1.0, 0.1, seed=5, momentum=0.9),
    "aggregating.process": aggregating.process(optax.trace(0.5), _average, ADAM),
    "aggregating.add_mean_variance_to_opt": aggregating.add_mean_variance_to_opt(ADAM),
}
_AGGREGATORS = {
    "contrib.differentially_private_aggregate": lambda: _noisy_mean(1.0, 0.1, key=6),
    "aggregating.average_per_element_updates": aggregating.average_per_element_updates(),
    "aggregating.average_incrementally_updates": _average,
}
_add(_EXAMPLES, kind="batch")
_add(_AGGREGATORS, kind="batch", rate=-LR)
_add({"aggregating.get_per_element_mean_and_sum_sq_diff_grads": _sums}, kind="pair", rate=-LR)
_add({"aggregating.track_per_element_mean_and_variance": _track}, kind="moments", rate=-LR)

# Other parameters.
_TREES: dict[str, Callable[[], Tree]] = {
    "array": lambda: _array(3),
    "bf16": lambda: {"w": _array(4, 3, dtype=BF16)},
    "complex": lambda: {"z": _array(3, dtype=jnp.complex64), "r": _array(3)},
    "f16": lambda: {"w": _array(4, 3, dtype=jnp.float16)},
    "int_keys": lambda: {10: _array(3), 9: {-1: _array(), 0: _array(3)}},
    "matrices": lambda: [_array(4, 3), _array(4, 3)],
    "no_leaf": lambda: {"empty": {}, "none": None, "list": [], "tuple": ()},
    "ordered": lambda: OrderedDict(z=_array(3), a=_array(4, 3)),
    "some_none": lambda: {"w": _array(4, 3), "frozen": None},
    "user_class": lambda: Layer(_array(4, 3), _array(3)),
    "zero_size": lambda: (_array(0, 3), [_array(1, 1)]),
}
_LOOKAHEAD = {
    "lookahead": optax.lookahead(ADAM, 2, 0.5),
    "lookahead_reset": optax.lookahead(MOMENTUM, 2, 0.5, reset_state=True),
}
_COMPLEX = {
    "contrib.split_real_and_imaginary_complex": contrib.split_real_and_imaginary(ADAM),
    "lbfgs_complex": optax.lbfgs(LR, memory_size=2, linesearch=None),
}
_NOISY = {"noisy_sgd": lambda: optax.noisy_sgd(LR, key=jax.random.key(3, impl="rbg"))}
_flat = contrib.MuonDimensionNumbers()
_muon = contrib.scale_by_muon(weight_dimension_numbers=[_flat, _flat])
for _name, _tree in _TREES.items():
    _add({f"adam_{_name}": ADAM}, params=_tree)
_add(_LOOKAHEAD, kind="lookahead", params=lambda: optax.LookaheadParams.init_synced(_params()))
_add(_COMPLEX, params=_TREES["complex"])
_add(_NOISY, params=_TREES["array"])
_add({"lion_bf16_f32_mu": optax.lion(LR, mu_dtype=jnp.float32)}, params=_TREES["bf16"])
_add({"sm3": optax.sm3(LR)}, params=_TREES["user_class"])
_add({"scale_by_sm3": optax.scale_by_sm3()}, params=_TREES["matrices"], rate=-LR)
_add({"contrib.scale_by_muon": _muon}, params=_TREES["matrices"], rate=-LR)


def _zoom_state(params: Tree) -> Any:
    value, grad = _value_and_grad(params, 0)
    down = jax.tree.map(jnp.negative, grad)
    init, _, _ = linesearch.zoom_linesearch(max_linesearch_steps=5)
    known = {"value": value, "grad": grad, "prev_stepsize": jnp.float32(0.5)}
    return init(down, params, initial_guess_strategy="keep", **known)


# Classes that the state of no transformation holds: variables of loops, settings, what an
# evaluation gives, and a deprecated state. There is nothing to jit.
_BY_HAND: dict[str, Callable[[Tree], Any]] = {
    "InjectHyperparamsState": lambda p: optax.InjectHyperparamsState(
        jnp.int32(3), {"learning_rate": 0.1, "on": jnp.bool_(True)}, ADAM.init(p)
    ),
    "BacktrackingLineSearchState": lambda p: linesearch.BacktrackingLineSearchState(
        jnp.float32(0.5), jnp.float32(2.0), p, jnp.float32(jnp.inf), 2
    ),
    "ZoomLinesearchState": _zoom_state,
    "IndividualOutputs": lambda p: _microbatching.IndividualOutputs(
        values=jnp.arange(4.0), metrics={"accuracy": jnp.float32(0.5)}, aux=None
    ),
    "GaLoreDimensionNumbers": lambda p: contrib.GaLoreDimensionNumbers((0, 1), 2),
    "MuonDimensionNumbers": lambda p: {"w": _flat, "b": None},
}


def _by_hand(name: str) -> Case:
    params = _params()
    return Case(f"by_hand.{name}", None, params, _BY_HAND[name](params), jittable=False)


CASES |= {f"by_hand.{n}": functools.cache(functools.partial(_by_hand, n)) for n in _BY_HAND}

# Records that are never a state: pairs of functions, the key of a path, and the results of one
# leaf inside an update, which jax does not take as a tree.
NOT_STATE = {
    "Accumulator",
    "Aggregator",
    "GradientTransformation",
    "GradientTransformationExtraArgs",
    "NamedTupleKey",
    "_UpdateResult",
}


def _is_record(cls: type) -> bool:
    return (issubclass(cls, tuple) and hasattr(cls, "_fields")) or dataclasses.is_dataclass(cls)


def _state_classes() -> list[type]:
    """Find every state class in the modules of optax, those without a public path included."""
    root = pathlib.Path(optax.__path__[0])
    found: dict[type, None] = {}
    for path in sorted(root.rglob("*.py")):
        if path.stem == "__init__" or path.stem.endswith("_test"):
            continue
        name = ".".join(("optax", *path.relative_to(root).with_suffix("").parts))
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and value.__module__ == name and _is_record(value):
                found[value] = None
    return [cls for cls in found if cls.__name__ not in NOT_STATE]


STATE_CLASSES: list[type] = _state_classes()


def walk(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every node of a tree with its path: the tree itself, its parts and the leaves."""
    yield path, tree
    children: list[tuple[str, Any]] = []
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        children = [(f".{name}", part) for name, part in zip(tree._fields, tree, strict=True)]
    elif isinstance(tree, Mapping):
        children = [(f"[{key!r}]", part) for key, part in tree.items()]
    elif isinstance(tree, (list, tuple)):
        children = [(f"[{k}]", part) for k, part in enumerate(tree)]
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        children = [(f".{f.name}", getattr(tree, f.name)) for f in dataclasses.fields(tree)]
    for step, part in children:
        yield from walk(part, path + step)


def classes_in(tree: Tree) -> set[type]:
    """Give the classes of all the nodes of a tree."""
    return {type(node) for _, node in walk(tree)}
