"""Plan a state of 70 billion parameters on 1,024 hosts of 8 devices, and merge and read its index.

    python benchmarks/scale.py [--hosts N] [--replicas N] [--layers N] [--layouts NAME ...]

There are no data and no devices: everything else is the code of ckptstore. Each host plans its
share and hands in its part, process 0 merges the parts, and a reader decodes the index and plans
what it reads. Requests are counted from these plans. `make show-scale` runs it.

Each of the three is a process of its own, and its memory is what it needed above its imports.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.environment import status
from ckptstore import Processes, storage
from ckptstore.adapters import jax_shards
from ckptstore.checkpoint import read_snapshot
from ckptstore.distributed import waiting
from ckptstore.format import LARGE_NBYTES, Part, names
from ckptstore.loading import fetch
from ckptstore.saving import joint_saves
from ckptstore.saving.contents import place_files, span_table
from ckptstore.saving.placement import Piece
from ckptstore.saving.request import SaveRequest
from ckptstore.saving.staging import itemsizes
from ckptstore.sharding import Box, shape_of, share_out
from ckptstore.storage import uploads
from ckptstore.storage.bucket import BucketStorage
from ckptstore.tree import LiveTree, flatten, outline_of
from ckptstore.types import Cell

ATTEMPT = "5ca1e" * 6 + "00"
WIDTH, INNER, WORDS, HEADS = 8192, 28672, 128256, 1024
LAYER = {
    "q": (WIDTH, WIDTH), "k": (WIDTH, HEADS), "v": (WIDTH, HEADS), "o": (WIDTH, WIDTH),
    "gate": (WIDTH, INNER), "up": (WIDTH, INNER), "down": (INNER, WIDTH),
    "norm": (WIDTH,), "norm_2": (WIDTH,),
}  # fmt: skip
OUTER = {"embed": (WORDS, WIDTH), "head": (WORDS, WIDTH), "norm": (WIDTH,)}

PRICES = {"put": 0.005 / 1000, "get": 0.0004 / 1000}
"""Dollars for a PUT, POST or LIST, and for a GET: list prices of us-east-1 for S3 Standard in 2025.

A DELETE costs nothing. Other stores and other dates differ.
"""
RATES = {"put": 3500, "get": 5500}
"""Requests a second that S3 promises for a prefix that has not been split."""

WAIT_SECONDS = 60.0
"""The seconds of each of the two waits, for the start and for the commit."""


@dataclass(frozen=True)
class Device:
    """A device of a host."""

    number: int
    process_index: int


@dataclass(frozen=True)
class Mesh:
    """The devices, as the sharding of each array: rows over hosts, columns over those of one host.

    Attributes:
        hosts: the number of hosts, each one process.
        devices: the devices of a host.
        replicas: the copies of the state; each lies on `hosts / replicas` hosts.
        layers: the first axis of the arrays whose layers are stacked; 0: none are.
    """

    hosts: int
    devices: int
    replicas: int = 1
    layers: int = 0

    def devices_indices_map(self, shape: tuple[int, ...]) -> dict[Device, tuple[slice, ...]]:
        """Return the part of an array on each device, as a sharding of jax does."""
        parts = [*self._parts(shape)]
        return {
            Device(host * self.devices + column, host): parts[row * self.devices + column]
            for host in range(self.hosts)
            for row, column in itertools.product(
                [host % (self.hosts // self.replicas)], range(self.devices)
            )
        }

    @functools.lru_cache(64)  # noqa: B019 - it has no state
    def boxes(self, shape: tuple[int, ...], host: int) -> list[Box]:
        """Return the distinct boxes on the devices of a host."""
        parts, row = [*self._parts(shape)], host % (self.hosts // self.replicas)
        own = parts[row * self.devices : (row + 1) * self.devices]
        return [*dict.fromkeys(jax_shards._box(part, shape) for part in own)]

    def _parts(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
        """Yield the part of each row of hosts and column of devices; a norm is whole on all."""
        rows, first = self.hosts // self.replicas, int(shape[0] == self.layers)
        if len(shape) - first == 2:
            over = first if shape[first] % rows == 0 else first + 1
            other = 2 * first + 1 - over
            counts = {over: rows, other: self.devices if shape[other] % self.devices == 0 else 1}
        else:
            over, other, counts = -1, -1, {}
        whole = tuple(slice(0, length) for length in shape)
        for row, column in itertools.product(range(rows), range(self.devices)):
            part = [*whole]
            for axis, at in ((over, row), (other, column)):
                if (count := counts.get(axis, 1)) > 1:
                    step = shape[axis] // count
                    part[axis] = slice(at * step, (at + 1) * step)
            yield tuple(part)


def state(mesh: Mesh, layers: int) -> LiveTree:
    """Return the flattened tree of weights and both moments, whose arrays have no bytes."""
    if mesh.layers:
        weights: dict[str, Any] = {name: (layers, *shape) for name, shape in LAYER.items()}
    else:
        weights = {f"layer_{n}": LAYER for n in range(layers)}
    shapes = {part: {"layers": weights, **OUTER} for part in ("params", "mu", "nu")}
    wanted: list[tuple[int, ...]] = []

    def placeholders(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: placeholders(value) for name, value in x.items()}
        wanted.append(x)
        return np.zeros(1, np.float32)

    live = flatten(placeholders(shapes))
    cell = Cell(lambda: np.zeros(0, np.uint8))
    for number, shape in enumerate(wanted):
        grid, holders = jax_shards._held(mesh, shape, 4)
        live.leaves[number] = dataclasses.replace(
            live.leaves[number], shape=shape, grid=grid, cells=[cell] * len(grid), holders=holders
        )
    return live


class Saving:
    """The save of all processes of a mesh, as one of them plans it.

    Args:
        place: a directory.
        mesh: the devices.
        layers: the number of layers.
        index: the number of the process.
    """

    def __init__(self, place: str, mesh: Mesh, layers: int, index: int = 0) -> None:
        self.mesh, self.live = mesh, state(mesh, layers)
        self.own = outline_of(self.live)
        self.attempt = self.attempt_of(place, index)

    def attempt_of(self, place: str, index: int) -> Any:
        """Return the attempt of one process, which holds its share."""
        group = Processes(index, self.mesh.hosts, lambda data: data)
        told = joint_saves.announcement(group, "saving", place)
        request = SaveRequest.of(step=1000)
        begin = joint_saves._Beginning(place, self.live, request, group, "", told, None, None)
        return begin._attempt(storage.open(place), ATTEMPT, self.live, self.own, None)

    def part(self, nbytes: dict[Piece, int], process: int) -> Part:
        """Return the part that a process hands in, with random digests."""
        total = self.attempt.total
        placement, files = place_files(
            nbytes, ATTEMPT, None, None, (), process=process, total=total
        )
        drawn = np.random.default_rng(process).bytes(16 * len(placement.spans))
        spans = span_table(placement, [drawn[at : at + 16] for at in range(0, len(drawn), 16)])
        places = np.zeros(len(self.own.leaves), np.int64)
        places[[*self.own.leaves]] = np.arange(len(self.own.leaves))
        return Part(files, dataclasses.replace(spans, leaf=places[spans.leaf]))

    def pieces_of_all(self) -> list[dict[Piece, int]]:
        """Return the pieces that each process writes, planned at once."""
        live, own = self.live, self.own
        sizes = itemsizes(live)
        held = [joint_saves._held(live, n, sizes[n], self.mesh.hosts) for n in own.leaves]
        out: list[dict[Piece, int]] = [{} for _ in range(self.mesh.hosts)]
        rows = zip(own.leaves, share_out(held, LARGE_NBYTES), strict=True)
        for number, shared in sorted(rows, key=lambda row: len(row[1].grid) > 1):
            cells = zip(shared.grid, shared.writers, strict=True)
            for cell, (box, writer) in enumerate(cells):
                out[writer][number, cell] = math.prod(shape_of(box)) * 4
        return out


def plan(place: Path, mesh: Mesh, layers: int) -> dict[str, Any]:
    """Plan the share of one process in the middle, and hand in its part."""
    began, process = time.perf_counter(), mesh.hosts // 2
    saving = Saving(str(place), mesh, layers, process)
    nbytes = saving.attempt.staging.nbytes
    data = saving.part(nbytes, process).encode()
    return {
        "seconds": time.perf_counter() - began,
        "nbytes": sum(nbytes.values()),
        "part": len(data),
        "leaves": len(saving.live.leaves),
        "total": saving.attempt.total,
    }


def hand_in(place: Path, mesh: Mesh, layers: int) -> dict[str, Any]:
    """Hand in the parts of all processes but 0, and count the requests for their data."""
    saving = Saving(str(place), mesh, layers)
    everybody = saving.pieces_of_all()
    for process in {0, mesh.hosts // 2, mesh.hosts - 1}:  # planned for all as each plans it
        own = saving.attempt_of(str(place), process).staging.nbytes
        assert own == everybody[process]
    facts = {"parts": 0, "puts": 0, "spans": 0, "most": 0, "least": saving.attempt.total}
    for process, nbytes in enumerate(everybody):
        part = saving.part(nbytes, process)
        data = part.encode()
        share = sum(nbytes.values())
        facts["parts"] += len(data)
        facts["spans"] += len(part.spans)
        facts["puts"] += sum(puts(file.nbytes) for file in part.files)
        facts["most"], facts["least"] = max(facts["most"], share), min(facts["least"], share)
        if process:
            (place / names.note("PART", ATTEMPT, process)).write_bytes(data)
    return facts


def merge(place: Path, mesh: Mesh, layers: int) -> dict[str, Any]:
    """Do the work of process 0 between the parts and the commit."""
    saving = Saving(str(place), mesh, layers)
    attempt = saving.attempt
    own = saving.part(attempt.staging.nbytes, 0)
    began = time.perf_counter()
    draft = attempt._merge(*attempt._with_values(attempt.content), own)
    seconds = time.perf_counter() - began
    attempt.store.create(names.MANIFEST, draft.data)
    files = [file for file in draft.manifest.files if file.role == "data"]
    return {
        "seconds": seconds,
        "index": len(draft.index),
        "manifest": len(draft.data),
        "files": len(files),
    }


def read(place: Path, mesh: Mesh, layers: int) -> dict[str, Any]:
    """Decode the index, and plan what the middle process reads on the same devices."""
    host = mesh.hosts // 2

    def use(snapshot: Any) -> dict[str, Any]:
        tree = snapshot.tree()
        decoded = time.perf_counter()
        boxes = {
            leaf: mesh.boxes(tree.index.shape(leaf), host) for leaf in range(len(tree.leaf_nodes))
        }
        planning = time.perf_counter()
        reads, _ = fetch.plan(tree.index, BucketStorage.traffic, [*boxes], boxes)
        return {
            "decode": decoded - began,
            "plan": time.perf_counter() - planning,
            "gets": len(reads),
            "files": len({read.file for read in reads}),
            "read": sum(read.nbytes for read in reads),
            "needed": sum(
                4 * math.prod(shape_of(box)) for found in boxes.values() for box in found
            ),
        }

    with storage.open(place) as store:
        began = time.perf_counter()
        return read_snapshot(store, use, some=True)


STAGES = {"plan": plan, "hand in": hand_in, "merge": merge, "read": read}


def puts(nbytes: int) -> int:
    """Return the requests that send an object to S3."""
    if nbytes <= uploads.PART_NBYTES:
        return 1
    return 2 + -(-nbytes // uploads.part_nbytes(nbytes))


def looks(pauses: tuple[float, float]) -> int:
    """Return how often a process looks that waits for `WAIT_SECONDS`; a pause is shortened."""
    (pause, most), count, waited = pauses, 0, 0.0
    while waited < WAIT_SECONDS:
        count, waited = count + 1, waited + 0.875 * pause
        pause = min(pause * waiting._GROWTH, most)
    return count


def requests(mesh: Mesh, facts: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the requests of a save and of a restore; a LIST costs what a PUT costs."""
    hosts, merged, reading = mesh.hosts, facts["merge"], facts["read"]
    notes = 2 * hosts - 1 + 2  # JOIN and PART, START, VOID
    listings = 1 + (merged["files"] + notes) // 1000
    polls = (hosts - 1) * (4 + 5 * looks(waiting._MEMBER_PAUSES))
    pieces = -(-merged["index"] // BucketStorage.traffic.piece_nbytes)
    sizes = min(reading["files"], 1 + merged["files"] // 1000)
    return {
        "save": {
            "put": facts["hand in"]["puts"] + notes + puts(merged["index"]) + 1,
            "list": listings * (2 + 2 * looks(waiting._LEADER_PAUSES)),
            "get": hosts - 1 + polls,
            "delete": -(-notes // 1000),
        },
        "restore": {
            "list": hosts * (sizes + 1),
            "get": hosts * (1 + pieces + reading["gets"]),
        },
    }


def dollars(found: dict[str, int]) -> float:
    """Return the list price of requests."""
    put = found.get("put", 0) + found.get("list", 0)
    return put * PRICES["put"] + found["get"] * PRICES["get"]


def stage(name: str, place: Path, mesh: Mesh, layers: int) -> dict[str, Any]:
    """Run one stage, and add the memory that it needed."""
    before = status("VmRSS")
    facts = STAGES[name](place, mesh, layers)
    return facts | {"memory": status("VmHWM") - before}


def apart(name: str, place: Path, mesh: Mesh, layers: int) -> dict[str, Any]:
    """Run one stage in a process of its own."""
    told = json.dumps([name, str(place), dataclasses.asdict(mesh), layers])
    command = [sys.executable, __file__, "--stage", told]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def measure(mesh: Mesh, layers: int, run: Any = apart) -> dict[str, Any]:
    """Return the figures of one layout."""
    with tempfile.TemporaryDirectory() as folder:
        facts = {name: run(name, Path(folder), mesh, layers) for name in STAGES}
    return facts | {"requests": requests(mesh, facts)}


def layouts(hosts: int, replicas: int, layers: int) -> dict[str, Mesh]:
    """Return the layouts by name."""
    return {
        "stacked": Mesh(hosts, 8, layers=layers),
        "fsdp × tp": Mesh(hosts, 8),
        f"hsdp, {replicas} replicas": Mesh(hosts, 8, replicas),
    }


def lines(name: str, facts: dict[str, Any]) -> Sequence[Sequence[str]]:
    """Return the rows of a layout for the three tables."""
    planned, handed, merged, reading = (facts[stage] for stage in STAGES)
    asked = facts["requests"]
    save, restore = asked["save"], asked["restore"]
    mib = float(1 << 20)
    return (
        [
            name, f"{planned['leaves']:,}", f"{handed['spans']:,}",
            f"{planned['nbytes'] / 1e6:,.0f}", f"{handed['most'] / handed['least']:.2f}",
            f"{planned['seconds']:.1f}", f"{planned['memory'] / mib:,.0f}",
            f"{planned['part'] / 1024:,.0f}",
        ],
        [
            name, f"{handed['parts'] / mib:,.1f}", f"{merged['seconds']:.1f}",
            f"{merged['memory'] / mib:,.0f}", f"{merged['files']:,}",
            f"{merged['manifest'] / 1024:,.0f}", f"{merged['index'] / mib:,.1f}",
            f"{reading['decode']:.1f}", f"{reading['plan']:.1f}",
            f"{reading['memory'] / mib:,.0f}", f"{reading['read'] / reading['needed']:.2f}",
        ],
        [
            name, f"{save['put']:,}", f"{save['list']:,}", f"{save['get']:,}",
            f"{save['delete']}", f"{dollars(save):.2f}", f"{save['put'] / RATES['put']:,.0f}",
            f"{restore['list']:,}", f"{restore['get']:,}", f"{dollars(restore):.2f}",
            f"{(restore['list'] + restore['get']) / RATES['get']:,.0f}",
        ],
    )  # fmt: skip


HEADS_OF_TABLES = (
    (
        "layout", "leaves", "spans", "a process writes, MB", "most/least", "planned in, s",
        "memory, MiB", "its part, KiB",
    ),
    (
        "layout", "all parts, MiB", "merged in, s", "memory, MiB", "data files", "manifest, KiB",
        "index, MiB", "decoded in, s", "reads planned in, s", "memory, MiB", "read/needed",
    ),
    (
        "layout", "save: PUT", "LIST", "GET", "to delete its notes", "$", "s at 3,500 PUT/s",
        "restore: LIST", "GET", "$", "s at 5,500/s",
    ),
)  # fmt: skip


def main() -> None:
    """Print three tables, with a row for each layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1024)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--layouts", nargs="*", default=[])
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        name, place, mesh, layers = json.loads(args.stage)
        print(json.dumps(stage(name, Path(place), Mesh(**mesh), layers)))
        return
    chosen = {
        name: mesh
        for name, mesh in layouts(args.hosts, args.replicas, args.layers).items()
        if not args.layouts or any(part in name for part in args.layouts)
    }
    rows = []
    for name, mesh in chosen.items():
        facts = measure(mesh, args.layers)
        total = facts["plan"]["total"] / 1e9
        print(f"{name}: {total:,.0f} GB on {mesh.hosts:,} × {mesh.devices}", file=sys.stderr)
        rows.append(lines(name, facts))
    for head, body in zip(HEADS_OF_TABLES, zip(*rows, strict=True), strict=True):
        print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for row in body:
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
