"""MLX's weights against mlx.core.dequantize on a CPU: what it made of random bits, and layers that it quantised."""

from __future__ import annotations

import numpy as np
import pytest
from packed_cases import floats, mlx, recorded, words
from packed_files import bits_of, check_jobs, check_recorded, fails, of_package, write

import netweight

CASES = mlx()
STORED = ["affine float16", "affine bfloat16", "mxfp4 bfloat16", "mxfp8 bfloat16", "nvfp4 bfloat16"]
USUAL = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


def config_of(at):
    """As mlx_lm writes it: `down` has bits of its own in mode affine."""
    mode = at.split()[0]
    group, bits = USUAL[mode]
    about = {"group_size": group, "bits": bits, "mode": mode}
    return about | ({"x.down": {"group_size": 32, "bits": 8}} if mode == "affine" else {})


def layer(mode="affine", bits=4, group=64, rows=6, cols=128, dtype="F16"):
    rng = np.random.default_rng(1)
    packed = ("U32", words(rng, rows, cols * bits // 32))
    if mode != "affine":
        return {"x.weight": packed, "x.scales": ("U8", rng.integers(0, 256, (rows, cols // group)).astype(np.uint8))}
    made = {f"x.{part}": floats(rng, dtype, rows, cols // group) for part in ("scales", "biases")}
    return {"x.weight": packed, **made}


@pytest.mark.parametrize("name", CASES)
def test_what_mlx_makes_of_random_bits(tmp_path, name):
    """All bits, groups, modes and types; scales of all bytes, those that are infinite or no number among them."""
    case = CASES[name]
    tensor = check_recorded("mlx", case, name, tmp_path)
    about = case.config["quantization"]
    assert tensor.dtype.name == case.more["dtype"]
    packed = case.tensors["x.weight"][1]
    assert tensor.shape == (*packed.shape[:-1], packed.shape[-1] * 32 // about["bits"])
    mode = about.get("mode")
    assert tensor.stored == (f"MLX {mode.upper()}" if mode else f"MLX int{about['bits']} g{about['group_size']}")


def test_every_recorded_case_is_tested():
    assert recorded("mlx")["digests"].keys() == CASES.keys()


@pytest.mark.parametrize("at", STORED)
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_layers_that_mlx_quantised(tmp_path, at, key):
    stored, others = of_package("mlx", at)
    with netweight.open(write(tmp_path / "m", stored, {key: config_of(at)})) as checkpoint:
        assert set(checkpoint) == {"x.embed.weight", "x.up.weight", "x.up.bias", "x.down.weight"}
        for name in ("embed", "up", "down"):
            tensor, (dtype, expected) = checkpoint[f"x.{name}.weight"], others[name]
            assert (tensor.shape, tensor.dtype.name) == (expected.shape, dtype)
            assert np.array_equal(bits_of(tensor), expected.reshape(-1).view(np.uint16))
        assert "3 weights are stored by MLX (MLX " in checkpoint.notes[0]


def test_more_than_is_read_at_a_time(tmp_path):
    """Against float32 in numpy, product and sum rounded each."""
    rng = np.random.default_rng(3)
    tensors = layer("affine", 3, 32, 700, 992, "F32")
    for part in ("scales", "biases"):
        tensors[f"x.{part}"] = ("F32", rng.random((700, 31)).astype(np.float32))
    by_bit = np.unpackbits(tensors["x.weight"][1].view(np.uint8), bitorder="little").reshape(-1, 3)
    codes = (by_bit @ [1, 2, 4]).astype(np.float32).reshape(700, 31, 32)
    expected = codes * tensors["x.scales"][1][..., None] + tensors["x.biases"][1][..., None]
    with netweight.open(write(tmp_path / "m", tensors, {"quantization": {"bits": 3, "group_size": 32}})) as checkpoint:
        assert np.array_equal(checkpoint["x.weight"].read(), expected.reshape(700, 992))


def test_a_module_takes_nothing_from_what_is_said_of_all(tmp_path):
    """An entry of its own that says no group size means the mode's usual one, as mlx.nn has it."""
    about = {"bits": 2, "group_size": 32, "x": {"bits": 4}}
    with netweight.open(write(tmp_path / "m", layer(), {"quantization": about})) as checkpoint:
        assert checkpoint["x.weight"].stored == "MLX int4 g64"


def test_the_config_of_a_text_model(tmp_path):
    folder = write(tmp_path / "m", layer(), {"text_config": {"quantization": {"bits": 4, "group_size": 64}}})
    with netweight.open(folder) as checkpoint:
        assert checkpoint["x.weight"].stored == "MLX int4 g64"


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        (layer(), {"bits": 8, "group_size": 64}),
        (layer(), {"bits": 4, "group_size": 32}),
        (layer(), {"bits": 7, "group_size": 64}),
        (layer(), {"bits": 4, "group_size": "64"}),
        (layer(), {"bits": 4, "group_size": -64}),
        (layer(), {"bits": 4, "group_size": 64, "mode": "mxfp4"}),
        (layer() | {"x.scales": floats(np.random.default_rng(0), "F16", 5, 2)}, {"bits": 4, "group_size": 64}),
        (layer() | {"x.biases": floats(np.random.default_rng(0), "F32", 6, 2)}, {"bits": 4, "group_size": 64}),
        (layer() | {"x.biases": floats(np.random.default_rng(0), "F16", 6, 3)}, {"bits": 4, "group_size": 64}),
        (layer("mxfp4", 4, 32), {"bits": 4, "group_size": 32, "mode": "affine"}),
        (layer("mxfp4", 4, 32), {"bits": 4, "group_size": 64, "mode": "mxfp4"}),
        (layer("mxfp4", 4, 32), {"bits": 4, "group_size": 16, "mode": "nvfp4"}),
        (layer("nvfp4", 4, 16), {"bits": 4, "group_size": 32, "mode": "mxfp4"}),
    ],
    ids=str,
)
def test_what_does_not_fit_the_config(tmp_path, tensors, about):
    fails(
        tmp_path, tensors, {"quantization": about}, r"'x.weight' U32 .*do not fit; expected codes and scales of mode "
    )


@pytest.mark.parametrize("mode", ["mxfp6", 4, ["affine"], None])
def test_unknown_modes(tmp_path, mode):
    about = {"bits": 4, "group_size": 32, "mode": mode}
    match = r"config's quantization mode for it is .*; expected one of affine, mxfp4, mxfp8, nvfp4"
    fails(tmp_path, layer("mxfp4", 4, 32), {"quantization": about}, match)


def test_without_a_config_they_are_codes(tmp_path):
    with netweight.open(write(tmp_path / "m", layer(), {})) as checkpoint:
        assert set(checkpoint) == {"x.weight", "x.scales", "x.biases"}
        assert "1 weight is quantised by MLX, and no config says how" in checkpoint.notes[0]


def test_words_of_another_program_are_left(tmp_path):
    """transformers' `metal` has float scales and `qbiases`."""
    tensors = layer()
    tensors["x.qbiases"] = tensors.pop("x.biases")
    about = {"quantization_config": {"quant_method": "metal", "bits": 4, "group_size": 64}}
    with netweight.open(write(tmp_path / "m", tensors, about)) as checkpoint:
        assert set(checkpoint) == set(tensors)
        assert "1 weights ('x.weight' ...) are stored by metal, which is not decoded" in checkpoint.notes[0]


@pytest.mark.parametrize("at", STORED)
def test_jobs_give_what_they_give_on_the_decoded_model(tmp_path, at):
    stored, others = of_package("mlx", at)
    names = {"embed": "model.embed_tokens", "up": "model.layers.0.mlp.up_proj", "down": "model.layers.0.mlp.down_proj"}
    tensors, decoded = {}, {}
    for own, name in names.items():
        tensors |= {n.replace(f"x.{own}", name): held for n, held in stored.items() if n.startswith(f"x.{own}.")}
        decoded[f"{name}.weight"] = others[own]
    decoded[f"{names['up']}.bias"] = tensors[f"{names['up']}.bias"]
    about = config_of(at)
    if "x.down" in about:
        about[names["down"]] = about.pop("x.down")
    check_jobs(tmp_path, tensors, decoded, {"quantization": about, "quantization_config": about})
