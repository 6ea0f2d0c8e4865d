"""Other weights of the same function: what an owner of a copy may do so that it looks like a model of its own.

Each disguise takes a model and a source of chance and gives a model whose logits are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from folders import Model, network, trunk
from texts import tokens
from torch import Generator, Tensor

__all__ = ["DISGUISES", "difference", "disguised"]

READERS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight", "lm_head.weight")
WRITERS = ("o_proj.weight", "down_proj.weight")  # of the residual stream, by rows


def _scales(count: int, chance: Generator) -> Tensor:
    """Between a half and two."""
    return 2 ** (2 * torch.rand(count, generator=chance) - 1)


def _units(model: Model, chance: Generator) -> Model:
    """The units of each MLP in another order."""
    changed = {}
    for layer in range(model.layers):
        at = trunk(model, layer) + "mlp."
        rows, cols = (("c_proj",), ("c_fc",)) if model.kind == "gpt2" else (("gate_proj", "up_proj"), ("down_proj",))
        order = None
        for leaf in rows:
            w = model.weights[f"{at}{leaf}.weight"]
            order = torch.randperm(len(w), generator=chance) if order is None else order
            changed[f"{at}{leaf}.weight"] = w[order]
        for leaf in cols:
            changed[f"{at}{leaf}.weight"] = model.weights[f"{at}{leaf}.weight"][:, order]
        if model.kind == "gpt2":
            changed[f"{at}c_fc.bias"] = model.weights[f"{at}c_fc.bias"][order]
    return model.with_weights(changed)


def _heads(model: Model, chance: Generator) -> Model:
    """Heads of keys and values in another order with the queries' heads that they serve, and these among themselves."""
    heads, groups, size = model.heads
    each, changed = heads // groups, {}
    for layer in range(model.layers):
        at = trunk(model, layer)
        order = torch.randperm(groups, generator=chance)
        inner = torch.stack([group * each + torch.randperm(each, generator=chance) for group in order]).flatten()
        few, many = ((one[:, None] * size + torch.arange(size)).flatten() for one in (order, inner))
        if model.kind == "gpt2":
            three = torch.cat([many + part * model.hidden for part in range(3)])
            changed[f"{at}attn.c_attn.weight"] = model.weights[f"{at}attn.c_attn.weight"][:, three]
            changed[f"{at}attn.c_attn.bias"] = model.weights[f"{at}attn.c_attn.bias"][three]
            changed[f"{at}attn.c_proj.weight"] = model.weights[f"{at}attn.c_proj.weight"][many]
        else:
            for leaf, rows in (("q", many), ("k", few), ("v", few)):
                changed[f"{at}self_attn.{leaf}_proj.weight"] = model.weights[f"{at}self_attn.{leaf}_proj.weight"][rows]
            changed[f"{at}self_attn.o_proj.weight"] = model.weights[f"{at}self_attn.o_proj.weight"][:, many]
    return model.with_weights(changed)


def _residual(model: Model, chance: Generator) -> Model:
    """The dimensions of the residual stream in another order."""
    order = torch.randperm(model.hidden, generator=chance)
    if model.kind != "gpt2":
        return model.with_weights(
            {n: w[order] if w.dim() == 1 or n.endswith(WRITERS) else w[:, order] for n, w in model.weights.items()}
        )
    inside = ("c_attn.weight", "c_fc.weight")  # [in, out]: they read the stream by rows
    kept = ("c_attn.bias", "c_fc.bias")
    return model.with_weights(
        {n: w[order] if n.endswith(inside) else w[..., order] for n, w in model.weights.items() if not n.endswith(kept)}
    )


def _signs(model: Model, chance: Generator) -> Model:
    """Dimensions of the residual stream turned round; a LayerNorm would not stand it."""
    signs = torch.randint(2, (model.hidden,), generator=chance) * 2.0 - 1
    return model.with_weights(
        {n: w * (signs[:, None] if n.endswith(WRITERS) else signs) for n, w in model.weights.items() if w.dim() > 1}
    )


def _scaled_units(model: Model, chance: Generator) -> Model:
    """Rows of up larger, columns of down smaller."""
    changed = {}
    for layer in range(model.layers):
        up, down = (f"{trunk(model, layer)}mlp.{leaf}_proj.weight" for leaf in ("up", "down"))
        scale = _scales(len(model.weights[up]), chance)
        changed |= {up: model.weights[up] * scale[:, None], down: model.weights[down] / scale}
    return model.with_weights(changed)


def _scaled_heads(model: Model, chance: Generator) -> Model:
    """Queries larger and keys smaller, by the pairs that turn together; values larger and the output smaller."""
    heads, groups, size = model.heads
    each, changed = heads // groups, {}
    for layer in range(model.layers):
        at = trunk(model, layer)
        if model.kind == "gpt2":
            pair, value = _scales(model.hidden, chance), _scales(model.hidden, chance)
            scale = torch.cat((pair, 1 / pair, value))
            changed |= {f"{at}attn.c_attn.{leaf}": model.weights[f"{at}attn.c_attn.{leaf}"] * scale for leaf in
                        ("weight", "bias")}  # fmt: skip
            changed[f"{at}attn.c_proj.weight"] = model.weights[f"{at}attn.c_proj.weight"] / value[:, None]
            continue
        pair = _scales(groups * size // 2, chance).reshape(groups, 1, size // 2).expand(-1, 2, -1).reshape(groups, size)
        value = _scales(groups * size, chance).reshape(groups, size)
        wide = [one.repeat_interleave(each, 0).flatten() for one in (pair, value)]
        for leaf, scale in (("q", wide[0]), ("k", 1 / pair.flatten()), ("v", value.flatten())):
            name = f"{at}self_attn.{leaf}_proj.weight"
            changed[name] = model.weights[name] * scale[:, None]
        changed[f"{at}self_attn.o_proj.weight"] = model.weights[f"{at}self_attn.o_proj.weight"] / wide[1]
    return model.with_weights(changed)


def _folded(model: Model, chance: Generator) -> Model:  # noqa: ARG001
    """Gains of norms, and of a LayerNorm its biases, in the weights that follow; a tied head's norm stays."""
    changed = {}
    for layer in range(model.layers):
        at = trunk(model, layer)
        if model.kind == "gpt2":
            for norm, leaf in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
                gain, bias = (model.weights[f"{at}{norm}.{part}"] for part in ("weight", "bias"))
                w = model.weights[f"{at}{leaf}.weight"]
                changed[f"{at}{leaf}.weight"] = gain[:, None] * w
                changed[f"{at}{leaf}.bias"] = model.weights[f"{at}{leaf}.bias"] + bias @ w
                changed |= {f"{at}{norm}.weight": torch.ones_like(gain), f"{at}{norm}.bias": torch.zeros_like(bias)}
            continue
        for norm, leaves in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            gain = model.weights[f"{at}{norm}.weight"]
            changed |= {f"{at}{leaf}.weight": model.weights[f"{at}{leaf}.weight"] * gain for leaf in leaves}
            changed[f"{at}{norm}.weight"] = torch.ones_like(gain)
    if model.kind != "gpt2":
        gain = model.weights["model.norm.weight"]
        changed["lm_head.weight"] = model.weights["lm_head.weight"] * gain
        changed["model.norm.weight"] = torch.ones_like(gain)
    return model.with_weights(changed)


def _orthogonal(size: int, chance: Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(size, size, generator=chance, dtype=torch.float64))
    return q * r.diagonal().sign()


def _rotated(model: Model, chance: Generator) -> Model:
    """The residual stream turned by an orthogonal matrix, gains folded (arXiv 2401.15024)."""
    plain, turn = _folded(model, chance), _orthogonal(model.hidden, chance)
    changed = {}
    for name, w in plain.weights.items():
        if name.endswith((*READERS, "embed_tokens.weight")):
            changed[name] = (w.double() @ turn).float()
        elif name.endswith(WRITERS):
            changed[name] = (turn.T @ w.double()).float()
    return plain.with_weights(changed)


DISGUISES: dict[str, Callable[[Model, Generator], Model]] = {
    "units": _units,
    "heads": _heads,
    "residual": _residual,
    "signs": _signs,
    "scaled_units": _scaled_units,
    "scaled_heads": _scaled_heads,
    "folded": _folded,
    "rotated": _rotated,
}


def disguised(model: Model, names: list[str], seed: int) -> Model:
    """With these disguises, one over the other."""
    chance = torch.Generator().manual_seed(seed)
    for name in names:
        model = DISGUISES[name](model, chance)
    return model


@torch.no_grad()
def difference(*models: Model) -> float:
    """The largest of the logits of neighbours on some bytes of code."""
    batch = tokens("code")[: 4 * 64].reshape(4, 64)
    said = [network(model).eval()(input_ids=batch, use_cache=False).logits for model in models]
    return max(float((a - b).abs().max()) for a, b in pairwise(said))
