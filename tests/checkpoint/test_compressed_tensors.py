"""Weights of compressed-tensors against what the package makes of them: recorded by version 0.20.1 and, for what newer
ones do not read, 0.14.0 (recorded/compressed_tensors_record.py). Bit for bit, in the type that its `decompress` gives.
"""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from ends_checks import check_ends

import netweight
from netweight.checkpoint.tensors.ends import ends_of
from netweight.errors import FormatError, ReadError

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

RECORDED = Path(__file__).parent / "recorded"
LAYER = "model.layers.0.mlp.up_proj."


def recorded(name):
    found = []
    with safe_open(RECORDED / name, "pt") as file:
        for number, about in enumerate(json.loads(file.metadata()["cases"])):
            names = [key for key in file.keys() if key.startswith(f"{number}/")]  # noqa: SIM118 - it is no mapping
            parts = {key.partition("/")[2]: file.get_tensor(key) for key in names}
            found.append((about["name"], about["config"], parts))
    return found


CASES = recorded("compressed_tensors.safetensors") + recorded("compressed_tensors_old.safetensors")
BY_NAME = {name: (config, parts) for name, config, parts in CASES}


def write(folder, parts, config, layer=LAYER):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {layer + name: tensor for name, tensor in parts.items() if name != "expected"}, folder / "model.safetensors"
    )
    about = {"model_type": "llama"} | ({"quantization_config": config} if config else {})
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def bits(tensor):
    """Patterns, every NaN the same."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return torch.where(tensor.float().isnan(), torch.tensor(-1).to(whole), tensor.view(whole)).numpy()


def as_torch(tensor, read):
    name = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn"}[tensor.dtype.name]
    return torch.from_numpy(read.view(f"u{read.dtype.itemsize}").copy()).view(getattr(torch, name))


def some_of(tensor, start, count):
    out = np.empty(count, tensor.dtype.to_numpy())
    tensor.read_into(start, out.view(np.uint8).data)
    return as_torch(tensor, out)


@pytest.mark.parametrize("name", BY_NAME)
def test_as_the_package_decompresses(name, tmp_path):
    """All of it, and from anywhere; by another process too, as far as pickle goes."""
    config, parts = BY_NAME[name]
    expected = parts["expected"]
    with netweight.open(write(tmp_path, parts, config)) as checkpoint:
        assert list(checkpoint) == [f"{LAYER}weight"]
        tensor = checkpoint[f"{LAYER}weight"]
        read = as_torch(tensor, tensor.read())
        assert (tuple(expected.shape), expected.dtype) == (tensor.shape, read.dtype)
        assert np.array_equal(bits(read), bits(expected))
        if tensor.stored.endswith(("sparse", "2:4")):  # without a scale
            assert ends_of(tensor) is None
        else:
            check_ends(tensor)
        again = pickle.loads(pickle.dumps(tensor))
        flat, rng = expected.reshape(-1), random.Random(3)
        for _ in range(20):
            start = rng.randrange(tensor.size)
            count = rng.randint(1, tensor.size - start)
            assert np.array_equal(bits(some_of(again, start, count)), bits(flat[start : start + count]))
        held = {LAYER + part for part in parts if part != "expected"}
        assert {part.name for part in tensor.stored_parts} == held
        stretches = list(tensor.bytes_of(0, tensor.size))
        assert all(stretch.offset + stretch.size <= stretch.source.size for stretch in stretches)
        assert len(checkpoint.notes) == (2 if "2:4 float8" in name else 1)


def test_labels(tmp_path):
    labels = set()
    for number, (config, parts) in enumerate(BY_NAME.values()):
        with netweight.open(write(tmp_path / str(number), parts, config)) as checkpoint:
            labels.add(checkpoint[f"{LAYER}weight"].stored)
    assert {
        "int4 g32", "int4 channel", "int4 tensor", "int4 g16 with zero points", "int8 channel with zero points",
        "NVFP4", "MXFP4", "MXFP6", "MXFP8 1x32", "F8_E4M3 8x16", "I8 1x32", "BF16 sparse", "F16 2:4",
        "F8_E4M3 2:4 1x20",
    } < labels  # fmt: skip


@pytest.mark.parametrize("name", [name for name in BY_NAME if "symmetric" in name and "int8 " not in name])
def test_without_config_the_stored_shape_says_the_bits(name, tmp_path):
    """Where there is one number of bits that fits it; else the error says what is missing."""
    _, parts = BY_NAME[name]
    if "weight_packed" not in parts:
        return
    folder = write(tmp_path, parts, None)
    width, cols = parts["weight_packed"].shape[-1], parts["expected"].shape[-1]
    if sum(-(-cols * n // 32) == width for n in range(1, 9)) > 1:
        with pytest.raises(
            FormatError, match=r"expected a shape and, in config.json's config_groups, a number of bits"
        ):
            netweight.open(folder)
        return
    with netweight.open(folder) as checkpoint:
        tensor = checkpoint[f"{LAYER}weight"]
        assert np.array_equal(bits(as_torch(tensor, tensor.read())), bits(parts["expected"]))


def case(start):
    config, parts = next(held for name, held in BY_NAME.items() if name.startswith(start))
    return json.loads(json.dumps(config)), dict(parts)


def opened(tmp_path, parts, config):
    return netweight.open(write(tmp_path, parts, config))


SHIFTED = "int8 channel [7, 42] torch.bfloat16 symmetric=False"
GROUPS = "int4 group [9, 64] torch.bfloat16 symmetric=False"


@pytest.mark.parametrize(
    ("part", "other", "message"),
    [
        ("weight_scale", None, "has no scales"),
        ("weight_scale", torch.ones(9, 3, dtype=torch.bfloat16), "a number of bits that fit"),
        ("weight_scale", torch.ones(2, 9, dtype=torch.bfloat16), "do not fit; expected F32, F16 or BF16"),
        ("weight_scale", torch.ones(9, dtype=torch.bfloat16), "do not fit; expected F32, F16 or BF16"),
        ("weight_scale", torch.ones(9, 2, dtype=torch.float64), "do not fit; expected F32, F16 or BF16"),
        ("weight_packed", torch.zeros(9, 9, dtype=torch.int32), "a number of bits that fit"),
        ("weight_packed", torch.zeros(8, dtype=torch.int32), "do not fit; expected F32, F16 or BF16"),
        ("weight_packed", torch.zeros(9, 32, dtype=torch.int64), r"I64 \[9, 32\] has zero points"),
        (
            "weight_zero_point",
            torch.zeros(1, 2, dtype=torch.int32),
            r"has zero points I32 \[1, 2\]; expected I8 \[9, 2\]",
        ),
        ("weight_zero_point", torch.zeros(2, 2, dtype=torch.int8), "has zero points"),
        ("weight_zero_point", torch.zeros(9, 2), "has zero points F32"),
        ("weight_g_idx", torch.zeros(63, dtype=torch.int32), "says the group of every column"),
        ("weight_g_idx", torch.zeros(64), "says the group of every column"),
        ("weight", torch.zeros(9, 64), "is stored twice"),
    ],
)
def test_parts_of_packed_integers_that_do_not_fit(part, other, message, tmp_path):
    config, parts = case(GROUPS)
    parts.pop(part, None)
    if other is not None:
        parts[part] = other
    with pytest.raises(FormatError, match=message):
        opened(tmp_path, parts, config)


def test_zero_points_that_are_not_packed(tmp_path):
    config, parts = case(GROUPS)
    weight = parts["weight_packed"]
    codes = torch.stack([weight >> (4 * n) & 15 for n in range(8)], -1).reshape(9, 64) - 8
    zeros = torch.arange(18).reshape(9, 2) % 16 - 8
    parts["weight_zero_point"] = zeros.to(torch.int8)
    scales = parts["weight_scale"]
    expected = (codes - zeros.repeat_interleave(32, 1)).bfloat16() * scales.repeat_interleave(32, 1)
    with opened(tmp_path, parts, config) as checkpoint:
        tensor = checkpoint[f"{LAYER}weight"]
        assert np.array_equal(bits(as_torch(tensor, tensor.read())), bits(expected))


def test_a_shape_that_is_not_that_of_the_codes(tmp_path):
    """Where config's group size says how many columns there are, the stored shape is looked at when the weight is."""
    config, parts = case(GROUPS)
    parts["weight_shape"] = torch.tensor([9, 60])
    tensor = opened(tmp_path, parts, config)[f"{LAYER}weight"]
    with pytest.raises(ReadError, match=r"weight_shape' says \[9, 60\], expected \[9, 64\]"):
        tensor.read()


@pytest.mark.parametrize("index", [[0] * 64, [5] * 32 + [0] * 32, [-2] * 32 + [0] * 32])
def test_groups_of_columns_that_are_none(index, tmp_path):
    config, parts = case(GROUPS)
    parts["weight_g_idx"] = torch.tensor(index, dtype=torch.int32)
    tensor = opened(tmp_path, parts, config)[f"{LAYER}weight"]
    with pytest.raises(ReadError, match="weight_g_idx' does not say 2 groups of 32 columns each"):
        tensor.read()


def test_codes_that_do_not_cross_words_are_refused(tmp_path):
    """As version 0.17 packs 3 bits: ten codes in a word."""
    config, parts = case("int3 group [13, 32] torch.bfloat16 symmetric=True")
    parts["weight_packed"] = torch.zeros(13, 4, dtype=torch.int32)
    with pytest.raises(FormatError, match=r"I32 \[13, 4\], 1 groups in a row"):
        opened(tmp_path, parts, config)


def test_bits_of_several_schemes(tmp_path):
    """Every tensor speaks for itself: 4 and 8 bits, packed floats, plain ones, in one model."""
    names = [
        "int4 channel", "int8 channel [5, 61]", "nvfp4 [5, 48]", "float8 channel", "mxfp4 [7, 32]",
        SHIFTED,
    ]  # fmt: skip
    held, groups, expected = {"norm.weight": torch.ones(3)}, {}, {"norm.weight": torch.ones(3)}
    for number, name in enumerate(names):
        config, parts = case(name)
        groups[f"group_{number}"] = config["config_groups"]["group_0"]
        held |= {f"l{number}.{part}": tensor for part, tensor in parts.items() if part != "expected"}
        expected[f"l{number}.weight"] = parts["expected"]
    config = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    with netweight.open(write(tmp_path, held, config, layer="")) as checkpoint:
        assert set(checkpoint) == set(expected)
        for name, tensor in checkpoint.items():
            assert np.array_equal(bits(as_torch(tensor, tensor.read())), bits(expected[name])), name


@pytest.mark.parametrize(
    ("start", "part", "other", "message"),
    [
        ("nvfp4", "weight_global_scale", torch.ones(5), "do not fit; expected U8"),
        ("nvfp4", "weight_global_scale", torch.ones(1, dtype=torch.bfloat16), "do not fit; expected U8"),
        ("nvfp4", "weight_scale", torch.ones(5, 2).to(torch.float8_e4m3fn), "do not fit; expected U8"),
        ("nvfp4", "weight_scale", torch.ones(5, 3), "do not fit; expected U8"),
        ("nvfp4", "weight_scale", None, "has no scales"),
        ("nvfp4", "weight_zero_point", torch.zeros(5, 3, dtype=torch.int8), "has zero points"),
        ("nvfp4", "weight", torch.zeros(5, 48), "is stored twice"),
        ("mxfp4", "weight_global_scale", torch.ones(1), "do not fit; expected U8"),
        ("mxfp4", "weight_scale", torch.zeros(5, 3, dtype=torch.uint8), "do not fit; expected U8"),
        ("mxfp8", "weight_scale", torch.zeros(5, 3, dtype=torch.uint8), "do not fit; expected one scale for all"),
        ("float8 channel", "weight_zero_point", torch.zeros(7, 1), "expected scales alone"),
        ("float8 block", "weight_scale", torch.ones(3, 3), "do not fit; expected one scale for all"),
        ("float8 channel", "weight_scale", torch.ones(7, 1, dtype=torch.float64), "do not fit"),
        (SHIFTED, "weight_zero_point", torch.zeros(7, 2, dtype=torch.int8), "has zero points"),
        (SHIFTED, "weight_scale", torch.ones(7, 9), "do not fit; expected F32"),
        ("sparse [7, 20]", "bitmask", torch.zeros(7, 2, dtype=torch.uint8), "do not fit; expected a bit"),
        ("sparse [7, 20]", "row_offsets", torch.zeros(6, dtype=torch.int64), "do not fit; expected a bit"),
        ("sparse [7, 20]", "shape", torch.tensor([7, 20, 1]), "do not fit; expected a bit"),
        ("sparse [7, 20]", "weight", torch.zeros(7, 20), "is stored twice"),
        ("2:4 [7, 20]", "compressed", torch.zeros(7, 8), "do not fit; expected a bit"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(start, part, other, message, tmp_path):
    config, parts = case(start)
    parts.pop(part, None)
    if other is not None:
        parts[part] = other
    with pytest.raises(FormatError, match=message):
        opened(tmp_path, parts, config)


@pytest.mark.parametrize("start", ["sparse [7, 20]", "2:4 [7, 20]"])
def test_sparse_weights_whose_bits_are_wrong(start, tmp_path):
    config, parts = case(start)
    parts["bitmask"] = parts["bitmask"].clone()
    parts["bitmask"][3, 0] ^= 1
    with opened(tmp_path, parts, config) as checkpoint:
        tensor = checkpoint[f"{LAYER}weight"]
        with pytest.raises(ReadError, match=r"row 3 has .* numbers, and another number of bits"):
            tensor.read()
        assert np.array_equal(bits(some_of(tensor, 0, 60)), bits(parts["expected"].reshape(-1)[:60]))


@pytest.mark.parametrize("offsets", [[0, 5, 3, 6, 7, 8, 9], [-1, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 10**9]])
def test_sparse_weights_whose_offsets_are_wrong(offsets, tmp_path):
    config, parts = case("sparse [7, 20]")
    parts["row_offsets"] = torch.tensor(offsets)
    tensor = opened(tmp_path, parts, config)[f"{LAYER}weight"]
    with pytest.raises(ReadError, match="row_offsets' does not rise to"):
        tensor.read()


def test_a_sparse_shape_that_is_not_that_of_the_bits(tmp_path):
    config, parts = case("2:4 [7, 20]")
    parts["shape"] = torch.tensor([[7], [18]])
    tensor = opened(tmp_path, parts, config)[f"{LAYER}weight"]
    with pytest.raises(ReadError, match=r"shape' says \[7, 18\], expected \[7, 20\]"):
        tensor.read()


def test_sparse_weights_of_the_oldest_versions(tmp_path):
    """`X.weight.compressed`; of a layer without a name `weight.compressed`."""
    config, parts = case("sparse [7, 20]")
    for number, layer in enumerate(("", "a.")):
        folder = write(tmp_path / str(number), parts, config, layer=f"{layer}weight.")
        with netweight.open(folder) as checkpoint:
            assert list(checkpoint) == [f"{layer}weight"]


def test_marlin_is_refused_by_its_name(tmp_path):
    config, parts = case(GROUPS)
    config["format"] = "marlin-24"
    with pytest.raises(FormatError, match="has the format 'marlin-24', laid out for one GPU kernel and not decoded"):
        opened(tmp_path, parts, config)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("input_scale", "a scale of a layer's inputs, no weight"),
        ("input_global_scale", "a scale of a layer's inputs, no weight"),
        ("input_zero_point", "a zero point of a layer's inputs, no weight"),
        ("output_scale", "a scale of a layer's outputs, no weight"),
        ("k_scale", "a scale of the attention's cache, no weight"),
    ],
)
def test_what_belongs_to_inputs_is_left_out(last, reason, tmp_path):
    config, parts = case(GROUPS)
    parts[last] = torch.ones(1)
    with opened(tmp_path, parts, config) as checkpoint:
        assert list(checkpoint) == [f"{LAYER}weight"]
        assert [(entry.name, entry.reason) for entry in checkpoint.skipped] == [(LAYER + last, reason)]


def test_scales_of_the_cache_lie_in_the_layer_above(tmp_path):
    config, parts = case(GROUPS)
    held = {f"a.k_proj.{part}": tensor for part, tensor in parts.items() if part != "expected"}
    held |= {"a.k_scale": torch.ones(1), "b.k_scale": torch.ones(1)}
    with netweight.open(write(tmp_path, held, config, layer="")) as checkpoint:
        assert set(checkpoint) == {"a.k_proj.weight", "b.k_scale"}


def test_transformed_weights_are_said_to_be_so(tmp_path):
    config, parts = case(GROUPS)
    config["transform_config"] = {"config_groups": {"u": {"type": "hadamard"}}}
    with opened(tmp_path, parts, config) as checkpoint:
        assert "weights are read as they are stored, transformed" in checkpoint.notes[1]


def test_config_of_a_model_of_several_parts(tmp_path):
    """Kimi-K2.5 has its quantization_config in text_config; without it these bits would not be known."""
    config, parts = case("int1 group")
    parts.pop("weight_shape")
    folder = write(tmp_path, parts, None)
    (folder / "config.json").write_text(json.dumps({"text_config": {"quantization_config": config}}))
    with netweight.open(folder) as checkpoint:
        tensor = checkpoint[f"{LAYER}weight"]
        assert np.array_equal(bits(as_torch(tensor, tensor.read())), bits(parts["expected"]))


def test_config_of_the_oldest_versions(tmp_path):
    """Everything in `compression_config`, and blocks as words."""
    config, parts = case("float8 block [21, 29]")
    config["config_groups"]["group_0"]["weights"]["block_structure"] = "8x16"
    folder = write(tmp_path, parts, None)
    (folder / "config.json").write_text(json.dumps({"compression_config": {"quantization_config": config}}))
    with netweight.open(folder) as checkpoint:
        tensor = checkpoint[f"{LAYER}weight"]
        assert np.array_equal(bits(as_torch(tensor, tensor.read())), bits(parts["expected"]))


@pytest.mark.parametrize("groups", [None, [], {"a": None}, {"a": {"weights": {"num_bits": "4", "group_size": [1]}}}])
def test_a_config_that_says_nothing_is_none(groups, tmp_path):
    """The stored shape says the bits then, if it can; here it can, of 42 columns in 6 words."""
    config, parts = case("int4 channel [11, 42]")
    config["config_groups"] = groups
    if groups and groups["a"]:
        with pytest.raises(FormatError, match="a number of bits that fit"):
            opened(tmp_path, parts, config)
        return
    with opened(tmp_path, parts, config) as checkpoint:
        tensor = checkpoint[f"{LAYER}weight"]
        assert np.array_equal(bits(as_torch(tensor, tensor.read())), bits(parts["expected"]))


def large(rows, cols, group):
    made = torch.Generator().manual_seed(rows)
    codes = torch.randint(-8, 8, (rows, cols), generator=made)
    lanes = (codes + 8).reshape(rows, -1, 8) << (4 * torch.arange(8))
    words = lanes.sum(-1).to(torch.int64)
    packed = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    scales = (torch.rand(rows, cols // group, generator=made) * 0.02).bfloat16()
    return packed, scales, codes.bfloat16() * scales.repeat_interleave(group, 1)


def test_more_than_is_computed_at_a_time(tmp_path):
    packed, scales, expected = large(300, 1024, 128)
    config, _ = case(GROUPS)
    config["config_groups"]["group_0"]["weights"] |= {"group_size": 128, "symmetric": True}
    with opened(tmp_path, {"weight_packed": packed, "weight_scale": scales}, config) as checkpoint:
        tensor = checkpoint[f"{LAYER}weight"]
        assert np.array_equal(bits(as_torch(tensor, tensor.read())), bits(expected))


@pytest.mark.parametrize("cols", [1024, 16])
def test_what_a_thread_holds_is_what_it_says(cols, tmp_path):
    """With zero points and groups of columns, of long rows and of short ones."""
    import tracemalloc

    rows, group = (1 << 20) // cols, 8
    packed, scales, _ = large(rows, cols, group)
    zeros = torch.zeros(rows // 8, cols // group, dtype=torch.int32)
    index = (torch.arange(cols) % (cols // group)).int()
    config, _ = case(GROUPS)
    config["config_groups"]["group_0"]["weights"] |= {"group_size": group}
    parts = {"weight_packed": packed, "weight_scale": scales, "weight_zero_point": zeros, "weight_g_idx": index}
    tensor = opened(tmp_path, parts, config)[f"{LAYER}weight"]
    out = np.empty(tensor.size, np.uint16).view(np.uint8).data
    tensor.read_into(0, out)
    tracemalloc.start()
    tensor.read_into(0, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < tensor.scratch + (64 << 10)


def kimi(rng):
    """A base of experts one by one, a fine-tune of it in int4, and the same decompressed."""
    base = {"model.embed_tokens.weight": torch.randn(50, 64, generator=rng).bfloat16()}
    stored, dense = dict(base), dict(base)
    for layer in range(2):
        for expert in range(3):
            for x, (out, cols) in {"gate": (96, 64), "up": (96, 64), "down": (64, 96)}.items():
                name = f"model.layers.{layer}.mlp.experts.{expert}.{x}_proj.weight"
                packed, scales, weight = large(out, cols, 32)
                base[name] = torch.randn(out, cols, generator=rng).bfloat16()
                dense[name] = weight
                stored |= {f"{name}_packed": packed, f"{name}_scale": scales}
                stored[f"{name}_shape"] = torch.tensor([out, cols], dtype=torch.int32)
    return base, stored, dense


def test_jobs_give_what_they_give_on_the_decompressed_model(tmp_path):
    base, stored, dense = kimi(torch.Generator().manual_seed(1))
    config, _ = case("int4 group [9, 64] torch.bfloat16 symmetric=True")
    folders = {
        "base": write(tmp_path / "base", base, None, layer=""),
        "stored": write(tmp_path / "stored", stored, config, layer=""),
        "dense": write(tmp_path / "dense", dense, None, layer=""),
    }
    one, other = (netweight.delta(folders["base"], [folders[x]]).models[0].summary for x in ("stored", "dense"))
    assert one["global_l2"] == other["global_l2"] > 0
    assert one["groups"] == other["groups"]
    assert netweight.delta(folders["stored"], [folders["dense"]]).models[0].summary["global_l2"] == 0
    assert set(netweight.compare(folders["stored"], folders["dense"]).identical) == set(dense)
    found, plain = netweight.info(folders["stored"]), netweight.info(folders["dense"])
    assert (found.parameters, found.tensors) == (plain.parameters, plain.tensors)
    row = next(row for row in found.dtypes if row.dtype == "int4 g32")
    assert row.bytes == row.elements // 2 + row.elements // 16 + 18 * 8
    netweight.merge(
        None,
        tmp_path / "out",
        base=folders["stored"],
        models=[folders["base"]],
        method="linear",
        weights=(0.5,),
        workers=1,
    )
    assert netweight.verify(tmp_path / "out").good
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_the_config_of_dense_weights_says_nothing_of_packed_ones():
    """Wherever config has it."""
    from netweight.jobs.merge.config import merged_config

    for config in ({"compression_config": {}}, {"text_config": {"quantization_config": {}, "hidden_size": 3}}):
        held = json.loads(json.dumps(config))
        merged, notes = merged_config(held, dtype=None)
        assert "quantization_config" not in str(merged)
        assert "compression_config" not in merged
        assert held == config
        assert len(notes) == 1
