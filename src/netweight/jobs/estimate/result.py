"""What `estimate` returns."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["DeviceTime", "Estimate", "Reading", "WorkTime"]


@dataclass(frozen=True)
class WorkTime:
    """Work of one kind: `amount` in `unit`s ("element", "FLOP", "B"), `flops` in all, and what one thread takes for
    it, at `per_second` units in large items.
    """

    name: str
    unit: str
    amount: int
    flops: int
    per_second: float
    seconds: float


@dataclass(frozen=True)
class DeviceTime:
    """The run on one device (or several, named together). `computing`, `reading` and `writing` are seconds of the whole
    run, which go on side by side: `seconds` is `start` and the longest of them, and `limit` says which that is.

    `workers` and `memory` (bytes) are those of its plan; `threads` compute at a time.
    """

    device: str
    workers: int
    memory: int
    threads: int
    work: tuple[WorkTime, ...]
    start: float
    computing: float
    reading: float
    writing: float
    seconds: float
    limit: str


@dataclass(frozen=True)
class Reading:
    """The models' bytes: `far` come over the network, at no rate that is known; of the others the share `held` is in
    the system's memory already (None: it does not tell). Rates are bytes a second, None where they were not needed.
    """

    local: int
    far: int
    held: float | None
    disk: float | None
    copying: float | None
    writing: float | None

    def away(self, passes: int) -> float:
        """Bytes that the disk must give in so many passes over the same data: what one pass reads stays in memory for
        the next, where half of the machine's memory holds it.
        """
        once = self.local / passes
        return (once if once < _memory() / 2 else self.local) * (1 - (self.held or 0.0))


def _memory() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return 0.0


@dataclass(frozen=True)
class Estimate:
    """What a job would read, hold, compute and take. `flops` are the CPU's; `devices`: the CPU first, then GPUs, or
    what to do for one (`gpu`). `measured` says whether rates were measured now; `host` where they were measured.
    """

    job: str
    what: str
    models: tuple[str, ...]
    bytes_to_read: int
    bytes_to_write: int
    flops: int
    workers: int
    memory: int
    reading: Reading
    devices: tuple[DeviceTime, ...]
    gpu: str
    measured: bool
    host: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole run on the CPU."""
        return self.devices[0].seconds

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"seconds": self.seconds}
