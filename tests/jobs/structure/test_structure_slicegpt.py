"""SliceGPT's state dicts with Llama's and OPT's names: widths, counts with and without rotations, the JSON or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pruned_models import (
    CONFIG,
    HEAD,
    HEADS,
    HIDDEN,
    KV,
    LAYER,
    OUTSIDE,
    WIDE,
    WORDS,
    llama,
    save,
    slice_json,
    sliced_llama,
)

from netweight.jobs.structure.job import structure

LAYERS = 4
D = 24
DIMS = [
    {"attention_input": D, "attention_output": D, "mlp_input": D, "mlp_output": D if i < LAYERS - 1 else HIDDEN}
    for i in range(LAYERS)
]
PROJECTIONS = (2 * HEADS * HEAD + 2 * KV * HEAD) * D + 3 * WIDE * D
ROTATIONS = 2 * D * D
LAST = PROJECTIONS + WIDE * (HIDDEN - D), D * D + D * HIDDEN


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(tmp_path / "base", llama(LAYERS), LAYERS)


def sliced(folder: Path, said: Any = None, dims: Any = DIMS) -> Path:
    folder.mkdir()
    torch.save(sliced_llama(LAYERS, dims, D), folder / "Llama-3-8B_0.25.pt")
    if said is not None:
        (folder / "Llama-3-8B_0.25.json").write_text(said if isinstance(said, str) else json.dumps(said))
    return folder


@pytest.mark.parametrize("with_json", [True, False])
def test_llama(tmp_path: Path, base: Path, with_json: bool) -> None:
    found = structure(sliced(tmp_path / "SliceGPT_2000", slice_json(DIMS, D) if with_json else None), base)
    entry, comparison = found.structure, found.comparison
    assert comparison is not None
    assert entry["model_type"] == "slicegpt"
    layers = entry["layers"]
    assert [layer["total"] for layer in layers] == [PROJECTIONS + ROTATIONS] * 3 + [sum(LAST)]
    assert [layer["total_without_rotation"] for layer in layers] == [PROJECTIONS] * 3 + [LAST[0]]
    assert layers[0]["rotation"] == {"attn_shortcut_Q": D * D, "mlp_shortcut_Q": D * D}
    assert layers[3]["rotation"] == {"attn_shortcut_Q": D * D, "mlp_shortcut_Q": D * HIDDEN}
    assert layers[0]["norm"] == 0
    assert layers[0]["attention"]["q_proj"] == HEADS * HEAD * D
    assert layers[3]["mlp"]["down_proj"] == HIDDEN * WIDE
    assert layers[0]["mlp"]["intermediate_size"] == WIDE
    assert (layers[0]["attention"]["num_heads"], layers[0]["attention"]["num_kv_heads"]) == (HEADS, KV)
    rotations = 3 * ROTATIONS + LAST[1]
    total = sum(tensor.numel() for tensor in sliced_llama(LAYERS, DIMS, D).values())
    assert entry["total_params"] == total
    slices = entry["slicegpt"]
    assert slices["total_params_with_rotation"] == total
    assert slices["total_params_without_rotation"] == total - rotations
    assert slices["rotation_params"] == rotations
    assert slices["config_file"] == ("Llama-3-8B_0.25.json" if with_json else None)
    for i, layer in enumerate(slices["layers"]):
        assert layer["layer_idx"] == i
        assert {key: layer[key] for key in DIMS[i]} == DIMS[i]
        assert layer["declared"] == (DIMS[i] if with_json else {})
    assert entry["varying"]["mlp_output"] == {"24": [0, 1, 2], "32": [3]}
    assert entry["other"] == []
    original = OUTSIDE + LAYERS * LAYER
    assert comparison["total_params"]["reduced"] == original - total
    assert comparison["total_params_without_rotation"]["reduced"] == original - (total - rotations)
    assert comparison["layers"][0]["total_without_rotation"]["pruned"] == PROJECTIONS
    assert comparison["removed_layers"] == []
    assert f"{total - rotations:,} parameters and {rotations:,} in shortcut_Q matrices" in found.text
    assert any("JSON is not there" in note for note in entry["notes"]) is not with_json


def test_widths_that_vary_from_layer_to_layer(tmp_path: Path) -> None:
    dims = [
        {"attention_input": 20 + i, "attention_output": 21 + i, "mlp_input": 21 + i, "mlp_output": 22 + i}
        for i in range(LAYERS)
    ]
    found = structure(sliced(tmp_path / "m", slice_json(dims, D), dims)).structure
    for i, layer in enumerate(found["slicegpt"]["layers"]):
        assert {key: layer[key] for key in dims[i]} == layer["declared"] == dims[i]


def test_a_json_that_disagrees(tmp_path: Path) -> None:
    said = slice_json(DIMS, D)
    said["mlp_input_dimensions"]["2"] = 25
    said["layers_num"] = 5
    notes = structure(sliced(tmp_path / "m", said)).structure["notes"]
    assert "Llama-3-8B_0.25.json says mlp_input_dimensions[2] = 25, the tensors have 24" in notes
    assert "Llama-3-8B_0.25.json says layers_num = 5, the names of the tensors count 4" in notes


def test_a_json_that_is_broken(tmp_path: Path) -> None:
    notes = structure(sliced(tmp_path / "m", "{")).structure["notes"]
    assert any(
        note.startswith("SliceGPT's JSON cannot be read: ") and note.endswith("the widths are those of the tensors")
        for note in notes
    )


def test_opt(tmp_path: Path) -> None:
    d, ffn = 24, 64
    tensors = {
        "model.decoder.embed_tokens.weight": torch.zeros(WORDS, d),
        "model.decoder.embed_positions.weight": torch.zeros(18, d),
        "lm_head.weight": torch.zeros(WORDS, HIDDEN),
    }
    for i in range(3):
        at, out = f"model.decoder.layers.{i}.", d if i < 2 else HIDDEN
        for name in "qkv":
            tensors[f"{at}self_attn.{name}_proj.weight"] = torch.zeros(HIDDEN, d)
            tensors[f"{at}self_attn.{name}_proj.bias"] = torch.zeros(HIDDEN)
        tensors |= {
            f"{at}self_attn.out_proj.weight": torch.zeros(d, HIDDEN),
            f"{at}self_attn.out_proj.bias": torch.zeros(d),
            f"{at}fc1.weight": torch.zeros(ffn, d),
            f"{at}fc1.bias": torch.zeros(ffn),
            f"{at}fc2.weight": torch.zeros(out, ffn),
            f"{at}fc2.bias": torch.zeros(out),
            f"{at}attn_shortcut_Q": torch.zeros(d, d),
            f"{at}mlp_shortcut_Q": torch.zeros(d, out),
        }
    dims = [
        {"attention_input": d, "attention_output": d, "mlp_input": d, "mlp_output": d if i < 2 else HIDDEN}
        for i in range(3)
    ]
    torch.save(tensors, tmp_path / "opt-125m_0.25.pt")
    (tmp_path / "opt-125m_0.25.json").write_text(json.dumps(slice_json(dims, d)))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "opt", "num_attention_heads": HEADS, "hidden_size": HIDDEN})
    )
    found = structure(tmp_path).structure
    assert found["model_type"] == "slicegpt"
    assert found["total_params"] == sum(t.numel() for t in tensors.values())
    assert found["embedding_params"] == (WORDS + 18) * d
    assert [layer["total"] for layer in found["layers"]] == [
        sum(t.numel() for name, t in tensors.items() if f".layers.{i}." in name) for i in range(3)
    ]
    layer = found["layers"][2]
    assert layer["attention"]["q_proj"] == HIDDEN * d + HIDDEN
    assert layer["attention"]["bias"] == 3 * HIDDEN + d
    assert layer["mlp"]["bias"] == ffn + HIDDEN
    assert layer["mlp"]["intermediate_size"] == ffn
    assert layer["rotation"] == {"attn_shortcut_Q": d * d, "mlp_shortcut_Q": d * HIDDEN}
    assert layer["attention"]["num_heads"] == HEADS
    assert [row["declared"] for row in found["slicegpt"]["layers"]] == dims
    assert found["other"] == []


def test_config_of_the_base_is_not_held_against_it(tmp_path: Path) -> None:
    folder = sliced(tmp_path / "m", slice_json(DIMS, D))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": LAYERS}))
    found = structure(folder).structure
    assert found["config"] == []
    assert [note for note in found["notes"] if "says" in note] == []
