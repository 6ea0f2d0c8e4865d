"""What MLX writes that its tensors' types do not say: weights of few bits, packed into unsigned integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.quantised import several
from netweight.checkpoint.tensor import Tensor

__all__ = ["quantised_note"]


def quantised_note(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str | None:
    """A note where weights are MLX's codes (U32 `weight` with `scales` beside it), which are not decoded."""
    scaled = (f"{name.removesuffix('scales')}weight" for name in tensors if name.endswith(".scales"))
    packed = sum(1 for name in scaled if name in tensors and tensors[name].dtype.name == "U32")
    if not packed:
        return None
    declared = (config or {}).get("quantization")
    bits = declared.get("bits") if isinstance(declared, Mapping) else None
    shown = f" of {bits} bits" if type(bits) is int and 0 < bits < 32 else ""
    those = several(packed, "weight is quantised by MLX: its", "weights are quantised by MLX: their")
    return (
        f"{those} codes{shown} are packed into U32 and not decoded; elements are"
        " counted as stored, and no measure of them is taken: dequantise the model first (mlx_lm.convert --dequantize)"
    )
