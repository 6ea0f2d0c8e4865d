"""MXFP4 as gpt-oss stores its experts, against torch: a table of E2M1, ldexp, the low half first, turned."""

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

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def parts(experts, out, groups, low=0, high=255, seed=0):
    made = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (experts, out, groups, 16), generator=made).to(torch.uint8)
    return blocks, torch.randint(low, high, (experts, out, groups), generator=made).to(torch.uint8)


def dense(blocks, scales):
    """[experts, in, out] bfloat16; the table's numbers times powers of two, in float64, of which bfloat16 has each."""
    table = torch.tensor(E2M1, dtype=torch.float64)
    numbers = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], dim=-1).flatten(-2)
    whole = torch.ldexp(numbers, scales.double()[..., None] - 127).flatten(2)
    return whole.to(torch.bfloat16).transpose(1, 2).contiguous()


def bits(tensor):
    return tensor.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 64, 2), (1, 7, 300)])
def test_every_number_times_its_scale(tmp_path, shape):
    """All codes and all scales but NaN, down to what bfloat16 has no normal numbers for; read from anywhere."""
    blocks, scales = parts(*shape)
    expected = bits(dense(blocks, scales))
    save_file({"e.w_blocks": blocks, "e.w_scales": scales, "e.w_bias": torch.ones(3)}, tmp_path / "m.safetensors")
    with netweight.open(tmp_path / "m.safetensors") as checkpoint:
        assert set(checkpoint) == {"e.w", "e.w_bias"}
        tensor = checkpoint["e.w"]
        assert (tensor.name, tensor.shape, tensor.dtype.name) == ("e.w", expected.shape, "BF16")
        assert {part.name for part in tensor.stored_parts} == {"e.w_blocks", "e.w_scales"}
        assert np.array_equal(tensor.read().view(np.uint16), expected)
        check_ends(tensor)
        rng = random.Random(2)
        for _ in range(10):
            start = rng.randrange(tensor.size)
            out = np.empty(rng.randint(1, tensor.size - start), np.uint16)
            tensor.read_into(start, out.view(np.uint8).data)
            assert np.array_equal(out, expected.reshape(-1)[start : start + len(out)])
        assert "1 weight is stored in MXFP4" in checkpoint.notes[0]


def test_more_than_is_read_at_a_time(tmp_path):
    blocks, scales = parts(2, 300, 40, 100, 150)
    save_file({"w_blocks": blocks, "w_scales": scales}, tmp_path / "m.safetensors")
    with netweight.open(tmp_path / "m.safetensors") as checkpoint:
        assert np.array_equal(checkpoint["w"].read().view(np.uint16), bits(dense(blocks, scales)))


def test_the_scale_that_is_no_number(tmp_path):
    blocks, scales = parts(1, 1, 2)
    scales[0, 0, 1] = 255
    save_file({"w_blocks": blocks, "w_scales": scales}, tmp_path / "m.safetensors")
    read = netweight.open(tmp_path / "m.safetensors")["w"].read().astype(np.float32)[0, :, 0]
    assert np.isnan(read[32:]).all()
    assert np.isfinite(read[:32]).all()


def test_blocks_with_strides(tmp_path):
    """As torch stores a view: no words of eight bytes to be turned."""
    blocks, scales = parts(2, 6, 4)
    torch.save({"w_blocks": blocks.transpose(1, 2).contiguous().transpose(1, 2), "w_scales": scales}, tmp_path / "m.pt")
    with netweight.open(tmp_path / "m.pt") as checkpoint:
        assert np.array_equal(checkpoint["w"].read().view(np.uint16), bits(dense(blocks, scales)))


def test_every_code_with_every_scale(tmp_path):
    """Products that are denormal or too large for bfloat16 among them; from words in the middle of a scale."""
    blocks = torch.arange(256, dtype=torch.uint8).reshape(16, 16).repeat(3, 17, 1, 1)
    scales = (torch.arange(3 * 17 * 16).reshape(3, 17, 16) % 255).to(torch.uint8)
    save_file({"w_blocks": blocks, "w_scales": scales}, tmp_path / "m.safetensors")
    with netweight.open(tmp_path / "m.safetensors") as checkpoint:
        whole = checkpoint["w"].read().view(np.uint16).reshape(-1)
        assert np.array_equal(whole, bits(dense(blocks, scales)).reshape(-1))
        for start, count in ((17 * 16, 17 * 16), (17 * 16 + 5, 40), (17 * 16 * 33 + 1, 17 * 48), (0, 1)):
            out = np.empty(count, np.uint16)
            checkpoint["w"].read_into(start, out.view(np.uint8).data)
            assert np.array_equal(out, whole[start : start + count])


@pytest.mark.parametrize("scale", [0, 1, 2, 3, 126, 127, 128, 251, 252, 253, 254])
def test_every_code_with_one_scale(scale, tmp_path):
    """Rows whose products are all normal numbers are computed, the others looked up."""
    blocks = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 19, 1, 1)
    scales = torch.full((1, 19, 16), scale, dtype=torch.uint8)
    save_file({"w_blocks": blocks, "w_scales": scales}, tmp_path / "m.safetensors")
    with netweight.open(tmp_path / "m.safetensors") as checkpoint:
        assert np.array_equal(checkpoint["w"].read().view(np.uint16), bits(dense(blocks, scales)))


@pytest.mark.parametrize(
    ("blocks", "scales"),
    [
        (torch.zeros(2, 5, 3, 16, dtype=torch.uint8), torch.zeros(2, 5, 4, dtype=torch.uint8)),
        (torch.zeros(2, 5, 3, 8, dtype=torch.uint8), torch.zeros(2, 5, 3, dtype=torch.uint8)),
        (torch.zeros(5, 3, 16, dtype=torch.uint8), torch.zeros(5, 3, dtype=torch.uint8)),
        (torch.zeros(2, 5, 3, 16, dtype=torch.int8), torch.zeros(2, 5, 3, dtype=torch.uint8)),
    ],
)
def test_parts_that_do_not_fit(tmp_path, blocks, scales):
    save_file({"w_blocks": blocks, "w_scales": scales}, tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match=r"tensor 'w_blocks': .* do not fit; expected bytes"):
        netweight.open(tmp_path / "m.safetensors")


def test_a_weight_that_is_stored_twice(tmp_path):
    blocks, scales = parts(1, 2, 1)
    save_file({"w": torch.ones(2), "w_blocks": blocks, "w_scales": scales}, tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match="tensor 'w': is stored twice, in MXFP4 too"):
        netweight.open(tmp_path / "m.safetensors")


def test_blocks_alone_are_what_they_are(tmp_path):
    save_file({"w_blocks": torch.zeros(1, 2, 3, 16, dtype=torch.uint8)}, tmp_path / "m.safetensors")
    assert netweight.open(tmp_path / "m.safetensors")["w_blocks"].dtype.name == "U8"


def test_jobs_give_what_they_give_on_the_model_in_bfloat16(tmp_path):
    """gpt-oss: a fine-tune of the release in MXFP4 against it, and against the same in bfloat16."""
    made = torch.Generator().manual_seed(1)
    plain = {"model.embed_tokens.weight": torch.randn(20, 64, generator=made).bfloat16()}
    stored, whole, tuned = dict(plain), dict(plain), dict(plain)
    for layer in range(2):
        for name, out, groups in (("gate_up_proj", 192, 2), ("down_proj", 64, 3)):
            at = f"model.layers.{layer}.mlp.experts.{name}"
            stored[f"{at}_blocks"], stored[f"{at}_scales"] = parts(4, out, groups, 115, 125, seed=layer + out)
            whole[at] = dense(stored[f"{at}_blocks"], stored[f"{at}_scales"])
            tuned[at] = (whole[at].float() * 1.01).bfloat16()
            for held in (stored, whole, tuned):
                held[f"{at}_bias"] = torch.ones(4, out, dtype=torch.bfloat16)
    config = {"model_type": "gpt_oss", "hidden_size": 64, "num_hidden_layers": 2}
    for name, held in (("stored", stored), ("whole", whole), ("tuned", tuned)):
        (tmp_path / name).mkdir()
        save_file(held, tmp_path / name / "model.safetensors")
        about = config | ({"quantization_config": {"quant_method": "mxfp4"}} if name == "stored" else {})
        (tmp_path / name / "config.json").write_text(json.dumps(about))
    one, other = (
        netweight.delta(tmp_path / name, [tmp_path / "tuned"]).models[0].summary for name in ("stored", "whole")
    )
    assert one["global_l2"] == other["global_l2"] > 0
    assert one["groups"] == other["groups"]
    assert set(netweight.compare(tmp_path / "stored", tmp_path / "whole").identical) == set(whole)
    for name in ("stored", "whole"):
        out = tmp_path / f"merged of {name}"
        netweight.merge(
            None, out, base=tmp_path / name, models=[tmp_path / "tuned"], method="linear", weights=(0.5,), workers=1
        )
        assert netweight.verify(out).good
    merged = load_file(tmp_path / "merged of stored" / "model.safetensors")
    expected = load_file(tmp_path / "merged of whole" / "model.safetensors")
    assert merged.keys() == expected.keys() == whole.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    assert "quantization_config" not in json.loads((tmp_path / "merged of stored" / "config.json").read_text())
    found, plain_info = netweight.info(tmp_path / "stored"), netweight.info(tmp_path / "whole")
    assert (found.parameters, found.tensors) == (plain_info.parameters, plain_info.tensors)
    row = next(row for row in found.dtypes if row.dtype == "MXFP4")
    assert row.bytes * 32 == row.elements * 17
