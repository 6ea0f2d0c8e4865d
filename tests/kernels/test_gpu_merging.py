"""The arithmetic of merges on every backend: bits of numpy's elementwise arithmetic, sums to rounding, exact counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import fsum

import ml_dtypes
import numpy as np
import pytest
from accumulator_backends import BACKENDS, DEVICES, Backend, needs_torch, short_of_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from test_merge_kernels import (
    combined,
    counted,
    kinds,
    merged,
    same_bits,
    seeds,
    some_prefixes,
    specials,
    splitmix64,
    stack,
    trims,
)

from netweight.dtypes import DTYPES
from netweight.kernels.faults import DeviceOutOfMemory
from netweight.kernels.merging import Trim

STORED = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32}
NUMBERS = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
names = st.sampled_from(list(STORED))
counts = st.sampled_from([0, 1, 9, 1024, 4095, 4096, 4097, 9000, 70_000])


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def kernels(backend):
    return backend.merging()


def test_names(backend, kernels):
    assert kernels.name == ("cpu" if backend.device is None else f"torch {backend.device}")
    assert [name for name, dtype in DTYPES.items() if kernels.fuses(dtype)] == ["F16", "BF16", "F32"]
    kernels.prepare([DTYPES[n] for n in ("BF16", "I64", "F4")], [32])


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
def test_types_come_and_go(kernels, name):
    values = np.array([0.0, -0.0, 1.0, -1.5, 0.25, np.nan], np.float32)
    raw = np.zeros(DTYPES[name].nbytes(6), np.uint8)
    assert kernels.narrow(values, DTYPES[name], raw) == 1
    out = np.empty(6, np.float32)
    kernels.widen(raw, DTYPES[name], out)
    assert same_bits(out, values)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    count=counts,
    kind=kinds,
    seed=seeds,
    special=specials,
    scale=st.sampled_from([1.0, 0.3, 0.0, -2.0]),
    data=st.data(),
)
def test_combine(kernels, rows, count, kind, seed, special, scale, data):
    x = stack(rows, count, kind, seed, special)
    pivot = data.draw(st.integers(0, rows - 1))
    factors = data.draw(st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 1.0, -0.7, 1e300]), min_size=rows, max_size=rows))
    factors = factors if kind == np.float64 else [min(f, 1e38) for f in factors]
    out = np.empty(count, kind)
    kernels.combine(x, pivot, scale, factors, out)
    assert same_bits(out, combined(x, pivot, scale, factors))


def test_inputs_without_weight_are_not_looked_at(kernels):
    x = np.array([[1.0, -0.0], [np.nan, np.inf], [3.0, 1.0]], np.float32)
    out = np.empty(2, np.float32)
    kernels.combine(x, 0, 1.0, [9.0, 0.0, 0.5], out)
    assert out.tolist() == [2.0, 0.5]


@settings(max_examples=80, deadline=None)
@given(
    each=st.lists(trims, min_size=1, max_size=5),
    count=st.sampled_from([0, 1, 9, 500, 1029]),
    kind=kinds,
    seed=seeds,
    special=specials,
    start=st.sampled_from([0, 4096, 3 * 2**40]),
    elect=st.booleans(),
    normalize=st.booleans(),
    scale=st.sampled_from([1.0, 0.5, -1.2]),
    probabilities=st.booleans(),
)
def test_merge_differences(kernels, each, count, kind, seed, special, start, elect, normalize, scale, probabilities):
    x = stack(len(each) + 1, count, kind, seed, special)
    keep = None
    if probabilities:
        rng = np.random.default_rng(seed)
        keep = rng.choice(np.array([0.0, 0.25, 0.3, 0.999, 1.0, 1e-11]), (len(each), count)).astype(np.float32)
    out = np.empty(count, kind)
    kernels.merge_differences(x, each, start, elect=elect, normalize=normalize, scale=scale, out=out, keep=keep)
    assert same_bits(out, merged(x, each, start, elect, normalize, scale, keep))


@pytest.mark.parametrize("elect", [False, True])
def test_any_blocks_give_the_same_bits(backend, kernels, elect):
    x = stack(4, 200_000, np.float32, 1)
    each = [Trim(0.4, low=2e-4, keep=0.6, factor=1 / 0.6, key=2**40 + m) for m in range(3)]
    how = {"elect": elect, "normalize": elect, "scale": 0.9}
    whole, pieces, on_cpu = np.empty((3, 200_000), np.float32)
    kernels.merge_differences(x, each, 100, out=whole, **how)
    Backend(None).merging().merge_differences(x, each, 100, out=on_cpu, **how)
    for a, b in ((0, 77), (77, 100_001), (100_001, 200_000)):
        kernels.merge_differences(x[:, a:b], each, 100 + a, out=pieces[a:b], **how)
    assert same_bits(whole, pieces)
    assert same_bits(whole, on_cpu)


@needs_torch
@pytest.mark.parametrize("device", DEVICES)
def test_the_generator_is_splitmix64(device):
    """The first numbers for seed 0 and for 1234567, as published with the generator."""
    import torch

    from netweight.kernels.gpu.merge_arithmetic import drawn

    assert drawn(0, 0, 1, torch.device(device)).tolist() == [0xE220A8397B1DCDAF >> 32]
    expected = [6457827717110365317 >> 32, 3203168211198807973 >> 32]
    assert drawn(1234567, 0, 2, torch.device(device)).tolist() == expected
    assert drawn(1234567, 1, 1, torch.device(device)).tolist() == expected[1:]


@pytest.mark.parametrize("probabilities", [False, True])
def test_numbers_at_the_probability_itself(kernels, probabilities):
    """An element is kept where its number is below the probability, not where it is equal."""
    # 24 bits, so that float32 holds the probability
    key = next(k for k in range(10**6) if splitmix64(k, 5, 1)[0] % 256 == 0)
    number = int(splitmix64(key, 5, 1)[0])
    x = np.array([[1.0], [2.0]], np.float32)
    for more, kept in ((0, False), (256, True)) if probabilities else ((0, False), (1, True)):
        chance = (number + more) / 2**32
        out = np.empty(1, np.float32)
        how = {"elect": False, "normalize": False, "scale": 1.0}
        each = [Trim(1.0, keep=1.0 if probabilities else chance, key=key)]
        keep = np.array([[chance]], np.float32) if probabilities else None
        kernels.merge_differences(x, each, 5, out=out, keep=keep, **how)
        assert (out[0] != 1.0) == kept


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 6), count=counts, kind=kinds, seed=seeds)
def test_grams(kernels, rows, count, kind, seed):
    x = stack(rows, count, kind, seed)
    for every, method in ((x, kernels.gram), (x[1:] - x[0], kernels.difference_gram)):
        total = np.full((len(every), len(every)), 0.5)
        method(x, total)
        wide = every.astype(np.float64)
        for i, a in enumerate(wide):
            for j, b in enumerate(wide):
                assert abs(total[i, j] - 0.5 - fsum((a * b).tolist())) <= 1e-12 * (0.5 + np.abs(a * b).sum())
        assert (total == total.T).all()


def test_sums_do_not_depend_on_blocks(kernels):
    x = stack(4, 30 * 4096 + 77, np.float32, 3)
    whole, pieces = np.zeros((2, 3, 3))
    kernels.difference_gram(x, whole)
    for a, b in ((0, 4096), (4096, 12 * 4096), (12 * 4096, x.shape[1])):
        kernels.difference_gram(np.ascontiguousarray(x[:, a:b]), pieces)
    np.testing.assert_allclose(whole, pieces, rtol=1e-14)


def test_sums_of_what_is_not_finite(kernels):
    x = np.ones((3, 5000), np.float32)
    x[1, 4999] = np.nan
    total = np.zeros((3, 3))
    kernels.gram(x, total)
    assert np.isnan(total).tolist() == [[False, True, False], [True, True, True], [False, True, False]]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(2, 5),
    count=counts,
    kind=kinds,
    seed=seeds,
    special=st.booleans(),
    level=st.integers(0, 3),
    wanted=st.integers(0, 6),
)
def test_counts(kernels, rows, count, kind, seed, special, level, wanted):
    x = stack(rows, count, kind, seed)
    if special and count:  # but no NaN, whose bits differ between processors
        x[0, ::3], x[1:, ::3] = 0.0, np.inf
        x[:, ::5] = 1e-40
    level = level % (kind().itemsize // 2)
    differences = x[1:] - x[0]
    prefixes = [some_prefixes(d, level, wanted, seed + m) for m, d in enumerate(differences)]
    found = [np.full((len(p), 65536), 3, np.uint32) for p in prefixes]
    finer = [np.full((len(p), 65536), 4, np.uint32) for p in prefixes]
    kernels.count_magnitudes(x, level, prefixes, found, finer)
    for m, d in enumerate(differences):
        expected, further = counted(d, level, prefixes[m])
        assert (found[m] == expected + 3).all()
        assert (finer[m] == further + 4).all()
        mine, some = np.zeros_like(expected), np.zeros_like(further)
        kernels.count_scores(np.abs(d), level, prefixes[m], mine, some)
        assert (mine == expected).all()
        assert (some == further).all()


def test_nan_counts_above_infinity(kernels):
    found, finer = np.zeros((2, 1, 65536), np.uint32)
    kernels.count_scores(np.array([np.nan, np.inf, 1.0], np.float32), 0, [0], found, finer)
    assert found[0, 0x7F80] == found[0, 0x3F80] == found[0, 0x7F81:].sum() == 1


def block(name, rows, count, seed, special):
    """A base and models near it, as stored; `special`: with any patterns at all among them."""
    with np.errstate(all="ignore"):
        native = stack(rows, count, np.float32, 2 * seed).astype(NUMBERS[name]).view(STORED[name])
    bits = native.view(np.uint32 if name == "F32" else np.uint16)
    if special and count:
        bits[:, ::7] = np.random.default_rng(seed).integers(0, 1 << 8 * bits.itemsize, bits[:, ::7].shape)
    return native


def widened(native, name):
    x = np.empty(native.shape, np.float32)
    for row, out in zip(native, x, strict=True):
        Backend(None).merging().widen(row.view(np.uint8), DTYPES[name], out)
    return x


def same_as_rounded(found, bad, wide, name):
    """The bits; of NaN only that they are."""
    with np.errstate(all="ignore"):
        expected = wide.astype(NUMBERS[name])
    values = found.view(NUMBERS[name]).astype(np.float32)
    assert same_bits(values, expected.astype(np.float32))
    assert bad == np.count_nonzero(~np.isfinite(values))


@settings(max_examples=40, deadline=None)
@given(
    name=names,
    rows=st.integers(1, 5),
    count=counts,
    seed=seeds,
    special=st.booleans(),
    scale=st.sampled_from([1.0, 0.3, -2.0, 1e5]),
)
def test_combine_native(kernels, name, rows, count, seed, special, scale):
    native = block(name, rows, count, seed, special)
    factors = [0.0, 0.1, 1 / 3, 1e30, -0.7][:rows]
    out = np.empty(count, STORED[name])
    bad = kernels.combine_native(native, DTYPES[name], rows - 1, scale, factors, out)
    same_as_rounded(out, bad, combined(widened(native, name), rows - 1, scale, factors), name)


@settings(max_examples=40, deadline=None)
@given(
    name=names,
    each=st.lists(trims, min_size=1, max_size=4),
    count=st.sampled_from([0, 1, 9, 500, 1029]),
    seed=seeds,
    special=st.booleans(),
    elect=st.booleans(),
    normalize=st.booleans(),
)
def test_merge_differences_native(kernels, name, each, count, seed, special, elect, normalize):
    native = block(name, len(each) + 1, count, seed, special)
    out = np.empty(count, STORED[name])
    how = {"elect": elect, "normalize": normalize, "scale": 0.5}
    bad = kernels.merge_differences_native(native, DTYPES[name], each, 5, out=out, **how)
    same_as_rounded(out, bad, merged(widened(native, name), each, 5, **how), name)


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("level", [0, 1])
def test_sums_and_counts_of_native_blocks(kernels, name, level):
    native = block(name, 3, 9001, 3, special=False)
    native.flags.writeable = False
    x = widened(native, name)
    for size, method in ((3, "gram"), (2, "difference_gram")):
        found, expected = np.full((2, size, size), 0.5)
        getattr(kernels, f"{method}_native")(native, DTYPES[name], found)
        getattr(Backend(None).merging(), method)(x, expected)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    prefixes = [[0] if level == 0 else [0, 0x3A00, 0x3B00], []]
    found, finer = ([np.zeros((len(p), 65536), np.uint32) for p in prefixes] for _ in range(2))
    kernels.count_magnitudes_native(native, DTYPES[name], level, prefixes, found, finer)
    expected, further = counted(x[1] - x[0], level, prefixes[0])
    assert (found[0] == expected).all()
    assert (finer[0] == further).all()


def test_threads_at_once_give_what_one_gives(kernels):
    x = stack(4, 100_000, np.float32, 5)
    each = [Trim(0.4, low=2e-4, keep=0.6, key=m) for m in range(3)]

    def once(_):
        out = np.empty(100_000, np.float32)
        kernels.merge_differences(x, each, 0, elect=True, normalize=True, scale=1.0, out=out)
        return out

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(once, range(8)))
    assert all(same_bits(f, found[0]) for f in found)


@pytest.mark.parametrize("device", DEVICES)
def test_blocks_that_do_not_fit_are_halved(device, monkeypatch):
    from netweight.kernels.gpu import merging as implementation

    x, each = stack(3, 300_000, np.float32, 3), [Trim(0.4, keep=0.5, key=7)] * 2
    how = {"elect": True, "normalize": True, "scale": 1.0}
    kernels, expected, found = Backend(device).merging(), np.empty(300_000, np.float32), np.empty(300_000, np.float32)
    sums, again = np.zeros((2, 2, 2))
    kernels.merge_differences(x, each, 0, out=expected, **how)
    kernels.difference_gram(x, sums)
    upload = implementation.upload
    monkeypatch.setattr(implementation, "upload", lambda a, d: refuse(upload(a, d)))
    refuse = short_of_memory(lambda placed: placed, 3 * 90_000)
    kernels.merge_differences(x, each, 0, out=found, **how)
    kernels.difference_gram(x, again)
    assert same_bits(found, expected)
    np.testing.assert_allclose(sums, again, rtol=1e-14)
    refuse = short_of_memory(lambda placed: placed, 100)
    with pytest.raises(DeviceOutOfMemory):
        kernels.merge_differences(x, each, 0, out=found, **how)


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_without_float64_leaves_such_blocks_to_the_cpu(device, monkeypatch):
    import torch

    from netweight.kernels.gpu import merging as implementation

    monkeypatch.setattr(implementation, "has_float64", lambda device: False)
    placed, upload = [], implementation.upload
    monkeypatch.setattr(implementation, "upload", lambda a, d: placed.append(a.dtype) or upload(a, d))
    kernels, on_cpu = Backend(device).merging(), Backend(None).merging()
    for kind in (np.float32, np.float64):
        x, each = stack(3, 5000, kind, 4), [Trim(0.4, keep=0.5, key=7)] * 2
        outs, totals, tables = np.empty((2, 3, 5000), kind), np.zeros((2, 2, 2)), np.zeros((2, 4, 1, 65536), np.uint32)
        for k, one in enumerate((kernels, on_cpu)):
            one.combine(x, 0, 0.5, [0.0, 0.3, 0.2], outs[k, 0])
            one.merge_differences(x, each, 0, elect=True, normalize=True, scale=1.0, out=outs[k, 1])
            one.difference_gram(x, totals[k])
            one.count_magnitudes(x, 0, [[0], []], tables[k, :2], tables[k, 2:])
            one.count_scores(np.abs(x[1]), 0, [0], tables[k, 0], tables[k, 2])
        assert same_bits(outs[0, :2], outs[1, :2])
        assert (totals[0] == totals[1]).all()
        assert (tables[0] == tables[1]).all()
    assert set(placed) == {np.dtype(np.float32)}
    assert torch.device(device).type in kernels.name
