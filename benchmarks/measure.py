"""Measure whole processes: wall time, processor time, peak memory and bytes that came from the disk."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Nothing large is imported here: a child's peak memory starts from that of the process that started it.

# An installed program has its bytecode; without this, an editable one would be compiled anew in every run.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class CommandFailedError(Exception):
    """A measured command that did not return 0; its message ends with the last lines that it printed."""


@dataclass(frozen=True)
class Measurement:
    """One run in seconds and bytes: `peak_rss` of the largest process, `disk_read` is what no page cache had."""

    wall: float
    user: float
    system: float
    peak_rss: int
    disk_read: int

    @property
    def cpu(self) -> float:
        return self.user + self.system


def measure(command: Sequence[str], log: Path) -> Measurement:
    """Run `command` to its end, its output going to `log`; raises CommandFailedError where it does not return 0."""
    with log.open("wb") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=_ENVIRONMENT
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise CommandFailedError(f"{Path(command[0]).name} returned {child.returncode}:\n{tail}")
    rss_unit = 1 if sys.platform == "darwin" else 1024
    return Measurement(wall, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * rss_unit, usage.ru_inblock * 512)


def median(runs: Sequence[Measurement]) -> Measurement:
    """The median of each figure for itself."""
    return Measurement(
        wall=statistics.median(run.wall for run in runs),
        user=statistics.median(run.user for run in runs),
        system=statistics.median(run.system for run in runs),
        peak_rss=round(statistics.median(run.peak_rss for run in runs)),
        disk_read=round(statistics.median(run.disk_read for run in runs)),
    )


def drop_page_cache(files: Iterable[Path], by: str = "auto") -> str:
    """Make the next read of `files` come from the disk; says by which of DROPPERS ("auto": the first that is allowed).

    drop_caches empties the whole machine's cache, programs and libraries too; fadvise only that of `files`.
    """
    os.sync()  # by either means, pages that are not on the disk yet would stay
    if by == "auto":
        try:
            DROPPERS["drop_caches"](files)
        except OSError:
            by = "fadvise"
        else:
            return "drop_caches"
    DROPPERS[by](files)
    return by


def _drop_caches(files: Iterable[Path]) -> None:  # noqa: ARG001 - the kernel's switch knows no files
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def _fadvise(files: Iterable[Path]) -> None:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


DROPPERS: dict[str, Callable[[Iterable[Path]], None]] = {"drop_caches": _drop_caches, "fadvise": _fadvise}


def machine() -> dict[str, str | int | float | None]:
    """What a reader needs to compare the figures with others; neither names nor paths."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: _version(name) for name in ("netweight", "numpy", "numba", "torch")}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores,
        "memory_bytes": memory,
        "python": platform.python_version(),
        **versions,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
