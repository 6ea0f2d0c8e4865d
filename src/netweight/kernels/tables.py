"""The numbers that bit patterns stand for: of small element types, and of the codes of ggml's."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array

__all__ = ["grid_of", "half_powers", "half_ue4m3", "numbers_of_patterns", "signs_of_seven_bits"]

_TWOS, _ONES = (8, 25, 43), (-1, 0, 1)
_GRIDS = {  # entries, numbers of an entry, what a code of 2 or 3 bits stands for, in the order of grids.bin
    "IQ2_XXS": (256, 8, _TWOS),
    "IQ2_XS": (512, 8, _TWOS),
    "IQ2_S": (1024, 8, _TWOS),
    "IQ3_XXS": (256, 4, (4, 12, 20, 28, 36, 44, 52, 62)),
    "IQ3_S": (512, 4, (1, 3, 5, 7, 9, 11, 13, 15)),
    "IQ1_S": (2048, 8, _ONES),
}


@cache
def numbers_of_patterns(dtype: DType) -> Array:
    """float32 [256 | 65536] of an 8- or 16-bit type; patterns of NaN give NaN. Not to be written to."""
    patterns = np.arange(1 << dtype.bits, dtype=np.uint8 if dtype.bits == 8 else np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return patterns.view(dtype.to_numpy()).astype(np.float32)


@cache
def grid_of(kind: str) -> Array:
    """float32 [entries, 4 or 8], the numbers that an index of a type of ggml stands for (IQ1_M has those of IQ1_S).

    grids.bin holds an entry as 16 bits, codes of 2 or 3 bits, low ones first; the grids are those of ggml-common.h.
    """
    stored = np.frombuffer((files("netweight.kernels") / "grids.bin").read_bytes(), "<u2")
    first = 0
    for name, (entries, width, values) in _GRIDS.items():
        if name == kind:
            bits = 3 if len(values) == 8 else 2
            shifts = np.arange(width, dtype=np.uint16) * np.uint16(bits)
            codes = (stored[first : first + entries, None] >> shifts) & np.uint16((1 << bits) - 1)
            return np.asarray(np.array(values, np.float32)[codes])
        first += entries
    raise KeyError(kind)


@cache
def signs_of_seven_bits() -> Array:
    """uint8 [128], the signs of 8 numbers of which an even count is negative."""
    seven = np.arange(128, dtype=np.uint8)
    odd = np.bitwise_count(seven) & np.uint8(1)
    return np.asarray(seven | (odd << np.uint8(7)), np.uint8)


@cache
def half_powers() -> Array:
    """float32 [256], half of what E8M0 stands for as ggml reads it: 255 is a power of two there, not NaN."""
    return np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32)


@cache
def half_ue4m3() -> Array:
    """float32 [256], half of what E4M3 stands for without its sign, as ggml reads it: NaN is 0."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, (codes & 7).astype(np.float32)
    raw = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(1 + mantissa / 8, exponent - 7))
    return np.where((codes == 0) | (codes == 0x7F), 0, raw * 0.5).astype(np.float32)
