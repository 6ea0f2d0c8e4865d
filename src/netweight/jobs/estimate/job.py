"""`estimate`: what a job would read, compute and hold, and how long it would take at this machine's measured rates."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import printable
from netweight.jobs.estimate.asked import Asked, Reference
from netweight.jobs.estimate.result import DeviceTime, Estimate, Reading, WorkTime
from netweight.run.memory import available_cores
from netweight.run.progress import Progress, Silent

if TYPE_CHECKING:
    from netweight.jobs.estimate.book import Book
    from netweight.jobs.estimate.load import Load

__all__ = ["estimate"]


def estimate(
    ref: Reference,
    *,
    job: str = "scan",
    rates: Reference | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Estimate:
    """What `job` (a name of JOBS) would take for the model `ref`: bytes to read and write, FLOPs, peak memory, seconds.

    `settings` are fields of Asked by name. `methods`: those of `scan` and `compare`, or the one method of a merge.
    `delta` and `merge`: `ref` and `models` are the models, `base` is what they were fine-tuned from; for a merge `ref`
    may also be a recipe. `compare`: with the one of `models`. `structure`: with `base`, or `deep`. `device`: "auto"
    (the CPU, and every GPU that can be used), "cpu" or a GPU's name; the CPU is always there, and `multi_gpu` means all
    GPUs together. `output`: where a merge would go. `include`, `exclude`, `workers` and `memory` as the job takes them.

    Headers alone are read of models, and up to 256 MiB of files on this machine to see how fast they come. The passes
    of the job are timed on made tensors, some seconds in all; `rates`: a JSON file that keeps what was measured, and
    from which it is taken the next time. seconds = start + the longest of reading, computing / threads and writing.

    Raises what the job itself raises before it reads data; OptionError for a rates file that is none, OutputError where
    it cannot be written, JobError where the job does not start.
    """
    from netweight.jobs.estimate.book import Book, read_files
    from netweight.jobs.estimate.devices import find_gpus
    from netweight.jobs.estimate.plans import load_of
    from netweight.jobs.estimate.rates import host, read_rates, write_rates

    asked = Asked(os.fspath(ref), job, **_plain(settings))
    path = None if rates is None else Path(rates)
    known, origin = ({}, host()) if path is None else read_rates(path)
    book = Book(known, progress or Silent())
    with ExitStack() as stack:
        begun = time.perf_counter()
        load = load_of(asked, "cpu", stack)
        opening = time.perf_counter() - begun
        if not any(checkpoint.location is None for checkpoint in load.checkpoints):
            opening = _again(asked)
        begun = time.perf_counter()
        groups, gpu = find_gpus(asked.device, multi=asked.multi_gpu) if load.on_gpu else ((), "")
        finding = time.perf_counter() - begun
        reading = read_files(load, asked.output, book)
        book.measure("cpu", load)
        start = opening + book.start(asked.job, asked.methods, load, deep=asked.deep)
        devices = [_time(load, ("cpu",), start, reading, book)]
        for group in groups:
            other = load_of(asked, group[0], stack, multi=len(group) > 1)
            loading = book.measure(group[0], other, finding=finding)
            devices.append(_time(other, group, start + loading, reading, book))
    if path is not None and book.measured:
        write_rates(path, book.rates)
    return Estimate(
        job,
        load.what,
        tuple(checkpoint.ref for checkpoint in load.checkpoints),
        load.bytes_read,
        load.bytes_written,
        sum(step.flops for step in load.steps),
        load.workers,
        load.memory,
        reading,
        tuple(devices),
        gpu,
        book.measured,
        host() if book.measured else origin,
        (*load.notes, *_notes(load, reading, origin)),
    )


def _again(asked: Asked) -> float:
    """Seconds of opening and planning without the loading of libraries, which the start has in it."""
    from netweight.jobs.estimate.plans import load_of

    with ExitStack() as stack:
        begun = time.perf_counter()
        load_of(asked, "cpu", stack)
        return time.perf_counter() - begun


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Paths as text, and lists as tuples; a single model or method may stand for itself."""
    found = dict(settings)
    for name in ("methods", "models", "include", "exclude"):
        value = found.get(name) or ()
        found[name] = tuple(map(os.fspath, [value] if isinstance(value, str | os.PathLike) else value))
    for name in ("base", "output"):
        if found.get(name) is not None:
            found[name] = os.fspath(found[name])
    return found


def _time(load: Load, group: Sequence[str], start: float, reading: Reading, book: Book) -> DeviceTime:
    """The run on the CPU, or on these GPUs. Copying out of the system's memory is always the workers'."""
    workers = min(load.workers, available_cores())
    threads = workers if group[0] == "cpu" else len(group)
    work = []
    for step in load.steps:
        rate = book.rate(group[0], step)
        seconds = sum(count * rate.seconds(size) for size, count in step.items.items())
        work.append(WorkTime(step.name, step.unit, step.amount, step.flops, rate.per_second, seconds))
    known = {step.name: book.rate(group[0], step) for step in load.steps}
    longest = sum(known[name].seconds(size) for name, size in load.heaviest.items() if name in known)
    computing = max(sum(each.seconds for each in work) / threads, longest)
    copying = reading.local / reading.copying / workers if reading.copying else 0.0
    computing = computing + copying if group[0] == "cpu" else max(computing, copying)
    waiting = reading.away(load.passes) / reading.disk if reading.disk else 0.0
    writing = load.bytes_written / reading.writing if reading.writing else 0.0
    parts = {"computing": computing, "reading": waiting, "writing": writing}
    slowest = max(parts, key=lambda name: parts[name])
    return DeviceTime(
        ", ".join(group),
        load.workers,
        load.memory,
        threads,
        tuple(work),
        start,
        computing,
        waiting,
        writing,
        start + parts[slowest],
        slowest if parts[slowest] > start else "start",
    )


def _notes(load: Load, reading: Reading, origin: dict[str, Any]) -> list[str]:
    from netweight.jobs.estimate.rates import host

    found = []
    far = [printable(checkpoint.ref) for checkpoint in load.checkpoints if checkpoint.location is None]
    if far and reading.far:
        found.append(f"{', '.join(far)}: comes over the network, at a rate that is not measured and not in the time")
    here = host()
    if origin != here:
        found.append(
            f"the rates are those of another machine: {printable(str(origin.get('processor') or 'unknown'), 60)},"
            f" {printable(str(origin.get('cores')), 10)} cores"
        )
    return found
