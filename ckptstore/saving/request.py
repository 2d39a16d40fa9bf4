"""The arguments of a save other than the tree and the place, checked before anything else."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptstore import signals
from ckptstore.distributed import Processes, chosen
from ckptstore.errors import Reason, StructureError, bad_argument
from ckptstore.format import encode_metadata, plain_value, wire
from ckptstore.format.names import step_number
from ckptstore.progress import NOBODY, Progress
from ckptstore.texts import text_of


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """The arguments of one save, checked.

    Attributes:
        step: the training step, or None.
        metadata: the encoded metadata.
        metrics: Python's own numbers, by name.
        supplied: patterns of the paths that `load` takes from `like`.
        per_process: patterns of the paths whose values each process has of its own.
        progress: the bytes of the save, for its callback.
        overwrite: replace an existing checkpoint; None: a `Manager` decides.
        storage_options: the options of the store.
        processes: the processes that save together; None: those in which the tree lies.
    """

    step: int | None
    metadata: bytes
    metrics: Mapping[str, float]
    supplied: Sequence[str]
    overwrite: bool | None
    storage_options: Mapping[str, Any] | None = field(repr=False)  # it may hold secrets
    processes: Processes | None = None
    per_process: Sequence[str] = ()
    progress: Progress = NOBODY

    @classmethod
    def of(
        cls,
        *,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        supplied: Sequence[str] = (),
        overwrite: bool | None = False,
        storage_options: Mapping[str, Any] | None = None,
        processes: Any = None,
        per_process: Sequence[str] = (),
        callback: Any = None,
    ) -> SaveRequest:
        """Check the arguments of `save`, and copy them.

        Raises:
            StructureError: reason ``bad-step``, ``metadata``, ``bad-metric``, ``bad-pattern`` or
                ``bad-argument``.
        """
        if metadata is not None and not isinstance(metadata, Mapping):
            raise _no_dict("metadata", metadata, Reason.METADATA)
        return cls(
            step=None if step is None else step_number(step),
            metadata=encode_metadata(dict(metadata or {})),
            metrics=checked_metrics(metrics),
            supplied=checked_patterns("supplied", supplied, '["$.apply_fn"]'),
            overwrite=overwrite,
            storage_options=storage_options,
            processes=chosen(processes, "save"),
            per_process=checked_patterns("per_process", per_process, '["$.rng"]'),
            progress=Progress(callback, "save"),
        )


def checked_patterns(name: str, given: Any, example: str, where: str = "save") -> tuple[str, ...]:
    """Return the patterns of an argument.

    Args:
        name: the argument.
        given: its value; None: none.
        example: an example of a list, for the error.
        where: the call, for messages.

    Raises:
        StructureError: reason ``bad-pattern``.
    """
    if given is not None and not isinstance(given, list | tuple | set | frozenset):
        expected = f"a list of patterns, such as {example}"
        raise bad_argument(where, name, given, expected, reason=Reason.BAD_PATTERN)
    return tuple(given or ())


def checked_metrics(metrics: Any) -> Mapping[str, float]:
    """Return the metrics of a step as Python's own numbers.

    Args:
        metrics: a mapping from a name to a number: an int, a float, or a scalar or an array without
            axes of any framework. None: no metrics.

    Raises:
        StructureError: reason ``bad-metric``.

    Example:
        >>> import numpy as np
        >>> checked_metrics({"loss": np.float32(0.5), "seen": np.int64(64)})
        {'loss': 0.5, 'seen': 64}
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise _no_dict("metrics", metrics, Reason.BAD_METRIC)
    return {_name(name): _number(name, value) for name, value in metrics.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise StructureError(
            f"save: metrics has a name that is a {type(name).__name__}, expected a str; "
            'metrics={"name": value}',
            reason=Reason.BAD_METRIC,
        )
    return str(name)


def _number(name: str, x: Any) -> float:
    number = x if type(x) is int or type(x) is float else _scalar(x)
    if number is None:
        raise StructureError(
            f"save: metrics[{name!r:.80}] is {text_of(x)} ({type(x).__name__}), expected a number: "
            f"{_way_to_number(x)}",
            reason=Reason.BAD_METRIC,
        )
    if type(number) is int and abs(number) > wire.MAX_INTEGER:
        raise StructureError(
            f"save: metrics[{name!r:.80}] is over 2^53 - 1; pass float(value)",
            reason=Reason.BAD_METRIC,
        )
    return number


def _way_to_number(x: Any) -> str:
    """Return the advice how to get a number, by the kind of the object that was passed."""
    if type(x).__name__.endswith("Tracer"):  # of jax, in a function under jit
        return "a traced value has no number yet: save outside of jit"
    if x is None or isinstance(x, Mapping):
        return "leave it out, or pass each number under a name of its own"
    return "float(value) of a text or a bool, float(value.mean()) of an array with axes"


def _scalar(x: Any) -> float | None:
    """Return a number without axes, of any framework; None for any other object."""
    try:
        dtype = str(getattr(x, "dtype", ""))
        if isinstance(x, bool | str | bytes) or "bool" in dtype or getattr(x, "ndim", 0) != 0:
            return None
        if "complex" in dtype or not hasattr(type(x), "__float__"):
            return None
        return int(operator.index(x)) if _is_whole(x, dtype) else float(x)
    except Exception as error:  # of the framework: a deleted or traced array, for example
        signals.pass_on(error)
        return None


def _is_whole(x: Any, dtype: str) -> bool:
    """Return whether a scalar is an integer by its type, as an array of floats is not."""
    return "int" in dtype if dtype else isinstance(x, int)


def _no_dict(name: str, value: Any, reason: Reason) -> StructureError:
    form = plain_value(value, name)
    makes_one = any(word in form.lower() for word in ("dict(", "vars(", "container(", "_dump("))
    mend = form if makes_one else f'{name}={{"name": value}}'
    return bad_argument("save", name, value, f"a dict; {mend}", reason=reason)
