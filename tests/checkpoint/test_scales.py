"""Weights of 8 bits with scales beside them, against torch's own types and products."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from ends_checks import check_ends

import netweight
from netweight.errors import FormatError

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def every_code(*shape, dtype=E4M3):
    made = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, generator=made, dtype=torch.int32).to(torch.uint8).view(dtype)


def scales_of(*shape, dtype=torch.float32):
    made = torch.Generator().manual_seed(7)
    return torch.exp2(torch.randint(-9, 5, shape, generator=made)).to(dtype) if dtype == torch.float8_e8m0fnu else (
        torch.rand(shape, generator=made) * 0.02
    ).to(dtype)  # fmt: skip


def product(codes, scales, block):
    """Every scale spread over its block, one axis after the other, and cut: torch's float32 product."""
    spread = scales.float()
    for axis, step in enumerate(block):
        spread = spread.repeat_interleave(step, axis).narrow(axis, 0, codes.shape[axis])
    return codes.float() * spread


def same_bits(read, expected):
    expected = expected.numpy()
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(read), nan)
    assert np.array_equal(read[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def write(path, tensors, config=None):
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    return path


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
CASES = [
    ((300, 200), (3, 2), (128, 128), BLOCKS),
    ((129, 257), (2, 3), (128, 128), None),
    ((128, 128), (1, 1), (128, 128), BLOCKS),
    ((70, 50), (2, 2), (64, 32), {"weight_block_size": [64, 32]}),
    ((3, 130, 140), (3, 2, 2), (1, 128, 128), BLOCKS),
    ((5, 7), (5, 1), (1, 7), None),
    ((2, 5, 7), (2, 1, 7), (1, 5, 1), None),
    ((5, 7), (1, 1), (5, 7), None),
    ((1, 300), (1, 3), (1, 128), BLOCKS),
    ((300,), (3,), (128,), None),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e8m0fnu], ids=str)
@pytest.mark.parametrize(("shape", "grid", "block", "config"), CASES)
def test_every_code_times_its_scale(tmp_path, shape, grid, block, config, dtype):
    """All bytes, NaN among them; read at once and from anywhere; edges that are cut."""
    kind = E5M2 if len(shape) == 3 else E4M3
    codes, scales = every_code(*shape, dtype=kind), scales_of(*grid, dtype=dtype)
    expected = product(codes, scales, block)
    folder = write(tmp_path / "m", {"w": codes, "w_scale_inv": scales}, config)
    rng = random.Random(1)
    with netweight.open(folder) as checkpoint:
        assert list(checkpoint) == ["w"]
        tensor = checkpoint["w"]
        assert (tensor.shape, tensor.dtype.name, [part.name for part in tensor.stored_parts]) == (
            shape,
            "F32",
            ["w", "w_scale_inv"],
        )
        same_bits(tensor.read(), expected)
        check_ends(tensor)
        for _ in range(20):
            start = rng.randrange(tensor.size)
            out = np.empty(rng.randint(1, tensor.size - start), np.float32)
            tensor.read_into(start, out.view(np.uint8).data)
            same_bits(out, expected.reshape(-1)[start : start + len(out)])


@pytest.mark.parametrize(("grid", "block"), [((5, 1), (1, 300)), ((1, 3), (5, 128))])
def test_integers_times_their_scales(tmp_path, grid, block):
    """All of int8."""
    codes, scales = every_code(5, 300).view(torch.int8), scales_of(*grid, dtype=torch.bfloat16)
    with netweight.open(write(tmp_path / "m", {"w": codes, "w_scale": scales})) as checkpoint:
        same_bits(checkpoint["w"].read(), product(codes, scales, block))
        assert checkpoint["w"].stored == f"I8 {block[0]}x{block[1]}"
        check_ends(checkpoint["w"])


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 1)])
def test_scales_of_fewer_axes(tmp_path, shape):
    """One number for all, or one for every row."""
    codes, scales = every_code(5, 7), scales_of(*shape)
    folder = write(tmp_path / "m", {"a.weight": codes, "a.weight_scale": scales, "a.input_scale": torch.ones(1)})
    expected = codes.float() * (scales.reshape(5, 1) if shape == (5,) else scales.reshape(()))
    with netweight.open(folder) as checkpoint:
        assert list(checkpoint) == ["a.weight"]
        same_bits(checkpoint["a.weight"].read(), expected)
        assert [(entry.name, entry.reason) for entry in checkpoint.skipped] == [
            ("a.input_scale", "a scale of a layer's inputs, no weight")
        ]
        assert "1 weight is stored with scales (F8_E4M3" in checkpoint.notes[0]


def test_what_is_larger_than_what_is_read_at_a_time(tmp_path):
    codes, scales = every_code(900, 1000), scales_of(8, 8)
    with netweight.open(write(tmp_path / "m", {"w": codes, "w_scale_inv": scales}, BLOCKS)) as checkpoint:
        same_bits(checkpoint["w"].read(), product(codes, scales, (128, 128)))


@pytest.mark.parametrize(
    ("scales", "config"),
    [
        (torch.ones(3, 3), BLOCKS),
        (torch.ones(2, 2), {"weight_block_size": [64, 64]}),
        (torch.ones(4), None),
        (torch.ones(1, 3, 2), BLOCKS),
        (torch.ones(3, 2, dtype=torch.int32), BLOCKS),
        (torch.ones(0), None),
    ],
)
def test_scales_that_do_not_fit(tmp_path, scales, config):
    folder = write(tmp_path / "m", {"w": every_code(300, 200), "w_scale_inv": scales}, config)
    with pytest.raises(
        FormatError, match=r"tensor 'w': its shape \[300, 200\] and its scales 'w_scale_inv', .* do not fit"
    ):
        netweight.open(folder)


def test_two_tensors_of_scales(tmp_path):
    held = {"w": every_code(4, 4), "w_scale_inv": torch.ones(1), "w_scale": torch.ones(1)}
    with pytest.raises(FormatError, match="tensor 'w': has two tensors of scales"):
        netweight.open(write(tmp_path / "m", held))


def test_what_has_no_scales_is_as_it_was(tmp_path):
    """Floats of 8 bits alone are weights themselves; a scale beside other weights is a tensor of its own."""
    held = {
        "a.weight": every_code(4, 4),
        "b.weight": torch.ones(4, 4),
        "b.weight_scale": torch.ones(1),
        "c_scale": torch.ones(2),
    }
    with netweight.open(write(tmp_path / "m", held)) as checkpoint:
        assert set(checkpoint) == set(held)
        assert checkpoint["a.weight"].dtype.name == "F8_E4M3"
        assert not checkpoint.notes


def llama(rng, noise=0.0):
    held = {"model.embed_tokens.weight": torch.randn(50, 64), "model.norm.weight": torch.ones(64)}
    for layer in range(2):
        at = f"model.layers.{layer}."
        held |= {f"{at}self_attn.{x}_proj.weight": torch.randn(64, 64, generator=rng) for x in "qkvo"}
        held |= {f"{at}mlp.{x}_proj.weight": torch.randn(200, 64, generator=rng) for x in ("gate", "up")}
        held |= {f"{at}mlp.down_proj.weight": torch.randn(64, 200, generator=rng)}
    return held


@pytest.fixture
def models(tmp_path):
    """(base, fine-tune in FP8, the same decoded by torch)."""
    rng = torch.Generator().manual_seed(0)
    base, tuned = llama(rng), llama(rng)
    stored, decoded = {}, {}
    for name, tensor in tuned.items():
        if "_proj" not in name:
            stored[name] = decoded[name] = tensor
            continue
        grid = [-(-n // 128) for n in tensor.shape]
        scales = torch.rand(grid, generator=rng) * 0.01 + 0.005
        stored[name] = (tensor / 0.01).clamp(-448, 448).to(E4M3)
        stored[f"{name}_scale_inv"] = scales
        decoded[name] = product(stored[name], scales, (128, 128))
    return (
        write(tmp_path / "base", base, {"quant_method": "none"}),
        write(tmp_path / "fp8", stored, BLOCKS),
        write(tmp_path / "dense", decoded, {"quant_method": "none"}),
    )


def test_jobs_give_what_they_give_on_the_decoded_model(models, tmp_path):
    base, fp8, dense = models
    one, other = (netweight.delta(base, [path]).models[0].summary for path in (fp8, dense))
    assert (one["global_l2"], one["elements"], one["groups"]) == (
        other["global_l2"],
        other["elements"],
        other["groups"],
    )
    compared = netweight.compare(fp8, dense)
    assert set(compared.identical) == set(load_file(dense / "model.safetensors"))
    for name, path in (("one", fp8), ("other", dense)):
        netweight.merge(None, tmp_path / name, base=base, models=[path], method="ties", weights=(0.7,), workers=1)
    merged, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert merged.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    assert netweight.verify(tmp_path / "one").good
    assert netweight.structure(fp8).structure["total_params"] == netweight.structure(dense).structure["total_params"]


def test_a_merge_into_it_has_a_config_of_dense_weights(models, tmp_path):
    base, fp8, _ = models
    netweight.merge(None, tmp_path / "out", base=fp8, models=[base], method="linear", weights=(0.5,), workers=1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert not [name for name in load_file(tmp_path / "out" / "model.safetensors") if "scale" in name]


def test_info_says_how_they_are_stored(models):
    _, fp8, dense = models
    found, plain = netweight.info(fp8), netweight.info(dense)
    assert (found.parameters, found.tensors) == (plain.parameters, plain.tensors)
    rows = {row.dtype: row for row in found.dtypes}
    scaled = sum(row.elements for row in rows.values() if row.dtype.startswith("F8_E4M3"))
    assert scaled == sum(row.elements for row in plain.dtypes) - rows["F32"].elements
    assert found.bytes < plain.bytes / 2
    assert netweight.structure(fp8).structure["bytes"] == found.bytes
