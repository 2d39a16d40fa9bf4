"""What the arrays of a checkpoint hold, and how two checkpoints differ. No framework is imported.

Each function takes an open `Reader` or the URL of a checkpoint, and returns frozen results with a
`to_dict()` for JSON.

Example:
    >>> import ckptstore, numpy as np
    >>> from ckptstore import analysis
    >>> saved = ckptstore.save("ckpt", {"w": np.ones(3), "step": 7})
    >>> [(row.short, row.mean) for row in analysis.stats("ckpt")]
    [('w', 1.0)]
    >>> analysis.diff("ckpt", "ckpt").differs
    False

Guide: docs/looking.md.
"""

from ckptstore.analysis.difference import Change, Diff, diff
from ckptstore.analysis.histograms import Histogram, histogram
from ckptstore.analysis.statistics import ArrayStats, stats

__all__ = ["ArrayStats", "Change", "Diff", "Histogram", "diff", "histogram", "stats"]
