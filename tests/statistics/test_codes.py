"""Codes: values rounded by encoders of their own packages are told with their group, and no other values are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from netweight.dtypes import DTYPES
from netweight.statistics.codes import TILE, codes_of, steps_of

STORED = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


def looked_at(w, stored):
    """The verdict on eight rows and eight tiles of `w` in this type."""
    kept = np.ascontiguousarray(w.astype(STORED[stored]))
    steps = steps_of(kept.view(np.uint8).reshape(-1), DTYPES[stored], kept.shape[1])
    rows = steps[np.linspace(0, len(w) - 1, 8).astype(int)]
    tiles = [steps[i : i + TILE, j : j + TILE] for i in range(0, len(w) - TILE + 1, 256) for j in range(0, 512, 256)]
    return codes_of(rows, lambda: tiles, DTYPES[stored])


def by_scale(w, group, top):
    """Whole steps up to `top` of the largest value of every `group` columns."""
    parts = w.reshape(len(w), -1, group)
    step = np.abs(parts).max(axis=2, keepdims=True) / top
    return (np.rint(parts / step) * step).reshape(w.shape)


def asymmetric(w, group, levels):
    parts = w.reshape(len(w), -1, group)
    low, high = parts.min(axis=2, keepdims=True), parts.max(axis=2, keepdims=True)
    step = (high - low) / levels
    zero = np.rint(-low / step)
    return ((np.clip(np.rint(parts / step) + zero, 0, levels) - zero) * step).reshape(w.shape)


def as_fp8(w, scale):
    codes = torch.from_numpy((w / scale).astype(np.float32)).to(torch.float8_e4m3fn)
    return codes.to(torch.float32).numpy() * scale


def tiles_of(w):
    """The largest magnitude of every tile, spread over it."""
    largest = np.abs(w).reshape(len(w) // TILE, TILE, -1, TILE).max(axis=(1, 3))
    return np.repeat(np.repeat(largest, TILE, 0), TILE, 1)


def of_gguf(w, name):
    kind = GGMLQuantizationType[name]
    return dequantize(quantize(w.astype(np.float32), kind), kind)


CODES = {
    "int8 by tensor": (lambda w: by_scale(w.reshape(1, -1), w.size, 127).reshape(w.shape), "matrix", 8),
    "int8 by row": (lambda w: by_scale(w, w.shape[1], 127), "row", 8),
    "int8 in 128": (lambda w: by_scale(w, 128, 127), "128 columns", 8),
    "Q8_0": (lambda w: of_gguf(w, "Q8_0"), "32 columns", 8),
    "Q5_1": (lambda w: of_gguf(w, "Q5_1"), "32 columns", 5),
    "Q4_0": (lambda w: of_gguf(w, "Q4_0"), "32 columns", 4),
    "Q4_1": (lambda w: of_gguf(w, "Q4_1"), "32 columns", 4),
    "int4 in 128": (lambda w: by_scale(w, 128, 7), "128 columns", 4),
    "int4 in 128, asymmetric": (lambda w: asymmetric(w, 128, 15), "128 columns", 4),
    "int3 in 64": (lambda w: by_scale(w, 64, 3), "64 columns", 3),
    "int6 in 16": (lambda w: by_scale(w, 16, 31), "16 columns", 6),
    "FP8 by row": (lambda w: as_fp8(w, np.abs(w).max(axis=1, keepdims=True) / 448), "row", 8),
    "FP8 by tile": (lambda w: as_fp8(w, tiles_of(w) / 448), "tile", 8),
}


def weights(kind, shape=(512, 1024)):
    rng = np.random.default_rng(len(kind) if isinstance(kind, str) else kind)
    if kind == "laplace":
        return rng.laplace(0, 0.02, shape)
    w = rng.normal(0, 0.02, shape)
    if kind == "rows of many sizes":
        w *= np.exp(rng.normal(0, 1, (shape[0], 1)))
    elif kind == "low rank and noise":
        w += 0.1 * rng.normal(size=(shape[0], 4)) @ rng.normal(size=(4, shape[1]))
    elif kind == "a tenth left":
        w *= rng.random(shape) < 0.1
    return w


@pytest.mark.parametrize("stored", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("code", CODES)
def test_codes_are_told_with_their_group(code, stored):
    rounded, group, bits = CODES[code]
    for seed in (1, 2):
        found = looked_at(rounded(weights(seed)), stored)
        assert found.group == group, found
        assert max(found.values, found.effective) <= 2**bits
        assert max(found.values, found.effective) > 2 ** (bits - 2)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", ["normal", "laplace", "rows of many sizes", "low rank and noise", "a tenth left"])
def test_other_values_are_of_no_code(kind, stored):
    rng = np.random.default_rng(5)
    w = weights(kind)
    columns = w.astype(ml_dtypes.bfloat16).astype(np.float64) * rng.uniform(0.5, 2, w.shape[1])
    rows = w.astype(ml_dtypes.bfloat16).astype(np.float64) * rng.uniform(0.5, 2, (len(w), 1))
    mean = (w + weights(kind)[::-1]).astype(ml_dtypes.bfloat16).astype(np.float64) / 2
    for one in (w, w.astype(np.float16).astype(np.float64), columns, rows, 1.37 * rows, mean):
        found = looked_at(one, stored)
        assert (found.group, found.values, found.effective) == ("", None, None), found


def test_uniform_numbers_of_a_generator_are_of_no_code():
    """Torch's own have 24 bits and steps of one size, so that some are equal by chance."""
    w = torch.empty(512, 1024).uniform_(-0.02, 0.02, generator=torch.Generator().manual_seed(0)).numpy()
    assert looked_at(w, "F32").group == ""


@pytest.mark.parametrize(
    ("narrow", "bits"), [("float8_e4m3fn", 4), ("float8_e5m2", 3), ("bfloat16", 8), ("float16", 11)]
)
def test_significant_bits(narrow, bits):
    w = weights(3) * 10
    kept = w.astype(getattr(ml_dtypes, narrow, narrow)).astype(np.float64)
    found = looked_at(np.where(np.random.default_rng(1).random(w.shape) < 0.003, w, kept), "F32")  # a few others
    assert found.significant == bits
    assert found.group == ""


def test_a_code_whose_scales_are_powers_of_two_is_told_by_its_bits():
    found = looked_at(of_gguf(weights(1), "MXFP4"), "BF16")
    assert found.significant == 2


def test_repeated_and_mirrored_rows_are_of_no_code():
    rng = np.random.default_rng(1)
    half = rng.normal(size=(512, 512))
    assert looked_at(np.concatenate([half, half[:, ::-1]], axis=1), "F32").group == ""
    assert looked_at(np.repeat(rng.normal(size=(1, 1024)), 512, axis=0), "F32").group == ""


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_constants_say_nothing(value):
    found = looked_at(np.full((256, 512), value), "BF16")
    assert (found.significant, found.group) == (None, None)


@pytest.mark.parametrize("levels", [[-1, 1], [-1, 0, 1], [-3, -1, 1, 3]])
def test_binary_and_ternary_values_are_of_a_code(levels):
    rng = np.random.default_rng(0)
    w = rng.choice(levels, (256, 512)) * rng.uniform(0.5, 2, (256, 1))
    assert looked_at(w, "BF16").group == "row"
    assert looked_at(rng.choice(levels, (256, 512)) * 0.3, "BF16").group == "matrix"


def test_few_elements_do_not_tell():
    found = looked_at(np.random.default_rng(0).normal(size=(8, 24)), "BF16")
    assert found.group is None
