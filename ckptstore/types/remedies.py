"""What to save of an object that cannot be saved itself: one table, by class.

A class is known by its package and its name, and a row holds for its subclasses, too. Nothing is
imported, and no code of the object runs. To add a class, add a row: tests follow what it says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptstore.types.bindings import locate
from ckptstore.types.fields import MISSING, attribute_of, module_of, qualname_of, without_alias
from ckptstore.types.plain import plain_form
from ckptstore.types.registry import top_level

SUPPLIED = 'name its path in save(..., supplied=["$..."]) and supply it by load(url, like=...)'
"""The remedy for what no file can hold; the walk puts the path in the place of ``$...``."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A value that can be saved, and the way back.

    Attributes:
        save: an expression of `x`.
        restore: a statement of `loaded`, and of a new `x` or of `cls`, the name of the class.
    """

    save: str
    restore: str


def _made(save: str, restore: str) -> Remedy:
    return Remedy(save, f"x = {restore}")


_VARS = Remedy("vars(x)", "vars(x).update(loaded)")
_COMPRESSED = _made(
    "{'data': x.data, 'indices': x.indices, 'indptr': x.indptr, 'shape': x.shape}",
    "cls((loaded['data'], loaded['indices'], loaded['indptr']), loaded['shape'])",
)
_TRAINER = Remedy(
    "{'model': x.lightning_module.state_dict(), "
    "'optimizers': [part.state_dict() for part in x.optimizers]}",
    "x.lightning_module.load_state_dict(loaded['model']); "
    "[part.load_state_dict(old) for part, old in zip(x.optimizers, loaded['optimizers'])]",
)
_CONTENTS = _made("x.getvalue()", "cls(loaded)")
_WRAPPED = _made("x.__wrapped__", "cls(loaded)")
_PICKLED = _made("pickle.dumps(x)", "pickle.loads(loaded)  # of a checkpoint that you trust")
"""Exact for every dtype and index, which no text is: for data, without code of their own."""
_TO_DICT = _made("x.to_dict()", "cls(loaded)")
_PARTS_BY_STATE = Remedy(
    "{name: part.state_dict() for name, part in vars(x).items() if hasattr(part, 'state_dict')}",
    "for name, part in loaded.items(): vars(x)[name].load_state_dict(part)",
)
_TAKEN = (
    "count the items that you take, save that number, and take as many from a new one: "
    "next(itertools.islice(x, loaded, loaded), None)"
)
_OF_PROCESS = "it belongs to this process; leave it out and make a new one"

TABLE: Mapping[tuple[str, str], Remedy | str] = {
    ("sklearn", "BaseEstimator"): _VARS,
    ("gymnasium", "Space"): _VARS,
    ("gym", "Space"): _VARS,
    ("stable_baselines3", "BaseAlgorithm"): Remedy(
        "x.get_parameters()", "x.set_parameters(loaded)"
    ),
    ("stable_baselines3", "BaseBuffer"): Remedy(
        "{name: part for name, part in vars(x).items() "
        "if isinstance(part, (bool, int, numpy.ndarray))}",
        "vars(x).update(loaded)",
    ),
    ("stable_baselines3", "RunningMeanStd"): _VARS,
    ("transformers", "PretrainedConfig"): _made("x.to_dict()", "cls.from_dict(loaded)"),
    ("transformers", "PreTrainedConfig"): _made("x.to_dict()", "cls.from_dict(loaded)"),
    ("transformers", "ModelOutput"): _made("dict(x)", "cls(**loaded)"),
    ("transformers", "BatchEncoding"): _made("dict(x)", "cls(loaded)"),
    ("transformers", "PreTrainedTokenizerBase"): _made(
        "x.name_or_path", "cls.from_pretrained(loaded)"
    ),
    ("lightning", "Trainer"): _TRAINER,
    ("pytorch_lightning", "Trainer"): _TRAINER,
    ("tensorflow", "Tensor"): _made("x.numpy()", "tf.constant(loaded)"),
    ("tensorflow", "Variable"): Remedy("x.numpy()", "x.assign(loaded)"),
    ("PIL", "Image"): _made(
        "{'mode': x.mode, 'size': x.size, 'data': x.tobytes(), "
        "'palette': x.palette and x.palette.tobytes()}",
        "PIL.Image.frombytes(loaded['mode'], loaded['size'], loaded['data']); "
        "loaded['palette'] and x.putpalette(loaded['palette'])",
    ),
    ("scipy", "_cs_matrix"): _COMPRESSED,
    ("scipy", "_coo_base"): _made(
        "{'data': x.data, 'coords': x.coords, 'shape': x.shape}",
        "cls((loaded['data'], loaded['coords']), loaded['shape'])",
    ),
    ("scipy", "_dia_base"): _made(
        "{'data': x.data, 'offsets': x.offsets, 'shape': x.shape}",
        "cls((loaded['data'], loaded['offsets']), loaded['shape'])",
    ),
    ("scipy", "_spbase"): _made("x.toarray()", "cls(loaded)"),
    **{("pandas", name): _PICKLED for name in ("DataFrame", "Series", "Index", "Categorical")},
    ("pandas", "Timestamp"): _made("x.isoformat()", "pandas.Timestamp(loaded)"),
    ("pandas", "Timedelta"): _made("x.isoformat()", "pandas.Timedelta(loaded)"),
    ("wandb", "Run"): _made("x.id", "wandb.init(id=loaded, resume='allow')"),
    ("wandb", "Config"): Remedy("x.as_dict()", "x.update(loaded)"),
    ("tqdm", "tqdm"): Remedy("x.n", "x.update(loaded - x.n)"),
    ("munch", "Munch"): _made("x.toDict()", "cls.fromDict(loaded)"),
    ("box", "Box"): _TO_DICT,
    ("addict", "Dict"): _TO_DICT,
    ("wrapt", "ObjectProxy"): _WRAPPED,
    ("lazy_object_proxy", "Proxy"): _made("x.__wrapped__", "loaded"),
    ("_io", "BytesIO"): _CONTENTS,
    ("_io", "StringIO"): _CONTENTS,
    ("_io", "_IOBase"): Remedy("x.tell()", "x.seek(loaded)"),
    ("tempfile", "_TemporaryFileWrapper"): Remedy("x.tell()", "x.seek(loaded)"),
    ("logging", "Logger"): _made("x.name", "logging.getLogger(loaded)"),
    ("weakref", "ReferenceType"): _made("x()", "weakref.ref(loaded)"),
    ("weakref", "WeakValueDictionary"): _made("dict(x)", "cls(loaded)"),
    ("weakref", "WeakKeyDictionary"): _made("list(x.items())", "cls(loaded)"),
    ("_weakrefset", "WeakSet"): _made("list(x)", "weakref.WeakSet(loaded)"),
    ("builtins", "generator"): _TAKEN,
    **dict.fromkeys(
        [
            *(("_thread", "lock"), ("_thread", "RLock"), ("_thread", "_local")),
            *(("threading", name) for name in ("Thread", "Event", "Condition", "Semaphore")),
            *(("threading", name) for name in ("Barrier", "Timer", "_RLock")),
            *(("multiprocessing", name) for name in ("SemLock", "BaseProcess", "Pool", "Queue")),
            *(("multiprocessing", name) for name in ("_ConnectionBase", "Event", "Condition")),
            *(("concurrent", "Executor"), ("concurrent", "Future"), ("subprocess", "Popen")),
            *(("_socket", "socket"), ("_asyncio", "Task"), ("_asyncio", "Future")),
            *(("queue", "Queue"), ("_queue", "SimpleQueue"), ("asyncio", "Lock")),
            *(("builtins", "coroutine"), ("builtins", "async_generator"), ("builtins", "frame")),
        ],
        _OF_PROCESS,
    ),
}
"""By the package and the qualified name of a class; the nearest base counts."""

_BY_METHODS = (
    ("state_dict", "load_state_dict"),
    ("get_state", "set_state"),
    ("get_parameters", "set_parameters"),
    ("get_weights", "set_weights"),
    ("getstate", "setstate"),
)
"""Pairs of methods of any class: one gives the state, and one takes it."""

_BASES = {
    ("builtins", "dict"): "dict",
    ("collections", "UserDict"): "dict",
    ("builtins", "list"): "list",
    ("collections", "UserList"): "list",
    ("builtins", "tuple"): "tuple",
    ("builtins", "frozenset"): "frozenset",
    ("builtins", "set"): "set",
    ("collections", "deque"): "list",
    ("builtins", "bytes"): "bytes",
    ("builtins", "bytearray"): "bytearray",
    ("builtins", "str"): "str",
    ("builtins", "int"): "int",
    ("builtins", "float"): "float",
    ("builtins", "complex"): "complex",
}
"""The type of Python that a subclass can be made from, and made into."""


def remedy(x: Any) -> str:
    """Return the remedy for an object that cannot be saved, as the end of a sentence.

    Example:
        >>> import io
        >>> remedy(io.BytesIO(b"log"))
        'save x.getvalue(), and restore it by x = io.BytesIO(loaded)'
    """
    cls = type(x)
    found: Remedy | str | None = _of_table(cls)
    if isinstance(found, str):
        return f"{found}, or {SUPPLIED}"
    found = found or _of_methods(cls) or _of_parts(x)
    if found is not None:
        return f"save {found.save}, and restore it by {_named(found.restore, cls)}"
    if attribute_of(cls, "__next__") is not MISSING:
        return f"{_TAKEN}; or {SUPPLIED}"
    form = plain_form(x, "x")
    if form is not None:
        return f"pass {form}, or use {_own_functions(cls)}"
    if base := _base(cls):
        own = _attributes(x)
        own = {} if base == "dict" and dict.keys(x) >= own.keys() else own
        if not own:
            name = qualname_of(cls)
            return (
                f"pass {base}(x), or use ckptstore.register({name}, flatten=lambda x: "
                f"(({base}(x),), None), unflatten=lambda _, parts: {name}(*parts))"
            )
        return (
            f"save ({base}(x), dict(vars(x))), which has its attributes {_some(own)}, or use "
            f"{_own_functions(cls)}"
        )
    if is_foreign(cls):
        return f"use {_own_functions(cls)}, or {SUPPLIED}"
    return f"make it a dataclass or a NamedTuple, use {_own_functions(cls)}, or {SUPPLIED}"


def is_foreign(cls: type) -> bool:
    """Return whether a class comes from an installed package, so that a user cannot edit it."""
    module = sys.modules.get(module_of(cls))
    path = getattr(getattr(module, "__spec__", None), "origin", None)
    if top_level(module_of(cls)) in sys.stdlib_module_names:
        return True
    return type(path) is str and any(part in path for part in ("site-packages", "dist-packages"))


def _of_table(cls: type) -> Remedy | str | None:
    for base in type.__dict__["__mro__"].__get__(cls):
        found = TABLE.get((top_level(module_of(base)), qualname_of(base)))
        if found is not None:
            return found
    return None


def _of_methods(cls: type) -> Remedy | None:
    for get, put in _BY_METHODS:
        if attribute_of(cls, get) is not MISSING and attribute_of(cls, put) is not MISSING:
            return Remedy(f"x.{get}()", f"x.{put}(loaded)")
    return None


def _of_parts(x: Any) -> Remedy | None:
    """Return the remedy for an object that holds modules or optimizers of torch, or the like."""
    parts = map(type, _attributes(x).values())
    names = _BY_METHODS[0]
    holds = any(all(attribute_of(cls, n) is not MISSING for n in names) for cls in parts)
    return _PARTS_BY_STATE if holds else None


def _attributes(x: Any) -> Mapping[str, Any]:
    try:
        found = object.__getattribute__(x, "__dict__")
    except Exception:  # a property of that name
        return {}
    return without_alias(x, found) if type(found) is dict else {}


def _base(cls: type) -> str | None:
    names = ((module_of(b), qualname_of(b)) for b in type.__dict__["__mro__"].__get__(cls))
    return next((_BASES[name] for name in names if name in _BASES), None)


def _own_functions(cls: type) -> str:
    return f"ckptstore.register({qualname_of(cls)}, flatten=..., unflatten=...)"


def _named(restore: str, cls: type) -> str:
    """Return a statement with the public name of a class in the place of ``cls``."""
    module, name = module_of(cls), qualname_of(cls)
    public = ".".join(part for part in module.split(".") if not part.startswith("_"))
    places = (public, module.removeprefix("_"))
    module = next((place for place in places if locate(place, name) is cls), module)
    name = f"{module}.{name}".removeprefix("__main__.")
    return restore.replace("cls(", f"{name}(").replace("cls.", f"{name}.")


def _some(names: Mapping[str, Any]) -> str:
    return ", ".join(f"{name!r:.40}" for name in list(names)[:3])
