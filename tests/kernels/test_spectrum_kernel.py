"""Singular values block by block, against numpy.linalg.svd in float64."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES
from netweight.kernels.cpu import CpuKernels
from netweight.kernels.cpu import spectrum as implementation
from netweight.run.blas import blas_threads

KERNELS = CpuKernels()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """More of them only wait for each other where matrices are small."""
    with blas_threads(1):
        yield


FLOATS = ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]


def stored(w, name="F64"):
    return np.ascontiguousarray(w).astype(DTYPES[name].to_numpy())


def feed(accumulator, native, sizes=None):
    if not native.size:
        accumulator.add(np.zeros(0, np.uint8), len(native))
        return
    raw = native.reshape(len(native), -1).view(np.uint8)
    first = 0
    while first < len(native):
        count = min(len(native) - first, (sizes or [len(native)])[first % len(sizes or [0])])
        accumulator.add(raw[first : first + count].reshape(-1), count)
        first += count


def accumulated(native, leading=None, sizes=None):
    name = next(n for n, d in DTYPES.items() if d.numpy_name and d.to_numpy() == native.dtype)
    accumulator = KERNELS.spectrum(DTYPES[name], *native.shape, leading)
    feed(accumulator, native, sizes)
    again = accumulator.look_again()
    if again:
        feed(accumulator, native, sizes)
        assert not accumulator.look_again()
    return accumulator.singular_values(), again


def exact(native):
    return np.linalg.svd(native.astype(np.float64), compute_uv=False)


def check(native, bound=1e-7):
    found, _ = accumulated(native)
    expected = exact(native)
    assert found.complete
    assert found.values.shape == expected.shape
    assert (np.diff(found.values) <= 0).all()
    worst = np.abs(found.values - expected).max() / expected[0]
    # LAPACK's own error stands on the other side
    assert worst <= min(bound, found.error + 4e-16 * min(native.shape))
    assert found.square_sum == pytest.approx((native.astype(np.float64) ** 2).sum(), rel=1e-12)
    return found, expected


def graded(rows, cols, condition, seed=0, rank=None):
    """Q1 diag(sigma) Q2 with sigma from 1 down to 1 / condition, evenly in logarithm."""
    rng = np.random.default_rng(seed)
    r = rank or min(rows, cols)
    left = np.linalg.qr(rng.standard_normal((rows, r)))[0]
    right = np.linalg.qr(rng.standard_normal((cols, r)))[0]
    return (left * np.logspace(0, -np.log10(condition), r)) @ right.T


SHAPES = [(40, 40), (300, 17), (17, 300), (2, 3000), (3000, 2), (65, 64), (64, 65)]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", [(70, 33), (33, 70)])
def test_every_float_type(name, shape):
    w = stored(np.random.default_rng(1).standard_normal(shape), name)
    found, _ = check(w, 1e-12)
    assert found.method == "gram"


def test_powers_of_two_alone():
    exponents = np.random.default_rng(0).integers(120, 134, (20, 9)).astype(np.uint8)
    check(exponents.view(DTYPES["F8_E8M0"].to_numpy()), 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("condition", [1e1, 1e4, 1e5, 1e6 / 2, 1e7, 1e8, 1e10, 1e12])
def test_graded(shape, condition):
    w = graded(*shape, condition, seed=int(np.log10(condition)))
    found, expected = check(w)
    assert found.method == ("qr" if condition > 1e6 else "gram")
    if condition <= 1e8:
        assert found.values[0] / found.values[-1] == pytest.approx(expected[0] / expected[-1], rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_graded_as_float32(shape):
    check(stored(graded(*shape, 1e9), "F32"))


@pytest.mark.parametrize(("rows", "cols", "rank"), [(200, 50, 3), (50, 200, 3), (60, 60, 59), (60, 60, 1)])
def test_low_rank(rows, cols, rank):
    found, expected = check(graded(rows, cols, 10, rank=rank))
    assert found.method == "qr"
    assert np.count_nonzero(found.values > 1e-12) == rank == np.count_nonzero(expected > 1e-12)


@pytest.mark.parametrize("shape", [(80, 50), (50, 80), (50, 50)])
@pytest.mark.parametrize("where", ["rows", "columns", "both"])
def test_zero_rows_and_columns_need_no_second_reading(shape, where):
    w = np.random.default_rng(2).standard_normal(shape) * 1e-3
    along = int(shape[1] <= shape[0])  # the axis of the short side
    if where in ("rows", "both"):
        w[3:9] = 0.0
    if where in ("columns", "both"):
        w[:, 5:15] = 0.0
    found, again = accumulated(w)
    expected = exact(w)
    assert np.abs(found.values - expected).max() < 1e-12 * expected[0]
    dropped = (6, 10)[along] if where in ("both", ("rows", "columns")[along]) else 0
    rank = int(np.count_nonzero(expected > 1e-10 * expected[0]))
    if 50 - dropped == rank:  # what remains has full rank
        assert (found.method, again) == ("gram", False)
        assert np.count_nonzero(found.values) == rank
    else:
        assert found.method == "qr"


def test_zero_columns_beside_a_small_end():
    w = graded(120, 40, 1e9)
    w = np.concatenate([w[:, :20], np.zeros((120, 7)), w[:, 20:]], axis=1)
    for v in (w, w.T):
        found, _ = check(np.ascontiguousarray(v))
        assert found.method == "qr"
        assert (found.values[40:] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (1, (1 << 20) + 5), ((1 << 20) + 5, 1)])
@pytest.mark.parametrize("name", ["BF16", "F64"])
def test_one_row_or_column(shape, name):
    w = stored(np.random.default_rng(3).standard_normal(shape), name)
    found, again = accumulated(w)
    assert not again
    assert found.values == pytest.approx([np.linalg.norm(w.astype(np.float64))], rel=1e-13)
    assert found.error < 1e-12


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (7, 0), (1, 0), (0, 1)])
def test_no_elements(shape):
    found, again = accumulated(np.zeros(shape))
    assert (len(found.values), found.square_sum, found.complete, again) == (0, 0.0, True, False)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (1, 9), (9, 1)])
def test_zero(shape):
    found, again = accumulated(stored(np.zeros(shape), "BF16"))
    assert (found.method, found.error, found.square_sum, again) == ("zero", 0.0, 0.0, False)
    assert (found.values == np.zeros(min(shape))).all()


@pytest.mark.parametrize("shape", [(700, 30), (30, 700), (90, 90), (1, 500)])
@pytest.mark.parametrize("sizes", [[1], [7, 2, 64], [500]])
@pytest.mark.parametrize("condition", [10, 1e9])
def test_blocks_do_not_matter(shape, sizes, condition, monkeypatch):
    monkeypatch.setattr(implementation, "_PANEL", 4096)
    w = stored(graded(*shape, condition), "F32")
    whole, parts = accumulated(w)[0], accumulated(w, sizes=sizes)[0]
    assert np.abs(whole.values - parts.values).max() <= 1e-12 * whole.values[0]
    assert whole.values[0] == pytest.approx(exact(w)[0], rel=1e-12)


@pytest.mark.parametrize("shape", [(3000, 40), (40, 3000)])
def test_many_panels(shape, monkeypatch):
    monkeypatch.setattr(implementation, "_PANEL", 4096)  # then 256 of the long side at a time
    check(np.random.default_rng(4).standard_normal(shape), 1e-13)
    check(graded(*shape, 1e10), 1e-13)


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-160, 1e-50, 1e50, 1e160, 1e300, 4e307])
@pytest.mark.parametrize("shape", [(50, 20), (20, 50), (1, 50)])
@pytest.mark.parametrize("condition", [5, 1e9])
def test_scales(scale, shape, condition):
    w = graded(*shape, condition) * scale
    found, _ = accumulated(w)
    # where elements are subnormal their own rounding is in the matrix
    expected = (
        exact(np.ldexp(w, 1000) if scale < 1e-200 else np.ldexp(w, -500)) if scale not in (1e-50, 1e50) else exact(w)
    )
    shift = 0 if scale in (1e-50, 1e50) else 1000 if scale < 1e-200 else -500
    values = np.ldexp(found.values, shift)
    assert np.abs(values - expected).max() <= 1e-7 * expected[0]
    assert values[0] == pytest.approx(expected[0], rel=1e-12)


@pytest.mark.parametrize("shape", [(60, 8), (8, 60)])
def test_scales_that_differ_within(shape, monkeypatch):
    monkeypatch.setattr(implementation, "_PANEL", 64)
    monkeypatch.setattr(implementation, "_STEP", 4)
    rng = np.random.default_rng(5)
    for powers in ([-300, 0, 300], [300, 0, -300], [-300, -290, -180], [0, 0, 120]):
        w = rng.standard_normal((60, 8)) * np.repeat(10.0 ** np.array(powers), 20)[:, None]
        top = max(powers)
        found, _ = accumulated(np.ascontiguousarray(w if shape[0] == 60 else w.T))
        expected = np.linalg.svd(w / 10.0**top, compute_uv=False)
        assert found.values / 10.0**top == pytest.approx(expected, rel=1e-9)


def test_subnormal_bfloat16():
    patterns = np.random.default_rng(6).integers(0, 128, (50, 20)).astype(np.uint16)
    patterns |= np.random.default_rng(7).integers(0, 2, (50, 20)).astype(np.uint16) << 15
    w = patterns.view(DTYPES["BF16"].to_numpy())
    assert np.abs(w.astype(np.float64)).max() < 2.0**-126
    found, _ = accumulated(w)
    expected = np.linalg.svd(w.astype(np.float64) * 2.0**130, compute_uv=False) * 2.0**-130
    assert found.values == pytest.approx(expected, rel=1e-12)


def test_singular_values_beyond_float64():
    found, _ = accumulated(np.full((30, 20), 1.7e308))
    assert found.values[0] == np.inf


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E5M2"])
@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (1, 40), (200, 150)])
def test_non_finite(value, name, shape):
    w = np.random.default_rng(8).standard_normal(shape)
    w[-1, -1] = value
    found, again = accumulated(stored(w, name), leading=2)
    assert found.values is None
    assert found.reason == "elements that are NaN or infinite"
    assert not again


@pytest.mark.parametrize("shape", [(400, 300), (300, 500)])
@pytest.mark.parametrize("leading", [1, 5, 18])
@pytest.mark.parametrize("kind", ["random", "graded", "low rank"])
def test_leading(shape, leading, kind):
    made = {"random": np.random.default_rng(9).standard_normal(shape), "graded": graded(*shape, 1e5)}
    w = stored(made.get(kind, graded(*shape, 3, rank=30)), "F32")
    found, again = accumulated(w, leading=leading)
    expected = exact(w)
    assert (found.method, found.complete, again, len(found.values)) == ("lanczos", False, False, leading)
    assert np.abs(found.values - expected[:leading]).max() <= found.error * expected[0]
    assert found.error < 1e-9
    assert found.square_sum == pytest.approx((w.astype(np.float64) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("values", [(2.0, 1.0), (4.0, 3.0, 2.0, 1.0, 0.5), (3.0, 2.9, 0.0), (1.0,), (0.0, 5.0)])
@pytest.mark.parametrize("leading", [1, 3, 8])
def test_leading_values_that_are_there_several_times(values, leading):
    n = 200
    q = np.linalg.qr(np.random.default_rng(4).standard_normal((n, n)))[0]
    times = [leading // 2 + 1] + [(n - leading // 2 - 1) // max(len(values) - 1, 1)] * (len(values) - 1)
    roots = np.resize(np.repeat(values, times), n)
    found, _ = accumulated(q * roots @ q.T, leading=leading)
    assert found.method == "lanczos"
    expected = np.sort(roots)[::-1][:leading]
    assert np.abs(found.values - expected).max() <= found.error * expected[0]
    assert found.error < 1e-7


def test_leading_of_less_than_that_rank():
    found, _ = accumulated(graded(300, 300, 2, rank=2), leading=6)
    expected = exact(graded(300, 300, 2, rank=2))[:6]
    assert np.abs(found.values - expected).max() <= found.error
    assert found.error < 1e-6


def test_leading_of_equal_values():
    found, _ = accumulated(np.eye(256), leading=5)
    assert found.values == pytest.approx(np.ones(5), abs=1e-12)


@pytest.mark.parametrize(("n", "leading"), [(100, 2), (300, 30), (300, 300)])
def test_leading_near_the_whole_gives_all(n, leading):
    found, _ = accumulated(np.random.default_rng(0).standard_normal((n, n)), leading=leading)
    assert (found.complete, found.method, len(found.values)) == (True, "gram", n)


def test_iterations_that_do_not_converge_give_all(monkeypatch):
    monkeypatch.setattr(implementation, "largest", lambda gram, count: None)
    w = np.random.default_rng(0).standard_normal((200, 200))
    found, _ = accumulated(w, leading=3)
    assert (found.complete, found.method) == (True, "gram")
    assert found.values == pytest.approx(exact(w), rel=1e-9)


def test_results_without_the_second_reading():
    accumulator = KERNELS.spectrum(DTYPES["F64"], 80, 30)
    w = graded(80, 30, 1e9)
    feed(accumulator, w)
    found = accumulator.singular_values()
    assert accumulator.look_again()
    assert found.method == "gram"
    assert np.abs(found.values - exact(w)).max() <= found.error < 1e-5


def test_missing_rows():
    accumulator = KERNELS.spectrum(DTYPES["F64"], 80, 30)
    feed(accumulator, graded(80, 30, 1e9)[:79])
    for ask in (accumulator.look_again, accumulator.singular_values):
        with pytest.raises(ValueError, match="79 rows were given: expected 80"):
            ask()
    feed(accumulator, graded(80, 30, 1e9)[79:])
    assert accumulator.look_again()
    feed(accumulator, graded(80, 30, 1e9)[:1])
    with pytest.raises(ValueError, match="1 rows were given: expected 80"):
        accumulator.singular_values()


@pytest.mark.parametrize(("rows", "size"), [(3, 48), (2, 31)])
def test_blocks_that_do_not_fit(rows, size):
    accumulator = KERNELS.spectrum(DTYPES["F64"], 2, 2)
    expected = rf"rows 0 to {rows} in {size} bytes: expected at most 2 rows of 16 bytes each"
    with pytest.raises(ValueError, match=expected):
        accumulator.add(np.zeros(size, np.uint8), rows)


def test_larger_buffers_and_odd_addresses():
    w = stored(np.random.default_rng(10).standard_normal((20, 10)), "F32")
    room = np.zeros(w.nbytes + 50, np.uint8)
    room[1 : 1 + w.nbytes] = w.view(np.uint8).reshape(-1)
    accumulator = KERNELS.spectrum(DTYPES["F32"], 20, 10)
    accumulator.add(room[1:], 20)
    assert accumulator.singular_values().values == pytest.approx(exact(w), rel=1e-12)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=60)
def test_small_integers(rows, cols, data):
    cells = data.draw(st.lists(st.integers(-3, 3), min_size=rows * cols, max_size=rows * cols))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    w = stored(np.array(cells, float).reshape(rows, cols), data.draw(st.sampled_from(FLOATS)))
    found, _ = accumulated(w, sizes=sizes)
    expected = exact(w)
    assert np.abs(found.values - expected).max() <= 1e-13 * max(expected[0], 1e-300)
    rank = np.linalg.matrix_rank(w.astype(np.float64))
    assert np.count_nonzero(found.values > 1e-12 * max(expected[0], 1e-300)) == rank


def test_memory_is_what_was_said(monkeypatch):
    """The arrays of one accumulator, counted where they are made."""
    import tracemalloc

    for shape, condition in [((900, 400), 10), ((900, 400), 1e9), ((400, 900), 10), ((400, 900), 1e9)]:
        w = stored(graded(*shape, condition), "F32")
        accumulated(w)  # what loads once is loaded
        tracemalloc.start()
        try:
            accumulated(w)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= KERNELS.spectrum_bytes(DTYPES["F32"], *shape) + 100_000


def test_other_threads_run_meanwhile():
    w = np.random.default_rng(0).standard_normal((1200, 1200))
    gaps, stop = [0.0], threading.Event()

    def tick():
        last = time.perf_counter()
        while not stop.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=tick)
    begun = time.perf_counter()
    thread.start()
    accumulated(w)
    stop.set()
    thread.join()
    assert max(gaps) < 0.5 * (time.perf_counter() - begun)


@pytest.mark.parametrize("leading", [None, 3])
def test_threads_at_once_find_what_one_finds(leading):
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(11)
    made = [rng.standard_normal(shape) for shape in [(300, 150), (150, 300), (160, 160), (400, 130)]]
    made += [graded(200, 150, 1e9), graded(150, 200, 1e9)]
    alone = [accumulated(w, leading=leading)[0].values for w in made]
    with ThreadPoolExecutor(4) as pool:
        together = [found.values for found, _ in pool.map(lambda w: accumulated(w, leading=leading), made)]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1e-12 * one[0]
