"""What the errors of `ckptstore.convert` tell you to do, done."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox
import flax.serialization
import fsspec
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import torch

import ckptstore
from ckptstore import CheckpointError, convert
from ckptstore.convert import npz
from ckptstore.convert import safetensors as ours
from ckptstore.storage import local
from tests.support import places
from tests.support.compare import differences
from tests.support.servers import Gcs, Ministack

follows = pytest.mark.follows

TREE = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.int8)}
TENSORS = {name: torch.from_numpy(x) for name, x in TREE.items()}


def refused(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args, **options)
    return str(caught.value)


def same(read: Any, tree: Any = TREE) -> None:
    assert differences(tree, {name: read[name] for name in tree}) == []


def held(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)


# --- Out ----------------------------------------------------------------------------------------


@follows("convert.files", "choose another name, or pass overwrite=True")
@pytest.mark.parametrize("write", [convert.to_npz, convert.to_safetensors])
def test_a_name_that_is_taken(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "a", {"w": np.zeros(1)})
    refused(write, tmp_path / "a", TREE)
    write(tmp_path / "b", TREE)
    write(tmp_path / "a", TREE, overwrite=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@follows(
    "convert.files",
    "load the checkpoint with its own options, then export the tree with those of the file",
)
def test_options_of_two_stores(ministack: Ministack, gcs: Gcs) -> None:
    one, two = places.BucketPlace(ministack), places.BucketPlace(gcs)
    ckptstore.save(f"{one.url}/ckpt", TREE, storage_options=one.options)
    refused(convert.to_npz, f"{two.url}/x.npz", f"{one.url}/ckpt", storage_options=two.options)
    tree = ckptstore.load(f"{one.url}/ckpt", storage_options=one.options)
    convert.to_npz(f"{two.url}/x.npz", tree, storage_options=two.options)
    with np.load(io.BytesIO(two.get("x.npz"))) as arrays:
        same(arrays)


@follows("convert.flat_names", "export a part of it with select=")
def test_names_that_are_too_long_together(tmp_path: Path) -> None:
    name = "n" * 20_000
    below = {str(n): np.array(n) for n in range(3000)}
    tree = {name: {name: below}}
    refused(convert.to_npz, tmp_path / "x.npz", tree)
    part = {str(n): below[str(n)] for n in range(10)}
    convert.to_npz(tmp_path / "x.npz", tree, select=[f"$.{name}.{name}['{n}']" for n in part])
    assert len(held(tmp_path / "x.npz")) == 10


@follows("convert.flat_names", "export them one by one with select=")
def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    tree = {"a": {"b": np.zeros(1)}, "a.b": np.ones(1)}
    refused(convert.to_npz, tmp_path / "x.npz", tree)
    for number, (select, x) in enumerate([("$.a.b", np.zeros(1)), ("$['a.b']", np.ones(1))]):
        convert.to_npz(tmp_path / f"{number}.npz", tree, select=select)
        (found,) = held(tmp_path / f"{number}.npz").values()
        assert differences(x, found) == []


@follows("convert.flat_names", "select it by itself")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    tree = {"\ud800": np.ones(2), "w": np.zeros(1)}
    refused(convert.to_safetensors, tmp_path / "x", tree)
    convert.to_safetensors(tmp_path / "x", tree, select="$['\\ud800']")
    (found,) = convert.from_safetensors(tmp_path / "x").values()
    assert differences(np.ones(2), found) == []


@follows("convert.npz", "export it by itself with select=")
def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    tree = {"n" * 70_000: np.ones(2), "w": np.zeros(1)}
    refused(convert.to_npz, tmp_path / "x.npz", tree)
    convert.to_npz(tmp_path / "x.npz", tree, select="$." + "n" * 70_000)
    (found,) = held(tmp_path / "x.npz").values()
    assert differences(np.ones(2), found) == []


@follows("convert.npz", "select fewer arrays")
@follows("convert.safetensors", "select fewer arrays")
def test_headers_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits stand at less here, so that few arrays are too many."""
    monkeypatch.setattr(npz, "_HEADERS_MAX_NBYTES", 100)
    monkeypatch.setattr(ours, "_HEADER_MAX_NBYTES", 300)
    tree = {str(n): np.array(n, "i4") for n in range(100)}
    for write, name in ((convert.to_npz, "x.npz"), (convert.to_safetensors, "x.safetensors")):
        refused(write, tmp_path / name, tree)
        write(tmp_path / name, tree, select=["$['1']", "$['2']"])
    assert len(held(tmp_path / "x.npz")) == 2
    assert len(convert.from_safetensors(tmp_path / "x.safetensors")) == 2


@follows(
    "convert.export_plan",
    "leave them out with select=, or convert them and export your own tree",
)
def test_an_array_that_the_format_lacks(tmp_path: Path) -> None:
    tree = {"z": np.ones(2, np.complex128), "w": np.ones(3), "x": np.ones(1, "f2")}
    refused(convert.to_safetensors, tmp_path / "x", tree | {"z": np.array(["a"])})
    convert.to_safetensors(tmp_path / "x", tree | {"z": np.array(["a"])}, select=["$.w", "$.x"])
    assert set(convert.from_safetensors(tmp_path / "x")) == {"w", "x"}
    converted = tree | {"z": np.array(["a"]).view("u4")}
    convert.to_safetensors(tmp_path / "y", converted)
    same(convert.from_safetensors(tmp_path / "y"), converted)


# --- In -----------------------------------------------------------------------------------------


@follows("convert.files", "read it again")
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "x.safetensors", local.LocalStorage.get
    safetensors.numpy.save_file(TREE, path)

    def get(self: Any, name: str, offset: int, buffer: Any) -> None:
        real(self, name, offset, buffer)
        os.utime(path, (1, 1))

    monkeypatch.setattr(local.LocalStorage, "get", get)
    refused(convert.from_safetensors, path)
    monkeypatch.undo()
    same(convert.from_safetensors(path))


@follows("convert.inputs", "leave them out, or pass the URL")
def test_options_for_bytes(tmp_path: Path) -> None:
    data = flax.serialization.to_bytes(TREE)
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/x.msgpack", data)
    options = {"ckptstore": {"timeout": 60}}
    refused(convert.from_flax, data, storage_options=options)
    same(convert.from_flax(data))
    url = f"memory://{tmp_path.name}/x.msgpack"
    same(convert.from_flax(url, storage_options=options))


@follows("convert.inputs", "open it as 'rb'")
@pytest.mark.parametrize("mode", ["r", "ab"])
def test_a_file_that_is_open_in_another_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.msgpack"
    path.write_bytes(flax.serialization.to_bytes({"text": "a"}))
    with path.open(mode) as file:
        refused(convert.from_flax, file)
    with path.open("rb") as file:
        assert convert.from_flax(file) == {"text": "a"}


@follows("convert.inputs", "pip install {}")
@pytest.mark.parametrize("name", ["torch", "safetensors"])
def test_a_package_that_is_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install` ends with the package on the path; here it was taken from there."""
    torch.save(TENSORS, tmp_path / "torch")
    safetensors.numpy.save_file(TREE, tmp_path / "safetensors")
    read = {"torch": convert.from_torch, "safetensors": convert.from_safetensors}[name]
    with monkeypatch.context() as missing:
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            missing.setitem(sys.modules, module, None)  # type: ignore[arg-type]
        assert f"pip install {name}" in refused(read, tmp_path / name)
    assert set(read(tmp_path / name)) == set(TREE)  # type: ignore[operator]


@follows(
    "convert.inputs",
    "restore it from a copy, or check that it is the kind of file that you expect",
)
def test_a_file_that_is_damaged_or_of_another_kind(tmp_path: Path) -> None:
    path, copy = tmp_path / "x.eqx", tmp_path / "copy.eqx"
    equinox.tree_serialise_leaves(copy, TREE)
    path.write_bytes(copy.read_bytes()[:-9])
    refused(convert.from_equinox, path, TREE)
    shutil.copy(copy, path)
    same(convert.from_equinox(path, TREE))
    torch.save(TENSORS, tmp_path / "x.pt")
    refused(convert.from_equinox, tmp_path / "x.pt", TREE)
    same(convert.from_torch(tmp_path / "x.pt", arrays="numpy"))


@follows("convert.like", "change `like`")
def test_an_array_of_another_form_in_like() -> None:
    data = flax.serialization.to_bytes(TREE)
    for w in (np.zeros((3, 2), "f4"), np.zeros((2, 3))):
        refused(convert.from_flax, data, like=TREE | {"w": w})
    same(convert.from_flax(data, like=TREE | {"w": np.zeros((2, 3), "f4")}))


@follows("convert.safetensors", "download all files again")
def test_files_of_two_releases_of_a_model(tmp_path: Path) -> None:
    whole = {"a": np.ones(2), "b": np.zeros(3)}
    for name, x in whole.items():
        safetensors.numpy.save_file({name: x}, tmp_path / f"m-{name}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    sound = json.dumps({"weight_map": {name: f"m-{name}.safetensors" for name in whole}})
    index.write_text(sound.replace('"b":', '"c":'))
    refused(convert.from_safetensors, index)
    index.write_text(sound)
    same(convert.from_safetensors(index), whole)


# --- torch --------------------------------------------------------------------------------------


@follows("convert.torch", 'read the file with arrays="torch"')
@follows("convert.torch", 'read it with arrays="torch"')
@pytest.mark.parametrize(
    "held",
    [torch.eye(2).to_sparse(), torch.ones(1).expand(2**30)],
    ids=["sparse", "expanded"],
)
def test_tensors_that_no_array_can_replace(held: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"a": held}, tmp_path / "x.pt")
    refused(convert.from_torch, tmp_path / "x.pt", arrays="numpy")
    loaded = convert.from_torch(tmp_path / "x.pt", arrays="torch")["a"]
    assert loaded.layout == held.layout and loaded.shape == held.shape
    torch.save({"a": {torch.ones(2)}}, tmp_path / "y.pt")
    refused(convert.from_torch, tmp_path / "y.pt", arrays="numpy")
    assert len(convert.from_torch(tmp_path / "y.pt", arrays="torch")["a"]) == 1


@follows("convert.torch", "do not trust it, or, if you made it, save it again with torch.save")
def test_a_zip_that_torch_did_not_write(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt")
    old = zipfile.ZipFile(tmp_path / "x.pt")
    new = zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED)
    with old, new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(convert.from_torch, tmp_path / "y.pt")
    with zipfile.ZipFile(tmp_path / "y.pt") as packed:
        plain = zipfile.ZipFile(tmp_path / "z.pt", "w")
        with plain:
            for name in packed.namelist():
                plain.writestr(name, packed.read(name))
    torch.save(torch.load(tmp_path / "z.pt", weights_only=True), tmp_path / "y.pt")
    same(convert.from_torch(tmp_path / "y.pt", arrays="numpy"))


@follows(
    "convert.torch",
    "restore the file from a copy, or save it again with torch.save and compute_crc32 on",
)
def test_a_file_whose_checksums_do_not_fit(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt")
    shutil.copy(tmp_path / "x.pt", tmp_path / "copy")
    data = (tmp_path / "x.pt").read_bytes()
    bits = TREE["w"].tobytes()
    (tmp_path / "x.pt").write_bytes(data.replace(bits, b"\7" + bits[1:]))
    refused(convert.from_torch, tmp_path / "x.pt")
    shutil.copy(tmp_path / "copy", tmp_path / "x.pt")
    same(convert.from_torch(tmp_path / "x.pt", arrays="numpy"))
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "y.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    refused(convert.from_torch, tmp_path / "y.pt")
    torch.save(torch.load(tmp_path / "y.pt", weights_only=True), tmp_path / "y.pt")
    same(convert.from_torch(tmp_path / "y.pt", arrays="numpy"))


class Trainer:
    pass


@follows(
    "convert.torch",
    "In the program that wrote it, save only the tensors: torch.save(model.state_dict(), path)",
)
def test_a_file_with_objects_in_it(tmp_path: Path) -> None:
    model, path = torch.nn.Linear(2, 3), tmp_path / "x.pt"
    torch.save({"model": model.state_dict(), "trainer": Trainer()}, path)
    words = refused(convert.from_torch, path)
    call = words.partition("save only the tensors: ")[2]
    eval(call, {"torch": torch, "model": model, "path": path})
    loaded = convert.from_torch(path)
    assert differences(dict(model.state_dict()), dict(loaded)) == []


# --- A copy of files of a bucket ----------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.mark.ci  # which may mount
@follows(
    "convert.local_copy",
    "free some space there, or set TMPDIR in the environment to another directory",
)
def test_a_temporary_directory_that_is_full(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"w": torch.arange(8000.0)}
    torch.save(big, tmp_path / "x.pt")
    url = f"memory://{tmp_path.name}/x.pt"
    fsspec.filesystem("memory").pipe_file(url, (tmp_path / "x.pt").read_bytes())
    (small_disk / "other").write_bytes(bytes(40_000))

    def read(directory: Path) -> Any:
        monkeypatch.setenv("TMPDIR", str(directory))
        monkeypatch.setattr(tempfile, "tempdir", None)  # as in a new process
        return convert.from_torch(url)

    refused(read, small_disk)
    assert torch.equal(read(tmp_path)["w"], big["w"])
    (small_disk / "other").unlink()
    assert torch.equal(read(small_disk)["w"], big["w"])
    assert not list(small_disk.iterdir())


@follows(
    "convert.local_copy",
    "do not trust this directory, or copy the objects that you need to a disk",
)
def test_a_name_that_leaves_its_directory(gcs: Gcs, tmp_path: Path) -> None:
    place, written = places.BucketPlace(gcs), orbax_files(tmp_path / "run")
    upload(place, written)
    place.put("5/default/../../escaped", b"evil")
    options: Any = {"storage_options": place.options}
    refused(convert.from_orbax, f"{place.url}/5/default", like(), **options)
    for name in written:
        if name.startswith("5/default/"):
            path = tmp_path / "copy" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(place.get(name))
    same(convert.from_orbax(tmp_path / "copy/5/default", like()), {"w": jnp.ones(3) * 5})


# --- Orbax --------------------------------------------------------------------------------------


def like() -> dict[str, Any]:
    return {"w": jnp.zeros(3), "n": 0}


def orbax_files(run: Path) -> dict[str, bytes]:
    """Return the files of a run of two steps, as a CheckpointManager writes them."""
    with ocp.CheckpointManager(run) as manager:
        for step in (5, 6):
            manager.save(step, args=ocp.args.StandardSave({"w": jnp.ones(3) * step, "n": step}))
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def upload(place: places.BucketPlace, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        place.put(path, data)
    for step in (5, 6):
        place.put(f"{step}/commit_success.txt", b"")
        place.put(f"{step}/default/commit_success.txt", b"")


@follows(
    "convert.orbax_items",
    "use another step, or, if it was copied there from a disk, copy it back and pass that path",
)
def test_a_step_that_orbax_did_not_finish_on_gcs(gcs: Gcs, tmp_path: Path) -> None:
    place, written = places.BucketPlace(gcs), orbax_files(tmp_path / "run")
    upload(place, written)
    place.delete("6/default/commit_success.txt")
    options: Any = {"storage_options": place.options}
    refused(convert.from_orbax, f"{place.url}/6/default", like(), **options)
    older = convert.from_orbax(f"{place.url}/5/default", like(), **options)
    same(older, {"w": jnp.ones(3) * 5})
    for name in written:
        if name.startswith("6/") and not name.endswith("commit_success.txt"):
            path = tmp_path / "copy" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(place.get(name))
    same(convert.from_orbax(tmp_path / "copy/6/default", like()), {"w": jnp.ones(3) * 6})


@follows("convert.orbax_items", "pass one of its directories: {}")
def test_a_directory_of_several_items(tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        items = {name: ocp.args.PyTreeSave(like()) for name in ("params", "average")}
        manager.save(5, args=ocp.args.Composite(**items))
    words = refused(convert.from_orbax, tmp_path / "run/5", like())
    for name in words.partition("its directories: ")[2].split(", "):
        same(convert.from_orbax(tmp_path / "run/5" / name, like()), like())


@follows(
    "convert.orbax",
    "pass like=, the tree of your program, with optimizer.init(params) for the optimizer's "
    "state:{}",
)
def test_orbax_without_like(tmp_path: Path) -> None:
    optimizer, params = optax.adam(1e-3), {"w": jnp.ones(3)}
    state = {"params": params, "opt_state": optimizer.init(params)}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", state)
    refused(convert.from_orbax, tmp_path / "saved")
    fresh = {"params": params, "opt_state": optimizer.init(params)}
    assert differences(state, convert.from_orbax(tmp_path / "saved", like=fresh)) == []


@follows("convert.orbax_paths", "rename one")
def test_keys_that_orbax_writes_alike(tmp_path: Path) -> None:
    alike = OrderedDict({1: jnp.zeros(1), "1": jnp.ones(1)})
    renamed = OrderedDict({1: jnp.zeros(1), "one": jnp.ones(1)})
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", alike)
        refused(convert.from_orbax, tmp_path / "a", alike)
        checkpointer.save(tmp_path / "b", renamed)
    assert differences(renamed, convert.from_orbax(tmp_path / "b", renamed)) == []


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@follows("convert.orbax_paths", "restore the other with Orbax")
def test_leaves_that_orbax_wrote_to_one_place(tmp_path: Path) -> None:
    state = {"a": {"b": jnp.zeros(1)}, "a.b": jnp.ones(1)}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", state)
        refused(convert.from_orbax, tmp_path / "saved", state)
        restored = checkpointer.restore(tmp_path / "saved")
    assert float(restored["a.b"][0]) == float(restored["a"]["b"][0]) in (0.0, 1.0)


@follows("convert.orbax_paths", "there is {}")
def test_a_pattern_that_selects_nothing_of_orbax(tmp_path: Path) -> None:
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", like())
    words = refused(convert.from_orbax, tmp_path / "saved", like(), select="$.v")
    for pattern in words.partition("there is ")[2].split(", "):
        read = convert.from_orbax(tmp_path / "saved", {"w": jnp.ones(3), "n": 1}, select=pattern)
        name = pattern.removeprefix("$.")
        assert differences(like()[name], read[name]) == []


# --- pickle and npz -----------------------------------------------------------------------------


@follows(
    "convert.pickle",
    "if you trust the file, save it again in a program that can read it: with open(path, 'rb') as "
    "file: ckptstore.save(directory, pickle.load(file))",
)
def test_a_pickle_of_objects(tmp_path: Path) -> None:
    path, tree = tmp_path / "x.pkl", {"step": Step(3), "w": TREE["w"]}
    path.write_bytes(pickle.dumps(tree))
    line = refused(convert.from_pickle, path).partition("that can read it: ")[2]
    exec(
        line, {"path": path, "pickle": pickle, "ckptstore": ckptstore, "directory": tmp_path / "c"}
    )
    assert differences(tree, ckptstore.load(tmp_path / "c")) == []


class Step(NamedTuple):
    number: int


@follows(
    "convert.pickle",
    "read each by itself, with data = open(path, 'rb').read(): from_pickle(data[:{}]), then "
    "from_pickle(data[{}:])",
)
def test_a_pickle_of_several_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"w": 1}) + pickle.dumps({"step": 2}))
    words = refused(convert.from_pickle, path)
    names = {"data": path.read_bytes(), "from_pickle": convert.from_pickle}
    calls = re.findall(r"from_pickle\(.*?\]\)", words)
    assert [eval(call, names) for call in calls] == [{"w": 1}, {"step": 2}]


@follows(
    "convert.pickle",
    "restore it from a copy, or check that it is the kind of file that you expect",
)
def test_a_pickle_that_is_damaged(tmp_path: Path) -> None:
    path, sound = tmp_path / "x.pkl", pickle.dumps(TREE)
    path.write_bytes(sound[:-30])
    refused(convert.from_pickle, path)
    path.write_bytes(sound)
    same(convert.from_pickle(path))


@follows(
    "convert.npz",
    "if you trust the file and have the memory, read it with dict(numpy.load(path))",
)
def test_an_npz_that_says_it_holds_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_GROWTH_LEAST", 1000)
    path = tmp_path / "x.npz"
    zeros = {"w": np.zeros(1_000_000)}
    np.savez_compressed(path, **zeros)
    words = refused(convert.from_npz, path)
    same(eval(words.rpartition("read it with ")[2], {"numpy": np, "path": path}), zeros)
