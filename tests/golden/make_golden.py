"""Make the golden checkpoints of the ckptstore that this runs with.

They are frozen: what is there is never made again. README.md beside this file says how this was
run. A directory holds one archive for each framework of `golden_trees`, for its module `archive`:
the files of each checkpoint, what each is in the words of its module `describe`, and the versions
of the packages that wrote it. `public.json` lists the public names and the reason codes.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "trees"))

import golden_trees  # noqa: E402 - run as a script, it has to say where the tests are
from golden_trees import archive, public  # noqa: E402

import ckptstore  # noqa: E402

PACKAGES = """
    ckptstore chex dm-haiku equinox flax jax jaxlib jaxtyping jmp ml_dtypes msgpack numpy optax
    torch xxhash
"""


def versions() -> dict[str, str]:
    """Return what writes here."""
    root = pathlib.Path(ckptstore.__file__).parents[1]
    git = ["git", "-C", str(root)]
    subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "ckptstore"], check=True)
    commit = [*git, "rev-list", "-1", "HEAD", "--", "ckptstore"]
    found = {name: importlib.metadata.version(name) for name in PACKAGES.split()}
    return {
        **found,
        "commit": subprocess.run(commit, check=True, capture_output=True, text=True).stdout.strip(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def main() -> None:
    """Write the golden checkpoints of this version; refuses where there are some."""
    wrote = versions()
    into = HERE / f"ckptstore-{'.'.join(ckptstore.__version__.split('.')[:2])}"
    into.mkdir()
    (into / "public.json").write_text(public.text())
    for framework in golden_trees.FRAMEWORKS:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            said = archive.written(framework, root)
            packed = {
                name: {"files": archive.files(root / archive.folder(name)), "checkpoints": found}
                for name, found in said.items()
            }
        path = archive.path(into, framework)
        archive.save(path, {"versions": wrote, "cases": packed})
        print(f"{framework}: {len(packed)} cases, {path.stat().st_size:,} bytes")
    print(wrote)


if __name__ == "__main__":
    main()
