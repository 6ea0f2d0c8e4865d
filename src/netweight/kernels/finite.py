"""How many elements are NaN or infinite, counted on their bytes."""

from __future__ import annotations

import numpy as np

from netweight.dtypes import DType, Kind
from netweight.kernels.arrays import U8Array

__all__ = ["count_nonfinite"]

_EXPONENTS = {"BF16": 0x7F80, "F16": 0x7C00}


def count_nonfinite(raw: U8Array, dtype: DType) -> int:
    """How many of the little-endian elements of `dtype` in `raw` are NaN or infinite; 0 for what is no float."""
    if dtype.kind is not Kind.FLOAT or dtype.bits < 8:
        return 0
    if dtype.name in _EXPONENTS:  # ml_dtypes converts every element to ask
        exponent = np.uint16(_EXPONENTS[dtype.name])
        return int(np.count_nonzero((raw.view(np.uint16) & exponent) == exponent))
    return len(raw) * 8 // dtype.bits - int(np.count_nonzero(np.isfinite(raw.view(dtype.to_numpy()))))
