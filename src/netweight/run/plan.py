"""A run as a frozen list of tasks, known before a byte of tensor data moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass

__all__ = ["STRETCH", "Plan", "PlannedTask", "digest_of", "largest_first", "stretches"]

STRETCH = 1 << 24
"""Elements of a tensor that one task takes: fixed, since sums are formed by stretch; 32 MiB of a 16-bit tensor."""


@dataclass(frozen=True)
class PlannedTask:
    """Elements `start` to `stop` (counted flat) of the parameter `name`: stretch `number` of it; `nbytes` to read."""

    name: str
    number: int
    start: int
    stop: int
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """What a job will do. `memory` is the expected peak in bytes; `digest` names the plan's inputs and options;
    `device` is where it computes, and why there.
    """

    job: str
    tasks: tuple[PlannedTask, ...]
    tensors: int
    skipped: int
    workers: int
    memory: int
    digest: str
    device: str = "cpu"
    device_reason: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes to read in the first pass."""
        return sum(task.nbytes for task in self.tasks)

    def bytes_of(self, names: Container[str]) -> int:
        """Bytes to read of the parameters of these names."""
        return sum(task.nbytes for task in self.tasks if task.name in names)

    def to_dict(self) -> dict[str, int | str]:
        """What `--dry-run` prints."""
        return {
            "job": self.job,
            "tensors": self.tensors,
            "skipped": self.skipped,
            "tasks": len(self.tasks),
            "bytes_to_read": self.nbytes,
            "workers": self.workers,
            "expected_memory": self.memory,
            "digest": self.digest,
            "device": self.device,
            "device_reason": self.device_reason,
        }


def stretches(size: int) -> list[tuple[int, int]]:
    """(start, stop) of the stretches of `size` elements; one empty stretch where there are none."""
    return [(start, min(start + STRETCH, size)) for start in range(0, max(size, 1), STRETCH)]


def largest_first(tasks: Sequence[PlannedTask]) -> list[PlannedTask]:
    """The tasks of the parameter with the most bytes first, so that several devices end at about the same time; those
    of one parameter stay together and in order, since what is known of a parameter is held until it is done.
    """
    sizes: dict[str, int] = {}
    for task in tasks:
        sizes[task.name] = sizes.get(task.name, 0) + task.nbytes
    positions = {name: position for position, name in enumerate(sizes)}
    return sorted(tasks, key=lambda task: (-sizes[task.name], positions[task.name]))


def digest_of(description: object) -> str:
    """The hex SHA-256 of a JSON-safe description."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
