"""Recipes that feed one another: the values of numpy, what is left behind, and how a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from merge_models import llama, llama_config
from safetensors.numpy import load_file, save_file

import netweight
from netweight.cli.main import cli
from netweight.errors import InputError, ModelNotFoundError, OptionError, OutputError
from netweight.jobs.merge import job

TWO = """
name: mean
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
dtype: bfloat16
---
merge_method: task_arithmetic
base_model: c
models: [{model: mean}, {model: b}]
parameters: {weight: 0.5}
dtype: float32
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {}
    for seed, name in enumerate("abc"):
        made[name] = llama(seed)
        write(name, made[name])
    return made


def write(name, tensors, **config):
    Path(name).mkdir(exist_ok=True)
    save_file(tensors, Path(name) / "model.safetensors")
    (Path(name) / "config.json").write_text(json.dumps(llama_config(**config)))


def expected(models):
    a, b, c = (models[name] for name in "abc")
    made = {}
    for name in a:
        mean = ((a[name] + b[name]) / 2).astype(ml_dtypes.bfloat16).astype(np.float32)
        made[name] = c[name] + 0.5 * (mean - c[name]) + 0.5 * (b[name] - c[name])
    return made


def check(folder, models):
    made = load_file(Path(folder) / "model.safetensors")
    wanted = expected(models)
    assert made.keys() == wanted.keys()
    for name, values in made.items():
        np.testing.assert_allclose(values, wanted[name], rtol=2e-6, atol=2e-6, err_msg=name)


def run(*arguments):
    return CliRunner().invoke(cli, ["merge", *map(str, arguments)])


def test_a_stage_is_rounded_to_its_type_and_not_written(models, monkeypatch) -> None:
    """It is computed where it is read, and again where the result is verified."""
    Path("m.yml").write_text(TWO)
    monkeypatch.setattr("netweight.passes.merge_blocks.BLOCK", 16)
    monkeypatch.setattr("netweight.passes.merge_blocks._NATIVE_BYTES", 3)
    said = run("m.yml", "out")
    assert said.exit_code == 0, said.output
    assert "mean: is computed where it is read" in said.output
    check("out", models)
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "c", "m.yml", "out"]
    (stage,) = json.loads(Path("out/netweight_merge.json").read_text())["stages"]
    assert stage["name"] == "mean"
    assert "merge_method: linear" in stage["recipe"]
    assert [entry["ref"] for entry in stage["inputs"]] == ["a", "b"]
    assert netweight.verify("out").good


def test_a_stage_that_is_verified_is_the_same_one(models) -> None:
    """Where its inputs went elsewhere, and where they are others."""
    Path("m.yml").write_text(TWO)
    netweight.merge("m.yml", "out")
    Path("a").rename("elsewhere")
    with pytest.raises(ModelNotFoundError, match="a: the input is not where it was"):
        netweight.verify("out")
    assert netweight.verify("out", moved={"a": "elsewhere"}).good
    with pytest.raises(OptionError, match="--moved x: the recipe names no such model"):
        netweight.verify("out", moved={"a": "elsewhere", "x": "elsewhere"})
    write("elsewhere", llama(0, dtype=np.float64))
    with pytest.raises(ModelNotFoundError, match="elsewhere: its files are not those that were merged"):
        netweight.verify("out", moved={"a": "elsewhere"})
    write("elsewhere", llama(9))
    found = netweight.verify("out", moved={"a": "elsewhere"})
    assert not found.good


LOOKS = TWO.replace(
    "merge_method: linear\nmodels: [{model: a}", "merge_method: slerp\nbase_model: a\nmodels: [{model: a}"
)
LOOKS = LOOKS.replace("parameters: {weight: 1}", "parameters: {t: 0.5}")


def test_a_stage_that_needs_a_look_is_written_and_removed(models) -> None:
    Path("m.yml").write_text(LOOKS)
    netweight.merge("m.yml", "out")
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "c", "m.yml", "out"]
    with pytest.raises(ModelNotFoundError, match="mean: is a stage of this merge, which was removed at its end"):
        netweight.verify("out")
    netweight.merge("m.yml", "kept", stages=Path("s"))
    made, same = (load_file(f"{folder}/model.safetensors") for folder in ("out", "kept"))
    assert all((made[name] == same[name]).all() for name in made)
    assert netweight.verify("out", moved={"mean": "s/mean"}).good


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "dare_linear", "passthrough"])
def test_streamed_and_written_stages_are_the_same(models, method) -> None:
    """Stages on stages too, and what is copied."""
    settings = {"linear": "{weight: [0.2, 1]}", "passthrough": "{scale: 0.5}"}.get(
        method, "{weight: 0.7, density: 0.4}"
    )
    settings = "{weight: 0.7}" if method == "task_arithmetic" else settings
    base = "" if method in ("linear", "passthrough") else "base_model: c\n"
    for name in "abc":
        write(name, models[name] | {"model.position_ids": np.arange(9)})
    others = "" if method == "passthrough" else ", {model: b}"
    recipe = "".join(
        f"name: {name}\nmerge_method: {method}\n{base}models: [{{model: {first}}}{others}]\nparameters: {settings}\n"
        f"dtype: {dtype}\n---\n"
        for name, first, dtype in (("one", "a", "bfloat16"), ("two", "one", "float32"))
    )
    Path("m.yml").write_text(
        recipe + "merge_method: ties\nbase_model: c\nmodels: [{model: two}, {model: a}, {model: one}]\n"
        "parameters: {weight: 0.5, density: 0.6}\ndtype: bfloat16\n"
    )
    said = run("m.yml", "out", "--workers", "2")
    assert said.exit_code == 0, said.output
    assert said.output.count("is computed where it is read") == 2
    netweight.merge("m.yml", "written", stages=Path("s"))
    made, same = (Path(folder, "model.safetensors").read_bytes() for folder in ("out", "written"))
    assert made == same
    assert netweight.verify("out").good


def test_a_copy_keeps_every_bit(models) -> None:
    """Of numbers that are none, too, whatever else their bits say."""
    odd = np.array([0x7F81, 0xFFFF, 0x7F80, 0x8000], np.uint16).view(ml_dtypes.bfloat16)
    tensors = {name: values.astype(ml_dtypes.bfloat16) for name, values in models["a"].items()}
    tensors["model.norm.weight"] = odd
    write("a", tensors)
    one = "merge_method: passthrough\nmodels: [{{model: {}}}]\n"
    Path("m.yml").write_text(f"name: copy\n{one.format('a')}---\n{one.format('copy')}")
    said = run("m.yml", "out")
    assert "copy: is computed where it is read" in said.output
    made = load_file("out/model.safetensors")["model.norm.weight"]
    np.testing.assert_array_equal(made.view(np.uint16), odd.view(np.uint16))


def test_stages_that_are_kept_verify_and_are_used_again(models) -> None:
    Path("m.yml").write_text(TWO)
    first = run("m.yml", "out", "--intermediate-dir", "kept")
    assert first.exit_code == 0, first.output
    assert netweight.verify("out").good
    assert netweight.verify("kept/mean").good
    stamp = Path("kept/mean/model.safetensors").stat().st_mtime_ns
    again = run("m.yml", "--out-path", "out", "-I", "kept", "--overwrite")
    assert again.exit_code == 0, again.output
    assert "mean: is merged already, in kept/mean" in again.output
    assert Path("kept/mean/model.safetensors").stat().st_mtime_ns == stamp
    check("out", models)


@pytest.mark.parametrize("change", ["input", "recipe", "stage", "stamp"])
def test_a_stage_of_something_else_is_merged_again(models, change) -> None:
    Path("m.yml").write_text(TWO)
    netweight.merge("m.yml", "out", stages=Path("kept"))
    if change == "input":
        models["a"] = llama(9)
        write("a", models["a"])
    elif change == "recipe":
        Path("m.yml").write_text(TWO.replace("parameters: {weight: 1}", "parameters: {weight: 1, normalize: true}"))
    elif change == "stage":
        save_file(models["c"], "kept/mean/model.safetensors")
    else:
        Path("kept/mean.stamp").write_bytes(b"\xff")
    made = CliRunner().invoke(cli, ["merge", "m.yml", "out", "-I", "kept", "--overwrite"])
    assert made.exit_code == 0, made.output
    assert "merged already" not in made.output
    check("out", models)


def test_a_stopped_chain_goes_on_where_it_was(models, monkeypatch) -> None:
    """The stage that was done is not merged again; what is left beside the output is gone at the end."""
    Path("m.yml").write_text(LOOKS)
    merged = job._merge

    def stopping(prepared, *rest, **more):
        if prepared.request.recipe.name is None:
            raise InputError("stopped here")
        return merged(prepared, *rest, **more)

    monkeypatch.setattr(job, "_merge", stopping)
    with pytest.raises(InputError, match="stopped here"):
        netweight.merge("m.yml", "out")
    assert Path("out.stages/mean/model.safetensors").is_file()
    assert not Path("out").exists()
    monkeypatch.setattr(job, "_merge", merged)
    done = run("m.yml", "out", "--resume")
    assert done.exit_code == 0, done.output
    assert "mean: is merged already" in done.output
    assert Path("out/model.safetensors").is_file()
    assert not Path("out.stages").exists()


def test_a_fault_in_the_last_document_is_found_first(models) -> None:
    """Before anything is merged: wrong layers, wrong names, an output that stands in the way."""
    Path("m.yml").write_text(TWO.replace("{model: mean}", "{model: meen}"))
    with pytest.raises(OptionError, match="nothing merges 'mean'"):
        netweight.merge("m.yml", "out")
    write("d", llama(4, width=8))
    Path("m.yml").write_text(TWO.replace("base_model: c", "base_model: d"))
    with pytest.raises(InputError, match="has shape"):
        netweight.merge("m.yml", "out")
    Path("m.yml").write_text(TWO)
    Path("out").mkdir()
    Path("out/model.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError):
        netweight.merge("m.yml", "out")
    for kept in ("new", "m.yml"):  # a stage would lie in the result, or is to lie in a file
        with pytest.raises((OptionError, OutputError)):
            netweight.merge("m.yml", "new", stages=Path(kept))
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "c", "d", "m.yml", "out"]


def test_layers_of_stages_and_adapters_on_them(models) -> None:
    """A stage has the layers that its recipe gives it, in slices that follow too."""
    Path("m.yml").write_text("""
name: long
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [0, 2]}]
---
merge_method: passthrough
slices:
- sources: [{model: long, layer_range: [1, 4]}]
""")
    netweight.merge("m.yml", "out")
    made = load_file("out/model.safetensors")
    a, b = models["a"], models["b"]
    for n, (model, number) in enumerate([(a, 1), (b, 0), (b, 1)]):
        name = "mlp.up_proj.weight"
        np.testing.assert_array_equal(made[f"model.layers.{n}.{name}"], model[f"model.layers.{number}.{name}"])
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 3


def test_what_goes_with_one_document_alone(models) -> None:
    Path("m.yml").write_text(TWO)
    said = run("m.yml", "out", "--dry-run")
    assert "--dry-run: the recipe merges models that are made on the way" in str(said.exception)
    said = run("m.yml", "out", "--as-adapter")
    assert "--as-adapter: merges one document, and the recipe has several" in str(said.exception)
    assert not Path("out").exists()
