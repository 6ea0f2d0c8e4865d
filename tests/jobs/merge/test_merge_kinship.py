"""Models that do not belong together: refused by family, else said with both values."""

from __future__ import annotations

import json

import pytest
from merge_families import CONFIG, family, save, weights

import netweight
from netweight.errors import InputError
from netweight.jobs.merge.request import Weights

EQUAL = Weights(explicit=(1.0,))


def pair(tmp_path, mine, theirs):
    """Two models of equal shapes whose configs differ in these entries."""
    return [save(tmp_path / name, weights(i), CONFIG | c) for i, (name, c) in enumerate((("a", theirs), ("b", mine)))]


def notes_of(tmp_path, mine, theirs, **how):
    base, model = pair(tmp_path, mine, theirs)
    return netweight.merge(None, tmp_path / "out", base=base, models=[model], weights=EQUAL, **how).notes


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        ({"rope_theta": 1e6}, {"rope_theta": 10000}, "rope_theta = 1000000.0 against 10000.0"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, {"rope_theta": 1e4},
         "rope_theta = 500000.0 against 10000.0"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}, {"rope_theta": 1e4},
         "rope_type = linear against default, rope_factor = 4.0 against 1.0"),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e6}}},
         {"rope_theta": 1e6, "rope_local_base_freq": 20000}, "sliding rope_theta = 10000.0 against 20000.0"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
         {"rope_parameters": {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0}},
         "low_freq_factor = 1.0 against 2.0"),
        ({"partial_rotary_factor": 0.25}, {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
         "partial_rotary_factor = 0.25 against 0.5"),
        ({"sliding_window": 8}, {"sliding_window": 16}, "sliding_window = 8 against 16"),
        ({"num_attention_heads": 4}, {}, "num_attention_heads = 4 against 2, head_dim = 4 against 8"),
        ({"head_dim": 16}, {"head_dim": 8}, "head_dim = 16 against 8"),
        ({"num_key_value_heads": 1}, {}, "num_key_value_heads = 1 against 2"),
        ({"hidden_act": "gelu"}, {"hidden_act": "silu"}, "hidden_act = gelu against silu"),
        ({"text_config": {"rms_norm_eps": 1e-5}}, {"rms_norm_eps": 1e-6}, "rms_norm_eps = 1e-05 against 1e-06"),
        ({"text_config": {"rms_norm_eps": 1e-5}, "rms_norm_eps": 1e-6}, {"rms_norm_eps": 1e-6},
         "rms_norm_eps = 1e-05 against 1e-06"),
        ({"text_config": {"num_experts_per_tok": 2}, "num_experts_per_tok": 4}, {"num_experts_per_tok": 4},
         "num_experts_per_tok = 2 against 4"),
    ],
)  # fmt: skip
def test_what_shapes_do_not_show(tmp_path, mine, theirs, said):
    [note] = [n for n in notes_of(tmp_path, mine, theirs) if "differs from that of" in n]
    assert f"{tmp_path / 'b'}: its config.json differs from that of {tmp_path / 'a'}" in note
    assert f": {said}: weights may not mean the same" in note


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, {"rope_theta": 10000.0}),
        ({"rope_theta": 1e4, "rope_scaling": None}, {"rope_theta": 1e4}),
        ({"rope_theta": 1e4}, {}),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, {"rope_theta": 1e6}),
        ({"sliding_window": 8, "use_sliding_window": False}, {"sliding_window": 16, "use_sliding_window": False}),
        ({"max_position_embeddings": 9, "use_cache": False, "torch_dtype": "bfloat16"}, {}),
        ({"head_dim": 8}, {}),
        ({"rope_theta": "many", "hidden_act": [1]}, {"rope_theta": 1e4, "hidden_act": "silu"}),
    ],
)
def test_what_is_no_difference(tmp_path, mine, theirs):
    assert not [n for n in notes_of(tmp_path, mine, theirs) if "differs from that of" in n]


@pytest.mark.parametrize("model_type", ["qwen2", "mistral", "some-new-one"])
def test_another_family(tmp_path, model_type):
    base, model = pair(tmp_path, {"model_type": model_type}, {})
    merge = {"base": base, "models": [model], "weights": EQUAL}
    with pytest.raises(InputError, match=rf"b: is of the family {model_type}, .*a of llama: .*--allow-mismatch"):
        netweight.merge(None, tmp_path / "out", **merge)
    assert not (tmp_path / "out").exists()
    found = netweight.merge(None, tmp_path / "out", **merge, allow_mismatch=True)
    assert any(f"family {model_type}" in note and "merged all the same" in note for note in found.notes)
    assert netweight.verify(tmp_path / "out").good


def test_one_family_under_two_names(tmp_path):
    """The text part of a vision-language model, and the model that it was made of."""
    base, model = pair(tmp_path, {"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text"}},
                       {"model_type": "qwen2"})  # fmt: skip
    assert netweight.merge(None, tmp_path / "out", base=base, models=[model], weights=EQUAL).notes is not None


def test_a_model_without_a_config(tmp_path):
    base, [model], *_ = family(tmp_path, models=1)
    (tmp_path / "m1" / "config.json").unlink()
    netweight.merge(None, tmp_path / "out", base=base, models=[model], weights=EQUAL)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
