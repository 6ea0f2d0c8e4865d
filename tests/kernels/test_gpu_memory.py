"""What a device's failures become, and how the work goes on with less at once."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory  # noqa: E402
from netweight.kernels.gpu import memory  # noqa: E402
from netweight.kernels.gpu.memory import LEAST, fitting_block, guarded, in_pieces, largest  # noqa: E402
from netweight.kernels.protocol import CHUNK  # noqa: E402

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def released(monkeypatch):
    """How often memory was given back, without a device that has any."""
    found = []
    monkeypatch.setattr(memory, "release", found.append)
    return found


@pytest.mark.parametrize(
    ("raised", "becomes", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), DeviceOutOfMemory, "memory is full"),
        (torch.AcceleratorError("CUDA error: out of memory\nmore"), DeviceOutOfMemory, "CUDA error: out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), DeviceOutOfMemory, "ALLOC_FAILED"),
        (RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
         DeviceOutOfMemory, "OUT_OF_DEVICE"),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), DeviceLost, "the device failed: CUDA error"),
        (RuntimeError("CUDA error: unspecified launch failure\nCompile with ..."), DeviceLost, "launch failure$"),
        (RuntimeError("cuSOLVER error: CUSOLVER_STATUS_INTERNAL_ERROR"), DeviceLost, "cuSOLVER error"),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (2)"), RuntimeError, "The size"),
        (RuntimeError("Expected all tensors on the same device, found cuda:0 and cpu"), RuntimeError, "same device"),
        (ValueError("CUDA error"), ValueError, "CUDA error"),
    ],
)  # fmt: skip
def test_what_failures_become(raised, becomes, text):
    with pytest.raises(becomes, match=text) as caught, guarded(CUDA):
        raise raised
    if becomes in (DeviceLost, DeviceOutOfMemory):
        assert str(caught.value).startswith("cuda:1: the device")
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is raised
    else:
        assert caught.value is raised


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1000, 12_345])
@pytest.mark.parametrize("fits", [10, 37, 99, 640, 5000])
def test_pieces_cover_everything_once(released, count, fits):
    done, failures = [], 0

    def run(start, stop):
        nonlocal failures
        if stop - start > fits:
            failures += 1
            raise torch.OutOfMemoryError("no")
        done.append((start, stop))

    in_pieces(CUDA, count, run, least=10)
    assert [i for start, stop in done for i in range(start, stop)] == list(range(count))
    assert all(start % 10 == 0 for start, _ in done)
    assert failures == len(released) <= 12


def test_too_little_for_the_smallest_piece(released):
    tried = []

    def run(start, stop):
        tried.append(stop - start)
        raise torch.OutOfMemoryError("no")

    with pytest.raises(DeviceOutOfMemory, match=r"cuda:1: the device's memory is full: no"):
        in_pieces(CUDA, 100, run, least=10)
    assert tried == [100, 50, 30, 20, 10]


def test_other_failures_are_not_tried_again(released):
    tried = []

    def run(start, stop):
        tried.append(stop - start)
        raise torch.AcceleratorError("CUDA error: the device fell off")

    with pytest.raises(DeviceLost, match="fell off"):
        in_pieces(CUDA, 100, run, least=10)
    assert (tried, released) == ([100], [])


def test_what_a_failed_piece_held_is_free_before_memory_is_released(monkeypatch):
    held, free = [], []
    monkeypatch.setattr(memory, "release", lambda device: free.append(held[-1]() is None))

    def run(start, stop):
        tensor = torch.zeros(stop - start)
        held.append(weakref.ref(tensor))
        if stop - start > 16:
            raise torch.OutOfMemoryError("no")

    gc.disable()
    try:
        in_pieces(CUDA, 64, run, least=8)
    finally:
        gc.enable()
    assert free == [True, True]


def test_the_largest_that_fits(released):
    def make(size):
        if size > 300:
            raise torch.OutOfMemoryError("no")
        return size

    assert largest(CUDA, 1000, 10, make) == 250
    assert len(released) == 2
    with pytest.raises(DeviceOutOfMemory, match="memory is full"):
        largest(CUDA, 1000, 400, make)


def test_blocks_follow_free_memory(monkeypatch):
    assert fitting_block(CPU, 100) == 1 << 24
    device = SimpleNamespace(
        mem_get_info=lambda d: (800 << 20, 1 << 34), memory_reserved=lambda d: 900 << 20, memory_allocated=lambda d: 0
    )
    monkeypatch.setattr(torch, "get_device_module", lambda d: device)
    found = fitting_block(CUDA, 100)
    assert found % CHUNK == 0
    assert 0.9 < found * 100 * 8 / (1700 << 20) <= 1
    assert fitting_block(CUDA, 100, 1 << 20) == 1 << 20
    assert fitting_block(CUDA, 1 << 30) == LEAST
