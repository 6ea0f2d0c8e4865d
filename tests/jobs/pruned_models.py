"""Small Llama-shaped models with data, and what each pruning tool makes of them, in its own layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from netweight.jobs.structure.many import structure_many

HIDDEN, WIDE, HEADS, KV, HEAD, WORDS = 32, 48, 4, 2, 8, 64
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "vocab_size": WORDS,
    "tie_word_embeddings": False,
}
ATTENTION = 2 * HIDDEN * HIDDEN + 2 * KV * HEAD * HIDDEN
MLP = 3 * HIDDEN * WIDE
LAYER = ATTENTION + MLP + 2 * HIDDEN
OUTSIDE = 2 * WORDS * HIDDEN + HIDDEN
Arrays = dict[str, np.ndarray[Any, Any]]


def llama(layers: int, seed: int = 0) -> Arrays:
    """Random weights; norms near 1 in every layer, as in trained models."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray[Any, Any]:
        return rng.normal(0, 0.02, shape).astype(np.float32)

    arrays = {"model.embed_tokens.weight": draw(WORDS, HIDDEN)}
    for i in range(layers):
        at = f"model.layers.{i}."
        arrays |= {at + f"self_attn.{x}_proj.weight": draw(HIDDEN, HIDDEN) for x in "qo"}
        arrays |= {at + f"self_attn.{x}_proj.weight": draw(KV * HEAD, HIDDEN) for x in "kv"}
        arrays |= {at + f"mlp.{x}_proj.weight": draw(WIDE, HIDDEN) for x in ("gate", "up")}
        arrays[at + "mlp.down_proj.weight"] = draw(HIDDEN, WIDE)
        arrays |= {at + f"{x}_layernorm.weight": 1 + draw(HIDDEN) for x in ("input", "post_attention")}
    return arrays | {"model.norm.weight": 1 + draw(HIDDEN), "lm_head.weight": draw(WORDS, HIDDEN)}


def save(folder: Path, arrays: Mapping[str, Any], layers: int | None, **more: Any) -> Path:
    """A folder as `save_pretrained` leaves it; without a config where `layers` is None."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(arrays), folder / "model.safetensors", metadata={"format": "pt"})
    if layers is not None:
        config = CONFIG | {"num_hidden_layers": layers} | more
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def renumbered(arrays: Mapping[str, Any], keep: Sequence[int]) -> Arrays:
    """The layers `keep`, in that order, counted from 0."""
    found = {name: array for name, array in arrays.items() if ".layers." not in name}
    for new, old in enumerate(keep):
        start = f"model.layers.{old}."
        found |= {
            f"model.layers.{new}.{name.removeprefix(start)}": array
            for name, array in arrays.items()
            if name.startswith(start)
        }
    return found


def without(arrays: Mapping[str, Any], layers: int, removed: Iterable[int]) -> Arrays:
    """What ShortGPT leaves: layers gone, the rest renumbered."""
    gone = set(removed)
    return renumbered(arrays, [i for i in range(layers) if i not in gone])


def zeroed(arrays: Mapping[str, Any], share: float) -> Arrays:
    """Magnitude pruning: the smallest elements of each matrix in a block are zero."""
    found = dict(arrays)
    for name, array in arrays.items():
        if ".layers." in name and array.ndim == 2:
            smallest = np.quantile(np.abs(array), share)
            found[name] = np.where(np.abs(array) < smallest, np.float32(0), array)
    return found


def sliced_llama(layers: int, dims: Sequence[Mapping[str, int]], embedding: int) -> dict[str, torch.Tensor]:
    """A SliceGPT state dict with Llama's names: no norm weights, rotations beside each shortcut."""
    tensors = {"model.embed_tokens.weight": torch.zeros(WORDS, embedding)}
    for i, d in zip(range(layers), dims, strict=True):
        at = f"model.layers.{i}."
        tensors |= {
            at + "self_attn.q_proj.weight": torch.zeros(HEADS * HEAD, d["attention_input"]),
            at + "self_attn.k_proj.weight": torch.zeros(KV * HEAD, d["attention_input"]),
            at + "self_attn.v_proj.weight": torch.zeros(KV * HEAD, d["attention_input"]),
            at + "self_attn.o_proj.weight": torch.zeros(d["attention_output"], HEADS * HEAD),
            at + "mlp.gate_proj.weight": torch.zeros(WIDE, d["mlp_input"]),
            at + "mlp.up_proj.weight": torch.zeros(WIDE, d["mlp_input"]),
            at + "mlp.down_proj.weight": torch.zeros(d["mlp_output"], WIDE),
            at + "attn_shortcut_Q": torch.zeros(d["attention_input"], d["attention_output"]),
            at + "mlp_shortcut_Q": torch.zeros(d["mlp_input"], d["mlp_output"]),
        }
    return tensors | {"lm_head.weight": torch.zeros(WORDS, dims[-1]["mlp_output"])}


def slice_json(dims: Sequence[Mapping[str, int]], embedding: int) -> dict[str, Any]:
    """What SliceGPT writes beside its state dict."""
    return {
        "hidden_size": HIDDEN,
        "layers_num": len(dims),
        "do_slice_head": False,
        "parallel_blocks": False,
        "embedding_dimensions": {"0": embedding},
        "attention_input_dimensions": {str(i): d["attention_input"] for i, d in enumerate(dims)},
        "attention_output_dimensions": {str(i): d["attention_output"] for i, d in enumerate(dims)},
        "mlp_input_dimensions": {str(i): d["mlp_input"] for i, d in enumerate(dims)},
        "mlp_output_dimensions": {str(i): d["mlp_output"] for i, d in enumerate(dims)},
        "head_dimension": None,
        "const_dimension": None,
    }


def every_kind(folder: Path, arrays: Mapping[str, Any], layers: int) -> Path:
    """A folder with a model of every kind, in the layouts that the tools leave, and results without a model."""
    save(folder / "Magnitude_2000" / "pruned_model", zeroed(arrays, 0.5), layers)
    save(folder / "ShortGPT_remove_2", without(arrays, layers, [1, 4]), layers)
    (folder / "Wanda_bin").mkdir()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(tensors, folder / "Wanda_bin" / "pruned_model.bin")
    dims = [
        {"attention_input": 24, "attention_output": 24, "mlp_input": 24, "mlp_output": 24 if i < layers - 1 else HIDDEN}
        for i in range(layers)
    ]
    (folder / "SliceGPT_2000").mkdir()
    torch.save(sliced_llama(layers, dims, 24), folder / "SliceGPT_2000" / "Llama_0.25.pt")
    (folder / "SliceGPT_2000" / "Llama_0.25.json").write_text(json.dumps(slice_json(dims, 24)))
    (folder / "only_results").mkdir()
    (folder / "only_results" / "eval.json").write_text("{}")
    return folder


LAYERS = 6  # of the models in the tests of folders
GATHERED = [
    "batch_analysis_results.json", "models_summary.csv", "models_summary.json", "parameters_by_part.png",
    "reduction_by_layer.png", "structure.csv", "structure.parquet",
]  # fmt: skip


def run(models: Path, base: Path | None, out: Path, **more: Any) -> dict[str, Any]:
    """What batch_analysis_results.json holds, by name."""
    structure_many(models, base, out, **more)
    found = json.loads((out / "batch_analysis_results.json").read_text())
    return {row["name"]: row for row in found["results"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
