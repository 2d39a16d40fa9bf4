"""The fields of a decoded msgpack map, checked as they are taken."""

from __future__ import annotations

from typing import Any

from ckptstore.errors import CorruptError, Reason
from ckptstore.format import wire


class Fields:
    """A decoded map whose fields are checked as they are taken; unknown ones are ignored."""

    def __init__(self, value: Any, where: str) -> None:
        if type(value) is not dict:
            raise CorruptError(
                f"{where}: found {type(value).__name__}, expected a map", reason=Reason.BAD_FIELD
            )
        self.value: dict[str, Any] = value
        self.where = where

    def get(self, name: str, *types: type) -> Any:
        """Return a field; raise CorruptError if it is missing or not of one of `types`."""
        if name not in self.value:
            raise CorruptError(
                f"{self.where}: the field {name!r} is missing", reason=Reason.MISSING_FIELD
            )
        value = self.value[name]
        if type(value) not in types:
            raise CorruptError(
                f"{self.where}: {name} is {type(value).__name__}, expected "
                + " or ".join(t.__name__ for t in types),
                reason=Reason.BAD_FIELD,
            )
        return value

    def integer(self, name: str) -> int:
        """Return an integer field of 0 to 2^53 - 1."""
        value: int = self.get(name, int)
        if not 0 <= value <= wire.MAX_INTEGER:
            raise CorruptError(
                f"{self.where}: {name} is {value}, expected 0 to 2^53 - 1",
                reason=Reason.INTEGER_RANGE,
            )
        return value

    def strings(self, name: str) -> list[str]:
        """Return a field that is an array of str."""
        value: list[str] = self.get(name, list)
        if not all(type(entry) is str for entry in value):
            raise CorruptError(
                f"{self.where}: {name} holds an item that is not a str", reason=Reason.BAD_FIELD
            )
        return value
