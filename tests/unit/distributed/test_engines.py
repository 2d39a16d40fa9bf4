"""The words of process 0 through the stores of jax and torch, between real processes."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptstore
from ckptstore import ProcessError, Processes
from tests.support import cluster

LARGE = 16 << 20


def talk(together: Processes) -> dict[str, Any]:
    """Say and hear in all ways, and return what this process heard."""
    return {
        "numbers": [together.index, together.count],
        "words": words(together),
        "drift": drift(together),
        "silence": silence(together),
        "gathered": gathered(together),
        "missing": missing(together),
        "fallback": fallback(),
    }


def words(together: Processes) -> Any:
    large = np.random.default_rng(0).bytes(LARGE)
    if together.index == 0:
        for data in (b"first", b"", large):
            together.say("save ä/0\udcff", data)
        return None
    heard = [together.hear("save ä/0\udcff") for _ in range(3)]
    return [heard[0].decode(), heard[1].decode(), heard[2] == large]


def drift(together: Processes) -> Any:
    if together.index:
        return together.hear("save run", lambda data: data == b"alone").decode()
    together.say("save run", b"alone")  # a call that the others did not make
    return together.say("save run", b"together")


def silence(together: Processes) -> Any:
    if together.index == 0:
        return None
    short = dataclasses.replace(together, timeout=0.5)
    with pytest.raises(ProcessError, match=f"save other: process {together.index} of ") as caught:
        short.hear("save other")
    return caught.value.reason


def gathered(together: Processes) -> Any:
    assert together.allgather is not None
    rounds = [together.allgather(b"%d" % (n + together.index)) for n in range(3)]
    if together.index == 0:
        together.heard("save run")  # each has heard it, or it would not be here
        together.say("save run", b"after")
    else:
        assert together.hear("save run") == b"after"
    return [[int(data) for data in found] for found in rounds]


def missing(together: Processes) -> Any:
    last = together.count - 1
    if together.index == last:
        return None
    gather = ckptstore.processes(timeout=2.0).allgather
    assert gather is not None
    with pytest.raises(ProcessError, match="heard nothing of process") as caught:
        gather(b"")
    numbers = re.findall(r"nothing of process (.*) within", str(caught.value))[0]
    # On a busy machine another one may have come too late, too.
    return bool({"0", str(last)} & {*numbers.split(", ")}) and caught.value.reason


def fallback() -> Any:
    """Say a word by a collective, as if the private names of the engine were gone."""
    patch = pytest.MonkeyPatch()
    with patch.context() as patch:
        if "jax" in sys.modules:
            patch.setitem(sys.modules, "jax._src.distributed", types.ModuleType("nothing"))
        else:
            from torch.distributed import distributed_c10d

            patch.delattr(distributed_c10d, "_get_default_store")
        together = ckptstore.processes()
        assert type(together.broadcast) is types.FunctionType
        if together.index:
            return [together.hear("save run").decode() for _ in range(2)]
        for data in (b"by a collective", b""):
            together.say("save run", data)
        return None


def expected(index: int, count: int) -> dict[str, Any]:
    others = {
        "words": ["first", "", True],
        "drift": "together",
        "silence": "no-word",
        "fallback": ["by a collective", ""],
    }
    both = {
        "numbers": [index, count],
        "gathered": [[n + i for i in range(count)] for n in range(3)],
        "missing": None if index == count - 1 else "no-word",
    }
    return both | (others if index else dict.fromkeys(others))


@pytest.mark.parametrize("kind", ["jax", "torch"])
def test_words_go_through_the_store_of_the_engine(kind: str) -> None:
    ended = cluster.run(kind, 3, talk)
    assert [process.value for process in ended] == [expected(i, 3) for i in range(3)]
    assert [process.returncode for process in ended] == [0, 0, 0], ended


def two_lives(together: Processes, folder: str) -> list[str]:
    from torch import distributed

    heard = []
    if together.index == 0:
        for _ in range(3):
            together.say("save run", b"first life")
    else:
        heard.append(together.hear("save run").decode())
    distributed.barrier()
    distributed.destroy_process_group()
    with pytest.raises(ProcessError, match=r"torch\.distributed does not run any more"):
        together.say("save run", b"") if together.index == 0 else together.hear("save run")
    ended = Path(folder) / "ended"
    if together.index == 0:
        ended.touch()
    while not ended.exists():
        time.sleep(0.02)
    # The port is free only if nothing holds the store of the first life.
    cluster.connect(cluster.port(), together.index, together.count)
    for group in (together, ckptstore.processes()):
        if together.index == 0:
            group.say("save run", b"second life")
        else:
            heard.append(group.hear("save run").decode())
    distributed.barrier()
    return heard


def test_the_counts_begin_anew_when_torch_does(tmp_path: Path) -> None:
    ended = cluster.run("torch", 2, two_lives, str(tmp_path))
    assert ended[1].value == ["first life", "second life", "second life"], ended
    assert [process.returncode for process in ended] == [0, 0], ended


def outlive(together: Processes) -> Any:
    if together.index == 0:
        together.say("save run", b"word")
        time.sleep(cluster.WITHIN)
    together.hear("save run")
    cluster.mark("listening")
    with pytest.raises(ProcessError) as heard:
        together.hear("save run")
    assert together.allgather is not None
    with pytest.raises(ProcessError) as gathered:
        together.allgather(b"")
    return [heard.value.reason, str(heard.value), gathered.value.reason]


def test_who_hears_a_dead_process_0_of_torch_is_told_at_once() -> None:
    with cluster.Cluster("torch", 3, outlive, stay=True, timeout=2 * cluster.WITHIN) as running:
        for index in (1, 2):
            running.reached(index, "listening")
        running.kill(0)
        ended = running.ended(1, 2)
    for process in ended:
        heard, text, gathered = process.value
        assert heard == gathered == "no-word"
        assert "cannot hear process 0 any more" in text
