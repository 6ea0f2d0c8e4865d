"""`extract_lora` against numpy: what the adapter makes of the base, the ranks, the errors, and what is kept besides."""

from __future__ import annotations

import csv
import json

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from far_executor import FarExecutor
from peft_models import BF16, LLAMA, adapter, applied, best_error, llama, tuned, write

import netweight
from netweight.errors import InputError

FILES = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "netweight_extract_lora.json",
    "errors.csv",
    "errors.parquet",
    ".netweight.json",
}


def close(made, wanted, atol=2e-6):
    assert made.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_allclose(made[name], tensor.astype(np.float64), atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = llama()
    fine = tuned(base)
    return write(folder / "base", base, LLAMA), write(folder / "fine", fine, LLAMA), base, fine


@pytest.fixture(scope="module")
def extracted(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "adapter"
    return netweight.extract_lora(models[0], models[1], out, rank=4)


def test_a_full_rank_gives_the_fine_tune(models, tmp_path):
    base_folder, folder, base, fine = models
    result = netweight.extract_lora(base_folder, folder, tmp_path / "out", rank=24)
    close(applied(base, tmp_path / "out"), fine)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert result.relative_error < 1e-6
    config, _ = adapter(tmp_path / "out")
    assert config["base_model_name_or_path"] == str(base_folder)
    assert config["modules_to_save"] == sorted(
        ["model.norm", *(f"model.layers.{n}.{k}layernorm" for n in (0, 1) for k in ("input_", "post_attention_"))]
    )


def test_errors_are_the_least_possible_and_those_of_the_files(models, extracted):
    _, _, base, fine = models
    made = applied(base, extracted.output)
    left = total = 0.0
    for name, row in extracted.record["parameters"].items():
        difference = fine[name] - base[name]
        if row["kept"] != "factors":
            continue
        assert row["rank"] == 4
        rest = float(np.square(fine[name] - made[name]).sum())
        squares = float(np.square(difference.astype(np.float64)).sum())
        assert row["squares"] == pytest.approx(squares, rel=1e-12)
        assert row["left"] == pytest.approx(rest, rel=1e-5)
        assert np.sqrt(row["left"] / squares) <= best_error(difference, 4) * (1 + 1e-4) + 1e-7
        values = np.linalg.svd(difference.astype(np.float64), compute_uv=False)
        np.testing.assert_allclose(row["singular_values"], values[:4], rtol=1e-4)
        left, total = left + rest, total + squares
    assert extracted.relative_error == pytest.approx(np.sqrt(left / total), rel=1e-5)


def test_what_is_written_is_one_table(extracted):
    frame = extracted.frame
    assert frame.column("param") == list(extracted.record["parameters"])
    table = pq.read_table(extracted.output / "errors.parquet")
    assert table.column("relative_error").to_pylist() == frame.column("relative_error")
    assert json.loads(table.schema.metadata[b"netweight.inputs"])[0]["ref"] == extracted.record["inputs"][0]["ref"]
    with (extracted.output / "errors.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["param"] for row in rows] == frame.column("param")
    assert [float(row["relative_error"]) for row in rows] == frame.column("relative_error")
    assert {row["kept"] for row in rows} == {"factors", "module"}
    assert [row["rank"] for row in rows if row["kept"] == "module"] == [""] * 5
    assert sum(frame.column("bytes")) == extracted.record["whole"]["bytes"]
    assert json.loads((extracted.output / "netweight_extract_lora.json").read_text()) == extracted.to_dict()
    assert extracted.to_pandas().shape == (len(frame), len(frame.columns))
    assert "16 matrices" in repr(extracted)
    assert "16 matrices" not in extracted.frame._repr_html_()
    assert "16 matrices" in extracted._repr_html_()


@pytest.mark.parametrize(("rule", "left"), [({"energy": 0.9}, 0.1), ({"error": 0.05}, 0.05**2), ({"energy": 0.5}, 0.5)])
def test_the_smallest_ranks_that_will_do(models, tmp_path, rule, left):
    base_folder, folder, base, fine = models
    result = netweight.extract_lora(base_folder, folder, tmp_path / "out", **rule)
    ranks = set()
    for name, row in result.record["parameters"].items():
        if row["kept"] == "factors":
            values = np.square(np.linalg.svd((fine[name] - base[name]).astype(np.float64), compute_uv=False))
            rest = 1 - np.cumsum(values) / values.sum()
            assert row["rank"] == int(np.flatnonzero(rest <= left)[0]) + 1
            assert row["left"] <= left * row["squares"] * (1 + 1e-6)
            ranks.add(row["rank"])
    assert len(ranks) > 1
    config, _ = adapter(tmp_path / "out")
    assert config["r"] == max(ranks)
    applied(base, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_factors_keep_to_the_error_asked_for(models, tmp_path, dtype):
    base_folder, folder, base, fine = models
    result = netweight.extract_lora(base_folder, folder, tmp_path / "out", error=0.02, dtype=dtype)
    made = applied(base, tmp_path / "out")
    for name, row in result.record["parameters"].items():
        if row["kept"] == "factors":
            error = np.linalg.norm(fine[name] - made[name]) / np.linalg.norm(fine[name] - base[name])
            assert error <= 0.02 * (1 + 1e-6)
    _, parts = adapter(tmp_path / "out")
    kinds = {str(tensor.dtype) for name, tensor in parts.items() if "lora_" in name}
    assert kinds == {dtype}
    assert parts["model.norm.weight"].dtype == np.float32


def test_an_error_that_rounding_exceeds_is_said(models, tmp_path):
    result = netweight.extract_lora(models[0], models[1], tmp_path / "out", error=1e-4, dtype="bfloat16")
    assert any("above --error 0.0001" in note and "--dtype float32" in note for note in result.notes)


def test_bfloat16_models(tmp_path):
    base = llama(dtype=BF16)
    fine = tuned(base)
    folders = write(tmp_path / "base", base, LLAMA), write(tmp_path / "fine", fine, LLAMA)
    netweight.extract_lora(*folders, tmp_path / "out", rank=24)
    close(applied(base, tmp_path / "out"), fine, 2e-5)
    _, parts = adapter(tmp_path / "out")
    assert parts["model.norm.weight"].dtype == ml_dtypes.bfloat16


def test_what_did_not_change_has_no_adapter(models, tmp_path):
    base_folder, _, base, _ = models
    fine = tuned(base, only=r"layers\.1\.(mlp\.up|input)")
    result = netweight.extract_lora(base_folder, write(tmp_path / "fine", fine, LLAMA), tmp_path / "out", rank=24)
    names = ["model.layers.1.input_layernorm.weight", "model.layers.1.mlp.up_proj.weight"]
    assert list(result.record["parameters"]) == names
    config, parts = adapter(tmp_path / "out")
    assert config["target_modules"] == ["model.layers.1.mlp.up_proj"]
    assert config["modules_to_save"] == ["model.layers.1.input_layernorm"]
    assert len(parts) == 3
    close(applied(base, tmp_path / "out"), fine)


def test_equal_models_have_no_adapter(models, tmp_path):
    base_folder, _, base, _ = models
    same = write(tmp_path / "same", base, LLAMA)
    with pytest.raises(
        InputError, match="all 21 tensors that were compared are equal: there is nothing that an adapter"
    ):
        netweight.extract_lora(base_folder, same, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_norms_alone_are_no_adapter(models, tmp_path):
    base_folder, _, base, _ = models
    fine = write(tmp_path / "fine", tuned(base, only="norm"), LLAMA)
    with pytest.raises(InputError, match=r"no matrix changed, only 5 other tensors, such as model\.layers\.0"):
        netweight.extract_lora(base_folder, fine, tmp_path / "out")


def test_globs_choose_parameters(models, tmp_path):
    result = netweight.extract_lora(
        models[0], models[1], tmp_path / "out", include="*layers.0*", exclude=["*mlp*", "*norm*"]
    )
    assert {row["module"].rpartition(".")[2] for row in result.record["parameters"].values()} == {
        f"{p}_proj" for p in "qkvo"
    }
    assert {entry["name"] for entry in result.record["left_out"] if entry["asked"]} > {"lm_head.weight"}
    assert netweight.verify(tmp_path / "out").good


def test_a_rank_above_the_matrices_is_theirs(models, tmp_path):
    result = netweight.extract_lora(models[0], models[1], tmp_path / "out", rank=16)
    assert result.record["parameters"]["model.layers.0.self_attn.k_proj.weight"]["rank"] == 12
    assert any(
        "--rank 16 is more than 4 matrices have: model.layers.0.self_attn.k_proj.weight" in n for n in result.notes
    )


def test_without_whole_modules(models, tmp_path):
    base_folder, folder, base, fine = models
    result = netweight.extract_lora(base_folder, folder, tmp_path / "out", rank=24, modules_to_save=False)
    left = [name for name, row in result.record["parameters"].items() if row["kept"] == "left out"]
    assert left == [name for name in base if "norm" in name]
    assert all("--no-modules-to-save" in result.record["parameters"][name]["reason"] for name in left)
    norms = sum(float(np.square(fine[name] - base[name]).sum()) for name in left)
    everything = sum(float(np.square(fine[name] - base[name]).sum()) for name in base)
    assert result.record["whole"]["relative_error_of_all"] == pytest.approx(np.sqrt(norms / everything), rel=1e-5)
    assert adapter(tmp_path / "out")[0]["modules_to_save"] is None
    assert netweight.verify(tmp_path / "out").good


@pytest.mark.parametrize("where", ["base", "fine"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_what_is_not_finite_ends_the_run(models, tmp_path, where, bad, name):
    _, _, base, fine = models
    sides = {"base": dict(base), "fine": dict(fine)}
    sides[where][name] = sides[where][name].copy()
    sides[where][name].reshape(-1)[3] = bad
    folders = [write(tmp_path / side, tensors, LLAMA) for side, tensors in sides.items()]
    with pytest.raises(InputError, match=rf"^{name}: elements that are NaN or infinite, in .*fine.* less .*base"):
        netweight.extract_lora(*folders, tmp_path / "out", rank=4)
    assert not (tmp_path / "out").exists()
    netweight.extract_lora(*folders, tmp_path / "out", rank=4, exclude=name)


def test_any_number_of_workers_gives_the_same_bytes(models, extracted, tmp_path):
    for number, more in enumerate(({"workers": 1}, {"workers": 3}, {"workers": 1, "memory": 400 << 20})):
        netweight.extract_lora(models[0], models[1], tmp_path / str(number), rank=4, **more)
        for name in ("adapter_model.safetensors", "errors.csv", "adapter_config.json"):
            assert (tmp_path / str(number) / name).read_bytes() == (extracted.output / name).read_bytes()


def test_other_processes_give_the_same_bytes(models, extracted, tmp_path):
    netweight.extract_lora(models[0], models[1], tmp_path / "out", rank=4, executor=FarExecutor())
    name = "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (extracted.output / name).read_bytes()
    assert netweight.verify(tmp_path / "out", executor=FarExecutor()).good


def test_a_fine_tune_in_another_layout(models, tmp_path):
    """A wrapper's prefix, and gate and up in one tensor."""
    base_folder, _, base, fine = models
    other = {f"module.{name}": tensor for name, tensor in fine.items()}
    for n in (0, 1):
        head = f"module.model.layers.{n}.mlp."
        gate, up = (other.pop(f"{head}{p}_proj.weight") for p in ("gate", "up"))
        other[f"{head}gate_up_proj.weight"] = np.concatenate([gate, up])
    folder = write(tmp_path / "fine", other, LLAMA | {"model_type": "phi3"})
    netweight.extract_lora(base_folder, folder, tmp_path / "out", rank=24)
    close(applied(base, tmp_path / "out"), fine)


def test_torch_files_of_another_type(models, tmp_path):
    torch = pytest.importorskip("torch")
    base_folder, _, base, fine = models
    half = {name: torch.from_numpy(tensor).to(torch.float16) for name, tensor in fine.items()}
    (tmp_path / "fine").mkdir()
    torch.save(half, tmp_path / "fine" / "pytorch_model.bin")
    netweight.extract_lora(base_folder, tmp_path / "fine", tmp_path / "out", rank=24)
    close(applied(base, tmp_path / "out"), {name: tensor.numpy() for name, tensor in half.items()})


def test_through_torch_on_the_cpu(models, extracted, tmp_path, monkeypatch):
    """The kernels of GPUs, on torch's CPU: the same ranks, errors within rounding."""
    pytest.importorskip("torch")
    from fake_gpus import fake_gpus

    from netweight.kernels.gpu.factors import TorchFactorKernels

    fake_gpus(monkeypatch, factors=lambda _: TorchFactorKernels("cpu"))
    result = netweight.extract_lora(models[0], models[1], tmp_path / "out", rank=4, device="cuda:0")
    assert result.record["device"] == "cuda:0"
    for name, row in result.record["parameters"].items():
        other = extracted.record["parameters"][name]
        assert (row["kept"], row["rank"]) == (other["kept"], other["rank"])
        assert row["squares"] == pytest.approx(other["squares"], rel=1e-12)
        if row["left"] is not None:
            assert row["left"] == pytest.approx(other["left"], rel=1e-5, abs=1e-9)
