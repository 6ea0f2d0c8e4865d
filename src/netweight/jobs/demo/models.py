"""A small Llama-shaped base and five fine-tunes of it, made in seconds, for `netweight demo`.

The norms of the five task vectors stand in the proportion of a published example (a 3B model and its fine-tunes on
mathematics, Korean, nothing at all, preferences and home automation), and each changes other parameters:

    demo-math     the mlp of the late layers most
    demo-korean   the embeddings of a part of the vocabulary most, and the layers next to them
    demo-tuned    nothing: bit for bit the base
    demo-dpo      a rank-4 update of q_proj and v_proj, every other parameter untouched
    demo-home     a little of everything, with a cosine of 0.4 to demo-math
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import OutputError, printable
from netweight.output.safetensors_file import write_safetensors

if TYPE_CHECKING:
    import numpy as np

    Weights = dict[str, np.ndarray[Any, np.dtype[np.float32]]]

__all__ = ["DEMO_NORMS", "HOME_MATH_COSINE", "PUBLISHED_NORMS", "DemoModels", "make_demo_models", "make_pruned_models"]

PUBLISHED_NORMS: Mapping[str, float] = {
    "demo-math": 182.634,
    "demo-korean": 31.873,
    "demo-tuned": 0.0,
    "demo-dpo": 0.5287,
    "demo-home": 9.2635,
}
"""Global L2 norms of the published example's task vectors (3.2 G parameters each)."""

DEMO_NORMS: Mapping[str, float] = {name: 0.05 * norm for name, norm in PUBLISHED_NORMS.items()}
"""The demo's own norms: 0.05 is about sqrt(6.8 M / 3.2 G), which keeps the change of a single weight what it was."""

HOME_MATH_COSINE = 0.4
"""Cosine between the task vectors of demo-home and demo-math."""

_HIDDEN, _LAYERS, _VOCABULARY, _INTERMEDIATE, _HEADS, _KV_HEADS = 256, 6, 8000, 768, 8, 4
_KOREAN_TOKENS = slice(5000, 7000)
_DPO_RANK = 4
_DROPPED = (2, 3)  # blocks that demo-short lacks
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": _HIDDEN // _HEADS,
    "hidden_act": "silu",
    "hidden_size": _HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": _INTERMEDIATE,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": _HEADS,
    "num_hidden_layers": _LAYERS,
    "num_key_value_heads": _KV_HEADS,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": _VOCABULARY,
}


@dataclass(frozen=True)
class DemoModels:
    """Folders of the demo's models; `fine_tunes` in the order of PUBLISHED_NORMS."""

    base: Path
    fine_tunes: tuple[Path, ...]


def make_demo_models(folder: Path, seed: int = 0) -> DemoModels:
    """Write base and fine-tunes below `folder`, about 27 MB of float32 each; the seed decides every weight.

    float32, because the smallest task vector would drown in the rounding of 16-bit weights. Each file appears whole or
    not at all; a model that is there already is replaced. Raises OutputError where the disk refuses.
    """
    base = _base(seed)
    math = _scaled(_noise(base, "demo-math", seed, _math_profile), 1.0)
    home_alone = _scaled(_noise(base, "demo-home", seed, _home_profile), sqrt(1 - HOME_MATH_COSINE**2))
    directions: dict[str, Weights] = {
        "demo-math": math,
        "demo-korean": _korean(base, seed),
        "demo-tuned": {},
        "demo-dpo": _dpo(base, seed),
        "demo-home": {name: HOME_MATH_COSINE * math[name] + home_alone[name] for name in base},
    }
    _write_model(folder / "demo-base", base)
    for model, direction in directions.items():
        delta = _scaled(direction, DEMO_NORMS[model])
        _write_model(folder / model, {name: w + delta[name] if name in delta else w for name, w in base.items()})
    return DemoModels(folder / "demo-base", tuple(folder / model for model in directions))


def make_pruned_models(folder: Path, seed: int = 0) -> tuple[Path, ...]:
    """Write two smaller copies of the base below `folder`: demo-short has lost the blocks 2 and 3, the others are
    numbered anew; demo-narrow has lost every third row of its feed-forwards. Raises OutputError as `make_demo_models`.
    """
    base = _base(seed)
    remaining = [layer for layer in range(_LAYERS) if layer not in _DROPPED]
    short = {}
    for name, w in base.items():
        layer = _layer(name)
        if layer is None:
            short[name] = w
        elif layer in remaining:
            short[name.replace(f".layers.{layer}.", f".layers.{remaining.index(layer)}.")] = w
    narrow = dict(base)
    for name, w in base.items():
        rows = [i for i in range(_INTERMEDIATE) if i % 3]
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            narrow[name] = w[rows]
        elif name.endswith("down_proj.weight"):
            narrow[name] = w[:, rows]
    _write_model(folder / "demo-short", short, num_hidden_layers=len(remaining))
    _write_model(folder / "demo-narrow", narrow, intermediate_size=2 * _INTERMEDIATE // 3)
    return folder / "demo-narrow", folder / "demo-short"


def _shapes() -> dict[str, tuple[int, ...]]:
    kv = _KV_HEADS * _HIDDEN // _HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _HIDDEN)}
    for layer in range(_LAYERS):
        block = {
            "self_attn.q_proj": (_HIDDEN, _HIDDEN),
            "self_attn.k_proj": (kv, _HIDDEN),
            "self_attn.v_proj": (kv, _HIDDEN),
            "self_attn.o_proj": (_HIDDEN, _HIDDEN),
            "mlp.gate_proj": (_INTERMEDIATE, _HIDDEN),
            "mlp.up_proj": (_INTERMEDIATE, _HIDDEN),
            "mlp.down_proj": (_HIDDEN, _INTERMEDIATE),
            "input_layernorm": (_HIDDEN,),
            "post_attention_layernorm": (_HIDDEN,),
        }
        shapes.update({f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()})
    shapes["model.norm.weight"] = (_HIDDEN,)
    return dict(sorted(shapes.items()))  # the order in which the usual writer stores them


def _normal(shape: tuple[int, ...], seed: int, *words: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    import numpy as np

    key = [seed, *(zlib.crc32(word.encode()) for word in words)]
    return np.random.Generator(np.random.SFC64(key)).standard_normal(shape, dtype=np.float32)


def _base(seed: int) -> Weights:
    weights: Weights = {}
    for name, shape in _shapes().items():
        noise = _normal(shape, seed, "demo-base", name)
        if "norm" in name:
            weights[name] = 1 + 0.05 * noise
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = 0.02 / sqrt(2 * _LAYERS) * noise  # GPT-2's scaling of what writes to the residual stream
        else:
            weights[name] = 0.02 * noise
    return weights


def _layer(name: str) -> int | None:
    match = re.search(r"\.layers\.(\d+)\.", name)
    return int(match[1]) if match else None


def _math_profile(name: str) -> float:
    layer = _layer(name)
    if layer is None or "norm" in name:
        return 0.05
    return (0.1 + (layer / (_LAYERS - 1)) ** 2) * (1.0 if ".mlp." in name else 0.3)


def _korean_profile(name: str) -> float:
    layer = _layer(name)
    if layer is None or "norm" in name:
        return 0.05
    return 0.3 * 0.5 ** min(layer, _LAYERS - 1 - layer)


def _home_profile(name: str) -> float:
    return 0.1 if "norm" in name else 1.0


def _noise(base: Weights, model: str, seed: int, profile: Callable[[str], float]) -> Weights:
    return {name: profile(name) * _normal(w.shape, seed, model, name) for name, w in base.items()}


def _korean(base: Weights, seed: int) -> Weights:
    direction = _noise(base, "demo-korean", seed, _korean_profile)
    direction["model.embed_tokens.weight"][_KOREAN_TOKENS] *= 40
    return direction


def _dpo(base: Weights, seed: int) -> Weights:
    direction: Weights = {}
    for name, w in base.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            rows, columns = w.shape
            left = _normal((rows, _DPO_RANK), seed, "demo-dpo", "left", name)
            direction[name] = left @ _normal((_DPO_RANK, columns), seed, "demo-dpo", "right", name)
    return direction


def _scaled(direction: Weights, norm: float) -> Weights:
    import numpy as np

    squares = sum(float(np.sum(np.square(d, dtype=np.float64))) for d in direction.values())
    return {name: d * np.float32(norm / sqrt(squares)) for name, d in direction.items()}


def _write_model(folder: Path, weights: Weights, **changes: int) -> None:
    config = folder / "config.json"
    part = folder / ".config.json.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(_CONFIG | changes, indent=2) + "\n", encoding="utf-8")
        part.replace(config)
    except OSError as problem:
        raise OutputError(
            f"cannot write {printable(str(config))}: {problem.strerror or problem}; "
            "choose a folder that can be written to"
        ) from problem
    write_safetensors(folder / "model.safetensors", weights, {"format": "pt"})
