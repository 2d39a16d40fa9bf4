"""The kinds of directories of other tools, and the call that reads each."""

from __future__ import annotations

import logging
from collections.abc import Collection

from ckptstore.checkpoint import foreign_files, numbered
from ckptstore.checkpoint.foreign_files import Lead, code_lead, reader_lead
from ckptstore.errors import CheckpointError
from ckptstore.format import names
from ckptstore.storage import Storage

_log = logging.getLogger("ckptstore")

_ORBAX = {"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"}
_ZARR = {"zarr.json", ".zgroup", ".zarray", ".zmetadata"}
_SUFFIXES = (
    *(".safetensors.index.json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack"),
    *(".eqx", ".npz", ".npy", ".pkl", ".pickle", ".h5", ".hdf5", ".keras"),
)
_FILES_READ = 4


def lead_of(
    place: Storage, found: tuple[Collection[str], Collection[str]] | None = None
) -> Lead | None:
    """Return the kind of a place of another tool, and the call that reads it.

    Args:
        place: a directory without a manifest; or a file, whose storage is that of a directory.
        found: the names of its files and of its subdirectories, if they are known.

    Returns:
        None for a place of an unknown kind, and for one that cannot be looked at.
    """
    try:
        files, children = (place.list(), place.children()) if found is None else found
        if files or children:
            return _of_directory(place, files, children)
        return _of_file(place)
    except CheckpointError as error:
        _log.debug("%s: cannot look which kind of place it is: %s", place.url, error)
        return None


def file_lead(directory: Storage, name: str) -> Lead | None:
    """Return the kind of a file of another tool, or None.

    Raises:
        StorageError: it cannot be read.
    """
    url = f"{directory.url}/{name}"
    try:
        head = directory.read(name, foreign_files.HEAD_NBYTES)
    except FileNotFoundError:
        return None
    return foreign_files.lead_of(head, url)


def _of_file(place: Storage) -> Lead | None:
    directory, name = place.parent()
    if not name:
        return None
    if names.attempt_of(name) is not None and directory.holds(name):
        return Lead("a file of a checkpoint of ckptstore", f"pass its directory, {directory.url!r}")
    if directory.holds(name):
        return file_lead(directory, name)
    if directory.holds(f"{name}.index"):
        return _tensorflow(place.url)
    return None


def _of_directory(place: Storage, files: Collection[str], children: Collection[str]) -> Lead | None:
    url = place.url
    if names.MANIFEST in files:
        return Lead("a checkpoint of ckptstore", f"read it with ckptstore.load({url!r})")
    if _ORBAX.intersection(files):
        return _orbax("a directory of Orbax", url)
    if ".metadata" in files and any(name.endswith(".distcp") for name in files):
        return _distributed(url)
    index = next((name for name in sorted(files) if name.endswith(".index")), None)
    if index is not None and any(".data-0" in name for name in files):
        return _tensorflow(f"{url}/{index.removesuffix('.index')}")
    if _ZARR.intersection(files):
        return _zarr(url, files)
    if (step := next(iter(numbered.newest_first(files)), None)) is not None:
        lead = file_lead(place, step)
        if lead is not None and lead.reader == "from_flax":
            return reader_lead("a directory of flax checkpoints", "from_flax", url)
        if lead is not None:
            return _holds(step, lead)
    for name in _telling(files):
        if (lead := file_lead(place, name)) is not None:
            return _holds(name, lead)
    if (step := next(iter(numbered.newest_first(children)), None)) is not None:
        return _of_steps(place, step)
    items = sorted(place.holders("_METADATA"))
    return _orbax("a step of Orbax", f"{url}/{items[0]}") if items else None


def _of_steps(place: Storage, step: str) -> Lead | None:
    """Return the kind of a directory of steps, from its newest."""
    child = place.child(step)
    lead = _of_directory(child, child.list(), child.children())
    if lead is None:
        return None
    if lead.reader == "from_orbax":
        return _orbax("a directory of steps of Orbax", place.url)
    return _holds(step, lead)


def _holds(name: str, lead: Lead) -> Lead:
    if lead.what.startswith("it holds "):  # a directory in a directory
        return Lead(f"it holds {name}/{lead.what.removeprefix('it holds ')}", lead.way, lead.reader)
    return Lead(f"it holds {name}, {lead.what}", lead.way, lead.reader)


def _telling(files: Collection[str]) -> list[str]:
    """Return the files whose names promise the most, the best first."""
    ranked = [
        (rank, name) for rank, end in enumerate(_SUFFIXES) for name in files if name.endswith(end)
    ]
    return [name for _, name in sorted(ranked)][:_FILES_READ]


def _orbax(what: str, url: str) -> Lead:
    return reader_lead(what, "from_orbax", url, ", like=state")


def _distributed(url: str) -> Lead:
    return code_lead(
        "a directory of torch.distributed.checkpoint",
        "from torch.distributed.checkpoint.format_utils import dcp_to_torch_save; "
        f"dcp_to_torch_save({url!r}, 'model.pt'); tree = ckptstore.convert.from_torch('model.pt')",
        url,
    )


def _tensorflow(url: str) -> Lead:
    return code_lead(
        "a checkpoint of TensorFlow",
        f"import tensorflow as tf; reader = tf.train.load_checkpoint({url!r}); tree = "
        "{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}",
        url,
    )


def _zarr(url: str, files: Collection[str]) -> Lead:
    if ".zarray" in files:
        code = f"tree = zarr.open_array({url!r}, mode='r')[...]"
    else:
        code = (
            f"tree = {{name: x[...] for name, x in zarr.open_group({url!r}, mode='r').members("
            "max_depth=None) if isinstance(x, zarr.Array)}"
        )
    return code_lead("a directory of zarr", f"import zarr; {code}", url)
