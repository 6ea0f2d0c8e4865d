"""The form of what differs between two matrices: rounded, quantised, of low rank, rescaled, or trained."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from netweight.statistics.kinship.form import is_rounded, low_rank, on_grid, rescaled, rounding_levels

BF16 = ml_dtypes.bfloat16


def rng(seed=0):
    return np.random.default_rng(seed)


def matrix(seed=0, shape=(48, 128), scale=0.05):
    return (scale * rng(seed).standard_normal(shape)).astype("f4")


def bf16(x):
    return x.astype(BF16).astype("f4")


@pytest.mark.parametrize("rank", [1, 4, 8, 16])
@pytest.mark.parametrize("rounded", [False, True])
def test_the_rank_of_an_adapter_is_told_through_rounding(rank, rounded) -> None:
    chance = rng(rank)
    x = bf16(matrix(1)) if rounded else matrix(1)
    update = 0.02 * chance.standard_normal((48, rank)) @ chance.standard_normal((rank, 128)) / np.sqrt(rank)
    y = (x + update).astype("f4")
    found = low_rank(x, bf16(y) if rounded else y, ("BF16", "BF16") if rounded else ("F32", "F32"))
    assert found.rank == rank
    assert (found.left is not None) == (rank == 1)


def test_training_has_no_low_rank() -> None:
    x = bf16(matrix(2))
    everything = bf16(x + 0.01 * matrix(3))
    assert low_rank(x, everything, ("BF16", "BF16")).rank is None
    few = x.copy()
    few[:3] += 0.1
    assert low_rank(x, few, ("F32", "F32")).rank is None  # three rows that changed have rank 3, and are no adapter
    assert low_rank(x, x, ("BF16", "BF16")).rank == 0
    broken = x.copy()
    broken[0, 0] = np.nan
    assert low_rank(x, broken, ("F32", "F32")).rank is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Q8_0", "8 bit"), ("Q4_0", "4 bit"), ("Q4_1", "4 bit"), ("MXFP4", "4 bit")],
)
@pytest.mark.parametrize("saved", [np.dtype("f4"), np.dtype(BF16)])
def test_values_of_llama_cpps_types_are_known_for_what_they_are(name, kind, saved) -> None:
    x = matrix(4, (64, 128))
    kept = getattr(GGMLQuantizationType, name)
    y = dequantize(quantize(x, kept), kept).astype(saved).astype("f4").reshape(x.shape)
    found = rounding_levels(x, y)
    assert found is not None
    assert found[0] == kind
    assert found[1] == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-5)


def test_whole_steps_of_a_row_are_8_bit_also_where_only_a_part_of_the_row_is_held() -> None:
    whole = matrix(5, (32, 512))
    step = np.abs(whole).max(axis=1, keepdims=True) / 127
    coded = (np.round(whole / step) * step).astype("f4")
    assert rounding_levels(whole[:, :128], coded[:, :128]) is not None


@pytest.mark.parametrize("size", [0.003, 0.02, 0.2])
def test_training_is_no_quantisation(size) -> None:
    x = matrix(6, (64, 128))
    chance = rng(7)
    for moved in (
        chance.standard_normal(x.shape) * size * 0.05,
        np.sign(chance.standard_normal(x.shape)) * size * 0.05,  # Adam's first steps
    ):
        assert rounding_levels(x, (x + moved).astype("f4")) is None
    assert rounding_levels(x, x) is None


def test_a_cast_is_a_rounding_of_every_element() -> None:
    x = matrix(8)
    assert is_rounded(x, bf16(x), "BF16")
    assert is_rounded(x, x.astype("f2").astype("f4"), "F16")
    assert not is_rounded(x, bf16(x), "F16")
    moved = bf16(x)
    moved[3, 3] = np.nextafter(moved[3, 3], np.float32(1))
    assert not is_rounded(x, moved, "BF16")
    assert on_grid(bf16(x), "BF16") == 1
    assert on_grid(x, "BF16") < 0.02
    assert on_grid(np.zeros(4, "f4"), "BF16") == 1


def test_factors_of_rows_or_columns_are_told_from_training() -> None:
    x = matrix(9)
    factors = rng(1).uniform(0.5, 2, (48, 1)).astype("f4")
    assert rescaled(x, bf16(x * factors))
    assert rescaled(x, x * rng(1).uniform(0.5, 2, 128).astype("f4"))
    assert not rescaled(x, x)
    assert not rescaled(x, (1.1 * x).astype("f4") + 0.1 * matrix(3))
    assert not rescaled(x, x + matrix(10))
