"""The devices of this machine: the CPU, and the GPUs that torch sees. Only `survey` loads torch."""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from netweight.errors import OptionError, printable
from netweight.run.memory import available_cores

__all__ = ["KINDS", "Device", "Survey", "check_device", "driver_is_there", "survey"]

KINDS = ("cuda", "mps", "xpu")
"""Kinds of GPUs, as torch names them; AMD's are cuda as well."""

_NAME = re.compile(r"auto|cpu|mps|(?:cuda|xpu)(?::[0-9]{1,4})?")
_FULL_RATE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
_DRIVERS = ("nvidia[0-9]*", "kfd", "dxg", "dri/renderD*")  # in /dev: NVIDIA, AMD, GPUs of Windows below it, Intel


@dataclass(frozen=True)
class Device:
    """One device: `name` as `--device` takes it, `kind` "cpu" or one of KINDS, `model` in words; memory in bytes, None
    where nobody asked or the system does not tell. `doubles`: float64 at full speed, which spectra need (at half of
    float32's; other GPUs have a 32nd or 64th of it, or none).
    """

    name: str
    kind: str
    model: str
    memory_total: int | None = None
    memory_free: int | None = None
    doubles: bool = True


@dataclass(frozen=True)
class Survey:
    """`devices`: the CPU first; `problem`: why there is no GPU among them, empty where there is one."""

    devices: tuple[Device, ...]
    problem: str = ""

    @property
    def gpus(self) -> tuple[Device, ...]:
        """All but the CPU."""
        return self.devices[1:]


def check_device(name: str) -> str:
    """`name` where it can be that of a device, there or not; raises OptionError otherwise."""
    if _NAME.fullmatch(name):
        return name
    raise OptionError(f"--device: expected auto, cpu, cuda, cuda:N, mps, xpu or xpu:N, got '{printable(name)}'")


def driver_is_there(root: Path = Path("/dev")) -> bool:
    """Whether the system may have a GPU, in microseconds; True where only torch can tell."""
    if platform.system() != "Linux":
        return True
    return any(next(root.glob(pattern), None) is not None for pattern in _DRIVERS)


def survey(*, memory: bool = False) -> Survey:
    """Every device. Loads torch, where it is installed, which takes a second or more.

    `memory`: also how much each has, and has free; on a GPU this takes some of it.
    """
    cpu = _cpu(memory=memory)
    if find_spec("torch") is None:
        return Survey((cpu,), "torch is not installed: pip install 'netweight[torch]'")
    try:
        import torch  # noqa: PLC0415 - heavy, and not a dependency
    except (ImportError, OSError) as error:
        return Survey((cpu,), f"torch cannot be loaded: {printable(' '.join(str(error).split()))}")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            gpus = [*_of_kind(torch, "cuda", memory=memory), *_mps(torch, memory=memory)]
            gpus += _of_kind(torch, "xpu", memory=memory)
        except (RuntimeError, AssertionError) as error:  # a driver that does not fit, a device that fails
            return Survey((cpu,), f"torch cannot use the GPU: {printable(' '.join(str(error).split()))}")
    if gpus:
        return Survey((cpu, *gpus))
    why = f": {printable(' '.join(str(warned[0].message).split()))}" if warned else ""
    return Survey((cpu,), f"torch {torch.__version__} sees none{why}")


def _of_kind(torch: Any, kind: str, *, memory: bool) -> Iterator[Device]:
    """CUDA's (and AMD's) or Intel's devices."""
    backend = getattr(torch, kind, None)
    if backend is None or not backend.is_available():
        return
    for number in range(backend.device_count()):
        about = backend.get_device_properties(number)
        free = backend.mem_get_info(number)[0] if memory and hasattr(backend, "mem_get_info") else None
        model = printable(str(about.name))
        full = _has_doubles(torch, kind, about)
        yield Device(f"{kind}:{number}", kind, model, int(about.total_memory), free, full)


def _has_doubles(torch: Any, kind: str, about: Any) -> bool:
    if kind == "xpu":
        return bool(getattr(about, "has_fp64", False)) and "Max" in about.name
    if getattr(torch.version, "hip", None):
        return "Instinct" in about.name
    return (about.major, about.minor) in _FULL_RATE


def _mps(torch: Any, *, memory: bool) -> Iterator[Device]:
    """Apple's GPU, which shares the machine's memory and has no float64."""
    if not torch.backends.mps.is_available():
        return
    total = int(torch.mps.recommended_max_memory()) if memory else None
    free = None if total is None else max(0, total - int(torch.mps.driver_allocated_memory()))
    yield Device("mps", "mps", "Apple GPU", total, free, doubles=False)


def _cpu(*, memory: bool) -> Device:
    total = free = None
    if memory:
        try:
            page = os.sysconf("SC_PAGE_SIZE")
            total, free = page * os.sysconf("SC_PHYS_PAGES"), _available() or page * os.sysconf("SC_AVPHYS_PAGES")
        except (AttributeError, ValueError, OSError):  # no such question on this system
            total = free = None
    cores = available_cores()
    return Device("cpu", "cpu", f"{_cpu_model()}, {cores} core{'s' if cores != 1 else ''}", total, free)


def _available(path: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux can hand out, caches of files included; None elsewhere."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) << 10 if match else None


def _cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE)
    except OSError:
        match = None
    return printable(" ".join(match[1].split()) if match else platform.processor() or platform.machine() or "CPU")
