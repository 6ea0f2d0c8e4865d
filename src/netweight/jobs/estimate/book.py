"""The rates that an estimate needs: those that are known, and those that are measured when they are asked for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from netweight.dtypes import DTYPES, DType
from netweight.errors import ReadError, printable
from netweight.jobs.estimate.devices import backends
from netweight.jobs.estimate.disk import (
    Piece,
    find_mount,
    measure_copying,
    measure_disk,
    measure_writing,
    pieces_of,
    split_by_cache,
)
from netweight.jobs.estimate.load import Load, Probe, Step
from netweight.jobs.estimate.rates import Rate
from netweight.jobs.estimate.result import Reading
from netweight.jobs.estimate.start import measure_start
from netweight.run.memory import available_cores
from netweight.run.progress import Progress, compiling

__all__ = ["Book", "read_files"]

_ENOUGH = 8 << 20  # bytes from which on a file's rate says something of its disk


class Book:
    """Rates by name: `device/work`, `files MOUNT/reading`, `start/job`. `measured`: whether any was measured now."""

    def __init__(self, known: Mapping[str, Rate], progress: Progress) -> None:
        self.rates = dict(known)
        self._progress = progress
        self.measured = False

    def rate(self, device: str, step: Step) -> Rate:
        """Of a step that `measure` has seen."""
        return self.rates[f"{device}/{step.name}"]

    def measure(self, device: str, load: Load, finding: float | None = None) -> float:
        """See to the rates of all steps; returns the seconds that a GPU's libraries take to load: those of `finding` it
        and those of its kernels, 0.0 for the CPU, which was not to be found (None).
        """
        missing = [step for step in load.steps if f"{device}/{step.name}" not in self.rates]
        loading = f"{device}/loading"
        if missing or (finding is not None and loading not in self.rates):
            begun = time.perf_counter()
            kernels = backends(device)
            if finding is not None:
                self._set(loading, Rate("start", ((1.0, finding + time.perf_counter() - begun),)))
            done: dict[Probe, tuple[Rate, ...]] = {}
            for step in missing:
                if step.probe not in done:
                    with compiling(self._progress):
                        done[step.probe] = step.probe(*kernels)
                self._set(f"{device}/{step.name}", done[step.probe][step.place])
        return 0.0 if finding is None else self.rates[loading].seconds(1.0)

    def start(self, job: str, methods: Sequence[str], load: Load, *, deep: bool) -> float:
        """Seconds from calling the program to its first task."""
        taken = tuple(methods) if job in ("scan", "compare") and methods else ("basic_stats",)
        name = "start/" + " ".join([job, *(taken if job in ("scan", "compare") else ()), *(["deep"] if deep else [])])
        if name not in self.rates:
            self._set(name, Rate("start", ((1.0, measure_start(job, _main_dtype(load), taken, deep=deep)),)))
        return self.rates[name].seconds(1.0)

    def of_files(self, name: str, measure: Callable[[], tuple[int, float]]) -> float:
        """Bytes a second, as `measure` finds them: (bytes, seconds). A rate of a few bytes is not kept."""
        if name in self.rates:
            return self.rates[name].per_second
        done, seconds = measure()
        if done >= _ENOUGH:
            self._set(name, Rate("B", ((float(done), seconds),)))
        else:
            self.measured = True
        return done / seconds

    def _set(self, name: str, rate: Rate) -> None:
        self.rates[name] = rate
        self.measured = True


def _main_dtype(load: Load) -> DType:
    """The element type that most bytes of the model have."""
    found: Counter[str] = Counter()
    for tensor in load.checkpoints[-1].values():
        found[tensor.dtype.name] += tensor.nbytes
    return DTYPES[found.most_common(1)[0][0]] if found else DTYPES["F32"]


def read_files(load: Load, output: str | None, book: Book) -> Reading:
    """How fast the models' files come, and how fast the output goes. Raises ReadError where a file cannot be read,
    OutputError where the output's place takes no file.
    """
    here = [(f.path, f.size) for c in load.checkpoints if c.location is not None for f in c.files]
    away = sum(f.size for c in load.checkpoints if c.location is None for f in c.files)
    known = sum(size for _, size in here)
    local = load.bytes_read * known // (known + away) if known + away else 0
    held = disk = copying = None
    pieces = pieces_of(here) if local else []
    if pieces:
        try:
            held, disk, copying = _of_disk(pieces, here, load.workers, book)
        except OSError as problem:
            where = printable(str(problem.filename or here[0][0]))
            raise ReadError(f"{where}: could not be read: {problem.strerror or problem}; check the disk") from problem
    writing = None
    if load.bytes_written:
        folder = Path(output or ".").absolute()
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        writing = book.of_files(f"files {find_mount(folder)}/writing", lambda: measure_writing(folder))
    return Reading(local, load.bytes_read - local, held, disk, copying, writing)


def _of_disk(
    pieces: Sequence[Piece], files: Sequence[tuple[str, int]], workers: int, book: Book
) -> tuple[float | None, float | None, float | None]:
    """(share in memory, bytes a second from the disk, from memory)."""
    mount = f"files {find_mount(max(files, key=lambda file: file[1])[0])}"
    threads = min(workers, available_cores())
    split = split_by_cache(pieces)
    cold = list(pieces) if split is None else split[1]
    disk = book.of_files(f"{mount}/reading", lambda: measure_disk(cold, threads)) if cold else None
    if split is None:
        return None, disk, None
    warm = split[0] or cold  # these have just been read
    copying = book.of_files(f"{mount}/copying", lambda: measure_copying(warm))
    share = sum(piece.size for piece in split[0]) / sum(piece.size for piece in pieces)
    return share, disk, copying
