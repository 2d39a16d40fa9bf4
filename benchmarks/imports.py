"""What a plain install brings, and how long an import takes.

    python benchmarks/imports.py [--rounds N] [--json FILE] [--dir DIR] [--tools NAME ...]

`README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from environment import describe
from rich.console import Console
from rich.table import Table

_PROJECT = Path(__file__).resolve().parent.parent
_TOOLS = {
    "numpy": ("numpy", "numpy"),
    "ckptstore": (str(_PROJECT), "ckptstore"),
    "safetensors": ("safetensors[numpy]", "safetensors.numpy"),
    "flax": ("flax", "flax.serialization"),
    "equinox": ("equinox", "equinox"),
    "Orbax": ("orbax-checkpoint", "orbax.checkpoint"),
}
"""For each tool, what pip installs and what a script imports."""


def main() -> None:
    """Install each tool alone in a new environment; count packages and time its import."""
    options = _options()
    facts = describe(Path(options.dir))
    console = Console(width=100)
    console.print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), highlight=False)
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        pythons = {tool: _install(tool, Path(scratch) / tool) for tool in options.tools}
        seconds: dict[str, list[float]] = {tool: [] for tool in options.tools}
        for _ in range(options.rounds):
            for tool, python in pythons.items():
                seconds[tool].append(_seconds(python, f"import {_TOOLS[tool][1]}"))
                seconds[tool][-1] -= _seconds(python, "pass")
        rows = {
            tool: {
                "packages": len(_packages(python)),
                "megabytes": round(_nbytes(python.parent.parent / "lib") / 1e6),
                "import_s": round(statistics.median(seconds[tool]), 3),
            }
            for tool, python in pythons.items()
        }
    table = Table(title=f"A plain install; median of {options.rounds} imports")
    for column in ("tool", "packages", "MB", "import, s", "of numpy's"):
        table.add_column(column, justify="left" if column == "tool" else "right")
    base = rows.get("numpy", {}).get("import_s")
    for tool, row in rows.items():
        ratio = f"{row['import_s'] / base:.1f}" if base else ""
        table.add_row(
            tool, str(row["packages"]), str(row["megabytes"]), f"{row['import_s']:.3f}", ratio
        )
    console.print(table)
    if options.json:
        record: dict[str, Any] = {"environment": facts, "tools": rows}
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def _install(tool: str, directory: Path) -> Path:
    """Return the interpreter of a new environment that holds the tool and what it asks for."""
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, _TOOLS[tool][0]], check=True)
    subprocess.run([python, "-c", f"import {_TOOLS[tool][1]}"], check=True)  # writes the bytecode
    return python


def _packages(python: Path) -> list[str]:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "list", "--format", "json"]
    found = json.loads(subprocess.run(pip, check=True, capture_output=True, text=True).stdout)
    return [row["name"] for row in found]


def _nbytes(directory: Path) -> int:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files if path.suffix != ".pyc")


def _seconds(python: Path, code: str) -> float:
    start = time.perf_counter()
    subprocess.run([python, "-c", code], check=True)
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="imports of each tool")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where to install")
    parser.add_argument("--tools", nargs="+", default=list(_TOOLS), choices=list(_TOOLS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
