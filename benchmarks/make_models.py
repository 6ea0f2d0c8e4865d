"""Make Llama-shaped bfloat16 checkpoints, a base and fine-tunes of it, at the speed of the disk and in little memory.

    python benchmarks/make_models.py --shape 1b --fine-tunes 3 --out benchmarks/data/1b

Values come from one pool of normal numbers, read from another place for every block of every tensor. A fine-tune is the
base plus noise, rounded to bfloat16: the smaller the noise, the more weights stay exactly what they were, as in real
fine-tunes. Files that are there already with the same recipe are kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from netweight.dtypes import DTYPES
from netweight.errors import NetweightError, OutputError
from netweight.output.safetensors_file import TensorEntry, file_size, header_bytes, write_safetensors_blocks
from shapes import SHAPES, SHARD_BYTES, Shape

POOL = 1 << 24  # normals: 64 MiB of float32
BLOCK = 1 << 16  # elements: the block and its temporaries stay in the processor's cache
NOISE_STD = 1e-3
NOISE_SCALES = (1.0, 0.3, 0.1, 0.03, 0.01)  # of the fine-tunes in turn
RECIPE = "1"  # raise it where the values change: files of another recipe are made anew

BASE_STD = {"embed_tokens": 0.02, "lm_head": 0.02, "q_proj": 0.03, "k_proj": 0.04, "v_proj": 0.015}
BASE_STD |= {"o_proj": 0.014, "gate_proj": 0.022, "up_proj": 0.018, "down_proj": 0.016}


def model_names(fine_tunes: int) -> list[str]:
    return ["base", *(f"fine-tune-{i}" for i in range(1, fine_tunes + 1))]


def normal_pool(seed: int) -> np.ndarray:
    return np.random.Generator(np.random.SFC64(seed)).standard_normal(POOL + BLOCK, dtype=np.float32)


def to_bf16(values: np.ndarray, out: np.ndarray) -> None:
    """Round finite float32 `values` to bfloat16 bits in `out` (uint16), half to even."""
    bits = values.view(np.uint32)
    # 0x7fff plus the lowest bit kept: a carry into the upper half exactly where rounding goes up
    rounded = np.right_shift(bits, 16)
    rounded &= 1
    rounded += bits
    rounded += 0x7FFF
    np.right_shift(rounded, 16, out=out, casting="unsafe")


def from_bf16(bits: np.ndarray) -> np.ndarray:
    widened = bits.astype(np.uint32)
    widened <<= 16
    return widened.view(np.float32)


@dataclass(frozen=True)
class Values:
    """The weights of one model: `model` 0 is the base, n the n-th fine-tune."""

    pool: np.ndarray
    model: int
    seed: int

    def blocks(self, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """bfloat16 bits of one tensor in blocks; a block is overwritten by the next."""
        key = zlib.crc32(name.encode())
        places = np.random.Generator(np.random.SFC64([self.seed, key]))
        noise_places = np.random.Generator(np.random.SFC64([self.seed, key, self.model]))
        is_norm = "norm" in name
        std = 0.05 if is_norm else BASE_STD[name.split(".")[-2]]
        noise_std = NOISE_STD * NOISE_SCALES[(self.model - 1) % len(NOISE_SCALES)]
        buffer = np.empty(BLOCK, np.uint16)
        size = prod(shape)
        for start in range(0, size, BLOCK):
            bits = buffer[: min(BLOCK, size - start)]
            weights = self._normals(places, bits.size, std)
            if is_norm:
                weights += 1
            to_bf16(weights, bits)
            if self.model:
                changed = self._normals(noise_places, bits.size, noise_std)
                changed += from_bf16(bits)
                to_bf16(changed, bits)
            yield bits

    def _normals(self, places: np.random.Generator, count: int, std: float) -> np.ndarray:
        place = int(places.integers(POOL))
        sign = -1 if places.integers(2) else 1
        return self.pool[place : place + count] * np.float32(sign * std)


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]], metadata: dict[str, str], values: Values) -> bool:
    """Write one file, unless it is there with this very header; says whether it was written."""
    entries = {name: TensorEntry(DTYPES["BF16"], shape) for name, shape in tensors.items()}
    header = header_bytes(entries, metadata)
    if path.is_file() and path.stat().st_size == file_size(entries, metadata):
        with path.open("rb") as file:
            if file.read(len(header)) == header:  # files are renamed into place when whole
                return False
    blocks = (block for name, shape in tensors.items() for block in values.blocks(name, shape))
    write_safetensors_blocks(path, entries, blocks, metadata)
    return True


def make_model(folder: Path, shape: Shape, values: Values, shard_bytes: int = SHARD_BYTES) -> int:
    """Write one checkpoint; returns the bytes of tensor data written now."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = shape.shards(shard_bytes)
    metadata = {"format": "pt", "recipe": f"{RECIPE} {shape.name} {values.model} {values.seed}"}
    written = 0
    for file_name, tensors in shards.items():
        if write_shard(folder / file_name, tensors, metadata, values):
            written += 2 * sum(map(prod, tensors.values()))
    if len(shards) > 1:
        weight_map = {name: file_name for file_name, tensors in shards.items() for name in tensors}
        index = {"metadata": {"total_size": 2 * shape.parameters}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", shape.config())
    _write_json(folder / "generation_config.json", {"bos_token_id": 128000, "do_sample": True, "eos_token_id": 128001})
    return written


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_space(out: Path, shape: Shape, fine_tunes: int) -> None:
    """Raises OutputError where what is still to be written would not fit on the disk."""
    present = sum(f.stat().st_size for name in model_names(fine_tunes) for f in (out / name).glob("*.safetensors"))
    needed = (fine_tunes + 1) * 2 * shape.parameters - present
    free = shutil.disk_usage(out).free
    if needed > 0.95 * free:
        raise OutputError(
            f"{out}: {shape.name} with {fine_tunes} fine-tunes needs {needed / 1e9:.1f} GB more, "
            f"{free / 1e9:.1f} GB are free; remove other models or choose another --out"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--fine-tunes", type=int, metavar="N", help="default: what the benchmark measures")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, metavar="BYTES")
    asked = parser.parse_args(arguments)
    shape = SHAPES[asked.shape]
    fine_tunes = shape.fine_tunes if asked.fine_tunes is None else asked.fine_tunes
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
        check_space(asked.out, shape, fine_tunes)
        pool = normal_pool(asked.seed)

        def make(numbered: tuple[int, str]) -> str:
            model, name = numbered
            started = time.perf_counter()
            written = make_model(asked.out / name, shape, Values(pool, model, asked.seed), asked.shard_bytes)
            seconds = time.perf_counter() - started
            return f"{name}: {written / 1e9:.2f} GB in {seconds:.1f} s" if written else f"{name}: kept"

        with ThreadPoolExecutor(2) as threads:  # one generates while the other waits for the disk
            for line in threads.map(make, enumerate(model_names(fine_tunes))):
                print(f"{asked.shape} {line}", file=sys.stderr, flush=True)
    except (NetweightError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
