"""The form of an update, on changes whose form is known: never a wrong one, and a rank that is the adapter's."""

from __future__ import annotations

import fine_tunes as ft
import numpy as np
import pytest

from netweight.dtypes import DTYPES
from netweight.measures.update import COLUMNS, FORMS, derive
from netweight.statistics.task_vector import block_of


def updated(change, kind="F32", shape=(256, 512), of=None):
    """The fields of one matrix that `change` made another."""
    rng = np.random.default_rng(3)
    rows = np.exp(0.3 * rng.normal(size=(shape[0], 1)))
    base = ft.stored(rng.normal(0, 0.02, shape) * rows, of or kind)
    model = ft.stored(change(base.astype(np.float64), rng), kind)
    return derive(block_of(base.astype(np.float32), model.astype(np.float32), DTYPES[kind]))


def dora(rank, size=0.05):
    def change(w, rng):
        return ft.lora(rank, size)(w, rng) * (1 + 0.05 * rng.normal(size=(len(w), 1)))

    return change


def test_every_column_is_there():
    fields = updated(ft.lora(4))
    assert list(fields) == [c.name for c in COLUMNS]
    assert fields["update_form"] in FORMS


@pytest.mark.parametrize("kind", ft.TYPES)
@pytest.mark.parametrize("rank", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("shape", [(256, 512), (512, 256)])
def test_rank_of_an_adapter(kind, rank, shape):
    fields = updated(ft.lora(rank), kind, shape)
    assert (fields["update_form"], fields["update_rank"]) == ("low rank", rank)
    assert fields["update_scaled"] is None


@pytest.mark.parametrize("kind", ft.TYPES)
@pytest.mark.parametrize("of", ft.TYPES)
def test_rank_of_an_adapter_that_is_saved_in_another_type(kind, of):
    fields = updated(ft.lora(8), kind, of=of)
    assert (fields["update_form"], fields["update_rank"]) == ("low rank", 8)


@pytest.mark.parametrize("kind", ft.TYPES)
def test_rank_of_an_adapter_that_scales_rows(kind):
    fields = updated(dora(8), kind)
    assert (fields["update_form"], fields["update_rank"], fields["update_scaled"]) == ("low rank", 8, "rows")


@pytest.mark.parametrize("kind", ft.TYPES)
@pytest.mark.parametrize("size", [3e-4, 1e-3, 3e-3, 1e-2, 0.1])
@pytest.mark.parametrize("rank", [4, 16])
def test_a_small_adapter_has_its_rank_or_is_unclear(kind, size, rank):
    fields = updated(ft.lora(rank, size), kind)
    assert fields["update_form"] in ("low rank", "unclear")
    assert fields["update_rank"] in (rank, None)
    assert fields["update_form"] == "low rank" or kind == "BF16", "only bfloat16 hides as much"


@pytest.mark.parametrize("kind", ft.TYPES)
@pytest.mark.parametrize("size", [3e-4, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("change", [ft.noise, *(lambda s, a=a: ft.power_law(a, s) for a in (0.5, 1.0, 1.5, 2.0))])
def test_a_full_change_is_never_of_low_rank(kind, size, change):
    fields = updated(change(size), kind)
    assert fields["update_form"] in ("full", "unclear")
    if kind == "F32":
        assert fields["update_form"] == "full"
    if fields["update_form"] == "unclear":
        assert "errors of rounding" in fields["update_reason"]


@pytest.mark.parametrize("kind", ft.TYPES)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("size", [1e-3, 0.05])
def test_a_mask_is_told_from_rounding(kind, share, size):
    fields = updated(ft.masked(share, size), kind)
    assert fields["update_form"] == "sparse"
    assert fields["update_density"] == pytest.approx(100 * share, rel=0.35, abs=0.7)


@pytest.mark.parametrize("size", [3e-5, 1e-4, 3e-4])
def test_most_values_of_a_small_change_are_rounded_away_and_it_is_no_mask(size):
    fields = updated(ft.noise(size), "BF16", (512, 1024))
    assert (fields["update_form"], fields["update_reason"]) == ("unclear", "the errors of rounding hide it")


def test_few_rows_that_changed_are_sparse():
    def change(w, rng):
        return np.where(rng.random((len(w), 1)) < 0.2, ft.noise()(w, rng), w)

    fields = updated(change)
    assert fields["update_form"] == "sparse"
    assert fields["update_block"][0] < fields["update_rows"] == 256


@pytest.mark.parametrize("kind", ft.TYPES)
@pytest.mark.parametrize("factor", [0.9, 0.5, 1.25, -1.0])
def test_a_scaled_copy(kind, factor):
    fields = updated(ft.times(factor), kind)
    assert (fields["update_form"], fields["update_scaled"]) == ("scaled", "all")
    assert fields["update_scale"] == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_or_columns_that_are_scaled(axis):
    def change(w, rng):
        return w * np.exp(0.2 * rng.normal(size=(len(w), 1) if axis == 0 else (1, w.shape[1])))

    fields = updated(change)
    assert (fields["update_form"], fields["update_scaled"]) == ("scaled", ("rows", "columns")[axis])
    assert fields["update_scale"] is None


@pytest.mark.parametrize("kind", ft.TYPES)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_pruned_copy(kind, share):
    assert updated(ft.pruned(share), kind)["update_form"] == "pruned"


@pytest.mark.parametrize("kind", ft.TYPES)
def test_four_bits_and_back(kind):
    assert updated(ft.int4, kind)["update_form"] == "quantised"


def test_eight_bits_and_back_are_nearly_as_flat_as_noise():
    def change(w, rng):
        groups = w.reshape(-1, 128)
        step = np.abs(groups).max(axis=1, keepdims=True) / 127
        return (np.rint(groups / step) * step).reshape(w.shape)

    fields = updated(change)
    assert fields["update_form"] == "full"
    assert fields["update_effective_rank"] > 0.8 * fields["update_noise_rank"], "rows are of unequal size"


@pytest.mark.parametrize(("of", "kind"), [("F32", "BF16"), ("F32", "F16"), ("F16", "BF16"), ("BF16", "F16")])
def test_a_copy_in_another_precision(of, kind):
    assert updated(lambda w, rng: w, kind, of=of)["update_form"] in ("rounded", "unchanged")


def test_effective_ranks():
    """Of a known spectrum; and of random values, whose mean Page gives."""
    w = np.zeros((32, 64))
    d = np.zeros_like(w)
    d[np.arange(32), np.arange(32)] = [1, 0.5] + [2.0**-i for i in range(2, 32)]
    fields = derive(block_of(w, w + d, DTYPES["F64"]))
    p = np.square(np.diag(d))
    p /= p.sum()
    assert fields["update_effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    rng = np.random.default_rng(0)
    for shape in ((200, 300), (300, 200), (256, 256)):
        squares = np.square(np.linalg.svd(rng.normal(size=shape), compute_uv=False))
        p = squares / squares.sum()
        fields = derive(block_of(np.ones(shape), np.ones(shape) + rng.normal(size=shape), DTYPES["F64"]))
        assert fields["update_noise_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=0.01)


def test_matrices_that_are_too_small_or_not_finite():
    fields = updated(ft.noise(), shape=(8, 512))
    assert (fields["update_form"], fields["update_reason"]) == ("unclear", "only 8 rows or columns")
    fields = updated(lambda w, rng: np.where(w == w.max(), np.nan, w))
    assert (fields["update_form"], fields["update_reason"]) == ("unclear", "values that are NaN or infinite")
    assert updated(lambda w, rng: w)["update_form"] == "unchanged"
