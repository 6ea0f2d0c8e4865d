"""`estimate`: what a job would read, write, compute and hold, and how long it would take on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from netweight.errors import printable
from netweight.jobs.estimate.plan import Request, plan_work
from netweight.jobs.estimate.rates import measure
from netweight.jobs.inputs import Reference, globs, references
from netweight.run.progress import Progress, Silent

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a job would take: bytes, FLOPs of spectra (of k-means for embeddings), `memory` at its peak in bytes. The
    `seconds` are those of `start`, of all bytes and of all FLOPs at their rates (None where there are none).
    """

    job: str
    models: tuple[str, ...]
    bytes_to_read: int
    bytes_to_write: int
    flops: int
    workers: int
    memory: int
    device: str
    start: float
    bytes_per_second: float | None
    flops_per_second: float | None
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def estimate(
    ref: Reference,
    *,
    job: str = "scan",
    methods: str | Sequence[str] = (),
    base: Reference | None = None,
    models: Reference | Sequence[Reference] = (),
    deep: bool = False,
    device: str = "auto",
    multi_gpu: bool = False,
    workers: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """What `job` (a name of JOBS) would take for the model `ref`: bytes, FLOPs, memory, seconds on this machine.

    `methods`: of `scan` and `compare`, or the one of a merge. `delta` and `merge`: `ref` and `models` come from `base`;
    for a merge `ref` may be a recipe. `compare`: with the one of `models`. Headers are read, and at most 256 MiB; the
    job runs on made models of some 100 MB. Raises what the job raises before it reads data, and ReadError.
    """
    settings = {"device": device, "multi_gpu": multi_gpu, "workers": workers, "memory": memory}
    names = tuple(os.fspath(model) for model in references(models))
    given = Request(os.fspath(ref), job, globs(methods), str(base) if base else None, names, deep, settings)
    with ExitStack() as stack:
        begun = time.perf_counter()
        work = plan_work(given, stack)
        opening = time.perf_counter() - begun
        (progress or Silent()).note("running the job on made models; a first run also compiles its loops")
        start, through, files, flops, encoding = measure(given, work)
    far = [c.ref for c in work.checkpoints if c.location is None and work.read]
    notes = (*work.notes, *(f"{printable(ref)}: the time of the network is not in it" for ref in far))
    moved, decoded = work.read + work.written, work.read * work.decoded  # rates are of what is decoded
    streaming = max((decoded + work.written) / through, decoded / files)
    sizes = (work.read, work.written, work.flops, work.workers, work.memory, work.device)
    rates = (opening + start, moved / streaming if streaming else None, flops if work.flops else None)
    refs = tuple(c.ref for c in work.checkpoints)
    seconds = opening + start + streaming + work.flops / flops + work.encoded / encoding
    return Estimate(job, refs, *sizes, *rates, seconds, notes)
