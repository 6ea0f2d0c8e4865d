"""The measures of a scan against plain restatements of their definitions in torch and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from array_matrix import ArrayMatrix
from matrix_oracles import FLOATS, channel_errors, cleaned, extreme, fours, sample

import netweight
from netweight.dtypes import Kind
from netweight.kernels.cpu import CpuKernels
from netweight.measures import basic_stats, quantization, sparsity
from netweight.measures.registry import find, needed
from netweight.passes.matrices import Scratch, gather
from netweight.statistics.values import INT8, OUTSIDE

SCRATCH = Scratch(CpuKernels())
MEASURED = [find(n) for n in ("basic_stats", "quantization", "sparsity")]


def rows_of(array, name):
    found = gather(ArrayMatrix(array, name), SCRATCH, needed(MEASURED))
    objects = {"values": found.values, "channels": found.channels}
    return [dict(m.derive(*(objects[t] for t in m.takes))) for m in MEASURED]


def leaves(row):
    """Nested mappings with dots between the names, as columns are named."""
    flat = {}
    for key, value in row.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def check_columns(rows):
    kinds = {"number": float, "integer": int, "text": str}
    for measure, row in zip(MEASURED, rows, strict=True):
        flat = leaves(row)
        assert list(flat) == [c.name for c in measure.columns]
        for column in measure.columns:
            if column.name != "distinct_values" or flat[column.name] is not None:
                assert type(flat[column.name]) is kinds[column.type], column.name


def plain(array):
    """The replaced tools' definitions, straight from the specification, on all elements at once."""
    x = torch.from_numpy(array.astype(np.float64)).flatten()
    q25, q75 = (float(np.percentile(x.numpy(), p)) for p in (25, 75))
    scale = float(x.abs().max()) / 127
    back = torch.clamp(torch.round(x / scale), -128, 127) * scale
    mse = float(((x - back) ** 2).mean())
    outside = [(x < q25 - k * (q75 - q25)) | (x > q75 + k * (q75 - q25)) for k in (1.5, 3.0)]
    return {
        "quantization_scale": scale,
        "quantization_mse": mse,
        "quantization_mae": float((x - back).abs().mean()),
        "cosine_similarity": float(torch.nn.functional.cosine_similarity(x, back, dim=0)),
        "sqnr_db": 10 * math.log10(float((x**2).mean()) / mse),
        "outlier_count": int(outside[0].sum()),
        "extreme_outlier_count": int(outside[1].sum()),
        "outlier_percentage": 100 * int(outside[0].sum()) / len(x),
        "extreme_outlier_percentage": 100 * int(outside[1].sum()) / len(x),
    }, {f"threshold_{t}": 100 * int((x.abs() <= t).sum()) / len(x) for t in (0.0, 1e-06, 0.0001, 0.01)}


COUNTED = {
    "quantization_scale",
    "outlier_count",
    "extreme_outlier_count",
    "outlier_percentage",
    "extreme_outlier_percentage",
}


def check_plain(array, quantized, sparse):
    expected, levels = plain(array)
    assert sparse["sparsity_levels"] == levels
    for key, value in expected.items():
        if key in COUNTED:
            assert quantized[key] == value, key
        else:
            assert quantized[key] == pytest.approx(value, rel=1e-10, abs=1e-12), key
    assert quantized["cosine_similarity"] <= 1


def check(array, name):
    rows = rows_of(array, name)
    check_columns(rows)
    basic, quantized, sparse = rows
    x = cleaned(array)
    flat, magnitude = x.reshape(-1), np.abs(x).reshape(-1)
    assert (basic["elements"], basic["min"], basic["max"]) == (flat.size, flat.min(), flat.max())
    assert basic["median"] == basic["q50"] == np.quantile(flat, 0.5)
    assert basic["q99"] == np.quantile(flat, 0.99)
    assert basic["zeros_percentage"] == sparse["zeros_percentage"] == 100 * (flat == 0).sum() / flat.size
    assert basic["sparsity"] == sparse["sparsity"] == (magnitude <= 1e-8).sum() / flat.size
    for key, value in {
        "mean": flat.mean(), "std": flat.std(), "var": flat.var(), "l1": magnitude.sum(), "mean_abs": magnitude.mean(),
        "l2": np.sqrt((flat**2).sum()), "maxabs": magnitude.max(),
    }.items():  # fmt: skip
        assert basic[key] == pytest.approx(value, rel=1e-9, abs=1e-14 * magnitude.max()), key
    assert sparse["magnitude_percentiles"] == {f"p{p}": np.quantile(magnitude, p / 100) for p in (10, 25, 50, 75, 90)}
    assert sparse["median_abs_weight"] == np.quantile(magnitude, 0.5)
    assert sparse["mean_abs_weight"] == basic["mean_abs"]
    for axis, what in ((1, "rows"), (0, "columns")):
        dead = int((np.abs(x) <= 1e-6).all(axis=axis).sum())
        assert (sparse[f"dead_{what}"], sparse[f"dead_{what}_percentage"]) == (dead, 100 * dead / x.shape[1 - axis])
    whole, two = fours(x)
    assert sparse["two_four_compliance"] == two / whole if whole else math.isnan(sparse["two_four_compliance"])
    if magnitude.any():
        assert quantized["dynamic_range"] == pytest.approx(magnitude.max() / magnitude.mean(), rel=1e-12)
        energy = (flat**2).sum()
        groups = (
            "per_channel_int8",
            "int4_g128_symmetric",
            "int4_g128_asymmetric",
            "int4_g32_symmetric",
            "int4_g32_asymmetric",
        )
        for group, error in zip(groups, channel_errors(x), strict=True):
            relative, sqnr = quantized[f"{group}_relative_error"], quantized[f"{group}_sqnr_db"]
            assert relative == pytest.approx(np.sqrt(error / energy), rel=2e-5, abs=2e-5), group
            assert sqnr == (math.inf if relative == 0 else pytest.approx(-20 * math.log10(relative), rel=1e-12))
    return basic, quantized, sparse


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "mixed", "offset"])
def test_kinds(name, kind):
    array = sample(kind, name, (48, 340), seed=1)
    _, quantized, sparse = check(array, name)
    if quantized["quantization_mse"] > 1e-25:
        check_plain(array, quantized, sparse)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (3, 2)], ids=str)
def test_shapes(name, shape):
    check(sample("normal", name, shape, seed=2), name)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3"])
@pytest.mark.parametrize("kind", ["constant", "zero", "ternary"])
def test_no_quantization_error(name, kind):
    basic, quantized, _ = check(sample(kind, name, (16, 256), seed=3), name)
    assert quantized["sqnr_db"] == math.inf
    assert (quantized["quantization_mse"], quantized["relative_error"]) == (0, 0)
    assert quantized["sqnr_reason"] == ("all elements are zero" if kind == "zero" else "quantized without error")
    if kind == "zero":
        assert quantized["recommendation"] == "nothing to lose: all elements are zero"
        assert math.isnan(quantized["cosine_similarity"])
        assert math.isnan(quantized["dynamic_range"])
        assert quantized["per_channel_int8_relative_error"] == 0
    else:
        assert quantized["cosine_similarity"] == 1
        assert (quantized["risk_level"] == "low") == (
            kind == "constant" or quantized["extreme_outlier_percentage"] < 0.1
        )
    assert basic["flag"] == ""


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", ["subnormal", "huge", "finite", "any"])
@pytest.mark.parametrize("seed", range(3))
def test_ends_of_the_types(name, kind, seed):
    rows = rows_of(extreme(kind, name, (9, 130), seed), name)
    check_columns(rows)
    basic, quantized, _ = rows
    assert not quantized["cosine_similarity"] > 1
    defined = [k for k, v in quantized.items() if isinstance(v, float) and not math.isnan(v)]
    if name != "F64":  # their squares fit in float64
        assert len(defined) == sum(isinstance(v, float) for v in quantized.values())
        assert not quantized["sqnr_reason"]
    elif kind in ("huge", "finite"):
        assert quantized["sqnr_reason"] == "sums of squares beyond float64"
        assert basic["flag"] == "overflow"
    elif kind == "subnormal":
        assert quantized["sqnr_reason"] == "squares below float64"


def test_nothing_and_nothing_finite():
    for array, flag, reason in [
        (np.zeros((0, 4), np.float32), "empty", "no finite element"),
        (np.full((3, 4), np.nan, np.float32), "nothing finite", "no finite element"),
    ]:
        basic, quantized, sparse = rows = rows_of(array, "F32")
        check_columns(rows)
        assert (basic["flag"], quantized["sqnr_reason"]) == (flag, reason)
        assert math.isnan(basic["mean"])
        assert math.isnan(basic["q50"])
        assert math.isnan(quantized["per_channel_int8_relative_error"])
        assert math.isnan(sparse["median_abs_weight"])
        assert (quantized["recommendation"], quantized["risk_level"]) == (
            ("mend first: NaN or infinite values", "broken")
            if array.size
            else ("none: no quantization error is defined", "unknown")
        )
    array = sample("normal", "BF16", (10, 10), seed=4)
    array[0, 0], array[1, 1] = np.nan, np.inf
    basic, quantized, _ = rows_of(array, "BF16")
    assert (quantized["recommendation"], quantized["risk_level"]) == ("mend first: NaN or infinite values", "broken")
    assert math.isfinite(quantized["sqnr_db"])
    assert (basic["flag"], basic["n_nan"], basic["n_inf"]) == ("non-finite", 1, 1)


@pytest.mark.parametrize(
    ("extreme_percentage", "sqnr", "risk"),
    [
        (0.0, math.inf, "low"), (0.09, 40.1, "low"), (0.09, 40.0, "medium"), (0.1, 50.0, "medium"),
        (1.0, 30.1, "medium"), (1.0, 30.0, "high"), (1.1, 50.0, "high"), (10.0, 50.0, "high"), (10.1, 50.0, "critical"),
        (math.nan, 50.0, "unknown"), (0.0, math.nan, "unknown"),
    ],
)  # fmt: skip
def test_advice(extreme_percentage, sqnr, risk):
    recommendation, level = quantization.advice(extreme_percentage, sqnr)
    assert level == risk
    assert recommendation


def test_cosines_are_never_above_one():
    rng = np.random.default_rng(5)
    for size in range(1, 200):
        array = (rng.standard_normal((1, size)) * 10.0 ** rng.integers(-20, 20)).astype(np.float32)
        assert rows_of(array, "F32")[1]["cosine_similarity"] <= 1


def test_needs_are_fine():
    assert not basic_stats.NEEDS & {INT8, OUTSIDE, "channels"}
    assert {n.split(".")[0] for n in needed(MEASURED)} == {"values", "channels"}
    assert not sparsity.NEEDS & {INT8, OUTSIDE}


def test_real_checkpoints(realweights):
    """int8 quantization, outliers and sparsity levels of every float tensor, equal to the plain definitions."""
    measured = 0
    for path in sorted(p for p in realweights.glob("*.*") if p.suffix in {".safetensors", ".tar"}):
        with netweight.open(path) as checkpoint:
            for tensor in checkpoint.values():
                if tensor.dtype.kind is not Kind.FLOAT or tensor.size < 2:
                    continue
                array = tensor.read()
                array = array.reshape(array.shape[0] if array.ndim > 1 else 1, -1)
                wide = array.astype(np.float64)
                if not np.isfinite(wide).all() or not wide.any():
                    continue
                _, quantized, sparse = check(array, tensor.dtype.name)
                if quantized["quantization_mse"]:
                    check_plain(array, quantized, sparse)
                measured += 1
    assert measured > 50


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3"])
@pytest.mark.parametrize("size", [0, 5, 300, 1 << 17])
def test_distinct_values(name, size):
    """numpy's number of them; both zeros are one, NaN and infinities are none. Large float32 is not counted."""
    values = np.random.default_rng(size).standard_normal(size)
    if size > 5:
        values[:4] = 0.0, -0.0, np.nan, values[4]
    array = values.astype(np.dtype(netweight.dtypes.DTYPES[name].to_numpy())).reshape(1, size)
    found = rows_of(array, name)[0]["distinct_values"]
    plain_values = array.astype(np.float64)
    expected = len(np.unique(plain_values[np.isfinite(plain_values)] + 0.0))
    assert found == (None if name in {"F32", "F64"} and size > 1 << 16 else expected)
