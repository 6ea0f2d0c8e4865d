"""Packed floats of modelopt and DeepSeek-V4: against what modelopt 0.47.0 makes of them (recorded), and against their
formulas in torch.
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
from netweight.errors import FormatError

torch = pytest.importorskip("torch")
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

RECORDED = Path(__file__).parent / "recorded" / "modelopt.safetensors"
E4M3, E8M0 = torch.float8_e4m3fn, torch.float8_e8m0fnu
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def bits(tensor):
    whole = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return torch.where(tensor.float().isnan(), torch.tensor(-1).to(whole), tensor.contiguous().view(whole)).numpy()


def bytes_of(*shape, seed=0, low=0, high=256):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def finite_scales(*shape, seed=0):
    return bytes_of(*shape, seed=seed, low=8, high=127).view(E4M3)


def write(folder, tensors, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def read_bits(tensor):
    read = tensor.read()
    kind = np.uint16 if read.dtype.itemsize == 2 else np.uint32
    return np.where(np.isnan(read.astype(np.float32)), kind(-1 % (1 << 8 * read.dtype.itemsize)), read.view(kind))


def same(tensor, expected):
    """All of it, from anywhere, and after pickle."""
    wanted = bits(expected).view(np.uint16 if expected.element_size() == 2 else np.uint32)
    assert tensor.shape == tuple(expected.shape)
    assert np.array_equal(read_bits(tensor), wanted)
    check_ends(tensor)
    again, rng, flat = pickle.loads(pickle.dumps(tensor)), random.Random(4), expected.reshape(-1)
    for _ in range(10):
        start = rng.randrange(tensor.size)
        out = np.empty(rng.randint(1, tensor.size - start), tensor.dtype.to_numpy())
        again.read_into(start, out.view(np.uint8).data)
        kept = ~np.isnan(out.astype(np.float32))
        assert np.array_equal(kept, ~flat[start : start + len(out)].float().isnan().numpy())
        piece = bits(flat[start : start + len(out)]).view(wanted.dtype)
        assert np.array_equal(out.view(wanted.dtype)[kept], piece[kept])


def recorded():
    with safe_open(RECORDED, "pt") as file:
        for number, name in enumerate(json.loads(file.metadata()["cases"])):
            names = [key for key in file.keys() if key.startswith(f"{number}/")]  # noqa: SIM118 - it is no mapping
            yield name, {key.partition("/")[2]: file.get_tensor(key) for key in names}


CASES = dict(recorded())


@pytest.mark.parametrize("name", CASES)
def test_as_modelopt_dequantises(name, tmp_path):
    parts = dict(CASES[name])
    expected = parts.pop("expected")
    held = {f"l.{part}": tensor for part, tensor in parts.items()} | {"l.input_scale": torch.ones(())}
    with netweight.open(write(tmp_path, held)) as checkpoint:
        assert list(checkpoint) == ["l.weight"]
        tensor = checkpoint["l.weight"]
        assert tensor.stored.startswith({"NVFP4": "NVFP4", "MXFP8": "MXFP8 1x32", "FP8": "F8_E4M3"}[name.split()[0]])
        same(tensor, expected)
        assert [entry.name for entry in checkpoint.skipped] == ["l.input_scale"]


def numbers(codes):
    """Two of every byte, the low one first, along the last axis."""
    return torch.stack([E2M1[(codes & 15).long()], E2M1[(codes >> 4).long()]], -1).flatten(-2)


@pytest.mark.parametrize("shape", [(2, 5, 32), (3, 7, 16), (1, 9, 80)])
@pytest.mark.parametrize("apart", [True, False])
def test_fused_experts(shape, apart, tmp_path):
    """A second scale for every expert, or one for all; both have names without `weight`."""
    experts, out, cols = shape
    codes, scales = bytes_of(experts, out, cols // 2), bytes_of(experts, out, cols // 16, seed=1).view(E4M3)
    second = torch.rand(experts if apart else 1, generator=torch.Generator().manual_seed(2)) * 1e-3
    factor = scales.float() * second.reshape(-1, 1, 1)
    expected = numbers(codes) * factor.repeat_interleave(16, -1)
    held = {"e.up_proj": codes, "e.up_proj_weight_scale": scales, "e.up_proj_weight_scale_2": second}
    with netweight.open(write(tmp_path, held | {"e.up_proj_input_scale": torch.ones(1)})) as checkpoint:
        assert list(checkpoint) == ["e.up_proj"]
        same(checkpoint["e.up_proj"], expected)


@pytest.mark.parametrize("shape", [(2, 32, 5), (3, 16, 9), (1, 48, 1), (2, 16, 700)])
def test_experts_of_llama_4(shape, tmp_path):
    """[experts, in, out], where modelopt turns the packed bytes and their scales together."""
    experts, rows, cols = shape
    turned, scales = bytes_of(experts, cols, rows // 2), bytes_of(experts, cols, rows // 16, seed=1).view(E4M3)
    second = torch.tensor(0.003)
    factor = scales.float() * second
    expected = (numbers(turned) * factor.repeat_interleave(16, -1)).transpose(1, 2).contiguous()
    held = {
        "e.gate_up_proj": turned.transpose(1, 2),
        "e.gate_up_proj_weight_scale": scales.transpose(1, 2),
        "e.gate_up_proj_weight_scale_2": second,
    }
    with netweight.open(write(tmp_path, held)) as checkpoint:
        assert list(checkpoint) == ["e.gate_up_proj"]
        same(checkpoint["e.gate_up_proj"], expected)
        assert checkpoint["e.gate_up_proj"].stored == "NVFP4"


@pytest.mark.parametrize("shape", [(5, 32), (3, 96), (2, 3, 64), (4, 2048)])
def test_experts_of_deepseek_v4(shape, tmp_path):
    """All codes and all powers of two, with what is no number; not where `scale` is something else."""
    *lead, cols = shape
    codes = bytes_of(*lead, cols // 2)
    powers = torch.arange(256, dtype=torch.uint8)[: 4 * 64].reshape(4, 64) if shape == (4, 2048) else None
    scales = bytes_of(*lead, cols // 32, seed=1) if powers is None else powers
    factor = scales.view(E8M0).float().repeat_interleave(32, -1)
    expected = (numbers(codes).double() * factor.double()).to(torch.bfloat16)
    held = {
        "layers.0.ffn.experts.0.w1.weight": codes.view(torch.int8),
        "layers.0.ffn.experts.0.w1.scale": scales.view(E8M0),
    }
    held |= {
        "layers.0.norm.scale": torch.ones(3),
        "b.weight": torch.ones(4, 4, dtype=torch.int8),
        "b.scale": torch.ones(4),
    }
    with netweight.open(write(tmp_path, held)) as checkpoint:
        assert set(checkpoint) == {"layers.0.ffn.experts.0.w1.weight", "layers.0.norm.scale", "b.weight", "b.scale"}
        tensor = checkpoint["layers.0.ffn.experts.0.w1.weight"]
        assert (tensor.stored, tensor.dtype.name, tensor.file_bytes) == (
            "MXFP4",
            "BF16",
            codes.numel() + scales.numel(),
        )
        same(tensor, expected)
        assert checkpoint["b.weight"].dtype.name == "I8"


@pytest.mark.parametrize("kind", [E8M0, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "config"),
    [((300, 200), None), ((128, 128), None), ((33, 65), {"quantization_config": {"weight_block_size": [32, 32]}})],
)
def test_blocks_whose_scales_are_called_scale(shape, config, kind, tmp_path):
    """DeepSeek-V4's other weights; with F32, what DeepSeek-V3's inference/convert.py writes."""
    side = 32 if config else 128
    codes = bytes_of(*shape).view(E4M3)
    grid = [-(-n // side) for n in shape]
    scales = bytes_of(*grid, seed=1, low=110, high=140).view(E8M0).float().to(kind)
    spread = scales.float().repeat_interleave(side, 0)[: shape[0]].repeat_interleave(side, 1)[:, : shape[1]]
    with netweight.open(write(tmp_path, {"a.weight": codes, "a.scale": scales}, config)) as checkpoint:
        assert list(checkpoint) == ["a.weight"]
        same(checkpoint["a.weight"], codes.float() * spread)


@pytest.mark.parametrize("other", [torch.ones(()), torch.ones(300), torch.ones(300, 1), torch.ones(3, 3)])
def test_a_parameter_called_scale(other, tmp_path):
    """It fits no blocks: both stay what they are, and a note says so. A weight that is no code has no scales at all."""
    held = {
        "a.weight": bytes_of(300, 200).view(E4M3),
        "a.scale": other,
        "b.weight": torch.ones(300, 200),
        "b.scale": other,
    }
    with netweight.open(write(tmp_path, held)) as checkpoint:
        assert set(checkpoint) == set(held)
        assert checkpoint["a.weight"].dtype.name == "F8_E4M3"
        (note,) = checkpoint.notes
        assert "1 weight of 8 bits has a tensor 'scale' beside, which is no scale of blocks" in note


MODELOPT = {"l.weight": bytes_of(4, 16), "l.weight_scale": finite_scales(4, 2), "l.weight_scale_2": torch.ones(())}
EXPERT = {"l.weight": bytes_of(4, 16).view(torch.int8), "l.scale": bytes_of(4, 1).view(E8M0)}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (MODELOPT | {"l.weight_scale": finite_scales(4, 1)}, "do not fit; expected F8_E4M3 for every 16 columns"),
        (MODELOPT | {"l.weight_scale": torch.ones(4, 2)}, "do not fit; expected F8_E4M3"),
        (MODELOPT | {"l.weight_scale_2": torch.ones(4)}, "do not fit; expected F8_E4M3"),
        (MODELOPT | {"l.weight_scale_2": torch.ones(1, dtype=torch.bfloat16)}, "do not fit; expected F8_E4M3"),
        ({name: tensor for name, tensor in MODELOPT.items() if name != "l.weight_scale"}, "its scales none and F32"),
        (MODELOPT | {"l.weight": bytes_of(4, 3, 16)}, "do not fit; expected F8_E4M3"),
        (MODELOPT | {"l.svdquant_lora_a": torch.ones(2, 32)}, "has a part of low rank, 'l.svdquant_lora_a'"),
        (
            MODELOPT | {"l.weight": bytes_of(4, 32).view(E4M3), "l.weight_scale": torch.ones(())},
            "expected scales alone",
        ),
        (EXPERT | {"l.scale": bytes_of(4, 2).view(E8M0)}, "do not fit; expected bytes of two numbers"),
        (EXPERT | {"l.weight": bytes_of(4, 15).view(torch.int8)}, "do not fit; expected bytes of two numbers"),
        (EXPERT | {"l.weight": bytes_of(4).view(torch.int8)}, "do not fit; expected bytes of two numbers"),
    ],
)
def test_parts_that_do_not_fit(held, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        netweight.open(write(tmp_path, held))


def test_a_weight_of_two_formats(tmp_path):
    """Bytes that have scales of two decoders beside them, each of which would do alone."""
    name = "tensor 'l.weight': belongs to quantised weights of two formats, expected one"
    for number, beside in enumerate(({}, {"l.weight_zero_point": torch.ones(4, 1, dtype=torch.int8)})):
        held = EXPERT | {"l.weight_scale": torch.ones(4, 1)} | beside
        with pytest.raises(FormatError, match=name):
            netweight.open(write(tmp_path / str(number), held))


def test_bytes_of_other_formats_are_said_to_be_so(tmp_path):
    """As modelopt's INT4 and Quark's MXFP4 have them."""
    held = {"a.weight": bytes_of(4, 16), "a.weight_scale": torch.ones(4, 1), "b.weight": bytes_of(4, 16)}
    with netweight.open(write(tmp_path, held | {"b.weight_scale": bytes_of(4, 1)})) as checkpoint:
        assert {name: tensor.dtype.name for name, tensor in checkpoint.items()} == {
            "a.weight": "U8", "a.weight_scale": "F32", "b.weight": "U8", "b.weight_scale": "U8",
        }  # fmt: skip
        assert "2 weights are bytes with scales of a format that is not read" in checkpoint.notes[0]


def test_inputs_that_are_multiplied_first_are_said(tmp_path):
    with netweight.open(write(tmp_path, MODELOPT | {"l.pre_quant_scale": torch.ones(32)})) as checkpoint:
        assert set(checkpoint) == {"l.weight", "l.pre_quant_scale"}
        assert "1 layer's inputs are multiplied by a tensor 'pre_quant_scale' first" in checkpoint.notes[0]


def test_jobs_give_what_they_give_on_the_decoded_model(tmp_path):
    """A fine-tune against NVFP4, and against the same decoded by torch."""
    made = torch.Generator().manual_seed(1)
    plain = {"model.embed_tokens.weight": torch.randn(20, 64, generator=made)}
    stored, whole, tuned = dict(plain), dict(plain), dict(plain)
    for layer in range(2):
        for x in ("q", "k", "v", "o"):
            name = f"model.layers.{layer}.self_attn.{x}_proj.weight"
            codes, scales, second = bytes_of(64, 32, seed=layer), finite_scales(64, 4, seed=layer), torch.tensor(1e-4)
            stored |= {name: codes, f"{name}_scale": scales, f"{name}_scale_2": second}
            whole[name] = numbers(codes) * (scales.float() * second).repeat_interleave(16, -1)
            tuned[name] = whole[name] + torch.randn(64, 64, generator=made) * 0.01
    config = {"model_type": "llama", "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    write(tmp_path / "stored", stored, config)
    write(tmp_path / "whole", whole, {"model_type": "llama"})
    write(tmp_path / "tuned", tuned, {"model_type": "llama"})
    one, other = (netweight.delta(tmp_path / x, [tmp_path / "tuned"]).models[0].summary for x in ("stored", "whole"))
    assert one["global_l2"] == other["global_l2"] > 0
    assert set(netweight.compare(tmp_path / "stored", tmp_path / "whole").identical) == set(whole)
    assert netweight.delta(tmp_path / "stored", [tmp_path / "whole"]).models[0].summary["global_l2"] == 0
    found, plain_info = netweight.info(tmp_path / "stored"), netweight.info(tmp_path / "whole")
    assert (found.parameters, found.tensors) == (plain_info.parameters, plain_info.tensors)
