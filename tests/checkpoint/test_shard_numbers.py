"""Sets of numbered shards: counted from one, as many as their names say."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight
from netweight.errors import FormatError


def shards(folder, numbers, total, stem="model"):
    for number in numbers:
        tensors = {f"w{number}": np.full(2, number, np.float32)}
        save_file(tensors, folder / f"{stem}-{number:05}-of-{total:05}.safetensors")
    return folder


@pytest.mark.parametrize("stem", ["model", "weights"])
def test_a_whole_set(tmp_path, stem):
    with netweight.open(shards(tmp_path, [1, 2, 3], 3, stem)) as checkpoint:
        assert list(checkpoint) == ["w1", "w2", "w3"]


@pytest.mark.parametrize(
    ("numbers", "total", "missing"),
    [([1, 3], 3, "00002-of-00003"), ([2, 3], 3, "00001-of-00003"), ([2], 2, "00001-of-00002")],
)  # fmt: skip
def test_sets_that_lack_one(tmp_path, numbers, total, missing):
    with pytest.raises(FormatError, match=f"1 of {total} shards are missing: 'model-{missing}"):
        netweight.open(shards(tmp_path, numbers, total))


@pytest.mark.parametrize(
    ("numbers", "total", "beyond"), [([1, 2, 3], 2, 3), ([0, 1, 2], 2, 0), ([0, 1], 2, 0), ([0, 1, 2], 3, 0)]
)
def test_sets_with_a_number_beyond(tmp_path, numbers, total, beyond):
    said = f"expected {total} shards, numbered from 1, and these are beyond: 'model-{beyond:05}-of-{total:05}"
    with pytest.raises(FormatError, match=said):
        netweight.open(shards(tmp_path, numbers, total))


def counted(folder, numbers, width=2):
    for number in numbers:
        np.savez(folder / f"weights.{number:0{width}}.npz", **{f"w{number}": np.full(2, number, np.float32)})
    return folder


@pytest.mark.parametrize("width", [2, 5])
def test_arrays_of_mlx_are_counted_from_zero(tmp_path, width):
    with netweight.open(counted(tmp_path, range(11), width)) as checkpoint:
        assert {name: checkpoint[name].read().tolist() for name in checkpoint} == {f"w{i}": [i, i] for i in range(11)}


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([1, 2], r"1 shards are missing: 'weights\.00\.npz'"),
        ([1], r"1 shards are missing: 'weights\.00\.npz'"),
        ([0, 2], r"1 shards are missing: 'weights\.01\.npz'"),
        ([3], r"3 shards are missing: 'weights\.00\.npz', 'weights\.01\.npz'"),
    ],
)
def test_arrays_of_mlx_that_lack_one(tmp_path, numbers, told):
    with pytest.raises(FormatError, match=told):
        netweight.open(counted(tmp_path, numbers))
