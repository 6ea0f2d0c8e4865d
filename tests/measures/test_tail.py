"""The columns of WeightWatcher: against its own values, and against its formulas written out plainly."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import chi2
from weightwatcher_matrices import build

from netweight.dtypes import DTYPES
from netweight.kernels.cpu import CpuKernels
from netweight.measures.registry import find
from netweight.measures.tail import COLUMNS, THRESHOLD, derive
from netweight.statistics.cutoff import fit_cutoff
from netweight.statistics.spectrum import Spectrum
from netweight.statistics.tail import FEW, LEAST, fit_tail, fit_without_fingers

RECORDED = json.loads(Path(__file__).with_name("weightwatcher_values.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORDED["cases"]}
NAMES = [column.name for column in COLUMNS]
FIT = {"alpha", "D", "sigma", "xmin", "xmax", "num_pl_spikes", "alpha_weighted", "log_alpha_norm"}

# Where WeightWatcher gives a number that its own definition does not, docs/measures/tail.md says why.
NO_FIT = {
    "7 above 1e-5": "7 of 27 eigenvalues are above 1e-05; a fit needs 8",
    "none above 1e-5": "0 of 64 eigenvalues are above 1e-05; a fit needs 8",
    "rank 1": "1 of 64 eigenvalues are above 1e-05; a fit needs 8",
    "zero": "all elements are zero",
    "equal values": "the eigenvalues do not differ",
}

# WeightWatcher leaves eigenvalues out until none is left, and then has no fit at all; of equal and of zero eigenvalues
# it says that 0 make the product.
NO_FINGERS = {"clip_xmax": {"8 eigenvalues"}, "random": {"zero", "equal values"}}


def spectrum_of(matrix, **changed):
    matrix = np.asarray(matrix, dtype=np.float64)
    values = np.linalg.svd(matrix, compute_uv=False)
    known = {"values": values, "rows": matrix.shape[0], "cols": matrix.shape[1], "square_sum": float((matrix**2).sum())}
    known |= {"method": "qr", "error": 1e-15, "complete": True}
    return Spectrum(**known | changed)


def spectrum_with(values, **changed):
    values = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    square_sum = math.fsum(value * value for value in values.tolist())
    known = {"values": values, "rows": len(values), "cols": len(values), "square_sum": square_sum}
    return Spectrum(**known | {"method": "qr", "error": 0.0, "complete": True} | changed)


def plainly(values):
    """The recipe word by word, for float64 values in ascending order: (alpha, D, sigma, xmin)."""
    found = []
    for i in range(len(values) - 1):
        tail = values[i:]
        n = len(tail)
        total = math.fsum(np.log(tail / tail[0]))
        if total <= 0 or (len(values) < FEW and n < LEAST):
            continue
        alpha = 1 + (n - 1 if len(values) < FEW else n) / total
        distance = np.max(np.abs(1 - (tail / tail[0]) ** (1 - alpha) - np.arange(n) / n))
        found.append((distance, i, alpha))
    distance, i, alpha = min(found)
    return alpha, distance, (alpha - 1) / math.sqrt(len(values) - i), values[i]


@pytest.mark.parametrize("name", CASES)
def test_columns_are_those_of_weightwatcher(name, request):
    recipe, theirs = CASES[name]["recipe"], CASES[name]["columns"]
    folder = request.getfixturevalue("realweights") if recipe["kind"] == "file" else None
    # WeightWatcher takes float64 weights as float32
    ours = derive(spectrum_of(build(recipe, folder).astype(np.float32)))
    assert list(ours) == NAMES
    assert ours["tail_reason"] == NO_FIT.get(name, "")
    for column, value in theirs.items():
        if column in {"status", "warning"} or (name in NO_FIT and column in FIT):
            continue
        least = {
            "sv_min": 1e-13 * ours["sv_max"],  # below it, a singular value is the rounding of the factorisation
            "entropy": 3e-9 * theirs["M"],  # it adds 1e-10 to every p: 1e-10 ln 1e10 where p is next to nothing
        }.get(column, 0.0)
        assert ours[column] == pytest.approx(float(value), rel=1e-6, abs=least, nan_ok=True), column
    if name in NO_FIT:
        assert all(math.isnan(ours[column]) for column in FIT)
    else:
        assert ours["warning"] == theirs["warning"]
        assert theirs["status"] == "success"
    further = {
        "clip_xmax": {"alpha": "clip_alpha", "D": "clip_D", "xmin": "clip_xmin", "num_fingers": "num_fingers"},
        "xmin_peak": {"alpha": "peak_alpha", "D": "peak_D", "xmin": "peak_xmin"},
        "random": {column: column for column in ("num_ERG_spikes", "detX_val", "ERG_gap")},
    }
    for option, columns in further.items():
        said = theirs | CASES[name][option]
        for column, own in columns.items():
            if (name in NO_FIT and own not in ("num_ERG_spikes", "detX_val")) or name in NO_FINGERS.get(option, ()):
                continue
            failed = own.startswith("peak") and said["alpha"] == -1  # WeightWatcher's word for no fit
            assert ours[own] == pytest.approx(math.nan if failed else said[column], rel=1e-6, nan_ok=True), own


@pytest.mark.parametrize("name", sorted(set(CASES) - set(NO_FIT)))
def test_spectra_as_scan_finds_them_give_weightwatchers_fit(name, request):
    recipe, theirs = CASES[name]["recipe"], CASES[name]["columns"]
    folder = request.getfixturevalue("realweights") if recipe["kind"] == "file" else None
    matrix = np.ascontiguousarray(build(recipe, folder).astype("<f4"))
    accumulator = CpuKernels().spectrum(DTYPES["F32"], *matrix.shape, None)
    raw = matrix.view(np.uint8).reshape(-1)
    accumulator.add(raw, len(matrix))
    if accumulator.look_again():
        accumulator.add(raw, len(matrix))
    ours = derive(Spectrum.of(accumulator))
    for column in sorted(set(theirs) - {"status", "warning", "sv_min", "entropy"}):
        assert ours[column] == pytest.approx(float(theirs[column]), rel=1e-6), column


def test_the_recorded_values_cover_what_they_claim():
    assert RECORDED["versions"]["weightwatcher"] == "0.7.7"
    assert {case["columns"]["warning"] for case in CASES.values()} == {"", "over-trained", "under-trained"}
    assert {case["columns"]["num_evals"] for case in CASES.values()} >= {8, 12, 19, 20, 21}
    assert set(NO_FIT) < set(CASES)
    ours = {
        name for name in NAMES if name.startswith(("clip", "peak", "tpl")) or name in ("num_fingers", "tail_reason")
    }
    case = CASES["heavy 1.5"]
    assert set(NAMES) - ours <= set(case["columns"]) | set(case["random"])
    assert {case["clip_xmax"].get("num_fingers") for case in CASES.values()} > {0}


@settings(deadline=None, max_examples=80)
@given(
    st.integers(LEAST, 400),
    st.sampled_from(["uniform", "pareto", "lognormal", "rounded"]),
    st.floats(0.3, 5.0),
    st.integers(0, 2**32 - 1),
)
def test_the_best_fit_is_that_of_the_plain_recipe(count, kind, spread, seed):
    random = np.random.default_rng(seed)
    values = {
        "uniform": lambda: random.uniform(0.1, 0.1 + spread, count),
        "pareto": lambda: 1 + random.pareto(spread, count),
        "lognormal": lambda: np.exp(spread * random.standard_normal(count)),
        "rounded": lambda: np.ceil(random.uniform(0, 40, count)),  # many equal ones
    }[kind]()
    values = np.sort(values)
    if values[0] == values[-1]:
        return
    alpha, distance, sigma, xmin = plainly(values)
    found = fit_tail(values)
    assert found.distance == pytest.approx(distance, rel=1e-9)
    # equal distances but for rounding: either may win
    again = values[-found.tail :]
    total = math.fsum(np.log(again / again[0]))
    assert found.alpha == pytest.approx(1 + (found.tail - (count < FEW)) / total, rel=1e-9)
    assert found.xmin == again[0]
    if found.xmin == xmin and found.tail == np.count_nonzero(values >= xmin):
        assert (found.alpha, found.sigma) == pytest.approx((alpha, sigma), rel=1e-9)


def test_many_values_are_as_exact_as_few():
    values = np.sort(np.random.default_rng(5).uniform(0, 2, 3000) ** 2) + 1e-4
    alpha, distance, sigma, xmin = plainly(values)
    found = fit_tail(values)
    assert (found.alpha, found.distance, found.sigma, found.xmin) == pytest.approx(
        (alpha, distance, sigma, xmin), rel=1e-10
    )


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.5])
def test_a_known_power_law_is_found(exponent):
    values = np.sort(1 + np.random.default_rng(8).pareto(exponent - 1, 5000))
    found = fit_tail(values)
    assert abs(found.alpha - exponent) < 4 * found.sigma
    assert found.distance < 1.63 / math.sqrt(found.tail)  # a true fit is rejected at the level of 1%
    assert found.tail > 500


def test_a_tail_above_a_bulk_begins_where_the_bulk_ends():
    random = np.random.default_rng(9)
    tail = 10 * (1 + random.pareto(1.5, 400))
    found = fit_tail(np.sort(np.concatenate([random.uniform(0.1, 9, 1600), tail])))
    assert 9 < found.xmin < 14
    assert abs(found.alpha - 2.5) < 4 * found.sigma


def test_fingers_are_cut_off_and_counted():
    random = np.random.default_rng(6)
    tail = np.sort(1 + random.pareto(1.0, 60))
    tail = tail[tail < 8]
    bulk = random.uniform(0.2, 1.0, 400)
    # alone, the bulk and a short tail have a large alpha; two far values make another tail, or none
    values = np.sort(np.concatenate([bulk, 1 + 0.001 * np.arange(200)]))
    with_fingers = np.sort(np.concatenate([values, [1e3, 2e3, 3e3]]))
    whole = fit_tail(with_fingers)
    fit, fingers = fit_without_fingers(with_fingers, whole)
    # the recipe of clip_xmax, by hand
    expected = (whole, 0)
    for cut in range(2, 10):
        again = fit_tail(with_fingers[:-cut])
        if again.alpha + 1 < whole.alpha:
            expected = (again, cut - 1)
            break
        if again.alpha <= 2:
            break
    assert (fit, fingers) == expected


@pytest.mark.parametrize(("alpha", "cut"), [(1.5, 0.2), (2.5, 0.05), (3.0, 1.0)])
def test_a_known_cut_off_is_found_and_told_from_a_plain_power_law(alpha, cut):
    random = np.random.default_rng(11)
    plain = 1 + random.pareto(alpha - 1, 400_000)
    values = np.sort(plain[random.uniform(size=len(plain)) < np.exp(-cut * (plain - 1))])[-400_000:]
    assert values[0] < 1.001
    found = fit_cutoff(values)
    assert found.alpha == pytest.approx(alpha, abs=0.05)
    assert found.scale == pytest.approx(cut, rel=0.1)
    assert found.chance < 1e-10


@pytest.mark.parametrize("kind", ["pareto", "uniform", "lognormal", "edge"])
def test_the_cut_off_is_the_most_likely_one(kind):
    random = np.random.default_rng(12)
    values = {
        "pareto": 1 + random.pareto(1.5, 300),
        "uniform": random.uniform(3, 4, 300),
        "lognormal": 1 + np.exp(random.standard_normal(300)),
        "edge": 2 - random.uniform(0, 1, 300) ** 2,
    }[kind]
    values = np.sort(values)
    ratios = values / values[0]

    def misfit(point):  # scipy's own integral and search
        alpha, cut = point
        if alpha < 1 or cut < 0:
            return math.inf
        total = quad(lambda t: math.exp((1 - alpha) * t - cut * math.exp(t)), 0, 60, epsabs=0, epsrel=1e-11, limit=500)
        return alpha * np.log(ratios).sum() + cut * ratios.sum() + len(ratios) * math.log(total[0])

    found = fit_cutoff(values)
    best = minimize(misfit, [1.5, 0.5], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000})
    assert misfit((found.alpha, found.scale * values[0])) <= best.fun + 1e-7
    assert found.alpha == pytest.approx(max(1.0, best.x[0]), abs=1e-3)
    plain = 1 + 1 / np.log(ratios).mean()
    likelihood = len(ratios) * math.log(plain - 1) - plain * np.log(ratios).sum()
    assert found.gain == pytest.approx(-best.fun - likelihood, abs=1e-6)
    assert found.chance == pytest.approx(chi2.sf(2 * found.gain, 1), rel=1e-9)


def test_nothing_is_cut_off_where_a_tail_is_heavier_than_a_power():
    values = np.sort(np.exp(np.minimum(np.abs(np.random.default_rng(13).standard_cauchy(500)), 200)))
    found = fit_cutoff(values)
    assert (found.scale, found.gain, found.chance) == (0.0, 0.0, 1.0)
    assert found.alpha == pytest.approx(1 + 1 / np.log(values / values[0]).mean(), rel=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", ["exponential", "uniform", "of two values", "normal", "of one above"])
@pytest.mark.parametrize("spread", 10.0 ** np.arange(-9, 4))
def test_tails_of_any_width_have_a_fit(spread, shape):
    """Narrow ones, an orthogonal matrix's, did end in an error of the solver."""
    random = np.random.default_rng(14)
    parts = {
        "exponential": random.exponential(size=200), "uniform": random.random(200),
        "of two values": 1.0 * (random.random(200) < 0.5), "normal": np.abs(random.standard_normal(200)),
        "of one above": np.eye(1, 200)[0],
    }  # fmt: skip
    found = fit_cutoff(np.sort(1 + spread * parts[shape]))
    assert found.alpha >= 1
    assert found.scale >= 0
    assert 0 <= found.chance <= 1
    if spread < 1e-5:
        assert (found.scale, found.gain, found.chance) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("count", [5, 40])
def test_the_trace_of_the_logarithm_is_counted_by_the_plain_product(count):
    values = np.sort(np.exp(np.random.default_rng(count).standard_normal(count)))
    row = derive(spectrum_with(np.sqrt(values)))
    scaled = values / values.mean()
    expected = next((k for k in range(1, count) if np.prod(scaled[-k:]) < 1), count)
    assert row["num_ERG_spikes"] == expected
    assert row["detX_val"] == pytest.approx(values[-expected], rel=1e-12)
    assert math.isnan(row["ERG_gap"]) if count < LEAST else row["ERG_gap"] == expected - row["num_pl_spikes"]


def test_a_product_beyond_float64_is_counted_all_the_same():
    values = np.sort(np.concatenate([np.full(900, 1e4) * np.linspace(1, 2, 900), np.full(900, 1e-6)]))
    row = derive(spectrum_with(np.sqrt(values)))
    logs = np.log(values / values.mean())
    assert row["num_ERG_spikes"] == next(k for k in range(1, 1800) if math.fsum(logs[-k:]) < 0)
    assert row["num_ERG_spikes"] > 900


def test_fewer_than_eight_values_are_no_tail():
    with pytest.raises(ValueError, match=r"^a tail of 7 values: expected at least 8$"):
        fit_tail(np.arange(1.0, 8.0))


def test_values_that_differ_by_rounding_are_no_tail():
    assert fit_tail(1 + np.arange(100) * 1e-15) is None
    assert fit_tail(np.arange(1.0, 9.0)) is not None


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("side", [10, 1000, 10_000])
def test_equal_eigenvalues_do_not_differ_whatever_rounding_leaves(side, part):
    error = part * 4 * side * 2.0**-53  # of singular values: twice of it is in the eigenvalues
    values = 1 + error * np.random.default_rng(side).uniform(-1, 1, side)
    assert derive(spectrum_with(values))["tail_reason"] == NO_FIT["equal values"]


def test_alpha_does_not_depend_on_scale_above_the_threshold_and_does_below():
    values = 1 + np.random.default_rng(3).pareto(1.0, 200)
    row, twice = derive(spectrum_with(values)), derive(spectrum_with(1024 * values))
    assert twice["alpha"] == pytest.approx(row["alpha"], rel=1e-12)
    assert twice["xmin"] == pytest.approx(1024**2 * row["xmin"], rel=1e-12)
    small = derive(spectrum_with(values * math.sqrt(THRESHOLD) / 1.5))
    assert small["xmin"] > THRESHOLD
    assert small["num_pl_spikes"] < 200


def test_a_large_alpha_does_not_overflow():
    values = 1e9 * (1 + 1e-4 * np.arange(300))
    row = derive(spectrum_with(values))
    assert row["alpha"] > 20
    assert math.isfinite(row["log_alpha_norm"])
    expected = row["alpha"] * math.log10(row["lambda_max"]) + math.log10(
        np.sum((values / values[-1]) ** (2 * row["alpha"]))
    )
    assert row["log_alpha_norm"] == pytest.approx(expected, rel=1e-12)
    assert row["warning"] == "under-trained"


def test_a_truncated_spectrum_has_norms_but_no_tail():
    whole = spectrum_of(np.random.default_rng(2).standard_normal((60, 90)))
    cut = derive(spectrum_with(whole.values[:20], rows=60, cols=90, square_sum=whole.square_sum, complete=False))
    row = derive(whole)
    assert cut["tail_reason"] == "only the largest 20 of 60 eigenvalues are known"
    known = {"norm", "log_norm", "spectral_norm", "log_spectral_norm", "stable_rank", "lambda_max", "sv_max"}
    known |= {"num_evals", "N", "M", "Q"}
    assert {name for name in NAMES if isinstance(cut[name], int | float) and not math.isnan(cut[name])} == known
    assert all(cut[name] == pytest.approx(row[name], rel=1e-12) for name in known)


@pytest.mark.parametrize(
    ("spectrum", "reason"),
    [
        (Spectrum.undefined(5, 9, "rows too long"), "rows too long"),
        (spectrum_with([math.nan] * 5, cols=9, reason="elements that are NaN"), "elements that are NaN"),
        (spectrum_with([], rows=5, cols=9), "no eigenvalues"),
    ],
)
def test_what_has_no_spectrum_says_so(spectrum, reason):
    row = derive(spectrum)
    assert row["tail_reason"] == reason
    assert row["warning"] == ""
    assert (row["N"], row["M"], row["num_evals"]) == (9, 5, 5)
    known = {"num_evals", "N", "M", "Q", "warning", "tail_reason"}
    assert all(math.isnan(row[name]) for name in NAMES if name not in known)


def test_squares_beyond_float64_are_no_tail_but_have_norms():
    row = derive(spectrum_with(1e160 * (1 + np.arange(30.0)), square_sum=math.inf))
    assert row["tail_reason"] == "eigenvalues beyond float64"
    assert row["spectral_norm"] == math.inf
    assert row["log_spectral_norm"] == pytest.approx(2 * (160 + math.log10(30)), rel=1e-12)
    assert row["stable_rank"] == pytest.approx(np.sum(np.arange(1, 31) ** 2) / 900, rel=1e-12)
    assert row["matrix_rank"] == 30
    assert 0.8 < row["entropy"] < 1


def test_values_are_plain_numbers():
    row = derive(spectrum_of(np.random.default_rng(4).standard_normal((30, 20))))
    assert {type(value) for value in row.values()} == {int, float, str}
    assert (row["N"], row["M"], row["Q"]) == (30, 20, 1.5)


def test_the_registry_knows_the_measure():
    assert find("tail").columns is COLUMNS
    assert find("tail").needs == {"spectrum"}


@pytest.mark.parametrize("shape", [(12, 4000), (4000, 12)])
def test_the_rank_is_counted_against_the_longer_side(shape):
    """numpy's rule: sigma > sigma_1 max(rows, cols) eps."""
    eps = np.finfo(np.float64).eps
    values = np.array([1, 0.5, 4001 * eps, 3999 * eps, 2000 * eps, 13 * eps, 11 * eps, *[0.5] * 5])
    matrix = np.zeros(shape)
    matrix[np.arange(12), np.arange(12)] = values
    row = derive(spectrum_with(values, rows=shape[0], cols=shape[1]))
    assert row["matrix_rank"] == np.linalg.matrix_rank(matrix) == 8
    assert row["rank_loss"] == 4
    shares = np.sort(values)[::-1] ** 2 / (values**2).sum()
    assert row["entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(8), rel=1e-12)
    assert (row["N"], row["M"], row["num_evals"], row["Q"]) == (4000, 12, 12, 4000 / 12)
