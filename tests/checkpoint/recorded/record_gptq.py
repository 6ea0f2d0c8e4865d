"""Record what GPTQModel makes of the cases of packed_cases.py, on a CPU: gptq.json; and layers as it packs them, in
both versions: gptq.safetensors.

    python -m venv env && env/bin/pip install torch setuptools && env/bin/pip install --no-build-isolation GPTQModel
    env/bin/python tests/checkpoint/recorded/record_gptq.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ |= {"GPTQMODEL_DISABLE_PACK_EXT": "1", "CUDA_VISIBLE_DEVICES": ""}

import gptqmodel
import numpy as np
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[1]))

from packed_cases import RECORDED, Case, digest, gptq, one_nan, record


def layer(bits: int, group: int, cols: int, rows: int) -> TorchLinear:
    about = {"bits": bits, "group_size": group, "sym": False, "desc_act": True}
    return TorchLinear(**about, in_features=cols, out_features=rows, register_buffers=True)


def dequantised(module: TorchLinear) -> torch.Tensor:
    """[out, in]."""
    module.optimized = True  # not by torch.compile
    module.post_init()
    module.eval()
    return module.dequantize_weight().T.contiguous()


def of(case: Case) -> str:
    about = case.config["quantization_config"]
    module = layer(about["bits"], about["group_size"], case.more["in"], case.more["out"])
    for name, (dtype, array) in case.tensors.items():
        tensor = torch.from_numpy(array)
        setattr(module, name.removeprefix("x."), tensor.view(torch.bfloat16) if dtype == "BF16" else tensor)
    if about["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(module, about["bits"], torch.int32)
    weight = dequantised(module)
    dtype = case.tensors["x.scales"][0]
    bits = weight.view({"F16": torch.int16, "BF16": torch.int16, "F32": torch.int32}[dtype]).numpy()
    return digest(one_nan(bits.view(np.uint32 if dtype == "F32" else np.uint16), dtype))


def packed() -> dict[str, torch.Tensor]:
    """A layer of 4 and one of 3 bits, zero points from 0 to all that there are, and its weight."""
    made = torch.Generator().manual_seed(0)
    held = {}
    for bits in (3, 4):
        cols, rows, group = 64, 32, 32
        codes = torch.randint(0, 1 << bits, (rows, cols), generator=made)
        zeros = torch.randint(0, 1 << bits, (rows, cols // group), generator=made).float()
        scales = (torch.rand((rows, cols // group), generator=made) + 0.5).half().float()
        index = torch.arange(cols, dtype=torch.int32) // group
        linear = torch.nn.Linear(cols, rows, bias=False)
        linear.weight.data = (codes - zeros[:, index.long()]) * scales[:, index.long()]
        module = layer(bits, group, cols, rows)
        module.pack_block(linear, scales, zeros, index)
        module.qzero_format(format=2)
        for version in ("gptq_v2", "gptq"):
            if version == "gptq":
                convert_gptq_v2_to_v1_format_module(module, gptqmodel.QuantizeConfig(bits=bits))
            for name in ("qweight", "qzeros", "scales", "g_idx"):
                held[f"{bits}/{version}/x.{name}"] = getattr(module, name).clone()
        held[f"{bits}/weight"] = ((codes - zeros[:, index.long()]) * scales[:, index.long()]).half()
    return held


if __name__ == "__main__":
    made_by = f"GPTQModel {gptqmodel.__version__}, torch {torch.__version__}"
    record("gptq", made_by, {name: of(case) for name, case in gptq().items()})
    save_file(packed(), RECORDED / "gptq.safetensors")
