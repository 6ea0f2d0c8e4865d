"""Make a zoo of small language models whose descent is known, to test what tells descent from weights.

    python examples/zoo/make.py OUT                # 14 bases and what is made from them: ten minutes on two cores
    python examples/zoo/make.py OUT --share 0.1    # 3 bases and 14 descendants: half a minute

Bases of one architecture have the same shapes and were trained in the same way, on other text and from other seeds.
What is made from them: fine-tunes near and far, low-rank adapters, merges, quantised copies, copies with fewer or more
layers, narrower ones, mixtures of experts, and copies in disguise: other weights of the same function. Some cards lie.

OUT/NAME are folders of models. OUT/truth.json says of each its `family` (the base at the root; null for a merge of
several families), `kind`, `parents`, of a merge the `weights` of these and the `base` that they share (of an adapter
its base), where layers were chosen the `layers` of the parent, and in `detail` how it was made, what its card names
and whether that is so (`card`: honest, silent, false, cycle, none), and how far it `moved`: the norm of the difference
against the parent's. Models that are there are kept. Every model is made on one thread, two at a time, so that the
same seed gives the same weights on the same machine. Needs torch, transformers and gguf (the `dev` extra has them).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from catalogue import Entry
from trees import entries_of

WORKERS = 2


def made(entry: Entry, zoo: Path) -> tuple[dict[str, Any], float]:
    """In a process of the pool: what truth.json has of it, and the seconds that it took."""
    from makers import make  # noqa: PLC0415 - heavy, and not for the process that only waits

    begun = time.perf_counter()
    return make(entry, zoo), time.perf_counter() - begun


def known(out: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name: the models that are complete. Exits where the folder has a zoo of another seed or share."""
    file = out / "truth.json"
    if not file.exists():
        return {}
    held = json.loads(file.read_text(encoding="utf-8"))
    if {key: held.get(key) for key in about} != about:
        sys.exit(f"{out} has another zoo: { ({key: held.get(key) for key in about}) }, asked for {about}")
    return {model["name"]: model for model in held["models"] if (out / model["name"]).is_dir()}


def length(entry: Entry) -> tuple[bool, int]:
    """To sort by: bases first, then what trains for longest, so that no process is idle at the end."""
    return entry.kind != "base", -entry.how.get("steps", 0)


def record(out: Path, about: dict[str, Any], done: dict[str, dict[str, Any]], entries: list[Entry]) -> None:
    """Write truth.json, in the order of the catalogue."""
    models = [done[entry.name] for entry in entries if entry.name in done]
    file = out / "truth.json.new"
    file.write_text(json.dumps({**about, "models": models}, indent=1) + "\n", encoding="utf-8")
    file.replace(out / "truth.json")


def make_zoo(out: Path, share: float, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    entries, about = entries_of(share, seed), {"share": share, "seed": seed}
    done = known(out, about)
    waiting = [entry for entry in entries if entry.name not in done]
    running: dict[Future[tuple[dict[str, Any], float]], Entry] = {}
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            ready = sorted((entry for entry in waiting if all(parent in done for parent in entry.parents)), key=length)
            for entry in ready[: WORKERS - len(running)]:
                waiting.remove(entry)
                running[pool.submit(made, entry, out)] = entry
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                entry = running.pop(future)
                done[entry.name], seconds = future.result()
                record(out, about, done, entries)
                print(f"{len(done)}/{len(entries)} {entry.name}: {entry.kind}, {seconds:.1f} s", flush=True)
    shutil.rmtree(out / ".making", ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where the models go")
    parser.add_argument("--share", type=float, default=1.0, help="below 0.5: the small zoo (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started: sums on one thread have one order
    make_zoo(asked.out, asked.share, asked.seed)


if __name__ == "__main__":
    main()
