"""NumPy's generators of random numbers: Generator, RandomState, their bit generators and seeds.

The state decides the next numbers, and the sequence of seeds the children that `spawn` makes. numpy
checks no position of a state, and reads beyond its memory at a wrong one; so it is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ckptstore.types import Record, Refusal, object_row

_WORD = 2**32 - 1
_WIDE = 2**128 - 1
_HALF = {"has_uint32": 1, "uinteger": _WORD}
_PCG = {"state": {"state": _WIDE, "inc": _WIDE}, **_HALF}
_STATES: Mapping[str, Mapping[str, Any]] = {
    "PCG64": _PCG,
    "PCG64DXSM": _PCG,
    "MT19937": {"state": {"key": (np.uint32, 624), "pos": 624}},
    "Philox": {
        "state": {"counter": (np.uint64, 4), "key": (np.uint64, 2)},
        "buffer": (np.uint64, 4),
        "buffer_pos": 4,
        **_HALF,
    },
    "SFC64": {"state": {"state": (np.uint64, 4)}, **_HALF},
}
"""The state of each bit generator: an int by its largest value, an array by dtype and length."""

_MOST_WORDS = 1 << 12
_POOLS = range(4, 65)
"""The numbers that make a seed, and the sizes of its pool. numpy bounds neither."""


def _check_state(form: Any, state: Any) -> None:
    """Raise if a state has not the form that its bit generator has."""
    if isinstance(form, Mapping):
        if type(state) is not dict or [*state] != [*form]:
            raise TypeError(f"its state is not a dict of {', '.join(form)}")
        for name, below in form.items():
            _check_state(below, state[name])
    elif type(form) is tuple:
        dtype, length = form
        if type(state) is not np.ndarray or state.dtype != dtype or state.shape != (length,):
            raise TypeError(f"a part of its state is not {length} numbers of {dtype.__name__}")
    elif type(state) is not int or not 0 <= state <= form:
        raise ValueError(f"a number of its state is not an int from 0 to {form}")


def _taken(form: Any, state: Any) -> Any:
    """Return a state in the order and the types of its form; numpy's own vary by release."""
    if isinstance(form, Mapping):
        return {name: _taken(below, state[name]) for name, below in form.items()}
    return np.array(state, form[0]) if type(form) is tuple else int(state)


def _equal(a: Any, b: Any) -> bool:
    if type(a) is dict:
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    return bool(np.array_equal(a, b))


def _bit_generator_of(name: str) -> Record:
    cls, form = getattr(np.random, name), _STATES[name]

    def take(x: Any) -> Sequence[Any]:
        seeds = x._seed_seq if not hasattr(x, "seed_seq") else x.seed_seq
        return (seeds, _taken(form, x.state))

    def check(values: Sequence[Any]) -> None:
        seeds, state = values
        unseeded = seeds is None and name in ("MT19937", "Philox")
        if type(seeds) is not np.random.SeedSequence and not unseeded:
            raise TypeError("its seeds are not a numpy.random.SeedSequence")
        _check_state(form, state)

    def make(values: Sequence[Any]) -> Any:
        check(values)
        seeds, state = values
        if seeds is not None:
            made = cls(seeds)
        elif name == "Philox":
            made = cls(key=0)
        else:
            made = cls(0)
            made._legacy_seeding(0)
        made.state = {"bit_generator": name, **state}
        if not _equal(_taken(form, made.state), state):
            raise ValueError("numpy does not take its state as it is")
        return made

    row = object_row(f"numpy.random.{name}", "seeds", "state")
    return Record(row, take, make, check=check)


def _take_seeds(x: Any) -> Sequence[Any]:
    taken = (x.entropy, tuple(x.spawn_key), int(x.pool_size), int(x.n_children_spawned))
    try:
        again = _make_seeds(taken)
    except (TypeError, ValueError) as error:
        raise Refusal(
            f"this SeedSequence cannot be saved: {error}; save x.state, and make it again: "
            "numpy.random.SeedSequence(**loaded)"
        ) from None
    if not np.array_equal(again.pool, x.pool):
        raise Refusal(
            "the entropy of this SeedSequence was changed after it was made; make a new one: "
            "numpy.random.SeedSequence(x.entropy)"
        )
    return taken


def _check_seeds(values: Sequence[Any]) -> None:
    entropy, key, pool_size, children = values
    if type(entropy) is np.ndarray:
        if entropy.dtype.kind not in "iu" or entropy.ndim > 1 or entropy.size > _MOST_WORDS:
            raise TypeError(f"its entropy is not a row of at most {_MOST_WORDS} integers")
    elif type(entropy) in (list, tuple):
        if len(entropy) > _MOST_WORDS or not all(_is_word(n, 32 * 64) for n in entropy):
            raise TypeError(f"its entropy is not a row of at most {_MOST_WORDS} integers")
    elif not _is_word(entropy, 32 * 64):
        raise TypeError("its entropy is not an int of at most 2048 bits")
    if type(key) is not tuple or len(key) > _MOST_WORDS or not all(_is_word(n, 64) for n in key):
        raise TypeError(f"its spawn_key is not a tuple of at most {_MOST_WORDS} ints")
    if type(pool_size) is not int or pool_size not in _POOLS:
        raise ValueError(f"its pool_size is not from {_POOLS[0]} to {_POOLS[-1]}")
    if not _is_word(children, 32):
        raise ValueError("its n_children_spawned is not an int of at most 32 bits")


def _is_word(n: Any, bits: int) -> bool:
    return type(n) is int and n >= 0 and n.bit_length() <= bits


def _make_seeds(values: Sequence[Any]) -> Any:
    _check_seeds(values)
    entropy, key, pool_size, children = values
    return np.random.SeedSequence(
        entropy, spawn_key=key, pool_size=pool_size, n_children_spawned=children
    )


def _make_generator(values: Sequence[Any]) -> Any:
    (bits,) = values
    if type(bits) not in _BIT_GENERATORS:
        raise TypeError("its bit generator is not one of numpy")
    return np.random.Generator(bits)


def _take_old(x: Any) -> Sequence[Any]:
    state = x.get_state(legacy=False)
    return (x._bit_generator, int(state["has_gauss"]), float(state["gauss"]))


def _check_old(values: Sequence[Any]) -> None:
    bits, has_gauss, gauss = values
    if type(bits) not in _BIT_GENERATORS:
        raise TypeError("its bit generator is not one of numpy")
    if type(has_gauss) is not int or has_gauss not in (0, 1) or type(gauss) is not float:
        raise TypeError("its next number of gauss is not a float")


def _make_old(values: Sequence[Any]) -> Any:
    _check_old(values)
    bits, has_gauss, gauss = values
    made = np.random.RandomState(bits)
    made.set_state({**bits.state, "has_gauss": has_gauss, "gauss": gauss})
    return made


_BIT_GENERATORS: Mapping[type, Record] = {
    getattr(np.random, name): _bit_generator_of(name) for name in _STATES
}

RECORDS: Mapping[type, Record] = {
    **_BIT_GENERATORS,
    np.random.SeedSequence: Record(
        object_row(
            *("numpy.random.SeedSequence", "entropy", "spawn_key", "pool_size"),
            "n_children_spawned",
        ),
        _take_seeds,
        _make_seeds,
        check=_check_seeds,
        reads="items",
    ),
    np.random.Generator: Record(
        object_row("numpy.random.Generator", "bit_generator"),
        lambda x: (x.bit_generator,),
        _make_generator,
    ),
    np.random.RandomState: Record(
        object_row("numpy.random.RandomState", "bit_generator", "has_gauss", "gauss"),
        _take_old,
        _make_old,
        check=_check_old,
    ),
}
"""By exact type. A file can name no other bit generator."""
