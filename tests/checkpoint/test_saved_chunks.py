"""Chunks that ranks save in safetensors files, against the whole tensors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight
from netweight.errors import FormatError

WHOLE = {
    "model.embed_tokens.weight": np.arange(70, dtype=np.float32).reshape(10, 7),
    "model.layers.0.mlp.up_proj.weight": np.arange(96, dtype=np.float32).reshape(8, 12),
    "model.norm.weight": np.ones(5, np.float32),
}


def write(folder, ranks: int = 4, cut: int = 0):
    """Every matrix cut along an axis; what is left over goes to no rank, as of a vector that one rank saves."""
    folder.mkdir(exist_ok=True)
    for rank in range(ranks):
        held, places = {}, {}
        for name, array in WHOLE.items():
            axis = min(cut, array.ndim - 1)
            step = -(-array.shape[axis] // ranks)
            piece = np.take(array, range(rank * step, min(array.shape[axis], (rank + 1) * step)), axis)
            if array.ndim == 1:
                piece = array if rank == 0 else array[:0]
            if piece.size:
                held[name] = np.ascontiguousarray(piece)
                places[name] = {
                    "saved_offsets": [rank * step * (array.ndim > 1) if i == axis else 0 for i in range(array.ndim)]
                }
        about = {"DCP_SHARDING_INFO": json.dumps(places), "DCP_VERSION": "1.0", "format": "pt"}
        save_file(held, folder / f"shard-{rank:05}-model-00001-of-00001.safetensors", about)
    return folder


@pytest.mark.parametrize("cut", [0, 1])
def test_the_chunks_of_all_ranks_are_the_model(tmp_path, cut):
    with netweight.open(write(tmp_path / "m", cut=cut)) as checkpoint:
        assert checkpoint.keys() == WHOLE.keys()
        for name, array in WHOLE.items():
            np.testing.assert_array_equal(checkpoint[name].read(), array)
        assert "2 tensors are put together of what ranks saved in 4 files" in checkpoint.notes[0]


def test_a_rank_alone_is_no_model(tmp_path):
    folder = write(tmp_path / "m")
    with pytest.raises(FormatError, match=rf"has one rank's chunks of tensors; name the folder of all: '{folder}'"):
        netweight.open(folder / "shard-00000-model-00001-of-00001.safetensors")
    (folder / "shard-00001-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(FormatError, match="chunks of 3 ranks, up to 3, and none of rank 1"):
        netweight.open(folder)
    alone = tmp_path / "other.safetensors"
    (folder / "shard-00002-model-00001-of-00001.safetensors").rename(alone)
    with pytest.raises(FormatError, match=r"do not fill its shape \[9, 7\] once; the files of all ranks make"):
        netweight.open(alone)


def test_a_whole_model_says_the_same_of_its_places(tmp_path):
    """One rank: every tensor begins at 0, and there is nothing to say."""
    with netweight.open(write(tmp_path / "m", ranks=1)) as checkpoint:
        assert checkpoint.notes == ()
        np.testing.assert_array_equal(checkpoint["model.norm.weight"].read(), WHOLE["model.norm.weight"])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ("[1]", "is no JSON object"),
        ("{", "is no JSON object"),
        ('{"w": {}}', "does not say where the chunk of 'w' lies; expected 2 whole numbers"),
        ('{"w": {"saved_offsets": [0]}}', "expected 2 whole numbers"),
        ('{"w": {"saved_offsets": [0, -1]}}', "expected 2 whole numbers"),
        ('{"w": {"saved_offsets": [0, 1.0]}}', "expected 2 whole numbers"),
        ('{"v": {"saved_offsets": [0, 0]}}', "expected 2 whole numbers"),
        ('{"w": {"saved_offsets": [0, 4611686018427387903]}}', "do not fill"),
    ],
)
def test_places_that_are_none(tmp_path, places, message):
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "m.safetensors", {"DCP_SHARDING_INFO": places})
    with pytest.raises(FormatError, match=message):
        netweight.open(tmp_path / "m.safetensors")
