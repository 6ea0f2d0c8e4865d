"""Made tensors in memory, for timing the passes of jobs without reading a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import DType
from netweight.source.held import HeldBytes

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["made_family", "made_tensor"]

_STD, _NOISE = 0.02, 3e-4  # of weights, and of what a fine-tune adds to them


def made_tensor(dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers of a weight's size; bytes of any values where the type is no float."""
    return made_family([dtype], shape)[0]


def made_family(dtypes: list[DType], shape: tuple[int, ...]) -> list[Tensor]:
    """A tensor and its fine-tunes: the first one plus a little noise, each rounded to its own type."""
    import numpy as np

    random = np.random.Generator(np.random.SFC64(0))
    base = random.standard_normal(shape, dtype=np.float32) * np.float32(_STD)
    found = []
    for number, dtype in enumerate(dtypes):
        values = base
        if number:
            values = base + random.standard_normal(shape, dtype=np.float32) * np.float32(_NOISE)
        if dtype.numpy_name is None:
            held: Array = random.integers(0, 256, -(-values.size * dtype.bits // 8), np.uint8)
        else:
            with np.errstate(invalid="ignore"):
                held = np.ascontiguousarray(values.astype(dtype.to_numpy())).view(np.uint8).reshape(-1)
        found.append(Tensor(f"made.{number}.weight", shape, dtype, HeldBytes(held.data, "made in memory"), 0))
    return found
