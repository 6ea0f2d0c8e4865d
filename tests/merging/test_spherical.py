"""slerp, nuslerp, multislerp and karcher against their formulas, done with whole vectors in float64."""

from __future__ import annotations

import numpy as np
import pytest
from combined import course_of, merged, near, same_bits, vectors
from scipy.optimize import minimize

from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.merging.course import Copy
from netweight.statistics.rounding_error import cosine_error

SHAPES = [(24, 40), (7,), (3, 5, 4), (130, 257)]
WEIGHTS = [0.5, 1.0, 0.7]


def arc(t, a, b, parallel=0.9999999):
    """slerp of two arrays as one vector each; linear where the cosine is above `parallel`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cos = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    if cos > parallel or cos < -0.9995:
        return (1 - t) * a + t * b
    angle = np.arccos(cos)
    return np.sin((1 - t) * angle) / np.sin(angle) * a + np.sin(t * angle) / np.sin(angle) * b


def log_map(m, u):
    """The tangent vector at the unit vector m that leads to the unit vector u."""
    across = u - (m @ u) * m
    length = np.linalg.norm(across)
    return np.zeros_like(m) if length < 1e-15 else np.arctan2(length, m @ u) * across / length


def exp_map(m, v):
    length = np.linalg.norm(v)
    return m if length == 0 else np.cos(length) * m + np.sin(length) * v / length


def on_sphere(tensors, weights, moves):
    """The mean of directions after `moves` moves, by the mean length."""
    x = [np.asarray(t, np.float64).ravel() for t in tensors]
    w = np.array(weights) / np.sum(weights)
    units = [v / np.linalg.norm(v) for v in x]
    m = sum(a * u for a, u in zip(w, units, strict=True))
    m /= np.linalg.norm(m)
    for _ in range(moves):
        m = exp_map(m, sum(a * log_map(m, u) for a, u in zip(w, units, strict=True)))
    return (m * sum(a * np.linalg.norm(v) for a, v in zip(w, x, strict=True))).reshape(np.shape(tensors[0]))


def in_both(shape, n, bits, **given):
    return vectors(n, shape, dtype=np.float64 if bits == 64 else np.float32, **given)


# ---- formulas


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("common", [0.0, 0.9, 0.9999])
@pytest.mark.parametrize("shape", SHAPES)
def test_slerp(shape, common, bits):
    a, b = in_both(shape, 2, bits, common=common)
    b *= 3
    for t in (0.3, 0.999, -0.2, 1.4):
        assert near(merged("slerp", [a, b], t=t, bits=bits), arc(t, a, b, 0.9995), bits=bits)


def test_slerp_keeps_the_length_of_equal_lengths():
    a, b = in_both((24, 40), 2, 64, common=0.2)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    found = merged("slerp", [a, b], t=0.6, bits=64)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(a), rel=1e-12)
    angle = np.arccos(np.vdot(a, b) / np.vdot(a, a))
    assert np.arccos(np.vdot(a, found) / np.vdot(a, a)) == pytest.approx(0.6 * angle, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_nuslerp_whole(shape):
    base, a, b = vectors(3, shape, common=0.3)
    assert near(merged("nuslerp", [a, b], weights=[1.4, 0.6]), arc(0.3, a, b))
    near_a = (a + 0.02 * b).astype(np.float32)  # so near that slerp would be linear
    assert near(merged("nuslerp", [a, near_a], weights=[0.7, 0.3]), arc(0.3, a, near_a))
    wanted = base + arc(0.3, a.astype(np.float64) - base, b.astype(np.float64) - base)
    assert near(merged("nuslerp", [base, a, b], weights=[0.7, 0.3], base=True), wanted)


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("shape", [(24, 40), (3, 5, 40), (300, 33)])
def test_nuslerp_by_rows_and_columns(shape, with_base):
    base, a, b = (t.reshape(-1, shape[-1]).astype(np.float64) for t in vectors(3, shape, common=0.3))
    a[3] = b[3]  # channels that are parallel
    a[:, 2] = 2 * b[:, 2]
    x = [t.astype(np.float32).reshape(shape) for t in ((base, a, b) if with_base else (a, b))]
    start = base if with_base else 0
    p, q = a - start, b - start
    given = {"weights": [1.0, 4.0], "base": with_base, "nuslerp_flatten": False}
    rows = np.stack([arc(0.8, i, j) for i, j in zip(p, q, strict=True)])
    assert near(merged("nuslerp", x, nuslerp_row_wise=True, **given), (start + rows).reshape(shape))
    columns = np.stack([arc(0.8, i, j) for i, j in zip(p.T, q.T, strict=True)], axis=1)
    assert near(merged("nuslerp", x, **given), (start + columns).reshape(shape))
    assert np.abs(rows - columns).max() > 1e-3


def test_nuslerp_takes_vectors_as_they_are_though_by_rows():
    a, b = vectors(2, (50,))
    for rows in (False, True):
        found = merged("nuslerp", [a, b], weights=[1.0, 2.0], nuslerp_flatten=False, nuslerp_row_wise=rows)
        assert same_bits(found, merged("nuslerp", [a, b], weights=[1.0, 2.0]))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("common", [0.0, 0.5, 0.99999])
@pytest.mark.parametrize("shape", SHAPES)
def test_multislerp(shape, common, bits):
    x = in_both(shape, 3, bits, common=common, seed=1)
    x[1] *= 2
    wanted = on_sphere(x, WEIGHTS, 1)
    assert near(merged("multislerp", x, weights=WEIGHTS, bits=bits), wanted, bits=bits)
    longer = merged("multislerp", x, weights=WEIGHTS, bits=bits, normalize_weights=False)
    assert near(longer, sum(WEIGHTS) * wanted, bits=bits)


def test_multislerp_of_task_vectors():
    base, *models = vectors(4, common=0.3)
    wanted = base + on_sphere([m.astype(np.float64) - base for m in models], WEIGHTS, 1)
    assert near(merged("multislerp", [base, *models], weights=WEIGHTS, base=True), wanted)


@pytest.mark.parametrize("common", [0.0, 0.5, 0.9])
def test_multislerp_of_two_is_slerp(common):
    a, b = in_both((24, 40), 2, 64, common=common)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    assert near(merged("multislerp", [a, b], weights=[0.7, 0.3], bits=64), arc(0.3, a, b), bits=64)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_karcher(shape, bits):
    x = in_both(shape, 4, bits, common=0.2, seed=2)
    x[3] *= 0.1
    for moves in (1, 2, 10):
        found = merged("karcher", x, bits=bits, max_iter=moves, tol=0.0)
        assert near(found, on_sphere(x, [1, 1, 1, 1], moves), bits=bits)


def test_karcher_has_the_least_squared_angles():
    rng = np.random.default_rng(4)
    x = [np.abs(rng.normal(size=5)) for _ in range(4)]
    units = [v / np.linalg.norm(v) for v in x]

    def squares(p):
        p = p / np.linalg.norm(p)
        return sum(np.arccos(np.clip(p @ u, -1, 1)) ** 2 for u in units)

    found = merged("karcher", x, bits=64, max_iter=100, tol=1e-12)
    best = minimize(squares, np.ones(5), tol=1e-12).x
    np.testing.assert_allclose(found / np.linalg.norm(found), best / np.linalg.norm(best), atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(np.mean([np.linalg.norm(v) for v in x]), rel=1e-12)


def test_karcher_stops_at_its_tolerance():
    x = vectors(3, common=0.2, dtype=np.float64)
    coarse = merged("karcher", x, bits=64, tol=10.0)
    assert near(coarse, on_sphere(x, [1, 1, 1], 1), bits=64)


# ---- ends, and vectors without a direction


def test_ends_are_copies_without_a_look():
    x = vectors(3)
    for method, n, given, copied in (
        ("slerp", 2, {"t": 0.0}, 0),
        ("slerp", 2, {"t": 1}, 1),
        ("nuslerp", 2, {"weights": [1.0, 0.0]}, 0),
        ("nuslerp", 3, {"weights": [0.0, 2.0], "base": True}, 2),
        ("multislerp", 3, {"weights": [0.0, 0.0, 3.0]}, 2),
        ("multislerp", 2, {"weights": [3.0], "base": True}, 1),
        ("karcher", 1, {}, 0),
    ):
        course, what = course_of(method, x[:n], **given)
        with pytest.raises(StopIteration) as end:
            next(course(what))
        assert end.value.value == Copy(copied), (method, given)


@pytest.mark.parametrize("shape", [(24, 40), (1,), (), (0,), (0, 4), (4, 0)])
def test_zero_vectors_are_interpolated_linearly(shape):
    (x,) = vectors(1, shape)
    zero = np.zeros(shape, np.float32)
    for pair, share in (([zero, x], 0.25), ([x, zero], 0.75)):
        wanted = share * x.astype(np.float64)
        assert near(merged("slerp", pair, t=0.25), wanted)
        for flat in (True, False):
            for rows in (True, False):
                given = {"nuslerp_flatten": flat, "nuslerp_row_wise": rows}
                assert near(merged("nuslerp", pair, weights=[3.0, 1.0], **given), wanted)
                started = [np.ones_like(x), *(np.asarray(1 + t, np.float32) for t in pair)]
                assert near(merged("nuslerp", started, weights=[3.0, 1.0], base=True, **given), 1 + wanted)
        assert near(merged("multislerp", pair, weights=[3.0, 1.0]), wanted)
        assert near(merged("karcher", pair), 0.5 * x.astype(np.float64))
    assert not merged("multislerp", [zero, zero], weights=[3.0, 1.0]).any()
    assert not merged("karcher", [zero, zero, zero]).any()


def test_a_zero_vector_counts_in_the_mean_length_alone():
    a, b = vectors(2, common=0.4)
    wanted = on_sphere([a, b], [0.5, 0.7], 1) * (1.2 / 2.2)
    found = merged("multislerp", [a, np.zeros_like(a), b], weights=[0.5, 1.0, 0.7])
    assert near(found, wanted)
    base = np.full_like(a, 3.0)
    x = [base, base + a, base, base + b]
    moved = on_sphere([x[1].astype(np.float64) - base, x[3].astype(np.float64) - base], [0.5, 0.7], 1)
    assert near(merged("multislerp", x, weights=[0.5, 1.0, 0.7], base=True), base + moved * (1.2 / 2.2))


def test_opposite_vectors_are_interpolated_linearly():
    a, b = vectors(2)
    assert near(merged("slerp", [a, -2 * a], t=0.75), -1.25 * a.astype(np.float64))
    assert near(merged("nuslerp", [a, -a], weights=[1.0, 3.0], nuslerp_flatten=False), -0.5 * a.astype(np.float64))
    # the mean of the directions cancels
    assert near(merged("multislerp", [a, -3 * a], weights=[1.0, 1.0]), -a.astype(np.float64))
    assert near(merged("karcher", [a, -3 * a]), -a.astype(np.float64))
    # one is opposite to the mean of all
    assert near(merged("karcher", [a, a, -a]), a.astype(np.float64) / 3)
    assert np.abs(merged("multislerp", [a, b, -a, -b], weights=[1.0] * 4)).max() < 1e-6


PERTURBATIONS = [
    (sign * part, signs)
    for part in (1e-2, 0.1, 0.4)
    for sign in (1, -1)
    for signs in ([[0, 1], [1, 0]], [[1, -1], [-1, 1]], [[1, 0], [0, 0]])
]
"""Parts of what sums of so many products may differ by, and the signs with which they go into a Gram matrix of two."""


def perturbed(gram, terms, part, signs):
    """The Gram matrix of 2 vectors, or of 2 and their opposites, as another machine may find it."""
    return gram * (1 + part * cosine_error(terms) * np.tile(signs, np.array(gram.shape) // 2))


class Perturbed(CpuMergeKernels):
    """The kernels of another machine, for parameters of one block."""

    def __init__(self, part, signs):
        super().__init__()
        self._how = part, signs

    def gram(self, x, total):
        super().gram(x, total)
        total[:] = perturbed(total, x.shape[1], *self._how)


@pytest.mark.parametrize("terms", [1, 10, 1000, 10**6])
@pytest.mark.parametrize(("part", "signs"), PERTURBATIONS)
def test_what_cancels_does_so_whatever_rounding_leaves(terms, part, signs):
    (x,) = vectors(1, (terms,))
    wanted = -x.astype(np.float64)
    how = {"kernels": Perturbed(part, signs), "stretch": 1 << 20, "block": 1 << 20}
    for eps in ({}, {"eps": 0.0}):
        assert near(merged("multislerp", [x, -3 * x], weights=[1.0, 1.0], cuts=how, **eps), wanted)
    assert near(merged("multislerp", [x, -3 * x, 2 * x, -x], weights=[1.0] * 4, cuts=how), 0.25 * wanted)
    assert near(merged("karcher", [x, -3 * x], cuts=how), wanted)


def write_for(method, gram, terms, *, base=False, **given):
    """What `method` does with a parameter of so many elements, for which a look finds this Gram matrix."""
    course, what = course_of(method, [np.broadcast_to(np.float32(0), terms)] * (len(gram) + base), base=base, **given)
    steps = course(what)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(gram)
    return end.value.value


@pytest.mark.parametrize("terms", [10, 1000, 10**6, 10**9, 10**10])
@pytest.mark.parametrize(("part", "signs"), PERTURBATIONS)
def test_opposite_and_equal_vectors_of_any_size_are_known_as_such(terms, part, signs):
    opposite = perturbed(np.array([[1.0, -3.0], [-3.0, 9.0]]), terms, part, signs)
    for method, given in (("multislerp", {"weights": [1.0, 1.0]}), ("karcher", {})):
        assert write_for(method, opposite, terms, **given).factors == (0.5, 0.5), method
    equal = perturbed(np.full((2, 2), 7.0), terms, part, signs)
    for method in ("nuslerp", "multislerp", "karcher"):
        given = {} if method == "karcher" else {"weights": [1.0, 2.0]}
        assert write_for(method, equal, terms, **given).scale == 1.0, method
    assert write_for("model_stock", equal, terms, base=True).inputs == (1, 2)  # without the base


def test_weights_of_what_has_a_direction_may_cancel():
    a, b = vectors(2, dtype=np.float64)
    found = merged("multislerp", [a, b, np.zeros_like(a)], weights=[2.0, -2.0, 1.0], bits=64)
    assert near(found, 2 * a - 2 * b, bits=64)


def test_eps_says_from_where_a_mean_has_a_direction():
    a, b = vectors(2, dtype=np.float64)
    x = [a, -a + 1e-3 * b]
    bent = merged("multislerp", x, weights=[1.0, 1.0], bits=64)
    straight = merged("multislerp", x, weights=[1.0, 1.0], bits=64, eps=0.01)
    np.testing.assert_allclose(straight, 0.5e-3 * b, atol=1e-15)
    assert np.linalg.norm(bent) == pytest.approx(np.linalg.norm(a), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_no_size_is_too_small_or_too_large(scale):
    x = [(scale * t).astype(np.float32) for t in vectors(3, common=0.3, dtype=np.float64)]
    assert near(merged("slerp", x[:2], t=0.3), arc(0.3, *x[:2]))
    assert near(merged("multislerp", x, weights=WEIGHTS), on_sphere(x, WEIGHTS, 1))
    assert near(merged("karcher", x, tol=0.0), on_sphere(x, [1, 1, 1], 10))


def test_nan_stays_where_it_is():
    x = vectors(3)
    x[1][3, 4] = np.nan
    for found in (
        merged("slerp", x[:2], t=0.3),
        merged("nuslerp", x[:2], weights=[1.0, 1.0], nuslerp_flatten=False),
        merged("nuslerp", x[:2], weights=[1.0, 1.0], nuslerp_flatten=False, nuslerp_row_wise=True),
        merged("multislerp", x, weights=WEIGHTS),
        merged("multislerp", x, weights=[1.0, 1.0], base=True),
        merged("karcher", x),
    ):
        assert np.flatnonzero(np.isnan(found)).tolist() == [3 * 40 + 4]
