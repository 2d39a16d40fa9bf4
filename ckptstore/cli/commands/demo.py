"""``ckptstore demo``: a training run that is killed in a save and goes on bit for bit."""

from __future__ import annotations

import importlib.util

import click

_NEEDED = ("jax", "optax", "rich", "sklearn", "matplotlib")


@click.command(epilog="Example: ckptstore demo s3://bucket/demo-run")
@click.argument("run", default="demo-run")
def command(run: str) -> int:
    """Train a small classifier three times, kill it in a save, and resume it.

    It needs the extra `demo`, and takes a few minutes.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f'the demonstration needs {", ".join(missing)}: pip install "ckptstore[demo]"'
        )
    from ckptstore.demo.__main__ import main

    return main([run])
