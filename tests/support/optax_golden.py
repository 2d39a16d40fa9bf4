"""The golden states of old Optax releases, and what they must be as classes of today's.

Nothing here asks the package: classes are found by their bare names, and the changes of fields
are written out once more. jax and Optax are imported only where their objects are looked at.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from tests.support import TESTS

ROOT = TESTS / "golden"
RELEASES = sorted(path.name.removeprefix("optax-") for path in ROOT.glob("optax-*"))

RENAMED = {
    "MaybeUpdateState": "ConditionallyTransformState",
    "MultiTransformState": "PartitionState",
    "ScaleByTrustRatioState": "EmptyState",
}
FIELDS = {
    "DoGState": {"first_step": "is_init_step", "estim_dist": "max_dist"},
    "ReduceLROnPlateauState": {
        "lr": "scale",
        "best_loss": "best_value",
        "cooldown_counter": "cooldown_count",
    },
}
ADDED = {
    "MultiStepsState": {"skip_state"},
    "ReduceLROnPlateauState": {"count", "avg_value"},
    "ScaleByBacktrackingLinesearchState": {"info"},
}
_CONTAINERS = {"dict": dict, "OrderedDict": OrderedDict, "list": list, "tuple": tuple}


def expected(release: str) -> dict[str, Any]:
    """Return the ``states`` and the ``retired`` of a release as `make_optax.describe` says them."""
    packed = (ROOT / f"optax-{release}" / "expected.msgpack.zlib").read_bytes()
    found: dict[str, Any] = msgpack.unpackb(zlib.decompress(packed), strict_map_key=False)
    return found


@functools.cache
def today() -> dict[str, type]:
    """Return every NamedTuple of the Optax that is here, by its bare name."""
    import optax  # noqa: F401 - imports all of its modules

    found: dict[str, type] = {}
    for module in [name for name in sys.modules if name.partition(".")[0] == "optax"]:
        for name, value in vars(sys.modules[module]).items():
            if getattr(value, "__module__", "") == module and hasattr(value, "_fields"):
                assert found.setdefault(name, value) is value, name
    return found


def records(said: Any) -> Iterator[dict[str, Any]]:
    """Give every record in a description."""
    if "class" in said:
        yield said
        children = [child for _, child in said["fields"]]
    elif said.get("kind") in ("dict", "OrderedDict"):
        children = [child for _, child in said["items"]]
    else:
        children = said.get("items", [])
    for child in children:
        yield from records(child)


def differences(
    said: Any, x: Any, path: str = "$", *, old: bool = False, numpy: bool = False
) -> list[str]:
    """List where a loaded tree is not what was described.

    Args:
        said: the description.
        x: the tree.
        path: of both.
        old: require the stored names of classes and fields, not today's.
        numpy: require arrays of numpy.
    """
    if "class" in said:
        pairs, wrong = _fields(said, x, path, old=old)
    elif "items" in said:
        pairs, wrong = _items(said, x, path)
    elif "value" in said:
        same = type(x) is type(said["value"]) and repr(x) == repr(said["value"])
        return [] if same else [f"{path}: {said['value']!r} became {x!r:.100}"]
    else:
        return _array(said, x, path, numpy=numpy)
    for step, child, value in pairs:
        wrong += differences(child, value, path + step, old=old, numpy=numpy)
    return wrong


def _fields(said: Any, x: Any, path: str, *, old: bool) -> tuple[list[Any], list[str]]:
    name = said["class"].rpartition(".")[2]
    stored = [n for n, _ in said["fields"]]
    if old:
        names, right = stored, type(x).__name__ == name and list(x._fields) == stored
    else:
        names = [FIELDS.get(name, {}).get(n, n) for n in stored]
        right = type(x) is today()[RENAMED.get(name, name)]
        right = right and {*x._fields} - {*names} <= ADDED.get(name, set())
    if not right:
        return [], [f"{path}: {said['class']} of {stored} became {x!r:.200}"]
    children = zip(names, [child for _, child in said["fields"]], strict=True)
    return [(f".{n}", child, getattr(x, n)) for n, child in children], []


def _items(said: Any, x: Any, path: str) -> tuple[list[Any], list[str]]:
    items, values = said["items"], x
    right = type(x) is _CONTAINERS[said["kind"]] and len(x) == len(items)
    if right and isinstance(x, dict):
        right = [(type(k), k) for k, _ in items] == [(type(k), k) for k in x]
        items, values = [child for _, child in items], list(x.values())
    if not right:
        return [], [f"{path}: a {said['kind']} of {items!r:.100} became {x!r:.100}"]
    return [(f"[{i}]", *pair) for i, pair in enumerate(zip(items, values, strict=True))], []


def _array(said: Any, x: Any, path: str, *, numpy: bool) -> list[str]:
    said = {"impl": None, **said}
    seen: dict[str, Any] = {"weak": said["weak"], "impl": said["impl"]}
    if not numpy and said["kind"] == "jax":
        import jax

        if not isinstance(x, jax.Array):
            return [f"{path}: an array of jax became {type(x)}"]
        seen = {"weak": getattr(x, "weak_type", False), "impl": None}
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            seen["impl"] = str(jax.random.key_impl(x))
            x = jax.random.key_data(x)
    elif not isinstance(x, np.ndarray | np.generic):
        return [f"{path}: an array of numpy became {type(x)}"]
    host = np.asarray(x)
    seen |= {"dtype": host.dtype.name, "shape": list(host.shape), "bytes": host.tobytes()}
    return [f"{path}: {n}: {said[n]} became {v}" for n, v in seen.items() if said[n] != v]
