"""The files of other tools: read them as trees, or write named arrays.

    from_flax, from_orbax, from_safetensors, from_torch,
    from_equinox, from_pickle, from_npz                       each returns a tree
    to_safetensors, to_npz                                    each returns a `Report`

Each framework is imported by the call that needs it. Guide: docs/moving.md.

Example:
    >>> import numpy as np
    >>> from ckptstore import convert
    >>> report = convert.to_npz("params.npz", {"w": np.ones((2, 3))})
    >>> convert.from_npz("params.npz")["w"].shape
    (2, 3)
"""

from __future__ import annotations

from ckptstore.convert.equinox import from_equinox
from ckptstore.convert.export_plan import Report
from ckptstore.convert.flat_names import Loss
from ckptstore.convert.flax import from_flax
from ckptstore.convert.npz import from_npz, to_npz
from ckptstore.convert.orbax import from_orbax
from ckptstore.convert.pickle import from_pickle
from ckptstore.convert.safetensors import from_safetensors, safetensors_metadata, to_safetensors
from ckptstore.convert.torch import from_torch

__all__ = [
    "Loss",
    "Report",
    "from_equinox",
    "from_flax",
    "from_npz",
    "from_orbax",
    "from_pickle",
    "from_safetensors",
    "from_torch",
    "safetensors_metadata",
    "to_npz",
    "to_safetensors",
]


def __dir__() -> list[str]:
    """Return the public names only, so that completion hides internal modules."""
    return __all__
