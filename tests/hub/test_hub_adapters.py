"""Adapters of the hub on bases of the hub: by ranges, by revision, and an adapter alone on the base that it names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hub_models import write_model
from safetensors.numpy import save_file

import netweight
from netweight.errors import ModelNotFoundError
from netweight.params.opening import open_whole

Q = "model.layers.1.self_attn.q_proj"


def write_adapter(folder, seed, base="org/base"):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(4, 512)).astype("f4"), random.normal(size=(512, 4)).astype("f4")
    held = {f"base_model.model.{Q}.lora_A.weight": a, f"base_model.model.{Q}.lora_B.weight": b}
    save_file(held, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return 2 * b.astype("f8") @ a


@pytest.fixture
def published(hub, tmp_path):
    """(the base's arrays, the update of each revision of org/lora, the revisions)"""
    tensors = write_model(tmp_path / "base")
    hub.publish("org/base", tmp_path / "base")
    updates, commits = [], []
    for seed in (1, 2):
        updates.append(write_adapter(tmp_path / f"lora{seed}", seed))
        commits.append(hub.publish("org/lora", tmp_path / f"lora{seed}"))
    return tensors, updates, commits


def close(checkpoint, expected):
    with checkpoint as held:
        assert np.abs(held[f"{Q}.weight"].read() - expected).max() < 1e-4


def test_both_are_read_from_the_hub(hub, published):
    tensors, updates, commits = published
    before = tensors[f"{Q}.weight"].astype("f8")
    hub.clear()
    close(netweight.open("org/base+org/lora"), before + updates[1])
    assert hub.sent() < sum(values.nbytes for values in tensors.values()) // 4  # one tensor, and headers
    close(netweight.open(f"org/base+org/lora@{commits[0]}"), before + updates[0])
    close(netweight.open(f"hf://org/base+hf://org/lora@{commits[0]}"), before + updates[0])
    close(open_whole("org/lora"), before + updates[1])
    with netweight.open("org/base+org/lora") as held:
        assert [part.revision for part in held.made_of][1] == commits[1]


def test_a_merge_is_verified_with_the_revisions_that_it_read(published, tmp_path):
    """Another adapter under the same name is not taken for the one that was merged."""
    _, _, commits = published
    netweight.merge(None, tmp_path / "o", base="org/base", models=[f"org/base+org/lora@{commits[0]}"], weights=[0.5])
    assert netweight.verify(tmp_path / "o").good
    record = json.loads((tmp_path / "o" / "netweight_merge.json").read_text())
    assert record["inputs"][1]["parts"] == ["org/base", f"org/lora@{commits[0]}"]


def test_a_base_that_is_nowhere_is_said(hub, published, tmp_path):
    write_adapter(tmp_path / "stray", 3, base="org/gone")
    with pytest.raises(
        ModelNotFoundError, match=r"is an adapter of 'org/gone', which was not found .*name the base: BASE"
    ):
        open_whole(tmp_path / "stray")
