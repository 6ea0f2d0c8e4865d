"""`merge --check`: all that can be known without weights, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from merge_models import llama, llama_config
from safetensors.numpy import save_file

from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.cli.main import cli
from netweight.errors import NetweightError

RECIPE = """
name: first
merge_method: ties
base_model: a
models:
- {model: b, parameters: {weight: [0, 1], density: 0.5}}
- {model: c, parameters: {weight: [{filter: mlp, value: 0.25}, {filter: mpl, value: 1}, {value: 0.75}], density: 0.5}}
dtype: bfloat16
---
merge_method: passthrough
slices:
- sources: [{model: first, layer_range: [0, 2]}]
- sources: [{model: b, layer_range: [1, 3]}]
"""


EXPECTED = """\
document   1, which makes first
method     ties
base       a
model      b
model      c
parameters 24, 432 elements: 24 merged, 0 copied
writes     3.14 kB in 1 file, merged ones as BF16; reads 5.18 kB
setting    lambda: 1
setting    normalize: true
setting    rescale: false
setting    weight of b: 0 for 10 parameters, 0.5 for 7 parameters, 1 for 7 parameters
setting    density of b: 0.5
setting    weight of c: 0.75 for 18 parameters, 0.25 for 6 parameters
setting    density of c: 0.5
tokenizer  none; rows of tokens are paired by number
note: m.yml, line 7, models[1].parameters.weight: the filter 'mpl' fits no parameter
document   2, which makes the result
method     passthrough
model      first
model      b
parameters 31, 548 elements: 31 merged, 0 copied
writes     4.60 kB in 1 file, merged ones as BF16, F32; reads 1.65 kB
setting    scale of b: 1
setting    scale of first: 1
tokenizer  none; rows of tokens are paired by number
left out: lm_head.weight, model.norm.weight: outside of the blocks, and first gives only blocks there
left out: model.embed_tokens.weight: outside of the blocks, and b gives only blocks there
this can be merged; no weights were read, and nothing was written
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Models whose data are not to be read."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        Path(name).mkdir()
        save_file(llama(seed, layers=3), Path(name) / "model.safetensors")
        (Path(name) / "config.json").write_text(json.dumps(llama_config(layers=3)))

    def refused(*_):
        raise AssertionError("weights are read")

    monkeypatch.setattr(StoredTensor, "read_into", refused)


def run(*arguments):
    said = CliRunner().invoke(cli, ["merge", "m.yml", *arguments, "--check"])
    if said.exception is not None and not isinstance(said.exception, (NetweightError, SystemExit)):
        raise said.exception
    return said


def test_what_will_be_merged(models) -> None:
    Path("m.yml").write_text(RECIPE)
    said = run("out")
    assert said.exit_code == 0, said.output
    assert [line for line in said.output.splitlines() if " 5 more: layer" not in line] == EXPECTED.splitlines()


def test_json_has_the_same(models) -> None:
    Path("m.yml").write_text(RECIPE)
    found = json.loads(run("--format", "json").output)
    first, second = found["recipes"]
    assert (found["check"], found["late"], first["name"], second["name"]) == (True, "", "first", None)
    weight = next(s for s in first["settings"] if s["setting"] == "weight" and s["model"] == "b")
    assert weight["values"] == [
        {"value": 0.0, "parameters": 10}, {"value": 0.5, "parameters": 7}, {"value": 1.0, "parameters": 7},
    ]  # fmt: skip
    assert second["models"] == ["first", "b"]
    assert second["parameters"] == 31


FAULTS = {
    "merge_method: ties\nmodels: [{model: a}, {model: b}]\n": "method ties needs a base model",
    "merge_method: linear\nmodels: [{model: a}, {model: x}]\nparameters: {weight: 1}\n": "x: there is no such file",
    "merge_method: linear\nmodels: [{model: a}, {model: b}]\n": "no value for weight of a",
    "merge_method: linear\nmodels: [{model: a}, {model: d}]\nparameters: {weight: 1}\n": "model.layers.2",
}


@pytest.mark.parametrize("recipe", FAULTS)
def test_a_merge_that_cannot_be_is_an_error(models, recipe) -> None:
    Path("d").mkdir()
    save_file(llama(5, layers=2), "d/model.safetensors")
    Path("m.yml").write_text(recipe)
    said = run()
    assert said.exit_code != 0
    assert FAULTS[recipe] in str(said.exception)


def test_an_output_that_stands_in_the_way(models) -> None:
    Path("m.yml").write_text(RECIPE)
    Path("out").mkdir()
    Path("out/model.safetensors").write_bytes(b"mine")
    said = run("out")
    assert said.exit_code != 0
    assert "out" in str(said.exception)


def test_weights_that_are_not_known_are_not_shown(models) -> None:
    """Those that follow from norms; those that options give are."""
    command = ["merge", "--base", "a", "--models", "b", "c", "--check"]
    said = CliRunner().invoke(cli, command)
    assert said.exit_code == 0, said.output
    assert "setting    weight" not in said.output
    assert "note: the weights follow from norms (mode exp), which --dry-run shows" in said.output
    said = CliRunner().invoke(cli, [*command, "--weights", "0.25", "0.5"])
    assert "setting    weight of b: 0.25\nsetting    weight of c: 0.5\n" in said.output
    assert "norms" not in said.output


def test_options_that_would_do_nothing(models) -> None:
    Path("m.yml").write_text("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\n")
    assert "--report: is of a merge that was made; leave out --check" in str(run("--report", "x.html").exception)
    assert "--intermediate-dir: the recipe is one document" in str(run("-I", "kept").exception)
