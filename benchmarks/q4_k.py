"""A Llama-3-8B-shaped model in bfloat16, of random weights, and the same as GGUF in Q4_K: for formats.py."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from shapes import SHAPES

Array = np.ndarray[Any, Any]
_POOL = 1 << 24
_PIECE = 1 << 19  # numbers that are quantised at a time: they stay in a core's cache
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def q4_k(values: Array) -> Array:
    """Blocks of Q4_K, uint8 [n / 256, 144], of float32 [n]: least squares are left to others, ranges will do."""
    x = values.reshape(-1, 8, 32)
    least = np.minimum(x.min(-1), 0)
    step = (x.max(-1) - least) / np.float32(15)
    scale = (step.max(-1) / np.float32(63)).astype(np.float16)
    offset = (-least.min(-1) / np.float32(63)).astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore"):
        sixths = np.nan_to_num(np.rint(step / scale[:, None].astype(np.float32))).clip(0, 63)
        offs = np.nan_to_num(np.rint(-least / offset[:, None].astype(np.float32))).clip(0, 63)
        one = scale[:, None].astype(np.float32) * sixths
        off = offset[:, None].astype(np.float32) * offs
        codes = np.nan_to_num((x + off[..., None]) * (1 / one)[..., None])
    np.rint(codes, out=codes)
    codes = codes.clip(0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    out = np.empty((len(x), 144), np.uint8)
    out[:, :2], out[:, 2:4] = scale[:, None].view(np.uint8), offset[:, None].view(np.uint8)
    s, m = sixths.astype(np.uint8), offs.astype(np.uint8)
    out[:, 4:8] = s[:, :4] | (s[:, 4:] >> 4 << 6)
    out[:, 8:12] = m[:, :4] | (m[:, 4:] >> 4 << 6)
    out[:, 12:16] = (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    out[:, 16:] = (codes[:, :, 0] | codes[:, :, 1] << 4).reshape(-1, 128)
    return out


def _field(key: str, kind: int, code: str, value: Any) -> bytes:
    held = struct.pack(f"<Q{len(value)}s", len(value), value.encode()) if kind == 8 else struct.pack(code, value)
    return struct.pack(f"<Q{len(key)}sI", len(key), key.encode(), kind) + held


def _in_gguf(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.weight"


def _rows_in_pairs(values: Array, heads: int) -> Array:
    """Rows of each head as GGUF has them: first and second half by turns."""
    rows, cols = values.shape
    return values.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def _values(pool: Array, shape: tuple[int, ...], number: int) -> Array:
    """bfloat16 patterns: as many of the pool, from somewhere on."""
    size = prod(shape)
    start = number * 1_234_567 % _POOL
    return np.resize(np.roll(pool, -start), size).reshape(shape)


def _blocks(patterns: Array) -> Iterator[Array]:
    flat = patterns.reshape(-1)
    for at in range(0, len(flat), _PIECE):
        yield q4_k((flat[at : at + _PIECE].astype(np.uint32) << 16).view(np.float32))


def write_models(base: Path, quantised: Path, layers: int, shape_name: str = "8b") -> None:
    """The folder `base` and the file `quantised`, tensor by tensor."""
    shape = replace(SHAPES[shape_name], layers=layers)
    tensors = shape.tensors()
    base.mkdir(parents=True, exist_ok=True)
    header, at = {}, 0
    for name, dims in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [at, at + 2 * prod(dims)]}
        at += 2 * prod(dims)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    fields = [
        _field("general.architecture", 8, "", "llama"), _field("llama.block_count", 4, "<I", layers),
        _field("llama.embedding_length", 4, "<I", shape.hidden),
        _field("llama.attention.head_count", 4, "<I", shape.heads),
        _field("llama.attention.head_count_kv", 4, "<I", shape.kv_heads),
    ]  # fmt: skip
    infos, offset = [], 0
    for name, dims in tensors.items():
        matrix = len(dims) == 2
        own = _in_gguf(name).encode()
        reversed_dims = dims[::-1]
        infos.append(struct.pack(f"<Q{len(own)}sI{len(dims)}QIQ", len(own), own, len(dims), *reversed_dims,
                                 12 if matrix else 0, offset))  # fmt: skip
        size = prod(dims) // 256 * 144 if matrix else 4 * prod(dims)
        offset += -(-size // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join(fields) + b"".join(infos)
    rng = np.random.default_rng(0)
    pool = ((rng.standard_normal(_POOL, np.float32) * np.float32(0.02)).view(np.uint32) >> 16).astype(np.uint16)
    with (base / "model.safetensors").open("wb") as whole, quantised.open("wb") as small:
        whole.write(struct.pack("<Q", len(text)) + text)
        small.write(head + bytes(-len(head) % 32))
        for number, (name, dims) in enumerate(tensors.items()):
            patterns = _values(pool, dims, number)
            whole.write(patterns.data)
            if len(dims) == 1:
                small.write((patterns.astype(np.uint32) << 16).data)
                continue
            heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.split(".")[-2])
            for block in _blocks(_rows_in_pairs(patterns, heads) if heads else patterns):
                small.write(block.data)
    (base / "config.json").write_text(json.dumps(shape.config()))


if __name__ == "__main__":
    write_models(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
