"""Analyse a checkpoint's matrices with WeightWatcher, as its documents show: WeightWatcher(model).analyze().

    .venv/bin/python analyze.py MODEL --output FILE.csv [--every-matrix] [--every-column]

Every 2-D tensor of the safetensors files becomes the weight of a torch.nn.Linear (embeddings: torch.nn.Embedding) of
one module, so that no modelling code is needed. WeightWatcher leaves out layers with a side above 50,000 by default;
--every-matrix lifts that limit. --every-column also asks for what is not default: ERG, mp_fit, randomize and clip_xmax.
The last line says how long analyze() took, and the start of its library not.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

# On a GPU WeightWatcher would round the weights to float16.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}

import torch
from safetensors.torch import load_file

import weightwatcher

EMBEDDINGS = ("wte", "wpe", "embed")


def model_of(folder: Path) -> torch.nn.Module:
    """A module whose layers are named as the tensors are, `_` for each dot."""
    model = torch.nn.Module()
    for file in sorted(folder.glob("*.safetensors")):
        for name, weight in load_file(file).items():
            if weight.dim() != 2:
                continue
            if any(word in name for word in EMBEDDINGS):
                layer: torch.nn.Module = torch.nn.Embedding.from_pretrained(weight)
            else:
                layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
                layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            model.add_module(name.replace(".", "_"), layer)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.csv")
    parser.add_argument("--every-matrix", action="store_true", help="also those with a side above 50,000")
    parser.add_argument("--every-column", action="store_true", help="also those of ERG, mp_fit, randomize, fix_fingers")
    asked = parser.parse_args()
    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    model = model_of(asked.model)
    options: dict[str, Any] = {"max_N": 10**9} if asked.every_matrix else {}
    if asked.every_column:
        options |= {"ERG": True, "mp_fit": True, "randomize": True, "fix_fingers": "clip_xmax"}
    started = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        details = weightwatcher.WeightWatcher(model=model).analyze(**options)
    seconds = time.perf_counter() - started
    details.to_csv(asked.output, index=False)
    print(f"analyze() {seconds:.2f} s, {len(details)} matrices")


if __name__ == "__main__":
    main()
