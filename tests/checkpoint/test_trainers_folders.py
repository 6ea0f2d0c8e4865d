"""Folders as trainers and hubs leave them: taken where there is one model, else named with the way on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight
from netweight.checkpoint import folder as folders
from netweight.checkpoint.reference import OWNERLESS, HubReference, at_commit, parse_reference
from netweight.errors import FormatError, ModelNotFoundError


def model(folder, value: float = 1.0, file: str = "model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.full((2, 2), value, np.float32)}, folder / file)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "seen": value}))
    return folder


@pytest.mark.parametrize("path", ["checkpoint-500", "snapshots/0123abcd", "a/b/c/d"])
def test_the_one_model_below_is_taken(tmp_path, path):
    below = model(tmp_path / "run" / path)
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "README.md").write_text("a run")
    with netweight.open(tmp_path / "run") as checkpoint:
        assert checkpoint["w"].read().tolist() == [[1, 1], [1, 1]]
        assert checkpoint.config["seen"] == 1  # the config beside the weights
        note = f"{tmp_path / 'run'}: holds no model itself; taken is the one below it, {below}"
        assert checkpoint.notes[0] == note
    assert any(note in line for line in netweight.info(tmp_path / "run").notes)


def test_several_models_below_are_listed_with_their_paths(tmp_path):
    """Whole paths, of any length, for a reader to copy."""
    folder = tmp_path / "a-long-name-of-a-run-with-all-its-settings-in-it-as-trainers-like-to-write"
    paths = [model(folder / f"checkpoint-{step}") for step in (1000, 500, 20)]
    with pytest.raises(ModelNotFoundError) as caught:
        netweight.open(folder)
    listed = ", ".join(f"'{path}'" for path in reversed(paths))
    assert str(caught.value).endswith(f": holds no model itself; 3 are below it: {listed}")


@pytest.mark.parametrize("beside", ["model.gguf", "optimizer.pt", "x.onnx"])
def test_a_folder_that_says_what_it_is_is_not_looked_into(tmp_path, beside):
    model(tmp_path / "below")
    (tmp_path / beside).write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelNotFoundError):
        netweight.open(tmp_path)


def test_of_too_many_folders_none_is_taken_for_the_only_one(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_MOST_FOLDERS", 3)
    model(tmp_path / "a")
    for name in "bcd":
        (tmp_path / name).mkdir()
    with pytest.raises(ModelNotFoundError, match=r"holds no model: no \.safetensors.*its folders: 'a', 'b', 'c', 'd'"):
        netweight.open(tmp_path)
    (tmp_path / "d").rmdir()
    assert len(netweight.open(tmp_path).notes) == 1


def test_folders_too_deep_and_links_back_are_left_alone(tmp_path):
    model(tmp_path / "a/b/c/d/e/f")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"holds no model: no \.safetensors"):
        netweight.open(tmp_path)


def test_parts_of_every_tensor_are_no_model(tmp_path):
    """Meta's tensor-parallel files: half of each matrix in each."""
    torch = pytest.importorskip("torch")
    for rank in range(2):
        torch.save({"w": torch.ones(2, 2)}, tmp_path / f"consolidated.0{rank}.pth")
    for ref in (tmp_path, tmp_path / "consolidated.00.pth"):
        with pytest.raises(FormatError, match=r"2 files have each a part of every tensor .*consolidated\.00\.pth"):
            netweight.open(ref)
    (tmp_path / "consolidated.01.pth").unlink()
    for ref in (tmp_path, tmp_path / "consolidated.00.pth"):
        assert list(netweight.open(ref)) == ["w"]


def test_ranks_of_deepspeed(tmp_path):
    torch = pytest.importorskip("torch")
    step = tmp_path / "global_step10"
    step.mkdir()
    (tmp_path / "latest").write_text("global_step10")
    for rank in range(2):
        torch.save({"module": {"w": torch.ones(2)}}, step / f"mp_rank_0{rank}_model_states.pt")
    for folder, script in ((tmp_path, "zero_to_fp32.py in it"), (step, "zero_to_fp32.py in the folder above it")):
        with pytest.raises(ModelNotFoundError, match=f"is what DeepSpeed leaves of a training, in parts: .*{script}"):
            netweight.open(folder)
    with pytest.raises(FormatError, match="2 files have each a part of every tensor"):
        netweight.open(step / "mp_rank_00_model_states.pt")
    (step / "mp_rank_01_model_states.pt").unlink()
    assert list(netweight.open(step / "mp_rank_00_model_states.pt")) == ["w"]


def test_one_shard_is_said_to_be_a_part(tmp_path):
    model(tmp_path, file="model-00001-of-00003.safetensors")
    with netweight.open(tmp_path / "model-00001-of-00003.safetensors") as checkpoint:
        assert "is one of 3 files of a model: a part of it is read, not the whole" in checkpoint.notes[0]
    assert not netweight.open(model(tmp_path / "one", file="model-00001-of-00001.safetensors")).notes


def test_parts_of_torch_distributed(tmp_path):
    torch = pytest.importorskip("torch")
    import torch.distributed.checkpoint as dcp

    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"model": {"w": torch.ones(4, 4)}}, checkpoint_id=tmp_path / "dcp")
    for ref in (tmp_path / "dcp", tmp_path / "dcp" / "__0_0.distcp"):
        with pytest.raises(
            (FormatError, ModelNotFoundError), match=r"part of a torch\.distributed checkpoint.*dcp_to_torch"
        ):
            netweight.open(ref)


@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased", "t5-small", "distilgpt2"])
def test_first_models_of_the_hub_have_no_owner(name):
    assert parse_reference(name) == HubReference(name)
    assert parse_reference(f"{name}@abc") == HubReference(name, "abc")
    assert parse_reference(f"hf://{name}@abc/sub/model.safetensors") == HubReference(
        name, "abc", "sub/model.safetensors"
    )
    assert at_commit(name, "abc") == f"hf://{name}@abc"
    assert parse_reference(f"{name}-of-mine") is None


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    model(tmp_path / "gpt2", 3.0)
    monkeypatch.chdir(tmp_path)
    assert netweight.open("gpt2")["w"].read()[0, 0] == 3
    assert len(OWNERLESS) > 40


def test_such_a_model_is_read_from_the_hub(hub, tmp_path):
    hub.publish("gpt2", model(tmp_path / "m", 5.0))
    assert netweight.open("gpt2")["w"].read()[0, 0] == 5
    assert netweight.info("hf://gpt2").tensors == 1
