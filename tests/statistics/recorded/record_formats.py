"""Record what the packages of number formats make of small matrices: the squared error of every eight rows.

    python3 -m venv V && V/bin/pip install torch bitsandbytes==0.50.2 compressed-tensors==0.20.1 nvidia-modelopt==0.47.0
    V/bin/python tests/statistics/recorded/record_formats.py

Writes `formats.json`. llama.cpp's types, and MXFP4 as it encodes it, are not among them: libgguf, which netweight calls
and the tests have, gives the bytes of llama.cpp's own encoders. The matrices are those of `format_matrices.py`.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import bitsandbytes.functional
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from format_matrices import MATRICES  # noqa: E402


def int4(x: torch.Tensor, *, symmetric: bool) -> torch.Tensor:
    """Scales in bfloat16, as of a bfloat16 model; quotients in float32."""
    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=128, symmetric=symmetric)
    groups = x.reshape(len(x), -1, 128).bfloat16()
    scale, zero = calculate_qparams(groups.amin(2), groups.amax(2), args)
    return fake_quantize(x, scale.float(), zero, args)


def fp8(x: torch.Tensor, strategy: str) -> torch.Tensor:
    args = QuantizationArgs(
        num_bits=8, type="float", strategy=strategy, symmetric=True,
        block_structure=[128, 128] if strategy == "block" else None,
    )  # fmt: skip
    if strategy == "tensor":
        least, most = x.amin().reshape(1), x.amax().reshape(1)
    elif strategy == "channel":
        least, most = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    else:
        tiles = x.reshape(len(x) // 128, 128, -1, 128)
        least, most = tiles.amin((1, 3)), tiles.amax((1, 3))
    scale, zero = calculate_qparams(least, most, args)
    return fake_quantize(x, scale, zero, args)


def nf4(x: torch.Tensor) -> torch.Tensor:
    codes, state = bitsandbytes.functional.quantize_4bit(x, quant_type="nf4", blocksize=64)
    return bitsandbytes.functional.dequantize_4bit(codes, state)


def nvfp4(x: torch.Tensor) -> torch.Tensor:
    held, scale, second = NVFP4QTensor.quantize(x, 16)
    return held.dequantize(torch.float32, scale=scale, double_scale=second, block_sizes={-1: 16})


FORMATS = {
    "int4_sym": lambda x: int4(x, symmetric=True),
    "int4_asym": lambda x: int4(x, symmetric=False),
    "fp8_tensor": lambda x: fp8(x, "tensor"),
    "fp8_channel": lambda x: fp8(x, "channel"),
    "fp8_block": lambda x: fp8(x, "block"),
    "nf4": nf4,
    "nvfp4": nvfp4,
}


def main() -> None:
    packages = ("torch", "bitsandbytes", "compressed-tensors", "nvidia-modelopt")
    found: dict[str, dict[str, Any]] = {"versions": {name: importlib.metadata.version(name) for name in packages}}
    for name, matrix in MATRICES.items():
        x = torch.from_numpy(matrix)
        found[name] = {}
        for key, encode in FORMATS.items():
            squares = (x - encode(x.clone()).float()).double() ** 2
            found[name][key] = squares.reshape(-1, 8 * x.shape[1]).sum(1).tolist()
    (HERE / "formats.json").write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
