"""Run the benchmark of `netweight merge`; figures go to benchmarks/results/<date>-merge.json.

    python benchmarks/merge.py                      # the 1b shape against mergekit
    python benchmarks/merge.py --shape tiny         # a minute: does everything work?
    python benchmarks/merge.py --parts 3b           # base and five fine-tunes of 3.2 G parameters: 45 GB of disk

Comparisons need mergekit's environment: benchmarks/mergekit/setup.sh makes it once.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from measure import CommandFailedError, Measurement, machine, measure, median
from report import Row
from run import HERE, Bench, make_models, once, remove, repeat, say
from scan_report import Part, ScanReport, as_json, as_markdown
from shapes import SHAPES

MERGEKIT = HERE / "mergekit" / ".venv" / ("Scripts" if sys.platform == "win32" else "bin") / "mergekit-yaml"
MERGEKIT_OPTIONS = ("--no-write-model-card", "--no-copy-tokenizer", "--quiet")
OURS, THEIRS = "out-netweight", "out-mergekit"
SOURCES = {
    "task_arithmetic": {"weight": 0.4},
    "ties": {"weight": 0.4, "density": 0.5},
}


@dataclass(frozen=True)
class Merge:
    """The models on the disk and the programs to be measured on them."""

    models: Bench
    large: Bench
    runs: int
    mergekit: str | None

    def recipe(self, bench: Bench, method: str) -> Path:
        """Write the recipe of all fine-tunes, of the first one for slerp, and say where it is."""
        path = bench.folder / f"{method}.yml"
        path.write_text(recipe_text(method, bench.base, bench.fine_tunes), encoding="utf-8")
        return path

    def ours(self, bench: Bench, recipe: Path, *options: str) -> Callable[[], Measurement]:
        out = bench.folder / OURS
        return lambda: into(out, [bench.netweight, "merge", str(recipe), "--output", str(out), *options], bench.log)

    def theirs(self, bench: Bench, recipe: Path) -> Callable[[], Measurement]:
        out = bench.folder / THEIRS
        # it asks the hub about every model's name, unless it is told to stay offline
        command = ["env", "HF_HUB_OFFLINE=1", str(self.mergekit), str(recipe), str(out), *MERGEKIT_OPTIONS]
        return lambda: into(out, command, bench.log)


def into(out: Path, command: list[str], log: Path) -> Measurement:
    """Measure a command that makes the folder `out`; what an earlier one left there is removed before, and what it left
    to be written to the disk is written: a system with much of that waiting makes writers wait.
    """
    if out.is_dir():
        shutil.rmtree(out)
    os.sync()
    return measure(command, log)


def recipe_text(method: str, base: Path, fine_tunes: list[Path]) -> str:
    """A recipe in mergekit's YAML: JSON, which is YAML too, leaves nothing to be quoted."""
    made: dict[str, object] = {"merge_method": method, "base_model": str(base), "dtype": "bfloat16"}
    if method == "slerp":
        made |= {"models": [{"model": str(base)}, {"model": str(fine_tunes[0])}], "parameters": {"t": 0.5}}
    else:
        made["models"] = [{"model": str(model), "parameters": SOURCES[method]} for model in fine_tunes]
    return json.dumps(made, indent=1) + "\n"


def against_mergekit(bench: Merge, method: str) -> Part:
    models = bench.models
    recipe = bench.recipe(models, method)
    label = f"netweight merge, {method}"
    runs = repeat(label, bench.ours(models, recipe, "--no-fsync"), bench.runs)
    rows = [Row(label, "netweight merge RECIPE --output DIR --no-fsync", tuple(runs))]
    found: dict[str, float] = {}
    facts: tuple[str, ...] = ()
    if bench.mergekit:
        times = bench.runs if method == "task_arithmetic" else 1  # the others take minutes
        theirs = [once(f"mergekit: run {i + 1} of {times}", bench.theirs(models, recipe)) for i in range(times)]
        rows.append(Row("mergekit", f"mergekit-yaml RECIPE DIR {' '.join(MERGEKIT_OPTIONS)}", tuple(theirs)))
        found, fact = agreement(models)
        facts = (fact,)
        shutil.rmtree(models.folder / THEIRS)
    count = 1 if method == "slerp" else len(models.fine_tunes)
    size = sum(file.stat().st_size for folder in (models.base, *models.fine_tunes[:count]) for file in shards(folder))
    title = f"{models.shape.name}, {method}: base and {count} fine-tune{'s' * (count > 1)}, {size / 1e9:.1f} GB"
    return Part(method, title, tuple(rows), found, facts)


def agreement(models: Bench) -> tuple[dict[str, float], str]:
    """How far the two outputs lie apart, by compare_merges.py: in a process of its own, which may take memory."""
    outputs = [str(models.folder / OURS), str(models.folder / THEIRS)]
    measure([sys.executable, str(HERE / "compare_merges.py"), str(models.base), *outputs], models.log)
    found = json.loads(models.log.read_text(encoding="utf-8").splitlines()[-1])
    return found, (
        f"{found['equal']:.1%} of the merged weights are the same number; differences by the change from the base: "
        f"{found['mean_square']:.1e} in the root mean square, {found['largest']:.1e} at most."
    )


def durable(bench: Merge) -> Part:
    """The default, which brings everything to the disk before the result appears, and dd with the same bytes."""
    models = bench.models
    recipe = bench.recipe(models, "task_arithmetic")
    ours: list[Measurement] = []
    copies: list[Measurement] = []
    copy = models.folder / "copy"
    fast = repeat("netweight merge --no-fsync", bench.ours(models, recipe, "--no-fsync"), bench.runs)
    files = shards(models.folder / OURS)
    size = sum(file.stat().st_size for file in files)
    script = " && ".join(f"dd if={quote(str(file))} of={quote(str(copy))} bs=4M conv=fsync" for file in files)
    for i in range(bench.runs):
        ours.append(once(f"durable: run {i + 1} of {bench.runs}", bench.ours(models, recipe)))
        copy.unlink(missing_ok=True)
        os.sync()
        copies.append(once(f"dd: run {i + 1} of {bench.runs}", lambda: measure(["sh", "-c", script], models.log)))
    copy.unlink(missing_ok=True)
    times = median(ours).wall / median(copies).wall
    fact = (
        f"{size / 1e9:.2f} GB written: durable, netweight takes {times:.2f} times as long as dd with conv=fsync "
        f"({size / median(copies).wall / 1e9:.2f} GB/s)."
    )
    rows = (
        Row("netweight merge", "netweight merge RECIPE --output DIR", tuple(ours)),
        Row("dd bs=4M conv=fsync", "dd of the merged files", tuple(copies)),
        Row("netweight merge --no-fsync", "the same with --no-fsync", tuple(fast)),
    )
    title = f"{models.shape.name}, task_arithmetic: on the disk before it appears"
    return Part("durable", title, rows, {"durable_over_dd": times}, (fact,), compared=False)


def large(bench: Merge) -> Part:
    """Memory does not grow with the model: the larger shape, more models, several shards."""
    models = bench.large
    rows = []
    for method in SOURCES:
        recipe = bench.recipe(models, method)
        run = once(f"{models.shape.name} {method}: its only run", bench.ours(models, recipe, "--no-fsync"))
        rows.append(Row(f"netweight merge, {method}", f"netweight merge {method}.yml --no-fsync", (run,)))
    title = f"{models.shape.name}: base and {len(models.fine_tunes)} fine-tunes, {models.input_bytes / 1e9:.1f} GB"
    return Part("3b", title, tuple(rows), {}, compared=False)


PARTS: dict[str, Callable[[Merge], Part]] = {
    "task_arithmetic": lambda bench: against_mergekit(bench, "task_arithmetic"),
    "ties": lambda bench: against_mergekit(bench, "ties"),
    "slerp": lambda bench: against_mergekit(bench, "slerp"),
    "durable": durable,
    "3b": large,
}
DEFAULT_PARTS = [name for name in PARTS if name != "3b"]


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=DEFAULT_PARTS)
    parser.add_argument("--shape", choices=("tiny", "1b"), default="1b", help="tiny also takes the place of 3b")
    parser.add_argument("--workdir", type=Path, default=HERE / "data", metavar="DIR", help="where the models are made")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="measured runs after the warm-up (default 3)")
    parser.add_argument("--skip-mergekit", action="store_true", help="measure netweight's side alone")
    parser.add_argument("--keep", action="store_true", help="keep the models that this run makes")
    parser.add_argument("--netweight", default=str(Path(sys.executable).with_name("netweight")), metavar="PROGRAM")
    parser.add_argument("--mergekit", default=str(MERGEKIT), metavar="PROGRAM", help="another mergekit-yaml")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    if asked.runs < 1:
        parser.error(f"--runs {asked.runs}: at least one run is needed")
    if shutil.which(asked.netweight) is None:
        parser.error(
            f"{asked.netweight} is not a program; install the project in this environment, or name one with --netweight"
        )
    against = set(asked.parts) - {"durable", "3b"}
    if against and not asked.skip_mergekit and shutil.which(asked.mergekit) is None:
        parser.error("mergekit's environment is not there; run benchmarks/mergekit/setup.sh, or give --skip-mergekit")
    return asked


def main(arguments: list[str] | None = None) -> int:
    asked = parsed(arguments)
    workdir = asked.workdir.absolute()  # recipes name the models by their paths
    big = SHAPES["tiny" if asked.shape == "tiny" else "3b"]
    models = Bench(SHAPES[asked.shape], workdir / asked.shape, asked.netweight)
    larger = Bench(big, workdir / big.name, asked.netweight)
    bench = Merge(models, larger, asked.runs, None if asked.skip_mergekit else asked.mergekit)
    usual, other = [name for name in asked.parts if name != "3b"], [name for name in asked.parts if name == "3b"]
    parts: list[Part] = []
    for one, names in ((models, usual), (larger, other)):
        if not names:
            continue
        one.folder.mkdir(parents=True, exist_ok=True)
        kept = {path for path in (one.base, *one.fine_tunes) if asked.keep or path.exists()}
        try:
            make_models(one, asked.seed)
            parts += [PARTS[name](bench) for name in names]
        except CommandFailedError as problem:
            say(f"error: {problem}")
            return 1
        finally:
            clear(one, kept)
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    report = ScanReport(date, asked.shape, machine(), tuple(parts), title="merge")
    asked.results.mkdir(parents=True, exist_ok=True)
    path = asked.results / f"{report.date}-merge{'' if asked.shape == '1b' else f'-{asked.shape}'}.json"
    path.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    print(as_markdown(report), flush=True)
    say(f"figures: {path}")
    return 0


def clear(bench: Bench, kept: set[Path]) -> None:
    """Remove what this run wrote below the models' folder, but none of `kept`."""
    remove(bench, kept)
    for name in (OURS, THEIRS):
        if (bench.folder / name).is_dir():
            shutil.rmtree(bench.folder / name)
    for method in (*SOURCES, "slerp"):
        (bench.folder / f"{method}.yml").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
