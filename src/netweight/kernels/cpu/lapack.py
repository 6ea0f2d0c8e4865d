"""The routines of BLAS and LAPACK that spectra need, called without the interpreter's lock and without copies.

scipy's own wrappers (scipy.linalg.blas, .lapack) keep the interpreter's lock while they run, so that two workers would
take turns; its function pointers for Cython, which scipy documents for other compilers, are called through ctypes,
which gives the lock back. All matrices are float64 and in Fortran's order: a C-ordered [k, n] array is the n x k matrix
of its transpose. Names and arguments are those of https://www.netlib.org/lapack/.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from netweight.kernels.arrays import Array, F64Array
from netweight.kernels.cpu.tridiagonal import chase

__all__ = ["WORK_ROWS", "add_qr", "add_square", "eigenvalues", "singular_values", "times"]

_BLAS = ("dsyrk", "dsymv", "dsymm", "dsyr2k", "dgemm")
_TWO_STAGES = 1024  # columns from which the matrix is made a band first
_BAND = 48  # its subdiagonals
_PANEL = 32  # columns that dtpqrt reduces at a time
WORK_ROWS = 400
"""Float64 per column that these routines may take beside the matrix itself."""


_name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@cache
def _routine(name: str, arguments: int) -> Callable[..., None]:
    library = import_module(f"scipy.linalg.cython_{'blas' if name in _BLAS else 'lapack'}")
    capsule = library.__pyx_capi__[name]
    address = _pointer_in(capsule, _name_of(capsule))
    routine: Callable[..., None] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)(address)
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
    once the matrix is larger than the caches; then it is made a band first, which is all products of matrices.
    """
    n = len(gram)
    if n < _TWO_STAGES:
        d, e, tau = np.zeros(n), np.zeros(max(n - 1, 1)), np.zeros(max(n - 1, 1))
        work = np.zeros(64 * n)
        _call("dsytrd", b"L", n, gram, n, d, e, tau, work, len(work))
    else:
        band = _to_band(gram, _BAND)
        chase(band, _BAND)
        d, e = band[:, 0].copy(), band[:, 1].copy()
    _call("dsterf", n, d, e)
    return d


def _to_band(a: F64Array, b: int) -> F64Array:
    """`a` with b subdiagonals and the same eigenvalues, as tridiagonal.chase wants it; `a` is destroyed.

    Bischof, Lang and Sun 2000 (ACM TOMS 26, 4); LAPACK's dsytrd_sy2sb, which scipy does not offer.
    """
    n = len(a)
    room = [np.zeros(b * n) for _ in range(3)]
    factor, work = np.zeros((b, b)), np.zeros(b * n)
    small = np.zeros((b, b))
    for first in range(0, n - b - 1, b):
        below = n - first - b
        k = min(b, below)
        panel = a[first + b :, first : first + b]
        corner = a[first + b :, first + b :]
        v, vt, w = (r[: k * below].reshape(k, below) for r in room)  # each is `below` x k in Fortran's order
        factor[:] = 0.0
        _call("dgeqrt", below, b, k, panel, n, factor, b, work)
        v[:] = panel[:, :k].T
        v[:, :k][np.tril_indices(k)] = 0.0
        np.fill_diagonal(v, 1.0)
        # Q^T A Q with Q = 1 - V T V^T is A - V W^T - W V^T, where W = A V T - V (V T)^T A (V T) / 2
        _call("dgemm", b"N", b"N", below, k, k, 1.0, v, below, np.tril(factor[:k, :k]), k, 0.0, vt, below)
        _call("dsymm", b"L", b"L", below, k, 1.0, corner, n, vt, below, 0.0, w, below)
        _call("dgemm", b"T", b"N", k, k, below, -0.5, vt, below, w, below, 0.0, small, k)
        _call("dgemm", b"N", b"N", below, k, k, 1.0, v, below, small, k, 1.0, w, below)
        _call("dsyr2k", b"L", b"N", below, k, -1.0, v, below, w, below, 1.0, corner, n)
    band = np.zeros((n, 2 * b))
    for d in range(min(b + 1, n)):
        band[: n - d, d] = np.diagonal(a, -d)
    return band


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
