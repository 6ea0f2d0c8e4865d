"""Make a GPT-2-shaped float32 checkpoint: names, shapes, Conv1D's transposed matrices and spectra like a trained one's.

    python benchmarks/gpt2_shape.py --shape gpt2 --out benchmarks/data/gpt2

A matrix is noise and a sum of outer products whose strengths fall as a power, so that its spectrum has a bulk and a
heavy tail, as trained layers have. The head is the token embedding and is not stored.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from netweight.dtypes import DTYPES
from netweight.errors import NetweightError
from netweight.output.safetensors_file import TensorEntry, file_size, header_bytes, write_safetensors_blocks

RECIPE = "1"  # raise it where the values change: files of another recipe are made anew
SPIKES = 96  # outer products in a matrix
STD = {"wte": 0.14, "wpe": 0.12, "c_attn": 0.14, "c_proj": 0.1, "c_fc": 0.13}


@dataclass(frozen=True)
class Gpt2:
    """A GPT-2 by its sizes."""

    name: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    positions: int

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape in self.tensors().values())

    @property
    def matrices(self) -> int:
        return sum(len(shape) == 2 for shape in self.tensors().values())

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes; Conv1D weights are stored [in, out]."""
        hidden = self.hidden
        found: dict[str, tuple[int, ...]] = {
            "wte.weight": (self.vocabulary, hidden),
            "wpe.weight": (self.positions, hidden),
        }
        for i in range(self.layers):
            block: dict[str, tuple[int, ...]] = {
                "ln_1": (hidden,),
                "attn.c_attn": (hidden, 3 * hidden),
                "attn.c_proj": (hidden, hidden),
                "ln_2": (hidden,),
                "mlp.c_fc": (hidden, 4 * hidden),
                "mlp.c_proj": (4 * hidden, hidden),
            }
            for name, shape in block.items():
                found |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
        return found | {"ln_f.weight": (hidden,), "ln_f.bias": (hidden,)}

    def config(self) -> dict[str, object]:
        return {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "layer_norm_epsilon": 1e-05,
            "model_type": "gpt2",
            "n_ctx": self.positions,
            "n_embd": self.hidden,
            "n_head": self.heads,
            "n_layer": self.layers,
            "n_positions": self.positions,
            "torch_dtype": "float32",
            "vocab_size": self.vocabulary,
        }


GPT2_SHAPES = {
    shape.name: shape for shape in (Gpt2("gpt2", 12, 768, 12, 50257, 1024), Gpt2("gpt2-tiny", 2, 64, 4, 1000, 128))
}
"""GPT-2 small, and one to try the benchmark out with."""


def values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 values of one tensor, the same for the same name and seed."""
    random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    noise = random.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return noise * np.float32(0.05) + np.float32(".ln_" in f".{name}" and name.endswith("weight"))
    std = STD[name.split(".")[-2]]
    rank = min(SPIKES, *shape)
    left = random.standard_normal((shape[0], rank), dtype=np.float32)
    right = random.standard_normal((rank, shape[1]), dtype=np.float32)
    # half of the variance; strengths k^-e have eigenvalues k^-2e, a tail of alpha = 1 + 1 / 2e: about 2 to 4
    strengths = np.arange(1, rank + 1) ** -random.uniform(0.15, 0.5)
    strengths *= std * np.sqrt(0.5 / np.sum(strengths**2))
    return (left * strengths.astype(np.float32)) @ right + noise * np.float32(std * 0.5**0.5)


def make_gpt2(folder: Path, shape: Gpt2, seed: int) -> bool:
    """Write the checkpoint, unless it is there with this very header; says whether it was written."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(sorted(shape.tensors().items()))
    entries = {name: TensorEntry(DTYPES["F32"], dims) for name, dims in tensors.items()}
    metadata = {"format": "pt", "recipe": f"{RECIPE} {shape.name} {seed}"}
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n", encoding="utf-8")
    path = folder / "model.safetensors"
    header = header_bytes(entries, metadata)
    if path.is_file() and path.stat().st_size == file_size(entries, metadata):
        with path.open("rb") as file:
            if file.read(len(header)) == header:
                return False

    def blocks() -> Iterator[np.ndarray]:
        for name, dims in tensors.items():
            yield values(name, dims, seed)

    write_safetensors_blocks(path, entries, blocks(), metadata)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=GPT2_SHAPES, default="gpt2")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    try:
        written = make_gpt2(asked.out, GPT2_SHAPES[asked.shape], asked.seed)
    except (NetweightError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(f"{asked.shape}: {'written' if written else 'kept'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
