"""``ckptstore import``: read a file of another tool, and save it as a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

import ckptstore
from ckptstore import convert
from ckptstore.cli import texts
from ckptstore.cli.arguments import Output, common
from ckptstore.cli.places import new_url
from ckptstore.handling import split_options

_READERS: Mapping[str, Callable[..., Any]] = {
    "safetensors": convert.from_safetensors,
    "npz": convert.from_npz,
    "torch": convert.from_torch,
    "flax": convert.from_flax,
    "pickle": convert.from_pickle,
}
_NEED_LIKE = ("orbax", "equinox")


@click.command(epilog="Example: ckptstore import safetensors model.safetensors run@0")
@common
@click.argument("format", type=click.Choice([*_READERS, *_NEED_LIKE]))
@click.argument("src")
@click.argument("dst")
@click.option("--overwrite", is_flag=True, help="Replace another checkpoint at DST.")
def command(output: Output, format: str, src: str, dst: str, overwrite: bool) -> None:
    """Read a file of another tool as numpy arrays in plain containers, and save it.

    DST is a directory, or RUN@STEP. Files of orbax and equinox lack the types of your state, so you
    read them in Python, with like=.
    """
    if format in _NEED_LIKE:
        raise click.UsageError(
            f"{format} does not store the types of your state; in Python: "
            f"state = ckptstore.convert.from_{format}({src!r}, like=state), then "
            f"ckptstore.save({dst!r}, state)"
        )
    of_src, of_dst = split_options(src, dst, output.options)
    tree = _READERS[format](src, arrays="numpy", storage_options=of_src)
    url, step = new_url(dst)
    saved = ckptstore.save(url, tree, step=step, overwrite=overwrite, storage_options=of_dst)
    arrays = len(saved.leaves)
    if output.as_json:
        output.json("import", url=saved.url, step=step, arrays=arrays, nbytes=saved.nbytes)
    output.lines([f"{texts.clean(saved.url)}   {arrays} arrays, {texts.size(saved.nbytes)}"])
