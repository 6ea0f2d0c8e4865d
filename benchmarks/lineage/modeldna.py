"""What modelDNA and `netweight lineage` say of models whose descent is known, side by side.

    sh benchmarks/lineage/setup.sh                                # once: modelDNA's own environment
    python benchmarks/lineage/modeldna.py ZOO [--json FILE]       # ZOO: made by examples/zoo/make.py

Both are asked the same pairs: every descendant with each of its parents, all pairs of bases, and a seeded sample of
descendants that have no base in common. modelDNA is asked by `compare_pair(child, parent)`, its `compare` command, and
for merges by `decompose_targets` with the true parents and base; netweight by `lineage` of the whole zoo, which is told
no parents, and by `relate` for independent pairs. Both with default options, and linear algebra on one thread.

modelDNA's words are put in five columns: derived (EXACT_COPY, QUANTIZED_COPY, FINE_TUNE, SAME_LINEAGE, LIKELY_MERGE),
unresolved (SAME_FAMILY_UNRESOLVED), no match, structure (NO_MATCH since layers or shapes differ, weights not looked
at), refused (an error). A pair takes the seconds of reading and sketching two models and of comparing them; the start
of a process is not counted.

To modelDNA an adapter by itself is no model. It reads `hidden_size`, `num_attention_heads` and `torch_dtype` in
config.json: GPT-2 has other keys, so shapes of two GPT-2 are not checked, and a GGUF of one does not fit its
safetensors; newer files say `dtype`, so types of weights are unknown to it. Its probabilities are those of its default
coefficients, which were fitted to synthetic models. The zoo is what netweight's own rules are tested on
(examples/zoo/judge.py), and modelDNA's are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

import netweight
from netweight.errors import NetweightError
from netweight.jobs.lineage.relation import relate
from netweight.jobs.lineage.result import LineageResult
from netweight.jobs.lineage.sketch import Sketch
from netweight.jobs.lineage.sketching import sketch_of
from netweight.run.blas import blas_threads

HERE = Path(__file__).resolve().parent
PYTHON = HERE / ".venv" / "bin" / "python"

DERIVED = {"EXACT_COPY", "QUANTIZED_COPY", "FINE_TUNE", "SAME_LINEAGE", "LIKELY_MERGE"}
THEIRS = ("derived", "unresolved", "no match", "structure", "refused")
OURS = ("related", "undecided", "unrelated", "not tested")
KINDS = (
    "finetune_near", "finetune_far", "continued", "finetune_frozen", "dpo", "lora_merged", "adapter", "abliterated",
    "cast", "quantised", "dequantised", "vocabulary_extended", "merged", "upcycled", "pruned_depth", "stacked",
    "pruned_width", "disguised",
)  # fmt: skip
INDEPENDENT = ("bases, one architecture", "bases, two architectures", "descendants, one architecture")

Truth = Mapping[str, Mapping[str, Any]]


@dataclass
class Pair:
    """A question to both; `row` is the line of the table that it counts in."""

    row: str
    suspect: str
    candidate: str
    theirs: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)

    @property
    def their_column(self) -> str:
        said = self.theirs["said"]
        if said == "error":
            return "refused"
        if not self.theirs["comparable"]:
            return "structure"
        return {"SAME_FAMILY_UNRESOLVED": "unresolved", "NO_MATCH": "no match"}.get(said, "derived")

    @property
    def our_column(self) -> str:
        return self.ours["said"] if self.ours["said"] in OURS else "related"


def roots(truth: Truth, name: str) -> set[str]:
    """The bases that a model comes from."""
    one = truth[name]
    above = {*one["parents"], *([one["base"]] if one["base"] else [])}
    return {name}.union(*(roots(truth, parent) for parent in above)) & _bases(truth)


def _bases(truth: Truth) -> set[str]:
    return {name for name, one in truth.items() if one["kind"] == "base"}


def pairs_of(truth: Truth, count: int, seed: int) -> list[Pair]:
    """Every child with each parent, all bases with each other, and a sample of independent descendants."""
    from_bases = {name: roots(truth, name) for name in truth}
    bases = [name for name in truth if truth[name]["kind"] == "base"]
    architectures = {
        name: {truth[base]["detail"]["architecture"] for base in from_bases[name]} for name in truth
    }  # one each: no model comes from two
    found = [Pair(one["kind"], name, parent) for name, one in truth.items() for parent in one["parents"]]
    for a, b in combinations(bases, 2):
        alike = architectures[a] == architectures[b]
        found.append(Pair(INDEPENDENT[0] if alike else INDEPENDENT[1], b, a))
    further = [
        (a, b)
        for a, b in combinations([name for name in truth if truth[name]["kind"] != "base"], 2)
        if not from_bases[a] & from_bases[b] and architectures[a] == architectures[b]
    ]
    chosen = random.Random(seed).sample(further, min(count, len(further)))
    return found + [Pair(INDEPENDENT[2], a, b) for a, b in chosen]


def ask_modeldna(zoo: Path, truth: Truth, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Fills `theirs` of every pair; returns its merges and versions."""
    merged = [one for one in truth.values() if one["kind"] == "merged"]
    question = {
        "zoo": str(zoo),
        "pairs": [(pair.suspect, pair.candidate) for pair in pairs],
        "merges": [{"model": one["name"], "parents": one["parents"], "base": one["base"]} for one in merged],
    }
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # -I keeps this folder off the path of imports, where this file has the package's name
    done = subprocess.run(
        [PYTHON, "-I", HERE / "ask.py"], input=json.dumps(question), capture_output=True, text=True, check=False,
        env={**os.environ, **one_thread},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"modelDNA's process failed:\n{done.stderr}")
    said = json.loads(done.stdout)
    for pair, answer in zip(pairs, said.pop("pairs"), strict=True):
        pair.theirs = answer
    said["merges"] = {one["name"]: answer for one, answer in zip(merged, said["merges"], strict=True)}
    return said


def ask_netweight(zoo: Path, truth: Truth, pairs: Sequence[Pair]) -> tuple[LineageResult, float]:
    """Fills `ours` of every pair; returns what lineage says of the whole zoo, and its seconds."""
    begun = time.perf_counter()
    with blas_threads(1):
        result = netweight.lineage([str(zoo / name) for name in truth])
    whole = time.perf_counter() - begun
    known = {name.casefold(): str(zoo / name) for name in truth}
    sketches: dict[str, tuple[Sketch | str, float]] = {}
    with blas_threads(1):
        for pair in pairs:
            for name in (pair.candidate, pair.suspect):
                if name not in sketches:
                    sketches[name] = _sketched(zoo / name, known)
            pair.ours = _related(pair, result, sketches)
    return result, whole


def _sketched(path: Path, known: Mapping[str, str]) -> tuple[Sketch | str, float]:
    """A sketch or the error, and the seconds."""
    begun = time.perf_counter()
    made: Sketch | str
    try:
        made = sketch_of(path, name=path.name, known=known)
    except NetweightError as problem:
        made = f"{type(problem).__name__}: {problem}"
    return made, time.perf_counter() - begun


def _related(pair: Pair, result: LineageResult, sketches: Mapping[str, tuple[Sketch | str, float]]) -> dict[str, Any]:
    """Of a child what lineage says, of independent models what relate says, and the seconds of the pair by itself."""
    (a, seconds_a), (b, seconds_b) = sketches[pair.candidate], sketches[pair.suspect]
    if isinstance(a, str) or isinstance(b, str):
        return {"said": "not tested", "error": a if isinstance(a, str) else b, "seconds": seconds_a + seconds_b}
    begun = time.perf_counter()
    alone = relate(a, b)
    seconds = time.perf_counter() - begun
    found = alone if pair.row in INDEPENDENT else result.relation(pair.candidate, pair.suspect)
    known = found is not None and found.related and found.direction.known
    return {
        "said": "not tested" if found is None else found.relation,
        "direction": None if found is None or not known else found.a == pair.candidate,
        "log10_p": None if found is None else found.log10_p,
        "seconds": seconds_a + seconds_b + seconds,
        "comparing": seconds,
    }


def print_pairs(pairs: Sequence[Pair], rows: Sequence[str], title: str) -> None:
    """A line for each row with how many pairs each tool put in which column, and then their words."""
    print(f"\n{title}\n")
    print(f"{'':36} | {'modelDNA':{11 * len(THEIRS) + 12}} | netweight")
    their_heads, our_heads = ("".join(f"{head:>11}" for head in heads) for heads in (THEIRS, OURS))
    print(f"{'':30}{'pairs':>6} |{their_heads}{'P(derived)':>13} |{our_heads}")
    for row in rows:
        held = [pair for pair in pairs if pair.row == row]
        if not held:
            continue
        theirs, ours = Counter(pair.their_column for pair in held), Counter(pair.our_column for pair in held)
        cells = f"{_cells(theirs, THEIRS)}{_range(held):>13} |{_cells(ours, OURS)}"
        print(f"{row:30}{len(held):6} |{cells}")
    print("\nin words")
    for row in rows:
        held = [pair for pair in pairs if pair.row == row]
        if held:
            print(f"  {row:30} modelDNA:  {_counted(_their_word(pair) for pair in held)}")
            print(f"  {'':30} netweight: {_counted(pair.ours['said'] for pair in held)}")


def _cells(counts: Counter[str], heads: Sequence[str]) -> str:
    return "".join(f"{counts[head] or '-':>11}" for head in heads)


def _range(held: Sequence[Pair]) -> str:
    values = [pair.theirs["probability"] for pair in held if pair.theirs.get("comparable")]
    return f"{min(values):.3f}-{max(values):.3f}" if values else "-"


def _their_word(pair: Pair) -> str:
    said = pair.theirs["said"]
    if said == "error":
        return pair.theirs["error"].split(" in /")[0].split(" /")[0]
    return said if pair.theirs["comparable"] else f"{said} ({pair.theirs['reason']})"


def _counted(words: Any) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common())


def print_directions(pairs: Sequence[Pair]) -> None:
    """Which of two related models came first: netweight's relation says so where it knows."""
    names = {True: "right", False: "wrong", None: "open"}
    held = [pair for pair in pairs if pair.row in KINDS and pair.our_column == "related"]
    said = _counted(names[pair.ours["direction"]] for pair in held)
    print(f"\nwhich came first, of {len(held)} children and parents: netweight {said}; modelDNA's compare does not say")


def print_merges(truth: Truth, theirs: Mapping[str, Any], result: LineageResult) -> dict[str, Any]:
    """Weights of every merge; for TIES, which takes the mean of parents, they are compared as shares."""
    print("\nmerges: weights of the true parents (modelDNA is told parents and base; netweight finds them)\n")
    found = {merge.model: merge for merge in result.merges}
    off: dict[str, list[float]] = {"modelDNA": [], "netweight": []}
    kept: dict[str, Any] = {}
    for name, answer in theirs.items():
        one = truth[name]
        method = one["detail"]["method"]
        given = dict(zip(one["parents"], one["weights"], strict=True))
        merge = found.get(name)
        own = dict(zip(merge.parents, merge.weights, strict=True)) if merge else {}
        kept[name] = {"method": method, "truth": given, "modeldna": answer, "netweight": own}
        words = {"modelDNA": answer["said"], "netweight": "merge" if merge else "no merge"}
        print(f"  {name:20} {method:12} truth {_weights(given.values())}")
        for tool, weights in (("modelDNA", answer.get("weights", {})), ("netweight", own)):
            held = {parent: weights[parent] for parent in given if parent in weights}
            line = f"    {tool:10} {words[tool]:14}"
            if len(held) < len(given) or (tool == "netweight" and len(own) > len(given)):
                print(f"{line} {answer.get('error', '') if tool == 'modelDNA' else f'parents {list(own)}'}")
                continue
            error = _off(held, given, shares=method.endswith("ties"))
            off[tool].append(error)
            print(f"{line} {_weights(held.values())}, off by {error:.3f}")
    print()
    for tool, errors in off.items():
        if errors:
            near = sum(error <= 0.02 for error in errors)
            said = f"median {median(errors):.3f} off, at most {max(errors):.3f}, {near} within 0.02"
            print(f"  {tool:10} weights for {len(errors)} of {len(theirs)} merges: {said}")
    print(f"  modelDNA says: {_counted(answer['said'] for answer in theirs.values())}")
    return kept


def _weights(values: Any) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _off(weights: Mapping[str, float], given: Mapping[str, float], *, shares: bool) -> float:
    """The largest error of a weight."""
    mine, total = (sum(weights.values()), sum(given.values())) if shares else (1.0, 1.0)
    return max(abs(weights[parent] / mine - given[parent] / total) for parent in given)


def print_times(pairs: Sequence[Pair], merges: Mapping[str, Any], models: int, whole: float) -> dict[str, float]:
    """Seconds a pair, over those that modelDNA did not refuse."""
    held = [pair for pair in pairs if pair.their_column != "refused" and "error" not in pair.ours]
    times = {
        "pairs": len(held),
        "modeldna": mean(pair.theirs["seconds"] for pair in held),
        "modeldna_comparing": mean(pair.theirs["comparing"] for pair in held),
        "netweight": mean(pair.ours["seconds"] for pair in held),
        "netweight_comparing": mean(pair.ours["comparing"] for pair in held),
        "netweight_lineage": whole,
    }
    print(f"\nseconds a pair, mean of the {len(held)} that both answered, one thread of linear algebra each")
    for tool, key in (("modelDNA", "modeldna"), ("netweight", "netweight")):
        print(f"  {tool:10} {times[key]:.3f}, of which comparing {times[f'{key}_comparing']:.3f}")
    if merges:
        times["modeldna_decompose"] = mean(answer["seconds"] for answer in merges.values())
        print(f"  modelDNA   {times['modeldna_decompose']:.3f} a merge")
    every = models * (models - 1) // 2
    print(f"  netweight  lineage of all {models} models, {every} pairs, with merges: {whole:.1f} s")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every answer goes too")
    parser.add_argument("--sample", type=int, default=150, help="independent pairs of descendants (default 150)")
    parser.add_argument("--seed", type=int, default=0, help="of that sample")
    asked = parser.parse_args()
    if not PYTHON.exists():
        sys.exit("modelDNA has no environment here: run benchmarks/lineage/setup.sh first")
    zoo = asked.zoo.resolve()
    truth = {one["name"]: one for one in json.loads((zoo / "truth.json").read_text(encoding="utf-8"))["models"]}
    pairs = pairs_of(truth, asked.sample, asked.seed)
    said = ask_modeldna(zoo, truth, pairs)
    result, whole = ask_netweight(zoo, truth, pairs)
    print(f"{len(truth)} models; modelDNA {said['versions']['modeldna']}, netweight {netweight.__version__}")
    print_pairs(pairs, KINDS, "children and their parents: what is right is derived, and related")
    print_pairs(pairs, INDEPENDENT, "models that have no base in common: what is right is no match, and unrelated")
    print_directions(pairs)
    merges = print_merges(truth, said["merges"], result)
    times = print_times(pairs, said["merges"], len(truth), whole)
    if asked.json:
        kept = {"versions": {**said["versions"], "netweight": netweight.__version__}, "seed": asked.seed,
                "times": times, "pairs": [asdict(pair) for pair in pairs], "merges": merges}  # fmt: skip
        asked.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
