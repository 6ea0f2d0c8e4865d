"""Buffers that are copied while the device computes: every block is looked at once, with its own bytes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from netweight.kernels.faults import DeviceOutOfMemory  # noqa: E402
from netweight.kernels.gpu.transfer import Staging  # noqa: E402

CPU = torch.device("cpu")


class LateCopies:
    """Copies as late as a device may make them: when the host waits for one."""

    def __init__(self):
        self.log, self._open = [], {}

    def copy(self, host, slot, used, turn):
        self.log.append(f"copy {turn}")
        self._open[turn] = host, slot, used

    def arrived(self, turn):
        self.log.append(f"arrived {turn}")
        host, slot, used = self._open.pop(turn)
        for lane, nbytes in enumerate(used):
            slot[lane, :nbytes] = host[lane, :nbytes]

    def before(self, turn):
        assert turn not in self._open
        self.log.append(f"before {turn}")

    def after(self, turn):
        self.log.append(f"after {turn}")


@pytest.fixture
def beside():
    """Staging with a device that copies beside computing."""
    staging = Staging(CPU, 2, 1 << 14, 1 << 12)
    staging._slots = [torch.zeros_like(staging._host) for _ in range(2)]
    staging._copies = LateCopies()
    return staging


def feed(staging, blocks, look):
    for number in blocks:
        for lane, buffer in enumerate(staging.buffers):
            buffer[:] = 10 * number + lane
        staging.add([100, 50], look)


def test_on_the_cpu_nothing_is_copied():
    staging = Staging(CPU, 2, 5000, 1 << 12)
    assert [b.shape for b in staging.buffers] == [(8192,)] * 2
    assert staging.nbytes == 8192
    seen = []
    feed(staging, range(3), lambda lanes: seen.append((lanes.data_ptr(), lanes[:, 0].tolist())))
    at = staging.buffers[0].ctypes.data
    assert seen == [(at, [0, 1]), (at, [10, 11]), (at, [20, 21])]


def test_a_device_without_streams_is_given_copies():
    staging = Staging(CPU, 2, 1 << 14, 1 << 12)
    staging._slots = [torch.zeros_like(staging._host)]
    seen = []
    feed(staging, range(3), lambda lanes: seen.append(lanes[:, :101].sum(dim=1).tolist()))
    assert seen == [[0, 50], [1000, 550], [2000, 1050]]


def test_one_block_is_looked_at_while_the_next_is_copied(beside):
    seen = []
    feed(beside, range(4), lambda lanes: seen.append(lanes[:, [0, 49, 50, 99, 100]].tolist()))
    assert len(seen) == 3
    beside.finish()
    beside.finish()
    assert [lanes[0][:4] for lanes in seen] == [[10 * k] * 4 for k in range(4)]
    assert [lanes[1][:2] for lanes in seen] == [[10 * k + 1] * 2 for k in range(4)]
    assert {lanes[0][4] for lanes in seen} == {0}
    once = ["copy 1", "before 0", "after 0", "arrived 1", "copy 0", "before 1", "after 1", "arrived 0"]
    assert beside._copies.log == ["copy 0", "arrived 0", *once[:8], *once[:4], "before 1", "after 1"]


def test_what_was_not_looked_at_is_dropped(beside):
    seen = []
    feed(beside, [1], seen.append)
    beside.drop()
    feed(beside, [2, 3], lambda lanes: seen.append(int(lanes[0, 0])))
    beside.finish()
    assert seen == [20, 30]


def test_a_look_that_fails_leaves_no_copy_under_way(beside):
    def fail(lanes):
        raise torch.OutOfMemoryError("no")

    feed(beside, [1], fail)
    with pytest.raises(DeviceOutOfMemory, match="memory is full: no"):
        feed(beside, [2], fail)
    assert beside._copies.log[-3:] == ["copy 1", "before 0", "arrived 1"]
    beside.drop()
    seen = []
    feed(beside, [3], lambda lanes: seen.append(int(lanes[0, 0])))
    beside.finish()
    assert seen == [30]


def test_buffers_that_do_not_fit_are_halved(monkeypatch):
    sizes, make = [], torch.empty

    def empty(shape, **settings):
        sizes.append(shape[1])
        if shape[1] > 1 << 14:
            raise torch.OutOfMemoryError("no")
        return make(shape, **settings)

    monkeypatch.setattr(torch, "empty", empty)
    assert Staging(CPU, 3, 1 << 16, 1 << 12).nbytes == 1 << 14
    assert sizes == [1 << 16, 1 << 15, 1 << 14]
    with pytest.raises(DeviceOutOfMemory, match="cpu: the device's memory is full: no"):
        Staging(CPU, 3, 1 << 16, 1 << 15)


def test_the_buffers_are_numpy_and_writable():
    (only,) = Staging(CPU, 1, 4096, 4096).buffers
    assert isinstance(only, np.ndarray)
    assert only.flags.writeable
    memoryview(only)[:4] = b"abcd"
    assert bytes(only[:4]) == b"abcd"
