"""Pickles read as data: an interpreter of the opcodes of protocols 0 to 5 that makes nothing but nodes.

Opcodes as in CPython's Lib/pickletools.py. Work and memory are capped while running, whatever the pickle asks for.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from netweight.checkpoint.pickle_nodes import Blob, Call, Global, Mapped, Persistent
from netweight.checkpoint.pickle_policy import dangerous_call, is_harmless
from netweight.errors import FormatError, UnsafeFileError, printable

__all__ = ["load_pickle"]

MAX_OBJECTS = 160 << 20  # bytes of Python objects, estimated from above
_PER_OPCODE = 20  # bytes of them that an opcode makes at least, on average: the cap on opcodes
MAX_LINE = 1 << 20
MAX_STRING = 64 << 20
MAX_NUMBER = 4096  # bytes of an integer
_DICTS = frozenset({"collections.OrderedDict", "builtins.dict", "__builtin__.dict", "collections.defaultdict"})
_LISTS = frozenset(
    "builtins.list builtins.set builtins.frozenset __builtin__.list __builtin__.set __builtin__.frozenset".split()  # noqa: SIM905 - a list of words reads better
)
_TUPLES = frozenset({"builtins.tuple", "__builtin__.tuple", "torch.Size"})
_RECONSTRUCTORS = frozenset({"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__"})


def load_pickle(
    stream: BinaryIO,
    where: str,
    on_reference: Callable[[Any], None] | None = None,
    outside: dict[str, None] | None = None,
    *,
    most: int = MAX_OBJECTS,
) -> Any:
    """The pickle at the stream's position as nodes; `where` names it in messages.

    `on_reference` is told each persistent id, reached from the result or not; `outside` gets every name that is not on
    the list of harmless ones, whether it is called or not. `most`: bytes of Python objects that it may make.

    Raises FormatError where it is damaged or passes a cap, UnsafeFileError where it calls what only an attack calls.
    """
    machine = _Machine(stream, where, on_reference, most)
    content = machine.run()
    if outside is not None:
        outside |= dict.fromkeys(named.full for named in machine.globals.values() if not is_harmless(named))
    return content


class _DamagedError(Exception):
    """What is wrong, before the file and the place are known."""


class _Machine:
    def __init__(self, stream: BinaryIO, where: str, on_reference: Callable[[Any], None] | None, most: int) -> None:
        self.on_reference = on_reference
        self.most = most
        self.stream = stream
        self.where = where
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.cost = 0

    def run(self) -> Any:
        start = self.stream.tell()
        try:
            return self._interpret()
        except IndexError:
            problem = "it takes more from its stack than it put there"
        except (_DamagedError, ValueError, KeyError, struct.error) as error:
            problem = printable(str(error))
        at = self.stream.tell()
        raise FormatError(f"{self.where}: its pickle from byte {start} is damaged or hostile at byte {at}: {problem}")

    def _interpret(self) -> Any:
        read = self.stream.read
        opcodes = self.most // _PER_OPCODE
        for _ in range(opcodes):
            opcode = read(1)
            if opcode == b".":
                return self.stack.pop()
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise _DamagedError(f"opcode {opcode!r} is not known" if opcode else "it ends before its end mark")
            handler(self)
            if self.cost > self.most:
                self.check_cost()
        raise _DamagedError(f"it has more than {opcodes} opcodes")

    def check_cost(self) -> None:
        if self.cost > self.most:
            raise _DamagedError(f"it makes more than {self.most >> 20} MiB of objects")

    def exactly(self, size: int) -> bytes:
        data = self.stream.read(size)
        if len(data) != size:
            raise _DamagedError("it ends in the middle of a value")
        return data

    def line(self) -> str:
        data = self.stream.readline(MAX_LINE)
        if not data.endswith(b"\n"):
            raise _DamagedError(f"a line has no end within {MAX_LINE} bytes")
        self.cost += len(data)
        return data[:-1].decode("utf-8", "surrogateescape")

    def push(self, value: Any, cost: int = 40) -> None:
        self.stack.append(value)
        self.cost += cost

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def text(self, size: int, errors: str = "surrogatepass") -> None:
        if size > MAX_STRING:
            raise _DamagedError(f"a string of {size} bytes, expected at most {MAX_STRING}")
        self.cost += size  # before reading: a claim beyond the caps is not even tried
        self.check_cost()
        data = self.exactly(size)
        try:
            text = data.decode("utf-8", errors)
        except UnicodeDecodeError:
            if errors != "strict":
                raise
            text = data.decode("latin-1")  # bytes of Python 2
        self.push(text, 60 + 3 * size * (not text.isascii()))

    def blob(self, size: int) -> None:
        left = size
        while left:
            got = len(self.stream.read(min(left, 1 << 20)))
            if not got:
                raise _DamagedError("it ends in the middle of a value")
            left -= got
        self.push(Blob(size), 80)

    def number(self, size: int) -> None:
        if not 0 <= size <= MAX_NUMBER:
            raise _DamagedError(f"an integer of {size} bytes, expected at most {MAX_NUMBER}")
        self.push(int.from_bytes(self.exactly(size), "little", signed=True), 40 + size)

    def global_(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _DamagedError("a global's name is not text")
        known = self.globals.get((module, name))
        if known is None:
            known = self.globals[module, name] = Global(module, name)
        self.push(known, 100)

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise _DamagedError("the arguments of a call are no tuple")
        name = function.full if isinstance(function, Global) else ""
        self._refuse(function)
        self.cost += 160
        first = args[-1] if name == "collections.defaultdict" and args else args[0] if args else None
        if name in _DICTS:
            self.stack.append(Mapped(_pairs(first)))
        elif name in _LISTS:
            self.stack.append(list(first) if isinstance(first, (list, tuple)) else [])
        elif name in _TUPLES:
            self.stack.append(tuple(first) if isinstance(first, (list, tuple)) else ())
        elif name in _RECONSTRUCTORS and args:
            self._refuse(first)
            self.stack.append(Call(first, args[1:]))
        else:
            self.stack.append(Call(function, args))
        made = self.stack[-1]
        if isinstance(made, (list, tuple)):
            self.cost += 8 * len(made)
        elif isinstance(made, Mapped):
            self.cost += 70 * len(made.pairs)

    def _refuse(self, function: Any) -> None:
        if name := dangerous_call(function):
            raise UnsafeFileError(
                f"{self.where}: its pickle asks to call {printable(name)} (byte {self.stream.tell()}); "
                "nothing was run; do not load this file elsewhere"
            )

    def put(self, index: int) -> None:
        if not 0 <= index < 1 << 32:
            raise _DamagedError(f"memo index {index}")
        self.memo[index] = self.stack[-1]
        self.cost += 90

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            if target.elements is None:
                target.elements = []
                self.cost += 60
            target = target.elements
        if not isinstance(target, list):
            raise _DamagedError("it appends to what is no list")
        target.extend(items)
        self.cost += 10 * len(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            if target.pairs is None:
                target.pairs = []
                self.cost += 60
            pairs = target.pairs
        elif isinstance(target, Mapped):
            pairs = target.pairs
        else:
            raise _DamagedError("it sets items of what is no dict")
        if len(items) % 2:
            raise _DamagedError("a key without a value")
        pairs.extend(zip(items[::2], items[1::2], strict=True))
        self.cost += 40 * len(items)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Call) and target.of.endswith("numpy_pickle.NumpyArrayWrapper"):
            raise FormatError(
                f"{self.where}: is a file of joblib with numpy arrays between its pickle's opcodes, which is not"
                " supported; save the arrays with numpy.savez"
            )
        if not isinstance(target, Call):
            return  # attributes of a dict or list (a state dict's _metadata): nothing to read there
        if isinstance(target.state, Mapped) and isinstance(state, Mapped):
            self.cost += 10 * (len(target.state.pairs) + len(state.pairs))
            target.state = Mapped(target.state.pairs + state.pairs)
        else:
            target.state = state

    def persistent(self, pid: Any) -> None:
        # Old streams name a class with its source text like this; the class is what is meant.
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module" and isinstance(pid[1], Global):
            self.push(pid[1])
            return
        if isinstance(pid, tuple) and pid and isinstance(pid[0], Global):
            self.push(pid[0])
            return
        if self.on_reference is not None:
            self.on_reference(pid)
        self.push(Persistent(pid), 60)

    def dict_(self, items: list[Any]) -> None:
        self.push(Mapped([]), 120)
        self.set_items(items)

    def instance(self, items: list[Any]) -> None:
        self.call(items[0], tuple(items[1:]))

    def new_object(self, keywords: bool = False) -> None:  # noqa: FBT001 - one opcode or the other
        if keywords:
            self.stack.pop()
        args = self.stack.pop()
        self.call(self.stack.pop(), args)

    def inst(self) -> None:
        module, name = self.line(), self.line()
        args = tuple(self.pop_mark())
        self.global_(module, name)
        self.call(self.stack.pop(), args)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []
        self.cost += 80

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(items, 60 + 8 * count)

    def tuple_marked(self) -> None:
        items = tuple(self.pop_mark())
        self.push(items, 60 + 8 * len(items))

    def list_marked(self) -> None:
        items = self.pop_mark()
        self.push(items, 70 + 8 * len(items))

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.exactly(struct.calcsize(layout)))[0]

    def integer(self) -> None:
        line = self.line()
        self.push({"00": False, "01": True}.get(line) if line in {"00", "01"} else int(line), 40 + len(line))

    def quoted(self) -> None:
        line = self.line().strip()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
            raise _DamagedError("a string without its quotes")
        data = codecs.escape_decode(line[1:-1].encode("utf-8", "surrogateescape"))[0]
        self.push(data.decode("utf-8", "replace"), 60 + len(data))

    def proto(self) -> None:
        version = self.unpack("<B")
        if version > 5:
            raise _DamagedError(f"protocol {version}, expected at most 5")

    def frame(self) -> None:
        self.unpack("<Q")  # a hint for buffered readers


def _pairs(entries: Any) -> list[tuple[Any, Any]]:
    if isinstance(entries, Mapped):
        return list(entries.pairs)
    if not isinstance(entries, (list, tuple)):
        return []
    return [(entry[0], entry[1]) for entry in entries if isinstance(entry, (list, tuple)) and len(entry) == 2]


_HANDLERS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.proto,
    b"\x95": _Machine.frame,
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"1": lambda m: m.pop_mark().clear(),
    b"2": lambda m: m.push(m.stack[-1], 8),
    b"N": lambda m: m.push(None, 8),
    b"\x88": lambda m: m.push(True, 8),
    b"\x89": lambda m: m.push(False, 8),
    b"I": _Machine.integer,
    b"J": lambda m: m.push(m.unpack("<i")),
    b"K": lambda m: m.push(m.unpack("<B"), 8),
    b"M": lambda m: m.push(m.unpack("<H")),
    b"L": lambda m: m.push(int(m.line().removesuffix("L"))),
    b"\x8a": lambda m: m.number(m.unpack("<B")),
    b"\x8b": lambda m: m.number(m.unpack("<i")),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.unpack(">d")),
    b"S": _Machine.quoted,
    b"T": lambda m: m.text(m.unpack("<I"), "strict"),
    b"U": lambda m: m.text(m.unpack("<B"), "strict"),
    b"V": lambda m: m.push(m.line().encode("utf-8", "surrogateescape").decode("raw-unicode-escape")),
    b"X": lambda m: m.text(m.unpack("<I")),
    b"\x8c": lambda m: m.text(m.unpack("<B")),
    b"\x8d": lambda m: m.text(m.unpack("<Q")),
    b"B": lambda m: m.blob(m.unpack("<I")),
    b"C": lambda m: m.blob(m.unpack("<B")),
    b"\x8e": lambda m: m.blob(m.unpack("<Q")),
    b"\x96": lambda m: m.blob(m.unpack("<Q")),
    b"]": lambda m: m.push([], 80),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"l": _Machine.list_marked,
    b")": lambda m: m.push((), 8),
    b"t": _Machine.tuple_marked,
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"}": lambda m: m.push(Mapped([]), 120),
    b"d": lambda m: m.dict_(m.pop_mark()),
    b"s": lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x8f": lambda m: m.push([], 80),
    b"\x90": lambda m: m.append(m.pop_mark()),
    b"\x91": _Machine.list_marked,
    b"c": lambda m: m.global_(m.line(), m.line()),
    b"\x93": lambda m: m.global_(*[m.stack.pop(), m.stack.pop()][::-1]),
    b"R": _Machine.new_object,
    b"\x81": _Machine.new_object,
    b"\x92": lambda m: m.new_object(keywords=True),
    b"o": lambda m: m.instance(m.pop_mark()),
    b"i": _Machine.inst,
    b"b": _Machine.build,
    b"P": lambda m: m.persistent(m.line()),
    b"Q": lambda m: m.persistent(m.stack.pop()),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.unpack("<B")),
    b"r": lambda m: m.put(m.unpack("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.push(m.memo[int(m.line())], 8),
    b"h": lambda m: m.push(m.memo[m.unpack("<B")], 8),
    b"j": lambda m: m.push(m.memo[m.unpack("<I")], 8),
}  # extension codes and out-of-band buffers have no meaning in a checkpoint
