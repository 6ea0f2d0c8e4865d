"""Small parameters: all statistics against numpy, and against those of bins and stretches."""

from __future__ import annotations

import numpy as np
import pytest

from netweight.statistics.difference import PROBABILITIES
from netweight.statistics.few_differences import of_few


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("case", ["normal", "sparse", "same", "not finite", "one"])
def test_against_numpy(kind, case) -> None:
    rng = np.random.default_rng(0)
    n = 1 if case == "one" else 5000
    base = rng.standard_normal(n).astype(kind)
    models = [base + (0.01 * rng.standard_normal(n)).astype(kind) for _ in range(2)]
    if case == "sparse":
        models[0][::2] = base[::2]
    if case == "same":
        models[0] = base.copy()
    if case == "not finite":
        base[5], models[0][7], models[1][9], models[1][11] = np.nan, np.inf, -np.inf, np.nan
    found = of_few(base, [models[0], None, models[1]], pictured=True)
    with np.errstate(invalid="ignore"):
        differences = [model - base for model in models]
    for number, d in zip((0, 2), differences, strict=True):
        held = d[np.isfinite(d)].astype(np.float64)
        one = found.distribution(number)
        assert (one.n, one.n_inf, one.n_nan) == (n, np.isinf(d).sum(), np.isnan(d).sum())
        assert one.n_zero == (held == 0).sum()
        assert one.quantiles == tuple(np.quantile(held, PROBABILITIES))
        m = one.moments
        assert (m.n, m.minimum, m.maximum) == (len(held), held.min(), held.max())
        assert m.average == pytest.approx(held.mean(), rel=1e-12, abs=1e-18)
        assert m.l1 == pytest.approx(np.abs(held).sum(), rel=1e-12)
        assert m.l2 == pytest.approx(np.sqrt((held**2).sum()), rel=1e-12)
        assert m.std == pytest.approx(held.std(), rel=1e-9)
        assert sum(found.picture(number).counts) == len(held)
    assert found.distribution(1).n == 0
    assert found.distribution(1).quantiles == ()
    both = np.isfinite(differences[0]) & np.isfinite(differences[1])
    a, b = (d[both].astype(np.float64) for d in differences)
    gram = found.gram()
    assert gram[0, 2] == gram[2, 0] == pytest.approx((a * b).sum(), rel=1e-12, abs=1e-18)
    assert (gram[1] == 0).all()
    finite = base[np.isfinite(base)].astype(np.float64)
    assert found.base_l2() == pytest.approx(np.sqrt((finite**2).sum()), rel=1e-12)


def test_of_nothing() -> None:
    none = np.zeros(0, np.float32)
    found = of_few(none, [none], pictured=True)
    assert found.distribution(0).n == 0
    assert found.picture(0).counts == ()
    only_nan = of_few(np.full(3, np.nan, np.float32), [np.ones(3, np.float32)])
    assert (only_nan.distribution(0).n_nan, only_nan.distribution(0).quantiles, only_nan.base_l2()) == (3, (), 0.0)
