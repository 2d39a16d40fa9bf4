"""Pickles of arrays in plain containers, read without Python's own reader of pickles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ckptstore import signals
from ckptstore.convert import inputs
from ckptstore.convert.inputs import MakeArray, Source
from ckptstore.convert.pickle_machine import Machine
from ckptstore.digests import Buffer
from ckptstore.errors import CheckpointError, CorruptError, Reason, UnsupportedError, listed
from ckptstore.texts import shown

_NAMES_SHOWN = 10


@inputs.leading_on
def from_pickle(
    source: Source,
    *,
    arrays: Literal["numpy", "jax"] = "numpy",
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Read a pickle of numpy or jax arrays in plain containers, and run no code of it.

    Pickles of every numpy and jax release are read, also where these are not installed. The values
    are arrays and scalars of numpy, numbers, texts, bytes, None, and dicts, OrderedDicts, lists,
    tuples and sets of them. An object that stands in two places is one object. A pickle that needs
    any other class is refused, and the error names it.

    Args:
        source: a path or URL; the bytes; or an open binary file, read from its position to its end.
        arrays: the kind of the arrays.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        The object that was pickled.

    Raises:
        UnsupportedError: reason ``weights-only``: the pickle needs other classes.
        CorruptError: it is damaged, or not a pickle. There is no checksum: a damaged number is not
            noticed. Reason ``trailing-bytes``: it holds several objects.
        StorageError: the file cannot be read.
        StructureError: reason ``bad-argument``.
        UnknownTypeError: reason ``not-installed``.

    Example:
        >>> import pickle, numpy as np
        >>> from_pickle(pickle.dumps({"w": np.ones(3), "step": 7}))
        {'w': array([1., 1., 1.]), 'step': 7}

    Source: docs/moving.md, "In" and "pickle".
    """
    make = inputs.array_maker("from_pickle", arrays)
    where, data = inputs.read(source, storage_options)
    value, end = unpickled(where, data, make)
    if end < len(data):
        raise CorruptError(
            f"{where}: {len(data) - end} bytes after the first object, so it holds several; read "
            f"each by itself, with data = open(path, 'rb').read(): from_pickle(data[:{end}]), then "
            f"from_pickle(data[{end}:])",
            reason=Reason.TRAILING_BYTES,
        )
    return value


def unpickled(where: str, data: Buffer, make: MakeArray) -> tuple[Any, int]:
    """Return the first object of a pickle, and the number of its bytes.

    Raises:
        CorruptError, UnsupportedError: as for `from_pickle`.
    """
    machine = Machine(make)
    damage: CheckpointError | None = None
    value, end = None, 0
    try:
        value, end = machine.read(data)
    except CheckpointError as error:
        damage = error
    except Exception as error:  # of forged opcodes, such as a pop from an empty stack
        signals.pass_on(error)
        damage = CorruptError(f"{type(error).__name__}: {error!s:.300}")
    if machine.unknown:  # which may be the cause of the damage
        names = [shown(name, 100) for name in machine.unknown]
        raise UnsupportedError(
            f"{where}: it holds more than arrays in plain containers: "
            f"{', '.join(listed(names, _NAMES_SHOWN))}; such objects are made by code of the "
            "file's choice, so they are not read here; if you trust the file, save it again in a "
            "program that can read it: with open(path, 'rb') as file: "
            "ckptstore.save(directory, pickle.load(file))",
            reason=Reason.WEIGHTS_ONLY,
        )
    if damage is not None:
        raise type(damage)(
            f"{where}: not a sound pickle of arrays: {damage}; restore it from a copy, or check "
            "that it is the kind of file that you expect",
            reason=damage.reason,
        ) from damage
    return value, end
