"""`unchanged_percentage` is of all elements: those that are NaN or infinite are not unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_what_is_not_finite_counts_among_all(tmp_path, dtype):
    base = np.array([1, 2, 3, 4, 5, 6, 7, np.nan], dtype)
    tuned = np.array([1, 2, 3, 9, np.nan, np.inf, -np.inf, np.nan], dtype)
    for name, values in (("base", base), ("tuned", tuned)):
        (tmp_path / name).mkdir()
        save_file({"w": values}, tmp_path / name / "model.safetensors")
    found = netweight.delta(tmp_path / "base", [tmp_path / "tuned"])
    row = dict(zip(found.frame.columns, found.frame.rows[0], strict=True)) if found.frame.rows else {}
    row = {getattr(key, "name", key): value for key, value in row.items()}
    assert (row["n_nan"], row["n_inf"]) == (2, 2)
    assert row["unchanged_percentage"] == 100 * 3 / 8
    assert found.models[0].summary["n_nan"] == 2
