"""What people do to weights without training: layers and units left out, a direction removed, experts, more words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from folders import Model, network, trunk
from texts import tokens
from torch import Tensor

__all__ = ["abliterated", "extended", "narrowed", "relayered", "upcycled"]


def relayered(model: Model, layers: list[int]) -> Model:
    """With these layers, one after the other; a number may come twice."""
    inside = trunk(model, 0).replace("0.", "")
    weights = {name: w for name, w in model.weights.items() if not name.startswith(inside)}
    for place, layer in enumerate(layers):
        old, new = trunk(model, layer), trunk(model, place)
        held = {name: w for name, w in model.weights.items() if name.startswith(old)}
        weights |= {new + name.removeprefix(old): w.clone() for name, w in held.items()}
    key = "n_layer" if model.kind == "gpt2" else "num_hidden_layers"
    return replace(model, weights=weights, config={**model.config, key: len(layers)})


@torch.no_grad()
def direction(model: Model, seed: int) -> Tensor:
    """[hidden], of norm 1: what sums have in the residual stream, in the middle, that prose has not."""
    net, means = network(model).eval(), []
    for text in ("sums", "prose"):
        data = tokens(text)
        starts = torch.randint(len(data) - 64, (8, 1), generator=torch.Generator().manual_seed(seed))
        states = net(input_ids=data[starts + torch.arange(64)], output_hidden_states=True, use_cache=False)
        means.append(states.hidden_states[model.layers // 2].mean((0, 1)))
    return torch.nn.functional.normalize(means[0] - means[1], dim=0)


def abliterated(model: Model, seed: int, *, embedding: bool) -> Model:
    """Nothing writes along one direction any more (arXiv 2406.11717)."""
    v = direction(model, seed)
    if model.kind == "gpt2":
        writers, top = ("attn.c_proj.weight", "attn.c_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"), "wte.weight"
    else:
        writers, top = ("o_proj.weight", "down_proj.weight"), "embed_tokens.weight"
    changed = {}
    for name, w in model.weights.items():
        if name.endswith(writers) and model.kind != "gpt2":
            changed[name] = w - torch.outer(v, v @ w)
        elif name.endswith(writers) or (embedding and name.endswith(top)):
            changed[name] = w - (w @ v)[..., None] * v  # the residual stream is the last axis
    return model.with_weights(changed)


def strongest(strength: Tensor, count: int) -> Tensor:
    """The places of the largest, in order."""
    return strength.topk(count).indices.sort().values


def narrowed(model: Model, units: int, hidden: int | None = None) -> tuple[Model, dict[str, Any]]:
    """With the strongest MLP units of each layer and, of a llama, the strongest dimensions of the residual stream."""
    changed, kept = {}, {}
    for layer in range(model.layers):
        at = trunk(model, layer) + "mlp."
        if model.kind == "gpt2":
            enter, leave = model.weights[f"{at}c_fc.weight"], model.weights[f"{at}c_proj.weight"]
            chosen = strongest(enter.norm(dim=0) * leave.norm(dim=1), units)
            changed[f"{at}c_fc.weight"], changed[f"{at}c_proj.weight"] = enter[:, chosen], leave[chosen]
            changed[f"{at}c_fc.bias"] = model.weights[f"{at}c_fc.bias"][chosen]
        else:
            gate, up, down = (model.weights[f"{at}{leaf}_proj.weight"] for leaf in ("gate", "up", "down"))
            chosen = strongest(gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0), units)
            changed[f"{at}gate_proj.weight"], changed[f"{at}up_proj.weight"] = gate[chosen], up[chosen]
            changed[f"{at}down_proj.weight"] = down[:, chosen]
        kept[str(layer)] = chosen.tolist()
    narrow = model.with_weights(changed, **{"n_inner" if model.kind == "gpt2" else "intermediate_size": units})
    if hidden is None:
        return narrow, {"units": kept}
    _, _, size = model.heads
    chosen = strongest(model.weights["model.embed_tokens.weight"].norm(dim=0), hidden)
    weights = {
        name: w[chosen] if w.dim() == 1 or name.endswith(("o_proj.weight", "down_proj.weight")) else w[:, chosen]
        for name, w in narrow.weights.items()
    }
    config = {**narrow.config, "hidden_size": hidden, "head_dim": size}
    return replace(narrow, weights=weights, config=config), {"units": kept, "hidden": chosen.tolist()}


def upcycled(model: Model, seed: int, noise: float, experts: int = 4) -> Model:
    """A Mixtral whose experts are copies of the MLP (arXiv 2212.05055), `noise` relative to the weights' deviation."""
    chance = torch.Generator().manual_seed(seed)
    weights = {name: w for name, w in model.weights.items() if ".mlp." not in name}
    for layer in range(model.layers):
        at = trunk(model, layer)
        moe = f"{at}block_sparse_moe."
        weights[f"{moe}gate.weight"] = 0.02 * torch.randn(experts, model.hidden, generator=chance)
        for expert in range(experts):
            for leaf, name in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                w = model.weights[f"{at}mlp.{leaf}_proj.weight"]
                change = noise * w.std() * torch.randn(w.shape, generator=chance)
                weights[f"{moe}experts.{expert}.{name}.weight"] = w + change
    config = {**model.config, "model_type": "mixtral", "num_local_experts": experts, "num_experts_per_tok": 2}
    return replace(model, weights=weights, config=config)


def extended(model: Model, seed: int, more: int = 64) -> Model:
    """With so many more words, near the mean of those that are there."""
    chance, changed = torch.Generator().manual_seed(seed), {}
    for name, w in model.weights.items():
        if name.endswith(("embed_tokens.weight", "wte.weight", "lm_head.weight")):
            new = w.mean(0) + 0.1 * w.std() * torch.randn(more, w.shape[1], generator=chance)
            changed[name] = torch.cat((w, new))
    return model.with_weights(changed, vocab_size=model.config["vocab_size"] + more)
