"""What a tensor costs whatever its size: models of thousands of small matrices.

    python benchmarks/many_tensors.py [--layers 48] [--experts 128] [--runs 3] [--header 100000]

Makes a base and two fine-tunes of layers x experts matrices of 128 x 64 in bfloat16, and measures whole commands on
them, less the same command on a model of one matrix: milliseconds a tensor and the most memory, medians. `--header`:
the seconds that `info` and a plan (`scan --dry-run`) take for so many tensors, from a file of a header alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from measure import measure


def make(folder: Path, layers: int, experts: int, seed: int) -> None:
    """A model of `layers` x `experts` matrices."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    base = np.random.default_rng(0)
    tensors = {}
    for layer in range(layers):
        for expert in range(experts):
            held = 0.02 * base.standard_normal((128, 64)) + (0.001 * rng.standard_normal((128, 64)) if seed else 0)
            tensors[f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"] = held.astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "qwen3_moe", "num_hidden_layers": layers, "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps(config))


def make_header(folder: Path, tensors: int) -> None:
    """A file whose header names so many matrices, and whose data are a hole."""
    entries, at = {}, 0
    for number in range(tensors):
        expert = f"model.layers.{number // 768}.mlp.experts.{number % 768 // 3}"
        name = f"{expert}.{('gate', 'up', 'down')[number % 3]}_proj.weight"
        entries[name] = {"dtype": "BF16", "shape": [128, 64], "data_offsets": [at, at + 16384]}
        at += 16384
    header = json.dumps(entries).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + at)


def commands(models: Path, work: Path) -> dict[str, list[str]]:
    """The arguments of each command."""
    base, one, two = (str(models / name) for name in ("m0", "m1", "m2"))
    output = ["--output", str(work / "merged"), "--overwrite"]
    return {
        "scan": ["scan", base],
        "scan, quantization and sparsity too": ["scan", base, "--methods", "basic_stats", "quantization", "sparsity"],
        "delta": ["delta", "--base", base, "--models", one, "--outdir", str(work / "tv")],
        "compare": ["compare", base, one],
        "merge": ["merge", "--base", base, "--models", one, two, "--weights", "0.5", "0.5", *output],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--header", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for seed in range(3):
            make(work / "many" / f"m{seed}", asked.layers, asked.experts, seed)
            make(work / "one" / f"m{seed}", 1, 1, seed)
        count = asked.layers * asked.experts
        print(f"| command on {count} matrices | wall | a tensor | memory |\n| --- | ---: | ---: | ---: |")
        single = commands(work / "one", work)
        for name, arguments in commands(work / "many", work).items():
            walls, peak = [], 0
            for words in (single[name], arguments):
                command = [sys.executable, "-m", "netweight", *words]
                runs = [measure(command, work / "log") for _ in range(asked.runs + 1)][1:]
                walls.append(statistics.median(run.wall for run in runs))
                peak = max(run.peak_rss for run in runs)
            each = 1000 * (walls[1] - walls[0]) / count
            print(f"| `{name}` | {walls[1]:.2f} s | {each:.2f} ms | {peak / 1e9:.2f} GB |", flush=True)
        make_header(work / "header", asked.header)
        for words in (["info", str(work / "header")], ["scan", str(work / "header"), "--dry-run"]):
            runs = [measure([sys.executable, "-m", "netweight", *words], work / "log") for _ in range(asked.runs)]
            wall, peak = statistics.median(r.wall for r in runs), max(r.peak_rss for r in runs)
            shown = " ".join([words[0], *words[2:]])
            print(f"| `{shown}` of {asked.header} tensors | {wall:.2f} s | | {peak / 1e9:.2f} GB |", flush=True)


if __name__ == "__main__":
    main()
