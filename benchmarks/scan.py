"""Run the benchmark of `netweight scan` and `netweight compare`; figures go to benchmarks/results/<date>-scan.json.

    python benchmarks/scan.py                       # GPT-2's shape against WeightWatcher, and the 1b shape
    python benchmarks/scan.py --shape tiny          # seconds: does everything work?
    python benchmarks/scan.py --parts elements compare

The part `gpt2` needs WeightWatcher's environment: benchmarks/weightwatcher/setup.sh makes it once.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2_shape import GPT2_SHAPES, Gpt2
from measure import CommandFailedError, Measurement, machine, measure, median
from report import Row
from run import HERE, Bench, make_models, once, remove, repeat, say
from scan_report import Part, ScanReport, as_json, as_markdown, change_differences, tail_differences
from shapes import SHAPES, Shape

WATCHER = HERE / "weightwatcher" / ".venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
CHEAP = ("basic_stats", "quantization", "sparsity")


@dataclass(frozen=True)
class Scan:
    """The models on the disk and the programs to be measured on them."""

    models: Bench
    gpt2: Gpt2
    gpt2_folder: Path
    runs: int
    weightwatcher: bool

    @property
    def netweight(self) -> str:
        return self.models.netweight

    @property
    def folder(self) -> Path:
        return self.models.folder

    def out(self, name: str) -> Path:
        return self.folder / name

    def program(self, *arguments: str | Path) -> Callable[[], Measurement]:
        """netweight with these arguments, to be measured."""
        return lambda: measure([self.netweight, *map(str, arguments)], self.models.log)

    def scan(self, model: Path, *methods: str, output: Path) -> Callable[[], Measurement]:
        return self.program("scan", model, "--methods", *methods, "--output", output)


def spectrum_flops(shape: Shape) -> float:
    """Operations for the singular values of every matrix: the Gram matrix of the short side, then its eigenvalues.

    m^2 n for one triangle of the Gram matrix, 4/3 m^3 for the reduction to a tridiagonal matrix (Golub and Van Loan).
    """
    sides = [sorted(dims) for dims in shape.tensors().values() if len(dims) == 2]
    return sum(m * m * n + 4 / 3 * m**3 for m, n in sides)


def against_weightwatcher(bench: Scan) -> Part:
    made = [sys.executable, str(HERE / "gpt2_shape.py"), "--shape", bench.gpt2.name, "--out", str(bench.gpt2_folder)]
    measure(made, bench.models.log)
    ours = bench.out("gpt2-netweight.json")
    command = f"netweight scan {bench.gpt2.name} --methods all"
    alike = f"{command} --no-split"  # the matrices that WeightWatcher takes, no projections inside fused ones
    same = repeat(alike, bench.scan(bench.gpt2_folder, "all", "--no-split", output=ours), bench.runs)
    measured = repeat(command, bench.scan(bench.gpt2_folder, "all", output=ours), bench.runs)
    wider = f"{alike} randomize"  # with the spectra of the elements in random order
    random = repeat(wider, bench.scan(bench.gpt2_folder, "all", "randomize", "--no-split", output=ours), bench.runs)
    rows = [Row(alike, alike, tuple(same)), Row(command, command, tuple(measured)), Row(wider, wider, tuple(random))]
    found: dict[str, float] = {"matrices": bench.gpt2.matrices, "parameters": bench.gpt2.parameters}
    facts = []
    labels: dict[str, tuple[str, ...]] = {
        "WeightWatcher": (),
        "WeightWatcher, every column": ("--every-matrix", "--every-column"),
        "WeightWatcher, every matrix": ("--every-matrix",),
    }
    for label, options in labels.items():
        if not bench.weightwatcher:
            break
        theirs = bench.out("gpt2-weightwatcher.csv")
        script = [str(WATCHER), str(HERE / "weightwatcher" / "analyze.py"), str(bench.gpt2_folder)]
        whole = [*script, "--output", str(theirs), *options]
        runs = repeat(label, lambda whole=whole: measure(whole, bench.models.log), bench.runs)
        said = bench.models.log.read_text(encoding="utf-8").splitlines()[-1]
        rows.append(Row(label, " ".join(["analyze.py", bench.gpt2.name, *options]), tuple(runs), said))
        if options == ("--every-matrix",):
            apart = tail_differences(ours, theirs)
            found |= {f"apart_{name}": value for name, value in apart.items()}
            named = ", ".join(f"{name} {value:.0e}" for name, value in apart.items() if name != "matrices")
            facts.append(f"Largest relative differences over {apart['matrices']} matrices: {named}.")
    size = f"{bench.gpt2.matrices} matrices, {bench.gpt2.parameters / 1e6:.1f} M parameters, float32"
    return Part("gpt2", f"{bench.gpt2.name}: {size}", tuple(rows), found, tuple(facts))


def elements(bench: Scan) -> Part:
    command = f"netweight scan {bench.models.shape.name} --methods {' '.join(CHEAP)}"
    runs = repeat(command, bench.scan(bench.models.base, *CHEAP, output=bench.out("elements.json")), bench.runs)
    one = (*CHEAP, "--include", "model.norm.weight")
    started = repeat(
        "the same for one vector", bench.scan(bench.models.base, *one, output=bench.out("started.json")), bench.runs
    )
    wall, start = median(runs).wall, median(started).wall
    rate, inner = bench.models.shape.parameters / wall, bench.models.shape.parameters / (wall - start)
    fact = (
        f"{rate / 1e9:.3f} G elements per second of the whole process; {inner / 1e9:.3f} G without the {start:.2f} s"
        " that a scan of one vector takes (start, imports, loading the compiled loops)."
    )
    title = f"{bench.models.shape.name}: {bench.models.shape.parameters / 1e9:.3f} G parameters, bfloat16, no spectra"
    rows = (
        Row(command, command, tuple(runs)),
        Row("the same for one vector", f"{command} --include ...", tuple(started)),
    )
    return Part("elements", title, rows, {"elements_per_s": rate, "elements_per_s_without_start": inner}, (fact,))


def spectra(bench: Scan) -> Part:
    shape, larger = bench.models.shape, SHAPES["8b"]
    methods = ("spectral", "tail")
    command = f"netweight scan {shape.name} --methods {' '.join(methods)}"
    run = once(f"{command}: its only run", bench.scan(bench.models.base, *methods, output=bench.out("spectra.json")))
    flops, more = spectrum_flops(shape), spectrum_flops(larger)
    figures = {"flops": flops, "flops_per_s": flops / run.wall, "flops_8b": more, "seconds_8b": run.wall * more / flops}
    fact = (
        f"{flops / 1e12:.3g} T operations, {figures['flops_per_s'] / 1e9:.1f} G a second. At this rate the "
        f"{more / 1e12:.0f} T of the 8b shape take {figures['seconds_8b'] / 60:.0f} minutes (extrapolated)."
    )
    return Part("spectra", f"{shape.name}: every singular value", (Row(command, command, (run,)),), figures, (fact,))


def shipped(bench: Scan) -> Part:
    command = f"netweight scan {bench.models.shape.name} --methods formats"
    runs = repeat(command, bench.scan(bench.models.base, "formats", output=bench.out("formats.json")), bench.runs)
    title = f"{bench.models.shape.name}: errors in 20 formats, of sampled rows"
    return Part("formats", title, (Row(command, command, tuple(runs)),), {}, ())


def comparison(bench: Scan) -> Part:
    base, other = bench.models.base, bench.models.fine_tunes[0]
    ours, theirs = bench.out("compare-netweight.json"), bench.out("compare-torch.json")
    command = "netweight compare A B"
    runs = repeat(command, bench.program("compare", base, other, "--output", ours), bench.runs)
    script = [sys.executable, str(HERE / "compare_torch.py"), str(base), str(other), "--output", str(theirs)]
    torch_run = once("compare_torch.py: its only run", lambda: measure(script, bench.models.log))
    said = bench.models.log.read_text(encoding="utf-8").splitlines()[-1]
    rows = (
        Row(command, f"{command} --output FILE", tuple(runs)),
        Row("compare_torch.py", "python compare_torch.py A B", (torch_run,), said),
    )
    apart = change_differences(ours, theirs)
    named = ", ".join(f"{name} {value:.0e}" for name, value in apart.items() if name != "parameters")
    fact = f"Largest differences over {apart['parameters']} parameters (relative; percentages in points): {named}."
    title = f"{bench.models.shape.name}: two models compared, {bench.models.input_bytes / 1e9:.1f} GB in all"
    return Part("compare", title, rows, {f"apart_{name}": value for name, value in apart.items()}, (fact,))


PARTS: dict[str, Callable[[Scan], Part]] = {
    "gpt2": against_weightwatcher,
    "elements": elements,
    "spectra": spectra,
    "formats": shipped,
    "compare": comparison,
}


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--shape", choices=("tiny", "1b"), default="1b", help="tiny also makes GPT-2 tiny")
    parser.add_argument("--workdir", type=Path, default=HERE / "data", metavar="DIR", help="where the models are made")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="measured runs after the warm-up (default 3)")
    parser.add_argument("--skip-weightwatcher", action="store_true", help="measure netweight's side alone")
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
    if "gpt2" in asked.parts and not asked.skip_weightwatcher and not WATCHER.exists():
        parser.error(
            "WeightWatcher's environment is not there; run benchmarks/weightwatcher/setup.sh, or give "
            "--skip-weightwatcher"
        )
    return asked


def main(arguments: list[str] | None = None) -> int:
    asked = parsed(arguments)
    models = Bench(replace(SHAPES[asked.shape], fine_tunes=1), asked.workdir / asked.shape, asked.netweight)
    gpt2 = GPT2_SHAPES["gpt2-tiny" if asked.shape == "tiny" else "gpt2"]
    bench = Scan(models, gpt2, asked.workdir / gpt2.name, asked.runs, not asked.skip_weightwatcher)
    models.folder.mkdir(parents=True, exist_ok=True)
    kept = {path for path in (models.base, *models.fine_tunes, bench.gpt2_folder) if path.exists()}
    try:
        if set(asked.parts) - {"gpt2"}:
            make_models(models, asked.seed)
        parts = tuple(PARTS[name](bench) for name in asked.parts)
    except CommandFailedError as problem:
        say(f"error: {problem}")
        return 1
    finally:
        if not asked.keep:
            clear(bench, kept)
    report = ScanReport(dt.datetime.now(tz=dt.UTC).date().isoformat(), asked.shape, machine(), parts)
    asked.results.mkdir(parents=True, exist_ok=True)
    path = asked.results / f"{report.date}-scan{'' if asked.shape == '1b' else f'-{asked.shape}'}.json"
    path.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    print(as_markdown(report), flush=True)
    say(f"figures: {path}")
    return 0


def clear(bench: Scan, kept: set[Path]) -> None:
    """Remove what this run wrote below the workdir, but none of `kept`."""
    remove(bench.models, kept)
    if bench.gpt2_folder not in kept and bench.gpt2_folder.is_dir():
        shutil.rmtree(bench.gpt2_folder)
    for name in (
        "gpt2-netweight",
        "gpt2-weightwatcher",
        "elements",
        "started",
        "spectra",
        "formats",
        "compare-netweight",
        "compare-torch",
    ):
        for suffix in (".json", ".csv"):
            bench.out(name + suffix).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
