"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "ckptstore",
    "jax",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "tensorstore",
    "safetensors",
    "flax",
    "equinox",
)


def describe(directory: Path) -> dict[str, str]:
    """Return the versions, the processor, the memory and the file system of a directory."""
    facts = {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "file system": _file_system(directory),
    }
    return {name: fact for name, fact in facts.items() if fact}


def status(field: str) -> int:
    """Return the bytes that a field of ``/proc/self/status`` says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def _file_system(directory: Path) -> str:
    """Return the kind of the file system, from the mount that is the nearest parent."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    here = directory.resolve()
    around = [(mount[1], mount[2]) for mount in mounts if here.is_relative_to(mount[1])]
    return max(around, key=lambda mount: len(mount[0]))[1] if around else ""
