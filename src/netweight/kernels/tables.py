"""The number that every bit pattern of a small element type stands for."""

from __future__ import annotations

from functools import cache

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array

__all__ = ["numbers_of_patterns"]


@cache
def numbers_of_patterns(dtype: DType) -> Array:
    """float32 [256 | 65536] of an 8- or 16-bit type; patterns of NaN give NaN. Not to be written to."""
    patterns = np.arange(1 << dtype.bits, dtype=np.uint8 if dtype.bits == 8 else np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return patterns.view(dtype.to_numpy()).astype(np.float32)
