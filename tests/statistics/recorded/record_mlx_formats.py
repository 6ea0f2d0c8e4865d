"""Record what MLX makes of small matrices with its affine types, groups of 64: the squared error of every eight rows.

    python3 -m venv V && V/bin/pip install numpy 'mlx[cpu]==0.32.4'
    V/bin/python tests/statistics/recorded/record_mlx_formats.py

Writes `mlx_formats.json`. Weights are bfloat16, and so are scales and offsets; they are decoded to float32.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from format_matrices import MATRICES  # noqa: E402


def lost(matrix: np.ndarray, bits: int) -> list[float]:
    codes, scales, offsets = mx.quantize(mx.array(matrix).astype(mx.bfloat16), group_size=64, bits=bits)
    wide = (scales.astype(mx.float32), offsets.astype(mx.float32))
    decoded = np.array(mx.dequantize(codes, *wide, group_size=64, bits=bits))
    squares = (matrix.astype(np.float64) - decoded) ** 2
    return squares.reshape(-1, 8 * matrix.shape[1]).sum(axis=1).tolist()


def main() -> None:
    found: dict[str, object] = {"versions": {"mlx": importlib.metadata.version("mlx")}}
    for name, matrix in MATRICES.items():
        found[name] = {f"mlx_q{bits}": lost(matrix, bits) for bits in (2, 3, 4, 5, 6, 8)}
    (HERE / "mlx_formats.json").write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
