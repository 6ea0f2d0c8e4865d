"""Record what modelopt makes of its packed floats: `dequantize` of its tensors to float32 is the oracle of the tests.

    python3 -m venv V && V/bin/pip install torch nvidia-modelopt==0.47.0 omegaconf
    V/bin/python tests/checkpoint/recorded/modelopt_record.py

Writes `modelopt.safetensors`: NUMBER/PART for every tensor of a layer under the names of its export, with
NUMBER/expected; the metadata have the version and the names of the cases.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from modelopt import __version__
from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor
from modelopt.torch.quantization.qtensor.mxfp8_tensor import MXFP8QTensor
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import save_file

made = torch.Generator().manual_seed(47)
tensors: dict[str, torch.Tensor] = {}
names: list[str] = []


def add(name: str, parts: dict[str, torch.Tensor], expected: torch.Tensor) -> None:
    tensors.update({f"{len(names)}/{part}": tensor.contiguous().clone() for part, tensor in parts.items()})
    tensors[f"{len(names)}/expected"] = expected.contiguous()
    names.append(name)


def nvfp4(codes: torch.Tensor, scale: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    shape = torch.Size((*codes.shape[:-1], 2 * codes.shape[-1]))
    held = NVFP4QTensor(shape, torch.float32, codes)
    return held.dequantize(torch.float32, scale=scale, double_scale=second, block_sizes={-1: 16})


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=made).to(torch.uint8)


for shape in ((5, 32), (17, 16), (3, 80)):
    codes, scale = bytes_of(shape[0], shape[1] // 2), bytes_of(shape[0], shape[1] // 16).view(torch.float8_e4m3fn)
    second = torch.rand((), generator=made) * 1e-3
    parts = {"weight": codes, "weight_scale": scale, "weight_scale_2": second}
    add(f"NVFP4 {list(shape)}", parts, nvfp4(codes, scale, second))

dense = torch.randn(6, 48, generator=made)
held, scale, second = NVFP4QTensor.quantize(dense.clone(), 16)
parts = {"weight": held._quantized_data, "weight_scale": scale, "weight_scale_2": second}
add("NVFP4 of a quantised [6, 48]", parts, nvfp4(held._quantized_data, scale, second))

for shape in ((5, 32), (3, 96)):
    codes, scale = (
        bytes_of(*shape).view(torch.float8_e4m3fn),
        torch.randint(100, 140, (shape[0], shape[1] // 32), generator=made),
    )
    scale = scale.to(torch.uint8)
    found = MXFP8QTensor(torch.Size(shape), torch.bfloat16, codes).dequantize(torch.bfloat16, scale=scale)
    add(f"MXFP8 {list(shape)}", {"weight": codes, "weight_scale": scale}, found)

codes, scale = bytes_of(5, 32).view(torch.float8_e4m3fn), torch.rand((), generator=made) * 0.01
found = FP8QTensor(torch.Size((5, 32)), torch.float32, codes).dequantize(torch.float32, scale=scale)
add("FP8 [5, 32]", {"weight": codes, "weight_scale": scale}, found)

path = Path(__file__).resolve().parent / "modelopt.safetensors"
save_file(tensors, path, metadata={"version": __version__, "cases": json.dumps(names)})
print(f"{path}: {len(names)} cases, {path.stat().st_size} bytes")
