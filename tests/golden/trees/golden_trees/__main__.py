"""Write the catalogue, or check what another process wrote of it.

``python -m golden_trees write DIRECTORY`` writes every case that the oldest version can write, and
what each is.
``python -m golden_trees check DIRECTORY`` loads each with the ckptstore that is imported here, and
prints what differs. Both print first from where ckptstore was imported, and last how many cases
there were. The names of frameworks may follow; without one, all are written or checked.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable

import msgpack

import ckptstore
from golden_trees import FRAMEWORKS, archive, archived, describe, load

OLDEST = "0.1"


def write(root: pathlib.Path, frameworks: Iterable[str]) -> int:
    """Write every case into a directory of its framework."""
    count = 0
    for framework in frameworks:
        said = archive.written(framework, root / framework, OLDEST)
        (root / f"{framework}.msgpack").write_bytes(msgpack.packb(said))
        count += len(said)
    return count


def check(root: pathlib.Path, frameworks: Iterable[str]) -> int:
    """Load every case and print each difference."""
    count = 0
    for framework in frameworks:
        said = msgpack.unpackb((root / f"{framework}.msgpack").read_bytes())
        for name, case in archived(OLDEST, framework).items():
            for place, one in said[name].items():
                url = root / framework / archive.folder(name) / place
                try:
                    problems = [str(problem) for problem in ckptstore.verify(url)]
                    rows = describe.describe(load(case, url))
                    problems += filter(None, [describe.difference(one["rows"], rows)])
                except Exception as error:
                    problems = [repr(error)]
                for problem in problems:
                    print(f"{framework} {name} {place}: {problem}")
            count += 1
    return count


if __name__ == "__main__":
    print(ckptstore.__file__)
    what, place, *names = sys.argv[1:]
    print({"write": write, "check": check}[what](pathlib.Path(place), names or FRAMEWORKS))
