"""What pages cost: the jobs with and without --report, and the size and start of pages of large models.

    python benchmarks/page_costs.py MODELS [--runs 5] [--parts jobs,pages]

MODELS is a folder of `make_models.py`: base, fine-tune-1 and fine-tune-2. Both commands of a pair run in turns, so that
a machine that slows down slows both; the ratio is of medians. Pages of the 1b, 8b and 70b shapes and of 20,000 matrices
have every column of a scan, histograms and singular values, invented: what they weigh, and how long Chromium takes from
opening the file until the page says that it is ready (median of 5; needs Chromium and playwright).
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import measure
from shapes import SHAPES, Shape

LLAMA_70B = Shape("70b", 8192, 80, 64, 8, 128, 28672, 128256, tied=False, fine_tunes=0)
EXPERTS = 20_000


def jobs(models: Path, work: Path) -> dict[str, list[str]]:
    """The arguments of each job, without --report."""
    base, one, two = (str(models / name) for name in ("base", "fine-tune-1", "fine-tune-2"))
    return {
        "info": ["info", base],
        "structure": ["structure", one, "--base", base],
        "scan, moments and quantiles": ["scan", base],
        "scan, quantization and sparsity": ["scan", base, "--methods", "basic_stats", "quantization", "sparsity"],
        "delta of two": ["delta", "--base", base, "--models", one, two, "--outdir", str(work / "tv")],
        "compare": ["compare", base, one],
        "merge, task_arithmetic of two": [
            "merge", "--base", base, "--models", one, two, "--weights", "0.5", "0.5", "--output", str(work / "merged"),
            "--overwrite",
        ],
        "verify": ["verify", str(work / "merged")],
    }  # fmt: skip


def time_jobs(models: Path, work: Path, runs: int) -> None:
    program = shutil.which("netweight", path=str(Path(sys.executable).parent)) or "netweight"
    print("| job | without | with --report | ratio | page |\n| --- | --- | --- | --- | --- |")
    for name, arguments in jobs(models, work).items():
        page = work / "page.html"
        ways = ([program, *arguments], [program, *arguments, "--report", str(page)])
        for command in ways:
            measure(command, work / "log")  # compiled, and in the page cache
        walls: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs):
            for held, command in zip(walls, ways, strict=True):
                held.append(measure(command, work / "log").wall)
        without, with_page = map(statistics.median, walls)
        ratio = with_page / without
        print(
            f"| {name} | {without:.2f} s | {with_page:.2f} s | {ratio:.3f} | {page.stat().st_size / 1e6:.2f} MB |",
            flush=True,
        )


def invented(names: list[tuple[str, int]]) -> Any:
    """The section of a scan of matrices of these names and elements, with values of a seeded generator."""
    from netweight.columns import Column
    from netweight.jobs.pages import section_of
    from netweight.jobs.role_columns import role_cells
    from netweight.jobs.scan.result import PARAMETER_COLUMNS
    from netweight.measures.registry import BY_NAME, SCANNED, find
    from netweight.measures.singular_values import MOST
    from netweight.params.role import classify_all

    rng = random.Random(0)
    fields = [Column(f"{m}.{c.name}", c.unit, c.doc, c.type) for m in (*SCANNED, *BY_NAME) for c in find(m).columns]
    lists = {
        "histogram.edges": 63,
        "histogram.counts": 62,
        "singular_values.ranks": MOST,
        "singular_values.values": MOST,
    }

    def cell(column: Column) -> Any:
        if column.type == "number":
            return rng.gauss(0, 1)
        if column.type == "integer":
            return rng.randrange(4096)
        if column.type == "boolean":
            return rng.random() < 0.5
        if column.name == "singular_values.ranks":
            return list(range(1, MOST + 1))
        if column.type in {"numbers", "integers"}:
            return [rng.random() for _ in range(lists.get(column.name, 10))]
        return rng.choice(["gram", "", "ok"])

    rows = []
    for name, parameter in classify_all({name: (1, 1) for name, _ in names}).items():
        own = (name, [4096, 4096], 4096, 4096, "BF16", 1 << 24, *role_cells(parameter), parameter.expert)
        rows.append((*own, *map(cell, fields)))
    return section_of("scan", "invented", (*PARAMETER_COLUMNS, *fields), rows)


def pages() -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """(what, names and elements) of the pages that are weighed."""
    for shape in (SHAPES["1b"], SHAPES["8b"], LLAMA_70B):
        yield shape.name, [(name, 1) for name in shape.tensors()]
    yield (
        f"{EXPERTS} experts",
        [
            (f"model.layers.{n // 400}.mlp.experts.{n % 400 // 3}.{('gate', 'up', 'down')[n % 3]}_proj.weight", 1)
            for n in range(EXPERTS)
        ],
    )


def weigh_pages(work: Path) -> None:
    from playwright.sync_api import sync_playwright

    from netweight.page.html import page_of

    print("\n| page | matrices | size | ready |\n| --- | --- | --- | --- |")
    for what, names in pages():
        file = work / "invented.html"
        file.write_text(page_of([invented(names)]), encoding="utf-8")
        ready = []
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for _ in range(6):
                page = browser.new_page()
                page.goto(file.as_uri(), wait_until="commit")
                page.wait_for_selector("html[data-ready]")
                ready.append(float(page.evaluate("Number(document.documentElement.dataset.ready)")))
                page.close()
            browser.close()
        seconds = statistics.median(ready[1:]) / 1000
        print(f"| {what} | {len(names)} | {file.stat().st_size / 1e6:.2f} MB | {seconds:.2f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parts", default="jobs,pages")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.models) as work:
        if "jobs" in asked.parts:
            time_jobs(asked.models, Path(work), asked.runs)
        if "pages" in asked.parts:
            weigh_pages(Path(work))


if __name__ == "__main__":
    main()
