"""Run the benchmark of merging by token; figures go to benchmarks/results/<date>-union.json.

    python benchmarks/union.py                  # two models of the 1b shape, tokenizers of 128,256 tokens: 7 GB of disk
    python benchmarks/union.py --shape tiny     # does everything work?

The same two models are merged (linear) without a word on tokenizers, and by `tokenizer_source: union`: with one
tokenizer in both, with the second one's tokens in another order, and with an eighth of its tokens its own.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from make_models import SHARD_BYTES, Values, make_model, normal_pool
from measure import CommandFailedError, Measurement, machine, measure, median
from run import HERE, repeat, say
from shapes import SHAPES, Shape

PROGRAM = str(Path(sys.executable).with_name("netweight"))
RECIPE = """merge_method: linear
models: [{{model: {first}}}, {{model: {second}}}]
parameters: {{weight: 1}}
dtype: bfloat16
"""


def byte_pairs(count: int) -> tuple[list[str], list[list[str]]]:
    """(tokens, merges) of a byte-level BPE: 256 letters, then every token so far with every letter."""
    letters = [chr(code) for code in range(0x100, 0x200)]
    tokens, merges = list(letters), []
    for number in range(count - len(letters)):
        pair = [tokens[number // len(letters)], letters[number % len(letters)]]
        tokens.append("".join(pair))
        merges.append(pair)
    return tokens[:count], merges


def write_tokenizer(folder: Path, tokens: Sequence[str], merges: Sequence[list[str]]) -> None:
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {token: at for at, token in enumerate(tokens)}, "merges": list(merges)}
    made = {"version": "1.0", "added_tokens": [], "pre_tokenizer": bytes_, "decoder": bytes_, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")


def merging(out: Path, recipe: Path, log: Path) -> Callable[[], Measurement]:
    """A measurement of a merge into the folder `out`, made anew."""

    def run() -> Measurement:
        shutil.rmtree(out, ignore_errors=True)
        os.sync()
        return measure([PROGRAM, "merge", str(recipe), str(out)], log)

    return run


def cases(shape: Shape) -> dict[str, tuple[Sequence[str], Sequence[str], bool]]:
    """{case: (the first model's tokens, the second's, whether the recipe asks for the union)}"""
    tokens, _ = byte_pairs(shape.vocabulary)
    shuffled = list(tokens)
    random.Random(1).shuffle(shuffled)
    own = [f"{token}{at}" if at % 8 == 7 else token for at, token in enumerate(tokens)]
    return {
        "without the key": (tokens, tokens, False),
        "union, one tokenizer": (tokens, tokens, True),
        "union, another order": (tokens, shuffled, True),
        "union, an eighth of the tokens differ": (tokens, own, True),
    }


def run_cases(work: Path, shape: Shape, runs: int) -> dict[str, list[dict[str, object]]]:
    folders = [work / f"{shape.name}-{number}" for number in (1, 2)]
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            make_model(folder, shape, Values(normal_pool(0), number, 0), SHARD_BYTES)
    _, merges = byte_pairs(shape.vocabulary)
    recipe, found = work / "recipe.yml", dict[str, list[dict[str, object]]]()
    plain = 0.0
    for case, (first, second, union) in cases(shape).items():
        for folder, tokens in zip(folders, (first, second), strict=True):
            write_tokenizer(folder, tokens, merges)
        text = RECIPE.format(first=folders[0], second=folders[1])
        recipe.write_text(text + ("tokenizer_source: union\n" if union else ""))
        measured = repeat(case, merging(work / "out", recipe, work / "log"), runs)
        plain = plain or median(measured).wall
        say(f"{case}: {median(measured).wall - plain:+.2f} s")
        found[case] = [asdict(run) for run in measured]
    shutil.rmtree(work / "out", ignore_errors=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=HERE / "work" / "union")
    asked = parser.parse_args(arguments)
    asked.work.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {"date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "machine": machine()}
    try:
        report["cases"] = run_cases(asked.work, SHAPES[asked.shape], asked.runs)
    except CommandFailedError as error:
        say(str(error))
        return 1
    if asked.shape == "1b":
        path = HERE / "results" / f"{report['date']}-union.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        say(f"written to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
