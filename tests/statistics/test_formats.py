"""Encoders of formats against what their own packages make of the same matrices, and the sums of errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import gguf
import libgguf
import ml_dtypes
import numpy as np
import pytest
from format_matrices import MATRICES

from netweight.dtypes import DTYPES
from netweight.statistics.formats.encoders import Rows
from netweight.statistics.formats.errors import ErrorSums, Largest, sampled_rows, widened
from netweight.statistics.formats.ggml import coded
from netweight.statistics.formats.table import FORMATS, MLX

FOLDER = Path(__file__).with_name("recorded")
RECORDED = {
    name: {**errors, **json.loads((FOLDER / "mlx_formats.json").read_text(encoding="utf-8"))[name]}
    for name, errors in json.loads((FOLDER / "formats.json").read_text(encoding="utf-8")).items()
}
BY_KEY = {one.key: one for one in (*FORMATS, *MLX)}
GGML = [one for one in FORMATS if one.ggml]


def largest_of(matrix, name="F32"):
    found = Largest(DTYPES[name], *matrix.shape)
    found.add(np.ascontiguousarray(matrix).reshape(-1).view(np.uint8), len(matrix))
    return found


def rows_of(matrix):
    tiles = largest_of(matrix).tiles
    return Rows(matrix, float(tiles.max()), tiles[np.arange(len(matrix)) // 128])


def squares(matrix, decoded):
    return ((matrix.astype(np.float64) - decoded) ** 2).sum(axis=1)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("key", list(RECORDED["normal"]))
def test_errors_are_those_of_the_formats_own_packages(name, key):
    matrix = MATRICES[name]
    decoded = BY_KEY[key].decoded(rows_of(matrix))
    assert decoded.dtype == np.float32
    ours = squares(matrix, decoded).reshape(-1, 8).sum(axis=1)
    theirs = np.array(RECORDED[name][key])
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12 * theirs.max())


@pytest.mark.parametrize("name", MATRICES)
def test_mxfp4_loses_what_llama_cpps_does(name):
    """Where a value lies between two codes either may be taken: the error is the same."""
    matrix = MATRICES[name]
    ours, theirs = BY_KEY["mxfp4"].decoded(rows_of(matrix)), coded(matrix, "MXFP4")
    assert squares(matrix, ours) == pytest.approx(squares(matrix, theirs), rel=1e-9)


@pytest.mark.parametrize("one", GGML, ids=lambda one: one.key)
def test_llama_cpps_types_are_decoded_as_its_own_package_does(one):
    matrix = MATRICES["heavy"]
    kind = gguf.GGMLQuantizationType[one.ggml]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert (one.block, one.bits) == (block, 8 * size / block)
    raw = libgguf.quantize_rows(matrix, libgguf.GGMLQuantizationType[one.ggml])
    assert (one.decoded(rows_of(matrix)) == gguf.quants.dequantize(raw, kind)).all()


def test_q8_0_is_what_its_definition_says():
    matrix = MATRICES["normal"]
    groups = matrix.reshape(-1, 32)
    scale = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
    codes = np.round(groups * np.where(scale > 0, np.float32(1) / scale, 0))  # no value lies between two here
    plain = (codes * scale.astype(np.float16).astype(np.float32)).reshape(matrix.shape)
    assert squares(matrix, BY_KEY["q8_0"].decoded(rows_of(matrix))) == pytest.approx(squares(matrix, plain), rel=1e-3)


def test_importance_moves_the_error_away_from_important_columns():
    matrix = MATRICES["heavy"]
    weights = np.ones(256, np.float32)
    weights[::4] = 100
    plain, aware = (BY_KEY["q3_k"].decoded(rows_of(matrix), w) for w in (None, weights))
    lost = [float(((matrix - x)[:, ::4] ** 2).sum()) for x in (plain, aware)]
    assert lost[1] < 0.8 * lost[0]


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
def test_the_largest_of_every_block_however_rows_come(name):
    random = np.random.default_rng(1)
    kind = DTYPES[name].to_numpy()
    matrix = (random.standard_normal((300, 200)) * 5).astype(kind)
    found = Largest(DTYPES[name], 300, 200)
    raw, width = matrix.view(np.uint8).reshape(300, -1), 0
    for count in (1, 126, 3, 128, 42):
        found.add(np.ascontiguousarray(raw[width : width + count]).reshape(-1), count)
        width += count
    plain = np.abs(matrix.astype(np.float32))
    expected = [[plain[r : r + 128, c : c + 128].max() for c in (0, 128)] for r in (0, 128, 256)]
    assert (found.tiles == np.array(expected, np.float32)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen(bad):
    matrix = np.ones((5, 7), ml_dtypes.bfloat16)
    matrix[3, 2] = bad
    assert not np.isfinite(largest_of(matrix, "BF16").tiles).all()


@pytest.mark.parametrize(
    ("rows", "cols", "count"), [(10, 4096, 10), (4096, 4096, 32), (70000, 65536, 16), (300, 400, 300)]
)
def test_sampled_rows_are_spread_evenly_and_all_are_taken_where_asked(rows, cols, count):
    numbers = sampled_rows(rows, cols, exact=False)
    assert len(numbers) == len(set(map(int, numbers))) == count
    assert 0 <= min(numbers) < rows / count <= rows - max(numbers) + rows / count
    steps = np.diff(np.asarray(numbers))
    assert steps.max() - steps.min() <= 1
    assert len(sampled_rows(rows, cols, exact=True)) == rows


def test_a_sample_is_off_by_no_more_than_it_says():
    random = np.random.default_rng(2)
    formats = [BY_KEY[key] for key in ("int4_sym", "fp8_tensor", "nf4")]
    away = []
    for _ in range(30):
        matrix = (random.standard_t(5, (2000, 128)) * np.exp(0.5 * random.standard_normal((2000, 1)))).astype(
            np.float32
        )
        tiles = largest_of(matrix).tiles
        whole, part = (ErrorSums(formats, tiles, 2000) for _ in range(2))
        whole.add(matrix, np.arange(2000))
        numbers = random.choice(2000, 200, replace=False)
        part.add(matrix[numbers], numbers)
        exact, sampled = whole.finish(), part.finish()
        assert set(exact.deviation.values()) == {0.0}
        for one in formats:
            wrong = sampled.relative(one.key) / exact.relative(one.key) - 1
            away.append(wrong / sampled.deviation[one.key])
    assert 0.6 < np.std(away) < 1.6


def test_sums_do_not_depend_on_how_rows_are_divided():
    matrix = MATRICES["grown"]
    tiles = largest_of(matrix).tiles
    once, often = (ErrorSums(FORMATS, tiles, 256) for _ in range(2))
    once.add(matrix, np.arange(256))
    for first in range(0, 256, 60):
        often.add(matrix[first : first + 60], range(first, min(256, first + 60)))
    a, b = once.finish(), often.finish()
    assert a.errors == pytest.approx(b.errors, rel=1e-12)
    assert (a.rows, a.mean_square) == (256, pytest.approx(float((matrix.astype(float) ** 2).mean()), rel=1e-12))


def test_rows_are_widened_from_every_type():
    values = np.array([[1.5, -2.0], [0.25, 3.0]])
    for name in ("BF16", "F16", "F32", "F64", "F8_E4M3"):
        raw = values.astype(DTYPES[name].to_numpy()).reshape(-1).view(np.uint8)
        assert (widened(raw, DTYPES[name], 2) == values).all()
