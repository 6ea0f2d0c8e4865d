"""Few bits for a weight: GGUF as llama.cpp has it, bitsandbytes' NF4 and int8; and what their numbers stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import torch
from folders import NAMES, Model
from gguf.quants import dequantize, quantize
from torch import Tensor

__all__ = ["PACKED", "decoded", "write_gguf"]

BLOCK = 64  # of NF4
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip
LLAMA = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
GPT2 = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip


def _gguf_name(name: str, kind: str) -> str:
    stem, _, end = name.rpartition(".")
    table = GPT2 if kind == "gpt2" else LLAMA
    if stem in table:
        return f"{table[stem]}.{end}"
    layer, _, leaf = stem.removeprefix("transformer.h.").removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{table[leaf]}.{end}"


def _gguf_array(model: Model, name: str) -> np.ndarray:
    """As llama.cpp lays it out: rows of queries and keys in pairs, Conv1D the other way round."""
    w = model.weights[name]
    heads, groups, _ = model.heads
    if model.kind == "gpt2" and w.dim() == 2 and ".h." in name:
        w = w.T
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        count = heads if "q_proj" in name else groups
        w = w.reshape(count, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape)
    return w.contiguous().numpy()


def write_gguf(model: Model, file: Path, kind: str) -> None:
    """`kind`: F16, Q8_0, Q4_0 ...; vectors stay F32, and a head has at least 8 bits, as llama.cpp has it."""
    writer = gguf.GGUFWriter(file, model.kind)
    heads, groups, size = model.heads
    writer.add_name("model")
    writer.add_block_count(model.layers)
    writer.add_context_length(128)
    writer.add_embedding_length(model.hidden)
    writer.add_feed_forward_length(model.config["n_inner" if model.kind == "gpt2" else "intermediate_size"])
    writer.add_head_count(heads)
    if model.kind == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(groups)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_dimension_count(size)
        writer.add_rope_freq_base(10_000.0)
        writer.add_vocab_size(model.config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_tokenizer_model("none")
    for name in model.weights:
        array = _gguf_array(model, name)
        chosen = gguf.GGMLQuantizationType["Q8_0" if name.startswith("lm_head") and kind.startswith("Q") else kind]
        if array.ndim == 1 or name.endswith("wpe.weight"):
            chosen = gguf.GGMLQuantizationType.F32
        writer.add_tensor(_gguf_name(name, model.kind), quantize(array, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrices(model: Model) -> list[str]:
    """What packed formats pack: the matrices inside the layers."""
    return [name for name, w in model.weights.items() if w.dim() == 2 and (".layers." in name or ".h." in name)]


def _four(w: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [elements] and scales [blocks] of NF4."""
    blocks = w.reshape(-1, BLOCK)
    scales = blocks.abs().amax(1)
    nearest = torch.bucketize(blocks / scales[:, None].clamp_min(1e-30), (NF4[1:] + NF4[:-1]) / 2)
    return nearest.flatten(), scales


def nf4(model: Model) -> Model:
    """As bitsandbytes saves it (arXiv 2305.14314)."""
    stored = {}
    for name in _matrices(model):
        w = model.weights[name]
        codes, scales = _four(w)
        state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": NAMES[model.dtype], "shape": list(w.shape)}
        stored[name] = (codes[::2] * 16 + codes[1::2]).to(torch.uint8)[:, None]
        stored[f"{name}.absmax"], stored[f"{name}.quant_map"] = scales, NF4.clone()
        text = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
        stored[f"{name}.quant_state.bitsandbytes__nf4"] = torch.from_numpy(text)
    about = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": False, "bnb_4bit_quant_storage": "uint8",
    }  # fmt: skip
    return _packed(model, stored, about)


def int8(model: Model) -> Model:
    """As bitsandbytes saves it: a scale a row (arXiv 2208.07339)."""
    stored = {}
    for name in _matrices(model):
        w = model.weights[name]
        scales = w.abs().amax(1)
        stored[name] = (w * 127 / scales[:, None]).round().to(torch.int8)
        stored[name.removesuffix("weight") + "SCB"] = scales
        stored[f"{name}_format"] = torch.tensor(0, dtype=torch.uint8)
    return _packed(model, stored, {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True})


def _packed(model: Model, stored: dict[str, Tensor], about: dict[str, object]) -> Model:
    weights = {name: w for name, w in model.weights.items() if name not in stored}
    return replace(model, weights=weights, stored=stored, config={**model.config, "quantization_config": about})


PACKED: dict[str, Callable[[Model], Model]] = {"NF4": nf4, "int8": int8}


def decoded(model: Model, kind: str) -> Model:
    """What is left of the matrices inside the layers once they were of this type, in the dtype of the model."""
    changed = {}
    for name in _matrices(model):
        w = model.weights[name].T if model.kind == "gpt2" else model.weights[name]  # blocks of a Conv1D's columns
        if kind == "NF4":
            codes, scales = _four(w)
            changed[name] = (NF4[codes].reshape(-1, BLOCK) * scales[:, None]).reshape(w.shape)
        elif kind == "int8":
            scales = w.abs().amax(1, keepdim=True)
            changed[name] = (w * 127 / scales).round() * scales / 127
        else:
            chosen = gguf.GGMLQuantizationType[kind]
            packed = quantize(w.contiguous().numpy(), chosen)
            changed[name] = torch.from_numpy(dequantize(packed, chosen).copy())
        if model.kind == "gpt2":
            changed[name] = changed[name].T
    return model.with_weights(changed)
