"""The formats, by name: their bits for a weight, their blocks, and how rows are encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from netweight.statistics.formats import encoders
from netweight.statistics.formats.encoders import Rows
from netweight.statistics.formats.ggml import coded

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array

__all__ = ["FORMATS", "MLX", "Format"]


@dataclass(frozen=True)
class Format:
    """key: its name in columns; label: as people write it; bits: for a weight, scales included, of a row that whole
    blocks fill; block: what the length of a row must be a multiple of; ggml: llama.cpp's name of the type, "" for
    others; doc: how it is encoded.
    """

    key: str
    label: str
    bits: float
    block: int
    doc: str
    ggml: str = ""
    encode: Callable[[Rows], F32Array] | None = None

    def decoded(self, rows: Rows, weights: F32Array | None = None) -> F32Array:
        """The rows as the format has them: float32 [n, cols]. `weights`: importance of columns, for llama.cpp's."""
        if self.encode is not None:
            return self.encode(rows)
        return coded(rows.values, self.ggml, weights)


def _ggml(name: str, size: int, block: int) -> Format:
    """A type of llama.cpp with `size` bytes for a block."""
    doc = f"llama.cpp's {name}, encoded without imatrix"
    return Format(name.lower(), name, 8 * size / block, block, doc, name)


FORMATS = (
    _ggml("Q8_0", 34, 32),
    _ggml("Q6_K", 210, 256),
    _ggml("Q5_K", 176, 256),
    _ggml("Q4_K", 144, 256),
    _ggml("Q3_K", 110, 256),
    _ggml("Q2_K", 84, 256),
    _ggml("IQ4_XS", 136, 256),
    _ggml("IQ4_NL", 18, 32),
    _ggml("Q5_1", 24, 32),
    _ggml("Q5_0", 22, 32),
    _ggml("Q4_1", 20, 32),
    _ggml("Q4_0", 18, 32),
    Format("fp8_tensor", "FP8", 8.0, 1, "E4M3, one scale", encode=encoders.fp8_tensor),
    Format("fp8_channel", "FP8 channel", 8.0, 1, "E4M3, a scale for every row", encode=encoders.fp8_channel),
    Format("fp8_block", "FP8 block", 8.0, 1, "E4M3, a scale for 128 x 128", encode=encoders.fp8_block),
    Format("mxfp4", "MXFP4", 4.25, 32, "E2M1, a power of 2 for 32", encode=encoders.mxfp4),
    Format("nvfp4", "NVFP4", 4.5, 16, "E2M1, an E4M3 scale for 16 and one for all", encode=encoders.nvfp4),
    Format("int4_sym", "int4 g128", 4.125, 1, "-8 to 7, a bfloat16 scale for 128", encode=encoders.int4_symmetric),
    Format(
        "int4_asym", "int4 g128 zp", 4.15625, 1, "0 to 15, a bfloat16 scale and a zero point for 128",
        encode=encoders.int4_asymmetric,
    ),
    Format("nf4", "NF4", 4.5, 64, "16 normal quantiles, a float32 scale for 64", encode=encoders.nf4),
)  # fmt: skip
"""In the order of their columns."""

MLX = tuple(
    Format(
        f"mlx_q{bits}",
        f"{bits} bit",
        bits + 0.5,
        64,
        f"MLX, {bits} bits in groups of 64",
        encode=partial(encoders.mlx, bits=bits),
    )
    for bits in (2, 3, 4, 5, 6, 8)
)
"""The affine types of MLX, in groups of 64."""
