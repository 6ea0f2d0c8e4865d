"""Which devices a job computes on, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from netweight.errors import OptionError, printable
from netweight.run.device_survey import Device, Survey, check_device, driver_is_there, survey
from netweight.run.memory import available_cores, default_budget

__all__ = [
    "ON_CPU",
    "WORTH",
    "Choice",
    "Device",
    "DeviceOptions",
    "Survey",
    "Work",
    "check_device",
    "choose",
    "choose_for",
    "driver_is_there",
    "spectral_effort",
    "survey",
    "without_gpu",
]

Work = Literal["statistics", "spectra", "merge"]
O = TypeVar("O")

WORTH = 1e12
"""Effort (see `spectral_effort`) of spectra from which on a GPU is worth its start: 5 to 25 s of two CPU cores as
measured, and seconds for loading torch and the device's libraries."""

_LIBRARIES = 1 << 30  # bytes of the machine's memory that torch and a GPU's context take
_GPU_BUDGET = 4 << 30  # bytes, the usual --memory where a GPU computes
_PER_DEVICE = 4  # workers that feed one device, where nobody says how many
_FED = 2  # workers a device at least: one reads and copies while the other computes

_ONE_PASS = {
    "statistics": "one pass over the bytes, which a CPU keeps up with",
    "merge": "every byte is read and written once, which a CPU keeps up with",
}


class DeviceOptions(Protocol):
    """The options of a job that choose devices."""

    @property
    def device(self) -> str:
        """auto, cpu, cuda, cuda:N, mps, xpu, xpu:N."""
        ...

    @property
    def multi_gpu(self) -> bool:
        """Whether all GPUs are wanted."""
        ...


@dataclass(frozen=True)
class Choice:
    """The `devices` of a job, ("cpu",) or GPUs alone, and `why` these; `notes` are worth a line on stderr."""

    devices: tuple[str, ...] = ("cpu",)
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def gpu(self) -> bool:
        """Whether it is GPUs that compute."""
        return self.devices != ("cpu",)

    @property
    def backend(self) -> str:
        """What computes, "cpu" or "torch": a run of one cannot go on as a run of the other, since they agree within
        tolerances alone.
        """
        return "torch" if self.gpu else "cpu"

    @property
    def name(self) -> str:
        """For results: cpu, or "cuda:0, cuda:1"."""
        return ", ".join(self.devices)

    @property
    def libraries(self) -> int:
        """Bytes of memory that the devices' libraries take."""
        return _LIBRARIES if self.gpu else 0

    def workers(self, asked: int | None) -> int | None:
        """How many workers to try for: as many as were asked for (None: every core), at least two a GPU."""
        if not self.gpu or (asked is not None and asked < 1):
            return asked
        least = _FED * len(self.devices)
        return max(least, min(available_cores(), _PER_DEVICE * len(self.devices)) if asked is None else asked)

    def fitted(self, options: O) -> O:
        """A job's options (`workers`, `memory`) with as many workers as feed the GPUs, and memory for their libraries,
        where these were not asked for; as they are for the CPU.
        """
        if not self.gpu:
            return options
        asked: Any = options
        memory = default_budget(_GPU_BUDGET) if asked.memory is None else asked.memory
        fitted: O = replace(asked, workers=self.workers(asked.workers), memory=memory)
        return fitted


ON_CPU = Choice()
"""For jobs that compute on the CPU alone."""


def spectral_effort(shape: Sequence[int]) -> float:
    """What the singular values of a tensor take: rows * cols * min for the Gram matrix of its shorter side, and
    9 min^3 for its eigenvalues (Golub and Van Loan, Matrix Computations, 8.3; a stack of matrices is the sum of them).
    """
    if len(shape) < 2:
        return 0.0
    count, rows, cols = 1, shape[0], 1
    if len(shape) == 3:
        count, rows, cols = shape
    else:
        for size in shape[1:]:
            cols *= size
    short = min(rows, cols)
    return float(count * (rows * cols * short + 9 * short**3)) if short > 1 else 0.0


def choose_for(options: DeviceOptions, work: Work, effort: float = 0.0) -> Choice:
    """`choose` by a job's options; raises as it does, and where a GPU is to compute in a Ray cluster."""
    if getattr(options, "executor_name", "threads") == "ray":
        if options.multi_gpu or check_device(options.device) not in {"auto", "cpu"}:
            option = "--multi-gpu" if options.multi_gpu else f"--device {options.device}"
            raise OptionError(f"--executor ray and {option}: Ray's workers compute on CPUs; leave one of the two out")
        return Choice(why="Ray's workers compute on CPUs")
    return choose(options.device, options.multi_gpu, work, effort)


def choose(asked: str, multi: bool, work: Work, effort: float = 0.0) -> Choice:  # noqa: FBT001 - options in their order
    """The devices for a job of this kind, where `asked` is what `--device` says and `multi` means all GPUs.

    "auto" is the CPU for what takes one pass over the data; spectra whose `effort` is at least WORTH go to the first
    GPU with float64 at full speed. A GPU that was asked for is taken whatever the work. `multi` without a GPU is the
    CPU, with a note. Raises OptionError for a device that is not there, or options that contradict each other.
    """
    check_device(asked)
    if multi and (asked == "cpu" or ":" in asked or asked == "mps"):
        raise OptionError(f"--device {asked} and --multi-gpu: one device, or all GPUs; leave one of the two out")
    if asked == "cpu":
        return Choice(why="asked for")
    if multi:
        return _all(asked, survey())
    if asked != "auto":
        return Choice((_there(asked, survey()).name,), "asked for")
    if work != "spectra":
        return Choice(why=_ONE_PASS[work])
    if effort < WORTH:
        return Choice(why="its spectra take the CPU no longer than a GPU takes to start")
    return _for_spectra()


def without_gpu(device: str, multi: bool, what: str) -> str | None:  # noqa: FBT001 - options in their order
    """For what is computed on the CPU alone: the note where a GPU was asked for, `what` being the plural of the work.

    Raises OptionError for a name that is no device's.
    """
    if multi or check_device(device) not in {"auto", "cpu"}:
        return f"{'--multi-gpu' if multi else f'--device {device}'}: {what} on the CPU"
    return None


def _for_spectra() -> Choice:
    devices = survey() if driver_is_there() else Survey((), "the system has no driver of one")
    fit = [gpu for gpu in devices.gpus if gpu.doubles]
    if fit:
        gpu = fit[0]
        note = f"computing on {gpu.name} ({gpu.model}), for the spectra; --device cpu computes on the CPU"
        return Choice((gpu.name,), "spectra gain from its float64", (note,))
    if devices.gpus:
        gpu = devices.gpus[0]
        return Choice(why=f"spectra need float64, which {gpu.name} ({gpu.model}) has slow or not at all")
    return Choice(why=f"spectra would gain from a GPU; {devices.problem}")


def _all(asked: str, devices: Survey) -> Choice:
    """All GPUs of one kind: that asked for, or that of the first."""
    kind = devices.gpus[0].kind if asked == "auto" and devices.gpus else asked
    gpus = [gpu for gpu in devices.gpus if gpu.kind == kind]
    if gpus:
        named = ", ".join(f"{gpu.name} ({gpu.model})" for gpu in gpus)
        return Choice(tuple(gpu.name for gpu in gpus), "--multi-gpu: all there are", (f"computing on {named}",))
    if asked != "auto":
        raise _missing(asked, devices)
    why = f"--multi-gpu, and there is no GPU: {devices.problem}"
    return Choice(why=why, notes=(f"{why}; computing on the CPU",))


def _there(asked: str, devices: Survey) -> Device:
    name = asked if ":" in asked or asked == "mps" else f"{asked}:0"
    for gpu in devices.gpus:
        if gpu.name == name:
            return gpu
    raise _missing(asked, devices)


def _missing(asked: str, devices: Survey) -> OptionError:
    if not devices.gpus:
        return OptionError(f"--device {asked}: there is no such GPU: {devices.problem}; use --device cpu")
    there = ", ".join(["cpu", *(f"{gpu.name} ({printable(gpu.model, 60)})" for gpu in devices.gpus)])
    return OptionError(f"--device {asked}: there is no such device; there are {there}")
