"""Models for tests of hubs: small ones with values, and shapes as sparse files."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from shapes import Shape

TOKENIZER = '{"model": {"vocab": {}}}'

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write_model(folder: Path, seed: int = 0, *, layers: int = 4, width: int = 512, add: float = 0.0) -> dict:
    """A Llama in two shards, with index, config, tokenizer and what a trainer leaves; its arrays by name."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors = {"model.embed_tokens.weight": random.normal(size=(1000, width))}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        tensors[f"{block}.input_layernorm.weight"] = np.ones(width)
        tensors[f"{block}.mlp.up_proj.weight"] = random.normal(size=(4 * width, width))
        tensors[f"{block}.self_attn.q_proj.weight"] = random.normal(size=(width, width))
    tensors = {name: (values + add).astype("f2") for name, values in tensors.items()}
    names = list(tensors)
    half = len(names) // 2
    weight_map = {}
    for shard, part in ((FIRST, names[:half]), (SECOND, names[half:])):
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "num_hidden_layers": layers, "hidden_size": width, "vocab_size": 1000})
    )
    (folder / "tokenizer.json").write_text(TOKENIZER)
    (folder / "optimizer.pt").write_bytes(bytes(100_000))
    (folder / "training_args.bin").write_bytes(bytes(5000))
    return tensors


def write_shape(folder: Path, shape: Shape, shard_bytes: int = 5_000_000_000) -> Path:
    """The shards of `shape` with their headers, a one at the start of each tensor, and holes for the rest."""
    folder.mkdir(parents=True)
    weight_map, total = {}, 0
    for shard, tensors in shape.shards(shard_bytes).items():
        entries, at = {}, 0
        for name, sizes in tensors.items():
            size = 2 * prod(sizes)
            entries[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [at, at + size]}
            at += size
        header = json.dumps(entries).encode()
        with (folder / shard).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for entry in entries.values():  # no layer of zeros
                file.seek(8 + len(header) + entry["data_offsets"][0])
                file.write(b"\x80\x3f")
            file.truncate(8 + len(header) + at)
        weight_map |= dict.fromkeys(tensors, shard)
        total += at
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(shape.config()))
    return folder
