"""The routines of BLAS and LAPACK that spectra need, called without the interpreter's lock and without copies.

The library is the OpenBLAS of the package scipy-openblas32, with which numpy and scipy are built; ctypes gives the lock
back while a routine runs, which scipy's wrappers do not. All matrices are float64 and in Fortran's order: a C-ordered
[k, n] array is the n x k matrix of its transpose. Names and arguments are those of https://www.netlib.org/lapack/.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from netweight.errors import JobError, printable
from netweight.kernels.arrays import Array, F64Array

__all__ = ["WORK_ROWS", "add_qr", "add_square", "eigenvalues", "load", "singular_values", "times"]

_BLAS = ("dsyrk", "dsymv")
_TWO_STAGES = 2048  # columns from which the matrix is made a band first
_PANEL = 32  # columns that dtpqrt reduces at a time
WORK_ROWS = 112
"""Float64 per column that these routines may take beside the matrix itself."""


@cache
def load() -> ctypes.CDLL:
    """The library, private to these calls: importing its package would put its symbols before those of scipy.

    Raises JobError where the package is not there, or not whole.
    """
    spec = find_spec("scipy_openblas32")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [p for place in places for p in (Path(place) / "lib").glob("*") if p.suffix in {".so", ".dylib", ".dll"}]
    again = "expected one with the package scipy-openblas32; run `pip install --force-reinstall scipy-openblas32`"
    if len(found) != 1:
        raise JobError(f"OpenBLAS: {len(found)} libraries in {printable(str(places or sys.prefix))}, {again}")
    asleep = os.environ.get("OPENBLAS_THREAD_TIMEOUT") == "4"  # cli.main says so to numpy's: these threads have work
    try:
        if asleep:
            del os.environ["OPENBLAS_THREAD_TIMEOUT"]
        return ctypes.CDLL(str(found[0]))
    except OSError as error:
        raise JobError(f"OpenBLAS: {printable(str(error))}: {again}") from error
    finally:
        if asleep:
            os.environ["OPENBLAS_THREAD_TIMEOUT"] = "4"


@cache
def _routine(name: str, arguments: int) -> Callable[..., None]:
    routine: Callable[..., None] = getattr(load(), f"scipy_{name}_")
    routine.argtypes, routine.restype = [ctypes.c_void_p] * arguments, None  # type: ignore[attr-defined]
    return routine


def _call(name: str, *arguments: bytes | float | Array) -> None:
    """Call a routine, everything by address; raises ArithmeticError where LAPACK's last argument, info, is not 0."""
    held: list[Any] = []
    for a in arguments:
        if isinstance(a, bytes):
            held.append(ctypes.c_char_p(a))
        elif isinstance(a, int):
            held.append(ctypes.byref(ctypes.c_int(a)))
        elif isinstance(a, float):
            held.append(ctypes.byref(ctypes.c_double(a)))
        else:
            held.append(a.ctypes.data)
    if name in _BLAS:
        _routine(name, len(held))(*held)
        return
    info = ctypes.c_int(0)
    _routine(name, len(held) + 1)(*held, ctypes.byref(info))
    if info.value:
        raise ArithmeticError(f"LAPACK's {name} returned {info.value}: expected 0; report this matrix as a bug")


def add_square(panel: F64Array, gram: F64Array, *, transposed: bool) -> None:
    """The lower triangle of gram [n, n] += panel.T @ panel for a C-ordered panel [k, n].

    `transposed`: panel @ panel.T for a panel [n, k].
    """
    n = len(gram)
    lead = panel.shape[1]
    k, trans = (lead, b"T") if transposed else (len(panel), b"N")
    _call("dsyrk", b"L", trans, n, k, 1.0, panel, lead, 1.0, gram, n)


def times(gram: F64Array, vector: F64Array) -> F64Array:
    """Gram @ vector [n] of the matrix in the lower triangle."""
    n = len(gram)
    product = np.zeros(n)
    _call("dsymv", b"L", n, 1.0, gram, n, np.ascontiguousarray(vector), 1, 0.0, product, 1)
    return product


def eigenvalues(gram: F64Array) -> F64Array:
    """Of the symmetric matrix in the lower triangle, ascending; the matrix is destroyed.

    Small ones as dsyevd and dsyevr do it without vectors: tridiagonal by dsytrd, then dsterf. dsytrd waits for memory
    once the matrix is larger than the caches; dsytrd_2stage makes it a band first, which is all products of matrices.
    """
    n = len(gram)
    d, e, tau = np.zeros(n), np.zeros(max(n - 1, 1)), np.zeros(max(n - 1, 1))
    if n < _TWO_STAGES:
        work = np.zeros(64 * n)
        _call("dsytrd", b"L", n, gram, n, d, e, tau, work, len(work))
    else:
        sizes = np.zeros(2)
        _call("dsytrd_2stage", b"N", b"L", n, gram, n, d, e, tau, sizes[:1], -1, sizes[1:], -1)
        room = [np.zeros(int(size)) for size in sizes]
        _call("dsytrd_2stage", b"N", b"L", n, gram, n, d, e, tau, room[0], len(room[0]), room[1], len(room[1]))
    _call("dsterf", n, d, e)
    return d


def add_qr(triangle: F64Array, panel: F64Array) -> None:
    """Make `triangle` [n, n] (upper, Fortran order) the R of the QR decomposition of itself upon the Fortran-ordered
    [k, n] matrix; `panel` is that matrix as the C-ordered [n, k] array of its transpose, and is destroyed.
    """
    n, k = panel.shape
    block = min(_PANEL, n)
    factors, work = np.zeros(block * n), np.zeros(block * n)
    _call("dtpqrt", k, n, 0, block, triangle, n, panel, k, factors, block, work)


def singular_values(triangle: F64Array) -> F64Array:
    """Of an [n, n] matrix in Fortran's order, descending; the matrix is destroyed."""
    n = len(triangle)
    values, nothing, integers = np.zeros(n), np.zeros(1), np.zeros(8 * n, np.int32)
    work = np.zeros(96 * n)
    _call("dgesdd", b"N", n, n, triangle, n, values, nothing, 1, nothing, 1, work, len(work), integers)
    return values
