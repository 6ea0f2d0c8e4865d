"""The arithmetic of merges, against numpy, torch and exact fractions."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import copysign, frexp, fsum, inf

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES
from netweight.kernels.cpu import elements, magnitudes, merge_arithmetic, merge_grams, rounding
from netweight.kernels.cpu.compiled import Loop
from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.kernels.merging import MergeKernels, Trim

KERNELS = CpuMergeKernels()
WIDE = [np.float32, np.float64]
UNSIGNED = {np.dtype(np.float32): np.uint32, np.dtype(np.float64): np.uint64}
EIGHTHS = ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]
FLOATS = ["BF16", "F16", "F32", "F64", *EIGHTHS]
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-40, 3.4e38, 65520.0, 448.0, 464.0, 2.0**-133, 2.0**-25]


def same_bits(a, b):
    """Bit for bit, but for what a NaN carries."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    both = np.isnan(a) & np.isnan(b)
    unsigned = UNSIGNED[a.dtype]
    return bool(((a.view(unsigned) == b.view(unsigned)) | both).all())


def stack(rows, count, kind, seed, special=0):
    """Inputs that lie near one another, as a base and its fine-tunes do."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.02, count)
    x = base + rng.normal(0, 1e-3, (rows, count)) * (rng.random((rows, count)) < 0.7)
    x[0] = base
    if count:
        for _ in range(special):
            x[rng.integers(rows), rng.integers(count)] = rng.choice(SPECIAL)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x.astype(ml_dtypes.bfloat16 if seed % 2 else kind).astype(kind))


shapes = st.tuples(st.integers(2, 6), st.sampled_from([0, 1, 7, 8, 63, 1000, 4095, 4096, 4097, 9000]))
seeds = st.integers(0, 10_000)
kinds = st.sampled_from(WIDE)
specials = st.sampled_from([0, 0, 3, 200])


# ---- element types


def every_pattern(name):
    bits = DTYPES[name].bits
    patterns = np.arange(1 << min(bits, 16), dtype=f"u{min(bits, 16) // 8}")
    if bits > 16:
        rng = np.random.default_rng(bits)
        patterns = rng.integers(0, 1 << bits, 20_000, dtype=f"u{bits // 8}", endpoint=False)
    return patterns.view(np.uint8)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("name", [*FLOATS, "I8", "U8", "I16", "I32", "I64", "BOOL"])
def test_widen(name, kind, offset):
    raw = every_pattern(name) & np.uint8(1) if name == "BOOL" else every_pattern(name)
    room = np.zeros(len(raw) + offset, np.uint8)
    room[offset:] = raw
    count = 8 * len(raw) // DTYPES[name].bits
    out = np.empty(count, kind)
    KERNELS.widen(room[offset:], DTYPES[name], out)
    with np.errstate(all="ignore"):
        expected = np.frombuffer(raw.tobytes(), DTYPES[name].to_numpy()).astype(kind)
    assert same_bits(out, expected)


def test_widen_takes_what_is_read_only():
    raw = np.frombuffer(np.arange(8, dtype=np.float16).tobytes(), np.uint8)
    out = np.empty(8, np.float32)
    KERNELS.widen(raw, DTYPES["F16"], out)
    assert out.tolist() == list(range(8))


def narrowed(values, name, offset=0):
    out = np.zeros(len(values) * DTYPES[name].bits // 8 + offset, np.uint8)
    bad = KERNELS.narrow(values, DTYPES[name], out[offset:])
    return np.frombuffer(out[offset:].tobytes(), DTYPES[name].to_numpy()), bad


def near_everything(name, kind, seed=0):
    """Values at, between and just beside the type's own, and others."""
    rng = np.random.default_rng(seed)
    own = np.frombuffer(every_pattern(name).tobytes(), DTYPES[name].to_numpy())
    with np.errstate(all="ignore"):
        own = np.unique(own.astype(np.float64))
        own = own[np.isfinite(own)]
        between = (own[1:] + own[:-1]) / 2
        values = np.concatenate([own, between, SPECIAL, rng.normal(0, 1e-3, 500), 10.0 ** rng.uniform(-50, 50, 500)])
        values = values.astype(kind)
        return np.concatenate([values, np.nextafter(values, kind(np.inf)), np.nextafter(values, kind(-np.inf))])


TORCH = {"BF16": torch.bfloat16, "F16": torch.float16}


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_narrow_from_float32_is_torch(name, offset):
    values = near_everything(name, np.float32)
    found, bad = narrowed(values, name, offset)
    expected = torch.from_numpy(values).to(TORCH[name]).float().numpy()
    assert same_bits(found.astype(np.float32), expected)
    assert bad == np.count_nonzero(~np.isfinite(expected))


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("name", ["F32", "F64"])
def test_narrow_to_wide_types_is_numpy(name, kind):
    values = near_everything("BF16", kind)
    found, bad = narrowed(values, name, 1)
    with np.errstate(all="ignore"):
        expected = values.astype(DTYPES[name].to_numpy())
    assert same_bits(found, expected)
    assert bad == np.count_nonzero(~np.isfinite(expected))


# mantissa's bits, exponent of the least value, largest value: IEEE 754, and the OCP 8-bit formats with their FNUZ kin
FINITE = {
    "BF16": (7, -133, float.fromhex("0x1.fep127")),
    "F16": (10, -24, 65504.0),
    "F8_E4M3": (3, -9, 448.0),
    "F8_E5M2": (2, -16, 57344.0),
    "F8_E4M3FNUZ": (3, -10, 240.0),
    "F8_E5M2FNUZ": (2, -17, 57344.0),
}


def rounded(value, name):
    """The nearest value of the type by exact arithmetic, ties to the even one; what is beyond the range is as if the
    exponents went on.
    """
    mantissa, least, largest = FINITE[name]
    step = Fraction(2) ** max(frexp(value)[1] - 1 - mantissa, least)
    found = round(Fraction(value) / step) * step  # Python rounds halves to even
    if abs(found) > largest:
        return float("nan") if name in ("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2FNUZ") else copysign(inf, value)
    return float(found)


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("name", FINITE)
def test_narrow_rounds_once(name, kind):
    """Values a hair beside a tie go the way of the hair, though no float32 holds it."""
    values = near_everything(name, kind)
    values = values[np.isfinite(values) & (values != 0)]
    if len(values) > 5_000:
        values = np.concatenate([np.random.default_rng(1).choice(values, 5_000), values[-6_000:]])
    found, bad = narrowed(values, name)
    expected = np.array([rounded(float(v), name) for v in values])
    assert ((found.astype(np.float64) == expected) | (np.isnan(expected) & np.isnan(found.astype(np.float64)))).all()
    assert bad == np.count_nonzero(~np.isfinite(expected))


@pytest.mark.parametrize("kind", WIDE)
def test_narrow_to_powers_of_two(kind):
    values = np.array([1.0, 1.4, 1.6, 3.0, 2.0**-127, 2.0**127, np.nan, np.inf, -1.0, 6.0], kind)
    found, bad = narrowed(values, "F8_E8M0")
    assert found.astype(np.float64)[[0, 1, 2, 4, 5]].tolist() == [1.0, 1.0, 2.0, 2.0**-127, 2.0**127]
    assert np.isnan(found.astype(np.float32)[6:9]).all()
    assert bad == 3


@pytest.mark.parametrize("name", ["I32", "BOOL", "C64", "F4"])
def test_narrow_refuses_what_is_no_float(name):
    with pytest.raises(TypeError, match=f"merged values as {name}: expected a floating-point type"):
        KERNELS.narrow(np.zeros(4, np.float32), DTYPES[name], np.zeros(32, np.uint8))


@pytest.mark.parametrize("name", FLOATS)
def test_what_is_widened_comes_back(name):
    raw = every_pattern(name)
    wide = np.empty(8 * len(raw) // DTYPES[name].bits, np.float64)
    KERNELS.widen(raw, DTYPES[name], wide)
    found, bad = narrowed(wide, name)
    own = np.frombuffer(raw.tobytes(), DTYPES[name].to_numpy())
    with np.errstate(all="ignore"):
        expected = own.astype(np.float64)
        assert same_bits(found.astype(np.float64), expected)
    assert bad == np.count_nonzero(~np.isfinite(expected))


def test_counts_go_beyond_one_block_of_elements():
    values = np.full((1 << 20) + 9, np.inf, np.float32)
    assert KERNELS.narrow(values, DTYPES["BF16"], np.empty(2 * len(values), np.uint8)) == len(values)


# ---- sums


@settings(max_examples=40, deadline=None)
@given(shapes, kinds, seeds)
def test_gram(shape, kind, seed):
    x = stack(*shape, kind, seed)
    for rows, method in ((x, KERNELS.gram), (x[1:] - x[0], KERNELS.difference_gram)):
        start = np.full((len(rows), len(rows)), 0.5)
        total = start.copy()
        method(x, total)
        wide = rows.astype(np.float64)
        for i, a in enumerate(wide):
            for j, b in enumerate(wide):
                expected = 0.5 + fsum((a * b).tolist())
                assert abs(total[i, j] - expected) <= 1e-12 * (0.5 + np.abs(a * b).sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), kinds, seeds, st.lists(st.integers(0, 5), max_size=4))
def test_sums_do_not_depend_on_blocks(rows, kind, seed, cuts):
    x = stack(rows, 5 * 4096 + 77, kind, seed)
    whole, pieces = np.zeros((2, rows - 1, rows - 1))
    KERNELS.difference_gram(x, whole)
    for a, b in zip(edges := [0, *sorted(4096 * c for c in cuts), x.shape[1]], edges[1:], strict=False):
        KERNELS.difference_gram(np.ascontiguousarray(x[:, a:b]), pieces)
    assert (whole == pieces).all()


def test_sums_of_what_is_not_finite():
    x = np.ones((3, 5000), np.float32)
    x[1, 4999] = np.nan
    total = np.zeros((3, 3))
    KERNELS.gram(x, total)
    assert np.isnan(total).tolist() == [[False, True, False], [True, True, True], [False, True, False]]


# ---- combinations


def combined(x, pivot, scale, factors):
    """The formula, operation by operation, in the type of x."""
    kind = x.dtype.type
    with np.errstate(all="ignore"):
        found = kind(scale) * x[pivot]
        moved = np.zeros_like(found)
        for i, factor in enumerate(factors):
            if i != pivot and factor != 0:
                moved = moved + kind(factor) * (x[i] - x[pivot])
        return np.where(moved == 0, found, found + moved)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 12),
    st.sampled_from([0, 1, 9, 1023, 1024, 1025, 4097]),
    kinds,
    seeds,
    specials,
    st.sampled_from([1.0, 0.3, 0.0, -2.0]),
    st.data(),
)
def test_combine(rows, count, kind, seed, special, scale, data):
    x = stack(rows, count, kind, seed, special)
    pivot = data.draw(st.integers(0, rows - 1))
    factors = data.draw(st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 1.0, -0.7]), min_size=rows, max_size=rows))
    out = np.empty(count, kind)
    KERNELS.combine(x, pivot, scale, factors, out)
    assert same_bits(out, combined(x, pivot, scale, factors))


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("rows", range(1, 8))
def test_equal_inputs_give_themselves(rows, kind):
    base = np.array([*SPECIAL, *np.random.default_rng(0).normal(size=50)]).astype(np.float32).astype(kind)
    x = np.tile(base[~np.isinf(base)], (rows, 1))
    out = np.empty(x.shape[1], kind)
    KERNELS.combine(x, 0, 1.0, [0.1] * rows, out)
    assert same_bits(out, x[0])
    assert np.signbit(out[1])
    assert out[1] == 0


def test_inputs_without_weight_are_not_looked_at():
    x = np.array([[1.0, -0.0], [np.nan, np.inf], [3.0, 1.0]], np.float32)
    out = np.empty(2, np.float32)
    KERNELS.combine(x, 0, 1.0, [9.0, 0.0, 0.5], out)
    assert out.tolist() == [2.0, 0.5]


# ---- counts


def counted(values, level, prefixes):
    """By numpy's bincount, of bits as Python's integers would split them."""
    width = 8 * values.itemsize
    bits = np.abs(values).view(UNSIGNED[values.dtype]).astype(np.uint64)
    below = np.uint64(width - 16 * (level + 1))
    top = bits >> below
    rest = bits - (top << below)
    counts, finer = np.zeros((2, len(prefixes), 65536), np.uint32)
    for k, prefix in enumerate(prefixes):
        mine = (top >> np.uint64(16)) == np.uint64(prefix)
        bins = (top[mine] & np.uint64(0xFFFF)).astype(np.int64)
        counts[k] = np.bincount(bins, minlength=65536)
        finer[k] = np.bincount(bins[rest[mine] > 0], minlength=65536)
    return counts, finer


def some_prefixes(values, level, wanted, seed):
    """The leading bits of some of the values, of zero, and of none."""
    if level == 0:
        return [0]
    width = 8 * values.itemsize
    bits = np.abs(values).view(UNSIGNED[values.dtype]).astype(np.uint64) >> np.uint64(width - 16 * level)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(bits, wanted) if len(bits) else []
    return sorted({int(c) for c in chosen} | ({0, 77} if wanted > 2 else set()))


@settings(max_examples=80, deadline=None)
@given(shapes, kinds, seeds, specials, st.integers(0, 3), st.integers(0, 6), st.booleans())
def test_counts(shape, kind, seed, special, level, wanted, sparse):
    x = stack(*shape, kind, seed, special)
    if sparse:
        x[:, 5:] = x[0, 5:]
    level = level % (kind().itemsize // 2)
    with np.errstate(all="ignore"):
        differences = x[1:] - x[0]
    prefixes = [some_prefixes(d, level, wanted, seed + m) for m, d in enumerate(differences)]
    counts = [np.full((len(p), 65536), 3, np.uint32) for p in prefixes]
    finer = [np.full((len(p), 65536), 4, np.uint32) for p in prefixes]
    KERNELS.count_magnitudes(x, level, prefixes, counts, finer)
    for m, d in enumerate(differences):
        found, further = counted(d, level, prefixes[m])
        assert (counts[m] == found + 3).all()
        assert (finer[m] == further + 4).all()
        mine, some = np.zeros_like(found), np.zeros_like(further)
        KERNELS.count_scores(np.abs(d), level, prefixes[m], mine, some)
        assert (mine == found).all()
        assert (some == further).all()


def test_counts_leave_nothing_behind():
    """Many values in few bins, then few in many: a thread's tables are empty between calls."""
    counts, finer = np.zeros((2, 1, 65536), np.uint32)
    rng = np.random.default_rng(0)
    blocks = [np.ones(20_000), np.abs(rng.normal(size=5_000)) ** 9, np.zeros(4096), np.array([np.inf, np.nan, 1e-45])]
    blocks = [b.astype(np.float32) for b in blocks]
    for block in blocks:
        KERNELS.count_scores(block, 0, [0], counts, finer)
    found, further = counted(np.concatenate(blocks), 0, [0])
    assert (counts == found).all()
    assert (finer == further).all()


# ---- differences, trimmed and merged


def splitmix64(key, start, count):
    """The generator's finaliser on its own counter, in Python's integers; upper 32 bits."""
    mask = (1 << 64) - 1
    found = []
    for element in range(start, start + count):
        z = (key + (element + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append((z ^ (z >> 31)) >> 32)
    return np.array(found, np.int64)


def test_the_generator_is_splitmix64():
    """The first numbers for seed 0 and for 1234567, as published with the generator."""
    assert splitmix64(0, 0, 1)[0] == 0xE220A8397B1DCDAF >> 32
    assert splitmix64(1234567, 0, 2).tolist() == [6457827717110365317 >> 32, 3203168211198807973 >> 32]


def merged(x, trims, start, elect, normalize, scale, keep=None):
    """The rule, operation by operation, in the type of x."""
    kind = x.dtype.type
    count = x.shape[1]
    with np.errstate(all="ignore"):
        parts = []
        for m, trim in enumerate(trims):
            d = x[m + 1] - x[0]
            size = np.abs(d.astype(np.float64))
            mine = ~((size < trim.low) | (size > trim.high))
            lost = np.isnan(d)
            if keep is not None:
                numbers = splitmix64(trim.key, start, count)
                mine &= numbers < np.array([round(float(p) * 2**32) for p in keep[m]], np.int64)
                d = d / keep[m]
            elif trim.keep < 1:
                mine &= splitmix64(trim.key, start, count) < round(trim.keep * 2**32)
            parts.append(np.where(mine | lost, kind(trim.weight) * (kind(trim.factor) * d), kind(0)))
        used = [(kind(t.weight), v) for t, v in zip(trims, parts, strict=True) if t.weight != 0]
        total = np.zeros(count, kind)
        for _, v in used:
            total = total + v
        if elect:
            m, weights = np.zeros(count, kind), np.zeros(count, kind)
            for w, v in used:
                agrees = (np.sign(v) == np.sign(total)) & (total != 0)
                m = m + np.where(agrees, v, kind(0))
                weights = weights + np.where(agrees, w, kind(0))
        else:
            m, weights = total, np.full(count, fsum(t.weight for t in trims), kind)
        if normalize:
            m = np.where(weights == 0, kind(0), m / weights)
        if elect:
            m = np.where(np.isnan(total), total, m)
        step = kind(scale) * m
        return np.where(step == 0, x[0], x[0] + step)


trims = st.builds(
    Trim,
    weight=st.sampled_from([1.0, 0.3, 0.7, -0.5, 0.0, 2.0]),
    low=st.sampled_from([0.0, 0.0, 1e-3, 1e-3 + 1e-12, 5e-4]),
    high=st.sampled_from([np.inf, np.inf, 2e-3, 1.7e-3]),
    keep=st.sampled_from([1.0, 1.0, 0.5, 0.9, 0.0, 1e-12, 1 - 1e-12]),
    factor=st.sampled_from([1.0, 2.0, 1.1]),
    key=st.integers(0, 2**64 - 1),
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(trims, min_size=1, max_size=5),
    st.sampled_from([0, 1, 9, 500, 1024, 1029]),
    kinds,
    seeds,
    specials,
    st.sampled_from([0, 4096, 3 * 2**40]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.5, -1.2]),
    st.booleans(),
)
def test_merge_differences(each, count, kind, seed, special, start, elect, normalize, scale, probabilities):
    x = stack(len(each) + 1, count, kind, seed, special)
    keep = None
    if probabilities:
        rng = np.random.default_rng(seed)
        keep = rng.choice(np.array([0.0, 0.25, 0.3, 0.999, 1.0, 1e-11]), (len(each), count)).astype(np.float32)
    out = np.empty(count, kind)
    KERNELS.merge_differences(x, each, start, elect=elect, normalize=normalize, scale=scale, out=out, keep=keep)
    assert same_bits(out, merged(x, each, start, elect, normalize, scale, keep))


@pytest.mark.parametrize("models", [1, 2, 3, 4])
@pytest.mark.parametrize("elect", [False, True])
def test_where_nothing_changes_the_base_stays(models, elect):
    base = np.array([-0.0, 0.0, 1.5, -1e-40, np.nan], np.float32)
    x = np.tile(base, (models + 1, 1))
    x[1:, 2] += 1.0
    out = np.empty(5, np.float32)
    each = [Trim(1.0, low=2.0)] * models
    KERNELS.merge_differences(x, each, 0, elect=elect, normalize=True, scale=1.0, out=out)
    assert same_bits(out, base)
    assert np.signbit(out[0])


def test_opposite_signs_cancel_to_the_base():
    x = np.array([[-0.0, 1.0], [0.5, 1.5], [-0.5, 0.5]], np.float32)
    out = np.empty(2, np.float32)
    KERNELS.merge_differences(x, [Trim(1.0)] * 2, 0, elect=True, normalize=True, scale=1.0, out=out)
    assert same_bits(out, x[0])


def test_weights_that_cancel_give_the_base():
    x = np.array([[1.0], [2.0], [5.0]], np.float32)
    out = np.empty(1, np.float32)
    for elect in (False, True):  # elected: +1 * 1 and -1 * -3 agree
        x[2] = -2.0 if elect else 5.0
        each = [Trim(1.0), Trim(-1.0)]
        KERNELS.merge_differences(x, each, 0, elect=elect, normalize=True, scale=1.0, out=out)
        assert out.tolist() == [1.0]


def test_ties_by_hand():
    """Yadav et al. 2023, section 4.2: signs elected by mass, the mean over those that agree."""
    x = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 1.0], [2.0, 5.0, 1.0], [0.5, 7.0, 2.0]])
    out = np.empty(3)
    KERNELS.merge_differences(x, [Trim(1.0)] * 3, 0, elect=True, normalize=True, scale=0.5, out=out)
    assert out.tolist() == [1 + 0.5 * 1.5, 1 + 0.5 * 5.0, 1 + 0.5 * 1.0]


def test_nan_of_one_model_is_seen():
    """Also where it is trimmed or dropped: a merge does not hide what is broken."""
    x = np.array([[1.0, 1.0], [np.nan, 2.0]], np.float32)
    for elect in (False, True):
        out = np.empty(2, np.float32)
        each = [Trim(1.0, low=0.5, high=2.0, keep=1e-12)]
        KERNELS.merge_differences(x, each, 0, elect=elect, normalize=True, scale=1.0, out=out)
        assert np.isnan(out[0])
        assert out[1] == 1.0


@settings(max_examples=25, deadline=None)
@given(seeds, kinds, st.lists(st.integers(0, 9000), max_size=5), st.booleans())
@example(1, np.float32, [1], True)
def test_results_do_not_depend_on_blocks(seed, kind, cuts, elect):
    x = stack(4, 9000, kind, seed)
    each = [Trim(0.4, low=2e-4, keep=0.6, factor=1 / 0.6, key=seed * 2**40 + m) for m in range(3)]
    how = {"elect": elect, "normalize": elect, "scale": 0.9}
    whole, pieces = np.empty((2, 9000), kind)
    KERNELS.merge_differences(x, each, 100, out=whole, **how)
    for a, b in zip(edges := [0, *sorted(cuts), 9000], edges[1:], strict=False):
        KERNELS.merge_differences(np.ascontiguousarray(x[:, a:b]), each, 100 + a, out=pieces[a:b], **how)
    assert same_bits(whole, pieces)


def test_draws_keep_their_share():
    x = np.zeros((2, 100_000), np.float32)
    x[1] = 1.0
    out = np.empty(100_000, np.float32)
    KERNELS.merge_differences(x, [Trim(1.0, keep=0.3, key=5)], 0, elect=False, normalize=False, scale=1.0, out=out)
    assert abs(out.mean() - 0.3) < 5 * (0.3 * 0.7 / 1e5) ** 0.5


def compiled_signatures():
    found = {}
    for module in (elements, merge_grams, merge_arithmetic, magnitudes, rounding):
        loops = [loop for loop in vars(module).values() if isinstance(loop, Loop)]
        found |= {loop.name: loop.loaded | loop.made for loop in loops}
    assert any(found.values())
    return found


def test_prepare_leaves_nothing_to_compile():
    """Whatever is asked for later, parts of wider arrays and bytes from anywhere included."""
    names = [*FLOATS, "I64", "BOOL", "F4", "C64"]
    KERNELS.prepare([DTYPES[n] for n in names], [32, 64])
    before = compiled_signatures()
    for kind in WIDE:
        x = np.random.default_rng(0).normal(size=(5, 300)).astype(kind)[:, :200]
        out = np.empty(300, kind)[:200]
        KERNELS.gram(x, np.zeros((5, 5)))
        KERNELS.difference_gram(x, np.zeros((4, 4)))
        KERNELS.combine(x, 1, 0.5, [0.1] * 5, out)
        counts, finer = np.zeros((2, 4, 2, 65536), np.uint32)
        KERNELS.count_magnitudes(x, 0, [[0]] * 4, counts, finer)
        KERNELS.count_magnitudes(x, 1, [[3, 5]] * 4, counts, finer)
        KERNELS.count_scores(out, 1, [0, 1], counts[0], finer[0])
        keep = np.ones((4, 300), np.float32)[:, :200]
        for given_keep in (None, keep):
            how = {"elect": True, "normalize": True, "scale": 0.5, "keep": given_keep}
            KERNELS.merge_differences(x, [Trim(1.0, keep=0.5)] * 4, 7, out=out, **how)
        for name in FLOATS:
            size = DTYPES[name].nbytes(200)
            raw = np.zeros(size + 1, np.uint8)
            KERNELS.narrow(out, DTYPES[name], raw[1:])
            KERNELS.widen(raw[1:], DTYPES[name], out)
            KERNELS.widen(np.frombuffer(bytes(size), np.uint8), DTYPES[name], out)
    assert compiled_signatures() == before


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_prepare_of_one_type_leaves_nothing_of_native_blocks_to_compile(name):
    dtype = DTYPES[name]
    KERNELS.prepare([dtype], [32])
    before = compiled_signatures()
    native = np.ones((5, 300), np.float32 if name == "F32" else np.uint16)[:, :200]
    out = np.empty(200, native.dtype)
    KERNELS.gram_native(native, dtype, np.zeros((5, 5)))
    KERNELS.difference_gram_native(native, dtype, np.zeros((4, 4)))
    KERNELS.combine_native(native, dtype, 1, 0.5, [0.1] * 5, out)
    counts, finer = np.zeros((2, 4, 2, 65536), np.uint32)
    KERNELS.count_magnitudes_native(native, dtype, 0, [[0]] * 4, counts, finer)
    KERNELS.count_magnitudes_native(native, dtype, 1, [[3, 5]] * 4, counts, finer)
    how = {"elect": True, "normalize": True, "scale": 0.5}
    KERNELS.merge_differences_native(native, dtype, [Trim(1.0, keep=0.5)] * 4, 7, out=out, **how)
    assert compiled_signatures() == before


def test_threads_have_tables_of_their_own():
    rng = np.random.default_rng(3)
    blocks = [rng.normal(0, 10.0**-n, 50_000).astype(np.float32) for n in range(8)]

    def count(block):
        counts, finer = np.zeros((2, 1, 65536), np.uint32)
        for _ in range(5):
            KERNELS.count_scores(np.abs(block), 0, [0], counts, finer)
        return counts

    with ThreadPoolExecutor(4) as threads:
        for found, block in zip(threads.map(count, blocks), blocks, strict=True):
            assert (found == 5 * counted(block, 0, [0])[0]).all()


def test_its_name():
    assert KERNELS.name == "cpu"


def test_it_fulfils_the_protocol():
    """What a method may call is there, with the same parameters."""
    for name, method in vars(MergeKernels).items():
        if not name.startswith("_") and callable(method):
            wanted = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(CpuMergeKernels, name)).parameters) == wanted
