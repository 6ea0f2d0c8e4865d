"""What there is to compute on, with a torch that is none."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import psutil
import pytest

from netweight.run import device_survey
from netweight.run.device_survey import Device, driver_is_there, survey

GIB = 1 << 30


def backend(*properties, free=None):
    """torch.cuda or torch.xpu with these devices."""
    found = SimpleNamespace(
        is_available=lambda: bool(properties),
        device_count=lambda: len(properties),
        get_device_properties=lambda n: properties[n],
    )
    if free is not None:
        found.mem_get_info = lambda n: (free[n], properties[n].total_memory)
    return found


def card(name, capability=(9, 0), **more):
    major, minor = capability
    return SimpleNamespace(name=name, total_memory=80 * GIB, major=major, minor=minor, **more)


@pytest.fixture
def with_torch(monkeypatch):
    """Put a torch of these parts in place of the real one, or of none."""

    def put(cuda=None, xpu=None, *, mps=False, hip=None):
        torch = SimpleNamespace(
            __version__="9.9.9",
            cuda=cuda or backend(),
            version=SimpleNamespace(hip=hip),
            backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
            mps=SimpleNamespace(recommended_max_memory=lambda: 20 * GIB, driver_allocated_memory=lambda: 3 * GIB),
        )
        if xpu is not None:
            torch.xpu = xpu
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setattr(device_survey, "find_spec", lambda name: object())
        return torch

    return put


def test_cuda(with_torch):
    with_torch(backend(card("H\x1b100"), card("Consumer", (8, 9)), free=[70 * GIB, 10 * GIB]))
    found = survey(memory=True)
    assert found.problem == ""
    assert found.gpus == (
        Device("cuda:0", "cuda", r"H\x1b100", 80 * GIB, 70 * GIB, doubles=True),
        Device("cuda:1", "cuda", "Consumer", 80 * GIB, 10 * GIB, doubles=False),
    )
    assert [d.memory_free for d in survey().gpus] == [None, None]


@pytest.mark.parametrize(
    ("name", "capability", "hip", "doubles"),
    [
        ("Tesla V100", (7, 0), None, True),
        ("A100", (8, 0), None, True),
        ("RTX 3090", (8, 6), None, False),
        ("B200", (10, 0), None, True),
        ("B300", (10, 3), None, False),
        ("RTX 5090", (12, 0), None, False),
        ("AMD Instinct MI300X", (9, 4), "6.4", True),
        ("AMD Radeon RX 7900", (11, 0), "6.4", False),
    ],
)
def test_float64_at_full_speed(name, capability, hip, doubles, with_torch):
    with_torch(backend(card(name, capability)), hip=hip)
    assert survey().gpus[0].doubles is doubles


def test_intel_and_apple(with_torch):
    large = SimpleNamespace(name="Intel(R) Data Center GPU Max 1550", total_memory=64 * GIB, has_fp64=True)
    small = SimpleNamespace(name="Intel(R) Arc(TM) A770", total_memory=16 * GIB, has_fp64=False)
    with_torch(xpu=backend(large, small), mps=True)
    apple, first, second = survey(memory=True).gpus
    assert apple == Device("mps", "mps", "Apple GPU", 20 * GIB, 17 * GIB, doubles=False)
    assert (first.name, first.doubles, first.memory_free) == ("xpu:0", True, None)
    assert (second.name, second.doubles) == ("xpu:1", False)


def test_none(with_torch):
    with_torch()
    found = survey()
    assert found.gpus == ()
    assert found.problem == "torch 9.9.9 sees none"
    assert found.devices[0].kind == "cpu"


def test_a_driver_that_is_too_old(with_torch):
    def available():
        warnings.warn("CUDA initialization: the driver is too old\n(found 11040)", UserWarning, stacklevel=1)
        return False

    torch = with_torch()
    torch.cuda.is_available = available
    assert survey().problem == "torch 9.9.9 sees none: CUDA initialization: the driver is too old (found 11040)"


def test_a_device_that_fails(with_torch):
    def fails(number):
        raise RuntimeError("CUDA error: unknown error\nCompile with")

    torch = with_torch(backend(card("H100")))
    torch.cuda.get_device_properties = fails
    found = survey()
    assert found.gpus == ()
    assert found.problem == "torch cannot use the GPU: CUDA error: unknown error Compile with"


def test_without_torch(monkeypatch):
    monkeypatch.setattr(device_survey, "find_spec", lambda name: None)
    assert survey().problem == "torch is not installed: pip install 'netweight[torch]'"


@pytest.mark.parametrize(
    "error", [ImportError("libc10.so: cannot open\nshared object"), OSError("libc10.so: cannot open shared object")]
)
def test_a_broken_torch(monkeypatch, error):
    usual = builtins.__import__

    def refuse(name, *args, **more):
        if name == "torch":
            raise error
        return usual(name, *args, **more)

    monkeypatch.setattr(device_survey, "find_spec", lambda name: object())
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert survey().problem == "torch cannot be loaded: libc10.so: cannot open shared object"


def test_the_cpu(with_torch):
    with_torch()
    found = survey(memory=True).devices[0]
    machine = psutil.virtual_memory()
    assert found.memory_total == machine.total
    assert abs(found.memory_free - machine.available) < machine.total / 4
    assert found.model.endswith(("cores", "1 core"))
    assert survey().devices[0].memory_total is None


def test_a_system_that_does_not_tell(with_torch, monkeypatch, tmp_path):
    with_torch()
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert survey(memory=True).devices[0].memory_total is None
    assert device_survey._available(tmp_path / "meminfo") is None
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A  CPU\x1b @ 3GHz\n")
    assert device_survey._cpu_model(tmp_path / "cpuinfo") == r"A CPU\x1b @ 3GHz"
    assert device_survey._cpu_model(tmp_path / "none")


@pytest.mark.parametrize("name", ["nvidia0", "kfd", "dxg", "dri/renderD128"])
def test_drivers(name, tmp_path, monkeypatch):
    monkeypatch.setattr(device_survey.platform, "system", lambda: "Linux")
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "dri").mkdir()
    assert not driver_is_there(tmp_path)
    (tmp_path / name).touch()
    assert driver_is_there(tmp_path)
    monkeypatch.setattr(device_survey.platform, "system", lambda: "Darwin")
    assert driver_is_there(tmp_path / "none")


def test_the_modules_load_nothing_heavy():
    program = "import sys, netweight.run.devices; print({'torch', 'numpy', 'numba'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_real_torch():
    torch = pytest.importorskip("torch")
    found = survey(memory=True)
    assert len(found.gpus) == torch.cuda.device_count() + torch.backends.mps.is_available() + torch.xpu.device_count()
    assert bool(found.problem) is not bool(found.gpus)
    for device in found.gpus:
        assert 0 <= (device.memory_free or 0) <= (device.memory_total or 0)
