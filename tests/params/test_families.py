from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netweight.params.families import MODEL_TYPES, SIGNATURES, family
from netweight.params.tied import TIED_BY_DEFAULT

FOLDER = Path(__file__).parents[2].parent / "shared" / "realweights" / "json"
REAL = {  # the file's start: what config says, what the names alone say
    "Alikhan13r__falcon": ("falcon", "falcon"),
    "Ibtasam-98__medgemma": ("gemma3", "gemma3"),
    "JakobJohannesson__mixtral": ("mixtral", "mixtral"),
    "PANDASANG1231__llama": ("llama", "llama"),
    "YouZiSoftware__lzlv": ("llama", "llama"),
    "YouriLalain__3PRYMMAL": ("phi3", "phi3"),
    "ananddhanabal__gemma": ("gemma", "llama"),
    "fetchwiki__deepcogito": ("qwen2", "qwen2"),
    "fetchwiki__mistralai": ("mistral", "llama"),
    "junqi-jiang__oasstpythia": ("gpt-neox", "gpt-neox"),
    "nuxwork__llama": ("llama", "llama"),
    "reubzdubz__Molmo": ("molmo", "molmo"),
    "root-hypercube__qwen3-mlx__Qwen3": ("qwen3", "qwen3"),
    "root-hypercube__qwen3-mlx__model": ("qwen3", "qwen3"),
    "tbressers__WizardLM": ("mixtral", "mixtral"),
}
CONFIGS = {"root-hypercube__qwen3-mlx__model": "root-hypercube__qwen3-mlx__config.json"}


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder of real checkpoints is not here")
@pytest.mark.parametrize(("start", "expected"), REAL.items(), ids=REAL)
def test_real_models(start: str, expected: tuple[str, str]) -> None:
    index = next(FOLDER.glob(f"{start}*.index.json"))
    config = next(FOLDER.glob(CONFIGS.get(start, f"{start}*config.json")))
    names = json.loads(index.read_text())["weight_map"]
    assert (family(names, json.loads(config.read_text())), family(names, None)) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_fc.weight"], "gpt2"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight"], "t5"),
        (["bert.encoder.layer.0.attention.self.query.weight"], "bert"),
        (["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"], "deepseek-v2"),
        (["blocks.0.att.receptance.weight", "blocks.0.ffn.key.weight"], "rwkv"),
        (["tok_embeddings.weight", "layers.0.attention.wq.weight", "layers.0.feed_forward.w3.weight"], "llama2.c"),
        (["x.lora_A.weight"], "lora"),
        (["conv1.weight"], "unknown"),
        ([], "unknown"),
        (["a" * 10**6, "layers." * 10**5], "unknown"),
    ],
)
def test_by_names(names: list[str], expected: str) -> None:
    assert family(names) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "QWEN2"}, "qwen2"),
        ({"model_type": "something_new"}, "something_new"),
        ({"text_config": {"model_type": "gemma3_text"}}, "gemma3"),
        ({"model_type": "qwen2", "text_config": {"model_type": "gemma3_text"}}, "qwen2"),
        ({"model_type": "something_new", "text_config": {"model_type": "gemma3_text"}}, "something_new"),
        ({"model_type": None, "text_config": {"model_type": "gemma3_text"}}, "gemma3"),
        ({"model_type": 7}, "unknown"),
        ({"model_type": "x" * 1000}, "unknown"),
        ({"model_type": "[red]\n"}, "unknown"),
        ({"text_config": []}, "unknown"),
        ([], "unknown"),
        (None, "unknown"),
    ],
)
def test_by_config(config: Any, expected: str) -> None:
    assert family(["a.weight"], config) == expected


def test_tables_agree_with_each_other() -> None:
    named = set(MODEL_TYPES.values()) | {"lora", "megatron", "llama2.c"}
    assert {name for name, _ in SIGNATURES} <= named
    assert set(TIED_BY_DEFAULT) <= named
    assert all(fragment == fragment.lower() for _, fragments in SIGNATURES for fragment in fragments)
