"""Files and entries that hold a training run's state, told from models by what they hold; torch is the oracle."""

from __future__ import annotations

import argparse
import random
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from netweight.checkpoint import open_checkpoint
from netweight.errors import FormatError, ModelNotFoundError

torch = pytest.importorskip("torch", reason="writes the files")

OPTIMIZERS = {
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.AdamW, {"amsgrad": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adamax": (torch.optim.Adamax, {}),
    "adafactor": (torch.optim.Adafactor, {}),
}


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def optimizer(kind: str = "adam") -> torch.optim.Optimizer:
    model = network()
    made, options = OPTIMIZERS[kind]
    steps = made(model.parameters(), lr=0.1, **options)
    model(torch.randn(5, 3)).sum().backward()
    steps.step()
    return steps


def counted(content) -> str:
    """`N tensors, M bytes` of a nest of dicts and lists, by torch."""
    tensors: dict[int, torch.Tensor] = {}
    waiting = [content]
    while waiting:
        at = waiting.pop()
        if isinstance(at, torch.Tensor):
            tensors[id(at)] = at
        elif isinstance(at, dict):
            waiting += at.values()
        elif isinstance(at, (list, tuple)):
            waiting += at
    nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return f"{len(tensors)} tensors, {nbytes} bytes"


def refused(path: Path, error: type[Exception] = FormatError) -> str:
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_the_state_of_an_optimizer_is_no_model(kind, new, tmp_path) -> None:
    state = optimizer(kind).state_dict()
    path = tmp_path / "policy.optimizer.pth"
    nests = (state, [state], [state, state], {"optimizer": state}, {"training": {"optim": state, "step": 3}},
             {"actor": state, "epoch": 3, "loss": torch.tensor(0.5)}, {"optimizer_states": [state]},
             {"optimizer_state_dict": {"base_optimizer_state": state, "zero_stage": 2}})  # fmt: skip
    for content in nests:
        torch.save(content, path, _use_new_zipfile_serialization=new)
        holds = f"holds an optimizer's state ({counted(state)}) and no model; name the file that holds the weights"
        assert refused(path) == f"{path}: {holds}"
        assert refused(tmp_path) == f"{path}: {holds}"
    torch.save(network().state_dict(), tmp_path / "policy.pth")
    assert refused(path).endswith("and no model; the model is 'policy.pth', beside it")


def test_other_states_and_options(tmp_path) -> None:
    steps = optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule = torch.optim.lr_scheduler.StepLR(steps, 10).state_dict()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(steps).state_dict()
        scaler = torch.amp.GradScaler("cpu").state_dict()
    generator = torch.get_rng_state()
    cases = {
        "a learning rate scheduler's state": [schedule, plateau],
        "a gradient scaler's state": [scaler],
        f"the state of random number generators (1 tensor, {generator.numel()} bytes)": [
            generator,
            {"torch_rng_state": generator, "iteration": 3},
            {"python": random.getstate(), "cpu": generator},
        ],
        "an object of argparse.Namespace": [argparse.Namespace(lr=0.1)],
    }
    path = tmp_path / "x.pth"
    for holds, contents in cases.items():
        for content in contents:
            torch.save(content, path)
            assert refused(path) == f"{path}: holds {holds} and no model; name the file that holds the weights"
    torch.save({"python": random.getstate(), "numpy": np.random.get_state(), "cpu": generator}, path)  # noqa: NPY002 - as trainers do
    assert "holds the state of random number generators (" in refused(path)
    torch.save({}, path)
    assert refused(path) == f"{path}: holds no tensors"


def test_moments_under_flat_names(tmp_path) -> None:
    flat = {"state.w.exp_avg": torch.ones(3), "state.w.exp_avg_sq": torch.ones(3), "state.w.step": torch.tensor(1.0)}
    torch.save(flat, tmp_path / "x.pt")
    assert f"holds an optimizer's state ({counted(flat)}) and no model" in refused(tmp_path / "x.pt")
    flat["w.weight"] = torch.ones(3)
    torch.save(flat, tmp_path / "x.pt")
    assert set(open_checkpoint(tmp_path / "x.pt")) == set(flat)


def test_moments_as_mlx_saves_them(tmp_path) -> None:
    """mlx.utils.tree_flatten of an Adam optimizer's state."""
    flat = {"step": np.array(3), "learning_rate": np.array(0.1), "l.weight.m": np.ones(3), "l.weight.v": np.ones(3)}
    np.savez(tmp_path / "state.npz", **flat)
    assert "holds an optimizer's state (4 tensors, " in refused(tmp_path / "state.npz")
    np.savez(tmp_path / "state.npz", **{key: flat[key] for key in ("l.weight.m", "l.weight.v")})
    assert len(open_checkpoint(tmp_path / "state.npz")) == 2  # nothing says that these are no weights


def test_files_without_weights_beside_a_model_are_left_out(tmp_path) -> None:
    state = optimizer().state_dict()
    torch.save(state, tmp_path / "policy.optimizer.pth")
    torch.save(network().state_dict(), tmp_path / "policy.pth")
    torch.save({}, tmp_path / "pytorch_variables.pth")
    opened = open_checkpoint(tmp_path)
    assert [Path(file.path).name for file in opened.files] == ["policy.pth"]
    assert opened.notes == (
        f"policy.optimizer.pth: left out: holds an optimizer's state ({counted(state)})",
        "pytorch_variables.pth: left out: holds no tensors",
    )
    torch.save(network().state_dict(), tmp_path / "other.pth")
    assert refused(tmp_path).endswith("holds several models: 'other.pth', 'policy.pth'; name one of them")
    (tmp_path / "other.pth").write_bytes((tmp_path / "policy.pth").read_bytes()[:-300])  # damaged: perhaps the model
    assert refused(tmp_path).endswith("holds several models: 'other.pth', 'policy.pth'; name one of them")


def test_folders_with_training_state_alone(tmp_path) -> None:
    torch.save(optimizer().state_dict(), tmp_path / "optimizer.pt")
    torch.save(optimizer().state_dict(), tmp_path / "scheduler.pt")
    assert refused(tmp_path, ModelNotFoundError) == (
        f"{tmp_path}: holds no model, only what a trainer leaves beside one: 'optimizer.pt', 'scheduler.pt'"
    )
    for name in ("optimizer.pt", "scheduler.pt"):
        (tmp_path / name).rename(tmp_path / f"my_{name}")
    said = refused(tmp_path, ModelNotFoundError)
    assert said.startswith(f"{tmp_path}: holds no model: 'my_optimizer.pt' holds an optimizer's state (12 tensors")


def test_an_archive_of_torch_files_names_the_one_with_the_model(tmp_path) -> None:
    torch.save(network().state_dict(), tmp_path / "policy.pth")
    torch.save(optimizer().state_dict(), tmp_path / "policy.optimizer.pth")
    torch.save(None, tmp_path / "pytorch_variables.pth")
    path = tmp_path / "best_model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
        for name in ("pytorch_variables.pth", "policy.optimizer.pth", "policy.pth"):
            archive.write(tmp_path / name, name)
    assert refused(path) == f"{path}: is a zip archive with 'policy.pth' in it: unpack it first, and name that file"


def test_entries_are_what_they_hold_whatever_they_are_called(tmp_path) -> None:
    model, state = network().state_dict(), optimizer().state_dict()
    path = tmp_path / "x.pt"
    torch.save(
        {
            "state_dict": model, "opt": argparse.Namespace(lr=0.1), "opts": {"lr": 0.1, "n": 2}, "optimizer": None,
            "optim_config": {"lr": 0.1}, "optimizer_name": "Adam", "scheduler": "cosine", "rng_seed": 42, "adam": state,
            "scaler": {"mean": torch.ones(3)}, "optimG": {"anything": torch.ones(3)}, "amp": {"loss_scale": 2.0},
        },
        path,
    )  # fmt: skip
    opened = open_checkpoint(path)
    assert list(opened) == list(model)
    assert {entry.name: entry.reason for entry in opened.skipped} == {
        "opt": "an object of argparse.Namespace, not a tensor",
        "opts": "a dict of 2 entries without tensors",
        "optimizer": "nothing, not a tensor",
        "optim_config": "a dict of 1 entries without tensors",
        "optimizer_name": "text, not a tensor",
        "scheduler": "text, not a tensor",
        "rng_seed": "a number, not a tensor",
        "adam": f"optimizer state: {counted(state)}",
        "scaler": "other weights beside the model: 1 tensor, 12 bytes; to read them:"
        " torch.save(torch.load(FILE)['scaler'], OUT)",
        "optimG": "optimizer state: 1 tensor, 12 bytes",
        "amp": "a dict of 1 entries without tensors",
    }


@pytest.mark.parametrize("name", ["opt", "adam", "sgd", "optimized_model", "optimus", "noise_scheduler", "scaler"])
def test_weights_are_read_under_names_that_sound_like_an_optimizer(name, tmp_path) -> None:
    weights = {"decoder.w": torch.randn(3, 4), "b": torch.randn(3)}
    torch.save({name: weights}, tmp_path / "nested.pt")
    torch.save({f"{name}.{key}": value for key, value in weights.items()}, tmp_path / "flat.pt")
    for path in (tmp_path / "nested.pt", tmp_path / "flat.pt"):
        opened = open_checkpoint(path)
        assert {key: tensor.read().tolist() for key, tensor in opened.items()} == {
            f"{name}.{key}": value.tolist() for key, value in weights.items()
        }


def test_an_optimizer_inside_an_agent_is_left_out(tmp_path) -> None:
    model, state = network().state_dict(), optimizer().state_dict()
    torch.save({"agent": {"net": model, "opt": state}}, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert set(opened) == {f"agent.net.{name}" for name in model}
    assert [(e.name, e.reason) for e in opened.skipped] == [("agent.opt", f"optimizer state: {counted(state)}")]
    torch.save([model, state], tmp_path / "x.pt")
    assert set(open_checkpoint(tmp_path / "x.pt")) == set(model)
