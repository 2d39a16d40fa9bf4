"""How long a save to a bucket and a load from it take, beside clients that only move bytes.

    python benchmarks/buckets.py [--quick] [--json FILE] [--servers NAME ...] [--states NAME ...]

`README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peak
import speed
from environment import describe
from rich.console import Console
from rich.table import Table
from states import STATES, Tree

import ckptstore

sys.path.append(str(Path(__file__).parents[1]))

from tests.support.servers import Ministack, S3Server
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.proxy import Request as Sent

_ROUNDS = 5
_QUICK_ROUNDS = 3
_PIECE_NBYTES = 8 << 20
_PARALLEL = 8
_THREADS = 16
_LARGE_NBYTES = 100 << 20
_PACKAGES = ("s3fs", "aiobotocore", "aiohttp", "boto3", "obstore", "ministack")


class Plain(S3Server):
    """`fast_s3.py`: a server that costs next to nothing, so that the client is what is measured."""

    kind = "plain"

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fast_s3.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().split()[1])
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def new_bucket(self) -> str:
        return "bench"


SERVERS: dict[str, type[S3Server]] = {"plain": Plain, "ministack": Ministack}


@dataclass
class Place:
    """Where a contender puts its objects, and of which sizes those are."""

    endpoint: str
    bucket: str
    sizes: Sequence[int] = ()


class Contender:
    """One way to move the bytes of a state.

    Attributes:
        name: what the tables call it.
        module: what must be installed for it to take part.
        whole: it saves a tree; others the bytes of objects.
    """

    name: str
    module: str = ""
    whole: bool = False

    def __init__(self, place: Place) -> None:
        self.place = place

    def save(self, path: Any, tree: Any) -> None:
        """Store the objects below a prefix."""
        raise NotImplementedError

    def load(self, path: Any, like: Any) -> Any:
        """Return all bytes below the prefix, in memory that is allocated for it."""
        raise NotImplementedError

    def _pieces(self) -> list[tuple[int, int, int]]:
        """Return the ranges to read: object, start, end."""
        return [
            (number, start, min(start + _PIECE_NBYTES, size))
            for number, size in enumerate(self.place.sizes)
            for start in range(0, size, _PIECE_NBYTES)
        ]


class Ckptstore(Contender):
    """This library."""

    name = "ckptstore"
    whole = True

    def save(self, path: Any, tree: Any) -> None:
        ckptstore.save(self._url(path), tree, storage_options=_options(self.place.endpoint))

    def load(self, path: Any, like: Any) -> Any:
        return ckptstore.load(self._url(path), storage_options=_options(self.place.endpoint))

    def _url(self, path: Any) -> str:
        return f"s3://{self.place.bucket}/{path}"


class S3fs(Contender):
    """s3fs, all objects at once; reads in pieces."""

    name = "s3fs"
    module = "s3fs"

    def __init__(self, place: Place) -> None:
        import s3fs

        super().__init__(place)
        config = {"max_pool_connections": 32}
        self.fs = s3fs.S3FileSystem(**_options(place.endpoint), config_kwargs=config)

    def save(self, path: Any, tree: Any) -> None:
        bucket = self.place.bucket
        self.fs.pipe({f"{bucket}/{path}/{n}": data for n, data in enumerate(tree)})

    def load(self, path: Any, like: Any) -> Any:
        pieces = self._pieces()
        paths = [f"{self.place.bucket}/{path}/{number}" for number, _, _ in pieces]
        starts, ends = [start for _, start, _ in pieces], [end for _, _, end in pieces]
        return self.fs.cat_ranges(
            paths, starts, ends, on_error="raise", batch_size=_PARALLEL, max_gap=None
        )


class _Into(io.RawIOBase):
    """A file that is memory of a known size."""

    def __init__(self, nbytes: int) -> None:
        self.memory = memoryview(bytearray(nbytes))
        self.at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset
        return offset

    def write(self, data: Any) -> int:
        self.memory[self.at : self.at + len(data)] = data
        self.at += len(data)
        return len(data)


class Boto3(Contender):
    """boto3's transfer manager with 16 threads, from and to memory."""

    name = "boto3, 16 threads"
    module = "boto3"

    def __init__(self, place: Place) -> None:
        import boto3
        from botocore.config import Config

        super().__init__(place)
        self.client = boto3.session.Session().client(
            "s3",
            endpoint_url=place.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(max_pool_connections=32, s3={"addressing_style": "path"}),
        )

    def save(self, path: Any, tree: Any) -> None:
        with self._manager() as manager:
            jobs = [
                manager.upload(io.BytesIO(data), self.place.bucket, f"{path}/{number}")
                for number, data in enumerate(tree)
            ]
            for job in jobs:
                job.result()

    def load(self, path: Any, like: Any) -> Any:
        files = [_Into(size) for size in self.place.sizes]
        with self._manager() as manager:
            jobs = [
                manager.download(self.place.bucket, f"{path}/{number}", file)
                for number, file in enumerate(files)
            ]
            for job in jobs:
                job.result()
        return [file.memory for file in files]

    def _manager(self) -> Any:
        from s3transfer.manager import TransferConfig, TransferManager

        settings = TransferConfig(
            multipart_threshold=_PIECE_NBYTES,
            multipart_chunksize=_PIECE_NBYTES,
            max_request_concurrency=_THREADS,
        )
        return TransferManager(self.client, settings)


class Obstore(Contender):
    """obstore from threads: its own uploads in parts, and ranges copied into memory."""

    name = "obstore"
    module = "obstore"

    def __init__(self, place: Place) -> None:
        from obstore.store import S3Store

        super().__init__(place)
        self.store = S3Store(
            place.bucket,
            endpoint=place.endpoint,
            region="us-east-1",
            access_key_id="test",
            secret_access_key="test",
            client_options={"allow_http": True},
        )

    def save(self, path: Any, tree: Any) -> None:
        import obstore

        def put(job: tuple[int, bytes]) -> None:
            obstore.put(
                self.store,
                f"{path}/{job[0]}",
                job[1],
                use_multipart=len(job[1]) > _PIECE_NBYTES,
                chunk_size=_PIECE_NBYTES,
                max_concurrency=2,
            )

        with ThreadPoolExecutor(_PARALLEL // 2) as pool:
            list(pool.map(put, enumerate(tree)))

    def load(self, path: Any, like: Any) -> Any:
        import obstore

        memory = [np.empty(size, np.uint8) for size in self.place.sizes]

        def get(piece: tuple[int, int, int]) -> None:
            number, start, end = piece
            data = obstore.get_range(self.store, f"{path}/{number}", start=start, end=end)
            memory[number][start:end] = np.frombuffer(data, np.uint8)

        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(get, self._pieces()))
        return memory


CONTENDERS: dict[str, type[Contender]] = {
    kind.name: kind for kind in (Ckptstore, S3fs, Boto3, Obstore)
}


@dataclass
class Result:
    """What was measured of one contender; a figure a round, and the highest memory of one call."""

    contender: str
    save_s: list[float] = field(default_factory=list)
    save_cpu_s: list[float] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    load_cpu_s: list[float] = field(default_factory=list)
    save_peak_nbytes: int | None = None
    load_peak_nbytes: int | None = None


def _numpy_state() -> Tree:
    draw = np.random.default_rng(0).standard_normal
    return {f"leaf_{number:02d}": draw(12_500_000, np.float32) for number in range(20)}


def _demo_state() -> Tree:
    """Return a state like the one that `python -m ckptstore.demo` trains."""
    sizes = ((64, 1024), (1024, 1024), (1024, 10))
    params = [{"w": jnp.ones(size), "b": jnp.zeros(size[1])} for size in sizes]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = {"params": params, "opt_state": optimizer.init(params), "step": 0}
    return state | {"key": jax.random.key(0), "order": np.arange(1797), "position": 1797}


BUILDERS: dict[str, Callable[[], Tree]] = {
    "1 GB": _numpy_state,
    "small": STATES["small"].build,
    "demo": _demo_state,
}


def main() -> None:
    """Measure, print the tables, and write the figures to a file if one is named."""
    _forget_credentials()
    if sys.argv[1:2] == ["--peak"]:
        _peak_here(*sys.argv[2:])
        return
    options = _arguments()
    console = Console(width=130)
    facts = describe(Path(tempfile.gettempdir())) | _versions()
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    record: dict[str, Any] = {"environment": facts, "speed": {}, "requests": {}}
    for kind, state in itertools.product(options.servers, options.states):
        with SERVERS[kind]() as server:
            results, sizes = measure(server, state, options)
        head = f"{state}: {sum(sizes) / 1e6:,.1f} MB in {len(sizes)} objects · server: {kind}"
        console.print(_speed_table(head, results))
        record["speed"][f"{kind}, {state}"] = [asdict(result) for result in results]
    if not options.no_requests:
        with Ministack() as server, FaultProxy(server) as proxy:
            rows = count(proxy, server.new_bucket())
        console.print(_request_table(rows))
        record["requests"] = rows
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def measure(
    server: S3Server, state: str, options: argparse.Namespace
) -> tuple[list[Result], list[int]]:
    """Save and load with each contender in turn, several rounds, in another order each round."""
    bucket, tree = server.new_bucket(), BUILDERS[state]()
    Ckptstore(Place(server.endpoint, bucket)).save("sizes", tree)
    place = Place(server.endpoint, bucket, sorted(server.objects(bucket).values(), reverse=True))
    _empty(server, bucket)
    objects = _objects(tree, place.sizes)
    contenders = [kind(place) for name, kind in CONTENDERS.items() if _chosen(kind, options.only)]
    results = {contender.name: Result(contender.name) for contender in contenders}
    for contender in contenders:
        _warm_up(contender)
    _empty(server, bucket)
    for number in range(_QUICK_ROUNDS if options.quick else _ROUNDS):
        for contender in random.Random(number).sample(contenders, len(contenders)):
            data = tree if contender.whole else objects
            result = results[contender.name]
            ready_nbytes = 2 * sum(place.sizes)
            seconds, cpu, _ = speed.timed(ready_nbytes, contender.save, number, data)
            result.save_s.append(seconds)
            result.save_cpu_s.append(cpu)
            seconds, cpu, loaded = speed.timed(ready_nbytes, contender.load, number, None)
            result.load_s.append(seconds)
            result.load_cpu_s.append(cpu)
            if not number:
                _check(loaded, data)
            del loaded
            _empty(server, bucket)
            _progress(f"{server.kind}, {state}: {result.contender}", result)
    if sum(place.sizes) >= _LARGE_NBYTES and not options.no_memory:
        del tree, objects, data
        for result in results.values():
            _add_peaks(result, state, place)
            _empty(server, bucket)
    return list(results.values()), list(place.sizes)


def _progress(what: str, result: Result) -> None:
    """Say on stderr how far this is: a large state takes minutes."""
    last = (result.save_s[-1], result.save_cpu_s[-1], result.load_s[-1], result.load_cpu_s[-1])
    figures = "save {:.3f} s, CPU {:.3f} s; load {:.3f} s, CPU {:.3f} s".format(*last)
    print(f"{what}: {figures}", file=sys.stderr, flush=True)


def _objects(tree: Tree, sizes: Sequence[int]) -> list[bytes]:
    """Return the bytes of all leaves, cut into objects of those sizes; what is missing is zero."""
    flat = memoryview(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)))
    ends = list(itertools.accumulate(sizes))
    return [
        bytes(flat[end - size : end]).ljust(size, b"\0")
        for end, size in zip(ends, sizes, strict=True)
    ]


def _warm_up(contender: Contender) -> None:
    """Let the client connect and start what it keeps."""
    place = contender.place
    contender.place = Place(place.endpoint, place.bucket, [4000])
    path = f"warm-{os.urandom(8).hex()}"
    few = {"few": np.zeros(1000, np.float32)}
    contender.save(path, few if contender.whole else _objects(few, contender.place.sizes))
    contender.load(path, None)
    contender.place = place


def _check(loaded: Any, data: Any) -> None:
    """Raise unless the bytes came back: a wrong load must not win a race."""
    if isinstance(data, list):
        same = b"".join(loaded) == b"".join(data)
    else:
        pairs = zip(jax.tree.leaves(loaded), jax.tree.leaves(data), strict=True)
        same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
    if not same:
        raise ValueError("what came back differs from what was saved")


def _empty(server: S3Server, bucket: str) -> None:
    for key in server.objects(bucket):
        server.delete(bucket, key)


def _add_peaks(result: Result, state: str, place: Place) -> None:
    """Measure the highest memory of one save and one load, in a process of its own each."""
    for action in ("save", "load"):
        command = [sys.executable, __file__, "--peak", result.contender, action, state]
        place_json = json.dumps(asdict(place))
        done = subprocess.run([*command, place_json], check=True, stdout=subprocess.PIPE, text=True)
        used = json.loads(done.stdout.splitlines()[-1])["nbytes"]
        if action == "save":
            result.save_peak_nbytes = used
        else:
            result.load_peak_nbytes = used - sum(place.sizes)


def _peak_here(name: str, action: str, state: str, place_json: str) -> None:
    contender = CONTENDERS[name](Place(**json.loads(place_json)))
    _warm_up(contender)
    data = BUILDERS[state]() if action == "save" else None
    if data is not None and not contender.whole:
        data = _objects(data, contender.place.sizes)
    # peak.measure saves where it is given a tree, and else loads.
    used, how = peak.measure(contender, data, None, "peak")  # type: ignore[arg-type]
    print(json.dumps({"nbytes": used, "how": how}))


def _kind(sent: Sent) -> str:
    """Return what a request is for, in the words of S3."""
    if sent.method == "GET":
        return "list" if "list-type=2" in sent.target else "get"
    if sent.method == "PUT":
        return "part" if "partNumber=" in sent.target else "put"
    if sent.method == "POST":
        return "begin" if re.search(r"\?uploads\b", sent.target) else "finish"
    return sent.method.lower()


def count(proxy: FaultProxy, bucket: str) -> list[dict[str, Any]]:
    """Count the requests of saves and loads, by kind, and the bytes read."""
    rows: list[dict[str, Any]] = []
    options = _options(proxy.endpoint)
    for name, select in (
        ("demo", "$.params[0].w"),
        ("small", "$.params.layer_0500.kernel"),
        ("1 GB", "$.leaf_07"),
    ):
        tree, url = BUILDERS[name](), f"s3://{bucket}/{name.replace(' ', '-')}"
        save = functools.partial(ckptstore.save, url, tree, storage_options=options)
        load = functools.partial(ckptstore.load, url, storage_options=options)
        calls: dict[str, Callable[..., Any]] = {
            "save" if rows else "first save of the process": save,
            "save over it": functools.partial(save, overwrite=True),
            "load": load,
            f"load {select}": functools.partial(load, select=select),
            "inspect": functools.partial(ckptstore.inspect, url, storage_options=options),
        }
        for what, call in calls.items():
            proxy.reset()
            call()
            log = proxy.requests()
            read = sum(sent.answered for sent in log if sent.method == "GET")
            kinds = dict(Counter(_kind(sent) for sent in log))
            rows.append(
                {
                    "what": f"{name}: {what}",
                    "kinds": kinds,
                    "requests": len(log),
                    "read_nbytes": read,
                }
            )
    return rows


def _speed_table(head: str, results: list[Result]) -> Table:
    table = Table(title=head)
    table.add_column("tool")
    for action in ("save", "load"):
        for column in (f"{action}, s", "min–max", "CPU, s", "÷ s3fs", "peak"):
            table.add_column(column, justify="right")
    table.add_column("n", justify="right")
    by_name = {result.contender: result for result in results}
    for result in results:
        row = [result.contender]
        for action in ("save", "load"):
            seconds = getattr(result, f"{action}_s")
            median = speed._median(seconds)
            row += [
                speed._seconds(median),
                f"{speed._seconds(min(seconds))}–{speed._seconds(max(seconds))}",
                speed._seconds(speed._median(getattr(result, f"{action}_cpu_s"))),
                speed._ratio(median, speed._other(by_name, S3fs.name, f"{action}_s")),  # type: ignore[arg-type]
                speed._megabytes(getattr(result, f"{action}_peak_nbytes")),
            ]
        table.add_row(*row, str(len(result.save_s)))
    return table


_KINDS = ("put", "begin", "part", "finish", "get", "head", "list", "delete")


def _request_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Requests")
    table.add_column("what")
    for kind in (*_KINDS, "all", "read"):
        table.add_column(kind, justify="right")
    for row in rows:
        kinds = [str(row["kinds"].get(kind, "")) for kind in _KINDS]
        read = f"{row['read_nbytes']:,}"
        table.add_row(row["what"], *kinds, str(row["requests"]), read)
    return table


def _forget_credentials() -> None:
    """Let no client find credentials or settings of the person who runs this."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_CONFIG_FILE=os.devnull,
        NO_PROXY="127.0.0.1",
        no_proxy="127.0.0.1",
    )


def _options(endpoint: str) -> dict[str, Any]:
    return {"key": "test", "secret": "test", "endpoint_url": endpoint}


def _chosen(kind: type[Contender], only: Sequence[str]) -> bool:
    try:
        return (not kind.module or bool(version(kind.module))) and (not only or kind.name in only)
    except PackageNotFoundError:
        return False


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure saves to a bucket and loads from it.")
    parser.add_argument("--quick", action="store_true", help="3 rounds in place of 5")
    parser.add_argument("--json", metavar="FILE", help="also write every figure to this file")
    parser.add_argument("--servers", nargs="+", choices=tuple(SERVERS), default=list(SERVERS))
    parser.add_argument("--states", nargs="*", choices=("1 GB", "small"), default=["1 GB", "small"])
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), default=[])
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--no-requests", action="store_true", help="do not count requests")
    return parser.parse_args()


if __name__ == "__main__":
    main()
