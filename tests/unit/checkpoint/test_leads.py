"""A place without a checkpoint, but with files of another tool: the error names the reader, and the
call in it works.
"""

import gzip
import os
import pickle
import re
import shutil
import subprocess
import warnings

import equinox
import flax
import flax.serialization
import flax.training.checkpoints
import fsspec
import h5py
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
import safetensors.flax
import safetensors.numpy
import safetensors.torch
import torch
import torch.distributed.checkpoint
import zarr

import ckptstore
from ckptstore import Manager, NotCommittedError, convert

W = np.arange(6, dtype=np.float32).reshape(2, 3)
STATE = {"params": {"w": jnp.asarray(W)}, "step": 7}
CALLS = {
    "load": ckptstore.load,
    "inspect": ckptstore.inspect,
    "verify": ckptstore.verify,
    "Manager.load": lambda url: Manager(url).load(),
}


def orbax_item(path):
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), STATE)


def orbax_run(path):
    with orbax.checkpoint.CheckpointManager(path.absolute()) as manager:
        for step in (9, 10):
            state = STATE | {"step": step}
            manager.save(step, args=orbax.checkpoint.args.StandardSave(state))


def flax_run(path, orbax_files):
    flax.config.update("flax_use_orbax_checkpointing", orbax_files)
    for step in (9, 10):
        flax.training.checkpoints.save_checkpoint(
            path.absolute(), STATE | {"step": step}, step, keep=3
        )


def hugging_face(path):
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "gpt2"}')
    safetensors.torch.save_file({"w": torch.from_numpy(W)}, path / "model.safetensors")


def hugging_face_shards(path):
    hugging_face(path)
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    index = (
        '{"metadata": {"total_size": 24}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}'
    )
    (path / "model.safetensors.index.json").write_text(index)


def hugging_face_torch(path):
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "gpt2"}')
    torch.save({"w": torch.from_numpy(W)}, path / "pytorch_model.bin")


def trainer_run(path):
    path.mkdir()
    for step in (9, 10):
        hugging_face(path / f"checkpoint-{step}")


def lightning(path):
    model = {"w": torch.from_numpy(W)}
    torch.save({"state_dict": model, "epoch": 3, "pytorch-lightning_version": "2.5.0"}, path)


def equinox_after_line(path):
    with open(path, "wb") as file:
        file.write(b'{"width": 3}\n')
        equinox.tree_serialise_leaves(file, STATE["params"])


def h5(path):
    with h5py.File(path, "w") as file:
        file["dense/w"] = W


def zarr_group(path):
    zarr.save_group(path, w=W)


def numpy_dict(path):
    np.save(path, {"w": W}, allow_pickle=True)


def found(tree):
    """Return the array in a tree that was read, whatever the form of its file."""
    while not hasattr(tree, "shape"):
        tree = tree.get("params", tree.get("state_dict", tree)) if hasattr(tree, "get") else tree
        tree = next(iter(tree.values()))
    return np.asarray(tree)


KINDS = {
    "model.pt": lambda p: torch.save({"w": torch.from_numpy(W)}, p),
    "old.pth": lambda p: torch.save(
        {"w": torch.from_numpy(W)}, p, _use_new_zipfile_serialization=False
    ),
    "last.ckpt": lightning,
    "model.safetensors": lambda p: safetensors.numpy.save_file({"w": W}, p),
    "params.npz": lambda p: np.savez(p, w=W),
    "packed.npz": lambda p: np.savez_compressed(p, w=W),
    "w.npy": lambda p: np.save(p, W),
    "dict.npy": numpy_dict,
    "params.pkl": lambda p: p.write_bytes(pickle.dumps({"w": jnp.asarray(W)})),
    "old.pickle": lambda p: p.write_bytes(pickle.dumps({"w": W}, protocol=0)),
    "state.msgpack": lambda p: p.write_bytes(flax.serialization.to_bytes(STATE)),
    "model.eqx": lambda p: equinox.tree_serialise_leaves(p, STATE["params"]),
    "hyper.eqx": equinox_after_line,
    "weights.h5": h5,
    "item": orbax_item,
    "orbax-run": orbax_run,
    "flax-run": lambda p: flax_run(p, False),
    "flax-orbax-run": lambda p: flax_run(p, True),
    "hf": hugging_face,
    "hf-shards": hugging_face_shards,
    "hf-torch": hugging_face_torch,
    "trainer": trainer_run,
    "dcp": lambda p: torch.distributed.checkpoint.save(
        {"w": torch.from_numpy(W)}, checkpoint_id=p, no_dist=True
    ),
    "zarr": zarr_group,
    "zarr.array": lambda p: zarr.save_array(p, W, zarr_format=2),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a file or directory of each kind, by its name, and by one that tells nothing."""
    place = tmp_path_factory.mktemp("made")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, make in KINDS.items():
            make(place / name)
    return place


def follow(message, **names):
    """Run the code of a remedy, and return the tree that it reads."""
    names |= {"ckptstore": ckptstore, "model": STATE["params"], "state": STATE | {"step": 0}}
    if code := re.search(r"`(.*)`", message):
        exec(code[1], names)
        return names["tree"]
    if opened := re.search(r"with open\(('.*?'), 'rb'\) as file", message):
        with open(eval(opened[1]), "rb") as file:
            file.readline()
            return eval(re.search(r"ckptstore\.convert.*\)", message)[0], names | {"file": file})
    call = re.search(r"read it with (ckptstore\.\w+.*\))", message)[1]
    if message.endswith("with the same storage_options"):
        call = f"{call[:-1]}, storage_options=options)"
    return eval(call, names)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_the_error_names_the_reader_and_its_call_reads_the_file(
    name, made, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    messages = []
    for call in CALLS.values():
        with pytest.raises(ckptstore.CheckpointError) as caught:
            call(made / name)
        messages.append(str(caught.value))
    assert len({message.partition(", but ")[2] for message in messages}) == 1, messages
    for message in messages:
        assert str(made / name) in message
    tree = follow(messages[0])
    np.testing.assert_array_equal(found(tree), W)
    saved = ckptstore.save(tmp_path / "moved", tree)
    np.testing.assert_array_equal(found(ckptstore.load(saved.url)), W)


ONE_FILE = [
    name
    for name in KINDS
    if "." in name and not name.startswith(("zarr", "old.pickle", "model.eqx"))
]


@pytest.mark.parametrize("name", ONE_FILE)
def test_the_kind_is_told_by_the_content(name, made, tmp_path):
    with pytest.raises(NotCommittedError) as named:
        ckptstore.load(made / name)
    shutil.copy(made / name, tmp_path / "anything")
    with pytest.raises(NotCommittedError) as unnamed:
        ckptstore.load(tmp_path / "anything")
    assert str(unnamed.value).replace(str(tmp_path / "anything"), str(made / name)) == str(
        named.value
    )


def upload(path, put):
    """Put a file, or the files of a directory, under their paths below the parent of `path`."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            put(str(file.relative_to(path.parent)), file.read_bytes())


@pytest.fixture
def in_memory():
    memory = fsspec.filesystem("memory")
    yield lambda path: upload(path, lambda name, data: memory.pipe_file(f"/leads/{name}", data))
    if memory.exists("/leads"):
        memory.rm("/leads", recursive=True)


@pytest.mark.follows(
    "checkpoint.foreign_files",
    "copy it to a disk, and there",
    "read it with ckptstore.convert.{}({}{}){}",
    some=True,
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_in_a_bucket_the_error_names_the_same_reader(name, made, tmp_path, monkeypatch, in_memory):
    monkeypatch.chdir(tmp_path)
    in_memory(made / name)
    url = f"memory://leads/{name}"
    messages = []
    for call in CALLS.values():
        with pytest.raises(ckptstore.CheckpointError) as caught:
            call(url)
        messages.append(str(caught.value))
    assert len({message.partition(", but ")[2] for message in messages}) == 1, messages
    message = messages[0]
    if "copy it to a disk" in message:
        message = message.replace("memory://leads", str(made))
    np.testing.assert_array_equal(found(follow(message, options=None)), W)


@pytest.mark.parametrize("name", ["model.pt", "hf"])
def test_on_a_server_the_call_in_the_error_works_with_the_same_options(name, made, ministack):
    bucket, options = ministack.new_bucket(), ministack.storage_options()
    upload(made / name, lambda path, data: ministack.put(bucket, path, data))
    with pytest.raises(NotCommittedError) as caught:
        ckptstore.load(f"s3://{bucket}/{name}", storage_options=options)
    np.testing.assert_array_equal(found(follow(str(caught.value), options=options)), W)


READERS = {
    name: getattr(convert, name)
    for name in ("from_flax", "from_npz", "from_pickle", "from_safetensors", "from_torch")
}
READERS["from_equinox"] = lambda path: convert.from_equinox(path, like=STATE["params"])
READERS["from_orbax"] = lambda path: convert.from_orbax(path, like=STATE)


ONE_FORM = {
    ("from_equinox", "w.npy"),
    ("from_equinox", "dict.npy"),
    ("from_npz", "model.eqx"),
    ("from_torch", "model.safetensors"),
}
"""Each array of equinox is a file of numpy.save, and torch.load reads safetensors."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_each_wrong_reader_names_the_right_one(name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotCommittedError) as caught:
        ckptstore.load(made / name)
    lead = str(caught.value).partition(", but ")[2]
    for reader, call in READERS.items():
        if reader in lead or (reader, name) in ONE_FORM:
            continue
        with pytest.raises(ckptstore.CheckpointError) as caught:
            call(made / name)
        assert str(caught.value) == f"{made / name}: not a source for {reader}, but {lead}"


@pytest.mark.follows("checkpoint.foreign_directories", "read it with ckptstore.load({})")
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_other_files_names_load_for_a_checkpoint(reader, tmp_path):
    ckptstore.save(tmp_path / "ours", {"w": W})
    with pytest.raises(ckptstore.CheckpointError, match="a checkpoint of ckptstore") as caught:
        READERS[reader](tmp_path / "ours")
    np.testing.assert_array_equal(found(follow(str(caught.value))), W)


@pytest.mark.follows("checkpoint.foreign_files", "pass its directory, {}")
@pytest.mark.follows("checkpoint.foreign_directories", "pass its directory, {}")
@pytest.mark.parametrize("file", ["MANIFEST", "data"])
def test_a_file_of_a_checkpoint_leads_to_its_directory(file, tmp_path):
    ckptstore.save(tmp_path / "ours", {"w": W})
    (path,) = (tmp_path / "ours").glob(f"{file}*")
    with pytest.raises(NotCommittedError, match="of ckptstore; pass its directory") as caught:
        ckptstore.load(path)
    directory = eval(re.search(r"pass its directory, ('.*')", str(caught.value))[1])
    np.testing.assert_array_equal(ckptstore.load(directory)["w"], W)


def test_a_place_that_nobody_knows_is_still_checked_by_you(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    for name in ("notes", "image.png", "nothing"):
        with pytest.raises(NotCommittedError, match=r"no MANIFEST there.*; check the path"):
            ckptstore.load(tmp_path / name)


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    b"4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
DAMAGES = {
    "empty": (b"", "an empty file"),
    "lfs": (LFS, "git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s12--4d7a2146.bin\n", "git annex get"),
    "html": (b"<!DOCTYPE html>\n<html><title>Sign in</title>", "a page of HTML"),
    "html in capitals": (b"\n <HTML><BODY>403</BODY></HTML>", "a page of HTML"),
    "xml": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        r"an answer in XML \(AccessDenied\)",
    ),
    "zeros": (bytes(600), "zeros only"),
}
MANIFESTS = DAMAGES | {
    "json": (b'{"error": {"code": 404}}', r"JSON \('{\"error"),
    "text": (b"README.md\nsetup.py\n", "restore the file from a copy"),
    "cut": (None, "truncated.*restore the file from a copy"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_manifest_that_is_another_file_is_named(kind, where, tmp_path, in_memory):
    ckptstore.save(tmp_path / "saved", {"w": W})
    path = tmp_path / "saved" / "MANIFEST"
    data, words = MANIFESTS[kind]
    path.write_bytes(path.read_bytes()[:100] if data is None else data)
    url = tmp_path / "saved"
    if where == "bucket":
        in_memory(url)
        url = "memory://leads/saved"
    for call in (ckptstore.load, ckptstore.inspect):
        with pytest.raises(ckptstore.CorruptError, match=words) as caught:
            call(url)
        assert caught.value.reason in ("bad-magic", "truncated")
        assert f"{url}/MANIFEST" in str(caught.value)
    (problem,) = ckptstore.verify(url)
    assert re.search(words, problem.message)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("file", ["data", "index"])
def test_a_file_of_a_checkpoint_that_is_another_file_is_named(kind, file, tmp_path):
    ckptstore.save(tmp_path / "saved", {"w": W} | {f"{n:0100}": n for n in range(12_000)})
    (path,) = (tmp_path / "saved").glob(f"{file}*")
    path.write_bytes(DAMAGES[kind][0])
    with pytest.raises(ckptstore.CorruptError, match=DAMAGES[kind][1]) as caught:
        ckptstore.load(tmp_path / "saved")
    assert caught.value.reason == "file-size"


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("reader", sorted(READERS.keys() - {"from_orbax", "from_equinox"}))
def test_a_file_for_a_reader_that_is_another_file_is_named(kind, reader, tmp_path):
    (tmp_path / "model").write_bytes(DAMAGES[kind][0])
    with pytest.raises(ckptstore.CheckpointError, match=DAMAGES[kind][1]):
        READERS[reader](tmp_path / "model")


def test_a_manifest_that_is_packed_is_unpacked_as_the_error_says(tmp_path):
    ckptstore.save(tmp_path / "saved", {"w": W})
    path = tmp_path / "saved" / "MANIFEST"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ckptstore.CorruptError, match="packed by gzip") as caught:
        ckptstore.load(tmp_path / "saved")
    command = re.search(r"\((mv .*?)\)", str(caught.value))[1]
    subprocess.run(command, shell=True, cwd=tmp_path / "saved", check=True)
    np.testing.assert_array_equal(ckptstore.load(tmp_path / "saved")["w"], W)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("below", ["", "/run/step"])
def test_a_link_to_nothing_is_said_to_be_one(call, below, tmp_path):
    os.symlink(tmp_path / "gone", tmp_path / "link")
    with pytest.raises(ckptstore.StorageError, match="a symbolic link to nothing") as caught:
        CALLS[call](f"{tmp_path}/link{below}")
    assert caught.value.reason == "dangling-link" and str(tmp_path / "link") in str(caught.value)


@pytest.mark.follows("storage.directories", "run `git annex get` on it")
@pytest.mark.parametrize("file", ["MANIFEST", "whole"])
def test_a_link_whose_target_git_annex_holds_is_not_to_be_removed(file, tmp_path):
    ckptstore.save(tmp_path / "saved", {"w": W})
    link = tmp_path / "saved" / ("MANIFEST" if file == "MANIFEST" else "")
    held = tmp_path / ".git" / "annex" / "objects" / "key"
    held.parent.mkdir(parents=True)
    away = link.rename(tmp_path / "away")
    os.symlink(held, tmp_path / "saved" / "MANIFEST" if file == "MANIFEST" else tmp_path / "saved")
    with pytest.raises(ckptstore.StorageError, match="run `git annex get` on it") as caught:
        ckptstore.load(tmp_path / "saved")
    assert caught.value.reason == "dangling-link" and "remove it" not in str(caught.value)
    away.rename(held)  # as git-annex does
    np.testing.assert_array_equal(ckptstore.load(tmp_path / "saved")["w"], W)
