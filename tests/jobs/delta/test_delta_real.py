"""`delta` of real checkpoints against numpy in float64, and the tensors against torch's own loader."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from task_vectors import check_row, cosine, is_close, read_cosines, read_rows, strict_json

import netweight
from netweight.jobs.delta import result as delta_files

FOLDER = Path(__file__).parents[4] / "shared" / "realweights"
FILES = sorted(
    p.name
    for p in FOLDER.glob("*.*")
    if p.suffix in {".safetensors", ".pt", ".pth", ".tar"} and "adapter_model" not in p.name  # an adapter has a base
)
GGUF = sorted(p.name for p in FOLDER.glob("*.gguf"))

ADDING = "JunSuzukiJapan__tl__model_2digit@"
AGENT = "jbloomAus__DecisionTransformerInterpretability__models_ppo_memory_lstm_demos_Test-PPO-LSTM_"
PAIRS = {
    "trajectory": [f"{ADDING}6bcd94.safetensors", f"{ADDING}f262cc.safetensors", f"{ADDING}f0cd61.safetensors"],
    "legacy": ["greydanus__baby-a3c__pong-v4_model.40.tar", "greydanus__baby-a3c__pong-v4_model.80.tar"],
    "agent": [f"{AGENT}02.pt", f"{AGENT}06.pt"],
    "rwkv": [f"BlinkDL__RWKV-LM__RWKV-v8_{d}_reverse_L2.pth" for d in ("251105", "260123")],
    "mnist": [f"tracel-ai__burn__examples_import-model-weights_weights_mnist.{e}" for e in ("pt", "safetensors")],
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """The numbers are at stake here, and pictures take most of the time of so small a model."""
    monkeypatch.setattr(delta_files, "group_l2_bar", lambda *_: None)
    monkeypatch.setattr(delta_files, "cosine_heatmap", lambda *_: None)


def arrays(path):
    with netweight.open(path) as checkpoint:
        return {name: tensor.read() for name, tensor in checkpoint.items()}


def flat(value, prefix=""):
    """Every tensor that torch found, by the path to it."""
    if isinstance(value, torch.Tensor):
        return {prefix[1:]: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: t for key, inner in pairs for name, t in flat(inner, f"{prefix}.{key}").items()}


def check_result(outdir, base, models):
    """Every field of every row, the sums, the skipped and the cosines."""
    header, cosines = read_cosines(outdir / "pairwise_cosines.csv")
    floats = {n for n, a in base.items() if a.dtype.kind == "f"}
    for i, (name, model) in enumerate(zip(header, models, strict=True)):
        rows = read_rows(outdir / name / "per_param_stats.csv")
        summary = strict_json((outdir / name / "summary.json").read_text())
        usable = {n for n in floats & model.keys() if model[n].shape == base[n].shape and model[n].dtype.kind == "f"}
        left_out = {s["name"] for s in summary["skipped"]}
        apart = {entry["name"]: entry for entry in summary.get("not_weights", ())}
        assert apart.keys() == {n for n in usable if n.endswith(("running_mean", "running_var"))}
        for param, entry in apart.items():
            check_row(entry | {"shape": json.dumps(base[param].shape)}, base[param], model[param])
        assert rows.keys() | left_out | apart.keys() == base.keys() | model.keys()
        assert not rows.keys() & left_out
        assert rows.keys() <= usable
        assert all("tied to" in s["reason"] for s in summary["skipped"] if s["name"] in usable)
        assert (summary["n_params_considered"], summary["skipped_params"]) == (len(rows), len(left_out))
        for param, row in rows.items():
            check_row(row, base[param], model[param])
        assert summary["global_l2"] == pytest.approx(np.sqrt(sum(r["l2"] ** 2 for r in rows.values())), rel=1e-12)
        assert summary["global_l1"] == pytest.approx(sum(r["l1"] for r in rows.values()), rel=1e-12)
        assert summary["elements"] == sum(base[n].size for n in rows)
        assert summary["groups"]["layer"]["l2"] <= summary["global_l2"] * (1 + 1e-12)
        for j, other in enumerate(models):
            shared = {n: base[n] for n in rows}
            expected = cosine(shared, {n: model[n] for n in rows}, {n: other[n] for n in rows if n in other})
            assert is_close(cosines[i][j], 1.0 if i == j else expected)


@pytest.mark.parametrize("file", FILES)
def test_a_real_model_and_a_perturbed_copy(realweights, tmp_path, file):
    base = arrays(realweights / file)
    rng = np.random.default_rng(len(file))
    copies = []
    for scale, name in ((1e-3, "near.safetensors"), (0.1, "far.pt")):
        moved = {
            n: (a + rng.standard_normal(a.shape) * scale).astype(a.dtype) if a.dtype.kind == "f" else a
            for n, a in base.items()
        }
        tensors = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in moved.items()}
        (save_file if name.endswith("safetensors") else torch.save)(tensors, tmp_path / name)
        copies.append(moved)
    netweight.delta(realweights / file, [tmp_path / "near.safetensors", tmp_path / "far.pt"], tmp_path / "out")
    check_result(tmp_path / "out", base, copies)


@pytest.mark.parametrize("pair", PAIRS)
def test_real_fine_tunes(realweights, tmp_path, pair):
    files = [realweights / name for name in PAIRS[pair]]
    netweight.delta(files[0], files[1:], tmp_path / "out")
    base, *models = [arrays(file) for file in files]
    check_result(tmp_path / "out", base, models)
    if pair == "trajectory":
        text = (tmp_path / "out" / f"{ADDING}f0cd61" / "summary.json").read_text()
        flagged = strict_json(text)["flagged"]
        assert len(flagged) == 14
        broken = [n for n, a in models[1].items() if np.isnan(a).any()]
        assert sorted(f["name"] for f in flagged) == sorted(broken)


@pytest.mark.parametrize("file", FILES)
def test_torch_reads_the_same_tensors(realweights, file):
    path = realweights / file
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file

        held = load_file(path)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, of the old layouts
                held = flat(torch.load(path, map_location="cpu", weights_only=True))
        except Exception:
            if not any(word in file for word in ("twtygqyy", "ikostrikov", "_tar_")):
                raise
            pytest.skip("torch refuses this file with weights_only")
    found = arrays(path)
    for name, array in found.items():
        same = held.get(name) if name in held else next(t for k, t in held.items() if k.endswith(f".{name}"))
        assert same.detach().numpy().tobytes() == array.tobytes(), name
        assert tuple(same.shape) == array.shape


@pytest.mark.parametrize("file", GGUF)
def test_a_gguf_and_a_copy_of_it(realweights, tmp_path, file):
    """A real file against itself: everything is paired, and nothing differs."""
    (tmp_path / "copy.gguf").write_bytes((realweights / file).read_bytes())
    found = netweight.delta(realweights / file, [tmp_path / "copy.gguf"], tmp_path / "out")
    summary = found.models[0].summary
    with netweight.open(realweights / file) as model:
        assert summary["elements"] == sum(tensor.size for tensor in model.values())
    assert summary["global_l2"] == 0
