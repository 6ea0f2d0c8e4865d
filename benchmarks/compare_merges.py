"""How far two merged models lie apart: python compare_merges.py BASE A B prints one line of JSON.

equal: the share of elements that are the same bfloat16; largest: the largest difference, by A's largest change from
BASE; mean_square: the root mean square of the difference, by that of A's change. Every tensor of BASE must be in both;
other element types than bfloat16 are not taken.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

import numpy as np

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Tensor

BLOCK = 1 << 22


def block(tensor: Tensor, start: int) -> np.ndarray:
    if tensor.dtype.name != "BF16":
        raise ValueError(f"{tensor.name} is {tensor.dtype.name}, expected BF16")
    bits = np.empty(min(BLOCK, tensor.size - start), "<u2")
    tensor.read_into(start, memoryview(bits).cast("B"))
    return bits


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def main() -> None:
    with ExitStack() as stack:
        base, a, b = (stack.enter_context(open_checkpoint(ref)) for ref in sys.argv[1:4])
        equal = elements = 0
        largest = most = apart = change = 0.0
        for name, tensor in base.items():
            for start in range(0, tensor.size, BLOCK):
                zero, one, two = (widened(block(model[name], start)) for model in (base, a, b))
                difference, moved = np.abs(one - two), np.abs(one - zero)
                equal += int(np.count_nonzero(difference == 0))
                elements += difference.size
                largest, most = max(largest, float(difference.max())), max(most, float(moved.max()))
                apart += float(np.sum(difference**2, dtype=np.float64))
                change += float(np.sum(moved**2, dtype=np.float64))
    found = {"equal": equal / elements, "largest": largest / most, "mean_square": (apart / change) ** 0.5}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
