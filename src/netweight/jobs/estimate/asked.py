"""What an estimate is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from netweight.errors import OptionError, did_you_mean, printable

__all__ = ["JOBS", "Asked"]

Reference = str | os.PathLike[str]

JOBS = ("scan", "delta", "compare", "merge", "structure", "embeddings", "info")
"""What can be estimated."""


@dataclass(frozen=True)
class Asked:
    """One job as `estimate` was asked about it: see there."""

    ref: str
    job: str = "scan"
    methods: tuple[str, ...] = ()
    base: str | None = None
    models: tuple[str, ...] = ()
    device: str = "auto"
    multi_gpu: bool = False
    output: str | None = None
    deep: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    workers: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a job that there is not, and for options that it does not take."""
        if self.job not in JOBS:
            hint = did_you_mean(self.job, JOBS)
            raise OptionError(f"--job: no job '{printable(self.job)}'{hint}; there are {', '.join(JOBS)}")
        takes = {
            "methods": ("scan", "compare", "merge"),
            "base": ("delta", "merge", "structure"),
            "models": ("delta", "merge", "compare"),
            "output": ("merge",),
            "deep": ("structure",),
            "include": ("scan", "delta", "compare", "embeddings"),
            "exclude": ("scan", "delta", "compare", "embeddings"),
        }
        for option, jobs in takes.items():
            if getattr(self, option) and self.job not in jobs:
                raise OptionError(f"--{option}: goes with --job {', '.join(jobs)}, not with {self.job}; leave it out")
        if self.job == "delta" and self.base is None:
            raise OptionError("--job delta: MODEL is a fine-tuned model; give its --base as well")
        if self.job == "compare" and len(self.models) != 1:
            raise OptionError(f"--job compare: expected the other model as --models, got {len(self.models)} of them")
        if self.job == "merge" and len(self.methods) > 1:
            raise OptionError(f"--methods: a merge has one method, got {len(self.methods)}")
