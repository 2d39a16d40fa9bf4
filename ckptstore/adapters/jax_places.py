"""The places of jax arrays: the sharding that a checkpoint stores, and the one that a load uses."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ckptstore.types import Refusal

ANYWHERE = object()
"""The place of an array without a committed device, which jit may move to any mesh."""

FIRST_DEVICE = ":0"
"""The name of the first device of jax's default platform; a file does not hold it."""

MISFITS = (ValueError, IndexError, NotImplementedError, AssertionError)
"""What jax raises for a sharding that does not divide an array, is of more axes or unreduced."""

# Names that are missing in some releases from 0.4.20, the oldest tested one, on.
_ABSTRACT_MESH = getattr(jax.sharding, "AbstractMesh", ())
_AXIS_TYPES: Any = getattr(jax.sharding, "AxisType", None)
_get_mesh = getattr(jax.sharding, "get_mesh", lambda: None)

is_committed: Callable[[jax.Array], bool] = operator.attrgetter(
    "committed" if hasattr(jax.Array, "committed") else "_committed"
)
"""Return whether an array is committed to its devices."""


@functools.lru_cache(1024)
def stored(sharding: Any) -> Mapping[str, Any]:
    """Return the entries of `extra` that describe the place of a committed array.

    A `NamedSharding` is described by its mesh and its spec, and a single device by its platform and
    its place there. Another sharding of several devices is not described.
    """
    devices, entries = sharding.device_set, dict[str, Any]()
    is_named = isinstance(sharding, jax.sharding.NamedSharding)
    if len(devices) > 1 and not (is_named and _is_described(sharding)):
        return entries
    kind = sharding.memory_kind
    is_default = kind in (None, _default_memory(next(iter(devices))))
    if len(devices) == 1:
        name = _device_name(next(iter(devices)))
        entries = {"committed": True} | ({} if name == FIRST_DEVICE else {"device": name})
        entries |= {} if is_default else {"memory": kind}
    if not is_named:
        return entries
    places = {device: number for number, device in enumerate(jax.devices())}
    mesh, spec = sharding.mesh, _parts(sharding.spec)
    try:
        numbers = tuple(places[device] for device in mesh.devices.flat)
    except KeyError:  # of another platform than the default one
        return entries
    if not all(map(_is_part, spec)) or not all(isinstance(name, str) for name in mesh.axis_names):
        return entries
    types = getattr(mesh, "axis_types", None) or ()
    kinds = [getattr(kind, "name", "Auto").lower() for kind in types] or [
        "auto"
    ] * mesh.devices.ndim
    axes = zip(mesh.axis_names, mesh.devices.shape, kinds, strict=True)
    entries |= {"mesh": tuple(axes), "devices": numbers, "spec": spec}
    return entries if is_default else entries | {"memory": kind}


def _is_described(sharding: Any) -> bool:
    """Return whether all processes describe a sharding alike; not one of own devices of each."""
    return jax.process_count() == 1 or not sharding.is_fully_addressable


def _parts(spec: Any) -> tuple[Any, ...]:
    """Return what a spec says of each axis of an array; a mark of reduced axes is left out."""
    return tuple(getattr(spec, "partitions", spec))


def is_unreduced(sharding: Any) -> bool:
    """Return whether the devices hold terms of a sum that is still to be made."""
    return bool(getattr(getattr(sharding, "spec", None), "unreduced", ()))


def _is_part(x: Any) -> bool:
    """Return whether `x` is what a spec says of one axis of an array, in a form that is stored."""
    names = x if type(x) is tuple else (x,)
    return x is None or all(type(name) is str for name in names)


def _device_name(device: Any) -> str:
    """Return the platform of a device, and its place there."""
    if device == jax.local_devices()[0]:
        return FIRST_DEVICE
    return f"{device.platform}:{jax.local_devices(backend=device.platform).index(device)}"


def _default_memory(device: Any) -> str | None:
    try:
        kind: str = device.default_memory().kind
    except (AttributeError, RuntimeError):  # an old jax
        return None
    return kind


def _memories(device: Any) -> set[str]:
    """Return the kinds of memory of a device."""
    try:
        return {memory.kind for memory in device.addressable_memories()}
    except (AttributeError, RuntimeError):  # an old jax
        return set()


def restored(extra: Mapping[str, Any]) -> Any:
    """Return the stored place of an array in this process, or None if it has none here.

    Raises:
        KeyError: an entry of `extra` is malformed.
    """
    if not extra:  # as of most arrays, of which there may be many
        return None
    if "mesh" in extra and (sharding := _stored_sharding(*_checked(extra))) is not None:
        return sharding
    committed, name = extra.get("committed", False), extra.get("device", FIRST_DEVICE)
    memory = extra.get("memory")
    if type(committed) is not bool or type(name) is not str or not isinstance(memory, str | None):
        raise KeyError("device")
    device = _device_named(name) if committed else None
    if device is None or memory is None or memory not in _memories(device):
        return device
    return jax.sharding.SingleDeviceSharding(device, memory_kind=memory)


_Axes = tuple[tuple[str, int, str], ...]
_Spec = tuple[str | tuple[str, ...] | None, ...]


def _checked(extra: Mapping[str, Any]) -> tuple[_Axes, tuple[int, ...], _Spec, str | None]:
    """Return the stored mesh, devices, spec and kind of memory; raises KeyError."""
    memory = extra.get("memory")
    try:
        axes = tuple((name, size, kind) for name, size, kind in extra["mesh"])
        devices = tuple(extra["devices"])
        spec = tuple(tuple(part) if type(part) is list else part for part in extra["spec"])
    except (TypeError, ValueError):
        raise KeyError("mesh") from None
    fits = all(
        type(name) is str and type(size) is int and size > 0 and type(kind) is str
        for name, size, kind in axes
    )
    fits = fits and all(type(number) is int and number >= 0 for number in devices)
    fits = fits and all(map(_is_part, spec)) and (memory is None or type(memory) is str)
    if not fits or math.prod(size for _, size, _ in axes) != len(devices):
        raise KeyError("mesh")
    names, used = [name for name, _, _ in axes], list(_names(spec))
    if len(set(names)) < len(names) or len(set(used)) < len(used) or not set(used) <= set(names):
        raise KeyError("spec")
    return axes, devices, spec, memory


def _names(spec: _Spec) -> Iterator[str]:
    """Yield the names of axes in a spec."""
    for part in spec:
        if part is not None:
            yield from (part,) if isinstance(part, str) else part


@functools.lru_cache(1024)
def _rebuilt(axes: _Axes, numbers: tuple[int, ...]) -> Any:
    """Return a mesh of the stored devices, some of which are in this process, or None."""
    devices = jax.devices()
    if len(set(numbers)) < len(numbers) or max(numbers) >= len(devices):
        return None
    found = np.array([devices[number] for number in numbers], object)
    if all(device.process_index != jax.process_index() for device in found):
        return None
    shape = [size for _, size, _ in axes]
    names = tuple(name for name, _, _ in axes)
    if _AXIS_TYPES is None or all(kind == "auto" for _, _, kind in axes):
        return jax.sharding.Mesh(found.reshape(shape), names)
    known = {kind.name.lower(): kind for kind in _AXIS_TYPES}
    kinds = tuple(known.get(kind, known["auto"]) for _, _, kind in axes)
    return jax.sharding.Mesh(found.reshape(shape), names, axis_types=kinds)


def _stored_sharding(axes: _Axes, numbers: tuple[int, ...], spec: _Spec, memory: str | None) -> Any:
    """Return the stored sharding on the mesh that is set, if it agrees, or on its own devices."""
    mesh = _get_mesh()
    sizes = {name: size for name, size, _ in axes}
    if mesh is None or mesh.empty or dict(mesh.shape) != sizes:
        mesh = _rebuilt(axes, numbers)
    return None if mesh is None else _named(mesh, spec, memory)


def _named(mesh: Any, spec: Sequence[Any], memory: str | None = None) -> Any:
    """Return a sharding; a kind of memory that the devices lack is left out."""
    made = jax.sharding.PartitionSpec(*spec)
    if memory is None:
        return jax.sharding.NamedSharding(mesh, made)
    known = _memories(mesh.devices.flat[0])
    return jax.sharding.NamedSharding(mesh, made, memory_kind=memory if memory in known else None)


def _device_named(name: str) -> Any:
    """Return the device of this process that has the name, or None."""
    platform, _, number = name.rpartition(":")
    try:
        devices = jax.local_devices(backend=platform or None)
    except RuntimeError:  # the platform is not here
        return None
    return {str(i): device for i, device in enumerate(devices)}.get(number)


def of_like(x: Any) -> Any:
    """Return the sharding to which an array is committed, or that a placeholder names, or None."""
    if not isinstance(x, jax.Array):
        return _on_devices(getattr(x, "sharding", None))
    return x.sharding if is_committed(x) else ANYWHERE


def _on_devices(sharding: Any) -> Any:
    """Return a sharding that has devices, or None.

    That of `jax.eval_shape` names a mesh without devices, which may be the mesh of `jax.set_mesh`.
    """
    if not isinstance(getattr(sharding, "mesh", None), _ABSTRACT_MESH):
        return sharding
    mesh = _with_devices(sharding.mesh)
    return None if mesh is None else jax.sharding.NamedSharding(mesh, sharding.spec)


def _with_devices(mesh: Any) -> Any:
    """Return a mesh, or that of `jax.set_mesh` for one without devices; None if it has none."""
    abstract = mesh if isinstance(mesh, _ABSTRACT_MESH) else None
    mesh = mesh if abstract is None else _get_mesh()
    if mesh is None or mesh.empty:
        return None
    return mesh if abstract in (None, mesh.abstract_mesh) else None


def is_wish(x: Any) -> bool:
    """Return whether `x` names the place of arrays, as `load(sharding=)` takes it."""
    kinds = (jax.sharding.Sharding, jax.sharding.Mesh, jax.Device)
    return isinstance(x, (*kinds, _ABSTRACT_MESH))


def misfit(place: Any, shape: Sequence[int], error: Exception) -> Refusal:
    """Return the refusal of a sharding that does not fit the shape of an array."""
    return Refusal(
        f"shape {tuple(shape)} does not fit {place!r:.200} ({error!s:.200}); pass as sharding= a "
        "function of path and aval that returns another sharding for it"
    )


def _without_devices(wish: Any) -> Refusal:
    return Refusal(
        f"{wish!r:.200} names no devices; pass a sharding on a mesh of devices, or call "
        "jax.set_mesh with such a mesh first"
    )


def wished(wish: Any, extra: Mapping[str, Any], shape: Sequence[int]) -> Any:
    """Return the place of one array.

    Args:
        wish: a sharding, a device, a mesh (the stored spec on it), or ``"whole"``. A mesh without
            devices is that of `jax.set_mesh`.
        extra: the stored type's.
        shape: the shape of the array, to which a sharding must fit.

    Raises:
        Refusal: the wish does not fit the array.
    """
    if isinstance(wish, str):
        return ANYWHERE
    place = wish
    if isinstance(wish, (jax.sharding.Mesh, _ABSTRACT_MESH)):
        if (mesh := _with_devices(wish)) is None:
            raise _without_devices(wish)
        spec = _checked(extra)[2] if "mesh" in extra else ()
        if missing := sorted(set(_names(spec)) - set(mesh.axis_names)):
            raise Refusal(
                f"its stored spec names the axes {', '.join(missing)}, which the mesh of sharding= "
                f"lacks ({', '.join(map(str, mesh.axis_names))}); pass a function of path and aval "
                "that returns a sharding"
            )
        place = _named(mesh, spec, extra.get("memory"))
    if isinstance(place, jax.sharding.Sharding):
        place = _on_devices(place)
        if place is None:
            raise _without_devices(wish)
        try:
            if is_unreduced(place):
                raise ValueError("a load makes no unreduced array")
            if (axes := len(_parts(getattr(place, "spec", ())))) > len(shape):
                raise ValueError(f"its spec is for {axes} axes")
            place.shard_shape(tuple(shape))
        except MISFITS as error:
            raise misfit(place, shape, error) from None
    return place
