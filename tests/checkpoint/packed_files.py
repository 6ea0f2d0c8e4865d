"""Small checkpoints of packed weights, as files."""

from __future__ import annotations

import json
import struct

import numpy as np


def write(folder, tensors, config=None, **others):
    """A folder with `tensors`, (type, array) by name, as safetensors, and config.json; `others` are JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    header, data, at = {}, b"", 0
    for name, (dtype, array) in tensors.items():
        held = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(held)]}
        data, at = data + held, at + len(held)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    for name, held in others.items():
        (folder / f"{name}.json").write_text(json.dumps(held))
    return folder


def bits_of(tensor):
    """All of a decoded weight, as the bits of its type."""
    return tensor.read().view({"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32}[tensor.dtype.name])
