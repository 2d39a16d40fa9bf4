"""Files of `torch.save`, which are read only with ``weights_only=True``."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ckptstore.convert import inputs
from ckptstore.convert.files import open_file
from ckptstore.convert.like import path_step
from ckptstore.convert.local_copy import local_file
from ckptstore.errors import CorruptError, Reason, UnsupportedError, bad_argument
from ckptstore.format import dtypes

_GROWTH = 4
"""The largest ratio of arrays to file size: a tensor of strides 0 could have any size."""

_ZIP = b"PK\x03\x04"


@inputs.leading_on
def from_torch(
    path: str | os.PathLike[str],
    *,
    arrays: Literal["torch", "numpy"] = "torch",
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Read a file of `torch.save` with torch's own restricted reader.

    The CRC-32 of every part is checked first, which torch itself does not do. Files of torch before
    1.6 have no CRC-32. A file in a bucket is first copied to a temporary directory.

    Args:
        path: the path or URL of the file.
        arrays: ``"torch"`` returns tensors on the CPU. ``"numpy"`` returns numpy arrays of the same
            dtypes, in the dicts, lists and tuples that hold the tensors.
        storage_options: options of the store of a URL, as fsspec takes them.

    Returns:
        The object that was saved.

    Raises:
        UnsupportedError: reason ``weights-only`` if the file needs more than tensors and plain
            containers; ``dtype-not-here`` for a tensor without an equivalent numpy array.
        CorruptError: the file is damaged, or not a file of torch.
        StorageError: the file cannot be read or copied.
        StructureError: reason ``bad-argument``.
        UnknownTypeError: reason ``not-installed``.

    Example:
        >>> import torch
        >>> torch.save({"w": torch.ones(3), "epoch": 7}, "model.pt")
        >>> from_torch("model.pt", arrays="numpy")
        {'w': array([1., 1., 1.], dtype=float32), 'epoch': 7}

    Source: docs/moving.md, "In" and "torch".
    """
    if arrays not in ("torch", "numpy"):
        raise bad_argument("from_torch", "arrays", arrays, "'torch' or 'numpy'")
    torch = inputs.import_package("torch")
    with open_file(path, storage_options) as file, local_file(file) as local_path:
        where, nbytes = file.where, file.nbytes
        with inputs.corrupt_on_error(where, "torch cannot read it"):
            with open(local_path, "rb") as start:
                is_zip = start.read(len(_ZIP)) == _ZIP
            if is_zip:
                _check_zip(where, local_path, nbytes)
            try:
                loaded = torch.load(local_path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise _refused(where, error) from error
    if arrays == "torch":
        return loaded
    with inputs.corrupt_on_error(where, "nested too deep, or a container that holds itself"):
        return _Arrays(torch, where, _GROWTH * nbytes).convert(loaded, "$")


def _check_zip(where: str, local_path: str, nbytes: int) -> None:
    """Refuse a zip that claims more than the file holds, and bytes that are not its CRC-32."""
    with inputs.corrupt_on_error(where, "not a zip file"), zipfile.ZipFile(local_path) as parts:
        entries = parts.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > nbytes:
            raise CorruptError(
                f"{where}: compressed or overlapping parts, which torch does not write; do not "
                "trust it, or, if you made it, save it again with torch.save"
            )
        bad = parts.testzip()
    if bad is not None:
        raise CorruptError(
            f"{where}: the bytes of {bad:.200} do not match their CRC-32, so the file is damaged, "
            "or torch wrote it with compute_crc32 off, which stores a wrong one; restore the file "
            "from a copy, or save it again with torch.save and compute_crc32 on",
            reason=Reason.CHECKSUM,
        )


def _refused(where: str, error: Exception) -> Exception:
    lines = str(error).strip().splitlines()
    cause = next((line.strip() for line in lines if "GLOBAL" in line), lines[0] if lines else "")
    return UnsupportedError(
        f"{where}: it holds more than tensors and plain containers, or is damaged ({cause:.300}); "
        "reading that could run code from the file. In the program that wrote it, save only the "
        "tensors: torch.save(model.state_dict(), path)",
        reason=Reason.WEIGHTS_ONLY,
    )


class _Arrays:
    """A converter from tensors to numpy arrays; one tensor in two places becomes one array."""

    def __init__(self, torch: Any, where: str, left: int) -> None:
        self.torch = torch
        self.where = where
        self.left = left
        self.converted: dict[int, Any] = {}

    def convert(self, x: Any, path: str) -> Any:
        if id(x) in self.converted:
            return self.converted[id(x)]
        cls = type(x)
        out: Any = x
        if isinstance(x, self.torch.Tensor):
            out = self._array(x, path)
        elif cls in (dict, collections.OrderedDict, collections.Counter):
            out = cls()
            for key, value in cls.items(x):
                self._refuse_tensors(key, path)
                out[key] = self.convert(value, path + path_step(key))
            for name, value in getattr(x, "__dict__", {}).items():
                if name != "_metadata":  # of a state_dict; only torch's modules use it
                    vars(out)[name] = self.convert(value, f"{path}.{name}")
        elif cls in (list, tuple):
            out = cls(self.convert(item, f"{path}[{i}]") for i, item in enumerate(x))
        else:
            self._refuse_tensors(x, path)
        self.converted[id(x)] = out
        return out

    def _refuse_tensors(self, x: Any, path: str) -> None:
        """Refuse a tensor in a key or a set, and a storage: an array cannot replace them."""
        torch = self.torch
        if isinstance(x, (torch.Tensor, torch.TypedStorage, torch.UntypedStorage)):
            raise UnsupportedError(
                f"{self.where}: {path}: a {type(x).__qualname__}, which a numpy array cannot "
                'replace; read the file with arrays="torch"',
                reason=Reason.DTYPE_NOT_HERE,
            )
        for part in x if isinstance(x, tuple | set | frozenset) else ():
            self._refuse_tensors(part, path)

    def _array(self, x: Any, path: str) -> Any:
        torch = self.torch
        name = str(x.dtype).removeprefix("torch.")
        plain = x.layout == torch.strided and not x.is_quantized and not x.is_meta
        try:
            if not plain:
                raise CorruptError("")
            nbytes = dtypes.item_nbytes(name, where=path)
            dtype = dtypes.resolve(name, where=path)
            self._count(x, path)
            host = x.detach().resolve_conj().resolve_neg().contiguous()
            if dtype.type.__module__ != "numpy":  # torch exports only its bits
                host = host.view({1: torch.uint8, 2: torch.int16}[nbytes])
        except (CorruptError, KeyError):
            raise UnsupportedError(
                f"{self.where}: {path}: a tensor of {x.dtype}, {x.layout} has no numpy array; read "
                'it with arrays="torch"',
                reason=Reason.DTYPE_NOT_HERE,
            ) from None
        return np.array(host.numpy(), order="C").view(dtype)

    def _count(self, x: Any, path: str) -> None:
        """Count the bytes of an array before it is made."""
        self.left -= x.numel() * x.element_size()
        if self.left < 0:
            raise UnsupportedError(
                f"{self.where}: {path}: this tensor of {list(x.shape)} repeats its elements, and "
                f"takes more than {_GROWTH} times the bytes of the file as an array; read it with "
                'arrays="torch"',
                reason=Reason.ARRAY_NOT_EXACT,
            )
