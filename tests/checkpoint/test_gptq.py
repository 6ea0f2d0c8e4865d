"""GPTQ against GPTQModel: what it made of random bits, and layers that it packed; else its formula in numpy."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from packed_cases import gptq, recorded, words
from packed_files import bits_of, check_jobs, check_recorded, fails, of_package, write

import netweight
from netweight.checkpoint.tensors import rearranged
from netweight.errors import InputError, ReadError

CASES = gptq()


def config(bits=4, group=32, **about):
    return {"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": group, **about}}


def codes_of(packed, bits, count):
    """[n, cols] of words [w, cols]: bit after bit down each column."""
    by_bit = np.unpackbits(packed.view(np.uint32).astype("<u4").T.copy().view(np.uint8), axis=1, bitorder="little")
    codes = by_bit[:, : by_bit.shape[1] // bits * bits].reshape(len(by_bit), -1, bits)
    return (codes * (1 << np.arange(bits))).sum(-1)[:, :count].T


def formula(tensors, bits, less_one=False, at="x"):
    """[out, in] in the scales' type, float16: product of the exact difference and the scale."""
    scales = tensors[f"{at}.scales"][1]
    out = scales.shape[1]
    index = tensors[f"{at}.g_idx"][1] if f"{at}.g_idx" in tensors else None
    packed = tensors[f"{at}.qweight"][1]
    cols = len(index) if index is not None else len(packed) * 32 // bits
    if index is None:
        index = np.arange(cols) // (cols // len(scales))
    zeros = codes_of(tensors[f"{at}.qzeros"][1].T.copy(), bits, out).T + less_one
    return ((codes_of(packed, bits, cols) - zeros[index]) * scales.astype(np.float64)[index]).astype(np.float16).T


def layer(rng, cols, rows, bits=4, group=32, index=True, most=14):
    """Parts of a layer without zero points whose bits are all set."""
    groups = cols // group
    zeros = rng.integers(0, most + 1, (groups, rows)).astype(np.uint32)
    packed = np.zeros((groups, rows * bits // 32), np.uint32)
    for at in range(32 // bits):
        packed |= zeros[:, at :: 32 // bits] << np.uint32(bits * at)
    tensors = {
        "x.qweight": ("I32", words(rng, cols * bits // 32, rows).view(np.int32)),
        "x.qzeros": ("I32", packed.view(np.int32)),
        "x.scales": ("F16", (rng.random((groups, rows)) + 0.1).astype(np.float16)),
    }
    if index:
        tensors["x.g_idx"] = ("I32", (np.arange(cols) // group).astype(np.int32))
    return tensors


def read(folder, name="x.weight"):
    with netweight.open(folder) as checkpoint:
        return checkpoint[name].read()


@pytest.mark.parametrize("name", CASES)
def test_what_gptqmodel_makes_of_random_bits(tmp_path, name):
    """All codes and zero points, all bits set among them; groups in any order, counted from the end, cut; rows that
    fill no whole words.
    """
    case = CASES[name]
    tensor = check_recorded("gptq", case, name, tmp_path)
    assert tensor.shape == (case.more["out"], case.more["in"])
    assert tensor.dtype.name == case.tensors["x.scales"][0]
    about = case.config["quantization_config"]
    ending = "rows" if about["group_size"] == -1 else f"g{about['group_size']}"
    assert tensor.stored == f"GPTQ int{about['bits']} {ending}"


def test_every_recorded_case_is_tested():
    assert recorded("gptq")["digests"].keys() == CASES.keys()


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_a_layer_that_gptqmodel_packed(tmp_path, bits, version):
    """Zero points from 0 to the largest: the first version stores 0 as all bits set, and its neighbour is one less."""
    stored, others = of_package("gptq", f"{bits}/{version}")
    _, others = of_package("gptq", f"{bits}")
    folder = write(tmp_path / "m", stored, config(bits, checkpoint_format=version))
    assert np.array_equal(read(folder), others["weight"][1])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("index", [True, False])
def test_the_formula(tmp_path, bits, index):
    """Where no zero point has all bits set both versions, with and without an index."""
    tensors = layer(np.random.default_rng(1), 128, 64, bits, 64, index, most=2)
    assert np.array_equal(
        read(write(tmp_path / "2", tensors, config(bits, 64, format="gptq_v2"))), formula(tensors, bits)
    )
    expected = formula(tensors, bits, less_one=True)
    for number, about in enumerate([{"checkpoint_format": "gptq"}, {}, {"format": "GPTQ"}, {"quant_method": "GPTQ"}]):
        assert np.array_equal(read(write(tmp_path / f"{number} 1", tensors, config(bits, 64, **about))), expected)


def test_more_than_is_read_at_a_time(tmp_path):
    tensors = layer(np.random.default_rng(2), 1024, 608)
    assert np.array_equal(read(write(tmp_path / "m", tensors, config())), formula(tensors, 4, less_one=True))


@pytest.mark.parametrize(
    ("about", "less_one"),
    [
        ({"packing_format": "auto_round:auto_gptq"}, True),
        ({"packing_format": "auto_round:gptq"}, True),
        ({}, True),
        ({"packing_format": "auto_round"}, False),
        ({"packing_format": "auto_round:gptqmodel"}, False),
        ({"quant_method": "intel/auto-round", "backend": "auto_round:gptq:exllamav2"}, True),
    ],
)
def test_exports_of_auto_round(tmp_path, about, less_one):
    """Zero points less one, or as they are, by the name of the packing."""
    tensors = layer(np.random.default_rng(3), 64, 32, index=False)
    folder = write(tmp_path / "m", tensors, config(**{"quant_method": "auto-round", **about}))
    assert np.array_equal(read(folder), formula(tensors, 4, less_one=less_one))


def test_what_older_models_say_in_a_file_of_its_own(tmp_path):
    tensors = layer(np.random.default_rng(4), 64, 32)
    beside = {"bits": 4, "group_size": 32, "desc_act": False, "checkpoint_format": "gptq_v2"}
    folder = write(tmp_path / "m", tensors, {}, quantize_config=beside)
    assert np.array_equal(read(folder), formula(tensors, 4))
    note = "1 weight is stored by GPTQ (GPTQ int4 g32; zero points as they are): what is read is (code"
    assert note in netweight.open(folder).notes[0]
    assert netweight.open(folder).settings["quantization_config"]["checkpoint_format"] == "gptq_v2"
    (folder / "quantize_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"quantize_config.json: holds a JSON array, expected an object"):
        netweight.open(folder)


def test_without_a_config_it_is_the_first_version_and_a_note_says_so(tmp_path):
    tensors = layer(np.random.default_rng(5), 64, 32)
    for name, about in (("none", None), ("unsaid", {})):
        folder = write(tmp_path / name, tensors, about)
        assert np.array_equal(read(folder), formula(tensors, 4, less_one=True))
        assert "nothing says the format's version: it is read as the first" in netweight.open(folder).notes[0]


def test_layers_of_their_own_bits(tmp_path):
    """GPTQModel's `dynamic`: shapes say it."""
    rng = np.random.default_rng(6)
    one, other = layer(rng, 64, 32, 4, 32), layer(rng, 64, 32, 8, 64)
    tensors = {f"a{name}": held for name, held in one.items()} | {f"b{name}": held for name, held in other.items()}
    folder = write(tmp_path / "m", tensors, config(4, 32, checkpoint_format="gptq_v2"))
    with netweight.open(folder) as checkpoint:
        assert [tensor.stored for tensor in checkpoint.values()] == ["GPTQ int4 g32", "GPTQ int8 rows"]
        assert np.array_equal(checkpoint["ax.weight"].read(), formula(one, 4))
        assert np.array_equal(checkpoint["bx.weight"].read(), formula(other, 8))


@pytest.mark.parametrize("wrong", [2, -3, 1 << 30])
def test_an_index_that_names_no_group(tmp_path, wrong):
    tensors = layer(np.random.default_rng(7), 64, 32)
    tensors["x.g_idx"][1][5] = wrong
    folder = write(tmp_path / "m", tensors, config())
    with pytest.raises(ValueError, match=f"its index of groups, x.g_idx, names group {wrong}, of 2"):
        read(folder)
    dense = write(tmp_path / "dense", {"x.weight": ("F16", np.zeros((32, 64), np.float16))})
    with pytest.raises(ReadError, match=r"tensor 'x.weight' could not be read at element 0: its index of groups"):
        netweight.delta(dense, [folder])


def reshaped(name, dtype, *shape):
    rng = np.random.default_rng(0)
    made = words(rng, *shape).view(np.int32) if dtype == "I32" else rng.random(shape, np.float32)
    made = made if dtype in {"I32", "F32"} else made.astype({"F16": np.float16, "F64": np.float64}[dtype])
    return {name: (dtype, made)}


@pytest.mark.parametrize(
    "part",
    [
        reshaped("x.qweight", "I32", 8, 40),
        reshaped("x.qweight", "I32", 9, 32),
        reshaped("x.qweight", "F32", 8, 32),
        reshaped("x.qweight", "I32", 8, 32, 1),
        reshaped("x.qzeros", "I32", 2, 5),
        reshaped("x.qzeros", "I32", 3, 4),
        reshaped("x.qzeros", "F32", 2, 4),
        reshaped("x.scales", "F16", 3, 32),
        reshaped("x.scales", "F64", 2, 32),
        reshaped("x.scales", "I32", 2, 32),
        reshaped("x.g_idx", "I32", 63),
        reshaped("x.g_idx", "I32", 64, 1),
        reshaped("x.g_idx", "F32", 64),
        reshaped("x.scales", "F16", 0, 32) | reshaped("x.qzeros", "I32", 0, 4),
    ],
    ids=lambda part: ", ".join(f"{name} {held[0]} {held[1].shape}" for name, held in part.items()),
)
def test_parts_that_do_not_fit(tmp_path, part):
    tensors = layer(np.random.default_rng(8), 64, 32) | part
    if part.keys() == {"x.g_idx"} and part["x.g_idx"][1].shape == (63,):
        # as many words as 64 columns have: the last is not used
        assert netweight.open(write(tmp_path / "m", tensors, config()))["x.weight"].shape == (32, 63)
        return
    fails(tmp_path, tensors, config(), r"'x.qweight' .*do not fit; expected int32 \[in bits / 32, out\]")


def test_a_weight_that_is_stored_twice(tmp_path):
    tensors = layer(np.random.default_rng(9), 64, 32) | reshaped("x.weight", "F16", 32, 64)
    fails(tmp_path, tensors, config(), "tensor 'x.weight': is stored twice, by GPTQ too")


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"checkpoint_format": "marlin"}, "marlin"),
        ({"is_marlin_format": True}, "marlin"),
        ({"checkpoint_format": "gptq_p"}, "gptq_p"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:llm_compressor"}, "auto_round:llm_compressor"),
        (
            {"quant_method": "intel/auto-round", "backend": "autoround:exllamav2"},
            "intel/auto-round autoround:exllamav2",
        ),
        ({"quant_method": "exl2"}, "exl2"),
    ],
)
def test_other_packings_are_named_and_not_measured(tmp_path, about, name):
    tensors = layer(np.random.default_rng(10), 64, 32) | reshaped("n.weight", "F16", 32, 64)
    folder = write(tmp_path / "m", tensors, config(**about))
    with netweight.open(folder) as checkpoint:
        assert set(checkpoint) == set(tensors)
        assert f"1 weights ('x.qweight' ...) are stored by {name}, which is not decoded" in checkpoint.notes[0]
    found = netweight.delta(folder, [folder]).models[0]
    assert ("x.qweight", "integer dtype I32: not a weight (in the base)") in {(s.name, s.reason) for s in found.skipped}
    other = write(tmp_path / "other", tensors, config(**about))
    with pytest.raises(InputError, match=r"'x.qweight' \(I32\) belongs to a quantised weight"):
        netweight.merge(None, tmp_path / "out", base=folder, models=[other], method="linear", weights=(0.5,))


def test_a_layer_without_all_its_parts_is_as_it_is_stored(tmp_path):
    """As in one shard of several."""
    tensors = layer(np.random.default_rng(11), 64, 32)
    del tensors["x.scales"]
    with netweight.open(write(tmp_path / "m", tensors, config())) as checkpoint:
        assert set(checkpoint) == set(tensors)
        assert "or parts of them are missing" in checkpoint.notes[0]


def test_what_is_not_turned_in_the_model_is_not_turned(tmp_path):
    """GPT-2's layers are Conv1D, [in, out], and GPTQModel quantises embeddings as they are."""
    tensors = layer(np.random.default_rng(12), 64, 32)
    named = {f"h.0.attn.c_attn{name.removeprefix('x')}": held for name, held in tensors.items()}
    expected = formula(tensors, 4, less_one=True)
    gpt2 = {"model_type": "gpt2", **config()}
    with netweight.open(write(tmp_path / "gpt2", named, gpt2)) as checkpoint:
        tensor = checkpoint["h.0.attn.c_attn.weight"]
        assert (tensor.shape, tensor.stored) == ((64, 32), "GPTQ int4 g32")
        assert np.array_equal(tensor.read(), expected.T)
        assert np.array_equal(bits_of(tensor, 100, 500), expected.T.copy().view(np.uint16).reshape(-1)[100:600])
    bigcode = {"model_type": "gpt_bigcode", **config()}
    assert np.array_equal(read(write(tmp_path / "bigcode", named, bigcode), "h.0.attn.c_attn.weight"), expected)
    named = {f"model.embed_tokens{name.removeprefix('x')}": held for name, held in tensors.items()}
    assert np.array_equal(read(write(tmp_path / "emb", named, config()), "model.embed_tokens.weight"), expected.T)


def test_jobs_give_what_they_give_on_the_decoded_model(tmp_path):
    tensors, decoded = {}, {}
    for number, name in enumerate(["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]):
        parts = layer(np.random.default_rng(number), 64, 32 * (number + 1))
        np.random.default_rng(0).shuffle(parts["x.g_idx"][1])
        tensors |= {f"{name}{part.removeprefix('x')}": held for part, held in parts.items()}
        decoded[f"{name}.weight"] = ("F16", formula(parts, 4, less_one=True))
    check_jobs(tmp_path, tensors, decoded, config())


@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_memory_is_bounded(tmp_path, order):
    """64 MiB of codes, all of them holes: a thread holds what `scratch` says, whatever the size."""
    cols, rows, group = 8192, 16384, 128
    parts = {
        "x.g_idx": ("I32", (cols,)), "x.scales": ("F16", (cols // group, rows)), "x.qzeros": ("I32", (64, rows // 8)),
        "x.qweight": ("I32", (cols // 8, rows)),
    }  # fmt: skip
    header, at = {}, 0
    for name, (dtype, shape) in parts.items():
        size = int(np.prod(shape)) * (2 if dtype == "F16" else 4)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    index = np.arange(cols, dtype=np.int32) // group
    if order == "shuffled":
        np.random.default_rng(0).shuffle(index)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + index.tobytes())
    os.truncate(path, 8 + len(text) + at)
    (tmp_path / "config.json").write_text(json.dumps(config(4, group)))
    tensor = netweight.open(tmp_path)["x.weight"]
    assert tensor.shape == (rows, cols)
    out = np.empty(1 << 18, np.float16)
    tensor.read_into(0, out.view(np.uint8).data)  # loops are compiled
    rearranged._kept._slabs.clear()
    tracemalloc.start()
    for start in range(0, tensor.size, 16 << 20):
        tensor.read_into(start, out.view(np.uint8).data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 8 << 20 < peak < tensor.scratch + (1 << 20) < 64 << 20
