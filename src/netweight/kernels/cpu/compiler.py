"""What numba makes of a loop; imported only where a loop has no code yet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from netweight.kernels.cpu.object_files import Code, can_load
from netweight.kernels.cpu.sources import STAND_INS, Deferred, Kind, Source

__all__ = ["compile_loop"]

_PLAIN = {"int": types.int64, "float": types.float64, "bool": types.boolean}


def compile_loop(loop: Source, kinds: Sequence[Kind]) -> Code:
    """The code of a loop for arguments of these kinds. Raises TypeError for what it returns otherwise than
    numbers, or needs beside arithmetic.
    """
    _declare()
    dispatcher = _dispatcher(loop)
    signature = tuple(_type(kind) for kind in kinds)
    dispatcher.compile(signature)
    found = dispatcher.overloads[signature]
    library = found.library
    module = library._final_module  # noqa: SLF001 - numba has no other way to ask
    needs = tuple(f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm."))
    _, _, (objects, _) = library.serialize_using_object_code()
    returns = _characters(found.signature.return_type)
    code = Code(found.fndesc.llvm_func_name, returns, needs, bytes(objects))
    if not can_load(code):
        raise TypeError(f"{loop.name} needs {', '.join(needs)}: expected arithmetic on its arguments alone")
    return code


def _type(kind: Kind) -> Any:
    if kind in _PLAIN:
        return _PLAIN[kind]
    element = numba.from_dtype(np.dtype(kind[1]))
    if kind[0] == "0":
        return element
    array: Any = types.Array
    return array(element, int(kind[0]), kind[2], readonly="r" in kind[3:], aligned="u" not in kind[3:])


def _characters(returned: Any) -> str:
    """The numpy characters of what a loop returns, "" for nothing."""
    if returned == types.none:
        return ""
    tuples: Any = types.BaseTuple
    several = list(returned) if isinstance(returned, tuples) else [returned]
    return "".join("?" if one == types.boolean else np.dtype(str(one)).char for one in several)


@cache
def _dispatcher(loop: Source) -> Any:
    # Inlined always: a loop that calls another sums in one order when it was just compiled and in another when it comes
    # from the disk, since each copy of the callee is optimised for itself.
    options: dict[str, Any] = {
        "nogil": True, "fastmath": set(loop.fastmath), "error_model": "numpy", "forceinline": True,
        "no_cpython_wrapper": True, "no_cfunc_wrapper": True,
    }  # fmt: skip
    return numba.njit(**options)(_resolved(loop.function))


def _declare() -> None:
    """Tell numba what stands for what, of the modules that were imported since the last time."""
    while STAND_INS:
        function, stand_in, options = STAND_INS.pop(0)
        overload(function, **options)(_resolved(stand_in))


@cache
def _resolved(function: Any) -> Any:
    """The function as numba takes it: in its globals, loops as numba's own, and what was deferred made."""
    known = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    for name, value in known.items():
        if isinstance(value, Source):
            known[name] = _dispatcher(value)
        elif isinstance(value, Deferred):
            known[name] = _made(value)
    known |= {"__name__": function.__module__, "__builtins__": function.__globals__["__builtins__"]}
    made = FunctionType(function.__code__, known, function.__name__, function.__defaults__, function.__closure__)
    made.__qualname__ = function.__qualname__
    return made


def _names(code: CodeType) -> set[str]:
    """The global names that a function and those inside it use."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return {*code.co_names}.union(*map(_names, inner))


@cache
def _made(value: Deferred) -> Any:
    return value.make()
