"""Folders as trainers and hubs leave them: taken where there is one model, else named with the way on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight
from netweight.checkpoint import below as folders
from netweight.checkpoint.reference import OWNERLESS, HubReference, at_commit, parse_reference
from netweight.errors import FormatError, ModelNotFoundError, UnsafeFileError


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


@pytest.mark.parametrize("beside", ["model.h5", "x.onnx"])
def test_a_folder_that_says_what_it_is_is_not_looked_into(tmp_path, beside):
    model(tmp_path / "below")
    (tmp_path / beside).write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelNotFoundError):
        netweight.open(tmp_path)


def test_what_a_trainer_leaves_beside_the_folder_of_a_model_is_no_model(tmp_path):
    """Accelerate's FSDP: the weights in one folder below the checkpoint, the optimizer in another."""
    below = model(tmp_path / "checkpoint-5" / "pytorch_model_fsdp_0")
    model(tmp_path / "checkpoint-5" / "optimizer_0")
    for name in (
        "scheduler.pt",
        "rng_state_0.pth",
        "optim_world_size_2_rank_0.pt",
        "extra_state_world_size_2_rank_0.pt",
    ):
        (tmp_path / "checkpoint-5" / name).write_bytes(b"what a trainer leaves")
    assert netweight.open(tmp_path / "checkpoint-5").notes[0].endswith(f"taken is the one below it, {below}")


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


def test_ranks_of_deepspeed(tmp_path):
    """ZeRO-3 and tensor-parallel trainings leave parts; up to ZeRO-2 one file has all weights, and is taken."""
    torch = pytest.importorskip("torch")
    step = tmp_path / "global_step10"
    step.mkdir()
    (tmp_path / "latest").write_text("global_step10")
    for rank in range(2):
        torch.save({"module": {"w": torch.ones(2)}}, step / f"mp_rank_0{rank}_model_states.pt")
        torch.save({"optimizer_state_dict": {}}, step / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    for folder, script in ((tmp_path, "zero_to_fp32.py in it"), (step, "zero_to_fp32.py in the folder above it")):
        with pytest.raises(ModelNotFoundError, match=f"is what DeepSpeed leaves of a training, in parts: .*{script}"):
            netweight.open(folder)
    with pytest.raises(FormatError, match="2 files have each a part of every tensor"):
        netweight.open(step / "mp_rank_00_model_states.pt")
    (step / "mp_rank_01_model_states.pt").unlink()
    assert list(netweight.open(step / "mp_rank_00_model_states.pt")) == ["w"]
    for folder in (tmp_path, step):
        with netweight.open(folder) as checkpoint:
            assert checkpoint["w"].read().tolist() == [1, 1]
            assert "taken are the weights that it computed with" in checkpoint.notes[folder == tmp_path]
    (step / "layer_0_expert_0_mp_rank_00_model_states.pt").touch()
    with pytest.raises(ModelNotFoundError, match="in parts"):
        netweight.open(step)


@pytest.mark.parametrize(
    "names",
    [
        ["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"],
        ["pytorch_model_fsdp_0_rank0.bin", "pytorch_model_fsdp_0_rank1.bin"],
        ["checkpoint_last-shard0.pt", "checkpoint_last-shard1.pt"],
        ["rank-0.pth", "rank-1.pth", "rank-2.pth"],
    ],
)
def test_files_of_ranks_are_no_models(tmp_path, names):
    """Plain tensors: nothing says how they make one."""
    torch = pytest.importorskip("torch")
    for name in names:
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    with pytest.raises(FormatError, match=rf"{len(names)} files that the ranks of a training wrote .*{names[0]}"):
        netweight.open(tmp_path)
    with pytest.raises(
        FormatError, match=rf"one of {len(names)} ranks of a training wrote; name their folder: '{tmp_path}'"
    ):
        netweight.open(tmp_path / names[1])


def test_the_rank_of_a_lora_is_no_rank_of_a_training(tmp_path):
    torch = pytest.importorskip("torch")
    for rank in (8, 16):
        torch.save({"w": torch.ones(rank)}, tmp_path / f"lora_rank_{rank}.pt")
    assert netweight.open(tmp_path / "lora_rank_8.pt")["w"].shape == (8,)
    with pytest.raises(FormatError, match=r"holds several models: 'lora_rank_16\.pt', 'lora_rank_8\.pt'; name one"):
        netweight.open(tmp_path)


def test_one_shard_is_said_to_be_a_part(tmp_path):
    model(tmp_path, file="model-00001-of-00003.safetensors")
    with netweight.open(tmp_path / "model-00001-of-00003.safetensors") as checkpoint:
        assert "is one of 3 files of a model: a part of it is read, not the whole" in checkpoint.notes[0]
    assert not netweight.open(model(tmp_path / "one", file="model-00001-of-00001.safetensors")).notes


def test_an_index_of_files_that_are_gone(tmp_path):
    """A complete set of other shards counts; an index of which some shards are there is to be kept to."""
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for number in (1, 2, 3):
        save_file({f"w{number}": np.ones(2, np.float32)}, tmp_path / f"model-0000{number}-of-00003.safetensors")
    with netweight.open(tmp_path) as checkpoint:
        assert sorted(checkpoint) == ["w1", "w2", "w3"]
        assert "model.safetensors.index.json: not used: none of its 2 shards is there" in checkpoint.notes[0]
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(FormatError, match=r"1 of 3 shards are missing: 'model-00003-of-00003"):
        netweight.open(tmp_path)
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(FormatError, match=r"1 of its 2 shards are missing: 'model-00002-of-00002"):
        netweight.open(tmp_path)


def test_a_folder_of_links_into_a_hub_cache(tmp_path):
    """As `--local-dir` with links leaves it; links to anywhere else are still refused."""
    cache = tmp_path / "hub" / "models--org--name"
    blob = cache / "blobs" / "0123abcd"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    blob.parent.mkdir()
    save_file({"w": np.ones(2, np.float32)}, blob)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "model.safetensors").symlink_to(blob)
    assert list(netweight.open(tmp_path / "local")) == ["w"]
    (cache / "snapshots" / "abc").rmdir()
    (cache / "snapshots").rmdir()
    with pytest.raises(UnsafeFileError, match=r"is a link to .*outside its folder"):
        netweight.open(tmp_path / "local")


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
