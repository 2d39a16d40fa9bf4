"""Bent files of other tools, from one number, and the reader that each is for.

A reader gives a value or raises a CheckpointError. There is no checksum in most of these files, so
which value it is cannot be known.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from ckptstore import convert
from tests.support import forging

KINDS = (
    *("flax", "equinox", "safetensors", "safetensors.json", "torch", "torch numpy"),
    *("pickle", "npz", "orbax"),
)


def tree() -> Any:
    return {"w": np.arange(6.0).reshape(2, 3), "b": [np.ones(3, np.float32), np.int8(7)], "n": 5}


@functools.cache
def sound(kind: str) -> forging.Files:
    """Return the files of a sound one, by path."""
    with tempfile.TemporaryDirectory() as place:
        return _write(kind, Path(place))


def _write(kind: str, place: Path) -> forging.Files:
    if kind == "flax":
        import flax.serialization

        more = {"c": 1 - 2j, "s": np.float32(1), "t": "text", "b": {"0": np.ones(2)}}
        return {"x": flax.serialization.msgpack_serialize(tree() | more)}
    if kind == "equinox":
        import equinox

        file = io.BytesIO()
        equinox.tree_serialise_leaves(file, tree())
        return {"x.eqx": file.getvalue()}
    if kind == "pickle":
        return {"x.pkl": pickle.dumps(tree(), protocol=4)}
    if kind == "npz":
        np.savez(place / "x.npz", w=np.ones(3), b=np.arange(4))
        return {"x.npz": (place / "x.npz").read_bytes()}
    if kind.startswith("safetensors"):
        convert.to_safetensors(place / "x.safetensors", {"w": np.ones(3), "b": np.arange(4)})
        files = {"x.safetensors": (place / "x.safetensors").read_bytes()}
        index = {"metadata": {}, "weight_map": {"w": "x.safetensors", "b": "x.safetensors"}}
        return files | ({"x.json": json.dumps(index).encode()} if kind.endswith("json") else {})
    if kind.startswith("torch"):
        import torch

        torch.save({"w": torch.ones(3), "n": [1, "a"], "t": torch.ones(2, 3).t()}, place / "x.pt")
        return {"x.pt": (place / "x.pt").read_bytes()}
    import orbax.checkpoint

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(place / "x", tree())
    paths = [path for path in (place / "x").rglob("*") if path.is_file()]
    return {str(path.relative_to(place)): path.read_bytes() for path in paths}


def reader(kind: str, place: Path) -> Callable[[], Any]:
    """Return the call that reads the files of a kind."""
    if kind == "flax":
        return lambda: convert.from_flax(place / "x")
    if kind == "equinox":
        return lambda: convert.from_equinox(place / "x.eqx", tree())
    if kind == "pickle":
        return lambda: convert.from_pickle(place / "x.pkl")
    if kind == "npz":
        return lambda: convert.from_npz(place / "x.npz")
    if kind == "safetensors":
        return lambda: convert.from_safetensors(place / "x.safetensors")
    if kind == "safetensors.json":
        return lambda: convert.from_safetensors(place / "x.json")
    if kind == "torch":
        return lambda: convert.from_torch(place / "x.pt")
    if kind == "torch numpy":
        return lambda: convert.from_torch(place / "x.pt", arrays="numpy")
    return lambda: convert.from_orbax(place / "x", tree())


def forge(seed: int, place: Path) -> tuple[str, forging.Files, Callable[[], Any]]:
    """Write the files that belong to a number; return their kind, the files and the call."""
    rng = random.Random(f"foreign {seed}")
    kind = rng.choice(KINDS[:-1]) if seed % 50 else "orbax"  # orbax is slow
    files = dict(sound(kind))
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(sorted(files))
        files[name] = _bend(kind, name, files[name], rng)
    shutil.rmtree(place, ignore_errors=True)
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return kind, files, reader(kind, place)


def _bend(kind: str, name: str, data: bytes, rng: random.Random) -> bytes:
    """Change a file, half of the time in a way that its outer form survives."""
    if rng.random() < 0.5:
        try:
            if kind == "flax":
                return _bend_msgpack(data, rng)
            if name.endswith(".safetensors"):
                size = int.from_bytes(data[:8], "little")
                header = _bend_json(data[8 : 8 + size], rng)
                return len(header).to_bytes(8, "little") + header + data[8 + size :]
            if name.endswith(".json") or kind == "orbax":
                return _bend_json(data, rng)
            if kind == "equinox":
                return _bend_header(data, rng)
            if kind.startswith("torch") or kind == "npz":
                return _bend_zip(data, rng)
        except Exception:  # it was bent before, and cannot be taken apart
            pass
    return forging.bend_bytes(data, rng)


def _bend_json(data: bytes, rng: random.Random) -> bytes:
    value = json.loads(data)
    forging.bend_table(value, rng)
    return json.dumps(value).encode()


def _bend_msgpack(data: bytes, rng: random.Random) -> bytes:
    value = msgpack.unpackb(data, strict_map_key=False)
    forging.bend_table(value, rng)
    names = [name for name, part in value.items() if isinstance(part, msgpack.ExtType)]
    if names and rng.random() < 0.7:
        name = rng.choice(names)
        inner = msgpack.unpackb(value[name].data, raw=rng.random() < 0.5)
        forging.bend_table(inner, rng)
        code = rng.choice([value[name].code, 1, 2, 3, 4])
        value[name] = msgpack.ExtType(code, msgpack.packb(inner))
    if rng.random() < 0.1:
        shape, chunks = {"0": 2, "1": 3}, {"0": value.get("w")}
        value["w"] = {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}
        forging.bend_table(value["w"], rng)
    return bytes(msgpack.packb(value))


def _bend_header(data: bytes, rng: random.Random) -> bytes:
    """Change the text in a ``.npy`` header, and keep its length."""
    words = [(b"<f8", new) for new in (b"|O8", b"<U2", b"|V8", b"<f0", b"<m8")]
    words += [(b"(2, 3)", new) for new in (b"(-2,3)", b"(1e99)", b"(9**9)", b"(0, 3)")]
    words += [(b"False", b"True "), (b"(3,)", b"(0,)"), (b"\x01\x00", b"\x02\x00")]
    old, new = rng.choice(words)
    return data.replace(old, new, 1)


def _bend_zip(data: bytes, rng: random.Random) -> bytes:
    """Change one part of a zip file, whose checksum is made again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(out, "w") as bent:
        names = parts.namelist()
        main = [name for name in names if name.endswith("data.pkl")] or names
        chosen = rng.choice([main[0], main[0], rng.choice(names)])
        for name in parts.namelist():
            part = parts.read(name)
            bent.writestr(name, forging.bend_bytes(part, rng) if name.endswith(chosen) else part)
    return out.getvalue()
