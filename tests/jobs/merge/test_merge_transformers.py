"""transformers loads what a merge has written, with no other step, and computes what it should."""

from __future__ import annotations

import json

import pytest
from tiny_tokenizer import WORDS, tiny_tokenizer

import netweight
from netweight.jobs.merge.request import Weights
from netweight.merging.recipe.recipe import parse_recipe

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = [[1, 3, 4, 5, 9, 2], [1, 30, 17, 6, 6, 8]]
SHARED = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def llama(*, tied=False, **more):
    config = transformers.LlamaConfig(**{**SHARED, **LLAMA, "tie_word_embeddings": tied, **more})
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(**SHARED, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def mixtral():
    config = transformers.MixtralConfig(**SHARED, **LLAMA, num_local_experts=2, num_experts_per_tok=1)
    return transformers.MixtralForCausalLM(config)


FAMILIES = {"llama": llama, "tied llama": lambda: llama(tied=True), "gpt2": gpt2, "mixtral": mixtral}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def saved(folder, make, dtype="float32", count=3, seed=0):
    """`count` models of one family below `folder`, the first the base: (paths, models)."""
    models = []
    for number in range(count):
        torch.manual_seed(seed)
        model = make().eval()
        torch.manual_seed(100 + seed + number)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.3 if number == 0 else 0.05)
        model.to(DTYPES[dtype])
        model.generation_config.max_new_tokens = 17
        model.save_pretrained(folder / f"m{number}")
        tiny_tokenizer(folder / f"m{number}")
        models.append(model)
    return [str(folder / f"m{number}") for number in range(count)], models


def summed(models, weights):
    """A model of the base's kind whose state is base + sum of weighted differences, in float64, rounded once."""
    states = [model.state_dict() for model in models]
    dtype = models[0].dtype
    made = {}
    for name, first in states[0].items():
        total = first.double()
        for state, weight in zip(states[1:], weights, strict=True):
            total = total + weight * (state[name].double() - first.double())
        made[name] = total.to(dtype) if first.is_floating_point() else first
    model = type(models[0])(models[0].config).eval().to(dtype)
    model.load_state_dict(made)
    return model


def load(folder, dtype=torch.float32):
    """The folder by transformers' own classes; nothing missing, nothing left."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, local_files_only=True, dtype="auto"
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not info.get("error_msgs")
    assert model.dtype == dtype
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer(" ".join(WORDS))["input_ids"] == [3, 4, 5]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert model.generation_config.max_new_tokens == 17
    return model.eval()


def assert_same(found, expected, tolerance=1e-6):
    tokens = torch.tensor(TOKENS)
    with torch.no_grad():
        a, b = found.float()(tokens).logits, expected.float()(tokens).logits
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [5_000_000, 5_000])
def test_the_sum_of_task_vectors(tmp_path, family, dtype, size) -> None:
    paths, models = saved(tmp_path, FAMILIES[family], dtype)
    out = tmp_path / "out"
    result = netweight.merge(
        None, out, base=paths[0], models=paths[1:], weights=Weights(explicit=(0.7, -0.4)), max_shard_size=size
    )
    assert not result.notes
    assert (out / "model.safetensors").exists() == (size == 5_000_000)
    assert (out / "model.safetensors.index.json").exists() == (size == 5_000)
    expected = summed(models, (0.7, -0.4))
    found = load(out, DTYPES[dtype])
    assert type(found) is type(expected)
    assert (found.get_output_embeddings().weight is found.get_input_embeddings().weight) == (
        family in {"tied llama", "gpt2"}
    )
    # float32 sums are rounded to bfloat16 as the float64 sums are, but for a few that lie next to a half
    assert_same(found, expected, 1e-5 if dtype == "float32" else 4e-3)


def test_experts_stand_in_files_one_by_one(tmp_path) -> None:
    """transformers 5 stacks experts in memory and writes them one by one, which is what is merged."""
    paths, models = saved(tmp_path, mixtral)
    result = netweight.merge(None, tmp_path / "out", base=paths[0], models=paths[1:])
    names = [name for name in result.record["parameters"] if ".experts." in name]
    assert len(names) == 3 * 2 * 3  # layers, experts, matrices
    assert not any("experts.gate_up_proj" in name for name in names)
    assert any("experts.gate_up_proj" in name for name in models[0].state_dict())


def test_a_merge_in_another_element_type(tmp_path) -> None:
    paths, models = saved(tmp_path, llama)
    netweight.merge(
        None, tmp_path / "out", base=paths[0], models=paths[1:], weights=Weights(explicit=(0.5, 0.5)), dtype="bfloat16"
    )
    found = load(tmp_path / "out", torch.bfloat16)
    assert_same(found, summed(models, (0.5, 0.5)).to(torch.bfloat16), 4e-3)


def stacked(models, layers):
    """A model of the first one's kind with these layers: (number of the model, number of its layer)."""
    config = type(models[0].config)(**{**models[0].config.to_dict(), "num_hidden_layers": len(layers)})
    model = type(models[0])(config).eval()
    before, behind = models[layers[0][0]].state_dict(), models[layers[-1][0]].state_dict()
    made = {name: t for name, t in before.items() if "embed_tokens" in name}
    made |= {name: t for name, t in behind.items() if name in {"model.norm.weight", "lm_head.weight"}}
    for at, (number, layer) in enumerate(layers):
        head = f"model.layers.{layer}."
        for name, t in models[number].state_dict().items():
            if name.startswith(head):
                made[f"model.layers.{at}.{name.removeprefix(head)}"] = t
    model.load_state_dict(made)
    return model


@pytest.mark.parametrize("size", [5_000_000, 5_000])
def test_more_layers_than_any_input(tmp_path, size) -> None:
    paths, models = saved(tmp_path, llama)
    text = f"""
merge_method: passthrough
slices:
- sources: [{{model: {paths[0]}, layer_range: [0, 2]}}]
- sources: [{{model: {paths[1]}, layer_range: [1, 3]}}]
- sources: [{{model: {paths[2]}, layer_range: [0, 3]}}]
"""
    netweight.merge(parse_recipe(text, "recipe"), tmp_path / "out", max_shard_size=size)
    found = load(tmp_path / "out")
    assert found.config.num_hidden_layers == len(found.model.layers) == 7
    assert_same(found, stacked(models, [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]))


def test_layers_of_gpt2(tmp_path) -> None:
    paths, _ = saved(tmp_path, gpt2)
    text = f"""
merge_method: linear
slices:
- sources:
  - {{model: {paths[0]}, layer_range: [0, 2], parameters: {{weight: 1}}}}
  - {{model: {paths[1]}, layer_range: [0, 2], parameters: {{weight: 1}}}}
- sources: [{{model: {paths[2]}, layer_range: [1, 2], parameters: {{weight: 1}}}}]
"""
    netweight.merge(parse_recipe(text, "recipe"), tmp_path / "out")
    found = load(tmp_path / "out")
    assert found.config.n_layer == len(found.transformer.h) == 3
    last = transformers.GPT2LMHeadModel.from_pretrained(paths[2])
    assert torch.equal(found.transformer.h[2].mlp.c_fc.weight, last.transformer.h[1].mlp.c_fc.weight)


@pytest.mark.parametrize(("vocab", "rows"), [("base", 32), ("union-rows", 36)])
@pytest.mark.parametrize("tied", [False, True])
def test_vocabularies_of_different_sizes(tmp_path, vocab, rows, tied) -> None:
    (base, small), (first, second) = saved(tmp_path / "a", lambda: llama(tied=tied), count=2)
    (_, large), (_, third) = saved(tmp_path / "b", lambda: llama(tied=tied, vocab_size=36), count=2)
    netweight.merge(
        None, tmp_path / "out", base=base, models=[small, large], weights=Weights(explicit=(0.5, 0.25)), vocab=vocab
    )
    found = load(tmp_path / "out")
    assert found.config.vocab_size == found.get_input_embeddings().num_embeddings == rows
    wide = [llama(tied=tied, vocab_size=rows) for _ in range(3)]
    extra = third.state_dict()
    for made, model in zip(wide, (first, second, third), strict=True):
        state = dict(model.state_dict())
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            state[name] = torch.cat([state[name], extra[name][len(state[name]) :]])[:rows]
        made.load_state_dict(state)
    assert_same(found, summed([model.eval() for model in wide], (0.5, 0.25)), 1e-5)


def test_a_result_merges_again(tmp_path) -> None:
    """The output is a model as any other: an input of the next merge."""
    paths, models = saved(tmp_path, lambda: llama(tied=True), "bfloat16")
    netweight.merge(None, tmp_path / "x", base=paths[0], models=paths[1:], max_shard_size=5_000)
    netweight.merge(
        None, tmp_path / "out", base=paths[0], models=[tmp_path / "x"], weights=Weights(explicit=(1.0,)),
        dtype="float32",
    )  # fmt: skip
    again = load(tmp_path / "out")
    assert_same(again, load(tmp_path / "x", torch.bfloat16))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True
    assert models[0].config.tie_word_embeddings
