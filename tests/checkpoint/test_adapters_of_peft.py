"""Models with adapters in them against what peft's own merge_and_unload has made of the same files (recorded)."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

import netweight

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

HERE = Path(__file__).parent / "recorded"
ABOUT = json.loads((HERE / "peft.json").read_text())
CASES = [key for key in ABOUT if "|" in key]


@pytest.fixture(scope="module")
def recorded():
    return load_file(HERE / "peft.safetensors")


def below(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def folders(tmp_path, recorded, case):
    """(base, adapter) as PEFT leaves them."""
    model = case.partition("|")[0]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    save_file(below(recorded, f"{model}|base|"), base / "model.safetensors")
    (base / "config.json").write_text(json.dumps(ABOUT[model]))
    save_file(below(recorded, f"{case}|adapter|"), adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(ABOUT[case]))
    return base, adapter


def far(tensor, expected):
    """The largest difference, by the largest element."""
    expected = expected.double().numpy()
    return np.abs(tensor.read().astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-30)


@pytest.mark.parametrize("case", CASES)
def test_a_base_with_an_adapter_is_what_peft_merges(tmp_path, recorded, case):
    """Every tensor, also those that the adapter does not touch; nothing more and nothing less."""
    base, adapter = folders(tmp_path, recorded, case)
    model = case.partition("|")[0]
    merged = below(recorded, f"{case}|merged|")
    before = below(recorded, f"{model}|base|")
    with netweight.open(f"{base}+{adapter}") as made:
        assert set(made) == before.keys() | merged.keys()
        changed = {name for name in made if far(made[name], merged.get(name, before.get(name))) >= 1e-6}
        assert not changed
        moved = {name for name in made if name in before and far(made[name], before[name]) > 1e-3}
        assert moved  # the adapters were made to change something
        assert moved <= merged.keys()
        assert any(str(adapter) in note and "weights are read with it" in note for note in made.notes)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.endswith(("|lora", "|dora", "|loha", "|lokr-both", "|stacks", "|tokens"))]
)
def test_any_stretch_has_the_bits_of_the_whole(tmp_path, recorded, case):
    base, adapter = folders(tmp_path, recorded, case)
    rng = random.Random(5)
    with netweight.open(f"{base}+{adapter}") as made:
        tensors = [t for t in made.values() if "+" in t.stored]
        assert tensors
        for tensor in tensors:
            whole = tensor.read().reshape(-1).view(np.uint32)
            again = pickle.loads(pickle.dumps(tensor))
            for _ in range(8):
                start = rng.randrange(tensor.size)
                out = np.empty(rng.randint(1, tensor.size - start), np.float32)
                again.read_into(start, out.view(np.uint8).data)
                assert np.array_equal(out.view(np.uint32), whole[start : start + len(out)])


def test_an_adapter_of_the_head_of_a_tied_model_makes_the_head_its_own(tmp_path, recorded):
    """The embedding stays; the config that goes on says that they are no longer tied."""
    base, adapter = folders(tmp_path, recorded, "tied|lora")
    held = {
        f"base_model.model.lm_head.lora_{side}.weight": torch.ones(shape) / 4
        for side, shape in (("A", (2, 12)), ("B", (14, 2)))
    }
    save_file(held, adapter / "adapter_model.safetensors")
    embedding = below(recorded, "tied|base|")["model.embed_tokens.weight"]
    with netweight.open(f"{base}+{adapter}") as made:
        assert far(made["model.embed_tokens.weight"], embedding) == 0
        assert far(made["lm_head.weight"], embedding + 3.5 * 0.125) < 1e-6
        assert made.config["tie_word_embeddings"] is False


def test_two_adapters_are_added_one_after_the_other(tmp_path, recorded):
    base, adapter = folders(tmp_path, recorded, "llama|lora")
    name = "model.layers.0.self_attn.q_proj.weight"
    before = below(recorded, "llama|base|")[name].double()
    once = below(recorded, "llama|lora|merged|")[name].double()
    with netweight.open(f"{base}+{adapter}+{adapter}") as made:
        assert far(made[name], 2 * once - before) < 1e-6
        assert made[name].stored == "F32 + LoRA r2 + LoRA r2"
