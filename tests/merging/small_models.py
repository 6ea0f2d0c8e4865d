"""Small models for merging: a base and three fine-tunes of several architectures, the same for everyone who makes them.

`benchmarks/mergekit/record.py` gives them to mergekit, and the tests make them again; so only numpy is needed here.

    llama       3 blocks, untied; `model.norm.weight` is the same in all four models, block 1's k_proj in base and b,
                and half of c's weights are the base's
    llama-bf16  one block in bfloat16
    llama-f64   one block in float64 whose fine-tunes differ by about 1e-8 from the base
    llama-far   one block in float64 whose fine-tunes differ as much from the base as two random models
    llama-more  one block, a tensor that transformers does not know and a rotary buffer
    gpt2        2 blocks, fused c_attn, biases, tied, named as transformers writes it
    mixtral     2 blocks with two experts
    random      one large embedding, for the moments of random methods; its base is zero
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]

MODELS = ("base", "a", "b", "c")
ITEM_TYPES = {"F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class Family:
    """Names and shapes of one architecture; `change` is the scale of a fine-tune's differences."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    config: Mapping[str, Any]
    dtype: str = "F32"
    change: float = 2e-3

    def models(self) -> dict[str, Weights]:
        """Every model's weights: float64 for F64, else float32 (for BF16 rounded to what bfloat16 holds)."""
        return {model: self._weights(model) for model in MODELS}

    def _weights(self, model: str) -> Weights:
        made = {name: self._weight(model, name, shape) for name, shape in self.shapes.items()}
        if self.dtype == "BF16":
            return {name: from_bf16(to_bf16(w)) for name, w in made.items()}
        return {name: w.astype(ITEM_TYPES[self.dtype]) for name, w in made.items()}

    def _weight(self, model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        base = self._normals("base", name, shape) * 0.02
        if "norm" in name or "ln_" in name:
            base += 1.0
        if self.name == "random":
            base *= 0.0
        same = self.name == "llama" and (
            name == "model.norm.weight" or (model == "b" and name == "model.layers.1.self_attn.k_proj.weight")
        )
        if model == "base" or same or name.endswith("inv_freq"):
            return base
        scale = self.change * {"a": 1.0, "b": 0.4, "c": 2.5}[model]
        # half of every change goes one way, as in fine-tunes of one kind
        change = scale * (0.7 * self._normals(model, name, shape) + 0.7 * self._normals("common", name, shape))
        if self.name == "llama" and model == "c":
            change *= self._normals("where", name, shape) > 0
        return base + change

    def _normals(self, model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        seed = [zlib.crc32(text.encode()) for text in (self.name, model, name)]
        return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)

    def write(self, folder: Path) -> None:
        """Write the four models below `folder`, each as a Hugging Face folder."""
        for model, weights in self.models().items():
            (folder / model).mkdir(parents=True, exist_ok=True)
            (folder / model / "config.json").write_text(json.dumps(dict(self.config), indent=1) + "\n")
            write_safetensors(folder / model / "model.safetensors", weights, self.dtype)


def write_safetensors(path: Path, weights: Weights, dtype: str) -> None:
    """Tensors of one element type, and booleans."""
    blobs = {name: (to_bf16(w) if dtype == "BF16" and w.dtype != bool else w).tobytes() for name, w in weights.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, blob in blobs.items():
        shape = list(weights[name].shape)
        own = "BOOL" if weights[name].dtype == bool else dtype
        header[name] = {"dtype": own, "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs.values()))


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Finite numbers as bfloat16 bits, uint16, rounded half to even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def llama_shapes(layers: int, hidden: int = 16, vocabulary: int = 16, intermediate: int = 20) -> dict[str, Any]:
    block = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, intermediate),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "post_attention_layernorm": (hidden,),
        "self_attn.k_proj": (hidden // 2, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.v_proj": (hidden // 2, hidden),
    }
    return {
        "lm_head.weight": (vocabulary, hidden),
        "model.embed_tokens.weight": (vocabulary, hidden),
        **{f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()},
        "model.norm.weight": (hidden,),
    }


def llama_config(layers: int, dtype: str, hidden: int = 16, vocabulary: int = 16, intermediate: int = 20) -> Any:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }


def gpt2_shapes(layers: int, hidden: int = 8, vocabulary: int = 24, positions: int = 16) -> dict[str, Any]:
    block = {
        "ln_1.weight": (hidden,),
        "ln_1.bias": (hidden,),
        "attn.c_attn.weight": (hidden, 3 * hidden),
        "attn.c_attn.bias": (3 * hidden,),
        "attn.c_proj.weight": (hidden, hidden),
        "attn.c_proj.bias": (hidden,),
        "ln_2.weight": (hidden,),
        "ln_2.bias": (hidden,),
        "mlp.c_fc.weight": (hidden, 4 * hidden),
        "mlp.c_fc.bias": (4 * hidden,),
        "mlp.c_proj.weight": (4 * hidden, hidden),
        "mlp.c_proj.bias": (hidden,),
    }
    return {
        "transformer.wte.weight": (vocabulary, hidden),
        "transformer.wpe.weight": (positions, hidden),
        **{f"transformer.h.{i}.{name}": shape for i in range(layers) for name, shape in block.items()},
        "transformer.ln_f.weight": (hidden,),
        "transformer.ln_f.bias": (hidden,),
    }


GPT2_CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 8,
    "n_head": 2,
    "n_layer": 2,
    "n_positions": 16,
    "vocab_size": 24,
    "torch_dtype": "float32",
}


def mixtral_shapes(layers: int, hidden: int = 8, experts: int = 2, vocabulary: int = 16) -> dict[str, Any]:
    block: dict[str, Any] = {"block_sparse_moe.gate": (experts, hidden)}
    for expert in range(experts):
        sides = {"w1": (12, hidden), "w2": (hidden, 12), "w3": (12, hidden)}
        block |= {f"block_sparse_moe.experts.{expert}.{name}": shape for name, shape in sides.items()}
    block |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    block |= {f"self_attn.{name}_proj": (hidden if name in "qo" else hidden // 2, hidden) for name in "kqvo"}
    return {
        "lm_head.weight": (vocabulary, hidden),
        "model.embed_tokens.weight": (vocabulary, hidden),
        **{f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()},
        "model.norm.weight": (hidden,),
    }


MIXTRAL_CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "vocab_size": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}

MORE = {"model.layers.0.extra.weight": (6, 16), "model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}
LARGE = {"hidden": 64, "vocabulary": 2048, "intermediate": 32}

FAMILIES = {
    family.name: family
    for family in (
        Family("llama", llama_shapes(3), llama_config(3, "float32")),
        Family("llama-bf16", llama_shapes(1), llama_config(1, "bfloat16"), "BF16"),
        Family("llama-f64", llama_shapes(1), llama_config(1, "float64"), "F64", change=2e-8),
        Family("llama-far", llama_shapes(1), llama_config(1, "float64"), "F64", change=2e-2),
        Family("llama-more", llama_shapes(1) | MORE, llama_config(1, "float32")),
        Family("gpt2", gpt2_shapes(2), GPT2_CONFIG),
        Family("mixtral", mixtral_shapes(2), MIXTRAL_CONFIG),
        Family("random", llama_shapes(1, **LARGE), llama_config(1, "float32", **LARGE)),
    )
}


def moments(merged: np.ndarray, fine_tunes: list[np.ndarray]) -> dict[str, float]:
    """What one random merge of the family `random` (base zero) shows, whatever numbers were drawn.

    zeros: the share of elements that are 0; mean, square: of the merged elements by those of the first fine-tune;
    slope_i: the least-squares slope of the merged elements over fine-tune i; low, high: the share of non-zeros among
    the tenth of each row with the smallest and with the largest elements of fine-tune 0.
    """
    first = fine_tunes[0].astype(np.float64)
    order = np.argsort(np.abs(first), axis=1)
    tenth = first.shape[1] // 10
    nonzero = np.take_along_axis(merged != 0, order, axis=1)
    found = {
        "zeros": float(np.mean(merged == 0)),
        "square": float(np.mean(merged**2) / np.mean(first**2)),
        "low": float(np.mean(nonzero[:, :tenth])),
        "high": float(np.mean(nonzero[:, -tenth:])),
    }
    sides = np.stack([w.astype(np.float64).ravel() for w in fine_tunes], axis=1)
    slopes = np.linalg.lstsq(sides, merged.ravel(), rcond=None)[0]
    return found | {f"slope_{i}": float(slope) for i, slope in enumerate(slopes)}
