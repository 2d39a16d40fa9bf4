"""What a user does first, with numpy alone: `make dist` runs it with the installed wheel.

It runs in a venv of its own that has the wheel, what that requires, and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import sys
import tempfile

import numpy as np

import ckptstore


def the_installed_one() -> None:
    assert ckptstore.__file__.startswith(sys.prefix), f"{ckptstore.__file__}: not the wheel's"
    assert ckptstore.__version__ == importlib.metadata.version("ckptstore")
    assert importlib.resources.files("ckptstore").joinpath("py.typed").is_file()


def one_checkpoint() -> None:
    params = {"w": np.arange(12.0).reshape(3, 4), "b": np.zeros(4, np.float32)}
    ckptstore.save("ckpt", {"step": 7, "params": params}, step=7)
    assert ckptstore.inspect("ckpt").step == 7
    assert ckptstore.verify("ckpt") == []
    again = ckptstore.load("ckpt")
    assert list(again) == ["step", "params"]
    assert again["step"] == 7
    for name, array in params.items():
        assert again["params"][name].dtype == array.dtype
        assert again["params"][name].tobytes() == array.tobytes()
    print(ckptstore.inspect("ckpt"))


def a_run() -> None:
    with ckptstore.Manager("run", keep=ckptstore.keep_last(2)) as manager:
        state = manager.load_or_init(lambda: {"step": 0})
        while state["step"] < 5:
            state["step"] += 1
            manager.save_async(state["step"], state)
    assert ckptstore.Manager("run").steps() == [4, 5]
    assert ckptstore.Manager("run").load() == {"step": 5}


with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    the_installed_one()
    one_checkpoint()
    a_run()
print(f"ckptstore {ckptstore.__version__} does it with Python {sys.version.split()[0]}")
