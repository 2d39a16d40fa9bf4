"""A reader of pickles that makes arrays and plain containers, and nothing else.

It follows the opcodes by itself, since Python's own reader has no bounds: a few bytes make it take
gigabytes, or overflow its stack. No name in a pickle is ever imported: the few that are known stand
in `pickled_arrays.py`.
"""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ckptstore.convert import pickled_arrays
from ckptstore.convert.inputs import MakeArray
from ckptstore.convert.pickled_arrays import Global, Pending
from ckptstore.digests import Buffer
from ckptstore.errors import CorruptError, Reason
from ckptstore.format.dtypes import Array

_COPIES = 16
"""The bytes that all copies of a file's parts may take, for each of its own."""

_COPIES_LEAST = 1 << 16
_KEY_BITS = 64  # more than eight greater integers may have one hash, which makes a dict slow
_KEY_DEPTH = 8
_LINE = 1 << 10


class Args(list[Any]):
    """A tuple with a name or an unfinished object in it, which is not a value."""


class Unknown:
    """An object of a class or function that is not known; its name is noted."""


class Machine:
    """The state of one pickle while it is read.

    Its errors name no file: `unpickled` in `pickle.py` does.

    Args:
        make: makes the array of the tree from one of numpy.

    Attributes:
        unknown: the names in the pickle that are not known, in their order.
    """

    def __init__(self, make: MakeArray) -> None:
        self.unknown: dict[str, None] = {}
        self._make = make
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._left = 0

    def read(self, data: Buffer) -> tuple[Any, int]:
        """Return the first object, and the number of its bytes.

        Raises:
            CorruptError: the bytes are not a pickle.
        """
        self._left = _COPIES_LEAST + _COPIES * len(data)
        stream = _Stream(data)
        for name, arg in _opcodes(stream):
            if name in _PUSHED:
                self._stack.append(_text(arg) if name in _OLD_TEXT else arg)
            elif (step := _STEPS.get(name)) is not None:
                step(self, arg)
            elif name not in _IGNORED:
                self._lose(f"the opcode {name}")
        value = self._stack.pop()
        if self._stack or self._marks or not self._is_value(value):
            raise CorruptError("it does not end with one value")
        return value, stream.at

    def spend(self, nbytes: int) -> None:
        """Count the bytes of a copy before it is made."""
        self._left -= nbytes
        if self._left < 0:
            raise CorruptError(
                f"it repeats its parts until they take more than {_COPIES} times its bytes",
                reason=Reason.TOO_MANY,
            )

    def _lose(self, name: str) -> None:
        self.unknown[name] = None
        self._stack.append(Unknown())

    def _is_value(self, x: Any) -> bool:
        return not isinstance(x, Global | Pending | Args)

    def _value(self, x: Any) -> Any:
        if not self._is_value(x):
            raise CorruptError("a class, a function or an unfinished object stands for a value")
        return x

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _memoize(self, number: Any) -> None:
        top, number = self._stack[-1], len(self._memo) if number is None else number
        self._memo[number] = top
        if isinstance(top, Pending):
            top.numbers.append(number)

    def _push(self, x: Any) -> None:
        self._stack.append(x)

    def _get(self, number: Any) -> None:
        self._stack.append(self._memo[number])

    def _tuple(self, items: list[Any]) -> None:
        self._stack.append(tuple(items) if all(map(self._is_value, items)) else Args(items))

    def _tuple_of(self, count: int) -> None:
        items = self._stack[-count:]
        if len(items) != count:
            raise CorruptError("a tuple of missing items")
        del self._stack[-count:]
        self._tuple(items)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(map(self._value, items))
        elif type(target) is set:
            target.update(self.keys(items))
        elif not isinstance(target, Unknown):
            raise CorruptError(f"items for a {type(target).__name__}")

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Unknown):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise CorruptError(f"entries for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            for known in self.keys([key]):
                target[known] = self._value(value)

    def keys(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield keys of a dict or items of a set that are cheap to hash and to compare."""
        for item in items:
            if isinstance(item, Unknown):
                continue
            if not self._is_key(item, 0):
                raise CorruptError(
                    f"a {type(item).__name__} as a key or in a set; plain numbers, texts and "
                    "tuples of these are read"
                )
            yield item

    def _is_key(self, x: Any, depth: int) -> bool:
        self.spend(1)
        if type(x) is tuple:
            return depth < _KEY_DEPTH and all(self._is_key(item, depth + 1) for item in x)
        if type(x) is int:
            return x.bit_length() <= _KEY_BITS
        return x is None or type(x) in _KEYS or (isinstance(x, np.generic) and x.dtype.kind != "V")

    def _global(self, module: Any, name: Any) -> None:
        known = pickled_arrays.find(f"{module}.{name}")
        if known is None:
            self._lose(f"{module}.{name}")
        else:
            self._stack.append(known)

    def _global_of_text(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._global(module, name)

    def _global_of_stack(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise CorruptError("a name that is not text")
        self._global(module, name)

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if isinstance(function, Unknown):
            self._stack.append(function)
        elif isinstance(function, Global) and isinstance(arguments, tuple | Args):
            if any(isinstance(part, Unknown) for part in arguments):
                self._stack.append(Unknown())
            else:
                self._stack.append(function.call(self, list(arguments)))
        else:
            raise CorruptError("a call of something that is not a function")

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Unknown):
            return
        if not isinstance(target, Pending) or not isinstance(state, tuple | Args):
            raise CorruptError(f"attributes for a {type(target).__name__}")
        if any(isinstance(part, Unknown) for part in state):
            built: Any = Unknown()
        else:
            built = target.built(self, list(state))
        self._stack[-1] = built
        for number in target.numbers:
            self._memo[number] = built

    def array(self, host: Array, *, weak: bool = False) -> Any:
        """Return the array of the tree for one of numpy."""
        return self._make(host, weak=weak)


class _Stream:
    """The bytes of a pickle as a file, of which no copy is made."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")
        self.at = 0

    def read(self, nbytes: int) -> bytes:
        piece = bytes(self._view[self.at : self.at + nbytes])
        self.at += len(piece)
        return piece

    def readline(self) -> bytes:
        pieces, found = [], b""
        while not found and (piece := self.read(_LINE)):
            line, found, _ = piece.partition(b"\n")
            self.at -= len(piece) - len(line) - len(found)
            pieces.append(line + found)
        return b"".join(pieces)


def _opcodes(stream: _Stream) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each opcode, to the last one."""
    known = {opcode.code: opcode for opcode in pickletools.opcodes}
    while True:
        code = stream.read(1).decode("latin-1")
        if (opcode := known.get(code)) is None:
            raise CorruptError(f"{f'{code!r} is not an opcode' if code else 'it is cut short'}")
        reader: Any = opcode.arg and opcode.arg.reader
        if opcode.name == "STRING":  # of Python 2, whose text was bytes
            reader = _read_string
        yield opcode.name, reader(stream) if reader else None
        if opcode.name == "STOP":
            return


def _read_string(stream: Any) -> Any:
    quoted = pickletools.read_stringnl(stream, decode=False)
    return codecs.escape_decode(quoted)[0].decode("latin-1")


def _text(arg: Any) -> Any:
    """Return the text of a str of Python 2: bytes, unless it is ASCII."""
    return arg if not isinstance(arg, str) or arg.isascii() else arg.encode("latin-1")


_KEYS = {str, bytes, float, bool, complex}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_OLD_TEXT = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *_OLD_TEXT,
}


def _pushing(value: Callable[[], Any]) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine._stack.append(value())


_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    "NONE": _pushing(lambda: None),
    "NEWTRUE": _pushing(lambda: True),
    "NEWFALSE": _pushing(lambda: False),
    "EMPTY_LIST": _pushing(list),
    "EMPTY_TUPLE": _pushing(tuple),
    "EMPTY_DICT": _pushing(dict),
    "EMPTY_SET": _pushing(set),
    "MARK": Machine._mark,
    "POP": lambda m, _: m._stack.pop() if m._stack else m._marked(),
    "POP_MARK": lambda m, _: m._marked(),
    "DUP": lambda m, _: m._stack.append(m._stack[-1]),
    "GET": Machine._get,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "PUT": Machine._memoize,
    "BINPUT": Machine._memoize,
    "LONG_BINPUT": Machine._memoize,
    "MEMOIZE": Machine._memoize,
    "TUPLE": lambda m, _: m._tuple(m._marked()),
    "TUPLE1": lambda m, _: m._tuple_of(1),
    "TUPLE2": lambda m, _: m._tuple_of(2),
    "TUPLE3": lambda m, _: m._tuple_of(3),
    "LIST": lambda m, _: m._push([*map(m._value, m._marked())]),
    "FROZENSET": lambda m, _: m._push(frozenset(m.keys(m._marked()))),
    "APPEND": lambda m, _: m._extend([m._stack.pop()]),
    "APPENDS": lambda m, _: m._extend(m._marked()),
    "ADDITEMS": lambda m, _: m._extend(m._marked()),
    "GLOBAL": Machine._global_of_text,
    "STACK_GLOBAL": Machine._global_of_stack,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "BUILD": Machine._build,
}


def _new_dict(machine: Machine, _: Any) -> None:
    items = machine._marked()
    machine._stack.append({})
    machine._update(items)


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine._stack.pop(), machine._stack.pop()
    machine._update([key, value])


_STEPS |= {
    "DICT": _new_dict,
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m._update(m._marked()),
}
