"""The golden states of old Optax releases, and what they must be as classes of today's.

Nothing here asks the package: classes are found by their bare names, and the changes of fields
are written out once more.
"""

from __future__ import annotations

import pathlib
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax  # noqa: F401 - so that its modules are here

ROOT = pathlib.Path(__file__).parent / "golden"
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


def _classes() -> dict[str, type]:
    found: dict[str, type] = {}
    for module in [name for name in sys.modules if name.partition(".")[0] == "optax"]:
        for name, value in vars(sys.modules[module]).items():
            if getattr(value, "__module__", "") == module and hasattr(value, "_fields"):
                assert found.setdefault(name, value) is value, name
    return found


TODAY = _classes()


def expected(release: str) -> dict[str, Any]:
    """Return the ``states`` and the ``retired`` of a release as `make_optax.describe` says them."""
    packed = (ROOT / f"optax-{release}" / "expected.msgpack.zlib").read_bytes()
    found: dict[str, Any] = msgpack.unpackb(zlib.decompress(packed), strict_map_key=False)
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


def field(said: Any, name: str) -> Any:
    """Return what a record in a description has in a field."""
    return dict(said["fields"])[name]


def differences(said: Any, x: Any, path: str = "$", *, old: bool = False) -> list[str]:
    """List where a loaded tree is not what was described.

    Args:
        said: the description.
        x: the tree.
        path: of both.
        old: hold names of classes and fields against the description itself; arrays are numpy's.
    """
    if "class" in said:
        return _record(said, x, path, old=old)
    if "items" in said:
        cls, items = _CONTAINERS[said["kind"]], said["items"]
        if type(x) is not cls or len(x) != len(items):
            return [f"{path}: {said['kind']} of {len(items)} became {x!r:.100}"]
        if isinstance(x, dict):
            if [(type(k), k) for k, _ in items] != [(type(k), k) for k in x]:
                return [f"{path}: the keys {[k for k, _ in items]} became {list(x)}"]
            items, x = [child for _, child in items], x.values()
        pairs = enumerate(zip(items, x, strict=True))
        return [d for i, (c, v) in pairs for d in differences(c, v, f"{path}[{i}]", old=old)]
    if "value" in said:
        same = type(x) is type(said["value"]) and repr(x) == repr(said["value"])
        return [] if same else [f"{path}: {said['value']!r} became {x!r:.100}"]
    return _array(said, x, path, old=old)


def _record(said: Any, x: Any, path: str, *, old: bool) -> list[str]:
    name = said["class"].rpartition(".")[2]
    names, added = FIELDS.get(name, {}), ADDED.get(name, set())
    if old:
        if type(x).__name__ != name or x._fields != tuple(n for n, _ in said["fields"]):
            return [f"{path}: {said['class']} became {x!r:.100}"]
        names, added = {}, set()
    elif type(x) is not TODAY[RENAMED.get(name, name)]:
        return [f"{path}: {said['class']} became {type(x)}"]
    found = [(names.get(n, n), child) for n, child in said["fields"]]
    beyond = set(x._fields) - {n for n, _ in found}
    wrong = [] if beyond <= added else [f"{path}: has {beyond} beyond what was stored"]
    for n, child in found:
        wrong += differences(child, getattr(x, n), f"{path}.{n}", old=old)
    return wrong


def _array(said: Any, x: Any, path: str, *, old: bool) -> list[str]:
    numpy = old or said["kind"] != "jax"
    if isinstance(x, jax.Array) == numpy:
        return [f"{path}: {said['kind']} became {type(x)}"]
    seen: dict[str, Any] = {"weak": said["weak"] if numpy else getattr(x, "weak_type", False)}
    if not numpy and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        seen["impl"] = str(jax.random.key_impl(x))
        x = jax.random.key_data(x)
    elif numpy and "impl" in said:
        seen["impl"] = said["impl"]
    host = np.asarray(x)
    seen |= {"dtype": host.dtype.name, "shape": list(host.shape), "bytes": host.tobytes()}
    return [f"{path}: {n}: {said.get(n)} became {v}" for n, v in seen.items() if said.get(n) != v]
