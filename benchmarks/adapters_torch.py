"""The cosine of two LoRA adapters as one-off scripts compute it: every product in full, by torch.

python benchmarks/adapters_torch.py ADAPTER ADAPTER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def main(folders: list[str]) -> int:
    held = [load_file(Path(folder, "adapter_model.safetensors")) for folder in folders]
    about = [json.loads(Path(folder, "adapter_config.json").read_text()) for folder in folders]
    sums = torch.zeros(3, dtype=torch.float64)
    for name in held[0]:
        if not name.endswith(".lora_A.weight"):
            continue
        up = name.replace(".lora_A.", ".lora_B.")
        first, second = (
            own["lora_alpha"] / own["r"] * (tensors[up] @ tensors[name])
            for own, tensors in zip(about, held, strict=True)
        )
        sums += torch.stack([(first * first).sum(), (first * second).sum(), (second * second).sum()]).double()
    sys.stdout.write(
        f"norms {sums[0].sqrt():.6g} {sums[2].sqrt():.6g}, cosine {sums[1] / (sums[0] * sums[2]).sqrt():.6f}\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
