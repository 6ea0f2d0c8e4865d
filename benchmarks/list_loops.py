"""Make src/netweight/kernels/cpu/loops.json: which loops each job calls for tensors of an element type.

    python benchmarks/list_loops.py [--more FOLDER]

Runs the jobs on small models of every element type, in a process each, and writes down what they have loaded or
compiled. FOLDER is a folder of compiled loops, as a run of all tests leaves one in kernels/cpu/__pycache__: loops in it
that no run here has called are listed too, under "rest".
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import netweight
from netweight.kernels.cpu.compiled import Loop
from netweight.measures.registry import SCANNED

TARGET = Path(netweight.__file__).parent / "kernels" / "cpu" / "loops.json"
DTYPES = ("F32", "BF16", "F16", "F64")
METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "dare_linear", "slerp", "model_stock", "della", "sce")
JOBS = (
    *(f"scan {measure}" for measure in SCANNED),
    "delta",
    "compare",
    "merge by norms",
    *(f"merge {m}" for m in METHODS),
)


def make_models(folder: Path, dtype: str) -> list[Path]:
    """A base and two fine-tunes of matrices small and large, and a vector."""
    import numpy as np
    from safetensors.numpy import save_file

    from netweight.dtypes import DTYPES as KNOWN

    kind, rng = KNOWN[dtype].to_numpy(), np.random.default_rng(0)
    base = {"model.layers.0.mlp.up_proj.weight": rng.standard_normal((1100, 1024))}
    base |= {"model.layers.0.self_attn.q_proj.weight": rng.standard_normal((64, 48)), "model.norm.weight": np.ones(64)}
    places = []
    for number in range(3):
        places.append(folder / f"m{number}")
        places[-1].mkdir()
        held = {
            name: (value + 0.01 * number * rng.standard_normal(value.shape)).astype(kind)
            for name, value in base.items()
        }
        save_file(held, places[-1] / "model.safetensors")
        (places[-1] / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 48}')
    return places


def run(job: str, dtype: str) -> None:
    """Run one job, and print its loops as JSON."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base, one, two = make_models(folder, dtype)
        if job.startswith("scan"):
            netweight.scan(base, methods=job.partition(" ")[2])
        elif job == "delta":
            netweight.delta(base, [one, two])
        elif job == "compare":
            netweight.compare(base, one)
        elif job == "merge by norms":
            netweight.merge(None, folder / "out", base=base, models=[one, two])
        else:
            method = job.partition(" ")[2]
            weights = {} if method in {"slerp", "model_stock", "sce"} else {"weights": [0.5, 0.5]}
            models, settings = ([one], {"t": 0.5}) if method == "slerp" else ([one, two], {})
            settings |= {"density": 0.5} if method in {"ties", "dare_ties", "dare_linear", "della"} else {}
            netweight.merge(None, folder / "out", base=base, models=models, method=method, settings=settings, **weights)
    loops = [held for held in gc.get_objects() if isinstance(held, Loop)]
    print(json.dumps(sorted([loop.name, " ".join(kinds)] for loop in loops for kinds in loop.loaded | loop.made)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        run(*asked.run)
        return
    found = {}
    for job in JOBS:
        for dtype in DTYPES:
            command = [sys.executable, __file__, "--run", job, dtype]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[f"{job} {dtype}"] = json.loads(done.stdout)
    known = {tuple(entry) for entries in found.values() for entry in entries}
    rest = set()
    for file in asked.more.glob("*.loop") if asked.more else ():
        name, _, kinds = file.stem.split("-", 2)
        rest.add((name, kinds.replace("_", " ").replace("0bool", "0?").replace("1boolC", "1?C")))
    found["rest"] = sorted(map(list, rest - known))
    lines = [
        f"  {json.dumps(key)}: [\n" + ",\n".join(f"    {json.dumps(e)}" for e in entries) + "\n  ]"
        for key, entries in found.items()
    ]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
