"""Counts as few bytes, for results that go from one process to another."""

from __future__ import annotations

import zlib

import numpy as np

from netweight.kernels.arrays import Array

__all__ = ["Packed", "pack", "unpack"]

Packed = tuple[str, tuple[int, ...], bytes]
"""(dtype, shape, bytes)."""


def pack(array: Array) -> Packed:
    """The array's bytes plane by plane, compressed: of counts that are mostly small, most planes are zeros."""
    width = array.itemsize
    planes = np.ascontiguousarray(np.ascontiguousarray(array).view(np.uint8).reshape(-1, width).T)
    return array.dtype.str, array.shape, zlib.compress(planes.data, 1)


def unpack(packed: Packed) -> Array:
    """The array again, equal to the last bit; writable, as loops are compiled for."""
    kind, shape, data = packed
    dtype = np.dtype(kind)
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(dtype.itemsize, -1)
    return np.array(planes.T, order="C").view(dtype).reshape(shape)
