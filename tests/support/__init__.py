"""What several tests share: servers, faults, exact comparison, an independent reader."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Of the repository: what a child process needs on its PYTHONPATH."""
TESTS = ROOT / "tests"
DOCS = ROOT / "docs"
