"""netweight weighs neural nets.

It opens any LLM checkpoint without building the model, and measures what is in it, at the speed of the disk and in
fixed memory. Every job of the command line is a function here; heavy libraries load when a job needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netweight.checkpoint import Checkpoint, Skipped, Tensor
from netweight.checkpoint import open_checkpoint as open  # noqa: A004 - netweight.open, as tarfile.open
from netweight.errors import NetweightError
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.compare import compare
    from netweight.jobs.compare_result import find_most_changed_layers
    from netweight.jobs.delta import delta
    from netweight.jobs.demo import demo
    from netweight.jobs.devices import devices
    from netweight.jobs.download import download
    from netweight.jobs.embedding_nearest import nearest_tokens
    from netweight.jobs.embeddings import embeddings
    from netweight.jobs.estimate import estimate
    from netweight.jobs.info import info
    from netweight.jobs.merge import merge
    from netweight.jobs.scan import scan
    from netweight.jobs.scope import Scope
    from netweight.jobs.structure import structure
    from netweight.jobs.structure_many import structure_many
    from netweight.jobs.verify import verify

__all__ = [
    "Checkpoint",
    "NetweightError",
    "Scope",
    "Skipped",
    "Tensor",
    "__version__",
    "compare",
    "delta",
    "demo",
    "devices",
    "download",
    "embeddings",
    "estimate",
    "find_most_changed_layers",
    "info",
    "merge",
    "nearest_tokens",
    "open",
    "scan",
    "structure",
    "structure_many",
    "verify",
]

_JOBS = {
    "Scope": "scope",
    "compare": "compare",
    "delta": "delta",
    "demo": "demo",
    "devices": "devices",
    "download": "download",
    "embeddings": "embeddings",
    "estimate": "estimate",
    "find_most_changed_layers": "compare_result",
    "info": "info",
    "merge": "merge",
    "nearest_tokens": "embedding_nearest",
    "scan": "scan",
    "structure": "structure",
    "structure_many": "structure_many",
    "verify": "verify",
}
"""What jobs offer, and the module of jobs that it is in."""


def __getattr__(name: str) -> Any:
    """Jobs are imported when they are first used."""
    if name in _JOBS:
        from importlib import import_module  # noqa: PLC0415

        found = getattr(import_module(f"netweight.jobs.{_JOBS[name]}"), name)
        globals()[name] = found
        return found
    msg = f"module 'netweight' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
