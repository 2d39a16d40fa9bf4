"""The arguments of a save other than the tree and the place, checked before anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptstore.errors import Reason, StructureError, bad_argument
from ckptstore.format import encode_metadata, wire
from ckptstore.format.names import check_step


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """The arguments of one save, checked.

    Attributes:
        step: the training step, or None.
        metadata: the encoded metadata.
        metrics: Python's own numbers, by name.
        supplied: patterns of the paths that `load` takes from `like`.
        overwrite: replace an existing checkpoint; None: a `Manager` decides.
        storage_options: the options of the store.
    """

    step: int | None
    metadata: bytes
    metrics: Mapping[str, float]
    supplied: Sequence[str]
    overwrite: bool | None
    storage_options: Mapping[str, Any] | None = field(repr=False)  # it may hold secrets

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
    ) -> SaveRequest:
        """Check the arguments of `save`, and copy them.

        Raises:
            StructureError: reason ``bad-step``, ``metadata``, ``bad-metric`` or ``bad-pattern``.
        """
        if step is not None:
            check_step(step)
        _check_mapping("metadata", metadata, Reason.METADATA)
        check_metrics(metrics)
        given: Any = supplied
        if given is not None and not isinstance(given, list | tuple | set | frozenset):
            raise bad_argument(
                "save",
                "supplied",
                given,
                'a list of patterns, such as ["$.apply_fn"]',
                reason=Reason.BAD_PATTERN,
            )
        return cls(
            step=step,
            metadata=encode_metadata(dict(metadata or {})),
            metrics={
                name: value if type(value) is int else float(value)  # numpy's float64 is a float
                for name, value in (metrics or {}).items()
            },
            supplied=tuple(supplied or ()),
            overwrite=overwrite,
            storage_options=storage_options,
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
        if type(value) is not int and not isinstance(value, float):
            raise bad_argument(
                "save",
                f"metrics[{name!r:.80}]",
                value,
                "a float; float(value) of an array gives one",
                reason=Reason.BAD_METRIC,
            )
        if type(value) is int and abs(value) > wire.MAX_INTEGER:
            raise StructureError(
                f"save: metrics[{name!r:.80}] is over 2^53 - 1; pass float(value)",
                reason=Reason.BAD_METRIC,
            )


def _check_mapping(name: str, value: Any, reason: Reason) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise bad_argument("save", name, value, f'a dict; {name}={{"name": value}}', reason=reason)
