"""OmegaConf: DictConfig and ListConfig without a schema, their interpolations as they are.

A node of a configuration knows its parent, which a tree cannot hold. So only the outermost
container is a value of its own, and `load` gives each part its parent again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig

from ckptstore.types import Adapter, Child, Record, Refusal, object_row

_FIELDS = ("content", "flags", "typed", "optional")
_PLAIN: Mapping[Any, type] = {DictConfig: dict, ListConfig: list}
_REMEDY = "save omegaconf.OmegaConf.to_container(x), and make it again: OmegaConf.create(loaded)"


class OmegaConfAdapter(Adapter):
    """The adapter of omegaconf."""

    modules = ("omegaconf",)

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """The outermost containers; the ones below have records of the same rows."""
        return {cls: _record(cls, _take_root) for cls in _PLAIN}


def _record(cls: type, take: Any) -> Record:
    make = functools.partial(_make, cls)
    check = functools.partial(_check, cls)
    return Record(object_row(cls, *_FIELDS, wraps=True), take, make, check=check, reads="items")


def _take_root(x: Any) -> Sequence[Any]:
    if vars(x)["_parent"] is not None:
        raise Refusal(
            "this is a part of a larger configuration, which its interpolations and flags may "
            f"need; save the whole one, or {_REMEDY}"
        )
    return _take(x)


def _take(x: Any) -> Sequence[Any]:
    held = vars(x)
    noted, content = held["_metadata"], held["_content"]
    plain = _PLAIN[type(x)]
    names = {"_metadata", "_content", "_parent", "_flags_cache"}
    if unknown := sorted(held.keys() - names):
        raise Refusal(f"this configuration has the attribute {unknown[0]!r}; {_REMEDY}")
    if _schema(x) != _schema(type(x)(content=plain())) or noted.object_type not in (None, plain):
        raise Refusal(f"this configuration has a schema, which no file can hold; {_REMEDY}")
    if noted.flags_root or noted.resolver_cache:
        raise Refusal(f"this configuration keeps results of its resolvers; {_REMEDY}")
    flags = dict(noted.flags or {})
    if type(content) is dict:
        content = {key: _taken(x, key, node) for key, node in content.items()}
    elif type(content) is list:
        content = [_taken(x, key, node) for key, node in enumerate(content)]
    return (content, flags, noted.object_type is plain, bool(noted.optional))


def _schema(x: Any) -> Sequence[Any]:
    noted = vars(x)["_metadata"]
    return [getattr(noted, name, None) for name in ("ref_type", "key_type", "element_type")]


def _taken(parent: Any, key: Any, node: Any) -> Any:
    """Return the value of a node, or the container below it with its record."""
    noted = vars(node)["_metadata"]
    if vars(node)["_parent"] is not parent or noted.key != key:
        raise Refusal(f"a part of this configuration stands in another one, too; {_REMEDY}")
    if type(node) in _PLAIN:
        return Child(node, _BELOW[type(node)])
    free = noted.ref_type is Any and noted.object_type is None and noted.optional
    if type(node) is not AnyNode or not free or noted.flags or noted.resolver_cache:
        raise Refusal(
            f"the entry {key!r:.80} of this configuration has a type or a flag of its own, which "
            f"no file can hold; {_REMEDY}"
        )
    return vars(node)["_val"]


def _check(cls: type, values: Sequence[Any]) -> None:
    content, flags, typed, optional = values
    if type(content) not in (_PLAIN[cls], str, type(None)) or type(flags) is not dict:
        raise TypeError("its fields have wrong types")
    if type(typed) is not bool or type(optional) is not bool:
        raise TypeError("its fields have wrong types")
    for name, value in flags.items():
        if type(name) is not str or type(value) not in (bool, type(None)):
            raise TypeError("its flags are not names with True, False or None")


def _make(cls: Any, values: Sequence[Any]) -> Any:
    _check(cls, values)
    content, flags, typed, optional = values
    plain = _PLAIN[cls]
    made = cls(content=plain())
    held = vars(made)
    noted = held["_metadata"]
    noted.flags, noted.optional, noted.object_type = flags, optional, plain if typed else None
    if type(content) is dict:
        held["_content"] = {key: _node(made, key, value) for key, value in content.items()}
    elif type(content) is list:
        held["_content"] = [_node(made, key, value) for key, value in enumerate(content)]
    else:
        held["_content"] = content
    return made


def _node(parent: Any, key: Any, value: Any) -> Any:
    """Return the node of a value, or give a container that was made before its parent."""
    if type(value) in _PLAIN:
        if vars(value)["_parent"] is not None:
            raise ValueError("a part of it stands in another configuration, too")
        vars(value)["_parent"] = parent
        vars(value)["_metadata"].key = key
        return value
    node = AnyNode(None, key=key)
    vars(node).update(_val=value, _parent=parent)
    return node


_BELOW: Mapping[Any, Record] = {cls: _record(cls, _take) for cls in _PLAIN}
"""The records of the containers inside another one."""

ADAPTER = OmegaConfAdapter()
