"""Save arrays under six shardings over 8 devices, and restore each under the others and on fewer.

    python benchmarks/devices.py [ROWS COLUMNS]

It compares all bits, and prints the bytes read over the bytes needed, and the memory of this host
beyond the state. `make show-devices` runs it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import tracemalloc
from typing import Any

FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402 - after the number of its devices is set
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import ckptstore  # noqa: E402
from ckptstore.checkpoint.snapshot import Snapshot  # noqa: E402

P = PartitionSpec
DEVICES = np.array(jax.devices())
GRID = Mesh(DEVICES.reshape(4, 2), ("a", "b"))
LINE = Mesh(DEVICES[::-1], ("x",))

SHARDINGS = {
    "rows": NamedSharding(LINE, P("x")),
    "columns": NamedSharding(LINE, P(None, "x")),
    "blocks": NamedSharding(GRID, P("a", "b")),
    "blocks, turned": NamedSharding(GRID, P("b", "a")),
    "rows, twice": NamedSharding(GRID, P("a")),
    "replicated": NamedSharding(GRID, P()),
}
FEWER = {
    f"rows on {n}": NamedSharding(Mesh(DEVICES[:n], ("x",)), P("x") if n > 1 else P())
    for n in (1, 2, 3, 4)
}


class Reads:
    """The bytes that are read from data files."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._fill = Snapshot.fill

    def __enter__(self) -> Reads:
        def fill(snapshot: Snapshot, name: str, offset: int, memory: Any) -> Any:
            self.nbytes += memory.size
            return self._fill(snapshot, name, offset, memory)

        Snapshot.fill = fill  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        Snapshot.fill = self._fill  # type: ignore[method-assign]


def state(rows: int, columns: int, sharding: Any) -> dict[str, Any]:
    """Return arrays whose elements are all different, and small ones."""
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    arrays = {"w": x, "half": x.astype(jax.numpy.bfloat16), "small": x[:24, :24]}
    return {name: jax.device_put(x, sharding) for name, x in arrays.items()}


def main() -> None:
    """Print a row for each pair of a stored and a restored sharding."""
    rows, columns = map(int, sys.argv[1:3] or (4800, 2400))
    print(f"| saved as | restored as | read/needed | memory beyond the state, MiB |\n|{'---|' * 4}")
    with tempfile.TemporaryDirectory() as directory:
        for saved_as, sharding in SHARDINGS.items():
            saved = state(rows, columns, sharding)
            url = os.path.join(directory, saved_as)
            ckptstore.save(url, saved)
            expected = {name: np.asarray(x) for name, x in saved.items()}
            needed = sum(x.nbytes for x in expected.values())
            for name, wanted in (SHARDINGS | FEWER).items():
                tracemalloc.start()
                with Reads() as reads:
                    loaded = ckptstore.load(url, sharding=wanted)
                held = sum(
                    len({str(shard.index): 0 for shard in x.addressable_shards})
                    * x.addressable_shards[0].data.nbytes
                    for x in loaded.values()
                )
                beyond = tracemalloc.get_traced_memory()[1] - held
                tracemalloc.stop()
                for key, x in loaded.items():
                    assert x.sharding.is_equivalent_to(wanted, x.ndim), (saved_as, name, key)
                    assert np.asarray(x).tobytes() == expected[key].tobytes(), (saved_as, name, key)
                share = reads.nbytes / needed
                print(f"| {saved_as} | {name} | {share:.2f} | {beyond / 2**20:.1f} |", flush=True)


if __name__ == "__main__":
    main()
