"""Record what bitsandbytes makes of the cases of packed_cases.py, on a CPU: bitsandbytes.json; and weights as it stores
them: bitsandbytes.safetensors.

    python -m venv env && env/bin/pip install bitsandbytes==0.50.2 safetensors
    env/bin/python tests/checkpoint/recorded/record_bitsandbytes.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, int8_vectorwise_dequant, quantize_4bit
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[1]))

from packed_cases import RECORDED, Case, bitsandbytes, digest, one_nan, record


def tensor(dtype: str, array: np.ndarray) -> torch.Tensor:
    held = torch.from_numpy(array.copy())
    return held.view(torch.bfloat16) if dtype == "BF16" else held


def of(case: Case) -> str:
    held = {name: tensor(*entry) for name, entry in case.tensors.items()}
    if "x.SCB" in held:
        weight = int8_vectorwise_dequant(held["x.weight"], held["x.SCB"])
    else:
        about = {name.removeprefix("x.weight."): entry for name, entry in held.items() if name != "x.weight"}
        weight = dequantize_4bit(held["x.weight"], QuantState.from_dict(about, torch.device("cpu")))
    assert list(weight.shape) == case.more["shape"]
    dtype = case.more["dtype"]
    bits = weight.contiguous().view(torch.int32 if dtype == "F32" else torch.int16).numpy()
    return digest(one_nan(bits.view(np.uint32 if dtype == "F32" else np.uint16), dtype))


def stored() -> dict[str, torch.Tensor]:
    """What Linear4bit and Linear8bitLt put into a state dict under `weight`, and the weights that it stands for."""
    made = torch.Generator().manual_seed(0)
    held = {}
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            weight = (torch.randn((12, 96), generator=made) * 0.02).bfloat16()
            codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type=kind)
            at = f"{kind}{' nested' if nested else ''}"
            held[f"{at}/x.weight"] = codes
            for name, part in state.as_dict(packed=True).items():
                held[f"{at}/x.weight.{name}"] = part
            held[f"{at}/weight"] = dequantize_4bit(codes, state)
    codes, scales, _ = bnb.functional.int8_vectorwise_quant(torch.randn((12, 96), generator=made).half())
    held |= {"int8/x.weight": codes, "int8/x.SCB": scales, "int8/x.weight_format": torch.tensor(0, dtype=torch.uint8)}
    held["int8/weight"] = int8_vectorwise_dequant(codes, scales)
    return held


if __name__ == "__main__":
    made_by = f"bitsandbytes {bnb.__version__}, torch {torch.__version__}"
    record("bitsandbytes", made_by, {name: of(case) for name, case in bitsandbytes().items()})
    save_file(stored(), RECORDED / "bitsandbytes.safetensors")
