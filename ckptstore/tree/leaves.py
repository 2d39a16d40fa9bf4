"""Arrays of a checkpoint: from the verified bytes of a leaf to the array of an adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptstore import signals
from ckptstore.errors import CheckpointError, CorruptError, Reason, UnsupportedError
from ckptstore.format import TypeRow, array_bytes
from ckptstore.format.dtypes import Array
from ckptstore.sharding import Box, shape_of
from ckptstore.tree.casting import cast
from ckptstore.types import Adapter, Refusal


@dataclass(slots=True)  # one a leaf or span; frozen, it would take twice the time to make
class Maker:
    """Turns the verified bytes of one leaf into its array.

    Attributes:
        where: the checkpoint, for messages.
        path: returns the path of the leaf, for messages.
        row, dtype, shape: the stored type, dtype and shape.
        adapter: the adapter that makes the array; None for an array of numpy.
        cast: the dtype to convert to, if any.
        place: the device or sharding of the array, in the adapter's terms.
        is_number: whether to return the Python number in the array.
        boxes: the boxes of the array that are made; None: the whole.
    """

    where: str
    path: Callable[[], str]
    row: TypeRow
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    adapter: Adapter | None
    cast: np.dtype[Any] | None
    place: Any
    is_number: bool
    boxes: Sequence[Box] | None = None

    def __call__(self, data: Any) -> Any:
        """Return the array, or the number.

        Args:
            data: the bytes of the array, or a list with those of each box.

        Raises:
            CheckpointError: as for `making`.
            StructureError: reason ``cast-range``: a value does not fit.
        """
        try:
            return self._make(data)
        except CheckpointError as error:
            text = str(error).removeprefix(f"{self.where}: ")
            raise type(error)(
                f"{self.where}: {self.path()}: {text}", reason=error.reason
            ) from error.__cause__

    def _make(self, data: Any) -> Any:
        if self.boxes is None or self.adapter is None:
            array = self._array(data, self.shape)
            with making(self.row, self.dtype, self.shape, where=self.where):
                if self.is_number:
                    return array.item()
                if self.adapter is None:
                    return array
                return self.adapter.array(array, self.row, self.place)
        parts = {
            box: self._array(part, shape_of(box))
            for box, part in zip(self.boxes, data, strict=True)
        }
        with making(self.row, self.dtype, self.shape, where=self.where):
            return self.adapter.sharded(parts, self.shape, self.row, self.place)

    def _array(self, data: Array, shape: tuple[int, ...]) -> Array:
        array = array_bytes.from_bytes(data, self.dtype, shape, where=self.where)
        if self.cast is None:
            return array
        with making(self.row, self.dtype, shape, where=self.where):
            return cast(array, self.cast)


@contextlib.contextmanager
def making(
    row: TypeRow, dtype: np.dtype[Any], shape: tuple[int, ...], *, where: str
) -> Iterator[None]:
    """Add the place to an exception of an adapter that makes an array.

    Raises:
        CorruptError: reason ``bad-type``: the adapter has no such array; or the adapter's reason.
        UnsupportedError: reason ``array-not-exact``: the array cannot be made here.
    """
    try:
        yield
    except (CorruptError, UnsupportedError) as error:
        raise type(error)(f"{where}: {error}", reason=error.reason) from error
    except KeyError:
        raise unknown_array(row, where=where) from None
    except (CheckpointError, Refusal, MemoryError):
        raise
    except Exception as error:  # of a framework, or of an adapter of another package
        signals.pass_on(error)
        raise UnsupportedError(
            f"{where}: {row} {dtype}{list(shape)} could not be made here: {type(error).__name__}: "
            f"{error}",
            reason=Reason.ARRAY_NOT_EXACT,
        ) from error


def unknown_array(row: TypeRow, *, where: str) -> CorruptError:
    """Return the error for a stored type that is not an array type."""
    return CorruptError(
        f"{where}: {row} is not an array that this ckptstore knows", reason=Reason.BAD_TYPE
    )
