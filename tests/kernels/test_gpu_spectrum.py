"""Singular values on every backend, against numpy.linalg.svd in float64."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from accumulator_backends import BACKENDS, DEVICES, Backend
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES
from netweight.kernels.cpu.spectrum import spectrum_bytes
from netweight.kernels.faults import DeviceOutOfMemory

FLOATS = ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


def stored(w, name="F64"):
    return np.ascontiguousarray(w).astype(DTYPES[name].to_numpy())


def feed(accumulator, native, sizes=None):
    raw = np.ascontiguousarray(native).view(np.uint8).reshape(len(native), -1)
    first = 0
    while first < len(native):
        count = min(len(native) - first, (sizes or [len(native)])[first % len(sizes or [0])])
        accumulator.add(raw[first : first + count].reshape(-1), count)
        first += count


def accumulated(backend, native, leading=None, sizes=None):
    name = next(n for n, d in DTYPES.items() if d.numpy_name and d.to_numpy() == native.dtype)
    accumulator = backend.spectrum(DTYPES[name], *native.shape, leading)
    feed(accumulator, native, sizes)
    again = accumulator.look_again()
    if again:
        feed(accumulator, native, sizes)
        assert not accumulator.look_again()
    return accumulator.singular_values(), again


def exact(native):
    return np.linalg.svd(native.astype(np.float64), compute_uv=False)


def check(backend, native, bound=1e-7):
    found, again = accumulated(backend, native)
    expected = exact(native)
    assert found.complete
    assert found.values.shape == expected.shape
    assert (np.diff(found.values) <= 0).all()
    worst = np.abs(found.values - expected).max() / expected[0]
    assert worst <= min(bound, found.error + 4e-16 * min(native.shape))
    assert found.square_sum == pytest.approx((native.astype(np.float64) ** 2).sum(), rel=1e-12)
    assert again == (found.method == "qr" and native.shape[0] >= native.shape[1])
    return found, expected


def graded(rows, cols, condition, seed=0, rank=None):
    """Q1 diag(sigma) Q2 with sigma from 1 down to 1 / condition, evenly in logarithm."""
    rng = np.random.default_rng(seed)
    r = rank or min(rows, cols)
    left = np.linalg.qr(rng.standard_normal((rows, r)))[0]
    right = np.linalg.qr(rng.standard_normal((cols, r)))[0]
    return (left * np.logspace(0, -np.log10(condition), r)) @ right.T


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", [(70, 33), (33, 70)])
def test_every_float_type(backend, name, shape):
    found, _ = check(backend, stored(np.random.default_rng(1).standard_normal(shape), name), 1e-12)
    assert found.method == "gram"


@pytest.mark.parametrize("shape", [(40, 40), (300, 17), (17, 300), (3000, 2), (64, 65)])
@pytest.mark.parametrize("condition", [1e1, 1e5, 1e6 / 2, 1e7, 1e10])
def test_graded(backend, shape, condition):
    found, expected = check(backend, graded(*shape, condition, seed=int(np.log10(condition))))
    assert found.method == ("qr" if condition > 1e6 else "gram")
    if condition <= 1e8:
        assert found.values[0] / found.values[-1] == pytest.approx(expected[0] / expected[-1], rel=1e-3)


@pytest.mark.parametrize(("rows", "cols", "rank"), [(200, 50, 3), (50, 200, 3), (60, 60, 59), (60, 60, 1)])
def test_low_rank(backend, rows, cols, rank):
    found, expected = check(backend, graded(rows, cols, 10, rank=rank))
    assert found.method == "qr"
    assert np.count_nonzero(found.values > 1e-12) == rank == np.count_nonzero(expected > 1e-12)


@pytest.mark.parametrize("shape", [(80, 50), (50, 80)])
def test_zero_rows_and_columns_need_no_second_reading(backend, shape):
    w = np.random.default_rng(2).standard_normal(shape) * 1e-3
    w[3:9] = 0.0
    w[:, 5:15] = 0.0
    found, again = accumulated(backend, w)
    expected = exact(w)
    assert np.abs(found.values - expected).max() < 1e-12 * expected[0]
    assert (found.method, again) == ("gram", False)
    assert found.zeros == 50 - np.count_nonzero(found.values) == (10 if shape[0] > 50 else 6)


@pytest.mark.parametrize("transposed", [False, True])
def test_zero_columns_beside_a_small_end(backend, transposed):
    w = graded(120, 40, 1e9)
    w = np.concatenate([w[:, :20], np.zeros((120, 7)), w[:, 20:]], axis=1)
    found, _ = check(backend, np.ascontiguousarray(w.T if transposed else w))
    assert (found.method, found.zeros) == ("qr", 7)
    assert (found.values[40:] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (1, (1 << 20) + 5)])
@pytest.mark.parametrize("name", ["BF16", "F64"])
def test_one_row_or_column(backend, shape, name):
    w = stored(np.random.default_rng(3).standard_normal(shape), name)
    found, again = accumulated(backend, w)
    assert not again
    assert found.values == pytest.approx([np.linalg.norm(w.astype(np.float64))], rel=1e-13)
    assert found.error < 1e-12


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (7, 0), (0, 1)])
def test_no_elements(backend, shape):
    accumulator = backend.spectrum(DTYPES["F32"], *shape)
    accumulator.add(np.zeros(0, np.uint8), shape[0])
    found = accumulator.singular_values()
    assert (len(found.values), found.square_sum, found.complete) == (0, 0.0, True)
    assert not accumulator.look_again()


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1, 9), (9, 1)])
@pytest.mark.parametrize("name", ["BF16", "F64"])
def test_zero(backend, shape, name):
    found, again = accumulated(backend, stored(np.zeros(shape), name))
    assert (found.method, found.error, found.square_sum, again) == ("zero", 0.0, 0.0, False)
    assert (found.values == np.zeros(min(shape))).all()


@pytest.mark.parametrize("name", ["BF16", "F64"])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1, 9)])
@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_spectrum(backend, name, shape, what):
    w = np.random.default_rng(4).standard_normal(shape)
    w[-1, 3] = what
    found, again = accumulated(backend, stored(w, name))
    assert (found.values, found.reason, again) == (None, "elements that are NaN or infinite", False)
    assert found.square_sum == np.inf


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(700, 30), (30, 700), (1, 9000)])
@pytest.mark.parametrize("condition", [10, 1e9])
def test_many_panels_and_any_blocks(device, shape, condition, monkeypatch):
    from netweight.kernels.gpu import spectrum as implementation

    monkeypatch.setattr(implementation, "_PANEL", 4096)
    w = stored(graded(*shape, condition), "F32")
    found, _ = check(Backend(device), w, 1e-12)
    for sizes in ([1], [7, 2, 64], [500]):
        parts, _ = accumulated(Backend(device), w, sizes=sizes)
        assert np.abs(found.values - parts.values).max() <= 1e-13 * found.values[0]


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-160, 1e160, 1e300, 4e307])
@pytest.mark.parametrize("shape", [(50, 20), (20, 50), (1, 50)])
@pytest.mark.parametrize("condition", [5, 1e9])
def test_scales(backend, scale, shape, condition):
    w = graded(*shape, condition) * scale
    found, _ = accumulated(backend, w)
    expected = exact(w / scale)
    bound = 1e-9 if scale > 1e-305 else 1e-6  # w itself has lost bits
    assert np.abs(found.values / scale - expected).max() < bound * expected[0]


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_all_magnitudes(backend, order):
    """Scales that grow from panel to panel, and that shrink."""
    w = np.random.default_rng(5).standard_normal((1200, 3)) * (10.0 ** np.linspace(-300, 300, 1200))[::order, None]
    found, _ = accumulated(backend, w)
    expected = exact(w / 1e300)
    assert np.abs(found.values / 1e300 - expected).max() <= 1e-12 * expected[0]


@pytest.mark.parametrize("shape", [(400, 300), (300, 500)])
@pytest.mark.parametrize("leading", [1, 18])
@pytest.mark.parametrize("kind", ["random", "graded", "low rank"])
def test_leading(backend, shape, leading, kind):
    made = {"random": np.random.default_rng(9).standard_normal(shape), "graded": graded(*shape, 1e5)}
    w = stored(made.get(kind, graded(*shape, 3, rank=30)), "F32")
    found, again = accumulated(backend, w, leading=leading)
    expected = exact(w)
    assert (found.complete, again, len(found.values)) == (False, False, leading)
    assert found.method == ("lanczos" if backend.device is None else "gram")
    assert np.abs(found.values - expected[:leading]).max() <= found.error * expected[0]
    assert found.error < 1e-9
    assert found.square_sum == pytest.approx((w.astype(np.float64) ** 2).sum(), rel=1e-12)


def test_leading_near_the_whole_gives_all(backend):
    found, _ = accumulated(backend, np.random.default_rng(0).standard_normal((300, 300)), leading=30)
    assert (found.complete, found.method, len(found.values)) == (True, "gram", 300)


def test_without_the_second_reading_and_with_missing_rows(backend):
    accumulator = backend.spectrum(DTYPES["F64"], 80, 30)
    w = graded(80, 30, 1e9)
    feed(accumulator, w[:79])
    for ask in (accumulator.look_again, accumulator.singular_values):
        with pytest.raises(ValueError, match="79 rows were given: expected 80"):
            ask()
    feed(accumulator, w[79:])
    found = accumulator.singular_values()
    assert accumulator.look_again()
    assert found.method == "gram"
    assert np.abs(found.values - exact(w)).max() <= found.error < 1e-5
    feed(accumulator, w[:1])
    with pytest.raises(ValueError, match="1 rows were given: expected 80"):
        accumulator.singular_values()


@pytest.mark.parametrize(("rows", "size"), [(3, 48), (2, 31)])
def test_blocks_that_do_not_fit(backend, rows, size):
    accumulator = backend.spectrum(DTYPES["F64"], 2, 2)
    expected = rf"rows 0 to {rows} in {size} bytes: expected at most 2 rows of 16 bytes each"
    with pytest.raises(ValueError, match=expected):
        accumulator.add(np.zeros(size, np.uint8), rows)


def test_larger_buffers_and_odd_addresses(backend):
    w = stored(np.random.default_rng(10).standard_normal((20, 10)), "F32")
    room = np.zeros(w.nbytes + 50, np.uint8)
    room[1 : 1 + w.nbytes] = w.view(np.uint8).reshape(-1)
    accumulator = backend.spectrum(DTYPES["F32"], 20, 10)
    accumulator.add(room[1:], 20)
    assert accumulator.singular_values().values == pytest.approx(exact(w), rel=1e-12)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=30)
def test_small_integers(backend, rows, cols, data):
    cells = data.draw(st.lists(st.integers(-3, 3), min_size=rows * cols, max_size=rows * cols))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    w = stored(np.array(cells, float).reshape(rows, cols), data.draw(st.sampled_from(FLOATS)))
    found, _ = accumulated(backend, w, sizes=sizes)
    expected = exact(w)
    largest = max(expected[0], 1e-300)
    # of a nearly singular matrix the Gram matrix loses digits of the smallest values, and the error says so
    assert np.abs(found.values - expected).max() <= max(1e-13 * largest, found.error)
    assert found.error <= 1e-10 * largest


@pytest.mark.parametrize("leading", [None, 3])
def test_threads_at_once_find_what_one_finds(backend, leading):
    rng = np.random.default_rng(11)
    made = [rng.standard_normal((300, 150)) for _ in range(6)] + [graded(200, 150, 1e9), graded(150, 200, 1e9)]
    alone = [accumulated(backend, w, leading)[0].values for w in made]
    with ThreadPoolExecutor(4) as pool:
        together = [found.values for found, _ in pool.map(lambda w: accumulated(backend, w, leading), made)]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1e-12 * one[0]


def symmetric(n, count):
    rng = np.random.default_rng(n)
    return [a @ a.T for a in rng.standard_normal((count, n, n))]


def solved_at_once(grams, device, solver):
    """Every matrix from a thread of its own, all of which wait until the last one is there."""
    import torch

    with ThreadPoolExecutor(len(grams)) as pool:
        with solver._solving:
            futures = [pool.submit(solver, torch.from_numpy(g).to(device)) for g in grams]
            while sum(map(len, solver._waiting.values())) < len(grams):
                time.sleep(0.001)
        return [f.exception() or f.result().numpy() for f in futures]


@pytest.mark.parametrize("device", DEVICES)
def test_small_matrices_of_one_size_are_solved_together(device, monkeypatch):
    import torch

    from netweight.kernels.gpu import eigenvalues as implementation

    shapes, solve = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda a: shapes.append(tuple(a.shape)) or solve(a))
    monkeypatch.setattr(implementation, "_MOST", 4)
    grams = [*symmetric(20, 6), *symmetric(7, 2)]
    found = solved_at_once(grams, device, implementation.BatchedEigenvalues())
    assert sorted(shapes) == [(2, 7, 7), (2, 20, 20), (4, 20, 20)]
    for values, gram in zip(found, grams, strict=True):
        assert values == pytest.approx(np.linalg.eigvalsh(gram), abs=1e-12 * np.abs(gram).sum())


@pytest.mark.parametrize("device", DEVICES)
def test_one_that_fails_fails_alone(device, monkeypatch):
    import torch

    from netweight.kernels.gpu.eigenvalues import BatchedEigenvalues

    solve = torch.linalg.eigvalsh

    def fails(a):
        if bool((a == -1.0).any()):
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return solve(a)

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails)
    grams = symmetric(9, 4)
    grams[2][0, 0] = -1.0
    found = solved_at_once(grams, device, BatchedEigenvalues())
    assert isinstance(found[2], torch.linalg.LinAlgError)
    for k in (0, 1, 3):
        assert found[k] == pytest.approx(np.linalg.eigvalsh(grams[k]), abs=1e-12 * np.abs(grams[k]).sum())


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_is_full(device, monkeypatch):
    import torch

    from netweight.kernels.gpu import spectrum as implementation

    def full(*_, **__):
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(implementation.ScaledGram, "__init__", full)
        with pytest.raises(DeviceOutOfMemory):
            Backend(device).spectrum(DTYPES["F32"], 20, 10)
    monkeypatch.setattr(implementation, "eigenvalues", full)
    with pytest.raises(DeviceOutOfMemory):
        accumulated(Backend(device), graded(20, 10, 2))


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_without_float64_leaves_spectra_to_the_cpu(device, monkeypatch):
    from netweight.kernels.gpu import spectrum as implementation

    dtype = DTYPES["F64"]
    on_device = implementation.torch_spectrum_bytes(dtype, 2000, 1000, device=device)
    assert (Backend(device).spectrum(dtype, 3, 2).note, on_device) == ("", 64_000)
    monkeypatch.setattr(implementation, "has_float64", lambda device: False)
    accumulator = Backend(device).spectrum(dtype, 60, 20)
    assert accumulator.note == f"{device} has no float64: spectra are computed on the CPU"
    w = graded(60, 20, 10)
    feed(accumulator, w)
    assert not accumulator.look_again()
    found, _ = accumulated(Backend(None), w)
    assert (accumulator.singular_values().values == found.values).all()
    said = implementation.torch_spectrum_bytes(dtype, 2000, 1000, device=device)
    assert said == spectrum_bytes(dtype, 2000, 1000)
