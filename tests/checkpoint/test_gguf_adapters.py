"""LoRA files of GGUF on bases that llama.cpp's converter wrote, and on the models that these were made from."""

from __future__ import annotations

import gguf_files
import numpy as np
import pytest
from gguf_files import field

import netweight
from netweight.errors import FormatError, InputError

RANK = 2


def stored(ref):
    with netweight.open(ref, raw=True) as held:
        return {name: tensor.read() for name, tensor in held.items() if len(tensor.shape) == 2}


def dense(ref):
    with netweight.open(ref) as held:
        return {name: tensor.read().astype(np.float64) for name, tensor in held.items()}


def order_of(rows, among):
    """Where each row of one matrix lies in another with the same rows: what the converter has done to them."""
    return [int(np.flatnonzero((among == row).all(axis=1))[0]) for row in rows]


def lora(architecture, tensors, *, alpha=6.0, kind="lora"):
    fields = [
        field("general.architecture", "text", architecture), field("general.type", "text", "adapter"),
        field("adapter.type", "text", kind), field("adapter.lora.alpha", "f32", alpha),
    ]  # fmt: skip
    return gguf_files.gguf(fields, [(name, t.shape, 0, t.astype("<f4").tobytes()) for name, t in tensors.items()])


def factors(out, cols, seed):
    made = np.random.default_rng(seed)
    return made.integers(-8, 9, (RANK, cols)) / 16, made.integers(-8, 9, (out, RANK)) / 16


LLAMA = {
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.1.attn_k.weight": "model.layers.1.self_attn.k_proj.weight",
    "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
    "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
}
GPT2 = {"blk.0.attn_qkv.weight": "h.0.attn.c_attn.weight", "blk.0.ffn_up.weight": "h.0.mlp.c_fc.weight"}


@pytest.mark.parametrize(("family", "names"), [("llama", LLAMA), ("gpt2", GPT2)])
@pytest.mark.parametrize("quantised", [True, False], ids=["on GGUF", "on the hub's"])
def test_an_adapter_in_gguf(tmp_path, family, names, quantised):
    """Rows of q and k are permuted as the converter permutes those of the weight, GPT-2's weights are turned."""
    file, source = gguf_files.write_family(family, tmp_path)
    raw, hub = stored(file), dense(source)
    tensors, expected = {}, {name: value.copy() for name, value in hub.items()}
    for seed, (own, name) in enumerate(names.items()):
        found = next(key for key in hub if key.endswith(name))
        weight = hub[found].T if family == "gpt2" else hub[found]
        down, up = factors(*weight.shape, seed)
        order = order_of(raw[own], weight)
        tensors |= {f"{own}.lora_a": down, f"{own}.lora_b": up[order]}
        update = 6.0 / RANK * up @ down
        expected[found] = hub[found] + (update.T if family == "gpt2" else update)
    moved = order_of(raw["blk.0.attn_q.weight"], hub[LLAMA["blk.0.attn_q.weight"]]) if family == "llama" else [1, 0]
    assert moved != sorted(moved)  # what is tested is there
    (tmp_path / "lora.gguf").write_bytes(lora(family, tensors))
    base = file if quantised else source
    made = dense(f"{base}+{tmp_path}/lora.gguf")
    plain = dense(base)
    for name in names.values():
        own = next(key for key in made if key.endswith(name))
        found = next(key for key in hub if key.endswith(name))
        assert np.abs(made[own] - expected[found]).max() < 1e-6
        assert np.abs(made[own] - plain[own]).max() > 0.01
    assert made.keys() == plain.keys()


def test_alone_it_is_described_and_measured(tmp_path):
    down, up = factors(12, 8, 1)
    held = {"blk.0.ffn_down.weight.lora_a": down, "blk.0.ffn_down.weight.lora_b": up}
    (tmp_path / "lora.gguf").write_bytes(lora("llama", held))
    about = netweight.info(tmp_path / "lora.gguf").adapter
    assert (about.kind, about.ranks, about.scales) == ("LoRA", {2: 1}, {3.0: 1})
    result = netweight.delta(None, tmp_path / "lora.gguf")
    assert result.models[0].summary["global_l2"] == pytest.approx(3 * np.linalg.norm(up @ down), rel=1e-9)
    (tmp_path / "zero.gguf").write_bytes(lora("llama", held, alpha=0.0))  # counts as the rank in llama.cpp
    assert netweight.info(tmp_path / "zero.gguf").adapter.scales == {1.0: 1}


def test_what_is_no_lora_of_the_base(tmp_path):
    file, _ = gguf_files.write_family("llama", tmp_path)
    down, up = factors(12, 8, 1)
    cases = [
        ({"blk.0.attn_q.weight.lora_a": down}, "lora", InputError, FormatError, "lora_A without lora_B"),
        ({"blk.0.odd.weight.lora_a": down, "blk.0.odd.weight.lora_b": up}, "lora", FormatError, FormatError, ""),
        ({"blk.0.ffn_down.weight.lora_a": down, "blk.0.ffn_down.weight.lora_b": up}, "alora", FormatError, FormatError,
         "adapter.type: an adapter of kind alora, expected lora"),
    ]  # fmt: skip
    for tensors, kind, *errors, message in cases:
        (tmp_path / "lora.gguf").write_bytes(lora("llama", tensors, kind=kind))
        with pytest.raises(tuple(errors)) as caught:
            netweight.open(f"{file}+{tmp_path}/lora.gguf")
        assert message in str(caught.value)
