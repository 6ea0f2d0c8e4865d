"""`netweight.verify`: what it finds, and whom it blames."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from merge_families import family
from safetensors.numpy import load_file, save_file

import netweight
from netweight.errors import FormatError, ModelNotFoundError, OptionError

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def made(tmp_path):
    base, tuned, _, _ = family(tmp_path)
    netweight.merge(None, tmp_path / "out", base=base, models=tuned, method="dare_ties", settings={"density": 0.5})
    return tmp_path


def change(file: Path, name=NAME):
    arrays = load_file(file)
    arrays[name][0, 0] += 1
    save_file(arrays, file, {"format": "pt"})


def test_what_the_recipe_gives(made) -> None:
    found = netweight.verify(made / "out")
    assert found.good
    assert {v.verdict for v in found.verdicts} == {"same"}
    assert len(found.verdicts) == found.planned == len(load_file(made / "base" / "model.safetensors"))


def test_some_parameters(made) -> None:
    found = netweight.verify(made / "out", include=["*.layers.1.*"], exclude=["*norm*"])
    assert found.good
    assert all(".layers.1." in v.name for v in found.verdicts)
    with pytest.raises(OptionError, match="no parameter"):
        netweight.verify(made / "out", include=["nothing"])


def test_a_changed_file(made) -> None:
    change(made / "out" / "model.safetensors")
    found = netweight.verify(made / "out")
    bad = [v for v in found.verdicts if v.verdict != "same"]
    assert not found.good
    assert [(v.name, v.differing) for v in bad] == [(NAME, 1)]
    assert "merged file was changed" in bad[0].reason


def test_a_changed_input(made) -> None:
    arrays = load_file(made / "m1" / "model.safetensors")
    arrays[NAME] = -arrays[NAME]
    save_file(arrays, made / "m1" / "model.safetensors", {"format": "pt"})
    bad = [v for v in netweight.verify(made / "out").verdicts if v.verdict != "same"]
    assert [v.name for v in bad] == [NAME]
    assert bad[0].reason == f"the input {made / 'm1'} was changed after the merge, or is another"


def test_a_missing_and_a_foreign_parameter(made) -> None:
    arrays = load_file(made / "out" / "model.safetensors")
    arrays["other"] = np.ones(3, np.float32)
    del arrays[NAME]
    save_file(arrays, made / "out" / "model.safetensors", {"format": "pt"})
    verdicts = {v.name: v.verdict for v in netweight.verify(made / "out").verdicts if v.verdict != "same"}
    assert verdicts == {NAME: "missing", "other": "not of the recipe"}


def test_moved_together_or_apart(made, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(made, elsewhere / "all")
    assert netweight.verify(elsewhere / "all" / "out").good
    shutil.move(made / "m1", elsewhere / "m1")
    with pytest.raises(ModelNotFoundError, match="--moved"):
        netweight.verify(made / "out")
    assert netweight.verify(made / "out", moved={str(made / "m1"): str(elsewhere / "m1")}).good
    with pytest.raises(OptionError, match="the recipe names no such model"):
        netweight.verify(made / "out", moved={"m9": "x"})


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"schema": 1}', "[" * 100_000])
def test_no_record(made, text) -> None:
    (made / "out" / "netweight_merge.json").write_text(text)
    with pytest.raises(FormatError, match=r"netweight_merge\.json"):
        netweight.verify(made / "out")


def retold(made, change):
    path = made / "out" / "netweight_merge.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "wrong",
    [
        {"vocab": "all"}, {"vocab": ["base"]}, {"missing": 7}, {"missing": None}, {"seed": "1"}, {"seed": True},
        {"seed": None}, {"max_shard_size": 0}, {"max_shard_size": -1}, {"max_shard_size": "5GB"}, {"workers": 3},
        {"overwrite": True},
    ],
)  # fmt: skip
def test_options_that_no_merge_has(made, wrong) -> None:
    retold(made, lambda record: record["options"].update(wrong))
    with pytest.raises(FormatError, match=r"netweight_merge\.json: its options are none of a merge"):
        netweight.verify(made / "out")


@pytest.mark.parametrize("inputs", [[], [1, 2, 3, 4], [{}]])
def test_inputs_that_are_not_those_of_the_recipe(made, inputs) -> None:
    retold(made, lambda record: record.update(inputs=inputs))
    with pytest.raises(FormatError, match="expected 4 inputs, as the recipe has"):
        netweight.verify(made / "out")


@pytest.mark.parametrize("path", [None, 5, "a\0b", "x" * 100_000])
def test_paths_that_are_none(made, path) -> None:
    retold(made, lambda record: record["inputs"][1].update(path=path))
    assert netweight.verify(made / "out").good  # the reference is an absolute path, and still right


@pytest.mark.parametrize("said", [1, [], {"digest": 5, "inputs": 7}, {"digest": "", "inputs": [1, {"digest": 2}]}])
def test_a_parameter_of_which_the_record_says_nothing_right(made, said) -> None:
    retold(made, lambda record: record["parameters"].update({NAME: said}))
    (bad,) = [v for v in netweight.verify(made / "out").verdicts if v.verdict != "same"]
    assert (bad.name, bad.differing) == (NAME, 0)
    assert bad.reason == "the file is what the recipe gives, but the record has another digest"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
def test_a_record_that_is_no_file(made) -> None:
    path = made / "out" / "netweight_merge.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FormatError, match="is a pipe, expected a regular file"):
        netweight.verify(made / "out")


def test_where_inputs_are_looked_for(made, monkeypatch) -> None:
    """Relative references lead from the merged folder first: from elsewhere they may lead to another model."""
    monkeypatch.chdir(made)
    netweight.merge(None, "near", base="base", models=["m1", "m2"])
    (made / "else").mkdir()
    shutil.copytree("m1", "else/m2")  # another model of that name
    shutil.copytree("m1", "else/m1")
    shutil.copytree("base", "else/base")
    monkeypatch.chdir(made / "else")
    assert netweight.verify("../near").good
    shutil.move(made / "near", "inner")
    bad = [v for v in netweight.verify("inner").verdicts if v.verdict != "same"]
    assert {v.reason for v in bad} == {"the input inner/../m2 was changed after the merge, or is another"}
    assert netweight.verify("inner", moved={"m2": "../m2"}).good


def test_a_record_of_another_schema_or_without_one(made) -> None:
    path = made / "out" / "netweight_merge.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"schema": 9}))
    with pytest.raises(
        FormatError, match="schema 9, this version knows 1; use the version of netweight that made it, "
    ):
        netweight.verify(made / "out")
    path.unlink()
    with pytest.raises(ModelNotFoundError, match="`netweight merge`"):
        netweight.verify(made / "out")


@pytest.mark.parametrize("how", ["another header", "another name"])
def test_inputs_that_are_not_those_that_were_merged(made, how) -> None:
    """They would give the same bytes, and are not what the record speaks of."""
    file = made / "m1" / "model.safetensors"
    arrays = load_file(file)
    if how == "another name":
        file.rename(made / "m1" / "weights.safetensors")
    else:
        save_file(arrays, file, {"format": "pt", "by": "another tool"})
    with pytest.raises(ModelNotFoundError, match=r"m1: its files are not those that were merged"):
        netweight.verify(made / "out")


def test_names_are_made_harmless_on_a_terminal(tmp_path) -> None:
    import subprocess
    import sys

    odd = "model.layers.0.\x1b[31mred\u202e.weight"
    for name, value in (("base", 1.0), ("a", 2.0)):
        (tmp_path / name).mkdir()
        save_file({odd: np.full((2, 2), value, np.float32)}, tmp_path / name / "model.safetensors")
    netweight.merge(None, tmp_path / "out", base=str(tmp_path / "base"), models=[str(tmp_path / "a")], weights=[1.0])
    change(tmp_path / "out" / "model.safetensors", odd)
    done = subprocess.run(
        [sys.executable, "-m", "netweight", "verify", str(tmp_path / "out"), "--verbose"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "red" in done.stdout
    for sign in ("\x1b", "\u202e"):
        assert sign not in done.stdout + done.stderr
