"""Training: bases, fine-tunes of several kinds, and low-rank adapters."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from folders import CLASSES, Model, network, weights_of
from texts import tokens
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LINEARS", "adapted", "merged", "moved", "new_model", "preferred", "tuned"]

BATCH, LENGTH = 16, 64
LLAMA = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 256, "n_embd": 128, "n_inner": 512, "n_layer": 6, "n_head": 4,
    "n_positions": 128, "activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
LINEARS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
}
FEW = {"llama": ("q_proj", "v_proj"), "gpt2": ("c_attn",)}


def new_model(kind: str, seed: int) -> Model:
    """Without training."""
    shape = {"llama": LLAMA, "gpt2": GPT2}[kind]
    config_class, model_class = CLASSES[kind]
    torch.manual_seed(seed)
    net = model_class(config_class(**deepcopy(shape)))
    return Model(deepcopy(shape), weights_of(net))


def rows_of(text: str, seed: int) -> Callable[[], Tensor]:
    """int64 [BATCH, LENGTH] at each call, places drawn at random."""
    data, chance = tokens(text), torch.Generator().manual_seed(seed)

    def rows() -> Tensor:
        starts = torch.randint(len(data) - LENGTH, (BATCH, 1), generator=chance)
        return data[starts + torch.arange(LENGTH)]

    return rows


def optimised(net: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> float:
    """AdamW with warm-up and a cosine; the mean loss of the last tenth of the steps."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    warm, last = max(1, steps // 12), []
    net.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = (
            rate * min(1, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        )
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step >= 0.9 * steps - 1:
            last.append(value.item())
    return round(sum(last) / len(last), 4)


def tuned(model: Model, text: str, steps: int, rate: float, seed: int, only: str = "") -> tuple[Model, float]:
    """(The model trained on; its last loss). `only`: attention, or the last two layers; the rest stays bit for bit."""
    torch.manual_seed(seed)
    net, rows = network(model), rows_of(text, seed)
    last = [f".{model.layers - 2}.", f".{model.layers - 1}."]
    for name, parameter in net.named_parameters():
        attention = "self_attn." in name or ".attn." in name
        parameter.requires_grad_(not only or (attention if only == "attention" else any(one in name for one in last)))

    def loss() -> Tensor:
        batch = rows()
        return net(input_ids=batch, labels=batch, use_cache=False).loss

    value = optimised(net, loss, steps, rate)
    return replace(model, weights=weights_of(net)), value


def preferred(model: Model, text: str, steps: int, rate: float, seed: int) -> tuple[Model, float]:
    """Direct preference optimisation (arXiv 2305.18290): text before the same text with its bytes shuffled."""
    net, before, rows = network(model), network(model), rows_of(text, seed)
    chance = torch.Generator().manual_seed(seed + 1)

    def likelihood(of: nn.Module, batch: Tensor) -> Tensor:
        said = torch.log_softmax(of(input_ids=batch, use_cache=False).logits[:, :-1], -1)
        return said.gather(-1, batch[:, 1:, None]).sum((1, 2))

    def loss() -> Tensor:
        chosen = rows()[: BATCH // 2]
        rejected = chosen[:, torch.randperm(LENGTH, generator=chance)]
        with torch.no_grad():
            known = likelihood(before, chosen) - likelihood(before, rejected)
        return -functional.logsigmoid(0.1 * (likelihood(net, chosen) - likelihood(net, rejected) - known)).mean()

    value = optimised(net, loss, steps, rate)
    return replace(model, weights=weights_of(net)), value


class Adapted(nn.Module):
    """A linear layer with a product of low rank beside it."""

    def __init__(self, layer: nn.Module, turned: bool, rank: int, alpha: float) -> None:  # noqa: FBT001
        super().__init__()
        rows, cols = layer.weight.shape[::-1] if turned else layer.weight.shape
        self.layer, self.scale = layer, alpha / rank
        self.a = nn.Parameter(torch.randn(rank, cols) / math.sqrt(cols))
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.scale * (x @ self.a.T) @ self.b.T


def adapted(
    model: Model, text: str, steps: int, rate: float, seed: int, rank: int, targets: str
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Any], float]:
    """(A [rank, in] and B [out, rank] by the name of the layer; adapter_config.json; the last loss)."""
    torch.manual_seed(seed)
    net, rows = network(model), rows_of(text, seed)
    net.requires_grad_(requires_grad=False)
    leaves = FEW[model.kind] if targets == "few" else LINEARS[model.kind]
    names = [name for name, _ in net.named_modules() if name.endswith(leaves)]
    turned, alpha = model.kind == "gpt2", 2 * rank
    for name in names:
        where, _, leaf = name.rpartition(".")
        part = net.get_submodule(where)
        setattr(part, leaf, Adapted(getattr(part, leaf), turned, rank, alpha))

    def loss() -> Tensor:
        batch = rows()
        return net(input_ids=batch, labels=batch, use_cache=False).loss

    value = optimised(net, loss, steps, rate)
    factors = {name: (net.get_submodule(name).a.detach(), net.get_submodule(name).b.detach()) for name in names}
    about = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0,
        "bias": "none", "fan_in_fan_out": turned, "inference_mode": True, "use_rslora": False, "use_dora": False,
        "modules_to_save": None, "target_modules": sorted(leaves),
    }  # fmt: skip
    return factors, about, value


def merged(model: Model, factors: dict[str, tuple[Tensor, Tensor]], about: dict[str, Any]) -> Model:
    """With the products in its weights."""
    scale = about["lora_alpha"] / about["r"]
    changed = {}
    for name, (a, b) in factors.items():
        change = scale * b @ a
        changed[f"{name}.weight"] = model.weights[f"{name}.weight"] + (change.T if about["fan_in_fan_out"] else change)
    return model.with_weights(changed)


def moved(model: Model, before: Model) -> float | None:
    """The norm of the difference against that of what was there; None where shapes are others."""
    shapes = [{name: w.shape for name, w in one.weights.items()} for one in (model, before)]
    if shapes[0] != shapes[1]:
        return None
    change = sum(float((w - before.weights[name]).square().sum()) for name, w in model.weights.items())
    norm = sum(float(w.square().sum()) for w in before.weights.values())
    return round(math.sqrt(change / norm), 6)
