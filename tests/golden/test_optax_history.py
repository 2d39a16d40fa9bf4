"""States that old Optax releases wrote load as the classes of today's, bit for bit.

Every state here was made and saved by a real old release; `golden/README.md` says which, and how.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import pathlib
import subprocess
import sys
import textwrap
import types
import warnings
from typing import Any, NamedTuple

import pytest

from tests.support import TESTS

pytest.importorskip("optax")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ckptstore
from ckptstore.adapters.optax import ADAPTER
from ckptstore.types import bindings, naming
from tests.golden import make_optax
from tests.support import independent_reader
from tests.support import optax_golden as golden
from tests.support.optax_golden import RELEASES, ROOT, expected

EACH_RELEASE = pytest.mark.parametrize("release", RELEASES)


def place(release: str, part: str = "states") -> pathlib.Path:
    return ROOT / f"optax-{release}" / part


@functools.cache
def loaded(release: str) -> dict[str, Any]:
    found: dict[str, Any] = ckptstore.load(place(release))
    return found


def differences(release: str, states: dict[str, Any], **options: Any) -> list[str]:
    said = expected(release)["states"]
    assert list(states) == list(said)
    return [d for n in said for d in golden.differences(said[n], states[n], n, **options)]


def stored_classes(release: str) -> set[str]:
    said = expected(release)["states"].values()
    return {record["class"] for state in said for record in golden.records(state)}


@EACH_RELEASE
def test_every_state_of_an_old_release_is_what_it_was(release: str) -> None:
    assert ckptstore.verify(place(release)) == []
    assert differences(release, loaded(release)) == []


@EACH_RELEASE
def test_with_numpy_arrays_it_is_the_same(release: str) -> None:
    states = ckptstore.load(place(release), arrays="numpy")
    assert differences(release, states, numpy=True) == []
    leaves = jax.tree.leaves(states)
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)


def test_the_golden_states_hold_every_class_that_moved() -> None:
    everywhere = set().union(*map(stored_classes, RELEASES))
    assert len(ADAPTER.moved) == 27
    assert set(ADAPTER.moved) - everywhere == set()


def test_every_class_that_moved_is_where_the_table_says() -> None:
    for name in ADAPTER.moved.values():
        cls = bindings.locate_dotted(name)
        assert cls is not None and f"{cls.__module__}.{cls.__qualname__}" == name
    assert all(bindings.locate_dotted(name) is not None for name in ADAPTER.migrations)


def test_a_class_that_moved_is_found_when_its_alias_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aliases = 0
    for name in ADAPTER.moved:
        module, _, cls = name.rpartition(".")
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(module)
            aliases += cls in vars(found)
            monkeypatch.delattr(found, cls, raising=False)
    assert aliases == 11
    for release in ("0.1.1", "0.2.1"):
        assert differences(release, ckptstore.load(place(release))) == []


# Fields that changed. In each, `stored` is what the old release's own process said of the state.


def find(release: str, case: str, cls: str) -> dict[str, Any]:
    states = golden.records(expected(release)["states"][case])
    return next(record for record in states if record["class"].endswith(f".{cls}"))


def number(said: Any) -> Any:
    return np.frombuffer(said["bytes"], said["dtype"])[0]


@pytest.mark.parametrize("release", ["0.1.8", "0.1.9", "0.2.1"])
def test_the_fields_of_reduce_on_plateau_have_today_s_names(release: str) -> None:
    name = "contrib.reduce_on_plateau/cooldown"
    stored, state = find(release, name, "ReduceLROnPlateauState"), loaded(release)[name]
    assert type(state) is optax.contrib.ReduceLROnPlateauState
    old = {n: number(child) for n, child in stored["fields"]}
    assert [*old] == ["lr", "best_loss", "plateau_count", "cooldown_counter"]
    assert old["lr"] == np.float32(0.5) and old["cooldown_counter"] == 2  # the first step reduced
    assert state.scale == old["lr"] and state.best_value == old["best_loss"]
    assert state.plateau_count == old["plateau_count"]
    assert state.cooldown_count == old["cooldown_counter"]
    assert state.count == 0 and state.avg_value == 0.0
    fresh = optax.contrib.reduce_on_plateau().init({"w": jnp.zeros(2)})
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, fresh)


@pytest.fixture
def old_plateau(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the class that 0.2.1 has, where it has it; `load` is to run without it."""
    module: Any = types.ModuleType("optax.contrib.reduce_on_plateau")
    names = "lr best_loss plateau_count cooldown_counter"
    cls = collections.namedtuple("ReduceLROnPlateauState", names, module=module.__name__)
    module.ReduceLROnPlateauState = cls
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield cls
    assert module.__name__ not in sys.modules


@pytest.mark.parametrize("arrays", ["jax", "numpy"])
def test_what_is_added_has_the_dtype_of_what_was_there(
    arrays: Any, old_plateau: Any, tmp_path: pathlib.Path
) -> None:
    place = jax.devices()[0]
    loss = jax.device_put(jnp.asarray(jnp.inf, jnp.bfloat16), place)
    ckptstore.save(tmp_path / "c", old_plateau(1.0, loss, np.int16(3), 7))
    del sys.modules[old_plateau.__module__]
    state = ckptstore.load(tmp_path / "c", arrays=arrays if arrays == "numpy" else None)
    assert type(state) is optax.contrib.ReduceLROnPlateauState
    assert type(state.count) is int and state.count == 0
    assert state.avg_value.dtype == jnp.bfloat16 and state.avg_value == 0.0
    assert isinstance(state.avg_value, jax.Array) == (arrays == "jax")
    assert arrays == "numpy" or state.avg_value.committed


@pytest.mark.parametrize("bad", ["0", None, {}, [1.0], np.array("a"), True])
def test_a_field_that_is_no_number_is_refused(
    bad: Any, old_plateau: Any, tmp_path: pathlib.Path
) -> None:
    ckptstore.save(tmp_path / "c", {"state": old_plateau(1.0, bad, 0, 0)})
    del sys.modules[old_plateau.__module__]
    with pytest.raises(ckptstore.UnknownTypeError, match=r"best_loss is .*, expected a number"):
        ckptstore.load(tmp_path / "c")


def test_reduce_on_plateau_goes_on(tmp_path: pathlib.Path) -> None:
    state = loaded("0.2.1")["contrib.reduce_on_plateau/cooldown"]
    tx = optax.contrib.reduce_on_plateau(factor=0.5, patience=0, cooldown=3)
    updates, after = tx.update({"w": jnp.ones(2)}, state, value=jnp.float32(9.0))
    assert updates["w"].tolist() == [0.5, 0.5] and after.cooldown_count == 1
    ckptstore.save(tmp_path / "c", after)
    assert type(ckptstore.load(tmp_path / "c")) is type(state)


@pytest.mark.parametrize("release", ["0.2.1", "0.2.3"])
def test_a_backtracking_search_has_the_info_of_none(release: str) -> None:
    state = loaded(release)["scale_by_backtracking_linesearch"][1]
    fresh = optax.scale_by_backtracking_linesearch(4).init(make_optax.start("adam")[1])
    assert type(state) is type(fresh) and type(state.info) is type(fresh.info)
    assert state.info == (0, jnp.inf)
    assert jax.tree.map(jax.typeof, state.info) == jax.tree.map(jax.typeof, fresh.info)


@pytest.mark.parametrize("release", ["0.2.3", "0.2.4", "0.2.5"])
def test_the_fields_of_dog_have_today_s_names(release: str) -> None:
    state = next(x for x in loaded(release)["contrib.dog"] if hasattr(x, "_fields") and x)
    stored = dict(find(release, "contrib.dog", "DoGState")["fields"])
    assert state.is_init_step == number(stored["first_step"])
    assert state.max_dist == number(stored["estim_dist"])


@pytest.mark.parametrize("release", ["0.1.0", "0.1.1"])
def test_multi_steps_skipped_nothing(release: str) -> None:
    assert "skip_state" not in dict(find(release, "MultiSteps", "MultiStepsState")["fields"])
    assert loaded(release)["MultiSteps"].skip_state == ()


@pytest.mark.parametrize("release", ["0.1.8", "0.2.1", "0.2.3", "0.2.5"])
def test_the_state_of_sam_is_a_namedtuple_today(release: str) -> None:
    assert independent_reader.read(place(release)).tree["contrib.sam"].type.kind == "dataclass"
    state = loaded(release)["contrib.sam"]
    assert isinstance(state, tuple) and type(state) is optax.contrib.SAMState


def test_an_empty_class_that_was_merged_is_the_empty_state() -> None:
    assert type(loaded("0.2.1")["scale_by_trust_ratio"]) is optax.EmptyState
    assert "optax._src.transform.ScaleByTrustRatioState" in stored_classes("0.2.1")


# With `like`: a state of today's optimizer of the same name.


@functools.cache
def fresh(name: str) -> Any:
    """Return the first state that today's optimizer has, or None where there is none such."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return make_optax.start(name)[2]
        except make_optax.NotHere:
            return None


def outline(said: Any) -> Any:
    """Reduce a description to what `like` compares."""
    if "class" in said:
        return said["class"], [(name, outline(child)) for name, child in said["fields"]]
    if "items" in said:
        items = said["items"]
        if said["kind"] in ("dict", "OrderedDict"):
            items = [(key, outline(child)) for key, child in items]
            return said["kind"], items if said["kind"] == "OrderedDict" else sorted(items, key=repr)
        return said["kind"], [outline(child) for child in items]
    if "value" in said:
        return type(said["value"])
    return said["kind"], said["dtype"], said["shape"], said.get("impl")


@EACH_RELEASE
def test_a_state_fits_into_today_s_where_the_structure_is_the_same(release: str) -> None:
    states = {n: s for n, s in loaded(release).items() if fresh(n) is not None}
    same = [
        name
        for name, state in states.items()
        if outline(make_optax.describe(state)) == outline(make_optax.describe(fresh(name)))
    ]
    assert len(same) > 0.75 * len(states)
    paths = [f"$[{name!r}]" for name in same]
    filled = ckptstore.load(place(release), {name: fresh(name) for name in same}, select=paths)
    said = expected(release)["states"]
    assert [d for n in same for d in golden.differences(said[n], filled[n], n)] == []
    for name in states.keys() - {*same}:
        with pytest.raises(ckptstore.StructureError, match="from `like`"):
            ckptstore.load(place(release), {name: fresh(name)}, select=f"$[{name!r}]")


# Where Optax is not here, or another release.

_NO_FRAMEWORK = """
    import sys
    sys.modules["jax"] = sys.modules["optax"] = None
    import ckptstore
    from tests.support import optax_golden as golden
    for release in sys.argv[1:]:
        said = golden.expected(release)
        for part in ("states", "retired"):
            if not said[part]:
                continue
            url = golden.ROOT / f"optax-{release}" / part
            states = ckptstore.load(url, arrays="numpy")
            assert states.keys() == said[part].keys()
            for name, state in states.items():
                for line in golden.differences(said[part][name], state, old=True, numpy=True):
                    print(release, name, line)
        print(release, len(states))
"""


def test_without_optax_and_jax_the_stored_fields_are_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_NO_FRAMEWORK), *RELEASES],
        capture_output=True,
        text=True,
        check=True,
        cwd=TESTS.parent,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == RELEASES, done.stdout


RETIRED = {
    "0.1.0": "optax._src.transform.ScaleByFromageState",
    "0.1.1": "optax._src.transform.ScaleByFromageState",
    "0.1.2": "optax._src.transform.ScaleByFromageState",
    "0.1.3": "optax._src.transform.ScaleByFromageState",
    "0.2.1": "optax._src.linesearch.BacktrackingSearchState",
    "0.2.3": "optax._src.linesearch.BacktrackingSearchState",
}


@pytest.mark.parametrize("release", RETIRED)
def test_a_class_without_an_heir_is_refused_by_name(release: str) -> None:
    name = RETIRED[release]
    with pytest.raises(ckptstore.UnknownTypeError) as caught:
        ckptstore.load(place(release, "retired"))
    message = str(caught.value)
    assert caught.value.reason == "no-such-name"
    for words in (name, f"optax {release} saved it", optax.__version__, "types="):
        assert words in message
    (said,) = expected(release)["retired"].values()
    fields = tuple(field for field, _ in said["fields"])
    given = NamedTuple("Given", [(field, Any) for field in fields])  # type: ignore[misc]
    (state,) = ckptstore.load(place(release, "retired"), types={name: given}).values()
    assert type(state) is given and state._fields == fields


def test_a_class_of_a_later_release_is_refused_with_the_remedy(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ScaleByTomorrowState(NamedTuple):
        count: Any

    later: Any = ScaleByTomorrowState
    later.__module__, later.__qualname__ = "optax._src.transform", "ScaleByTomorrowState"
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(optax._src.transform, "ScaleByTomorrowState", later, raising=False)
        tomorrow.setattr(naming, "package_version", lambda package: "9.0.0")
        ckptstore.save(tmp_path / "c", {"opt_state": (later(jnp.int32(3)), optax.EmptyState())})
    with pytest.raises(ckptstore.UnknownTypeError) as caught:
        ckptstore.load(tmp_path / "c")
    message = str(caught.value)
    for words in ("ScaleByTomorrowState", "optax 9.0.0 saved it", "load with optax 9.0.0"):
        assert words in message
    state = ckptstore.load(tmp_path / "c", arrays="numpy")["opt_state"]
    assert state[0].count == 3 and type(state[1]) is optax.EmptyState


def test_a_later_release_s_fields_are_refused_with_both_sides(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [("count", Any), ("mu", Any), ("nu", Any), ("xi", Any)]
    later = NamedTuple("ScaleByAdamState", fields)  # type: ignore[misc]
    later.__module__ = "optax._src.transform"
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(optax._src.transform, "ScaleByAdamState", later)
        tomorrow.setattr(naming, "package_version", lambda package: "9.0.0")
        ckptstore.save(tmp_path / "c", later(0, 1, 2, 3))
    with pytest.raises(ckptstore.UnknownTypeError, match="only in the checkpoint: xi") as caught:
        ckptstore.load(tmp_path / "c")
    assert "optax 9.0.0 saved it" in str(caught.value)


def test_the_tables_start_no_backend() -> None:
    code = """
        import ckptstore.adapters.optax
        from jax._src import xla_bridge
        print(xla_bridge.backends_are_initialized())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
