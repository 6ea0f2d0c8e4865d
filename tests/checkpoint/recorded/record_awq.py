"""Record what AutoAWQ makes of the cases of packed_cases.py, on a CPU: awq.json; and a layer as it packs one, in the
versions gemm and gemv: awq.safetensors. The argument is the unpacked source of autoawq: its package cannot be imported
beside current releases of transformers, its packing can.

    python -m venv env && env/bin/pip install torch safetensors
    env/bin/pip download --no-deps --no-binary :all: autoawq==0.2.9 && tar xf autoawq-0.2.9.tar.gz
    env/bin/python tests/checkpoint/recorded/record_awq.py autoawq-0.2.9
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[1]))

from packed_cases import RECORDED, Case, awq, digest, one_nan, record

SOURCE = Path(sys.argv[1]).resolve()
for name in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):  # without what their __init__ import
    module = types.ModuleType(name)
    module.__path__ = [str(SOURCE / name.replace(".", "/"))]
    sys.modules[name] = module
sys.modules["awq.utils.utils"] = types.SimpleNamespace(get_best_device=lambda: "cpu")  # imports transformers
dequantize_gemm = importlib.import_module("awq.utils.packing_utils").dequantize_gemm


def of(case: Case) -> str:
    held = {}
    for name, (dtype, array) in case.tensors.items():
        tensor = torch.from_numpy(array)
        held[name.removeprefix("x.")] = tensor.view(torch.bfloat16) if dtype == "BF16" else tensor
    weight = dequantize_gemm(held["qweight"], held["qzeros"], held["scales"], 4, case.more["group"])
    bits = weight.T.contiguous().view(torch.int16).numpy().view(np.uint16)
    return digest(one_nan(bits, case.tensors["x.scales"][0]))


def packed() -> dict[str, torch.Tensor]:
    """A layer in both versions, and its weight as dequantize_gemm gives it."""
    made = torch.Generator().manual_seed(0)
    cols, rows, group = 192, 32, 64
    codes = torch.randint(0, 16, (rows, cols), generator=made)
    zeros = torch.randint(0, 16, (rows, cols // group), generator=made)
    scales = (torch.rand((rows, cols // group), generator=made) + 0.5).half()
    linear = torch.nn.Linear(cols, rows, bias=False)
    spread = torch.arange(cols) // group
    linear.weight.data = (codes - zeros[:, spread]) * scales.float()[:, spread]
    gemm = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM.from_linear(
        linear, 4, group, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
    )
    gemv = importlib.import_module("awq.modules.linear.gemv").WQLinear_GEMV.from_linear(
        linear, 4, group, scales=scales, zeros=zeros
    )
    held = {}
    for version, layer in (("gemm", gemm), ("gemv", gemv)):
        for part in ("qweight", "qzeros", "scales"):
            held[f"{version}/x.{part}"] = getattr(layer, part).clone()
    weight = dequantize_gemm(gemm.qweight, gemm.qzeros, gemm.scales, 4, group)
    held["weight"] = weight.T.contiguous()
    assert torch.equal(held["weight"], ((codes - zeros[:, spread]) * scales[:, spread]))
    return held


if __name__ == "__main__":
    made_by = f"{SOURCE.name}, torch {torch.__version__}"
    record("awq", made_by, {name: of(case) for name, case in awq().items()})
    save_file(packed(), RECORDED / "awq.safetensors")
