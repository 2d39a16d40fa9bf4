"""The public names, the errors, and what an import brings with it."""

import importlib
import inspect
import pickle
import subprocess
import sys

import pytest

import ckptstore
from ckptstore import errors

WINGS = ("adapters", "convert", "optax")


def test_all_is_sorted_and_true():
    assert sorted(ckptstore.__all__) == ckptstore.__all__
    public = {name for name, value in vars(ckptstore).items() if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(ckptstore, name))}
    assert public - modules - {"annotations"} == set(ckptstore.__all__) - {"__version__"}


@pytest.mark.parametrize("face", ["ckptstore", *(f"ckptstore.{wing}" for wing in WINGS)])
def test_dir_is_the_public_names(face):
    module = importlib.import_module(face)
    assert dir(module) == module.__all__


@pytest.mark.parametrize("wing", WINGS)
def test_a_public_wing_is_there_once_the_package_is_imported(wing):
    script = f"import ckptstore; print(ckptstore.{wing}.__all__)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(getattr(ckptstore, wing).__all__)


def test_every_public_name_has_a_docstring():
    for name in set(ckptstore.__all__) - {"__version__"}:
        assert getattr(ckptstore, name).__doc__, name


def test_import_brings_no_framework():
    script = (
        "import sys, ckptstore\n"
        "heavy = {'jax', 'optax', 'torch', 'flax', 'equinox', 'sklearn', 'fsspec', 's3fs'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_import_brings_no_client_of_a_store():
    script = "import sys, ckptstore; print('ckptstore.storage.clients' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


ERRORS = [getattr(errors, name) for name in errors.__all__ if name != "Reason"]


def test_every_error_is_a_checkpoint_error_with_its_own_exit_code():
    assert all(issubclass(error, ckptstore.CheckpointError) for error in ERRORS)
    codes = [error.exit_code for error in ERRORS]
    assert len(set(codes)) == len(codes)
    assert all(getattr(ckptstore, error.__name__) is error for error in ERRORS)


def test_the_tree_of_errors_is_drawn_at_the_top_of_its_file():
    drawn = errors.__doc__ or ""
    assert all(error.__name__ in drawn for error in ERRORS)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_survives_a_process_boundary(error):
    made = error("what, where", reason="code")
    back = pickle.loads(pickle.dumps(made))
    assert (type(back), str(back), back.reason) == (error, "what, where", "code")
