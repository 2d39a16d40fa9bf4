"""Places on the command line: a checkpoint, or a step of a run as ``RUN@STEP``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import click

import ckptstore
from ckptstore import Manager, NotCommittedError, Reader, Reason, StructureError
from ckptstore.format.names import step_name

_STEPS_SHOWN = 20
_STEP = re.compile(r"(?P<run>.+)@(?P<step>-?[0-9]+|latest|best:[^:]+(?::(?:min|max))?)")

_DIRECTORY = re.compile(r"(?P<run>.+)/step-(?P<step>[0-9]{12,16})/?")


def open_place(text: str, options: Mapping[str, Any] | None) -> Reader:
    """Open the checkpoint at a place. A run alone is its newest step.

    Raises:
        CheckpointError: there is none.
    """
    if (found := _named_step(text)) is not None:
        manager = Manager(found["run"], storage_options=options)
        try:
            url = manager.url_of(_number(manager, found["step"], is_checked=False))
            return ckptstore.open_checkpoint(url, storage_options=options)
        except NotCommittedError:
            _number(manager, found["step"])  # its error names the steps that are there
            raise
    try:
        return ckptstore.open_checkpoint(text, storage_options=options)
    except NotCommittedError:
        manager = Manager(text, storage_options=options)
        step = manager.latest()
        if step is None:
            raise
    return ckptstore.open_checkpoint(manager.url_of(step), storage_options=options)


def url_of(text: str, options: Mapping[str, Any] | None) -> str:
    """Return the URL of the checkpoint at a place.

    Raises:
        CheckpointError: there is none.
    """
    with open_place(text, options) as reader:
        return reader.url


def step_of(text: str, options: Mapping[str, Any] | None) -> tuple[Manager, int]:
    """Return the run and the number of a step; a run alone is its newest step.

    Raises:
        CheckpointError: there is none.
    """
    if (found := _DIRECTORY.fullmatch(text)) is not None:
        return Manager(found["run"], storage_options=options), int(found["step"])
    if (found := _named_step(text)) is None:
        manager = manager_of(text, options)
        return manager, _number(manager, "latest")
    manager = Manager(found["run"], storage_options=options)
    return manager, _number(manager, found["step"])


def exact_url(text: str, options: Mapping[str, Any] | None) -> str:
    """Return the URL of a checkpoint that is named alone, or as a step. It may be damaged.

    Raises:
        click.UsageError: it is a run.
        CheckpointError: the run has no such step.
    """
    if (found := _named_step(text)) is not None:
        manager = Manager(found["run"], storage_options=options)
        return manager.url_of(_number(manager, found["step"]))
    try:
        step = Manager(text, storage_options=options).latest()
    except StructureError as error:
        if error.reason != Reason.IS_A_CHECKPOINT:
            raise
        return text
    if step is not None:
        raise click.UsageError(f"{text} is a run; name the step, such as {text}@{step}")
    return text


def new_url(text: str) -> tuple[str, int | None]:
    """Return the URL of a checkpoint to be, and its step if it is named as ``RUN@STEP``."""
    run, at, step = text.rpartition("@")
    if at and run and step.isdecimal():
        return f"{run}/{step_name(int(step))}", int(step)
    return text, None


def _named_step(text: str) -> re.Match[str] | None:
    """Return the parts of ``RUN@STEP``; None of another text, or where a directory is called so."""
    found = _STEP.fullmatch(text)
    return None if found is not None and os.path.isdir(text) else found


def _number(manager: Manager, text: str, *, is_checked: bool = True) -> int:
    if text.startswith("best:"):
        _, metric, *mode = text.split(":")
        chosen: Any = mode[0] if mode else "min"
        best = manager.best(metric, mode=chosen)
        if best is None:
            raise _no_step(manager)
        return best
    if text == "latest" or text.startswith("-"):
        steps = manager.steps()
        back = 1 if text == "latest" else int(text[1:])
        if not 1 <= back <= len(steps):
            raise (
                _no_step(manager)
                if not steps
                else click.UsageError(
                    f"{manager.url} has {len(steps)} steps; {text} is before the first"
                )
            )
        return steps[-back]
    if is_checked and int(text) not in (steps := manager.steps()):
        if not steps:
            raise _no_step(manager)
        there = ", ".join(map(str, steps[-_STEPS_SHOWN:]))
        raise NotCommittedError(
            f"{manager.url}: there is no step {text}; take one of {there}", reason=Reason.NO_STEP
        )
    return int(text)


def manager_of(run: str, options: Mapping[str, Any] | None, *, finished: bool = True) -> Manager:
    """Return the manager of a run that has a step.

    Args:
        run: its directory.
        options: the storage options.
        finished: the step has to be committed.

    Raises:
        CheckpointError: it has none, or is another thing.
    """
    manager = Manager(run, storage_options=options)
    if manager.latest() is None and (finished or not manager.unfinished()):
        raise _no_step(manager)
    return manager


def _no_step(manager: Manager) -> NotCommittedError:
    return NotCommittedError(
        f"{manager.url}: there is no run with a step; check the path", reason=Reason.NO_STEP
    )
