"""Bit patterns and looks, on every backend, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from accumulator_backends import BACKENDS, DEVICES, Backend, short_of_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_oracles import sample

from netweight.dtypes import DTYPES
from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory
from netweight.kernels.protocol import CHUNK


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


@pytest.mark.parametrize("name", ["BF16", "F16", "F8_E4M3", "U16", "I8"])
@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [65536], [100_001, 7]])
def test_patterns(backend, name, sizes):
    found = backend.patterns()
    kind = np.uint8 if DTYPES[name].bits == 8 else np.uint16
    rng = np.random.default_rng(len(sizes))
    blocks = [rng.integers(0, np.iinfo(kind).max, n, dtype=kind, endpoint=True) for n in sizes]
    for _ in range(2):  # `start` begins anew
        found.start(DTYPES[name])
        for block in blocks:
            found.add(block.view(np.uint8))
        expected = np.bincount(np.concatenate([*blocks, np.zeros(0, kind)]), minlength=np.iinfo(kind).max + 1)
        assert found.counts().dtype == np.uint64
        assert (found.counts() == expected).all()


@pytest.mark.parametrize("device", DEVICES)
def test_patterns_of_bytes_from_anywhere(device):
    found = Backend(device).patterns()
    found.start(DTYPES["BF16"])
    room = np.zeros(2003, np.uint8)
    room[1:2001:2] = 7
    room[2:2001:2] = 1
    found.add(room[1:2001])  # an odd address
    found.add(np.frombuffer(room[1:2001].tobytes(), np.uint8))  # read-only
    assert found.counts()[0x0107] == found.counts().sum() == 2000


def test_patterns_of_other_types(backend):
    with pytest.raises(TypeError, match="bit patterns of F32: expected a type of 8 or 16 bits"):
        backend.patterns().start(DTYPES["F32"])


def looked_at(accumulator, x, name, scale, ranges, thresholds, chunks=1000):
    accumulator.start(DTYPES[name], scale, ranges, thresholds)
    size = x.itemsize
    step = min(chunks * CHUNK, accumulator.block)
    for first in range(0, len(x), step):
        part = x[first : first + step]
        accumulator.buffer[: len(part) * size] = part.view(np.uint8)
        accumulator.add(len(part))
    return accumulator.partial()


def some(name, n, seed, special):
    x = sample("heavy", name, n, seed)
    if special and n:
        x[:: max(n // 9, 1)] = np.nan
        x[1 :: max(n // 7, 1)] = np.inf
        x[2 :: max(n // 5, 1)] = -np.inf
    return x


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["F32", "F64"]),
    n=st.sampled_from([0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5, 70_000, 200_000]),
    seed=st.integers(0, 1000),
    special=st.booleans(),
    scale=st.sampled_from([None, 1e-3, 0.02, 1e300, 5e-324]),
)
def test_looks(backend, name, n, seed, special, scale):
    x = some(name, n, seed, special)
    finite = x[np.isfinite(x)].astype(np.float64)
    at = float(abs(finite[len(finite) // 2])) if len(finite) else 0.5
    thresholds = [0.0, 1e-6, at, np.nextafter(at, 0), np.inf][: 1 + seed % 5]
    ranges = [(-at, at), (-np.inf, np.nextafter(at, 9))][: seed % 3]
    found = looked_at(backend.values(), x, name, scale, ranges, thresholds)
    assert found.at_most == tuple(int((np.abs(finite) <= t).sum()) for t in thresholds)
    assert found.inside == tuple(int(((finite >= low) & (finite <= high)).sum()) for low, high in ranges)
    sums = found.error_square, found.error_absolute, found.product, found.quantized_square
    if scale is None:
        assert sums == (0, 0, 0, 0)
        return
    with np.errstate(over="ignore", under="ignore"):
        back = np.clip(np.rint(finite / scale), -128, 127) * scale
        e = finite - back
        expected = [float(v.sum()) for v in (e * e, np.abs(e), finite * back, back * back)]
    assert sums == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_blocks_change_no_bit(backend, name):
    x = some(name, 21 * CHUNK + 99, 5, special=True)
    how = (name, 0.01, [(-0.1, 0.1)], [0.1])
    whole = looked_at(backend.values(), x, *how)
    for chunks in (1, 2, 5):
        assert looked_at(backend.values(), x, *how, chunks) == whole


def test_looks_at_other_types(backend):
    with pytest.raises(TypeError, match="a look at BF16: expected F32 or F64"):
        backend.values().start(DTYPES["BF16"], None, [], [])


@pytest.mark.parametrize("device", DEVICES)
def test_pieces_that_do_not_fit_are_halved(device, monkeypatch):
    from netweight.kernels.gpu import values as implementation

    x = some("F32", 60 * CHUNK + 1, 3, special=True)
    patterns = np.random.default_rng(0).integers(0, 65536, 500_000).astype(np.uint16)
    how = ("F32", 0.01, [(-0.1, 0.1)], [0.1, 0.2])
    whole = looked_at(Backend(device).values(), x, *how)
    monkeypatch.setattr(implementation, "floats", short_of_memory(implementation.floats, 4 * 17 * CHUNK))
    monkeypatch.setattr(implementation, "integers", short_of_memory(implementation.integers, 2 * 70_000))
    assert looked_at(Backend(device).values(), x, *how) == whole
    counted = Backend(device).patterns()
    counted.start(DTYPES["F16"])
    counted.add(patterns.view(np.uint8))
    assert (counted.counts() == np.bincount(patterns, minlength=65536)).all()
    monkeypatch.setattr(implementation, "floats", short_of_memory(implementation.floats, 100))
    with pytest.raises(DeviceOutOfMemory):
        looked_at(Backend(device).values(), x, *how)


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_fails(device, monkeypatch):
    from netweight.kernels.gpu import values as implementation

    def fails(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(implementation, "floats", fails)
    with pytest.raises(DeviceLost):
        looked_at(Backend(device).values(), some("F32", 10, 0, special=False), "F32", None, [], [0.1])


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_without_float64(device, monkeypatch):
    from netweight.kernels.gpu import values as implementation

    monkeypatch.setattr(implementation, "has_float64", lambda device: False)
    expected = rf"a look at values on {device}: expected a device with float64; use the CPU's"
    with pytest.raises(TypeError, match=expected):
        Backend(device).values()
