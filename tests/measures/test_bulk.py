"""The law of Marchenko and Pastur: against WeightWatcher's own values, and against matrices whose law is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import fmin
from test_tail import spectrum_of, spectrum_with
from weightwatcher_matrices import build

from netweight.measures.bulk import COLUMNS, derive
from netweight.statistics.bulk import _density, _nelder_mead
from netweight.statistics.spectrum import Spectrum

RECORDED = json.loads(Path(__file__).with_name("weightwatcher_values.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORDED["cases"]}
NAMES = [column.name for column in COLUMNS if column.name != "bulk_reason"]

# WeightWatcher returns the first sigma that it tries where no law can lie on the density
NO_LAW = {"heavy 1.5", "trained, a few spikes", "trained, bfloat16", "trained, float16", "trained, float64"}
NO_LAW |= {"12 eigenvalues", "rank 1"}


@pytest.mark.parametrize("name", CASES)
def test_columns_are_those_of_weightwatcher(name, request):
    recipe, theirs = CASES[name]["recipe"], CASES[name]["random"]
    folder = request.getfixturevalue("realweights") if recipe["kind"] == "file" else None
    ours = derive(spectrum_of(build(recipe, folder).astype(np.float32)))
    if name in NO_LAW or name == "zero":
        assert ours["bulk_reason"] == (
            "all elements are zero" if name == "zero" else "no law of Marchenko and Pastur lies on the density"
        )
        assert all(math.isnan(ours[column]) for column in NAMES)
        return
    assert ours["bulk_reason"] == ""
    for column in NAMES:
        assert ours[column] == pytest.approx(theirs[column], rel=1e-6), column


@pytest.mark.parametrize("shape", [(400, 400), (300, 900), (900, 300), (100, 3000)])
def test_noise_is_a_bulk_without_spikes_and_planted_directions_are_spikes(shape):
    random = np.random.default_rng(1)
    noise = 0.03 * random.standard_normal(shape)
    row = derive(spectrum_of(noise))
    long, short = max(shape), min(shape)
    assert row["num_spikes"] == 0
    assert row["bulk_max"] == pytest.approx((0.03 * (math.sqrt(long) + math.sqrt(short))) ** 2, rel=0.1)
    assert row["sigma_mp"] == pytest.approx(1.0, abs=0.05)
    u, v = (
        np.linalg.qr(random.standard_normal((shape[0], 5)))[0],
        np.linalg.qr(random.standard_normal((shape[1], 5)))[0],
    )
    spiked = derive(spectrum_of(noise + (u * (2 * 0.03 * (math.sqrt(long) + math.sqrt(short)))) @ v.T))
    assert spiked["num_spikes"] == 5
    assert spiked["mp_softrank"] < 0.5


def test_a_heavy_spectrum_that_the_grid_does_not_resolve_says_so():
    values = np.concatenate([np.linspace(0.9, 1.1, 300), [60.0]])
    row = derive(spectrum_with(values))
    assert row["bulk_reason"] == ""  # square: singular values are fitted
    row = derive(spectrum_with(values, cols=600))
    assert row["bulk_reason"].startswith("the largest eigenvalue is 278 times the mean: the grid of the fit does not")
    assert all(math.isnan(row[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("spectrum", "reason"),
    [
        (Spectrum.undefined(9, 19, "rows too long"), "rows too long"),
        (spectrum_with([1.0] * 9, cols=19, complete=False, rows=30), "only the largest 9 of 19 eigenvalues are known"),
        (spectrum_with(1e160 * np.arange(1, 31.0), square_sum=math.inf), "eigenvalues beyond float64"),
        (spectrum_with([1.0, 2.0, 3.0]), "3 eigenvalues; a fit needs 8"),
    ],
)
def test_what_has_no_bulk_says_why(spectrum, reason):
    row = derive(spectrum)
    assert row["bulk_reason"] == reason
    assert all(math.isnan(row[name]) for name in NAMES)


def test_the_density_is_the_plain_mean_of_triangles():
    random = np.random.default_rng(2)
    values = np.sort(np.concatenate([random.uniform(0, 3, 200), [1.0, 1.0, 2.5]]))
    points = np.linspace(0, 3.5, 101)
    away = np.abs(points[:, None] - values)
    plain = (np.maximum(0, 1 - away / 0.1) / 0.1).mean(axis=1)
    assert _density(values, points) == pytest.approx(plain, abs=1e-11)


@pytest.mark.parametrize("start", [0.3, 1.0, 1.7, 5.0])
def test_the_search_is_scipys(start):
    def bumps(x):
        x = float(np.ravel(x)[0])
        return 1000.0 if x > 4 else (x - 1.2) ** 2 + 0.3 * math.sin(9 * x)

    assert _nelder_mead(bumps, start) == pytest.approx(float(fmin(bumps, start, disp=False)[0]), rel=1e-12)
