"""AWQ against AutoAWQ: what it made of random bits, and a layer that it packed in two versions; else its formula."""

from __future__ import annotations

import numpy as np
import pytest
from packed_cases import awq, floats, recorded, words
from packed_files import check_jobs, check_recorded, fails, of_package, write

import netweight

CASES = awq()


def config(**about):
    return {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", **about}}


def layer(seed, cols, rows, group=32):
    rng = np.random.default_rng(seed)
    return {
        "x.qweight": ("I32", words(rng, cols, rows // 8).view(np.int32)),
        "x.qzeros": ("I32", words(rng, cols // group, rows // 8).view(np.int32)),
        "x.scales": ("F16", (rng.random((cols // group, rows)) + 0.1).astype(np.float16)),
    }


def unpacked(array):
    """Eight neighbours of each word, which lie in it in the order 0 2 4 6 1 3 5 7."""
    out = np.empty((array.shape[0], array.shape[1], 8), np.int64)
    for place, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        out[:, :, column] = array.view(np.uint32) >> np.uint32(4 * place) & np.uint32(15)
    return out.reshape(array.shape[0], -1)


def formula(tensors):
    """[out, in], float16."""
    codes, zeros, scales = (tensors[f"x.{part}"][1] for part in ("qweight", "qzeros", "scales"))
    group = np.arange(len(codes)) // (len(codes) // len(scales))
    return ((unpacked(codes) - unpacked(zeros)[group]) * scales.astype(np.float64)[group]).astype(np.float16).T


def read(folder, name="x.weight"):
    with netweight.open(folder) as checkpoint:
        return checkpoint[name].read()


@pytest.mark.parametrize("name", CASES)
def test_what_autoawq_makes_of_random_bits(tmp_path, name):
    case = CASES[name]
    tensor = check_recorded("awq", case, name, tmp_path)
    cols, packed = case.tensors["x.qweight"][1].shape
    assert (tensor.shape, tensor.dtype.name) == ((packed * 8, cols), case.tensors["x.scales"][0])
    assert tensor.stored == ("AWQ int4 rows" if case.more["group"] == cols else f"AWQ int4 g{case.more['group']}")


def test_every_recorded_case_is_tested():
    assert recorded("awq")["digests"].keys() == CASES.keys()


@pytest.mark.parametrize(("version", "group"), [("gemm", 64), ("gemv", 64), ("GEMM", 64), ("GEMV", 64)])
def test_a_layer_that_autoawq_packed(tmp_path, version, group):
    """The same layer in both versions; gemv has room for eight groups, of which there are three."""
    stored, _ = of_package("awq", version.lower())
    folder = write(tmp_path / "m", stored, config(version=version, group_size=group))
    assert np.array_equal(read(folder), weight_of_package())
    with netweight.open(folder) as checkpoint:
        assert "1 weight is stored by AWQ (AWQ int4 g64): what is read is (code" in checkpoint.notes[0]


def weight_of_package():
    import safetensors
    from packed_cases import RECORDED

    with safetensors.safe_open(RECORDED / "awq.safetensors", "numpy") as file:
        return file.get_tensor("weight")


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"version": "GEMM"},
        {"format": "gemm", "version": None},
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"},
        {"quant_method": "auto-round", "packing_format": "auto_round:awq"},
        {"quant_method": "intel/auto-round", "backend": "auto_round:awq:gemm"},
    ],
)
def test_the_formula(tmp_path, about):
    tensors = layer(1, 96, 40)
    assert np.array_equal(read(write(tmp_path / "m", tensors, config(**about))), formula(tensors))


def test_more_than_is_read_at_a_time(tmp_path):
    tensors = layer(2, 1024, 600)
    assert np.array_equal(read(write(tmp_path / "m", tensors, config())), formula(tensors))


def test_without_a_config_shapes_say_it(tmp_path):
    tensors = layer(3, 64, 32)
    for name, about in (("none", None), ("unsaid", {})):
        assert np.array_equal(read(write(tmp_path / name, tensors, about)), formula(tensors))


def test_what_older_models_say_in_a_file_of_its_own(tmp_path):
    stored, _ = of_package("awq", "gemv")
    beside = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMV"}
    assert np.array_equal(read(write(tmp_path / "m", stored, {}, quant_config=beside)), weight_of_package())


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"version": "gemv_fast"}, "awq gemv_fast"),
        ({"version": "marlin"}, "awq marlin"),
        ({"backend": "llm-awq"}, "awq llm-awq"),
    ],
)
def test_other_versions_are_named_and_not_decoded(tmp_path, about, name):
    tensors = layer(4, 64, 32)
    with netweight.open(write(tmp_path / "m", tensors, config(**about))) as checkpoint:
        assert set(checkpoint) == set(tensors)
        assert f"are stored by {name}, which is not decoded" in checkpoint.notes[0]


def reshaped(name, dtype, *shape):
    rng = np.random.default_rng(0)
    return {name: (dtype, words(rng, *shape).view(np.int32)) if dtype == "I32" else floats(rng, dtype, *shape)}


@pytest.mark.parametrize("version", ["gemm", "gemv"])
@pytest.mark.parametrize(
    "part",
    [
        reshaped("x.qweight", "I32", 64, 5),
        reshaped("x.qweight", "I32", 63, 4),
        reshaped("x.qweight", "I32", 64, 4, 1),
        reshaped("x.qzeros", "I32", 2, 3),
        reshaped("x.qzeros", "I32", 3, 4),
        reshaped("x.scales", "F16", 2, 33),
        reshaped("x.scales", "I32", 2, 32),
        reshaped("x.scales", "F16", 0, 32) | reshaped("x.qzeros", "I32", 0, 4),
    ],
    ids=lambda part: ", ".join(f"{name} {held[0]} {held[1].shape}" for name, held in part.items()),
)
def test_parts_that_do_not_fit(tmp_path, part, version):
    about = config(version=version)
    fails(tmp_path, layer(5, 64, 32) | part, about, r"'x.qweight' .*do not fit; expected int32 \[(in|out), ")


@pytest.mark.parametrize("group", [48, 7, None, 0, "64"])
def test_groups_of_gemv_that_do_not_fit(tmp_path, group):
    stored, _ = of_package("awq", "gemv")
    fails(tmp_path, stored, config(version="gemv", group_size=group), "config's group_size for the groups")


def test_a_weight_that_is_stored_twice(tmp_path):
    tensors = layer(6, 64, 32) | reshaped("x.weight", "F16", 32, 64)
    fails(tmp_path, tensors, config(), "tensor 'x.weight': is stored twice, by AWQ too")


def test_jobs_give_what_they_give_on_the_decoded_model(tmp_path):
    tensors, decoded = {}, {}
    for number, name in enumerate(["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]):
        parts = layer(number, 64, 32 * (number + 1))
        tensors |= {f"{name}{part.removeprefix('x')}": held for part, held in parts.items()}
        decoded[f"{name}.weight"] = ("F16", formula(parts))
    check_jobs(tmp_path, tensors, decoded, config())
