"""The names that other checkpoint libraries give to things of ckptstore, for errors that lead on.

Each text holds in backticks the code to write instead. In it ``{value}`` is the value passed, and
``{first}`` the name of the first argument.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from ckptstore.errors import Reason, StructureError

_Function = TypeVar("_Function", bound=Callable[..., Any])

_KEEP = "pass `keep=keep_last({value})`"
_BEST = 'pass `keep=keep_best(2, "loss")`, and the value with each save: `metrics={"loss": loss}`'
_EVERY = "pass `every={value}`"
_PLACE = "the place comes first: `Manager({value})`"
_ASYNC = "call `save_async(step, tree)` to save in the background"
_LIKE = "pass the tree whose types, dtypes and devices you want: `like=state`"
_TREE = "the tree is one argument, without a wrapper: `save({first}, tree)`"

MANAGER: Mapping[str, str] = {
    # Orbax, and tf.train.CheckpointManager
    "max_to_keep": _KEEP,
    "save_interval_steps": _EVERY,
    "keep_period": "pass `keep=keep_every({value})`, or with others: keep_last(3) | keep_every(…)",
    "keep_time_interval": "pass a rule of steps, such as `keep=keep_every(1000)`",
    "best_fn": _BEST,
    "best_mode": 'pass `keep=keep_best(2, "loss", mode={value})`',
    "keep_checkpoints_without_metrics": 'pass `keep=keep_best(2, "loss") | keep_last(2)`',
    "should_save_fn": "put the save under an `if` of your own, or pass `every=100`",
    "save_on_steps": "save these steps with `save(step, tree, force=True)`",
    "preservation_policy": "pass `keep=keep_last(3) | keep_every(1000)`",
    "save_decision_policy": "pass `every=100`",
    "enable_async_checkpointing": _ASYNC,
    "async_options": _ASYNC,
    "cleanup_tmp_directories": "leave it out: it happens by itself, see `grace=3600`",
    "create": "leave it out: the first save makes the directory",
    "directory": _PLACE,
    "item_names": "leave it out: one tree holds all items, `save(step, {'params': params})`",
    "item_handlers": "leave it out: one tree holds all items, `save(step, {'params': params})`",
    "checkpointers": "leave it out: `Manager(url)` needs none",
    "keep_checkpoint_every_n_hours": "pass `every=datetime.timedelta(hours={value})`",
    # Lightning and Hugging Face
    "dirpath": _PLACE,
    "filename": "leave it out: a step is `step-000000000100` in the directory of the run",
    "monitor": "pass `keep=keep_best(2, {value})`, and the value in metrics= of each save",
    "mode": 'pass `keep=keep_best(2, "loss", mode={value})`',
    "save_top_k": 'pass `keep=keep_best({value}, "loss")`, and the value in metrics= of each save',
    "save_last": "leave it out: the newest step is always kept; `keep=keep_last(1)` keeps no other",
    "every_n_train_steps": _EVERY,
    "every_n_epochs": "pass a number of steps: `every=1000`",
    "train_time_interval": "pass `every=datetime.timedelta(minutes=10)`",
    "save_total_limit": _KEEP,
    "save_steps": _EVERY,
    "save_interval": _EVERY,
    "keep_every_n_steps": "pass `keep=keep_every({value})`",
    "overwrite": "pass it to the save: `save(step, tree, overwrite=True)`",
}

SAVE: Mapping[str, str] = {
    "args": _TREE,
    "item": _TREE,
    "items": _TREE,
    "state": _TREE,
    "target": _TREE,
    "state_dict": _TREE,
    "obj": _TREE,
    "force": "pass `overwrite=True` to replace a checkpoint",
    "save_args": "leave it out: arrays are stored with the dtypes that they have",
    "save_kwargs": "leave it out: arrays are stored with the dtypes that they have",
    "custom_metadata": "pass `metadata={value}`",
    "checkpoint_id": "the place comes first: `save(url, tree)`",
    "path": "the place comes first: `save(url, tree)`",
    "directory": "the place comes first: `save(url, tree)`",
    "ckpt_dir": "the place comes first: `save(url, tree)`",
    "f": "the place comes first: `save(url, tree)`",
    "keep": "it is an argument of a run: `Manager(url, keep=keep_last(3))`",
}

STEP: Mapping[str, str] = {
    name: text for name, text in SAVE.items() if "`save(url" not in text and name != "keep"
}
"""Those of the saves of a `Manager`."""

LOAD: Mapping[str, str] = {
    "args": _LIKE,
    "item": _LIKE,
    "items": _LIKE,
    "target": _LIKE,
    "template": _LIKE,
    "abstract_state": _LIKE,
    "restore_args": _LIKE,
    "restore_kwargs": _LIKE,
    "state_dict": _LIKE,
    "dtype": _LIKE + ", with `cast=True`",
    "shardings": _LIKE,
    "device": _LIKE,
    "map_location": "leave it out: a tensor comes to the CPU where its device is missing; pass "
    '`like=state` for other devices, or `arrays="numpy"` for arrays of numpy',
    "weights_only": "leave it out: a load never runs code from a file",
    "strict": 'leave it out, and load the part that fits: `select="$.params"`',
    "mmap": 'leave it out, and load the part that you need: `select="$.params"`',
    "partial_restore": 'load the part that you need: `select="$.params"`',
    "path": "the place comes first: `load(url)`",
    "directory": "the place comes first: `load(url)`",
    "ckpt_dir": "the place comes first: `load(url)`",
    "checkpoint_id": "the place comes first: `load(url)`",
    "f": "the place comes first: `load(url)`",
    "step": "a run has steps: `Manager(url).load({value})`",
}

_WAIT = "the end of the `with` block waits for the save, and so does `pending.result()` of the "
METHODS: Mapping[str, str] = {
    "latest_step": "`latest()`",
    "latest_checkpoint": "`latest()`",
    "last_model_path": "`latest()`",
    "all_steps": "`steps()`",
    "best_step": "`best(metric)`",
    "best_model_path": "`best(metric)`",
    "restore": "`load(step)`, or `load(step, like=state)`",
    "load_checkpoint": "`load(step)`",
    "restore_checkpoint": "`load(step)`",
    "restore_or_initialize": "`load_or_init(init)`",
    "resume": "`load_or_init(init)`",
    "save_checkpoint": "`save(step, tree)`",
    "async_save": "`save_async(step, tree)`",
    "wait_until_finished": "`wait()`",
    "close": _WAIT + "PendingSave that `save_async` returned",
    "check_for_errors": "the next call raises the error, and so does `pending.result()`",
    "is_saving_in_progress": "`pending.done()` of the PendingSave that `save_async` returned",
    "should_save": "`due(step)`",
    "reload": "`steps()`: each call looks the steps up in the store",
    "read": "`load(step)`",
    "metrics": "`ckptstore.inspect(url)` of the step, and its `metrics`",
    "item_metadata": "`ckptstore.inspect(url)` of the step, and its `leaves`",
    "directory": "`url`",
    "reached_preemption": "`on_preemption()`, whose result you read once a step",
    "cleanup": "`gc()`",
    "remove": "`delete(step)`",
}

PACKAGE: Mapping[str, str] = {
    "CheckpointManager": "`ckptstore.Manager(url)`",
    "CheckpointManagerOptions": "`ckptstore.Manager(url, keep=ckptstore.keep_last(3), every=100)`",
    "ModelCheckpoint": "`ckptstore.Manager(url, keep=ckptstore.keep_last(3), every=100)`",
    "Checkpointer": "`ckptstore.save(url, tree)`",
    "StandardCheckpointer": "`ckptstore.save(url, tree)`",
    "PyTreeCheckpointer": "`ckptstore.save(url, tree)`",
    "AsyncCheckpointer": "`ckptstore.save_async(url, tree)`",
    "save_checkpoint": "`ckptstore.save(url, tree)`",
    "async_save": "`ckptstore.save_async(url, tree)`",
    "restore": "`ckptstore.load(url)`",
    "restore_checkpoint": "`ckptstore.load(url)`",
    "load_checkpoint": "`ckptstore.load(url)`",
    "latest_checkpoint": "`ckptstore.Manager(url).latest()`",
    "latest_step": "`ckptstore.Manager(url).latest()`",
}


class UnknownArgumentError(StructureError, TypeError):
    """A call has an argument that it does not take."""


class UnknownNameError(StructureError, AttributeError):
    """An object has no attribute of that name."""


def explains(call: str, names: Mapping[str, str]) -> Callable[[_Function], _Function]:
    """Return a decorator whose function names the way to say it here, if a keyword is foreign.

    Args:
        call: the call, for messages.
        names: the texts, by keyword.
    """

    def decorate(function: _Function) -> _Function:
        rows = inspect.signature(function).parameters.values()
        known = {row.name for row in rows}
        most = sum(row.kind is row.POSITIONAL_OR_KEYWORD for row in rows)

        @functools.wraps(function)
        def checked(*args: Any, **keywords: Any) -> Any:
            if len(args) > most or not known.issuperset(keywords):
                own = [row.name for row in rows if row.name != "self"]
                raise _unknown(call, names, own, keywords, len(args) > most)
            return function(*args, **keywords)

        return cast(_Function, checked)

    return decorate


def unknown_name(
    where: str, name: str, names: Mapping[str, str], own: Iterable[str]
) -> AttributeError:
    """Return the error for an attribute that an object does not have.

    Args:
        where: the object, for the message.
        name: the attribute.
        names: the texts that name ours, by the names of other libraries.
        own: the attributes that the object has. The nearest one is offered.
    """
    plain = f"{where} has no attribute {name!r}"
    if name in names:
        return UnknownNameError(f"{plain}; use {names[name]}", reason=Reason.BAD_ARGUMENT)
    public = [] if name.startswith("_") else [word for word in own if not word.startswith("_")]
    near = difflib.get_close_matches(name, public, 1)
    return AttributeError(plain + (f": do you mean `{near[0]}`?" if near else ""), name=name)


def _unknown(
    call: str,
    names: Mapping[str, str],
    own: list[str],
    keywords: Mapping[str, Any],
    positional: bool,
) -> StructureError:
    lines = []
    for name, value in keywords.items():
        if name in own:
            continue
        if name == "options" and (instead := _options(value)):
            lines.append(f"no argument options: pass `{instead}`")
        elif name in names:
            lines.append(f"no argument {name}: " + _filled(names[name], value, own))
        else:
            near = difflib.get_close_matches(name, own, 1)
            lines.append(f"no argument {name}" + (f": do you mean `{near[0]}=`?" if near else ""))
    if positional:
        lines.append("too many arguments without a name: pass all but the first by name")
    text = f"{call}: {'; '.join(lines)}; its arguments are {', '.join(own)}"
    return UnknownArgumentError(text, reason=Reason.BAD_ARGUMENT)


def _filled(text: str, value: Any, own: list[str]) -> str:
    return text.replace("{value}", f"{value!r:.80}").replace("{first}", own[0])


def _options(value: Any) -> str:
    """Return our form of Orbax's options."""
    number, every = getattr(value, "max_to_keep", None), getattr(value, "save_interval_steps", 1)
    period = getattr(value, "keep_period", None)
    rules = [f"keep_last({number})"] * (type(number) is int)
    rules += [f"keep_every({period})"] * (type(period) is int)
    parts = [f"keep={' | '.join(rules)}"] * bool(rules)
    parts += [f"every={every}"] * (type(every) is int and every > 1)
    return ", ".join(parts)
