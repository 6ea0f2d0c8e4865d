"""Work of a job, by kind: how many items of which size, and what measures how long one takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from netweight.run.plan import STRETCH

if TYPE_CHECKING:
    from netweight.checkpoint.tensor import Checkpoint
    from netweight.jobs.estimate.rates import Rate

__all__ = ["Kinds", "Load", "Probe", "Step", "longest_stretch", "total"]

K = TypeVar("K", bound=Hashable)

Probe = Callable[[Any, Any], "tuple[Rate, ...]"]
"""(kernels, merge kernels) -> the rates of the steps that share this probe."""

_RARE = 0.02  # of a family's units: taken to be as fast as the most frequent kind, and not measured


@dataclass(frozen=True)
class Step:
    """Work of one kind: `items` {units of one item: how many}, `flops` in all. `probe` measures its rate, which is
    number `place` of what that gives.
    """

    name: str
    unit: str
    items: Counter[int]
    flops: int
    probe: Probe
    place: int = 0

    @property
    def amount(self) -> int:
        """Units in all."""
        return total(self.items)


@dataclass(frozen=True)
class Load:
    """A job's work. `bytes_read` and `bytes_written` as its dry run says them, in `passes` over the same data;
    `workers` and `memory` (bytes) as it plans them; `heaviest`: {step: units} of the task that takes longest;
    `checkpoints`: base and models. `on_gpu`: whether a GPU can do it.
    """

    what: str
    checkpoints: tuple[Checkpoint, ...]
    bytes_read: int
    workers: int
    memory: int
    steps: tuple[Step, ...] = ()
    bytes_written: int = 0
    passes: int = 1
    heaviest: dict[str, int] = field(default_factory=dict)
    on_gpu: bool = False
    notes: tuple[str, ...] = ()


class Kinds(Generic[K]):
    """Items of one family by kind; rare kinds are added to the most frequent one."""

    def __init__(self) -> None:
        self._items: dict[K, Counter[int]] = {}

    def add(self, kind: K, size: int) -> None:
        """One more item of `size` units."""
        self._items.setdefault(kind, Counter())[size] += 1

    def found(self) -> list[tuple[K, Counter[int]]]:
        """(kind, its items), the kind with most units first."""
        units = {kind: total(items) for kind, items in self._items.items()}
        order = sorted(units, key=lambda kind: -units[kind])
        kept = [kind for kind in order if kind == order[0] or units[kind] >= _RARE * sum(units.values())]
        found = {kind: Counter(self._items[kind]) for kind in kept}
        for kind in order:
            if kind not in found:
                found[kept[0]].update(self._items[kind])
        return list(found.items())


def total(items: Counter[int]) -> int:
    """Units of all items."""
    return sum(size * count for size, count in items.items())


def longest_stretch(steps: Sequence[Step], sizes: Iterable[int]) -> dict[str, int]:
    """The longest task where tasks are stretches of parameters of these sizes: one of the most frequent kind."""
    most = min(max(sizes, default=0), STRETCH)
    return {steps[0].name: most} if steps and most else {}
