"""Run the benchmark: make the models, measure whole processes, print a table, keep the figures in benchmarks/results.

python benchmarks/run.py --shapes 1b
python benchmarks/run.py --shapes 3b 8b --skip-baseline --cold
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measure import DROPPERS, CommandFailedError, Measurement, drop_page_cache, machine, measure
from report import BASELINE, DELTA, INFO, Cold, Report, Row, agreement, as_json, as_markdown
from shapes import SHAPES, Shape

HERE = Path(__file__).resolve().parent
MODELS = "--base B --models M... --outdir OUT"
BASELINE_SHAPES = ("tiny", "1b")  # the larger ones do not fit into the memory that the baseline would need


@dataclass(frozen=True)
class Bench:
    """One shape's models on the disk and the programs to be measured on them."""

    shape: Shape
    folder: Path
    netweight: str

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def fine_tunes(self) -> list[Path]:
        return [self.folder / f"fine-tune-{i}" for i in range(1, self.shape.fine_tunes + 1)]

    @property
    def files(self) -> list[Path]:
        return [file for folder in (self.base, *self.fine_tunes) for file in sorted(folder.glob("*.safetensors"))]

    @property
    def input_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def log(self) -> Path:
        return self.folder / "last-command.log"

    @property
    def ours(self) -> Path:
        return self.folder / "out-netweight"

    @property
    def theirs(self) -> Path:
        return self.folder / "out-baseline"

    def models(self, outdir: Path) -> list[str]:
        return ["--base", str(self.base), "--models", *map(str, self.fine_tunes), "--outdir", str(outdir)]

    def delta(self) -> Measurement:
        return measure([self.netweight, "delta", *self.models(self.ours)], self.log)

    def info(self) -> Measurement:
        return measure([self.netweight, "info", str(self.base)], self.log)

    def baseline(self) -> Measurement:
        script = HERE / "baseline_torch.py"
        return measure([sys.executable, str(script), *self.models(self.theirs)], self.log)

    def dd(self) -> float:
        """Seconds that dd takes for the same files."""
        return sum(measure(["dd", f"if={file}", "of=/dev/null", "bs=4M"], self.log).wall for file in self.files)


def make_models(bench: Bench, seed: int) -> None:
    script = HERE / "make_models.py"
    say(f"making {bench.shape.name} models, {2 * bench.shape.parameters / 1e9:.1f} GB each")
    shape, count = bench.shape.name, str(bench.shape.fine_tunes)
    arguments = ["--shape", shape, "--fine-tunes", count, "--out", str(bench.folder), "--seed", str(seed)]
    measure([sys.executable, str(script), *arguments], bench.log)


def repeat(label: str, command: Callable[[], Measurement], runs: int) -> list[Measurement]:
    """`runs` measurements after one that is not counted: it compiles, and fills the page cache."""
    say(f"{label}: warm-up")
    command()
    return [once(f"{label}: run {i + 1} of {runs}", command) for i in range(runs)]


def once(label: str, command: Callable[[], Measurement]) -> Measurement:
    say(label)
    measured = command()
    say(f"  {measured.wall:.2f} s, {measured.cpu:.2f} s CPU, {measured.peak_rss / 1e6:.0f} MB")
    return measured


def measure_cold(bench: Bench, runs: int, by: str) -> Cold:
    """Rates of dd and of `netweight delta`, the page cache emptied before each; who goes first alternates."""
    dd: list[float] = []
    ours: list[Measurement] = []
    means = ""

    def run_dd() -> None:
        dd.append(bench.dd())
        say(f"  dd {bench.input_bytes / dd[-1] / 1e9:.2f} GB/s")

    def run_ours() -> None:
        ours.append(bench.delta())
        say(f"  netweight {bench.input_bytes / ours[-1].wall / 1e9:.2f} GB/s")

    for i in range(runs):
        say(f"cold: round {i + 1} of {runs}")
        for command in (run_dd, run_ours) if i % 2 == 0 else (run_ours, run_dd):
            means = drop_page_cache(bench.files, by)
            command()
    return Cold(means, bench.input_bytes, tuple(dd), tuple(ours))


def bench_shape(bench: Bench, asked: argparse.Namespace) -> Report:
    make_models(bench, asked.seed)
    baseline = bench.shape.name in BASELINE_SHAPES and not asked.skip_baseline
    rows = [Row(DELTA, f"netweight delta {MODELS}", tuple(repeat("delta", bench.delta, asked.runs)))]
    if baseline:
        theirs = once("baseline: its only run", bench.baseline)
        stages = bench.log.read_text().splitlines()[-1]
        rows.append(Row(BASELINE, f"python baseline_torch.py {MODELS}", (theirs,), stages))
    rows.append(Row(INFO, "netweight info B", tuple(repeat("info", bench.info, asked.runs))))
    return Report(
        date=dt.datetime.now(tz=dt.UTC).date().isoformat(),
        shape=bench.shape.name,
        parameters=bench.shape.parameters,
        fine_tunes=bench.shape.fine_tunes,
        input_bytes=bench.input_bytes,
        machine=machine(),
        rows=tuple(rows),
        cold=measure_cold(bench, asked.runs, asked.cold_by) if asked.cold else None,
        agreement=agreement(bench.ours, bench.theirs) if baseline else (),
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def remove(bench: Bench, kept: set[Path]) -> None:
    """Remove what this run wrote below the workdir, but none of `kept`."""
    for path in (bench.base, *bench.fine_tunes, bench.ours, bench.theirs):
        if path not in kept and path.is_dir():
            shutil.rmtree(path)
    bench.log.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1b"])
    parser.add_argument("--workdir", type=Path, default=HERE / "data", metavar="DIR", help="where the models are made")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="measured runs after the warm-up (default 3)")
    parser.add_argument("--skip-baseline", action="store_true", help="the baseline takes minutes")
    parser.add_argument("--cold", action="store_true", help="also read with an empty page cache, beside dd")
    parser.add_argument("--cold-by", choices=["auto", *DROPPERS], default="auto", help="how the page cache is emptied")
    parser.add_argument("--keep", action="store_true", help="keep the models that this run makes")
    parser.add_argument("--netweight", default=str(Path(sys.executable).with_name("netweight")), metavar="PROGRAM")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    if asked.runs < 1:
        parser.error(f"--runs {asked.runs}: at least one run is needed")
    if shutil.which(asked.netweight) is None:
        parser.error(
            f"{asked.netweight} is not a program; install the project in this environment, or name one with --netweight"
        )
    for name in asked.shapes:
        bench = Bench(SHAPES[name], asked.workdir / name, asked.netweight)
        bench.folder.mkdir(parents=True, exist_ok=True)
        kept = {path for path in (bench.base, *bench.fine_tunes) if path.exists()}
        try:
            report = bench_shape(bench, asked)
        except CommandFailedError as problem:
            say(f"error: {name}: {problem}")
            return 1
        finally:
            if not asked.keep:
                remove(bench, kept)
        asked.results.mkdir(parents=True, exist_ok=True)
        path = asked.results / f"{report.date}-{name}.json"
        path.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
        print(as_markdown(report), flush=True)
        say(f"figures: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
