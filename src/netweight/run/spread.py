"""Work on several devices from one queue: every worker belongs to a device and takes the next task when it is free, so
that no device waits while there is work, and a fast one does more of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from netweight.errors import JobError, OptionError, printable
from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory

if TYPE_CHECKING:
    from netweight.run.devices import Choice
    from netweight.run.execute import Executor

__all__ = [
    "DeviceKernels",
    "Spread",
    "all_kernels",
    "device_notes",
    "kernels_on",
    "prepare_on",
    "run_on",
    "several_devices",
]

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


class DeviceKernels(Generic[K]):
    """The kernels of the GPUs that a job computes on, as long as it runs: `by_device`, and the CPU's as `fallback` for
    what a GPU cannot do, for `at_once` tasks at a time. `lost` {device: why} and `notes` grow meanwhile.
    """

    def __init__(self, by_device: Mapping[str, K], fallback: K, at_once: int = 1) -> None:
        self.by_device = dict(by_device)
        self.fallback = fallback
        self.at_once = at_once
        self.lost: dict[str, str] = {}
        self.notes: list[str] = []


class Spread(Generic[T, R]):
    """A work for an executor of threads that is done on several devices: `works` {device: work}.

    A thread stays with its device, so that what it holds there is held once. A task that finds a device's memory too
    small is done by `fallback`, at most `at_once` of them at a time; a device that fails is struck off, and its tasks
    and threads go to the others, to `fallback` after the last. What happened is kept for `notes`.

    Raises JobError where a task finds no place; whatever a work raises besides goes to the caller.
    """

    def __init__(
        self,
        works: Mapping[str, Callable[[T], R]],
        fallback: Callable[[T], R] | None = None,
        *,
        name: Callable[[T], str] = str,
        at_once: int = 1,
        lost: dict[str, str] | None = None,
    ) -> None:
        self._works = dict(works)
        self._fallback = fallback
        self._name = name
        self._room = threading.BoundedSemaphore(at_once)
        self._lost = {} if lost is None else lost
        self._lock = threading.Lock()
        self._own = threading.local()
        self._turn = 0
        self._notes: deque[str] = deque()

    def __call__(self, task: T) -> R:
        """Do one task."""
        while (device := self._device()) is not None:
            trouble = ""
            try:
                return self._works[device](task)
            except DeviceOutOfMemory as error:
                trouble = _line(error)
            except DeviceLost as error:
                self._strike(device, _line(error))
            # behind the handler, since the error holds what the task had on the device
            if trouble:
                return self._without_memory(task, device, trouble)
        if self._fallback is None:
            lost = "; ".join(f"{device}: {why}" for device, why in self._lost.items())
            raise JobError(f"no device is left to compute on: {lost}; use --device cpu")
        with self._room:
            return self._fallback(task)

    def notes(self) -> Iterator[str]:
        """What happened since the last call."""
        while self._notes:
            yield self._notes.popleft()

    def __reduce__(self) -> Any:
        raise OptionError("GPUs work with an executor of threads alone; leave the executor out, or use --device cpu")

    def _device(self) -> str | None:
        """The device of this thread; another one where that is lost; None where all are."""
        mine: str | None = getattr(self._own, "device", None)
        if mine is not None and mine not in self._lost:
            return mine
        with self._lock:
            live = [device for device in self._works if device not in self._lost]
            if not live:
                return None
            self._own.device = live[self._turn % len(live)]
            self._turn += 1
        return str(self._own.device)

    def _strike(self, device: str, why: str) -> None:
        with self._lock:
            if device in self._lost:
                return
            self._lost[device] = why
            live = [name for name in self._works if name not in self._lost]
            if live or self._fallback is not None:
                self._notes.append(f"{device} fails, its work goes to {', '.join(live) or 'the CPU'}: {why}")

    def _without_memory(self, task: T, device: str, why: str) -> R:
        name = printable(self._name(task))
        if self._fallback is None:
            raise JobError(f"{name}: the memory of {device} is too small for it: {why}; use --device cpu")
        self._notes.append(f"{name}: the memory of {device} is too small for it, computed on the CPU: {why}")
        with self._room:
            return self._fallback(task)


def kernels_on(
    choice: Choice, make: Callable[[str], K], at_once: int = 1, note: Callable[[str], None] | None = None
) -> K | DeviceKernels[K]:
    """The kernels of the devices chosen: those of the CPU as they are, those of GPUs with the CPU's as fallback for
    `at_once` tasks at a time. What the choice has to say goes to `note`.
    """
    if note is not None:
        for text in choice.notes:
            note(text)
    if not choice.gpu:
        return make("cpu")
    return DeviceKernels({device: make(device) for device in choice.devices}, make("cpu"), at_once)


def all_kernels(kernels: K | DeviceKernels[K]) -> list[K]:
    """All of them, the fallback last."""
    return [*kernels.by_device.values(), kernels.fallback] if isinstance(kernels, DeviceKernels) else [kernels]


def several_devices(kernels: Any) -> bool:
    """Whether more than one device computes: tasks are then handed out with the largest first."""
    return isinstance(kernels, DeviceKernels) and len(kernels.by_device) > 1


def prepare_on(kernels: K | DeviceKernels[K], prepare: Callable[[K], None]) -> None:
    """Call `prepare` for the kernels of every device, so that no task waits for it; the fallback's load when needed.

    Raises JobError for a GPU that cannot be used.
    """
    if not isinstance(kernels, DeviceKernels):
        prepare(kernels)
        return
    for device, one in kernels.by_device.items():
        try:
            prepare(one)
        except (DeviceLost, DeviceOutOfMemory) as error:
            raise JobError(f"{device} cannot be used: {_line(error)}; choose another --device") from error


def run_on(
    kernels: K | DeviceKernels[K],
    executor: Executor,
    next_task: Callable[[], T | None],
    make: Callable[[K], Callable[[T], R]],
    *,
    name: Callable[[T], str],
    note: Callable[[str], None],
) -> Iterator[tuple[T, R]]:
    """Run tasks on the devices of these kernels: (task, result) as they finish, in any order.

    `next_task` is the executor's; `make` makes the work of one device's kernels; `name` of a task is for messages. What
    happens to devices goes to `note`, in the caller's thread, and is kept for `device_notes`. Raises as `Spread` and
    the executor do.
    """
    if not isinstance(kernels, DeviceKernels):
        yield from executor.run(next_task, make(kernels))
        return
    works = {device: make(one) for device, one in kernels.by_device.items()}
    spread = Spread(works, make(kernels.fallback), name=name, at_once=kernels.at_once, lost=kernels.lost)

    def tell() -> None:
        for text in spread.notes():
            kernels.notes.append(text)
            note(text)

    try:
        for result in executor.run(next_task, spread):
            tell()
            yield result
    finally:
        tell()


def device_notes(kernels: Any) -> tuple[str, ...]:
    """What happened to the devices of these kernels, for the notes of a result."""
    return tuple(kernels.notes) if isinstance(kernels, DeviceKernels) else ()


def _line(error: Exception) -> str:
    """The first line of what a library says, without the advice of paragraphs that follows."""
    lines = str(error).strip().splitlines()
    return printable(" ".join(lines[0].split()), 300) if lines else type(error).__name__
