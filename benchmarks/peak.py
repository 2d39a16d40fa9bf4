"""The peak memory of one save or one load, measured in a process of its own.

    python benchmarks/peak.py STATE CONTENDER save|load PATH SOURCE

SOURCE is a pickle of the state, for a save.

It prints one JSON object: the bytes of resident memory that the call needed at its highest, above
what the process held before it, and how that was measured. A load has no copy of the state when it
begins, so its figure holds the loaded state too; `speed.py` subtracts it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import pickle
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import jax
from contenders import Contender, installed
from environment import status
from states import STATES, Tree


def main() -> None:
    """Measure what the command line names, and print it."""
    state, name, action, path, source = sys.argv[1:]
    (contender,) = installed(only=(name,))
    _warm_up(contender)
    tree = None
    if action == "save":
        with open(source, "rb") as file:
            tree = pickle.load(file)
    used, how = measure(contender, tree, STATES[state].template(), Path(path))
    print(json.dumps({"nbytes": used, "how": how}))


def measure(contender: Contender, tree: Tree, like: Tree, path: Path) -> tuple[int, str]:
    """Save a tree to the path, or load it from there, once.

    Args:
        contender: The tool.
        tree: What to save, or None to load.
        like: The template of what is loaded.
        path: The checkpoint.

    Returns:
        The bytes above the resident memory before the call, and the way they were counted.
    """
    gc.collect()
    return_free_memory()
    before = status("VmRSS")
    reset = reset_high_water_mark()
    if tree is not None:
        contender.save(path, tree)
    else:
        tree = jax.block_until_ready(contender.load(path, like))
    if reset:
        return status("VmHWM") - before, "VmHWM, reset before the call, less VmRSS before it"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak - before, "ru_maxrss of the process, less VmRSS before the call (an upper bound)"


def _warm_up(contender: Contender) -> None:
    """Let the tool import, start and allocate what it keeps, so that it is not counted."""
    few = STATES["few"]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "warm"
        contender.save(path, few.build())
        contender.load(path, few.template())
        shutil.rmtree(path, ignore_errors=True)


def reset_high_water_mark() -> bool:
    """Let ``VmHWM`` begin anew; return whether this system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def return_free_memory() -> None:
    """Give freed memory back to the system, or the call would reuse it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


if __name__ == "__main__":
    main()
