"""Loops in machine code: compiled by numba for the types of their arguments, kept on disk, and called without numba.

numba takes longer to import than most commands take to run. So what it makes of a loop is kept as the object file that
LLVM wrote, and called by numba's own convention for native code: every array as its pointers, sizes and strides. Only
a loop whose code is not on the disk yet imports numba. Loops release the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from netweight.kernels.cpu import object_files
from netweight.kernels.cpu.sources import Kind, Source

__all__ = ["Loop", "compiled", "compiled_exactly", "compiled_for_finite"]

F = TypeVar("F", bound=Callable[..., object])

# Sums may be split over vector lanes (reassoc, contract) and the sign of zero may be lost in them; NaN and Inf keep
# their meaning, since chunks that hold them are found by their sums.
_FASTMATH = frozenset({"reassoc", "contract", "nsz"})

_LOCK = threading.RLock()
_ARRAY_WORDS = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_SCALARS: dict[Kind, Any] = {"int": ctypes.c_int64, "float": ctypes.c_double, "bool": ctypes.c_bool}
_OF_TYPE = {
    "?": ctypes.c_bool, "b": ctypes.c_int8, "B": ctypes.c_uint8, "h": ctypes.c_int16, "H": ctypes.c_uint16,
    "i": ctypes.c_int32, "I": ctypes.c_uint32, "f": ctypes.c_float, "d": ctypes.c_double,
    "l": ctypes.c_long, "L": ctypes.c_ulong, "q": ctypes.c_longlong, "Q": ctypes.c_ulonglong,
}  # fmt: skip
_WHOLE = 1 << 63
_FAULT = ctypes.create_string_buffer(64)  # where code that cannot go on leaves its reasons, which nobody reads
_NOTHING = ctypes.create_string_buffer(64)  # where code that returns nothing may leave it


class Loop(Source):
    """A function of arrays and numbers, in machine code for each combination of `Kind`s that it is called with.

    `loaded` and `made` are the combinations whose code came from the disk, and was compiled by this process.
    """

    def __init__(self, function: Callable[..., object], fastmath: frozenset[str]) -> None:
        super().__init__(function, fastmath)
        self.loaded: set[tuple[Kind, ...]] = set()
        self.made: set[tuple[Kind, ...]] = set()
        self._calls: dict[tuple[Kind, ...], Callable[[Sequence[Any]], Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns. Raises TypeError for an argument that is neither array nor number, or of another
        byte order than the machine's, OverflowError for an integer beyond int64.
        """
        kinds = tuple([_kind(argument) for argument in arguments])
        call = self._calls.get(kinds)
        return (call or self.prepare(kinds))(arguments)

    def prepare(self, kinds: tuple[Kind, ...]) -> Callable[[Sequence[Any]], Any]:
        """Load the code for arguments of these kinds, or compile it. Any thread may call."""
        with _LOCK:
            if kinds in self._calls:
                return self._calls[kinds]
            code = object_files.find(self.name, kinds)
            if code is None and not object_files.claim(self.name, kinds):  # another process compiles it
                object_files.wait_for(self.name, kinds)
                code = object_files.find(self.name, kinds)
            if code is not None:
                self.loaded.add(kinds)
            else:
                code = self._compile(kinds)
            self._calls[kinds] = call = _caller(self.name, kinds, code)
            return call

    def _compile(self, kinds: tuple[Kind, ...]) -> object_files.Code:
        from netweight.kernels.cpu.compiler import compile_loop  # noqa: PLC0415 - imports numba

        try:
            code = compile_loop(self, kinds)
            object_files.keep(self.name, kinds, code)
        finally:
            object_files.release(self.name, kinds)
        self.made.add(kinds)
        return code


def _kind(argument: Any) -> Kind:
    of = type(argument)
    if of is np.ndarray:
        flags, dtype = argument.flags, argument.dtype
        if not dtype.isnative:
            raise TypeError(
                f"an argument of a loop has elements of type {dtype.str}: expected this machine's byte order"
            )
        if flags.carray:
            return f"{argument.ndim}{dtype.char}C"
        order = f"{'C' if flags.c_contiguous else 'A'}{'' if flags.writeable else 'r'}{'' if flags.aligned else 'u'}"
        return f"{argument.ndim}{dtype.char}{order}"
    if of is int:
        if not -_WHOLE <= argument < _WHOLE:
            raise OverflowError(f"an argument of a loop is {argument}: expected an int64")
        return "int"
    if of is float:
        return "float"
    if of is bool:
        return "bool"
    if isinstance(argument, np.generic):
        return f"0{argument.dtype.char}"
    raise TypeError(f"an argument of a loop is a {of.__name__}: expected an array or a number")


def _caller(name: str, kinds: Sequence[Kind], code: object_files.Code) -> Callable[[Sequence[Any]], Any]:
    """A function of a loop's arguments that calls its code."""
    words: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
    arrays = []
    for kind in kinds:
        dimensions = int(kind[0]) if kind[0].isdigit() else 0
        arrays.append(bool(dimensions))
        if dimensions:
            words += [*_ARRAY_WORDS, *[ctypes.c_int64] * (2 * dimensions)]
        else:
            words.append(_SCALARS.get(kind) or _OF_TYPE[kind[1]])
    entry = ctypes.CFUNCTYPE(ctypes.c_int32, *words)(object_files.load(code))
    result = _result(code.returns)

    def call(arguments: Sequence[Any]) -> Any:
        flat: list[Any] = []
        for array, argument in zip(arrays, arguments, strict=True):
            if not array:
                flat.append(argument)
                continue
            try:
                data = ctypes.addressof(_BYTE.from_buffer(argument))
            except (TypeError, ValueError, BufferError):  # read-only, not contiguous, or of no elements
                data = argument.ctypes.data
            flat += (None, None, argument.size, argument.itemsize, data, *argument.shape, *argument.strides)
        if result is None:
            status = entry(_NOTHING, _FAULT, *flat)
            value = None
        else:
            room = result()
            status = entry(ctypes.byref(room), _FAULT, *flat)
            value = tuple(getattr(room, key) for key, *_ in room._fields_) if len(code.returns) > 1 else room.value
        if status > 0 or status == -1:
            raise RuntimeError(f"{name}: the loop stopped with status {status}; report this as a bug")
        return value

    return call


_BYTE = ctypes.c_char


def _result(returns: str) -> Any:
    """The type of the room for a result, None for nothing."""
    if not returns:
        return None
    if len(returns) == 1:
        return _OF_TYPE[returns]
    fields = [(f"_{number}", _OF_TYPE[one]) for number, one in enumerate(returns)]
    return type("Result", (ctypes.Structure,), {"_fields_": fields})


def compiled(function: F) -> F:
    """`function` compiled at its first call, or loaded from the cache of an earlier run."""
    loop: Any = Loop(function, _FASTMATH)
    return loop  # type: ignore[no-any-return]


def compiled_for_finite(function: F) -> F:
    """The same for a loop that is only ever given finite values, so that minima are found lane by lane."""
    loop: Any = Loop(function, _FASTMATH | {"nnan", "ninf"})
    return loop  # type: ignore[no-any-return]


def compiled_exactly(function: F) -> F:
    """The same with every operation as it is written: results are those of numpy's elementwise arithmetic."""
    loop: Any = Loop(function, frozenset())
    return loop  # type: ignore[no-any-return]
