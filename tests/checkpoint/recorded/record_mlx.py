"""Record what MLX makes of the cases of packed_cases.py, on a CPU: mlx.json; and layers as it quantises them:
mlx.safetensors.

    python -m venv env && env/bin/pip install 'mlx[cpu]==0.32.4'
    env/bin/python tests/checkpoint/recorded/record_mlx.py
"""

from __future__ import annotations

import importlib.metadata
import sys
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

sys.path.append(str(Path(__file__).resolve().parents[1]))

from packed_cases import RECORDED, Case, digest, mlx, one_nan, record

mx.set_default_device(mx.cpu)


def of(case: Case) -> str:
    held = {}
    for name, (dtype, array) in case.tensors.items():
        whole = mx.array(array)
        held[name.removeprefix("x.")] = whole.view(mx.bfloat16) if dtype == "BF16" else whole
    about = case.config["quantization"]
    weight = mx.dequantize(
        held["weight"], held["scales"], held.get("biases"),
        group_size=about["group_size"], bits=about["bits"], mode=about.get("mode", "affine"),
    )  # fmt: skip
    dtype = case.more["dtype"]
    bits = np.array(weight.view(mx.uint32 if dtype == "F32" else mx.uint16))
    return digest(one_nan(bits, dtype))


class Model(nn.Module):
    """Two linear layers and an embedding, of which one has bits of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 64)
        self.up = nn.Linear(64, 9, bias=True)
        self.down = nn.Linear(128, 5, bias=False)


def parameters_of(mode: str, path: str, module: nn.Module) -> dict[str, int] | bool:
    if mode == "affine" and path == "down":
        return {"group_size": 32, "bits": 8}
    return hasattr(module, "to_quantized")


def stored() -> dict[str, mx.array]:
    """Parameters of the model as MLX saves them, and what its layers' weights are then."""
    mx.random.seed(0)
    held = {}
    for mode, dtype in (("affine", mx.float16), ("affine", mx.bfloat16), ("mxfp4", mx.bfloat16), ("mxfp8", mx.bfloat16),
                        ("nvfp4", mx.bfloat16)):  # fmt: skip
        model = Model()
        model.set_dtype(dtype)
        nn.quantize(model, mode=mode, class_predicate=partial(parameters_of, mode))
        at = f"{mode} {str(dtype).removeprefix('mlx.core.')}"
        for name, array in tree_flatten(model.parameters()):
            held[f"{at}/x.{name}"] = array
        for path, m in model.leaf_modules().items():
            weight = mx.dequantize(
                m.weight, m.scales, m.get("biases"), group_size=m.group_size, bits=m.bits, mode=m.mode
            )
            held[f"{at}/{path}"] = weight
    return held


if __name__ == "__main__":
    made_by = f"mlx {importlib.metadata.version('mlx')}, on a CPU"
    record("mlx", made_by, {name: of(case) for name, case in mlx().items()})
    mx.save_safetensors(str(RECORDED / "mlx.safetensors"), stored())
