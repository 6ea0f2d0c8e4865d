"""Where tensors lie in a model's files: cut by size, in order, to the byte as safetensors has it."""

import json

import pytest

from netweight.dtypes import DTYPES
from netweight.output.safetensors_file import TensorEntry
from netweight.output.shards import index_json, plan_shards

F32, BF16, U8 = DTYPES["F32"], DTYPES["BF16"], DTYPES["U8"]


def entries(*sizes: int) -> dict[str, TensorEntry]:
    return {f"t{i}": TensorEntry(U8, (size,)) for i, size in enumerate(sizes)}


@pytest.mark.parametrize(
    ("sizes", "limit", "groups"),
    [
        ((10, 10, 10), 30, [3]),
        ((10, 10, 10), 29, [2, 1]),
        ((10, 10, 10), 20, [2, 1]),
        ((10, 10, 10), 1, [1, 1, 1]),
        ((5, 100, 5, 5), 20, [1, 1, 2]),  # one larger than the limit is alone
        ((0, 0, 20, 0, 1), 20, [4, 1]),
        ((), 20, [0]),
    ],
)
def test_cut_by_size_in_order(sizes, limit, groups):
    shards = plan_shards(entries(*sizes), limit)
    assert [len(s.entries) for s in shards] == groups
    assert [name for s in shards for name in s.entries] == list(entries(*sizes))


def test_names_as_loaders_know_them():
    assert [s.name for s in plan_shards(entries(1, 1), 2)] == ["model.safetensors"]
    assert [s.name for s in plan_shards(entries(1, 1, 1), 2)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_offsets_and_sizes_follow_the_header():
    (shard,) = plan_shards(
        {"a": TensorEntry(BF16, (3, 5)), "b": TensorEntry(F32, ()), "c": TensorEntry(U8, (0, 7))}, 99
    )
    length = int.from_bytes(shard.header[:8], "little")
    assert len(shard.header) == 8 + length
    header = json.loads(shard.header[8:])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert {name: e["data_offsets"][0] + 8 + length for name, e in header.items()} == shard.offsets
    assert shard.size == len(shard.header) + 34


def test_metadata_of_ones_own():
    (shard,) = plan_shards(entries(1), 1, {"made": "here"})
    assert json.loads(shard.header[8:])["__metadata__"] == {"made": "here"}
    (shard,) = plan_shards(entries(1), 1, {})
    assert "__metadata__" not in json.loads(shard.header[8:])


def test_the_index_of_several_files():
    assert index_json(plan_shards(entries(3, 4), 10)) is None
    shards = plan_shards({"weiß": TensorEntry(F32, (2,)), "b": TensorEntry(U8, (5,))}, 8)
    assert json.loads(index_json(shards)) == {
        "metadata": {"total_size": 13},
        "weight_map": {"weiß": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }


def test_what_cannot_be():
    with pytest.raises(ValueError, match="limit of a shard: expected 1 byte or more, got 0"):
        plan_shards(entries(1), 0)
    with pytest.raises(ValueError, match="a tensor cannot be named '__metadata__'"):
        plan_shards({"__metadata__": TensorEntry(U8, (1,))}, 5)
