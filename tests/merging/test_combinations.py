"""linear, task_arithmetic, passthrough and model_stock against their formulas in numpy; what is exact, and edges."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from combined import CUTS, MERGEKIT, course_of, merged, near, same_bits, vectors

from netweight.errors import OptionError
from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.merging.course import Copy
from netweight.merging.grams import ColumnGramLook, GramLook
from netweight.merging.registry import METHODS, find
from netweight.merging.writes import Combine, combination

SHAPES = [(24, 40), (7,), (1,), (), (0,), (3, 5, 4), (130, 257)]
TASK_WEIGHTS = [0.4, -1.3, 2.0]


def plan_of(method, tensors, **given):
    """What a course returns that needs no look."""
    course, what = course_of(method, tensors, **given)
    with pytest.raises(StopIteration) as end:
        next(course(what))
    return end.value.value


def wide(tensors):
    return [np.asarray(t, np.float64) for t in tensors]


def stock(tensors):
    """(t, output) of one vector."""
    base, *models = wide(tensors)
    n = len(models)
    norm = np.linalg.norm
    c = np.mean([np.vdot(a - base, b - base) / norm(a - base) / norm(b - base) for a, b in combinations(models, 2)])
    t = n * c / (1 + (n - 1) * c)
    return t, t * np.mean(models, axis=0) + (1 - t) * base


# ---- formulas


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_linear(shape, bits):
    x = vectors(3, shape, dtype=np.float64 if bits == 64 else np.float32)
    weights = [0.5, 3.0, -1.0]
    mean = np.average(wide(x), axis=0, weights=weights)
    assert near(merged("linear", x, weights=weights, bits=bits), mean, bits=bits)
    total = sum(w * t for w, t in zip(weights, wide(x), strict=True))
    assert near(merged("linear", x, weights=weights, bits=bits, normalize=False), total, bits=bits)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_task_arithmetic(shape, bits):
    x = vectors(4, shape, dtype=np.float64 if bits == 64 else np.float32)
    base, *models = wide(x)
    moved = sum(w * (m - base) for w, m in zip(TASK_WEIGHTS, models, strict=True))
    for normalize, divisor in ((False, 1), (True, sum(TASK_WEIGHTS))):
        given = {"weights": TASK_WEIGHTS, "bits": bits, "lambda": 0.7, "normalize": normalize}
        assert near(merged("task_arithmetic", x, **given), base + 0.7 * moved / divisor, bits=bits)


def test_passthrough_scales():
    (x,) = vectors(1)
    assert near(merged("passthrough", [x], each=[{"scale": -0.3}]), -0.3 * x.astype(np.float64))
    assert not merged("passthrough", [x], each=[{"scale": 0.0}]).any()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", [(24, 40), (50,), (3, 5, 4), (130, 257)])
def test_model_stock(shape, count, bits):
    x = vectors(1 + count, shape, dtype=np.float64 if bits == 64 else np.float32)
    assert near(merged("model_stock", x, bits=bits), stock(x)[1], bits=bits)


@pytest.mark.parametrize("shape", [(24, 40), (3, 5, 40), (300, 33)])
def test_model_stock_by_rows(shape):
    x = vectors(4, shape, seed=3)
    rows = np.stack([t.reshape(-1, shape[-1]) for t in x], axis=1)
    wanted = np.stack([stock(row)[1] for row in rows]).reshape(shape)
    assert near(merged("model_stock", x, filter_wise=True), wanted)


def test_model_stock_takes_a_vector_as_a_whole_though_by_rows():
    x = vectors(3, (50,))
    assert same_bits(merged("model_stock", x, filter_wise=True), merged("model_stock", x))


def test_model_stock_sees_the_angle_of_tiny_task_vectors():
    base, *moves = vectors(4, dtype=np.float64)
    x = [base, *(base + 1e-9 * move for move in moves)]
    found = merged("model_stock", x, bits=64)
    t, wanted = stock(x)
    assert t > 0.5
    assert np.abs((found - base) - (wanted - base)).max() < 1e-6 * np.abs(wanted - base).max()


# ---- what is exact


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("method", "count", "given"),
    [
        ("linear", 3, {"weights": [0.1, 0.7, 3.0]}),
        ("linear", 10, {"weights": [0.1] * 10, "normalize": False}),
        ("task_arithmetic", 4, {"weights": TASK_WEIGHTS, "lambda": 1.7}),
        ("model_stock", 4, {}),
        ("model_stock", 4, {"filter_wise": True}),
        ("slerp", 2, {"t": 0.3}),
        ("nuslerp", 2, {"weights": [0.3, 0.9]}),
        ("nuslerp", 2, {"weights": [0.3, 0.9], "nuslerp_flatten": False}),
        ("nuslerp", 2, {"weights": [0.3, 0.9], "nuslerp_flatten": False, "nuslerp_row_wise": True}),
        ("nuslerp", 3, {"weights": [0.3, 0.9], "base": True}),
        ("nuslerp", 3, {"weights": [0.3, 0.9], "base": True, "nuslerp_flatten": False}),
        ("multislerp", 3, {"weights": [0.1, 0.7, 3.0]}),
        ("multislerp", 4, {"weights": [0.1, 0.7, 3.0], "base": True}),
        ("karcher", 7, {}),
    ],
)
def test_a_model_merged_with_itself_is_itself_bit_for_bit(method, count, given, bits):
    (x,) = vectors(1, (37, 41), dtype=np.float64 if bits == 64 else np.float32)
    x[0, :3] = 0.0, -0.0, 1e-42
    assert same_bits(merged(method, [x] * count, bits=bits, **given), x)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_of_equal_models_is_that_model(filter_wise):
    base, model = vectors(2, common=0.1)
    found = merged("model_stock", [base, model, model, model], filter_wise=filter_wise)
    if filter_wise:
        assert near(found, model.astype(np.float64))
    else:
        assert same_bits(found, model)


def test_one_coefficient_of_one_is_a_copy():
    x = vectors(3)
    assert plan_of("linear", x[:1], weights=[7.0]) == Copy(0)
    assert plan_of("linear", x, weights=[0.0, 2.0, 0.0]) == Copy(1)
    assert plan_of("task_arithmetic", x, weights=[1.0, 1.0], **{"lambda": 0.0}) == Copy(0)
    assert plan_of("task_arithmetic", x, weights=[0.0, 0.0]) == Copy(0)
    assert plan_of("task_arithmetic", x[:2], weights=[1.0]) == Copy(1)
    assert plan_of("task_arithmetic", x, weights=[0.0, 4.0], normalize=True) == Copy(2)
    assert plan_of("passthrough", x[:1]) == Copy(0)


def test_inputs_of_coefficient_0_are_not_read():
    x = vectors(4)
    assert plan_of("task_arithmetic", x, weights=[0.0, 0.3, 0.4]).inputs == (0, 2, 3)
    # weights that add up to 1 leave nothing of the base
    assert plan_of("task_arithmetic", x, weights=[0.25, 0.25, 0.5]).inputs == (1, 2, 3)
    x[1][:] = np.nan
    assert np.isfinite(merged("linear", x, weights=[1.0, 0.0, 1.0, 2.0])).all()


def test_the_pivot_is_the_base_or_the_largest_coefficient():
    assert combination([0.2, -0.9, 0.4]) == Combine(1, pytest.approx(-0.3), (0.2, -0.9, 0.4), (0, 1, 2))
    assert combination([0.1, 0.0, 0.9], total=1.0, base=True) == Combine(0, 1.0, (0.1, 0.9), (0, 2))
    assert combination([0.0, 0.1, 0.9], total=1.0, base=True).pivot == 1
    assert combination([0.1] * 10).scale == 1.0
    assert combination([0.0, 0.0]) == Combine(0, 0.0, (0.0,), (0,))


@pytest.mark.parametrize("method", ["linear", "model_stock", "multislerp", "karcher"])
def test_the_order_of_models_does_not_matter(method):
    base, *models = vectors(5)
    head = [base] if method == "model_stock" else []
    weights = {"weights": [0.5, 1.0, 2.0, 0.1]} if method in {"linear", "multislerp"} else {}
    back = {"weights": weights["weights"][::-1]} if weights else {}
    a = merged(method, [*head, *models], **weights)
    b = merged(method, [*head, *models[::-1]], **back)
    assert np.abs(a - b).max() <= 4 * np.finfo(np.float32).eps * np.abs(a).max()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("method", "count", "given"),
    [
        ("linear", 3, {"weights": [0.1, 0.7, 3.0]}),
        ("task_arithmetic", 4, {"weights": TASK_WEIGHTS}),
        ("model_stock", 4, {}),
        ("model_stock", 4, {"filter_wise": True}),
        ("slerp", 2, {"t": 0.3}),
        ("nuslerp", 2, {"weights": [0.3, 0.9], "nuslerp_flatten": False}),
        ("nuslerp", 3, {"weights": [0.3, 0.9], "nuslerp_flatten": False, "base": True}),
        ("nuslerp", 2, {"weights": [0.3, 0.9], "nuslerp_flatten": False, "nuslerp_row_wise": True}),
        ("multislerp", 4, {"weights": [0.1, 0.7, 3.0], "base": True}),
        ("karcher", 3, {}),
    ],
)
def test_blocks_and_their_order_do_not_matter(method, count, given, bits):
    for shape in ((260, 129), (9000, 1), (1, 9000)):
        x = vectors(count, shape, dtype=np.float64 if bits == 64 else np.float32)
        found = [merged(method, x, bits=bits, cuts={"stretch": 16384} | cuts, **given) for cuts in CUTS]
        assert all(same_bits(found[0], other) for other in found[1:])


@pytest.mark.parametrize("method", ["model_stock", "karcher"])
def test_stretches_matter_to_rounding_alone(method):
    x = vectors(4, (260, 129))
    a, b = (merged(method, x, cuts={"stretch": stretch}) for stretch in (4096, 1 << 20))
    assert near(a, b.astype(np.float64))


# ---- edges


def test_weights_that_cancel():
    x = vectors(3)
    message = "linear: w: expected weights whose sum is not 0, got 1, -1, 0: change them, or set normalize to false"
    with pytest.raises(OptionError, match=f"^{message}$"):
        merged("linear", x, weights=[1.0, -1.0, 0.0])
    with pytest.raises(OptionError, match=r"^task_arithmetic: w: .* got 0\.3, -0\.3: "):
        merged("task_arithmetic", x, weights=[0.3, -0.3], normalize=True)
    with pytest.raises(OptionError, match=r"^nuslerp: w: .* got 0, 0: change them: the second one's share is t$"):
        merged("nuslerp", x[:2], weights=[0.0, 0.0])
    with pytest.raises(OptionError, match=r"^multislerp: w: .* got 0\.1, 0\.2, -0\.3: change them$"):
        merged("multislerp", x, weights=[0.1, 0.2, -0.3])
    assert near(merged("linear", x, weights=[1.0, -1.0, 0.0], normalize=False), x[0] - x[1].astype(np.float64))


def test_weights_that_cancel_are_found_before_the_first_look():
    course, what = course_of("multislerp", vectors(2), weights=[1.0, -1.0])
    with pytest.raises(OptionError, match="sum is not 0"):
        course(what)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 4), (4, 0)])
def test_model_stock_of_next_to_nothing(shape):
    base, a, b = (np.full(shape, value, np.float32) for value in (1.0, 2.0, 3.0))
    for filter_wise in (False, True):
        assert near(merged("model_stock", [base, a, b], filter_wise=filter_wise), np.full(shape, 2.5))


def test_model_stock_with_zero_task_vectors():
    base, a, b = vectors(3)
    assert same_bits(merged("model_stock", [base, base, base]), base)
    # at right angles to all others: with two models t is 0
    assert same_bits(merged("model_stock", [base, base, b]), base)
    d, e = (t.astype(np.float64) - base for t in (a, b))
    c = np.vdot(d, e) / np.linalg.norm(d) / np.linalg.norm(e) / 3
    t = 3 * c / (1 + 2 * c)
    assert near(merged("model_stock", [base, a, base, b]), base + t * (d + e) / 3)


def test_model_stock_with_rows_that_did_not_change():
    base, a, b = vectors(3)
    a[5], b[5], b[6] = base[5], base[5], base[6]
    found = merged("model_stock", [base, a, b], filter_wise=True)
    assert same_bits(found[5:7], base[5:7])
    assert (found[7] != base[7]).any()


def test_model_stock_of_task_vectors_that_cancel_is_the_base():
    base = np.ones((4, 8), np.float32)
    (move,) = vectors(1, (4, 8), dtype=np.float64)
    move = np.round(move * 64) / 64  # so that base + move and base - move are exact
    x = [base, (base + move).astype(np.float32), (base - move).astype(np.float32)]
    assert same_bits(merged("model_stock", x), base)
    assert same_bits(merged("model_stock", x, filter_wise=True), base)


def test_model_stock_goes_away_from_models_that_disagree():
    base, a, b = vectors(3, dtype=np.float64)
    x = [base, base + a, base - 0.6 * a + 0.1 * b]
    t, wanted = stock(x)
    assert t < 0
    # t = 2 c / (1 + c) has 1 / (1 + c) = 1 - t / 2 times the relative error of c, the cosine
    assert near(merged("model_stock", x, bits=64), wanted, bits=64, condition=1 - t / 2)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_nan_stays_where_it_is_in_model_stock(filter_wise):
    x = vectors(3)
    x[2][3, 4] = np.nan
    with np.errstate(invalid="ignore"):
        found = merged("model_stock", x, filter_wise=filter_wise)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3 * 40 + 4]


# ---- looks


@pytest.mark.parametrize("differences", [False, True])
def test_gram_look_over_stretches(differences):
    x = np.stack(vectors(3, (9000,)))
    look, parts = GramLook(differences), []
    for a in (0, 4096, 8192):
        found = look.empty(3)
        look.add(found, np.ascontiguousarray(x[:, a : a + 4096]), a, CpuMergeKernels())
        parts.append(found)
    d = (x[1:] - x[0] if differences else x).astype(np.float64)
    np.testing.assert_allclose(look.merged(parts), d @ d.T, rtol=1e-12)


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("cols", [1, 6, 1500])
def test_column_gram_look_over_stretches(cols, differences):
    x = np.stack(vectors(4, (3000,)))
    look, parts = ColumnGramLook(cols, differences), []
    for a in (0, 1500):
        found = look.empty(4)
        look.add(found, np.ascontiguousarray(x[:, a : a + 1500]), a, CpuMergeKernels())
        parts.append(found)
    d = (x[1:] - x[0] if differences else x).astype(np.float64).reshape(-1, 3000 // cols, cols)
    np.testing.assert_allclose(look.merged(parts), np.einsum("irc,jrc->cij", d, d), rtol=1e-12)


# ---- the registry


def test_every_method_says_what_it_is():
    for name, method in METHODS.items():
        assert name == method.name
        assert all([method.title, method.formula, method.source]), name
        assert "\n" not in method.formula
        names = [s.name for s in method.settings]
        assert len(names) == len(set(names))
        assert all(s.text.endswith(".") and s.kind in {"number", "integer", "flag"} for s in method.settings), name


def test_mergekits_methods_are_there():
    assert METHODS.keys() >= MERGEKIT


def test_a_method_that_is_not_there():
    assert find("slerp").name == "slerp"
    with pytest.raises(OptionError, match=r"^no merge method 'slrp' \(did you mean 'slerp'\?\); known: linear, "):
        find("slrp")
    with pytest.raises(OptionError, match=r"^no merge method '\\x1b\[1m'; known: "):
        find("\x1b[1m")
