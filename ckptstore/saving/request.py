"""What the caller of a save says beside the tree, checked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.errors import Reason, StructureError
from ckptstore.format import wire
from ckptstore.format.names import check_step


def check(step: Any, metadata: Any, metrics: Any, supplied: Any) -> None:
    """Check the arguments of `save`.

    Raises:
        StructureError: reason ``bad-step``, ``metadata``, ``bad-metric`` or ``bad-pattern``.
    """
    if step is not None:
        check_step(step)
    _check_mapping("metadata", metadata, Reason.METADATA)
    check_metrics(metrics)
    if supplied is not None and not isinstance(supplied, list | tuple | set | frozenset):
        raise StructureError(
            f'save: supplied={supplied!r:.80}, expected a list of patterns, such as ["$.apply_fn"]',
            reason=Reason.BAD_PATTERN,
        )


def check_metrics(metrics: Any) -> None:
    """Check the metrics of a step.

    Raises:
        StructureError: reason ``bad-metric``.
    """
    _check_mapping("metrics", metrics, Reason.BAD_METRIC)
    for name, value in dict(metrics or {}).items():
        if type(name) is not str:
            raise StructureError(
                f"save: metrics has a name that is a {type(name).__name__}, expected a str; "
                'metrics={"name": value}',
                reason=Reason.BAD_METRIC,
            )
        if type(value) is not int and not isinstance(value, float):  # numpy's float64 is a float
            raise StructureError(
                f"save: metrics[{name!r:.80}] is {value!r:.80} ({type(value).__name__}), expected "
                "a float; float(value) of an array gives one",
                reason=Reason.BAD_METRIC,
            )
        if type(value) is int and abs(value) > wire.MAX_INTEGER:
            raise StructureError(
                f"save: metrics[{name!r:.80}] is over 2^53 - 1; pass float(value)",
                reason=Reason.BAD_METRIC,
            )


def plain(metrics: Mapping[str, float]) -> Mapping[str, float]:
    """Return checked metrics as Python's own numbers."""
    return {k: value if type(value) is int else float(value) for k, value in metrics.items()}


def _check_mapping(what: str, given: Any, reason: str) -> None:
    if given is not None and not isinstance(given, Mapping):
        raise StructureError(
            f"save: {what} is {given!r:.80} ({type(given).__name__}), expected a dict; "
            f'{what}={{"name": value}}',
            reason=reason,
        )
