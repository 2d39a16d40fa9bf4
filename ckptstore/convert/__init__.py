"""Moving in from other formats, and out to them.

    from_flax, from_orbax, from_safetensors, from_torch, from_equinox     readers: each gives a tree
    to_safetensors, to_npz                                                writers: each a `Report`

What is exact, and what is refused, is in docs/moving.md. Each framework is imported by the call
that needs it.
"""

from __future__ import annotations

from ckptstore.convert.equinox import from_equinox
from ckptstore.convert.export_plan import Report
from ckptstore.convert.flat_names import Loss
from ckptstore.convert.flax import from_flax
from ckptstore.convert.npz import to_npz
from ckptstore.convert.orbax import from_orbax
from ckptstore.convert.safetensors import from_safetensors, safetensors_metadata, to_safetensors
from ckptstore.convert.torch import from_torch

__all__ = [
    "Loss",
    "Report",
    "from_equinox",
    "from_flax",
    "from_orbax",
    "from_safetensors",
    "from_torch",
    "safetensors_metadata",
    "to_npz",
    "to_safetensors",
]
