"""ml_collections: ConfigDict, FrozenConfigDict and the references in them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from ckptstore.types import Adapter, Record, Refusal, object_row

_MODULE = "ml_collections.config_dict.config_dict"
_OPTIONS = frozenset(vars(config_dict.ConfigDict())) - {"_fields"}
"""What a ConfigDict of this release holds beside its content, such as `_locked`."""

_TYPES: Mapping[str, type] = {
    **{
        t.__name__: t
        for t in (
            *(bool, int, float, complex, str, bytes, type(None), object),
            *(list, tuple, dict, set, frozenset),
        )
    },
    "ConfigDict": config_dict.ConfigDict,
    "FrozenConfigDict": config_dict.FrozenConfigDict,
}
"""The types that a reference may ask for, by stored name. numpy's are stored as symbols."""


class MlCollectionsAdapter(Adapter):
    """The adapter of ml_collections."""

    modules = ("ml_collections",)

    @functools.cached_property
    def records(self) -> Mapping[type, Record]:
        """Configurations and references."""
        frozen = ("fields", "options", "configdict")
        return {
            config_dict.ConfigDict: Record(
                object_row(f"{_MODULE}.ConfigDict", "fields", "options", wraps=True),
                _take_config,
                functools.partial(_make_config, config_dict.ConfigDict),
                check=_check_config,
            ),
            config_dict.FrozenConfigDict: Record(
                object_row(f"{_MODULE}.FrozenConfigDict", *frozen, wraps=True),
                _take_config,
                functools.partial(_make_config, config_dict.FrozenConfigDict),
                check=_check_config,
            ),
            config_dict.FieldReference: Record(
                object_row(f"{_MODULE}.FieldReference", "value", "type", "required"),
                _take_reference,
                _make_reference,
                check=_check_reference,
                reads="items",
            ),
        }


def _take_config(x: Any) -> Sequence[Any]:
    held = dict(vars(x))
    fields = held.pop("_fields")
    configdict = [held.pop("_configdict")] if type(x) is config_dict.FrozenConfigDict else []
    if unknown := sorted(held.keys() - _OPTIONS):
        raise Refusal(
            f"this {type(x).__qualname__} has the attribute {unknown[0]!r}, which would be lost; "
            "save x.to_dict()"
        )
    return (fields, {name[1:]: bool(held[name]) for name in sorted(held)}, *configdict)


def _check_config(values: Sequence[Any]) -> None:
    fields, options, *configdict = values
    if type(fields) is not dict or type(options) is not dict:
        raise TypeError("its fields have wrong types")
    if configdict and type(configdict[0]) is not config_dict.ConfigDict:
        raise TypeError("it holds no ConfigDict")
    for name, value in options.items():
        if type(name) is not str or type(value) is not bool:
            raise TypeError("its options are not names with True or False")
        if f"_{name}" not in _OPTIONS:
            raise ValueError(
                f"this release of ml_collections has no option {name[:40]}; pip install --upgrade "
                "ml_collections"
            )


def _make_config(cls: Any, values: Sequence[Any]) -> Any:
    _check_config(values)
    fields, options, *configdict = values
    made = cls()
    held = vars(made)
    held.update({f"_{name}": value for name, value in options.items()}, _fields=fields)
    if configdict:
        held["_configdict"] = configdict[0]
    return made


def _take_reference(x: Any) -> Sequence[Any]:
    if x._ops or type(x._value) is config_dict.FieldReference:
        raise Refusal(
            "this reference of ml_collections is computed from another one, and its function "
            "cannot be stored; save config.copy_and_resolve_references()"
        )
    if unknown := sorted(vars(x).keys() - {"_value", "_field_type", "_required", "_ops"}):
        raise Refusal(f"this reference has the attribute {unknown[0]!r}; delete it")
    return (x._value, _name_of(x._field_type), bool(x._required))


def _name_of(cls: Any) -> Any:
    if type(cls) is tuple:
        return tuple(each if type(each) is tuple else _name_of(each) for each in cls)
    return next((name for name, known in _TYPES.items() if known is cls), cls)


def _type_of(name: Any) -> Any:
    if type(name) is tuple and tuple not in map(type, name):
        return tuple(map(_type_of, name))
    if type(name) is str:
        return _TYPES[name]
    if type(name) is not type:
        raise TypeError("it asks for something that is not a type")
    return name


def _check_reference(values: Sequence[Any]) -> None:
    value, asked, required = values
    if type(required) is not bool or type(value) is config_dict.FieldReference:
        raise TypeError("its fields have wrong types")
    _type_of(asked)


def _make_reference(values: Sequence[Any]) -> Any:
    _check_reference(values)
    value, asked, required = values
    made: Any = object.__new__(config_dict.FieldReference)
    vars(made).update(_field_type=_type_of(asked), _ops=[], _value=value, _required=required)
    return made


ADAPTER = MlCollectionsAdapter()
