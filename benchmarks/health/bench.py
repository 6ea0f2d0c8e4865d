"""What the checks of health tell: trained models from untrained ones, and planted faults from none.

    python benchmarks/health/bench.py WORK [--real FOLDER]

Models are trained in WORK (train.py: some ten minutes on two cores), and joined by the published files of FOLDER, where
it is given. Of each trained one there are three twins as before training, and one for each fault that has a place in
it (corpus.py). Prints the tables of docs/measures/health.md.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import corpus
import numpy as np
from corpus import Model
from safetensors.numpy import load_file
from train import TOKENS, python_text, train_all

import netweight
from netweight.jobs.scan.result import ScanRow, assess_rows
from netweight.measures.health import Health
from netweight.measures.health_checks import CHECKS
from netweight.statistics.token_rows import TokenSums, axes_of

TABLES = ("embed", "wte", "lm_head", "decoder")
"""Words in the names of token tables."""


@dataclass(frozen=True)
class Judged:
    model: Model
    place: str  # the matrix with the fault
    rows: tuple[ScanRow, ...]

    @property
    def health(self) -> Health:
        return assess_rows(self.rows)

    def median_of(self, field: str) -> float:
        """Over the matrices with sides of 16 and more; nan where there are none."""
        held = [row.value(field) for row in self.rows if min(row.rows, row.cols) >= 16 and not row.fused]
        known = [float(v) for v in held if v is not None and np.isfinite(v)]
        return median(known) if known else float("nan")


def judged(work: Path, real: Path | None) -> list[Judged]:
    """Every model of the corpus, scanned; kept in WORK for another look."""
    kept = work / "judged.pickle"
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    train_all(work / "trained")
    made = corpus.make(real, work / "trained", work / "models")
    found = [Judged(model, place, netweight.scan(model.path, methods="all").rows) for model, place in made]
    kept.write_bytes(pickle.dumps(found))
    return found


def area(high: Sequence[float], low: Sequence[float]) -> float:
    """Under the ROC curve: the chance that one of `high` is above one of `low`; ties count half."""
    above = [(a > b) + 0.5 * (a == b) for a in high for b in low]
    return sum(above) / len(above) if above else float("nan")


def threshold_of(high: Sequence[float], low: Sequence[float]) -> float:
    """Where the rates of both kinds of errors sum to the least; in the middle of the widest gap that does."""
    values = sorted({*high, *low})
    cuts = [values[0] - 1, *((a + b) / 2 for a, b in pairwise(values)), values[-1] + 1]
    return min(cuts, key=lambda cut: np.mean([v <= cut for v in high]) + np.mean([v > cut for v in low]))


SCORES: dict[str, Callable[[Judged], float]] = {
    "sigma_1 beside noise's": lambda j: j.health.training.ratio if j.health.training else float("nan"),
    "alpha, low": lambda j: -j.median_of("tail.alpha"),
    "stable rank / full rank, low": lambda j: -j.median_of("spectral.stable_rank_ratio"),
    "condition number, high": lambda j: j.median_of("spectral.condition_number"),
    "kurtosis, high": lambda j: j.median_of("basic_stats.kurtosis_excess"),
    "SQNR in int8, low": lambda j: -j.median_of("quantization.sqnr_db"),
}  # fmt: skip


def show_training(all_of: Sequence[Judged]) -> None:
    """Trained against untrained, by the median over a model's matrices."""
    print("| median of a model's matrices | AUC | trained ones wrongly | untrained ones missed |")
    print("| --- | ---: | ---: | ---: |")
    for name, score in SCORES.items():
        known = [(j.model, value) for j in all_of if j.model.kind != "damaged" and np.isfinite(value := score(j))]
        trained = [(m.family, v) for m, v in known if m.kind == "trained"]
        others = [(m.family, v) for m, v in known if m.kind == "untrained"]
        wrong = missed = 0
        for family in {f for f, _ in (*trained, *others)}:  # a threshold from the other families alone
            cut = threshold_of([v for f, v in trained if f != family], [v for f, v in others if f != family])
            wrong += sum(v <= cut for f, v in trained if f == family)
            missed += sum(v > cut for f, v in others if f == family)
        value = area([v for _, v in trained], [v for _, v in others])
        print(f"| {name} | {value:.2f} | {wrong} of {len(trained)} | {missed} of {len(others)} |")


def found_in(judged: Judged, key: str, place: str) -> bool:
    """Whether a check finds fault with the matrix `place`; of two copies either may be named first."""
    return any(f.check == key and place in (f.parameter, f.other) for f in judged.health.findings)


def show_checks(all_of: Sequence[Judged]) -> None:
    """Each check: findings in trained and in untrained models, and in the damaged matrices of each fault."""
    trained = [j for j in all_of if j.model.kind == "trained"]
    others = [j for j in all_of if j.model.kind == "untrained"]
    print("\n| check | trained models with a finding | untrained ones | faults found |\n| --- | ---: | ---: | --- |")
    for check in CHECKS:
        said = [sum(any(f.check == check.key for f in j.health.findings) for j in kind) for kind in (trained, others)]
        caught = []
        for fault in (*corpus.FAULTS, *corpus.HEADS):
            planted = [j for j in all_of if j.model.how == fault]
            hits = sum(found_in(j, check.key, j.place) for j in planted)
            usual = sum(
                found_in(twin, check.key, j.place)
                for j in planted
                for twin in trained
                if twin.model.name.split("--")[0] == j.model.name.split("--")[0]
            )
            if hits > usual:
                caught.append(f"{fault} {hits} of {len(planted)}" + (f" ({usual} before)" if usual else ""))
        print(f"| {check.label} | {said[0]} of {len(trained)} | {said[1]} of {len(others)} | {', '.join(caught)} |")


def show_tokens(trained: Path) -> None:
    """Rows of token tables that look as if training did not make them, by how often the text had their tokens."""
    counts = np.bincount(python_text().numpy(), minlength=TOKENS)
    kinds = {"never": counts == 0, "below 2,000 times": (counts > 0) & (counts < 2000), "more often": counts >= 2000}
    heads = [f"{name}, of {mask.sum()}" for name, mask in kinds.items()]
    print(f"\n| table | {' | '.join(heads)} |\n| --- | {' | '.join('---:' for _ in kinds)} |")
    for path in sorted(trained.glob("*-trained.safetensors")):
        for name, table in load_file(path).items():
            if table.ndim != 2 or len(table) != TOKENS or not any(part in name for part in TABLES):
                continue
            sums = TokenSums(axes_of(table, np.arange(TOKENS)))
            sums.take(table)
            found = sums.finish().untrained
            told = [str(int((found & mask).sum())) for mask in kinds.values()]
            print(f"| {path.stem} {name} | {' | '.join(told)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--real", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    all_of = judged(asked.work, asked.real)
    kinds = {kind: sum(j.model.kind == kind for j in all_of) for kind in ("trained", "untrained", "damaged")}
    families = len({j.model.family for j in all_of})
    trained, untrained, damaged = kinds.values()
    print(f"{trained} trained models of {families} families, {untrained} untrained, {damaged} damaged\n")
    show_training(all_of)
    show_checks(all_of)
    show_tokens(asked.work / "trained")


if __name__ == "__main__":
    main()
