"""Say what becomes of an old Optax release's pickled states under today's.

python tests/golden/count_pickles.py 0.2.1 DIR     # DIR was written by make_optax.py --pickles
"""

from __future__ import annotations

import collections
import io
import pathlib
import pickle
import sys
import warnings
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.support import optax_golden


class _Nothing:
    """Stands for an array."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Take anything."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Take anything."""


class _OptaxAlone(pickle.Unpickler):
    """Loads what is Optax's; arrays, which may fail for jax's reasons, are left out."""

    def find_class(self, module: str, name: str) -> Any:
        """Find what a pickle names."""
        if module.partition(".")[0] in ("jax", "jaxlib", "numpy", "ml_dtypes"):
            return _Nothing
        return super().find_class(module, name)


def main(release: str, root: str) -> None:
    """Count, by what happened; list all that did not load as it was."""
    counts: collections.Counter[str] = collections.Counter()
    states = optax_golden.expected(release)["states"]
    for name, said in states.items():
        path = pathlib.Path(root, f"{name.replace('/', '~')}.pickle")
        try:
            state = pickle.loads(path.read_bytes())
        except Exception as error:
            counts["raises"] += 1
            print(f"{release} {name}: raises {type(error).__name__}: {error!s:.150}")
            try:
                _OptaxAlone(io.BytesIO(path.read_bytes())).load()
            except Exception as error:
                counts["raises for Optax alone"] += 1
                print(f"  for Optax alone: {type(error).__name__}: {error!s:.150}")
            continue
        wrong = optax_golden.differences(said, state)
        counts["loads wrong" if wrong else "loads"] += 1
        if wrong:
            print(f"{release} {name}: loads wrong: {wrong[0]:.200}")
    print(f"optax {release}: {len(states)} states: {dict(counts)}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
