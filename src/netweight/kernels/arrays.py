"""Arrays by their element type: what every file of the kernels, and what calls them, says of its arguments."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Array", "F32Array", "F64Array", "U8Array", "U32Array", "U64Array"]

Array: TypeAlias = np.ndarray[Any, Any]
U8Array: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
U32Array: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]
U64Array: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
F32Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
F64Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
