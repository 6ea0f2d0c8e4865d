"""Weights that ComfyUI has scaled: their formulas in torch, its marks, and its formats that are not read."""

from __future__ import annotations

import json

import numpy as np
import pytest

import netweight
from netweight.errors import FormatError

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MARK = "ComfyUI's word on how the layer is quantised, no weight"


def codes_of(*shape, dtype=E4M3):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8).view(dtype)


def opened(tmp_path, tensors, metadata=None):
    save_file(tensors, tmp_path / "m.safetensors", metadata=metadata)
    return netweight.open(tmp_path / "m.safetensors")


def same_bits(read, expected):
    expected = expected.numpy()
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(read), nan)
    assert np.array_equal(read[~nan].view(np.uint32), expected[~nan].view(np.uint32))


@pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (64, 33), (3, 2, 3, 3)])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_scaled_weights(prefix, shape, dtype, tmp_path):
    """One number for all; the scale of the inputs and the mark of the file are no weights."""
    codes, scale = codes_of(*shape, dtype=dtype), torch.tensor(0.0123)
    held = {
        f"{prefix}a.weight": codes, f"{prefix}a.scale_weight": scale, f"{prefix}a.scale_input": torch.tensor(3.0),
        f"{prefix}a.bias": torch.ones(shape[0]), f"{prefix}scaled_fp8": torch.ones(2).to(dtype),
    }  # fmt: skip
    with opened(tmp_path, held) as checkpoint:
        assert set(checkpoint) == {f"{prefix}a.weight", f"{prefix}a.bias"}
        same_bits(checkpoint[f"{prefix}a.weight"].read(), codes.float() * scale)
        assert {(entry.name, entry.reason) for entry in checkpoint.skipped} == {
            (f"{prefix}a.scale_input", "a scale of a layer's inputs, no weight"),
            (f"{prefix}scaled_fp8", "ComfyUI's mark of scaled weights of 8 bits, no weight"),
        }
        assert "1 weight is stored with scales" in checkpoint.notes[0]


@pytest.mark.parametrize("scale", [torch.rand(5, 1), torch.rand(5), torch.rand(1)])
def test_a_scale_for_every_row(scale, tmp_path):
    codes = codes_of(5, 7)
    with opened(tmp_path, {"a.weight": codes, "a.scale_weight": scale}) as checkpoint:
        same_bits(checkpoint["a.weight"].read(), codes.float() * scale.reshape(-1, 1))


def test_scales_that_do_not_fit(tmp_path):
    held = {"a.weight": codes_of(5, 7), "a.scale_weight": torch.ones(3, 1)}
    with pytest.raises(FormatError, match=r"tensor 'a.weight': .* 'a.scale_weight', F32 \[3, 1\], do not fit"):
        opened(tmp_path, held)


def test_weights_of_more_bits_are_as_they_are_stored(tmp_path):
    held = {"a.weight": torch.ones(5, 7).half(), "a.scale_weight": torch.tensor(2.0), "scaled_fp8": torch.ones(9)}
    with opened(tmp_path, held) as checkpoint:
        assert set(checkpoint) == set(held)
        assert "1 weight has a tensor 'scale_weight' beside and more than 8 bits" in checkpoint.notes[0]


def mark(**about):
    return torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kind", "dtype", "scale"),
    [
        ("float8_e4m3fn", E4M3, torch.tensor(0.5)),
        ("float8_e5m2", E5M2, torch.tensor(0.5)),
        ("int8_tensorwise", torch.int8, torch.rand(5, 1)),
    ],
)
def test_layers_that_say_their_format(kind, dtype, scale, tmp_path):
    codes = codes_of(5, 7, dtype=dtype)
    about = mark(format=kind, full_precision_matrix_mult=True)
    held = {"a.weight": codes, "a.weight_scale": scale, "a.comfy_quant": about}
    with opened(tmp_path, held) as checkpoint:
        assert list(checkpoint) == ["a.weight"]
        same_bits(checkpoint["a.weight"].read(), codes.float() * scale)
        assert [(entry.name, entry.reason) for entry in checkpoint.skipped] == [("a.comfy_quant", MARK)]


NVFP4 = {
    "a.weight": codes_of(128, 32, dtype=torch.uint8),
    "a.weight_scale": torch.ones(128, 4).to(E4M3),
    "a.weight_scale_2": torch.tensor(1.0),
}
INT8 = {"a.weight": codes_of(5, 7, dtype=torch.int8), "a.weight_scale": torch.rand(5, 1)}


@pytest.mark.parametrize(
    ("held", "about", "named"),
    [
        (NVFP4, {"format": "nvfp4"}, r"U8 \[128, 32\] is in ComfyUI's format 'nvfp4', which"),
        (INT8, {"format": "int8_tensorwise", "convrot": True}, "'int8_tensorwise', rotated, which"),
        (INT8, {"format": "float8_e4m3fn"}, r"I8 \[5, 7\] is in ComfyUI's format 'float8_e4m3fn'"),
        (INT8, {"format": "int8_tensorwise", "more": 1}, "'int8_tensorwise', which"),
        (INT8, {}, "format 'None'"),
        (INT8, [], "format 'None'"),
        (INT8, {"format": ["int8_tensorwise"]}, "in ComfyUI's format"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_formats_that_are_not_read(held, about, named, inside, tmp_path):
    """Its NVFP4 has the shapes and types of modelopt's, and other numbers: only the mark tells."""
    message = f"tensor 'a.weight': .*{named}.* not read; expected one of float8_e4m3fn"
    if inside:
        raw = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)
        tensors, metadata = held | {"a.comfy_quant": raw}, None
    else:
        tensors, metadata = held, {"_quantization_metadata": json.dumps({"layers": {"a": about}})}
    with pytest.raises(FormatError, match=message):
        opened(tmp_path, tensors, metadata)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"layers": 3}', '{"layers": {}}'])
def test_metadata_that_say_nothing(text, tmp_path):
    with opened(tmp_path, INT8, {"_quantization_metadata": text}) as checkpoint:
        assert checkpoint["a.weight"].dtype.name == "F32"


def test_a_mark_that_is_no_json(tmp_path):
    with pytest.raises(FormatError, match="which is not read"):
        opened(tmp_path, INT8 | {"a.comfy_quant": torch.zeros(5, dtype=torch.uint8)})
