"""The kinds of files of other tools, told by their first bytes, and the call that reads each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

HEAD_NBYTES = 4096
"""The number of first bytes that tell the kind of a file."""


NUMPY_SAVE = "a file of numpy.save"


@dataclass(frozen=True, slots=True)
class Lead:
    """The kind of a file or directory, and the way on.

    Attributes:
        what: the kind, such as "a file of torch.save".
        way: the remedy, with the whole call.
        reader: the name of its reader in `ckptstore.convert`; "" if there is none.
    """

    what: str
    way: str
    reader: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.way}"


def lead_of(head: bytes, url: str) -> Lead | None:
    r"""Return the kind of a file of another tool, and the call that reads it.

    Args:
        head: its first bytes, `HEAD_NBYTES` of them if it has so many.
        url: its path or URL.

    Returns:
        None for a file of an unknown kind.

    Example:
        >>> str(lead_of(b"\x93NUMPY\x01\x00", "w.npy"))
        "a file of numpy.save; read it with ckptstore.convert.from_npz('w.npy')"
    """
    if (damage := damage_of(head)) is not None:
        return damage
    for is_kind, lead in _KINDS:
        if is_kind(head, url):
            return lead(url)
    return None


def damage_of(head: bytes) -> Lead | None:
    """Return the kind of a file that stands in the place of another, such as a pointer to it."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return Lead(
            "an empty file, as of a copy or a download that was cut off", "copy the file again"
        )
    if head.startswith(b"version https://git-lfs"):
        return Lead(
            "a pointer of Git LFS, not the file itself",
            "run `git lfs pull` in its repository, or download the file itself",
        )
    if b"/annex/objects/" in head[:512] and head[:512].split(b"\n")[0].isascii():
        return Lead(
            "a pointer of git-annex, not the file itself", "run `git annex get .` in its repository"
        )
    if text[:5].lower() == b"<html" or text[:9].lower() == b"<!doctype":
        return Lead(
            "a page of HTML, such as a page to log in",
            "download the file again, with your credentials",
        )
    if text.startswith(b"<?xml") or text.startswith(b"<Error>"):
        code = re.search(rb"<Code>([A-Za-z]{1,80})</Code>", head)
        says = f" ({code[1].decode()})" if code else ""
        return Lead(
            f"an answer in XML{says}, as a store gives for an error",
            "download the file again, with your credentials",
        )
    if not head.strip(b"\0") and len(head) > 1:
        return Lead(
            "zeros only, as after a loss of power or a download that was cut off",
            "copy the file again, or load an older checkpoint",
        )
    return None


def packed_of(head: bytes) -> Lead | None:
    """Return the kind of a file that holds another one, or text."""
    if head.startswith(b"\x1f\x8b"):
        return Lead(
            "packed by gzip",
            "unpack it (mv MANIFEST MANIFEST.gz && gunzip MANIFEST.gz), or, in a bucket, upload it "
            "without Content-Encoding: gzip",
        )
    if head.lstrip()[:1] in (b"{", b"["):
        says = head.lstrip()[:200].decode("utf-8", "replace")
        return Lead(
            f"JSON ({says!r}), as of an error of a server or of another program",
            "copy the file again, or look for the checkpoint in another directory",
        )
    return None


def _torch(url: str) -> Lead:
    return reader_lead("a file of torch.save", "from_torch", url)


def reader_lead(what: str, reader: str, url: str, more: str = "") -> Lead:
    """Return the lead to a reader of `ckptstore.convert`; `more` are arguments after the path."""
    options = ", with the same storage_options" if "://" in url else ""
    return Lead(
        what, f"read it with ckptstore.convert.{reader}({url!r}{more}){options}", reader=reader
    )


def _first_part(head: bytes) -> str:
    """Return the name of the first part of a zip file; "" for any other file."""
    if not head.startswith(b"PK\x03\x04"):
        return ""
    length = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + length].decode("utf-8", "replace")


def _is_torch(head: bytes, _: str) -> bool:
    first = _first_part(head)
    return head.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.") or first.endswith(
        ("/data.pkl", "/byteorder", "/version", "/.format_version", "/.storage_alignment")
    )


def _is_safetensors(head: bytes, _: str) -> bool:
    size = int.from_bytes(head[:8], "little")
    return 2 <= size <= 100_000_000 and head[8:9] == b"{"


def _is_sharded(head: bytes, url: str) -> bool:
    return url.endswith(".json") and b'"weight_map"' in head and b".safetensors" in head


def _is_equinox(head: bytes, url: str) -> bool:
    return url.endswith(".eqx") and head.startswith(b"\x93NUMPY")


def _is_equinox_after_line(head: bytes, _: str) -> bool:
    line, found, rest = head.partition(b"\n")
    return bool(found) and line[:1] in b"{[" and rest.startswith(b"\x93NUMPY")


def _is_flax(head: bytes, _: str) -> bool:
    """Return whether it is msgpack of a map whose first key is text."""
    first = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
    if not first or len(head) <= first:
        return False
    kind = head[first]
    start = first + {0xD9: 2, 0xDA: 3, 0xDB: 5}.get(kind, 1)
    size = kind - 0xA0 if 0xA0 <= kind <= 0xBF else int.from_bytes(head[first + 1 : start], "big")
    is_text = 0xA0 <= kind <= 0xBF or 0xD9 <= kind <= 0xDB
    key = head[start : start + min(size, 200)]
    text = key.decode("utf-8", "replace")
    return is_text and len(key) == min(size, 200) and text.isprintable() and "\ufffd" not in text


def _is_pickle(head: bytes, url: str) -> bool:
    modern = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    named = url.endswith((".pkl", ".pickle", ".p"))
    return modern or (named and head[:1] in (b"(", b"}", b"]", b"c", b"\x80"))


def _equinox_after_line(url: str) -> Lead:
    return Lead(
        "a file of eqx.tree_serialise_leaves after a line of JSON",
        f"{_first_to_disk(url)}with open({url!r}, 'rb') as file, read the line, file.readline(), "
        "then ckptstore.convert.from_equinox(file, like=model)",
        "from_equinox",
    )


def _first_to_disk(url: str) -> str:
    return "copy it to a disk, and there " if "://" in url else ""


def code_lead(what: str, code: str, url: str) -> Lead:
    """Return the lead to lines of Python that make `tree`, where there is no reader."""
    return Lead(what, f"{_first_to_disk(url)}read it with `{code}`, and save tree")


def _torchscript(url: str) -> Lead:
    code = f"import torch; tree = torch.jit.load({url!r}).state_dict()"
    return code_lead("a module of torch.jit.save", code, url)


def _hdf5(url: str) -> Lead:
    return code_lead(
        "a file of HDF5, as Keras and h5py write it",
        f"import h5py; tree = {{}}; h5py.File({url!r}).visititems(lambda name, x: "
        "tree.update({name: x[()]} if isinstance(x, h5py.Dataset) else {}))",
        url,
    )


_KINDS: list[tuple[Callable[[bytes, str], bool], Callable[[str], Lead]]] = [
    (_is_torch, _torch),
    (lambda head, _: _first_part(head).endswith("/data/0"), _torchscript),
    (
        lambda head, _: _first_part(head).endswith(".npy"),
        lambda url: reader_lead("a file of numpy.savez", "from_npz", url),
    ),
    (
        _is_safetensors,
        lambda url: reader_lead("a safetensors file", "from_safetensors", url),
    ),
    (
        _is_sharded,
        lambda url: reader_lead("the index of sharded safetensors", "from_safetensors", url),
    ),
    (
        _is_equinox,
        lambda url: reader_lead(
            "a file of eqx.tree_serialise_leaves", "from_equinox", url, ", like=model"
        ),
    ),
    (
        _is_equinox_after_line,
        _equinox_after_line,
    ),
    (
        lambda head, _: head.startswith(b"\x93NUMPY"),
        lambda url: reader_lead(NUMPY_SAVE, "from_npz", url),
    ),
    (
        lambda head, _: head.startswith(b"\x94\xa9ckptstore"),
        lambda url: Lead(
            "the manifest of a checkpoint of ckptstore",
            f"pass its directory, {url.rpartition('/')[0]!r}",
        ),
    ),
    (lambda head, _: head.startswith(b"\x89HDF\r\n\x1a\n"), _hdf5),
    (_is_pickle, lambda url: reader_lead("a pickle", "from_pickle", url)),
    (
        lambda head, _: head.startswith(b"\x1f\x8b"),
        lambda _: Lead("packed by gzip", "unpack it with gunzip, and pass the file that was in it"),
    ),
    (
        lambda head, _: head[257:262] == b"ustar" or head.startswith(b"PK\x03\x04"),
        lambda url: Lead(
            "an archive (tar or zip)",
            "unpack it, and pass the directory or the file that was in it",
        ),
    ),
    (_is_flax, lambda url: reader_lead("msgpack, as flax writes it", "from_flax", url)),
]
