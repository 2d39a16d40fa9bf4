"""Files of other tools in buckets: read as from a disk, and written wholly or not at all."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import equinox as eqx
import flax
import fsspec.implementations.memory
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
import torch

import ckptstore
from ckptstore import convert, storage
from ckptstore.convert import files
from ckptstore.storage import atomic_upload, local, retry
from ckptstore.storage import bucket as bucket_module
from tests.support import places
from tests.support.compare import differences
from tests.support.servers import proxy as faults

TREE = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.int8)}
LARGE = {"w": np.arange(9 << 17, dtype=np.float64)}  # 9 MiB: an upload in two parts
WHOLE = pytest.mark.whole
BUCKETS = (pytest.param("moto", marks=WHOLE), "ministack", "gcs")
READERS = {
    "flax": convert.from_flax,
    "safetensors": convert.from_safetensors,
    "metadata": convert.safetensors_metadata,
    "torch": convert.from_torch,
    "equinox": lambda url, **more: convert.from_equinox(url, TREE, **more),
    "orbax": lambda url, **more: convert.from_orbax(url, TREE, **more),
}


class Memory(places.Place):
    """A directory of this process's memory."""

    def __init__(self, name):
        self.url = f"memory://{name}/run"
        self._root = f"/{name}/run/"
        self._store = fsspec.filesystem("memory").store

    def files(self, below=""):
        return {path[len(self._root) :] for path in self._store if path.startswith(self._root)}

    def put(self, path, data=b"theirs"):
        fsspec.filesystem("memory").pipe_file(self._root + path, data)

    def get(self, path):
        return self._store[self._root + path].getvalue()

    def delete(self, path):
        del self._store[self._root + path]


@pytest.fixture(params=("local", "memory", *BUCKETS))
def place(request, tmp_path):
    if request.param != "memory":
        yield from places.make(request, tmp_path)
    else:
        yield Memory(tmp_path.name)
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture(params=BUCKETS)
def bucket_place(request):
    """A directory on each server, where what is asked of them differs."""
    return places.BucketPlace(request.getfixturevalue(request.param))


@pytest.fixture(params=["ministack", *(pytest.param(k, marks=WHOLE) for k in ("moto", "gcs"))])
def any_bucket(request):
    """A directory on one server, where all are asked the same."""
    return places.BucketPlace(request.getfixturevalue(request.param))


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    """A directory of its own for temporary files, in which nothing is ever left."""
    directory = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert os.listdir(directory) == []


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(retry, "_WAITS", (0.02, 0.1))


def settings(options, **more):
    return (options or {}) | {"ckptstore": {"timeout": 60, "deadline": 60} | more}


def refused(call, *args, error=ckptstore.StorageError, reason=None, **more):
    with pytest.raises(error) as caught:
        call(*args, **more)
    assert reason in (None, caught.value.reason), caught.value
    return str(caught.value)


def torch_bytes(tree):
    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(x) for name, x in tree.items()}, stream)
    return stream.getvalue()


def equinox_bytes(tree):
    stream = io.BytesIO()
    eqx.tree_serialise_leaves(stream, tree)
    return stream.getvalue()


# In


def test_every_format_is_read_from_everywhere(place):
    options = {"storage_options": place.options}
    one = safetensors.numpy.save({"w": TREE["w"]}, {"license": "ours"})
    index = {"weight_map": {"b": "b.safetensors", "w": "w.safetensors"}}
    place.put("w.safetensors", one)
    place.put("b.safetensors", safetensors.numpy.save({"b": TREE["b"]}))
    place.put("all.safetensors.index.json", json.dumps(index).encode())
    place.put("state.msgpack", flax.serialization.to_bytes(TREE))
    place.put("model.pt", torch_bytes(TREE))
    place.put("model.eqx", equinox_bytes(TREE))
    sharded = convert.from_safetensors(f"{place.url}/all.safetensors.index.json", **options)
    assert differences(TREE, {name: sharded[name] for name in TREE}) == []
    assert list(sharded) == ["b", "w"]
    metadata = convert.safetensors_metadata(f"{place.url}/w.safetensors", **options)
    assert metadata == {"license": "ours"}
    assert differences(TREE, convert.from_flax(f"{place.url}/state.msgpack", **options)) == []
    read = convert.from_torch(f"{place.url}/model.pt", arrays="numpy", **options)
    assert differences(TREE, read) == []
    for name in ("model", "model.eqx"):  # equinox adds the suffix
        read = convert.from_equinox(f"{place.url}/{name}", TREE, **options)
        assert differences(TREE, read) == []


def test_large_files_are_read_in_ranges(any_bucket, monkeypatch):
    tree = {"w": np.random.default_rng(0).integers(0, 255, 20 << 20, np.uint8)}
    any_bucket.put("x.safetensors", safetensors.numpy.save(tree))
    any_bucket.put("x.pt", torch_bytes(tree))
    spans, real = [], bucket_module.BucketStorage.get

    def get(self, name, offset, buffer):
        spans.append((name, offset, len(buffer)))
        real(self, name, offset, buffer)

    monkeypatch.setattr(bucket_module.BucketStorage, "get", get)
    for name, read in (("x.safetensors", convert.from_safetensors), ("x.pt", convert.from_torch)):
        found = read(f"{any_bucket.url}/{name}", storage_options=any_bucket.options)
        assert np.array_equal(tree["w"], np.asarray(found["w"]))
        assert sorted(offset for file, offset, _ in spans if file == name) == [0, 8 << 20, 16 << 20]
    assert max(nbytes for _, _, nbytes in spans) == 8 << 20


def test_what_is_not_there_is_said(place):
    options = {"storage_options": place.options}
    place.put("deep/below/file.bin", b"1")
    for name, read in READERS.items():
        assert "run/no.eqx" in refused(read, f"{place.url}/no.eqx", **options)
        if name == "orbax":
            error, words = ckptstore.StructureError, ("not an item of Orbax",)
        else:
            error, words = ckptstore.StorageError, ("a directory", "not a regular file", "deep.eqx")
        text = refused(read, f"{place.url}/deep", error=error, **options)
        assert any(word in text for word in words)
        if isinstance(place, places.BucketPlace):
            bucketless = f"{place.server.protocol}://no-such-bucket-at-all/x.eqx"
            refused(read, bucketless, reason="no-bucket", **options)
        if "://" in place.url and name != "orbax":
            bucket = place.url.removesuffix("run")
            for url in (bucket, bucket.rstrip("/"), f"{place.url}/deep/"):
                assert "a bucket or a directory" in refused(read, url, reason="bad-url", **options)


def test_a_store_that_denies_says_so(any_bucket):
    any_bucket.put("x.eqx", b"123")
    with faults.FaultProxy(any_bucket.server) as proxy:
        code = "AccessDenied" if any_bucket.server.protocol == "s3" else "forbidden"
        proxy.rule(faults.everything, faults.status(403, code), times=math.inf)
        options = {"storage_options": settings(proxy.storage_options())}
        for read in READERS.values():
            text = refused(read, f"{any_bucket.url}/x.eqx", reason="permission", **options)
            assert "permission" in text
        refused(convert.to_npz, f"{any_bucket.url}/x", TREE, reason="permission", **options)


def test_a_file_that_is_cut_short_is_corrupt(place):
    for name, data in (
        ("flax", flax.serialization.to_bytes(TREE)),
        ("safetensors", safetensors.numpy.save(TREE)),
        ("torch", torch_bytes(TREE)),
        ("equinox", equinox_bytes(TREE)),
    ):
        for keep in (len(data) - 1, len(data) // 2, 3, 0):
            place.put("cut.bin", data[:keep])
            text = refused(
                READERS[name],
                f"{place.url}/cut.bin",
                error=ckptstore.CheckpointError,  # torch takes its first bytes for a pickle
                storage_options=place.options,
            )
            assert "cut.bin" in text and "temporary" not in text


@pytest.mark.parametrize("change", ["replaced", "shorter", "gone"])
def test_a_file_that_changes_while_it_is_read_is_refused(any_bucket, monkeypatch, change):
    tree = {"w": np.ones(9 << 20, np.uint8)}
    data = safetensors.numpy.save(tree)
    real, once = bucket_module.BucketStorage.get, threading.Lock()

    def get(self, name, offset, buffer):
        if offset and once.acquire(blocking=False):
            if change == "gone":
                any_bucket.delete(name)
            else:
                new = safetensors.numpy.save({"w": tree["w"] * 2})
                any_bucket.put(name, new if change == "replaced" else new[: len(new) // 2])
        real(self, name, offset, buffer)

    monkeypatch.setattr(bucket_module.BucketStorage, "get", get)
    for name, read in (("x.safetensors", convert.from_safetensors), ("x.pt", convert.from_torch)):
        any_bucket.put(name, data)
        text = refused(
            read,
            f"{any_bucket.url}/{name}",
            reason="overwritten",
            storage_options=any_bucket.options,
        )
        assert "changed while it was read" in text
        once.release()


def test_a_file_on_a_disk_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(TREE, path)
    real = local.LocalStorage.get

    def get(self, name, offset, buffer):
        real(self, name, offset, buffer)
        os.utime(path, (1, 1))

    monkeypatch.setattr(local.LocalStorage, "get", get)
    refused(convert.from_safetensors, path, reason="overwritten")


def test_a_full_disk_is_an_error_that_names_the_remedy(any_bucket, monkeypatch):
    any_bucket.put("x.pt", torch_bytes(TREE))
    real = open

    def full(path, mode="r", *args, **more):
        if mode == "r+b":
            raise OSError(28, "No space left on device")
        return real(path, mode, *args, **more)

    monkeypatch.setattr("builtins.open", full)
    text = refused(
        convert.from_torch,
        f"{any_bucket.url}/x.pt",
        reason="disk-full",
        storage_options=any_bucket.options,
    )
    assert "TMPDIR" in text
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    text = refused(convert.from_torch, f"{any_bucket.url}/x.pt", storage_options=any_bucket.options)
    assert "temporary directory" in text
    monkeypatch.undo()


# Orbax


@pytest.fixture(scope="module")
def orbax_files(tmp_path_factory):
    """The files of a run of two steps, as a CheckpointManager writes them."""
    root = tmp_path_factory.mktemp("orbax")
    with ocp.CheckpointManager(root / "run") as manager:
        for step in (5, 6):
            manager.save(step, args=ocp.args.StandardSave({"w": jnp.ones(3) * step, "n": step}))
    at = root / "run"
    return {str(p.relative_to(at)): p.read_bytes() for p in at.rglob("*") if p.is_file()}


def like():
    return {"w": jnp.zeros(3), "n": 0}


def upload(place, held):
    for path, data in held.items():
        place.put(path, data)
    if place.url.startswith("gs://"):
        for step in (5, 6):
            for below in (f"{step}", f"{step}/default"):
                place.put(f"{below}/commit_success.txt", b"")


def test_an_orbax_run_is_read_from_a_bucket(place, orbax_files, temporary):
    upload(place, orbax_files)
    place.put("5/default/", b"") if place.url.startswith("s3://") else None  # made by a console
    before = {name: place.get(name) for name in place.files()}
    for path, step in (("5/default", 5), ("6", 6), ("6/default/", 6)):
        read = convert.from_orbax(f"{place.url}/{path}", like(), storage_options=place.options)
        assert differences({"w": jnp.ones(3) * step, "n": step}, read) == []
        assert os.listdir(temporary) == []
    assert {name: place.get(name) for name in place.files()} == before
    for bad, error in ((like() | {"n": 0.0}, "differs-from-like"), (None, "needs-like")):
        refused(
            convert.from_orbax,
            f"{place.url}/5/default",
            bad,
            error=ckptstore.StructureError,
            reason=error,
            storage_options=place.options,
        )
        assert os.listdir(temporary) == []


def test_of_a_run_the_newest_step_alone_is_copied(any_bucket, orbax_files, monkeypatch):
    upload(any_bucket, orbax_files)
    real, read = bucket_module.BucketStorage.get, set()

    def get(self, name, offset, buffer):
        read.add(self.url)
        return real(self, name, offset, buffer)

    monkeypatch.setattr(bucket_module.BucketStorage, "get", get)
    loaded = convert.from_orbax(any_bucket.url, like(), storage_options=any_bucket.options)
    step = convert.from_orbax(f"{any_bucket.url}/6", like(), storage_options=any_bucket.options)
    assert differences(step, loaded) == []
    assert read and not [url for url in read if f"{any_bucket.url}/5" in url]


def test_a_directory_on_gcs_that_orbax_did_not_finish_is_refused(gcs, orbax_files):
    place = places.BucketPlace(gcs)
    upload(place, orbax_files)
    place.delete("5/default/commit_success.txt")
    text = refused(
        convert.from_orbax,
        f"{place.url}/5/default",
        like(),
        error=ckptstore.NotCommittedError,
        reason="unfinished",
        storage_options=place.options,
    )
    assert "commit_success.txt" in text


def test_a_damaged_directory_leaves_nothing_behind(any_bucket, orbax_files):
    upload(any_bucket, orbax_files)
    for path in orbax_files:
        if path.startswith("5/default/"):
            any_bucket.put(path, orbax_files[path][: len(orbax_files[path]) // 2])
    refused(
        convert.from_orbax,
        f"{any_bucket.url}/5/default",
        like(),
        error=ckptstore.CorruptError,
        storage_options=any_bucket.options,
    )


NAMES = ("../../escaped", "..", "a/./b", "a//b", "both/x")


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(n, marks=WHOLE) for n in NAMES[1:])])
def test_names_that_would_leave_the_directory_are_refused(gcs, orbax_files, temporary, name):
    place = places.BucketPlace(gcs)
    upload(place, orbax_files)
    if name == "both/x":
        place.put("5/default/both", b"evil")
    place.put(f"5/default/{name}", b"evil")
    refused(
        convert.from_orbax,
        f"{place.url}/5/default",
        like(),
        error=ckptstore.CheckpointError,
        storage_options=place.options,
    )
    assert not [*temporary.parent.rglob("escaped")] and not os.listdir(temporary)


@pytest.mark.parametrize("change", ["replaced", "added", "gone"])
def test_a_directory_that_changes_while_it_is_copied_is_refused(
    any_bucket, orbax_files, monkeypatch, change
):
    upload(any_bucket, orbax_files)
    real, once, path = bucket_module.BucketStorage.get, threading.Lock(), "5/default/_sharding"
    assert path in orbax_files

    def get(self, name, offset, buffer):
        real(self, name, offset, buffer)
        if once.acquire(blocking=False):
            if change == "gone":
                any_bucket.delete(path)
            else:
                any_bucket.put(path if change == "replaced" else f"{path}-2", b"other")

    monkeypatch.setattr(bucket_module.BucketStorage, "get", get)
    if change == "replaced":  # S3 tells times in seconds
        real_changed = bucket_module.BucketStorage.changed
        monkeypatch.setattr(
            bucket_module.BucketStorage,
            "changed",
            lambda self: {n: t + once.locked() for n, t in real_changed(self).items()},
        )
    refused(
        convert.from_orbax,
        f"{any_bucket.url}/5/default",
        like(),
        reason="overwritten",
        storage_options=any_bucket.options,
    )


# Out


def written(place, name):
    if name.endswith(".npz"):
        with np.load(io.BytesIO(place.get(name))) as held:
            return {n: held[n] for n in held.files}
    return safetensors.numpy.load(place.get(name))


@pytest.mark.parametrize(
    ("write", "tree"),
    [
        (convert.to_safetensors, TREE),
        (convert.to_npz, LARGE),
        pytest.param(convert.to_safetensors, LARGE, marks=WHOLE),
        pytest.param(convert.to_npz, TREE, marks=WHOLE),
    ],
    ids=["safetensors-small", "npz-large", "safetensors-large", "npz-small"],
)
def test_a_file_is_written_and_read_back(place, write, tree):
    name = f"out.{write.__name__.removeprefix('to_')}"
    url, options = f"{place.url}/{name}", {"storage_options": place.options}
    ckptstore.save(f"{place.url}/ckpt", tree, **options)
    checkpoint = place.files()
    for source in (tree, f"{place.url}/ckpt"):
        report = write(url, source, **options)
        assert (report.path, set(report.names)) == (url, set(tree))
        assert place.files() == checkpoint | {name}
        held = written(place, name)
        assert differences(tree, {n: held[n] for n in tree}) == []
        before = place.get(name)
        with pytest.raises(ckptstore.AlreadyCommittedError, match="overwrite=True"):
            write(url, {"other": np.zeros(5)}, **options)
        with pytest.raises(ckptstore.AlreadyCommittedError, match="overwrite=True"):
            write(url, LARGE, **options)
        assert place.get(name) == before
        write(url, {"other": np.zeros(5)}, overwrite=True, **options)
        assert set(written(place, name)) == {"other"}
        assert place.files() == checkpoint | {name}
        place.delete(name)


def test_sizes_of_npz_files_are_known_before_they_are_written():
    from ckptstore.convert import npz
    from ckptstore.convert.export_plan import plan_export

    for tree in ({}, {"a": np.zeros((0, 3)), "ü" * 300: np.ones(7)}, TREE | LARGE):
        entries = plan_export(tree or {"x": 1}, None, None).entries
        sizes = {sum(map(len, npz._chunks(entries, of))) for of in (npz._zeros, npz._array)}
        assert len(sizes) == 1


@pytest.mark.parametrize("tree", [pytest.param(TREE, marks=WHOLE), LARGE], ids=["small", "large"])
def test_one_of_many_writers_wins(bucket_place, tree):
    url, start = f"{bucket_place.url}/x.safetensors", threading.Barrier(4)

    def attempt(number):
        start.wait()
        mine = {name: x + number for name, x in tree.items()}
        try:
            convert.to_safetensors(url, mine, storage_options=bucket_place.options)
            return number
        except ckptstore.AlreadyCommittedError:
            return None

    with ThreadPoolExecutor(4) as pool:
        winners = [n for n in pool.map(attempt, range(4)) if n is not None]
    assert len(winners) == 1
    held = written(bucket_place, "x.safetensors")
    mine = {name: x + winners[0] for name, x in tree.items()}
    assert differences(mine, {name: held[name] for name in mine}) == []
    assert bucket_place.files() == {"x.safetensors"}
    assert bucket_place.server.uploads(bucket_place.bucket) == []


def end_of_upload(server):
    """Match the request that makes the parts an object."""
    if server.protocol == "s3":
        return faults.matching("POST", r"uploadId=")
    return lambda r: "upload_id=" in r.target and r.length not in (0, 8 << 20)


@pytest.mark.parametrize("replace", [False, pytest.param(True, marks=WHOLE)])
@pytest.mark.parametrize(
    "action",
    [
        "drop-after",
        *(pytest.param(a, marks=WHOLE) for a in ("drop-before", "error-before", "error-after")),
    ],
)
def test_a_lost_answer_at_the_end_of_an_upload_is_no_failure(
    bucket_place, impatient, action, replace
):
    with faults.FaultProxy(bucket_place.server) as proxy:
        options = {"storage_options": settings(proxy.storage_options()), "overwrite": replace}
        url = f"{bucket_place.url}/x.safetensors"
        convert.to_safetensors(f"{bucket_place.url}/first.safetensors", LARGE, **options)
        if replace:
            bucket_place.put("x.safetensors", bucket_place.get("first.safetensors")[:-1] + b"x")
        proxy.rule(end_of_upload(bucket_place.server), faults.ACTIONS[action], times=1)
        convert.to_safetensors(url, LARGE, **options)
        assert [r for r in proxy.log if r.action], "nothing was lost"
    assert bucket_place.get("x.safetensors") == bucket_place.get("first.safetensors")
    assert bucket_place.server.uploads(bucket_place.bucket) == []


@pytest.mark.parametrize("at", ["a part", "the end"])
def test_only_a_store_that_goes_away_at_the_end_leaves_the_outcome_open(any_bucket, impatient, at):
    is_part = faults.matching("", r"partNumber=1|upload_id=")
    is_last = is_part if at == "a part" else end_of_upload(any_bucket.server)
    error = ckptstore.StorageError if at == "a part" else ckptstore.OutcomeUnknownError
    with faults.FaultProxy(any_bucket.server) as proxy:
        options = {"storage_options": settings(proxy.storage_options(), deadline=1)}
        convert.to_safetensors(f"{any_bucket.url}/first.safetensors", LARGE, **options)
        gone = []

        def down(request):
            if is_last(request):
                gone.append(request)
            return bool(gone)

        if at == "the end":
            proxy.rule(down, faults.DROP_AFTER)
        proxy.rule(down, faults.DROP_BEFORE, times=math.inf)
        url = f"{any_bucket.url}/x.safetensors"
        text = refused(convert.to_safetensors, url, LARGE, error=error, **options)
    assert ("complete or does not exist" in text) == (at == "the end")
    held = {"first.safetensors"} | ({"x.safetensors"} if at == "the end" else set())
    assert any_bucket.files() == held
    assert len({any_bucket.get(name) for name in held}) == 1


@pytest.mark.parametrize("replace", [pytest.param(False, marks=WHOLE), True])
def test_an_upload_that_fails_leaves_all_as_it_was(bucket_place, impatient, replace):
    server, bucket = bucket_place.server, bucket_place.bucket
    if replace:
        bucket_place.put("x.safetensors", b"old")
    if server.protocol == "s3":  # somebody else is at the same key
        server.client.create_multipart_upload(Bucket=bucket, Key="run/x.safetensors")
    before = server.uploads(bucket)
    part = r"partNumber=2" if server.protocol == "s3" else r"upload_id="
    with faults.FaultProxy(server) as proxy:
        options = {"storage_options": settings(proxy.storage_options()), "overwrite": replace}
        convert.to_safetensors(f"{bucket_place.url}/first.safetensors", LARGE, **options)
        denied = faults.status(403, "AccessDenied" if server.protocol == "s3" else "forbidden")
        proxy.rule(faults.matching("PUT" if server.protocol == "s3" else "POST", part), denied)
        refused(
            convert.to_safetensors,
            f"{bucket_place.url}/x.safetensors",
            LARGE,
            reason="permission",
            **options,
        )
    assert server.uploads(bucket) == before
    assert bucket_place.files() == {"first.safetensors"} | ({"x.safetensors"} if replace else set())
    assert not replace or bucket_place.get("x.safetensors") == b"old"


@pytest.mark.parametrize("server", ["moto", "ministack"], indirect=True)
def test_a_store_that_ignores_the_condition_of_a_large_file_is_refused(server, monkeypatch):
    place = places.BucketPlace(server)
    monkeypatch.setattr(atomic_upload, "_proven", set())
    with faults.FaultProxy(server) as proxy:
        options = {"storage_options": settings(proxy.storage_options())}
        proxy.rule(end_of_upload(server), faults.UNCONDITIONAL, times=math.inf)
        url = f"{place.url}/x.safetensors"
        text = refused(convert.to_safetensors, url, LARGE, reason="not-atomic", **options)
        assert "overwrite=True" in text
        assert place.files() == set() and server.uploads(place.bucket) == []
        convert.to_safetensors(url, TREE, **options)  # one request
        convert.to_safetensors(url, LARGE, overwrite=True, **options)
    assert set(written(place, "x.safetensors")) == {"w"}


def test_options_go_to_every_url_of_a_call(tmp_path, ministack, gcs):
    one, two = places.BucketPlace(ministack), places.BucketPlace(gcs)
    ckptstore.save(f"{one.url}/ckpt", TREE, storage_options=one.options)
    ckptstore.save(tmp_path / "ckpt", TREE)
    convert.to_npz(tmp_path / "x.npz", f"{one.url}/ckpt", storage_options=one.options)
    convert.to_npz(f"{one.url}/x.npz", tmp_path / "ckpt", storage_options=one.options)
    assert one.get("x.npz") == (tmp_path / "x.npz").read_bytes()
    for write in (convert.to_npz, convert.to_safetensors):
        text = refused(
            write,
            f"{two.url}/x",
            f"{one.url}/ckpt",
            storage_options=two.options,
            reason="bad-options",
        )
        assert "load the checkpoint" in text
        for source in (TREE, tmp_path / "ckpt"):
            refused(
                write, tmp_path / "y", source, storage_options=one.options, reason="bad-options"
            )
    for source in (b"", io.BytesIO()):
        refused(convert.from_flax, source, storage_options=one.options, reason="bad-options")
    assert two.files() == set() and not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    "url",
    [
        "https://host/x.safetensors?X-Amz-Signature=hunter2",
        "https://host/x.safetensors?X-Amz-Credential=a/hunter2/b",
        "sftp://me:hunter2@host",
        "s3://me:hunter2@bucket/x.safetensors",
    ],
)
def test_a_url_with_a_secret_is_refused_without_it(url):
    for call in (convert.from_safetensors, lambda url: convert.to_npz(url, TREE)):
        assert "hunter2" not in refused(call, url, reason="bad-url")


@pytest.mark.parametrize("url", ["s3://b/a/../x", "s3://b/..", "s3:/b/x", "s4://b/x", "s3://"])
def test_a_url_that_names_no_file_is_refused(url):
    for call in (*READERS.values(), lambda url: convert.to_npz(url, TREE)):
        refused(call, url)
    refused(convert.to_npz, "memory://b/directory/", TREE, reason="bad-url")


class Kept(fsspec.implementations.memory.MemoryFileSystem):
    protocol = "kept"
    store: ClassVar = {}


def test_other_protocols_are_read_and_not_written_to():
    fsspec.register_implementation("kept", Kept, clobber=True)
    Kept().pipe_file("kept://there/run/x.safetensors", safetensors.numpy.save(TREE))
    read = convert.from_safetensors("kept://there/run/x.safetensors")
    assert differences(TREE, {name: read[name] for name in TREE}) == []
    for tree in (TREE, LARGE):
        for overwrite in (False, True):
            name = "x.safetensors" if overwrite else "new"
            call = convert.to_npz, f"kept://there/run/{name}", tree
            assert "local disk" in refused(*call, reason="not-atomic", overwrite=overwrite)
    read = convert.from_safetensors("kept://there/run/x.safetensors")
    assert differences(TREE, {name: read[name] for name in TREE}) == []


def test_an_open_file_gives_any_range(place):
    place.put("x.bin", bytes(range(100)))
    with files.open_file(f"{place.url}/x.bin", place.options) as file:
        assert file.nbytes == 100
        assert [file.read(), file.read(90), file.read(3, 2), file.read(100)] == [
            bytes(range(100)),
            bytes(range(90, 100)),
            b"\3\4",
            b"",
        ]
    assert storage.absolute(file.where) == f"{place.url}/x.bin"
