"""How many workers fit the memory that a run may take."""

from __future__ import annotations

import os

from netweight.errors import OptionError

__all__ = ["FLOOR", "asked_for", "available_cores", "default_budget", "fit_workers"]

FLOOR = 320 << 20
"""Bytes that the interpreter and its libraries take before any tensor is read (numba, Pillow and Arrow loaded)."""


def default_budget(most: int = 1 << 30) -> int:
    """The smaller of `most` (1 GiB) and a quarter of the machine's memory, in bytes."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return most
    return min(most, total // 4)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def asked_for(size: int) -> str:
    """`size` bytes as a message shows what was asked for: whole MiB; below one, bytes."""
    if size >= 1 << 20:
        return f"{size >> 20} MiB"
    return "1 byte" if size == 1 else f"{size} bytes"


def fit_workers(wanted: int | None, budget: int | None, per_worker: int, fixed: int = FLOOR) -> int:
    """Workers that fit `budget` bytes at `per_worker` bytes a worker beside the `fixed` ones; `wanted` (default: every
    core) is the most there are.

    Raises OptionError where not even one fits, or where `wanted` is below one.
    """
    if wanted is not None and wanted < 1:
        raise OptionError(f"--workers {wanted}: expected 1 or more")
    allowed = default_budget() if budget is None else budget
    fitting = (allowed - fixed) // per_worker
    if fitting < 1:
        need = -(-(fixed + per_worker) >> 20)
        raise OptionError(
            f"--memory {asked_for(allowed)}: this job needs at least {need} MiB for one worker;"
            f" give --memory {need + 1}MiB"
        )
    return min(wanted or available_cores(), fitting)
