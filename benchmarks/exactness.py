"""Which optimizer states come back exactly, with nothing but the file to go by.

    python benchmarks/exactness.py [--quick] [--json FILE] [--dir DIR]

`README.md` beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from compare import Difference, differences
from contenders import Contender, Equinox, installed
from environment import describe
from states import Tree

_TOOLS = ("ckptstore", "Orbax", "safetensors", "flax msgpack", "pickle")
_QUICK_EVERY = 8
"""With --quick, Orbax is given one state of so many."""
_MOST_FREQUENT = 3


class OrbaxRichTypes(Contender):
    """Orbax, told to write down the containers too (`support_rich_types`)."""

    name = "Orbax, rich types"
    module = "orbax.checkpoint"

    def __init__(self) -> None:
        orbax = import_module("orbax.checkpoint")
        metadata = import_module("orbax.checkpoint._src.metadata.tree")  # it has no public name
        options = metadata.PyTreeMetadataOptions(support_rich_types=True)
        handler = orbax.PyTreeCheckpointHandler(pytree_metadata_options=options)
        self._checkpointer = orbax.Checkpointer(handler)

    def save(self, path: Path, tree: Tree) -> None:
        self._checkpointer.save(path, tree)

    def load_alone(self, path: Path) -> Tree:
        return self._checkpointer.restore(path)


@dataclass
class Score:
    """How one tool did.

    Attributes:
        exact: The names of the states that came back exactly.
        failed: For each other state, what was wrong with it, in words.
        details: For each other state, the first places that differ, or the error.
    """

    exact: list[str] = field(default_factory=list)
    failed: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, list[str]] = field(default_factory=dict)

    def total(self) -> int:
        """Return how many states were tried."""
        return len(self.exact) + len(self.failed)

    def most_frequent(self) -> str:
        """Return the failures that the most states had, with how many had each."""
        counts = Counter(words for failures in self.failed.values() for words in set(failures))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return "; ".join(f"{words} ({count})" for words, count in ranked[:_MOST_FREQUENT])


def main() -> None:
    """Try every state with every tool, and print a table in Markdown."""
    options = _options()
    warnings.simplefilter("ignore")
    facts = describe(Path(options.dir))
    states = _states()
    scores: dict[str, Score] = {}
    rows = ["| tool | exact | what comes back instead (states) | runs code from the file |"]
    rows.append("|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="ckptstore-exactness-") as directory:
        for tool in _tools():
            sampled = options.quick and tool.module == OrbaxRichTypes.module
            names = sorted(states)[:: _QUICK_EVERY if sampled else 1]
            score = measure(tool, {name: states[name] for name in names}, Path(directory))
            scores[tool.name] = score
            code = "yes" if tool.runs_code else "no"
            figures = f"{len(score.exact)} / {score.total()}"
            rows.append(f"| {tool.name} | {figures} | {score.most_frequent() or '—'} | {code} |")
    rows.append(f"| {Equinox.name} | needs a template | — | no |")
    print(" · ".join(f"{name} {fact}" for name, fact in facts.items()), end="\n\n")
    print("\n".join(rows))
    if options.json:
        found = {name: score.__dict__ for name, score in scores.items()}
        record = {"environment": facts, "scores": found}
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def measure(tool: Contender, states: dict[str, Tree], directory: Path) -> Score:
    """Save each state, load it without a template, and compare the two strictly."""
    score = Score()
    for number, (name, state) in enumerate(states.items()):
        path = directory.resolve() / f"state-{number}"
        found = _round_trip(tool, state, path)
        if not found:
            score.exact.append(name)
        else:
            score.failed[name] = [difference.words for difference in found]
            score.details[name] = [f"{one.path}: {one.words}" for one in found[:10]]
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return score


def _tools() -> list[Contender]:
    tools = installed(_TOOLS)
    if any(tool.module == OrbaxRichTypes.module for tool in tools):
        tools.append(OrbaxRichTypes())
    return tools


def _round_trip(tool: Contender, state: Tree, path: Path) -> list[Difference]:
    try:
        tool.save(path, state)
    except Exception as error:  # each tool refuses in its own way
        return [Difference("$", f"saving raises {type(error).__name__}")]
    try:
        found = tool.load_alone(path)
    except Exception as error:
        return [Difference("$", f"loading raises {type(error).__name__}")]
    return differences(state, found)


def _states() -> dict[str, Any]:
    """Return the states of the catalogue that the tests use, by name."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    cases = import_module("tests.support.optax_catalogue").CASES
    return {name: build().state for name, build in cases.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count the states that come back exactly.")
    parser.add_argument("--quick", action="store_true", help="give Orbax only a sample")
    parser.add_argument("--json", metavar="FILE", help="also write every failure to this file")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
