"""netweight weighs neural nets.

It opens any LLM checkpoint without building the model, and measures what is in it, at the speed of the disk and in
fixed memory. Every job of the command line is a function here; heavy libraries load when a job needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netweight.checkpoint import Checkpoint, Skipped, Tensor
from netweight.errors import NetweightError
from netweight.params.opening import open_model as open  # noqa: A004 - netweight.open, as tarfile.open
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.core.scope import Scope
    from netweight.jobs.compare.job import compare
    from netweight.jobs.compare.result import find_most_changed_layers
    from netweight.jobs.convert.job import convert
    from netweight.jobs.delta.job import delta
    from netweight.jobs.demo.job import demo
    from netweight.jobs.devices.job import devices
    from netweight.jobs.download.job import download
    from netweight.jobs.embeddings.job import embeddings
    from netweight.jobs.embeddings.nearest import nearest_tokens
    from netweight.jobs.estimate.job import estimate
    from netweight.jobs.extract_lora.job import extract_lora
    from netweight.jobs.info.job import info
    from netweight.jobs.lineage.confirm import confirm
    from netweight.jobs.lineage.job import index_models, lineage
    from netweight.jobs.merge.job import merge
    from netweight.jobs.plan.job import plan
    from netweight.jobs.report.job import report
    from netweight.jobs.scan.job import scan
    from netweight.jobs.structure.job import structure
    from netweight.jobs.structure.many import structure_many
    from netweight.jobs.verify.job import verify

__all__ = [
    "Checkpoint",
    "NetweightError",
    "Scope",
    "Skipped",
    "Tensor",
    "__version__",
    "compare",
    "confirm",
    "convert",
    "delta",
    "demo",
    "devices",
    "download",
    "embeddings",
    "estimate",
    "extract_lora",
    "find_most_changed_layers",
    "index_models",
    "info",
    "lineage",
    "merge",
    "nearest_tokens",
    "open",
    "plan",
    "report",
    "scan",
    "structure",
    "structure_many",
    "verify",
]

_JOBS = {
    "Scope": "core.scope",
    "compare": "jobs.compare.job",
    "confirm": "jobs.lineage.confirm",
    "convert": "jobs.convert.job",
    "delta": "jobs.delta.job",
    "demo": "jobs.demo.job",
    "devices": "jobs.devices.job",
    "download": "jobs.download.job",
    "embeddings": "jobs.embeddings.job",
    "estimate": "jobs.estimate.job",
    "extract_lora": "jobs.extract_lora.job",
    "find_most_changed_layers": "jobs.compare.result",
    "index_models": "jobs.lineage.job",
    "info": "jobs.info.job",
    "lineage": "jobs.lineage.job",
    "merge": "jobs.merge.job",
    "nearest_tokens": "jobs.embeddings.nearest",
    "plan": "jobs.plan.job",
    "report": "jobs.report.job",
    "scan": "jobs.scan.job",
    "structure": "jobs.structure.job",
    "structure_many": "jobs.structure.many",
    "verify": "jobs.verify.job",
}
"""What jobs offer, and the module that it is in."""


def __getattr__(name: str) -> Any:
    """Jobs are imported when they are first used."""
    if name in _JOBS:
        from importlib import import_module  # noqa: PLC0415

        job = getattr(import_module(f"netweight.{_JOBS[name]}"), name)
        globals()[name] = job
        return job
    msg = f"module 'netweight' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
