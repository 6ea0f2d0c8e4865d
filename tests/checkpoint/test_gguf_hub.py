"""GGUF files by llama.cpp's converter are the models of the hub that they were made from, bit for bit."""

from __future__ import annotations

import json

import gguf_files
import numpy as np
import pytest
from gguf_files import families, field, values_of, write_family

import netweight
from netweight.checkpoint.gguf.config import config_of, lacking
from netweight.checkpoint.gguf.header import read_header
from netweight.errors import FormatError
from netweight.source.local import open_local

LOGARITHMS = ".A_log"
"""Stored as -exp of it: what is read is its logarithm, up to the last bit."""

NOT_CONVERTED = {"pooler.dense.weight", "pooler.dense.bias"}
"""What the converter leaves out (BERT)."""


@pytest.mark.parametrize("name", families())
def test_every_family(tmp_path, name):
    file, _ = write_family(name, tmp_path)
    shapes = families()[name]["shapes"]
    with netweight.open(file) as model:
        assert set(model) == set(shapes) - NOT_CONVERTED
        assert not any("keep" in note or "not known" in note for note in model.notes)
        for key, tensor in model.items():
            read, source = tensor.read(), values_of(key, shapes[key])
            assert read.shape == source.shape, key
            if key.endswith(LOGARITHMS):
                assert np.allclose(read, source, rtol=1e-6, atol=1e-7), key
            else:
                assert np.array_equal(read.view(np.uint32), source.view(np.uint32)), key
        assert model.config is not None


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gpt-oss", "deepseek2"])
def test_any_part(tmp_path, name):
    """Tensors that are put together read the same from anywhere."""
    file, _ = write_family(name, tmp_path)
    with netweight.open(file) as model:
        for key, tensor in model.items():
            whole = tensor.read().ravel()
            for start in range(0, len(whole), max(1, len(whole) // 5)):
                out = np.empty(min(37, len(whole) - start), np.float32)
                tensor.read_into(start, out.view(np.uint8).data)
                assert np.array_equal(out, whole[start : start + len(out)]), key


def test_numbers_of_config(tmp_path):
    """What config says of sizes is what config.json of the source says."""
    compared = {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
                "max_position_embeddings", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "n_embd", "n_layer",
                "n_head", "model_type", "tie_word_embeddings", "num_experts", "num_local_experts",
                "head_dim"}  # fmt: skip
    told_otherwise = {
        ("gemma3", "model_type"), ("mistral", "model_type"), ("deepseek2", "num_key_value_heads"),
        ("gpt-neox", "num_key_value_heads"), ("deepseek2", "head_dim"), ("falcon", "max_position_embeddings"),
        ("qwen3-moe", "num_local_experts"), ("deepseek3", "num_key_value_heads"), ("deepseek3", "head_dim"),
        ("olmo3", "model_type"), ("glm4-moe", "num_local_experts"), ("deepseek3", "num_local_experts"),
    }  # fmt: skip
    for name, about in families().items():
        (tmp_path / name).mkdir()
        file, _ = write_family(name, tmp_path / name)
        with netweight.open(file) as model:
            config = model.config
        for key in compared & about["config"].keys() & config.keys():
            if (name, key) not in told_otherwise:
                assert config[key] == about["config"][key], (name, key)
        assert {"model_type", "vocab_size", "tie_word_embeddings"} <= config.keys()
        assert {"num_hidden_layers", "n_layer", "n_layers", "num_layers"} & config.keys()


def write(path, architecture: str, tensors, **numbers: int):
    fields = [field("general.architecture", "text", architecture)]
    fields += [field(f"{architecture}.{key.replace('__', '.')}", "u32", value) for key, value in numbers.items()]
    content = [(name, array.shape, 0, np.ascontiguousarray(array, np.float32).tobytes()) for name, array in tensors]
    path.write_bytes(gguf_files.gguf(fields, content))
    return path


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_fused_queries_keys_and_values(tmp_path):
    """As `--fuse-qkv` of the converter writes them: single ones on the hub, and turned back."""
    q, k, v = random(16, 8), random(8, 8), random(8, 8) + 3

    def halves_by_turns(rows, heads):
        return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)

    fused = np.concatenate([halves_by_turns(q, 4), halves_by_turns(k, 2), v])
    path = write(
        tmp_path / "a.gguf", "llama", [("blk.0.attn_qkv.weight", fused)],
        attention__head_count=4, attention__head_count_kv=2,
    )  # fmt: skip
    with netweight.open(path) as model:
        for name, source in zip("qkv", (q, k, v), strict=True):
            assert np.array_equal(model[f"model.layers.0.self_attn.{name}_proj.weight"].read(), source)


def test_fused_experts(tmp_path):
    gate, up = random(3, 6, 8), random(3, 6, 8) + 2
    path = write(tmp_path / "a.gguf", "qwen3moe", [("blk.1.ffn_gate_up_exps.weight", np.concatenate([gate, up], 1))])
    with netweight.open(path) as model:
        for e in range(3):
            assert np.array_equal(model[f"model.layers.1.mlp.experts.{e}.gate_proj.weight"].read(), gate[e])
            assert np.array_equal(model[f"model.layers.1.mlp.experts.{e}.up_proj.weight"].read(), up[e])


def test_experts_of_old_files(tmp_path):
    path = write(tmp_path / "a.gguf", "llama", [("blk.0.ffn_gate.2.weight", random(6, 8))])
    with netweight.open(path) as model:
        assert list(model) == ["model.layers.0.block_sparse_moe.experts.2.w1.weight"]


def test_a_scale_beside_a_weight(tmp_path):
    """NVFP4 of the converter: one more scale for the whole weight, or each expert; those of inputs are left out."""
    down, one = random(3, 8, 6), random(8, 6)
    tensors = [
        ("blk.0.ffn_down_exps.weight", down),
        ("blk.0.ffn_down_exps.scale", np.array([0.5, 3, 7], np.float32)),
        ("blk.0.attn_v.weight", one),
        ("blk.0.attn_v.scale", np.array([0.3], np.float32)),
        ("blk.0.attn_v.input_scale", np.array([0.1], np.float32)),
    ]
    with netweight.open(write(tmp_path / "a.gguf", "qwen3moe", tensors)) as model:
        for e, scale in enumerate((0.5, 3, 7)):
            read = model[f"model.layers.0.mlp.experts.{e}.down_proj.weight"].read()
            assert np.array_equal(read, down[e] * np.float32(scale))
        assert np.array_equal(model["model.layers.0.self_attn.v_proj.weight"].read(), one * np.float32(0.3))
        assert [entry.name for entry in model.skipped] == ["blk.0.attn_v.input_scale"]


def test_a_scale_that_does_not_fit(tmp_path):
    tensors = [("blk.0.attn_v.weight", random(8, 6)), ("blk.0.attn_v.scale", random(2))]
    with pytest.raises(FormatError, match=r"'blk.0.attn_v.scale': F32 \[2\], expected F32, one for all"):
        netweight.open(write(tmp_path / "a.gguf", "qwen3", tensors))


def test_frequencies_are_no_weights(tmp_path):
    path = write(tmp_path / "a.gguf", "llama", [("rope_freqs.weight", random(4)), ("output_norm.weight", random(8))])
    with netweight.open(path) as model:
        assert list(model) == ["model.norm.weight"]
        assert [entry.name for entry in model.skipped] == ["rope_freqs.weight"]


def test_what_no_row_knows_keeps_its_name(tmp_path):
    tensors = [("blk.0.attn_new.weight", random(4)), ("output_norm.weight", random(8)), ("v.thing", random(2))]
    with netweight.open(write(tmp_path / "a.gguf", "llama", tensors)) as model:
        assert list(model) == ["blk.0.attn_new.weight", "model.norm.weight", "v.thing"]
        assert any("2 tensors keep their names of GGUF" in note and "v.thing" in note for note in model.notes)


def test_an_architecture_that_is_not_known(tmp_path):
    with netweight.open(write(tmp_path / "a.gguf", "tomorrow", [("blk.0.attn_q.weight", random(4, 4))])) as model:
        assert list(model) == ["blk.0.attn_q.weight"]
        assert any("its architecture, tomorrow, is not known here" in note for note in model.notes)
        assert model.config is None


def test_a_file_that_says_nothing(tmp_path):
    (tmp_path / "a.gguf").write_bytes(gguf_files.gguf([], [("x", (2,), 0, bytes(8))]))
    with netweight.open(tmp_path / "a.gguf") as model:
        assert any("its architecture, None, is not known here" in note for note in model.notes)


@pytest.mark.parametrize(
    ("architecture", "tensors", "numbers", "message"),
    [
        ("llama", [("blk.0.attn_q.weight", random(8, 4))], {}, "expected rows for None heads"),
        ("llama", [("blk.0.attn_q.weight", random(6, 4))], {"attention__head_count": 4}, "expected rows for 4 heads"),
        (
            "llama",
            [("blk.0.attn_q.weight", random(8, 4))],
            {"attention__head_count": 0},
            "expected rows for None heads",
        ),
        ("falcon", [("blk.0.attn_qkv.weight", random(9, 4))], {"attention__head_count": 4}, "4 heads of queries and 4"),
        ("qwen3moe", [("blk.0.ffn_up_exps.weight", random(8))], {}, "expected a stack of matrices"),
        ("gpt-oss", [("blk.0.ffn_up_exps.weight", random(2, 4, 4))], {}, "'blk.0.ffn_gate_exps.weight', which makes"),
        (
            "deepseek2",
            [("blk.0.attn_k_b.weight", random(2, 4, 4)), ("blk.0.attn_v_b.weight", random(2, 4, 5))],
            {},
            "expected one that fits attn_v_b.weight beside it",
        ),
        (
            "llama",
            [("blk.0.ffn_gate.0.weight", random(6, 8)), ("blk.0.ffn_gate_exps.weight", random(1, 6, 8))],
            {},
            "two tensors are 'model.layers.0.block_sparse_moe.experts.0.w1.weight'",
        ),
    ],
)
def test_shapes_that_do_not_fit(tmp_path, architecture, tensors, numbers, message):
    with pytest.raises(FormatError) as raised:
        netweight.open(write(tmp_path / "a.gguf", architecture, tensors, **numbers))
    assert message in str(raised.value)


def test_heads_that_differ_by_block(tmp_path):
    q = random(16, 4)
    fields = [field("general.architecture", "text", "llama"), field("llama.attention.head_count", "[u32]", [2, 4])]
    turned = q.reshape(4, 2, 2, 4).swapaxes(1, 2).reshape(16, 4)
    content = gguf_files.gguf(fields, [("blk.1.attn_q.weight", q.shape, 0, turned.tobytes())])
    (tmp_path / "a.gguf").write_bytes(content)
    with netweight.open(tmp_path / "a.gguf") as model:
        assert np.array_equal(model["model.layers.1.self_attn.q_proj.weight"].read(), q)


def test_a_norm_of_float16(tmp_path):
    """Less one is computed from what is stored, in float32."""
    stored = np.array([1.5, 0.25, 1.0009765625], np.float16)
    fields = [field("general.architecture", "text", "gemma")]
    (tmp_path / "a.gguf").write_bytes(gguf_files.gguf(fields, [("output_norm.weight", (3,), 1, stored.tobytes())]))
    with netweight.open(tmp_path / "a.gguf") as model:
        assert np.array_equal(model["model.norm.weight"].read(), np.float32([0.5, -0.75, 0.0009765625]))


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3-moe", "gpt2", "gpt-oss", "falcon"])
def test_commands_pair_it_with_its_source(tmp_path, name):
    file, source = write_family(name, tmp_path)
    result = netweight.delta(source, [file])
    summary = result.models[0].summary
    assert (summary["global_l2"], result.models[0].skipped) == (0, ())
    assert summary["elements"] == sum(int(np.prod(shape)) for shape in families()[name]["shapes"].values())
    compared = netweight.compare(source, file)
    assert set(compared.identical) == set(families()[name]["shapes"])


def test_raw(tmp_path):
    """What is stored: blocks as bytes, under the names of the file."""
    codes = np.random.default_rng(0).integers(0, 256, (4, 34), dtype=np.uint8)
    fields = [field("general.architecture", "text", "llama"), field("llama.attention.head_count", "u32", 1)]
    content = [("blk.0.attn_q.weight", (4, 32), 8, codes.tobytes()), ("output_norm.weight", (1,), 0, b"\0\0\0@")]
    (tmp_path / "a.gguf").write_bytes(gguf_files.gguf(fields, content))
    with netweight.open(tmp_path / "a.gguf", raw=True) as model:
        assert list(model) == ["blk.0.attn_q.weight", "output_norm.weight"]
        assert np.array_equal(model["blk.0.attn_q.weight"].read(), codes.ravel())
    with netweight.open(tmp_path / "a.gguf") as model:
        tensor = model["model.layers.0.self_attn.q_proj.weight"]
        assert [part.name for part in tensor.parts] == [tensor.name]
        assert [part.name for part in tensor.stored_parts] == ["blk.0.attn_q.weight"]


def test_real_files(realweights):
    files = sorted(realweights.glob("*.gguf"))
    assert files
    for file in files:
        with netweight.open(file) as model:
            assert model.format == "gguf"
            assert all(np.isfinite(tensor.read()).all() for tensor in model.values())
        header = read_header(open_local(file))
        if header.fields["general.architecture"] == "llama":
            with netweight.open(file) as model:
                hidden = header.fields["llama.embedding_length"]
                assert model["model.embed_tokens.weight"].shape[1] == hidden
                assert "model.layers.0.self_attn.q_proj.weight" in model
                assert all(name.startswith(("model.", "lm_head.")) for name in model)


WHOLE = ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "olmo2", "granite", "smollm3", "gpt2", "starcoder2"]


@pytest.mark.parametrize("name", WHOLE)
def test_config_is_enough_to_load_it(tmp_path, name):
    """transformers computes the same with the config of the metadata as with the source's own."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    file, source = write_family(name, tmp_path)
    header = read_header(open_local(file))
    with netweight.open(file) as model:
        config = model.config
    stored = {info.name: None for info in header.tensors}
    assert lacking(header.fields, config, stored) == ""
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config))
    tokens = torch.arange(1, 20).reshape(1, -1) % 48
    weights = load_file(source / "model.safetensors")
    outputs = []
    for folder in (source, made):
        loaded = transformers.AutoConfig.from_pretrained(folder)
        net = transformers.AutoModelForCausalLM.from_config(loaded).eval()
        net.save_pretrained(tmp_path / "layout")
        (tmp_path / "layout" / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
        net = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "layout", dtype=torch.float32).eval()
        with torch.no_grad():
            outputs.append(net(tokens).logits)
    assert weights
    assert torch.isfinite(outputs[0]).all()
    assert torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("name", "why"), [("llama-long", "rotary frequencies are scaled"), ("gemma2", "do not say all")]
)
def test_config_that_is_not_enough(tmp_path, name, why):
    file, _ = write_family(name, tmp_path)
    header = read_header(open_local(file))
    stored = {info.name: None for info in header.tensors}
    assert why in lacking(header.fields, config_of(header.fields, {}), stored)
