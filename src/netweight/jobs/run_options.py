"""How jobs run: the options that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netweight.jobs.inputs import globs

__all__ = ["MachineOptions", "RunOptions"]


@dataclass(frozen=True)
class MachineOptions:
    """`workers` (default: every core that memory allows), `memory` in bytes (default: the smaller of 1 GiB and a
    quarter of the machine's; one spectrum is always computed, however large). `remote`: read models of a hub by ranges
    (default: bring them into the hub's cache first).

    `device`: where to compute ("auto", "cpu", "cuda", "cuda:N", "mps", "xpu", "xpu:N"; auto: a GPU for the spectra of
    large models); `multi_gpu`: on all GPUs. `executor_name`: "threads", or "ray" for processes of the cluster at
    `ray_address` (HOST:PORT, or "auto"), which is one on this machine by default; `memory` is then what each process
    may take.
    """

    workers: int | None = None
    memory: int | None = None
    remote: bool = False
    device: str = "auto"
    multi_gpu: bool = False
    executor_name: str = "threads"
    ray_address: str | None = None


@dataclass(frozen=True)
class RunOptions(MachineOptions):
    """How a job over a model's parameters runs: MachineOptions, globs on parameter names, and whether tied weights
    count under each of their names.
    """

    include: str | Sequence[str] = ()
    exclude: str | Sequence[str] = ()
    count_tied_twice: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "include", globs(self.include))
        object.__setattr__(self, "exclude", globs(self.exclude))

    @property
    def selection(self) -> dict[str, Any]:
        """Which parameters take part, by the names of the fields that say so."""
        return {"include": self.include, "exclude": self.exclude, "count_tied_twice": self.count_tied_twice}
