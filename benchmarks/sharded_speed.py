"""How long a save and a load of arrays on 8 devices take, beside Orbax, and how much memory.

    python benchmarks/sharded_speed.py [--mib 840] [--rounds 5] [--dir DIR]

The rounds of the tools are interleaved. Each load goes to the shardings of the saved state. Memory
is that of this process beyond the state, at the highest point, as `benchmarks/peak.py` samples it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402 - after the number of its devices is set
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ckptstore  # noqa: E402

_PAGE = os.sysconf("SC_PAGE_SIZE")
_trim = ctypes.CDLL(None).malloc_trim
"""Gives freed memory back to the system, which would hide a peak."""


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


class Peak:
    """The highest resident memory during a block, in bytes beyond that at its begin."""

    def __enter__(self) -> Peak:
        gc.collect()
        _trim(0)
        self._begin = self._highest = resident()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.002):
            self._highest = max(self._highest, resident())

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        self.nbytes = max(self._highest, resident()) - self._begin


def make_state(mib: int) -> dict[str, Any]:
    """Return an AdamW-like state: params, mu and nu, in blocks over a mesh of 4 x 2."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
    rng, specs = np.random.default_rng(0), (PartitionSpec("data", "model"), PartitionSpec("data"))
    rows = mib * 2**20 // (3 * 12 * 4 * 2048) // 8 * 8
    return {
        part: {
            f"layer{n}": jax.device_put(
                rng.standard_normal((rows, 2048), np.float32), NamedSharding(mesh, specs[n % 2])
            )
            for n in range(12)
        }
        for part in ("params", "mu", "nu")
    }


def main() -> None:
    """Measure, and print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=840)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir")
    options = parser.parse_args()
    state = make_state(options.mib)
    nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
    orbax = ocp.StandardCheckpointer()
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )

    def save_orbax(url: str) -> None:
        orbax.save(url, state)
        orbax.wait_until_finished()

    tools: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
        "ckptstore": (lambda url: ckptstore.save(url, state), ckptstore.load),
        "Orbax": (save_orbax, lambda url: orbax.restore(url, like)),
    }
    seen: dict[str, list[tuple[float, ...]]] = {name: [] for name in tools}
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for number in range(options.rounds):
            for name in sorted(tools, reverse=bool(number % 2)):
                save, load = tools[name]
                url = f"{directory}/{name}-{number}"
                with Peak() as saving:
                    begin = time.perf_counter()
                    save(url)
                    saved_s = time.perf_counter() - begin
                with Peak() as loading:
                    begin = time.perf_counter()
                    loaded = jax.block_until_ready(load(url))
                    loaded_s = time.perf_counter() - begin
                jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), state, loaded)
                del loaded
                shutil.rmtree(url)
                seen[name].append((saved_s, loaded_s, saving.nbytes, loading.nbytes - nbytes))
    print(f"{nbytes / 1e9:.2f} GB over 8 devices, medians of {options.rounds} interleaved rounds\n")
    print(f"| | save s | load s | save, MiB | load beyond the state, MiB |\n|{'---|' * 5}")
    medians = {
        name: [statistics.median(x) for x in zip(*rows, strict=True)] for name, rows in seen.items()
    }
    for name, (save_s, load_s, *memory) in medians.items():
        mib = " | ".join(f"{n / 2**20:.0f}" for n in memory)
        print(f"| {name} | {save_s:.2f} | {load_s:.2f} | {mib} |")
    ours, theirs = medians["ckptstore"], medians["Orbax"]
    print(f"| Orbax / ckptstore | {theirs[0] / ours[0]:.2f} | {theirs[1] / ours[1]:.2f} | | |")


if __name__ == "__main__":
    main()
