"""Backends by the name of the device."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_gpus import StubKernels, StubMergeKernels, fake_gpus

from netweight.errors import OptionError
from netweight.kernels import choose
from netweight.kernels.choose import kernels_for, merge_kernels_for
from netweight.kernels.cpu import CpuKernels
from netweight.kernels.cpu.merging import CpuMergeKernels


def test_the_cpu() -> None:
    assert type(kernels_for("cpu")) is CpuKernels
    assert type(merge_kernels_for("cpu")) is CpuMergeKernels


def test_everything_else(monkeypatch) -> None:
    fake_gpus(monkeypatch)
    assert isinstance(found := kernels_for("cuda:1"), StubKernels)
    assert found.name == "torch cuda:1"
    assert isinstance(found := merge_kernels_for("xpu:0"), StubMergeKernels)
    assert found.name == "torch xpu:0"


@pytest.mark.parametrize("make", [kernels_for, merge_kernels_for])
def test_without_torch(make, monkeypatch) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    with pytest.raises(OptionError) as caught:
        make("cuda:0")
    assert str(caught.value) == (
        "--device cuda:0: needs torch, which is not installed: pip install 'netweight[torch]'; or use --device cpu"
    )


def test_the_cpu_needs_no_torch() -> None:
    program = (
        "import sys; from netweight.kernels.choose import kernels_for, merge_kernels_for;"
        " kernels_for('cpu'); merge_kernels_for('cpu'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
