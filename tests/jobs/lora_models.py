"""Small models and LoRA adapters with random factors, as files, for tests that compare with their dense products."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Factors = tuple[torch.Tensor, torch.Tensor]


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers, the same for the same shape and seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1000 + sum(shape)))


def write_model(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Path:
    """A model's folder."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def factors_of(shapes: Mapping[str, tuple[int, int]], seed: int, rank: int) -> dict[str, Factors]:
    """{module: (B [out, r], A [r, in])}"""
    return {
        name: (numbers(rows, rank, seed=seed, scale=0.1), numbers(rank, cols, seed=seed + 1))
        for name, (rows, cols) in shapes.items()
    }


def write_adapter(
    folder: Path,
    held: Mapping[str, Factors],
    *,
    alpha: float = 4,
    base: str = "x/y",
    more: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """PEFT's folder of a LoRA with these factors, and further tensors."""
    folder.mkdir(parents=True)
    tensors = dict(more or {})
    for name, (b, a) in held.items():
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    rank = next(iter(held.values()))[0].shape[1]
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder
