"""float32 and float64 rounded once to every smaller floating-point type: ml_dtypes rounds float64 twice, by way of
float32.

Compiled without fastmath, which might drop the addition that rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly
from netweight.kernels.cpu.sources import stands_for

__all__ = ["narrow_to_bfloat16", "narrow_to_eighth", "narrow_to_half", "not_finite"]

_MAGIC = np.float32(0.5)  # its last bit is 2^-24, the last bit of half's denormals
_ONE = np.uint32(1)


def _odd(value: Any) -> Any:
    """The bits of the float32 next to `value` towards zero, the last one set where it is not `value`.

    Such a number rounds to a type of fewer bits as `value` itself does: nothing is rounded twice (Boldo, Melquiond,
    When double rounding is odd, 2004).
    """
    near = np.float32(value)
    beyond = np.uint32(1) if abs(np.float64(near)) > abs(value) else np.uint32(0)
    inexact = np.uint32(1) if np.float64(near) < value or np.float64(near) > value else np.uint32(0)
    return np.uint32(np.uint32(near.view(np.uint32) - beyond) | inexact)


@stands_for(_odd, inline="always", strict=False)
def _odd_of(value: Any) -> Any:
    from numba import types  # noqa: PLC0415 - where it is compiled

    if value == types.float32:
        return lambda value: np.float32(value).view(np.uint32)
    return _odd


@compiled_exactly
def narrow_to_bfloat16(values: Array, out: Array) -> int:
    """Patterns uint16 [n] of `values` float32 or float64 [n]; returns how many are not finite."""
    bad = np.uint32(0)
    for i in range(len(values)):
        bits = _odd(values[i])
        size = np.uint32(bits & np.uint32(0x7FFFFFFF))
        even = np.uint32(np.uint32(bits >> np.uint32(16)) & _ONE)
        rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + even) >> np.uint32(16))
        quiet = np.uint32(np.uint32(bits >> np.uint32(16)) | np.uint32(0x40))
        pattern = quiet if size > np.uint32(0x7F800000) else rounded
        out[i] = np.uint16(pattern)
        bad = np.uint32(bad + np.uint32(size >= np.uint32(0x7F7F8000)))
    return int(bad)


@compiled_exactly
def narrow_to_half(values: Array, out: Array) -> int:
    """The same to float16. After Fabian Giesen's float_to_half_fast3_rtne (public domain)."""
    bad = np.uint32(0)
    for i in range(len(values)):
        bits = _odd(values[i])
        size = np.uint32(bits & np.uint32(0x7FFFFFFF))
        sign = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))
        even = np.uint32(np.uint32(size >> np.uint32(13)) & _ONE)
        normal = np.uint32(np.uint32(size - np.uint32(0x38000000) + np.uint32(0xFFF) + even) >> np.uint32(13))
        shown = np.float32(size.view(np.float32) + _MAGIC).view(np.uint32)
        small = np.uint32(shown - np.uint32(0x3F000000))
        large = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else np.uint32(0x7C00)
        pattern = small if size < np.uint32(0x38800000) else normal
        pattern = large if size >= np.uint32(0x47800000) else pattern
        out[i] = np.uint16(pattern | sign)
        bad = np.uint32(bad + np.uint32(size >= np.uint32(0x477FF000)))
    return int(bad)


@compiled_exactly
def narrow_to_eighth(values: Array, table: Array, infinite: Array, out: Array) -> int:
    """The same to 8-bit floats. table uint8 [65536]: the pattern for every bfloat16, itself rounded to odd; infinite
    uint8 [256]: 1 where a pattern is not finite.
    """
    bad = np.uint32(0)
    for i in range(len(values)):
        bits = _odd(values[i])
        rest = np.uint32(1) if bits & np.uint32(0xFFFF) else np.uint32(0)
        pattern = table[np.uint32(bits >> np.uint32(16)) | rest]
        out[i] = pattern
        bad = np.uint32(bad + np.uint32(infinite[pattern]))
    return int(bad)


@compiled_exactly
def not_finite(values: Array) -> int:
    """How many of the float32 or float64 values [n] are not finite; values - values is 0 for the others."""
    bad = np.uint32(0)
    for i in range(len(values)):
        bad = np.uint32(bad + np.uint32(values[i] - values[i] != 0))
    return int(bad)
