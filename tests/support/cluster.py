"""Real processes on the loopback address, started as a cluster would, and threads in their place.

    def job(together: Processes, place: str) -> Any:  # at the top of a module
        ...                                           # returns what JSON can hold

    ended = cluster.run("torch", 3, job, str(tmp_path))
    assert [process.value for process in ended] == ["saved"] * 3

Kinds: "jax" (virtual devices of the CPU), "torch" (gloo), and two that start at once: "plain", a
broadcast over files, and "slurm", the variables of an `srun` and no broadcast. Nothing waits
without a bound. Only own processes are ended.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ckptstore import Processes, processes
from ckptstore.distributed import group, word
from tests.support import ROOT

_FOLDER, _INDEX = "CKPTSTORE_CLUSTER_FOLDER", "CKPTSTORE_CLUSTER_INDEX"
WITHIN = 240.0
"""The bound of everything, in seconds: pytest ends a test after 300."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended, or that stays after its function has.

    Attributes:
        index: its number.
        returncode: its exit status; negative: the signal that ended it; None: it stays.
        value: what its function returned; None if it did not.
        stdout: what it printed.
        stderr: what it and its engine printed there.
        seconds: from its start to its end, or to the last look.
    """

    index: int
    returncode: int | None
    value: Any
    stdout: str
    stderr: str
    seconds: float


def run(
    kind: str, count: int, function: Callable[..., Any], *arguments: Any, **options: Any
) -> list[Ended]:
    """Start processes, and return them when all have ended. The options are those of `Cluster`."""
    with Cluster(kind, count, function, *arguments, **options) as cluster:
        return cluster.ended()


class Cluster:
    """Processes that run; the end of its block kills those that are left.

    Args:
        kind: "jax", "torch", "plain" or "slurm".
        count: the number of processes.
        function: a function at the top of a module. Each process calls it with its `Processes` and
            the arguments; it returns what JSON can hold.
        arguments: what JSON can hold.
        devices: the number of devices of each process of jax.
        timeout: that of the `Processes`, in seconds.
        heartbeat: the seconds after which jax takes a silent process for dead, and ends the others.
        stay: a process stays when its function has returned, so that no end of an engine disturbs
            the others. For tests that kill.
        within: the bound of all, in seconds.
        environment: more variables.
    """

    def __init__(
        self,
        kind: str,
        count: int,
        function: Callable[..., Any],
        *arguments: Any,
        devices: int = 1,
        timeout: float = 120.0,
        heartbeat: int = 100,
        stay: bool = False,
        within: float = WITHIN,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        assert kind in _STARTS, kind
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._count, self._stay = count, stay
        job = {"kind": kind, "count": count, "port": free_port(), "arguments": arguments}
        job |= {"module": function.__module__, "function": function.__qualname__}
        job |= {"timeout": timeout, "heartbeat": heartbeat, "stay": stay, "within": within}
        _write(self._folder / "job.json", json.dumps(job).encode())
        flags = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        )
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
            "OMP_NUM_THREADS": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags.strip(),
            "GLOO_SOCKET_IFNAME": "lo",
            _FOLDER: str(self._folder),
        }
        if kind == "slurm":
            self._environment |= slurm(count)
        self._environment |= environment or {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._seconds: dict[int, float] = {}
        self._began = time.monotonic()
        self._end = self._began + within

    def __enter__(self) -> Self:
        try:
            for index in range(self._count):
                self._processes.append(self._start(index))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop()

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        with (
            self._file(index, "stdout").open("wb") as out,
            self._file(index, "stderr").open("wb") as err,
        ):
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.cluster"],
                env=self._environment | {_INDEX: str(index), **self._numbers(index)},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def _numbers(self, index: int) -> dict[str, str]:
        return {"SLURM_PROCID": str(index)} if "SLURM_STEP_ID" in self._environment else {}

    def _stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._stack.close()

    def _file(self, index: int, name: str) -> Path:
        return self._folder / f"{name}-{index}"

    def kill(self, index: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process, if it still runs."""
        if self._processes[index].poll() is None:
            self._processes[index].send_signal(number)

    def reached(self, index: int, name: str) -> None:
        """Wait until a process has come to `mark(name)`."""
        self._wait(
            lambda: self._file(index, f"mark-{name}").exists(), f"mark {name!r} of {index}", [index]
        )

    def ended(self, *indices: int) -> list[Ended]:
        """Wait until some processes, or all, have ended or stay; return them."""
        chosen = indices or tuple(range(self._count))
        for index in chosen:
            self._wait(lambda i=index: self._is_over(i), f"the end of {index}", [])
        return [self._ended(index) for index in chosen]

    def _is_over(self, index: int) -> bool:
        over = self._processes[index].poll() is not None
        over = over or (self._stay and self._file(index, "value").exists())
        if over:
            self._seconds.setdefault(index, time.monotonic() - self._began)
        return over

    def _ended(self, index: int) -> Ended:
        file = self._file(index, "value")
        value = json.loads(file.read_bytes()) if file.exists() else None
        out, err = (
            self._file(index, name).read_text(errors="replace") for name in ("stdout", "stderr")
        )
        return Ended(index, self._processes[index].poll(), value, out, err, self._seconds[index])

    def _wait(self, there: Callable[[], bool], what: str, needed: list[int]) -> None:
        while not there():
            gone = [i for i in needed if self._processes[i].poll() is not None]
            if (gone and not there()) or time.monotonic() > self._end:
                raise AssertionError(f"waited in vain for {what}\n{self._told()}")
            time.sleep(0.02)

    def _told(self) -> str:
        """Return what each process printed; one that runs says where it is."""
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGABRT)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        lines = []
        for index, process in enumerate(self._processes):
            for name in ("stdout", "stderr"):
                text = self._file(index, name).read_text(errors="replace")
                lines.append(f"--- {index} ({process.poll()}), {name}:\n{text[-4000:]}")
        return "\n".join(lines)


def slurm(count: int, number: int | None = None) -> dict[str, str]:
    """Return the variables that an `srun` sets in its tasks, and the number of one of them."""
    names = {
        "SLURM_CLUSTER_NAME": "cluster",
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
    }
    return names if number is None else names | {"SLURM_PROCID": str(number)}


def mark(name: str) -> None:
    """Say, in a process of a cluster, that it has come to a place: see `Cluster.reached`."""
    _write(Path(os.environ[_FOLDER]) / f"mark-{name}-{os.environ[_INDEX]}", b"")


def port() -> int:
    """Return, in a process of a cluster, the port on which its engine started."""
    return int(_job(Path(os.environ[_FOLDER]))["port"])


def free_port() -> int:
    """Return a port that is free, and that no system gives to somebody by itself."""
    for _ in range(100):
        port = random.SystemRandom().randrange(16_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


# Threads in the place of processes.


def threads(
    count: int,
    function: Callable[[Processes], Any],
    *,
    engine: bool = False,
    timeout: float = 60.0,
    within: float = WITHIN,
) -> list[Any]:
    """Call a function in several threads, each as one process, and return the values or errors.

    Args:
        count: the number of threads.
        function: is called with the `Processes` of its thread.
        engine: connect them by a store of keys, as jax and torch do, not by a broadcast.
        timeout: that of the `Processes`, in seconds.
        within: the bound of all, in seconds.
    """
    groups = [*(_by_store if engine else _by_broadcast)(count, timeout)]
    results: list[Any] = [AssertionError(f"thread {i} has not ended") for i in range(count)]

    def call(index: int) -> None:
        try:
            results[index] = function(groups[index])
        except BaseException as error:
            results[index] = error

    started = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(count)]
    end = time.monotonic() + within
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(max(end - time.monotonic(), 0))
    return results


def _by_broadcast(count: int, timeout: float) -> Iterator[Processes]:
    board = Board()
    for i in range(count):
        calls = _Calls(board.put, board.get, i, count, timeout)
        yield Processes(i, count, calls.broadcast, calls.allgather, timeout)


def _by_store(count: int, timeout: float) -> Iterator[Processes]:
    board = Board()
    for i in range(count):
        words = word.Words(board, word.Counts())
        yield group.connected(lambda words=words: words, i, count, timeout)  # type: ignore[misc]


class Board:
    """A store of keys in the memory of one process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def set(self, key: str, value: bytes) -> None:
        with self._changed:
            self.values[key] = value
            self._changed.notify_all()

    put = set

    def get(self, key: str, seconds: float) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: key in self.values, seconds)
            return self.values.get(key)

    def delete(self, key: str) -> bool:
        with self._changed:
            return self.values.pop(key, None) is not None


class _Calls:
    """Collectives as those of MPI: the first call of one process meets the first of the others."""

    def __init__(
        self,
        put: Callable[[str, bytes], None],
        get: Callable[[str, float], bytes | None],
        index: int,
        count: int,
        timeout: float,
    ) -> None:
        self._put, self._get, self._timeout = put, get, timeout
        self._index, self._count = index, count
        self._calls = 0

    def broadcast(self, data: bytes) -> bytes:
        self._calls += 1
        key = f"broadcast-{self._calls}"
        if self._index == 0:
            self._put(key, data)
        return self._got(key)

    def allgather(self, data: bytes) -> list[bytes]:
        self._calls += 1
        self._put(f"allgather-{self._calls}-{self._index}", data)
        return [self._got(f"allgather-{self._calls}-{i}") for i in range(self._count)]

    def _got(self, key: str) -> bytes:
        data = self._get(key, self._timeout)
        if data is None:
            raise TimeoutError(f"{key} did not come within {self._timeout:g} s")
        return data


# What a process does.


def _main() -> None:
    folder, index = Path(os.environ[_FOLDER]), int(os.environ[_INDEX])
    job = _job(folder)
    signal.alarm(int(job["within"]) + 30)  # in case that nobody is left to end it
    together = _STARTS[job["kind"]](folder, index, job)
    function = getattr(importlib.import_module(job["module"]), job["function"])
    value = function(together, *job["arguments"])
    sys.stdout.flush()
    _write(folder / f"value-{index}", json.dumps(value).encode())
    if job["stay"]:
        time.sleep(job["within"])
    _leave()


def _leave() -> None:
    """Stop `torch.distributed`: it aborts the process now and then if only the end of it does."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def _job(folder: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((folder / "job.json").read_bytes())
    return job


def _jax(folder: Path, index: int, job: dict[str, Any]) -> Processes:
    import jax
    import numpy as np

    known = inspect.signature(jax.distributed.initialize).parameters
    options = {
        "heartbeat_timeout_seconds": job["heartbeat"],
        "initialization_timeout": int(job["within"]),
    }
    jax.distributed.initialize(
        f"127.0.0.1:{job['port']}",
        job["count"],
        index,
        **{name: value for name, value in options.items() if name in known},
    )
    # The first collective gives the others 30 s to come; a later one does not.
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    ones = np.ones(jax.device_count(), np.float32)
    array = jax.make_array_from_callback(ones.shape, cut, ones.__getitem__)
    assert float(jax.jit(lambda x: x.sum())(array)) == jax.device_count()
    return processes(job["timeout"])


def _torch(folder: Path, index: int, job: dict[str, Any]) -> Processes:
    connect(job["port"], index, job["count"], job["within"])
    return processes(job["timeout"])


def connect(port: int, index: int, count: int, within: float = WITHIN) -> None:
    """Start `torch.distributed` in a process."""
    from torch import distributed

    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=index,
        world_size=count,
        timeout=timedelta(seconds=within),
    )


def _plain(folder: Path, index: int, job: dict[str, Any]) -> Processes:
    def get(key: str, seconds: float) -> bytes | None:
        end = time.monotonic() + seconds
        while not (folder / key).exists():
            if time.monotonic() > end:
                return None
            time.sleep(0.01)
        return (folder / key).read_bytes()

    calls = _Calls(
        lambda key, data: _write(folder / key, data), get, index, job["count"], job["timeout"]
    )
    return Processes(index, job["count"], calls.broadcast, calls.allgather, job["timeout"])


def _slurm(folder: Path, index: int, job: dict[str, Any]) -> Processes:
    return Processes(index, job["count"], timeout=job["timeout"])


def _write(file: Path, data: bytes) -> None:
    """Write a file, which is there wholly or not at all."""
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(data)
    part.rename(file)


_STARTS: dict[str, Callable[[Path, int, dict[str, Any]], Processes]] = {
    "jax": _jax,
    "torch": _torch,
    "plain": _plain,
    "slurm": _slurm,
}

if __name__ == "__main__":
    _main()
