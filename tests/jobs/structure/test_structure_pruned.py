"""Pruned models in each tool's own layout: counts, reductions and removed layers, exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pruned_models import (
    ATTENTION,
    CONFIG,
    HEAD,
    HIDDEN,
    LAYER,
    MLP,
    OUTSIDE,
    WIDE,
    WORDS,
    llama,
    renumbered,
    save,
    without,
    zeroed,
)

from netweight.errors import FormatError, OutputError
from netweight.jobs.structure.job import structure

LAYERS = 32


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    return llama(LAYERS)


@pytest.fixture(scope="module")
def base(arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("base") / "base", arrays, LAYERS)


def level(original: int, pruned: int) -> dict[str, Any]:
    return {
        "original": original,
        "pruned": pruned,
        "reduced": original - pruned,
        "reduction_ratio": (original - pruned) / original,
    }


def test_a_model_alone(base: Path) -> None:
    found = structure(base)
    assert found.comparison is None
    entry = found.structure
    assert list(entry)[:6] == [
        "model_name", "total_params", "embedding_params", "lm_head_params", "layer_summary", "layers",
    ]  # fmt: skip
    assert entry["model_name"] == "base"
    assert entry["total_params"] == OUTSIDE + LAYERS * LAYER
    assert (entry["embedding_params"], entry["lm_head_params"], entry["norm_params"]) == (2048, 2048, HIDDEN)
    assert entry["layer_summary"]["num_layers"] == LAYERS
    assert entry["layer_summary"]["total_layer_params"] == LAYERS * LAYER
    first = entry["layers"][0]
    assert {key: first[key] for key in ("layer_idx", "total", "norm", "is_zero_layer")} == {
        "layer_idx": 0, "total": LAYER, "norm": 64, "is_zero_layer": False,
    }  # fmt: skip
    assert first["attention"] == {
        "type": "LlamaAttention", "total": ATTENTION, "q_proj": 1024, "k_proj": 512, "v_proj": 512, "o_proj": 1024,
        "num_heads": 4, "num_kv_heads": 2, "bias": 0,
    }  # fmt: skip
    assert first["mlp"] == {
        "type": "LlamaMLP", "total": MLP, "gate_proj": 1536, "up_proj": 1536, "down_proj": 1536,
        "intermediate_size": WIDE, "bias": 0,
    }  # fmt: skip
    assert entry["bytes"] == 4 * entry["total_params"]
    assert [row["agrees"] for row in entry["config"]] == [True] * 6
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_model_against_itself(base: Path) -> None:
    found = structure(base, base).comparison
    assert found is not None
    assert list(found)[:5] == ["original_name", "pruned_name", "total_params", "layer_params", "layers"]
    total = OUTSIDE + LAYERS * LAYER
    assert found["total_params"] == {"original": total, "pruned": total, "reduced": 0, "reduction_ratio": 0.0}
    assert found["removed_layers"] == found["added_layers"] == found["notes"] == []
    row = found["layers"][5]
    assert list(row)[:5] == ["layer_idx", "total", "attention", "mlp", "is_zero_layer"]
    assert row["attention"]["q_proj"] == {"original": 1024, "pruned": 1024, "reduced": 0, "reduction_ratio": 0.0}
    assert row["matched_by"] == "name"


@pytest.mark.parametrize("removed", [[3, 17, 30], range(21, 28), [1, *range(8, 27)], [31], [0, 1]], ids=str)
@pytest.mark.parametrize("stale", [True, False])
def test_removed_layers(tmp_path: Path, base: Path, arrays: dict[str, Any], removed: list[int], stale: bool) -> None:
    removed = list(removed)
    left = LAYERS - len(removed)
    model = save(tmp_path / "short", without(arrays, LAYERS, removed), LAYERS if stale else left)
    found = structure(model, base)
    comparison = found.comparison
    assert comparison is not None
    assert comparison["removed_layers"] == removed
    kept = [i for i in range(LAYERS) if i not in removed]
    assert [row["base_layer"] for row in comparison["layer_map"]] == kept
    assert {row["matched_by"] for row in comparison["layer_map"]} == {"content"}
    assert comparison["layer_params"] == level(LAYERS * LAYER, left * LAYER)
    assert comparison["total_params"] == level(OUTSIDE + LAYERS * LAYER, OUTSIDE + left * LAYER)
    for row in comparison["layers"]:
        gone = row["layer_idx"] in removed
        assert row["is_zero_layer"] is gone
        assert row["total"] == (level(LAYER, 0) if gone else level(LAYER, LAYER))
        assert row["pruned_layer_idx"] == (None if gone else kept.index(row["layer_idx"]))
    assert found.structure["layer_summary"]["num_layers"] == left
    said = [note for note in found.structure["notes"] if "num_hidden_layers" in note]
    assert said == ([f"config.json says num_hidden_layers = 32, the tensors have {left}"] if stale else [])


@pytest.mark.parametrize("change", ["noise", "wanda", "float16", "narrow"])
def test_layers_that_were_removed_and_changed(tmp_path: Path, base: Path, arrays: dict[str, Any], change: str) -> None:
    removed = [2, 9, 10, 22, 23, 24, 30]
    changed = without(arrays, LAYERS, removed)
    rng = np.random.default_rng(1)
    if change == "noise":
        changed = {k: (v + rng.normal(0, 0.004, v.shape)).astype(np.float32) for k, v in changed.items()}
    elif change == "wanda":
        changed = zeroed(changed, 0.5)
    elif change == "float16":
        changed = {k: v.astype(np.float16) for k, v in changed.items()}
    else:  # every matrix of the feed-forward narrower, so that no shape of it is left to compare
        for name in list(changed):
            if "gate_proj" in name or "up_proj" in name:
                changed[name] = changed[name][:40].copy()
            elif "down_proj" in name:
                changed[name] = changed[name][:, :40].copy()
    comparison = structure(save(tmp_path / "m", changed, 25), base).comparison
    assert comparison is not None
    assert comparison["removed_layers"] == removed
    assert {row["matched_by"] for row in comparison["layer_map"]} == {"similar"}
    assert min(row["similarity"] for row in comparison["layer_map"]) > 0.7


def test_removed_layers_of_a_model_that_was_tuned_before(tmp_path: Path, arrays: dict[str, Any], base: Path) -> None:
    """Layers of another model are nobody's: nothing is claimed."""
    other = llama(LAYERS, seed=7)
    found = structure(save(tmp_path / "m", without(other, LAYERS, [4]), 31), base).comparison
    assert found is not None
    assert found["removed_layers"] == found["added_layers"] == []
    assert found["unknown_layers"] == list(range(31))
    assert found["layers"] == []
    (note,) = found["notes"]
    assert note == (
        "31 of 31 layers could not be told from their contents (all alike, or unlike any of the base): which of the"
        " base's layers they are, and which are gone, is not known for certain"
    )
    assert found["layer_params"] == level(32 * LAYER, 31 * LAYER)


def test_one_layer_that_was_replaced_is_told_by_its_place(tmp_path: Path, arrays: dict[str, Any], base: Path) -> None:
    changed = without(arrays, LAYERS, [20, 21])
    strange = llama(1, seed=9)
    for name, array in strange.items():
        if ".layers." in name:
            changed[name.replace(".0.", ".5.")] = array
    found = structure(save(tmp_path / "m", changed, 30), base).comparison
    assert found is not None
    assert found["removed_layers"] == [20, 21]
    assert found["layer_map"][5] == {"layer_idx": 5, "base_layer": 5, "matched_by": "position", "similarity": None}


def test_an_unknown_layer_beside_a_gap_leaves_the_gap_open(tmp_path: Path, arrays: dict[str, Any], base: Path) -> None:
    changed = without(arrays, LAYERS, [5, 25])
    for name, array in llama(1, seed=9).items():
        if ".layers." in name:
            changed[name.replace(".0.", ".5.")] = array  # it was layer 6; it could be 5
    found = structure(save(tmp_path / "m", changed, 30), base).comparison
    assert found is not None
    assert found["removed_layers"] == [25]
    assert [row["base_layer"] for row in found["layer_map"]][4:7] == [4, None, 7]
    assert (found["unknown_layers"], found["added_layers"]) == ([5], [])
    assert len(found["layers"]) == 30


def test_a_layer_between_two_that_are_neighbours_in_the_base_is_none_of_it(
    tmp_path: Path, arrays: dict[str, Any], base: Path
) -> None:
    order = [*range(11), 0, *range(11, LAYERS)]
    changed = renumbered(arrays, order)
    for name, array in llama(1, seed=9).items():
        if ".layers." in name:
            changed[name.replace(".0.", ".11.")] = array
    made = structure(save(tmp_path / "m", changed, 33), base)
    found = made.comparison
    assert found is not None
    assert found["added_layers"] == [{"layer_idx": 11, "repeats": None}]
    assert found["unknown_layers"] == found["removed_layers"] == found["notes"] == []
    assert len(found["layers"]) == LAYERS
    assert "  layers more than the base has: 1\n" in made.text


def test_packed_weights_are_no_reduction_of_parameters(tmp_path: Path, arrays: dict[str, Any], base: Path) -> None:
    packed = dict(arrays)
    for name in [name for name in arrays if "_proj" in name]:
        rows, columns = packed.pop(name).shape
        packed[name.replace(".weight", ".qweight")] = np.zeros((columns // 8, rows), np.int32)
    found = structure(save(tmp_path / "gptq", packed, LAYERS), base).comparison
    assert found is not None
    assert found["notes"] == [
        "gptq is stored packed (quantized): reductions are of elements as stored, not of parameters"
    ]


def test_a_model_is_no_place_for_results(base: Path) -> None:
    with pytest.raises(OutputError, match="is an input model; choose another output folder"):
        structure(base).write(base)


def test_layers_that_are_there_twice(tmp_path: Path, arrays: dict[str, Any], base: Path) -> None:
    order = [*range(24), *range(8, 32)]  # depth up-scaling
    found = structure(save(tmp_path / "up", renumbered(arrays, order), 48), base).comparison
    assert found is not None
    assert [row["base_layer"] for row in found["layer_map"]] == order
    assert found["removed_layers"] == []
    assert found["added_layers"] == [{"layer_idx": 24 + i, "repeats": 8 + i} for i in range(16)]
    assert found["layer_params"]["reduction_ratio"] == -0.5


def test_numbers_with_gaps_keep_their_names(tmp_path: Path, arrays: dict[str, Any], base: Path) -> None:
    """Identity layers in place: the numbers stay, and a layer without tensors has zero parameters."""
    gone = [11, 12, 20]
    left = {k: v for k, v in arrays.items() if not any(f".layers.{i}." in k for i in gone)}
    found = structure(save(tmp_path / "m", left, LAYERS), base)
    layers = found.structure["layers"]
    assert [layer["layer_idx"] for layer in layers if layer["is_zero_layer"]] == gone
    assert found.structure["layer_summary"]["num_zero_layers"] == 3
    assert found.comparison is not None
    assert found.comparison["removed_layers"] == gone
    assert [row["layer_idx"] for row in found.comparison["layers"] if row["is_zero_layer"]] == gone
    assert "layers without any tensor: 11, 12, 20: counted as layers of zero parameters" in found.structure["notes"]


def test_a_zero_layer_by_empty_tensors(tmp_path: Path, arrays: dict[str, Any]) -> None:
    emptied = {k: v[:0] if ".layers.3." in k else v for k, v in arrays.items()}
    found = structure(save(tmp_path / "m", emptied, LAYERS)).structure
    assert [layer["layer_idx"] for layer in found["layers"] if layer["is_zero_layer"]] == [3]


def test_a_layer_of_zeros(tmp_path: Path, arrays: dict[str, Any], base: Path) -> None:
    """It has all its parameters, and is a zero layer; how many zeros there are in others only `deep` tells."""
    changed = dict(arrays)
    for name, array in arrays.items():
        if ".layers.6." in name:
            changed[name] = -np.zeros_like(array)
    model = save(tmp_path / "zeros", changed, LAYERS)
    plain = structure(model, base)
    assert [layer["layer_idx"] for layer in plain.structure["layers"] if layer["is_zero_layer"]] == [6]
    assert [row["layer_idx"] for row in plain.comparison["layers"] if row["is_zero_layer"]] == [6]
    assert plain.comparison["removed_layers"] == []
    assert plain.structure["layer_summary"]["num_zero_layers"] == 1
    assert "every weight is zero in layer 6" in plain.structure["notes"]
    assert [line.split()[0] for line in plain.text.splitlines() if line.endswith("zero layer")] == ["6"]
    assert len(plain.frame.rows) == LAYERS
    assert "zeros" not in plain.structure
    deep = structure(model, base, deep=True)
    assert deep.structure["zeros"]["all_zero_layers"] == [6]
    assert [layer["layer_idx"] for layer in deep.structure["layers"] if layer["is_zero_layer"]] == [6]
    assert [layer["layer_idx"] for layer in deep.structure["layers"] if layer["zeros"]["all_zero"]] == [6]
    assert deep.comparison is not None
    total = OUTSIDE + LAYERS * LAYER
    assert deep.comparison["nonzero_params"] == level(total, total - LAYER)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3FN", "F8_E4M3FNUZ", "F8_E8M0"])
def test_one_bit_makes_a_layer_none_of_zeros(tmp_path: Path, dtype: str) -> None:
    """The last weight of a large tensor is looked at too; what is no zero in its format is none here."""
    import torch
    from safetensors.torch import save_file

    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3FN": torch.float8_e4m3fn,
             "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E8M0": torch.float8_e8m0fnu}  # fmt: skip
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[types[dtype].itemsize]
    tensors = {}
    for layer in range(4):
        held = torch.zeros(700, 400, dtype=bits)
        held[-1, -1] = (0, 1, -(1 << (8 * types[dtype].itemsize - 1)) if bits != torch.uint8 else 0x80, 0)[layer]
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = held.view(types[dtype])
        tensors[f"model.layers.{layer}.norm.weight"] = torch.zeros(4 if layer < 3 else 0, dtype=torch.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    zero = {
        layer
        for layer in range(4)
        if not any(t.float().any() for n, t in tensors.items() if f".{layer}." in n and t.numel())
    }
    found = structure(tmp_path / "model.safetensors").structure
    assert {layer["layer_idx"] for layer in found["layers"] if layer["is_zero_layer"]} == zero
    assert zero == {"F8_E8M0": set(), "F8_E4M3FNUZ": {0, 3}}.get(dtype, {0, 2, 3})


def test_magnitude_zeros_are_counted_exactly(tmp_path: Path, arrays: dict[str, Any]) -> None:
    changed = zeroed(arrays, 0.5)
    changed["model.layers.2.mlp.up_proj.weight"] = changed["model.layers.2.mlp.up_proj.weight"].copy()
    changed["model.layers.2.mlp.up_proj.weight"][[4, 9]] = -0.0
    changed["model.layers.2.mlp.up_proj.weight"][:, 7] = 0.0
    found = structure(save(tmp_path / "m", changed, LAYERS), deep=True).structure
    by_name = {row["name"]: row for row in found["zeros"]["tensors"]}
    for name, array in changed.items():
        row = by_name[name]
        assert row["zeros"] == np.count_nonzero(array == 0), name
        if array.ndim == 2:
            assert row["zero_rows"] == np.count_nonzero(~array.any(axis=1)), name
            assert row["zero_columns"] == np.count_nonzero(~array.any(axis=0)), name
        else:
            assert row["zero_rows"] is row["zero_columns"] is None
    zeros = sum(int(np.count_nonzero(array == 0)) for array in changed.values())
    assert found["zeros"]["zeros"] == zeros
    assert found["zeros"]["nonzero_params"] == found["total_params"] - zeros
    layer = found["layers"][2]["zeros"]
    assert layer["zero_rows"] == 2
    assert layer["zero_columns"] == 1
    assert layer["all_zero"] is False


def prune_like_llm_pruner(model: Any, kept_heads: dict[int, int], width: dict[int, int]) -> None:
    """Heads and channels cut out of some layers, in place: what LLM-Pruner's block-wise mode does."""
    for i, block in enumerate(model.model.layers):
        if i in kept_heads:
            rows = kept_heads[i] * HEAD
            attention = block.self_attn
            for name in ("q_proj", "k_proj", "v_proj"):
                getattr(attention, name).weight = torch.nn.Parameter(getattr(attention, name).weight[:rows].clone())
            attention.o_proj.weight = torch.nn.Parameter(attention.o_proj.weight[:, :rows].clone())
        if i in width:
            mlp = block.mlp
            mlp.gate_proj.weight = torch.nn.Parameter(mlp.gate_proj.weight[: width[i]].clone())
            mlp.up_proj.weight = torch.nn.Parameter(mlp.up_proj.weight[: width[i]].clone())
            mlp.down_proj.weight = torch.nn.Parameter(mlp.down_proj.weight[:, : width[i]].clone())


def test_llm_pruners_pickled_module(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**CONFIG | {"num_hidden_layers": 6, "num_key_value_heads": 4})
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    original = sum(p.numel() for p in model.parameters())
    prune_like_llm_pruner(model, {2: 3, 3: 1}, {2: 30, 3: 30, 4: 17})
    folder = tmp_path / "llm_pruner"
    folder.mkdir()
    torch.save({"model": model, "tokenizer": {"words": ["a", "b"]}}, folder / "pytorch_model.bin")
    found = structure(folder, tmp_path / "base")
    entry, comparison = found.structure, found.comparison
    assert comparison is not None
    assert entry["model_type"] == "bin"
    assert entry["total_params"] == sum(p.numel() for p in model.parameters())
    for block, layer in zip(model.model.layers, entry["layers"], strict=True):
        assert layer["total"] == sum(p.numel() for p in block.parameters())
        assert layer["attention"]["total"] == sum(p.numel() for p in block.self_attn.parameters())
        assert layer["mlp"]["total"] == sum(p.numel() for p in block.mlp.parameters())
    assert [layer["attention"]["num_heads"] for layer in entry["layers"]] == [4, 4, 3, 1, 4, 4]
    assert [layer["mlp"]["intermediate_size"] for layer in entry["layers"]] == [48, 48, 30, 30, 17, 48]
    assert entry["varying"] == {
        "num_heads": {"4": [0, 1, 4, 5], "3": [2], "1": [3]},
        "num_kv_heads": {"4": [0, 1, 4, 5], "3": [2], "1": [3]},
        "intermediate_size": {"48": [0, 1, 5], "30": [2, 3], "17": [4]},
        "attention_inner": {"32": [0, 1, 4, 5], "24": [2], "8": [3]},
    }
    assert comparison["total_params"] == level(original, entry["total_params"])
    assert comparison["layers"][4]["mlp"]["up_proj"] == level(HIDDEN * WIDE, HIDDEN * 17)
    assert comparison["layers"][4]["attention"]["total"]["reduced"] == 0
    assert comparison["layers"][3]["num_heads"] == {"original": 4, "pruned": 1}
    assert comparison["removed_layers"] == []


def test_a_stale_config_is_contradicted(tmp_path: Path, arrays: dict[str, Any]) -> None:
    model = save(tmp_path / "m", arrays, 30, hidden_size=64, vocab_size=65, num_attention_heads=8, intermediate_size=50)
    found = structure(model).structure
    assert [(row["what"], row["declared"], row["found"]) for row in found["config"] if not row["agrees"]] == [
        ("layers", 30, 32),
        ("hidden_size", 64, 32),
        ("vocabulary", 65, 64),
        ("heads", 8, 4),
        ("intermediate_size", 50, 48),
    ]
    for line in (
        "config.json says num_hidden_layers = 30, the tensors have 32",
        "config.json says hidden_size = 64, the tensors have 32",
        "config.json says vocab_size = 65, the tensors have 64",
    ):
        assert line in found["notes"]


@pytest.mark.parametrize("config", [None, "[1, 2]", "{not json", '{"num_hidden_layers": "many", "hidden_size": -1}'])
def test_without_a_config_the_counts_are_the_same(tmp_path: Path, arrays: dict[str, Any], config: str | None) -> None:
    model = save(tmp_path / "m", arrays, None)
    if config is not None:
        (model / "config.json").write_text(config)
    found = structure(model).structure
    assert found["total_params"] == OUTSIDE + LAYERS * LAYER
    assert found["config"] == []
    assert found["layers"][0]["attention"]["num_heads"] is None
    if config is None:
        assert found["notes"] == [f"{model}: has no config.json; heads and declared sizes are not known from it"]


def test_ties_count_once(tmp_path: Path, arrays: dict[str, Any]) -> None:
    tied = {k: v for k, v in arrays.items() if k != "lm_head.weight"}
    model = save(tmp_path / "m", tied, LAYERS, tie_word_embeddings=True)
    once, twice = structure(model).structure, structure(model, count_tied_twice=True).structure
    table = WORDS * HIDDEN
    assert (once["lm_head_params"], twice["lm_head_params"]) == (0, table)
    assert twice["total_params"] - once["total_params"] == table
    assert once["tied"] == {
        "aliases": {},
        "head_is": "model.embed_tokens.weight",
        "total_params_counted_twice": twice["total_params"],
        "lm_head_params_counted_twice": table,
    }


def test_one_storage_under_two_names(tmp_path: Path, arrays: dict[str, Any]) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    found = structure(tmp_path).structure
    assert found["total_params"] == OUTSIDE - WORDS * HIDDEN + LAYERS * LAYER
    assert found["lm_head_params"] == 0
    assert found["tied"]["aliases"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert found["tied"]["total_params_counted_twice"] == OUTSIDE + LAYERS * LAYER


def test_unknown_names_are_counted_and_listed(tmp_path: Path, arrays: dict[str, Any]) -> None:
    strange = {f"model.layers.{i}.wobble.weight": np.ones((3, 5), np.float32) for i in range(4)}
    strange["what\x1b[31m.ever"] = np.ones(7, np.float32)
    found = structure(save(tmp_path / "m", arrays | strange, LAYERS))
    entry = found.structure
    assert entry["total_params"] == OUTSIDE + LAYERS * LAYER + 67
    assert sorted((row["pattern"], row["place"], row["tensors"], row["params"]) for row in entry["other"]) == [
        ("model.layers.N.wobble.weight", "other", 4, 60),
        ("what\x1b[31m.ever", "other", 1, 7),
    ]
    assert entry["layers"][0]["other"] == {"wobble.weight": 15}
    assert "\x1b" not in found.text


def test_the_result_is_a_table_and_a_text(base: Path, tmp_path: Path, arrays: dict[str, Any]) -> None:
    model = save(tmp_path / "m", without(arrays, LAYERS, [3]), 31)
    found = structure(model, base)
    frame = found.to_pandas()
    assert list(frame["total"]) == [LAYER] * 31 + [0]
    assert list(frame["base_layer_idx"]) == [*(i for i in range(32) if i != 3), 3]
    assert found.to_polars().shape == (32, 16)
    assert "<table>" in found._repr_html_()
    assert repr(found) == "<ModelStructure 'm': 245,056 parameters, 31 layers>".replace(
        "245,056", f"{OUTSIDE + 31 * LAYER:,}"
    )
    assert "layers gone: 3\n" in found.text
    found.write(tmp_path / "analysis")
    written = sorted(path.name for path in (tmp_path / "analysis").iterdir())
    assert written == [".netweight.json", "model_comparison.json", "model_structure.json", "structure_summary.txt"]
    assert json.loads((tmp_path / "analysis" / "model_structure.json").read_text()) == found.structure
    assert json.loads((tmp_path / "analysis" / "model_comparison.json").read_text()) == found.comparison
    assert (tmp_path / "analysis" / "structure_summary.txt").read_text() == found.text


def test_broken_models_are_refused_in_one_line(tmp_path: Path, base: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"model\.safetensors: .*bytes") as caught:
        structure(tmp_path)
    assert "\n" not in str(caught.value)
