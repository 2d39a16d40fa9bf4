"""Types: from a Python class to its stored row, and from the row to today's class."""

from __future__ import annotations

from ckptstore.types.adapter import Adapter
from ckptstore.types.bindings import class_of_today, locate
from ckptstore.types.fields import (
    RECORD_KINDS,
    fields_of,
    full_name,
    kind_of,
    module_of,
    qualname_of,
    without_alias,
)
from ckptstore.types.hashables import CROWD, is_crowd, key_text, refuse_unfit
from ckptstore.types.instances import find_maker, record_of
from ckptstore.types.leaf import Cell, Leaf, Refusal, repeated_nbytes
from ckptstore.types.lookup import find_class, find_named, import_line
from ckptstore.types.members import enum_member
from ckptstore.types.migrations import Migration
from ckptstore.types.naming import class_row, object_row, package_version, stored_name
from ckptstore.types.pytrees import Pytree, pytree
from ckptstore.types.records import Child, Record
from ckptstore.types.registration import register
from ckptstore.types.registry import find_adapter, find_registration, top_level
from ckptstore.types.remedies import SUPPLIED, remedy
from ckptstore.types.safety import Unsafe, check_safe, has_own
from ckptstore.types.standins import StandIn, Supplied, Symbol, may_stand_in, stand_in
from ckptstore.types.subclasses import subclass_record

__all__ = [
    "CROWD",
    "RECORD_KINDS",
    "SUPPLIED",
    "Adapter",
    "Cell",
    "Child",
    "Leaf",
    "Migration",
    "Pytree",
    "Record",
    "Refusal",
    "StandIn",
    "Supplied",
    "Symbol",
    "Unsafe",
    "check_safe",
    "class_of_today",
    "class_row",
    "enum_member",
    "fields_of",
    "find_adapter",
    "find_class",
    "find_maker",
    "find_named",
    "find_registration",
    "full_name",
    "has_own",
    "import_line",
    "is_crowd",
    "key_text",
    "kind_of",
    "locate",
    "may_stand_in",
    "module_of",
    "object_row",
    "package_version",
    "pytree",
    "qualname_of",
    "record_of",
    "refuse_unfit",
    "register",
    "remedy",
    "repeated_nbytes",
    "stand_in",
    "stored_name",
    "subclass_record",
    "top_level",
    "without_alias",
]
