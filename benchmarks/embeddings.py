"""Run the benchmark of `netweight embeddings`; figures go to benchmarks/results/<date>-embeddings.json.

    python benchmarks/embeddings.py                 # 151,936 x 2,560 in bfloat16, against scikit-learn for some k
    python benchmarks/embeddings.py --shape tiny    # seconds: does everything work?
    python benchmarks/embeddings.py --ks            # netweight's side alone

scikit-learn's side is the script baseline_sklearn.py for the k of --ks alone; what all k from 2 to the largest would
take is extrapolated by a straight line through them, and said to be.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from measure import CommandFailedError, machine, measure
from report import Row
from run import HERE, once, say
from scan_report import Part, ScanReport, as_json, as_markdown

SHAPES = {"4b": (151_936, 2_560), "tiny": (3_000, 64)}


@dataclass(frozen=True)
class Bench:
    """The model on the disk, and the programs to be measured on it."""

    shape: str
    folder: Path
    netweight: str
    max_k: int
    ks: tuple[int, ...]
    runs: int
    seed: int

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def log(self) -> Path:
        return self.folder / "last-command.log"

    @property
    def out(self) -> Path:
        return self.folder / "out"


def make(bench: Bench) -> None:
    rows, cols = SHAPES[bench.shape]
    say(f"making an embedding of {rows} x {cols}")
    script = [sys.executable, str(HERE / "make_embedding.py"), "--rows", str(rows), "--cols", str(cols)]
    measure([*script, "--out", str(bench.model), "--seed", str(bench.seed)], bench.log)


def line(points: dict[int, float], ks: range) -> float:
    """The sum over `ks` of the straight line that fits `points` best; of one point, its value for every k."""
    n = len(points)
    middle, level = sum(points) / n, sum(points.values()) / n
    spread = sum((k - middle) ** 2 for k in points)
    slope = sum((k - middle) * (v - level) for k, v in points.items()) / spread if spread else 0.0
    return sum(level + slope * (k - middle) for k in ks)


def against_sklearn(bench: Bench) -> Part:
    rows, cols = SHAPES[bench.shape]
    command = f"netweight embeddings {bench.shape} --max-k {bench.max_k}"
    program = [bench.netweight, "embeddings", str(bench.model), "--output-dir", str(bench.out)]
    program += ["--max-k", str(bench.max_k)]
    ours = [
        once(f"{command}: run {i + 1} of {bench.runs}", lambda: measure(program, bench.log)) for i in range(bench.runs)
    ]
    results = json.loads((bench.out / "clustering_results.json").read_text(encoding="utf-8"))
    curve = {point["k"]: point for point in results["anova"]}
    found = [Row(command, command, tuple(ours))]
    figures: dict[str, float] = {"optimal_k": results["optimal_k"], "search_rows": results["search"]["rows"]}
    facts = [f"k = {results['optimal_k']}: {results['reason']}."]
    if bench.ks:
        script = [sys.executable, str(HERE / "baseline_sklearn.py"), str(bench.model), "--ks", *map(str, bench.ks)]
        named = " ".join(map(str, bench.ks))
        label = f"scikit-learn, k = {named} alone"
        theirs = once(f"{label}: its only run", lambda: measure(script, bench.log))
        said = json.loads(bench.log.read_text(encoding="utf-8").splitlines()[-1])
        found.append(Row(label, f"python baseline_sklearn.py MODEL --ks {named}", (theirs,)))
        seconds = {int(k): each["seconds"] for k, each in said.items()}
        whole = line(seconds, range(2, bench.max_k + 1))
        ratio = whole / min(run.wall for run in ours)
        figures |= {"sklearn_seconds_all_k": whole, "ratio_all_k": ratio}
        figures |= {f"sklearn_seconds_k{k}": v for k, v in seconds.items()}
        apart = {k: curve[int(k)]["f_statistic"] / each["f"] - 1 for k, each in said.items() if int(k) in curve}
        figures |= {f"f_apart_k{k}": v for k, v in apart.items()}
        facts.append(
            f"scikit-learn's seconds by k: {', '.join(f'{k}: {v:.0f}' for k, v in seconds.items())}; all k from 2 to"
            f" {bench.max_k} about {whole:.0f} s (extrapolated by a line), {ratio:.1f} times netweight's whole run."
        )
        facts.append(
            "netweight's F, of centres fitted to a sample, against that of fits to all rows: "
            + ", ".join(f"k = {k}: {100 * v:+.2f}%" for k, v in apart.items())
            + "."
        )
    title = f"{bench.shape}: an embedding of {rows:,} x {cols:,}, bfloat16, {2 * rows * cols / 1e9:.2f} GB"
    return Part("embeddings", title, tuple(found), figures, tuple(facts), compared=False)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="4b")
    parser.add_argument("--max-k", type=int, default=30)
    parser.add_argument("--ks", type=int, nargs="*", default=[2, 10], help="k for scikit-learn's side")
    parser.add_argument("--workdir", type=Path, default=HERE / "data", metavar="DIR", help="where the model is made")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="runs of netweight, none of them a warm-up")
    parser.add_argument("--keep", action="store_true", help="keep the model that this run makes")
    parser.add_argument("--netweight", default=str(Path(sys.executable).with_name("netweight")), metavar="PROGRAM")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    if asked.runs < 1:
        parser.error(f"--runs {asked.runs}: at least one run is needed")
    if shutil.which(asked.netweight) is None:
        parser.error(
            f"{asked.netweight} is not a program; install the project in this environment, or name one with --netweight"
        )
    return asked


def main(arguments: list[str] | None = None) -> int:
    asked = parsed(arguments)
    folder = asked.workdir / f"embedding-{asked.shape}"
    bench = Bench(asked.shape, folder, asked.netweight, asked.max_k, tuple(asked.ks), asked.runs, asked.seed)
    folder.mkdir(parents=True, exist_ok=True)
    kept = bench.model.exists()
    try:
        make(bench)
        part = against_sklearn(bench)
    except CommandFailedError as problem:
        say(f"error: {problem}")
        return 1
    finally:
        for path in (bench.out, *(() if asked.keep or kept else (bench.model,))):
            if path.is_dir():
                shutil.rmtree(path)
        bench.log.unlink(missing_ok=True)
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    report = ScanReport(date, asked.shape, machine(), (part,), title="embeddings")
    asked.results.mkdir(parents=True, exist_ok=True)
    path = asked.results / f"{date}-embeddings{'' if asked.shape == '4b' else f'-{asked.shape}'}.json"
    path.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    print(as_markdown(report), flush=True)
    say(f"figures: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
