"""`demo`: a small base, five fine-tunes and two pruned copies are made, measured and merged as real ones are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from netweight.jobs.compare.job import compare
from netweight.jobs.compare.result import Comparison
from netweight.jobs.delta.job import delta
from netweight.jobs.delta.result import Delta
from netweight.jobs.demo.models import DemoModels, make_demo_models, make_pruned_models
from netweight.jobs.merge.job import merge
from netweight.jobs.merge.request import Weights
from netweight.jobs.merge.result import Merged
from netweight.jobs.pages import write_report
from netweight.jobs.scan.job import scan
from netweight.jobs.scan.result import ScanResults
from netweight.jobs.structure.many import Structures, structure_many
from netweight.jobs.verify.job import verify
from netweight.jobs.verify.result import Verified
from netweight.run.progress import Progress

__all__ = ["Demo", "demo"]


@dataclass(frozen=True)
class Demo:
    """The folders of the models and the results, and the results: of `delta` on all fine-tunes, `scan` of the base,
    `compare` of the base with the first fine-tune, `structure` of the pruned copies, `merge` of all fine-tunes,
    and `verify` of that merge.
    """

    folder: Path
    models: DemoModels
    pruned: tuple[Path, ...]
    outdir: Path
    result: Delta
    scanned: ScanResults
    compared: Comparison
    structures: Structures
    merged: Merged
    verified: Verified


def demo(folder: str | os.PathLike[str] = "demo", *, seed: int = 0, progress: Progress | None = None) -> Demo:
    """Make the demo's models in `folder`/models and `folder`/pruned (some 200 MB), measure them, and write the results
    beside them: tv_stats, scan.json and scan_plots, compare.json, report.html of these three, structure, and merged,
    the fine-tunes merged by the norms in tv_stats.

    Raises OutputError where the folder cannot be written.
    """
    root = Path(folder)
    models = make_demo_models(root / "models", seed)
    pruned = make_pruned_models(root / "pruned", seed)
    outdir = root / "tv_stats"
    result = delta(models.base, models.fine_tunes, outdir, progress=progress)
    scanned = scan(models.base, methods="all", output=root / "scan.json", plots=root / "scan_plots", progress=progress)
    compared = compare(models.base, models.fine_tunes[0], output=root / "compare.json", progress=progress)
    write_report([result.section(), scanned.section(), compared.section()], root / "report.html")
    structures = structure_many(root / "pruned", models.base, root / "structure", progress=progress)
    merged = merge(
        None,
        root / "merged",
        base=models.base,
        models=models.fine_tunes,
        weights=Weights(delta=outdir),
        overwrite=True,
        progress=progress,
    )
    verified = verify(root / "merged", progress=progress)
    return Demo(root, models, pruned, outdir, result, scanned, compared, structures, merged, verified)
