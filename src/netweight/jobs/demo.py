"""`demo`: a small base, five fine-tunes and two pruned copies are made, and measured as real ones are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from netweight.jobs.compare import compare
from netweight.jobs.compare_result import Comparison
from netweight.jobs.delta import delta
from netweight.jobs.delta_result import Delta
from netweight.jobs.demo_models import DemoModels, make_demo_models, make_pruned_models
from netweight.jobs.scan import scan
from netweight.jobs.scan_result import ScanResults
from netweight.jobs.structure_many import Structures, structure_many
from netweight.run.progress import Progress

__all__ = ["Demo", "demo"]


@dataclass(frozen=True)
class Demo:
    """Where the models and the results are, and the results: of `delta` on all fine-tunes, of `scan` on the base, of
    `compare` of the base with the first fine-tune, of `structure` on the pruned copies.
    """

    folder: Path
    models: DemoModels
    pruned: tuple[Path, ...]
    outdir: Path
    result: Delta
    scanned: ScanResults
    compared: Comparison
    structures: Structures


def demo(folder: str | os.PathLike[str] = "demo", *, seed: int = 0, progress: Progress | None = None) -> Demo:
    """Make the demo's models in `folder`/models and `folder`/pruned (some 200 MB), measure them, and write the results
    beside them: tv_stats, scan.json and scan_plots, compare.json, structure.

    Raises OutputError where the folder cannot be written.
    """
    place = Path(folder)
    models = make_demo_models(place / "models", seed)
    pruned = make_pruned_models(place / "pruned", seed)
    outdir = place / "tv_stats"
    return Demo(
        place,
        models,
        pruned,
        outdir,
        delta(models.base, models.fine_tunes, outdir, progress=progress),
        scan(models.base, methods="all", output=place / "scan.json", plots=place / "scan_plots", progress=progress),
        compare(models.base, models.fine_tunes[0], output=place / "compare.json", progress=progress),
        structure_many(place / "pruned", models.base, place / "structure", progress=progress),
    )
