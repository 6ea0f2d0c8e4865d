"""`demo`: a small base and five fine-tunes are made, and measured as real ones are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from netweight.jobs.delta import delta
from netweight.jobs.delta_result import Delta
from netweight.jobs.demo_models import DemoModels, make_demo_models
from netweight.run.progress import Progress

__all__ = ["Demo", "demo"]


@dataclass(frozen=True)
class Demo:
    """Where the models are, where the results are, and the results."""

    models: DemoModels
    outdir: Path
    result: Delta


def demo(folder: str | os.PathLike[str] = "demo", *, seed: int = 0, progress: Progress | None = None) -> Demo:
    """Make the demo's models in `folder`/models (some 160 MB), run `delta` on them into `folder`/tv_stats.

    Raises OutputError where the folder cannot be written.
    """
    place = Path(folder)
    models = make_demo_models(place / "models", seed)
    outdir = place / "tv_stats"
    return Demo(models, outdir, delta(models.base, models.fine_tunes, outdir, progress=progress))
