"""Matrices that number formats are tried on; only numpy is needed, since the recorder runs in another environment."""

from __future__ import annotations

import numpy as np


def _bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 values that bfloat16 holds: cut off after 8 bits of mantissa."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _made() -> dict[str, np.ndarray]:
    random = np.random.RandomState(5)
    normal = 0.02 * random.standard_normal((256, 256))
    heavy = 0.01 * random.standard_t(2.5, (256, 256))
    sparse = normal * (random.uniform(size=normal.shape) < 0.1)
    sparse[3] = 0
    sparse[:, 128:192] = 0
    shifted = np.abs(normal) + 0.01
    grown = normal * np.linspace(0.01, 30, 256)[:, None]
    return {
        name: _bfloat16(x)
        for name, x in {"normal": normal, "heavy": heavy, "sparse": sparse, "shifted": shifted, "grown": grown}.items()
    }


MATRICES = _made()
"""{name: float32 [256, 256]}"""
