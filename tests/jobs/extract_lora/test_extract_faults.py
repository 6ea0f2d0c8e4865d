"""Bad options and inputs of `extract_lora`, interruption and --resume, and what `verify` says of changed adapters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from peft_models import LLAMA, llama, tuned, write
from safetensors.numpy import load_file, save_file

import netweight
from netweight.errors import FormatError, InputError, Interrupted, ModelNotFoundError, OptionError, OutputError
from netweight.run.threads import ThreadExecutor

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = llama()
    return write(folder / "base", base, LLAMA), write(folder / "fine", tuned(base), LLAMA)


@pytest.fixture
def extracted(models, tmp_path):
    netweight.extract_lora(*models, tmp_path / "out", rank=4)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "--rank 0: expected a whole number, 1 or more"),
        ({"rank": 2.5}, "--rank 2.5: expected a whole number"),
        ({"energy": 1.5}, "--energy 1.5: expected a number between 0 and 1"),
        ({"energy": 0}, "--energy 0: expected a number between 0 and 1"),
        ({"error": -0.1}, "--error -0.1: expected a number between 0 and 1"),
        ({"error": float("nan")}, "--error nan: expected a number between 0 and 1"),
        ({"rank": 4, "energy": 0.9}, "--rank and --energy: the rank follows from one of them; leave the other out"),
        ({"energy": 0.9, "error": 0.1}, "--energy and --error: the rank follows from one of them"),
        ({"dtype": "bfloat61"}, "--dtype: expected one of float32, float16, bfloat16, got 'bfloat61'"),
        ({"include": "*nothing*"}, "no parameter of .* is left by --include"),
        ({"count_tied_twice": True}, "count_tied_twice: an adapter adapts tied weights once"),
        ({"memory": 1 << 20}, "this job needs at least"),
    ],
)
def test_options_that_cannot_be(models, tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        netweight.extract_lora(*models, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_take_an_adapter(models, tmp_path):
    with pytest.raises(OutputError, match="lies in the folder of the input model"):
        netweight.extract_lora(*models, models[0] / "adapter")
    with pytest.raises(OutputError, match="is an input model"):
        netweight.extract_lora(*models, models[1])
    with pytest.raises(OutputError, match="got an empty name"):
        netweight.extract_lora(*models, "")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="is not empty, and no extract-lora of netweight's made it"):
        netweight.extract_lora(*models, tmp_path / "full")


def test_an_earlier_adapter_is_replaced_only_if_asked(models, extracted):
    with pytest.raises(OutputError, match="holds an earlier extract-lora; give --overwrite"):
        netweight.extract_lora(*models, extracted, rank=2)
    result = netweight.extract_lora(*models, extracted, rank=2, overwrite=True)
    assert result.record["request"]["rank"] == 2
    assert netweight.verify(extracted).good


def test_an_adapter_is_a_fine_tune(models, extracted, tmp_path):
    """It is read on the base: what is extracted of it is itself, of another rank where one is asked for."""
    again = netweight.extract_lora(models[0], extracted, tmp_path / "other", rank=3, include="*q_proj*")
    rows = [row for row in again.record["parameters"].values() if row["kept"] == "factors"]
    assert rows
    assert {row["rank"] for row in rows} == {3}


def test_a_model_of_another_shape_is_no_fine_tune(models, tmp_path):
    other = {name: np.ones([n + 1 for n in t.shape], np.float32) for name, t in llama().items()}
    with pytest.raises(InputError, match=r"share names but no usable parameter: .*: shape .*give the model"):
        netweight.extract_lora(models[0], write(tmp_path / "fine", other, LLAMA), tmp_path / "out")
    with pytest.raises(ModelNotFoundError):
        netweight.extract_lora(models[0], tmp_path / "nowhere", tmp_path / "out")


def test_factors_beyond_float16(models, tmp_path):
    base = llama()
    fine = {name: tensor + np.float32(1e12) * (tensor.ndim == 2) for name, tensor in base.items()}
    folders = models[0], write(tmp_path / "fine", fine, LLAMA)
    with pytest.raises(InputError, match="its factors are beyond the range of float16; give --dtype float32"):
        netweight.extract_lora(*folders, tmp_path / "out", dtype="float16")
    netweight.extract_lora(*folders, tmp_path / "out", dtype="bfloat16")


class Impatient(ThreadExecutor):
    """Is interrupted after some tasks."""

    def __init__(self, tasks):
        super().__init__(1)
        self.tasks = tasks

    def run(self, next_task, work):
        for number, done in enumerate(super().run(next_task, work)):
            if number == self.tasks:
                raise KeyboardInterrupt
            yield done


@pytest.mark.parametrize("tasks", [0, 7, 20])
@pytest.mark.parametrize("rule", [{"rank": 4}, {"energy": 0.9, "dtype": "bfloat16"}])
def test_a_stopped_run_goes_on_to_the_same_bytes(models, tmp_path, tasks, rule):
    netweight.extract_lora(*models, tmp_path / "whole", **rule)
    with pytest.raises(Interrupted, match="what stood there is untouched; run again with --resume to go on"):
        netweight.extract_lora(*models, tmp_path / "out", executor=Impatient(tasks), **rule)
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionError, match="--resume"):
        netweight.extract_lora(*models, tmp_path / "out", rank=3, resume=True)
    netweight.extract_lora(*models, tmp_path / "out", resume=True, **rule)
    for name in (WEIGHTS, "errors.csv", "adapter_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_damaged_parts_are_made_again(models, tmp_path):
    netweight.extract_lora(*models, tmp_path / "whole", rank=4)
    with pytest.raises(Interrupted):
        netweight.extract_lora(*models, tmp_path / "out", rank=4, executor=Impatient(9))
    parts = sorted((tmp_path / ".out.netweight-run" / "stage" / "parts").iterdir())
    parts[0].write_bytes(bytes(parts[0].stat().st_size))
    parts[3].unlink()
    (parts[0].parents[1] / ".adapter_model.safetensors.1.part").write_bytes(b"half")
    netweight.extract_lora(*models, tmp_path / "out", rank=4, resume=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def verdicts(folder, **more):
    return {v.name: v for v in netweight.verify(folder, **more).verdicts if v.verdict != "same"}


def test_verify_finds_changed_factors(extracted):
    tensors = load_file(extracted / WEIGHTS)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 1] += 0.5
    tensors["base_model.model.extra.lora_A.weight"] = np.ones((2, 2), np.float32)
    save_file(tensors, extracted / WEIGHTS)
    found = verdicts(extracted)
    changed = found.pop("model.layers.0.mlp.up_proj.weight")
    assert (changed.verdict, changed.differing) == ("differs", 1)
    assert changed.reason == "the factors do not give the recorded error"
    assert found.pop("base_model.model.extra.lora_A.weight").verdict == "not of the recipe"
    assert "its product is not multiplied by 1" in found.pop("adapter_config.json").reason
    assert not found
    assert not verdicts(extracted, include="*layers.1*")


def test_verify_tells_other_bits_with_the_recorded_error(extracted):
    """As other libraries, or another processor, would give."""
    tensors = load_file(extracted / WEIGHTS)
    for part, factor in (("A", 2), ("B", 0.5)):
        tensors[f"base_model.model.lm_head.lora_{part}.weight"] *= np.float32(factor)
    save_file(tensors, extracted / WEIGHTS)
    (found,) = verdicts(extracted).values()
    assert found.name == "lm_head.weight"
    assert found.reason.endswith("the factors give the recorded error")


def test_verify_finds_missing_and_changed_tensors(extracted):
    tensors = load_file(extracted / WEIGHTS)
    del tensors["base_model.model.lm_head.lora_A.weight"]
    tensors["base_model.model.model.norm.weight"] = tensors["base_model.model.model.norm.weight"] + 1
    save_file(tensors, extracted / WEIGHTS)
    found = verdicts(extracted)
    assert found["lm_head.weight"].verdict == "missing"
    assert found["model.norm.weight"].differing == 24


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lora_alpha": 8}, "is not multiplied by 1"),
        ({"modules_to_save": None}, "modules_to_save are not those that changed"),
    ],
)
def test_verify_finds_a_changed_config(extracted, changes, reason):
    path = extracted / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (found,) = verdicts(extracted).values()
    assert found.name == "adapter_config.json"
    assert reason in found.reason


def test_verify_finds_changed_models(models, tmp_path):
    base, fine = models
    other = write(tmp_path / "fine", load_file(fine / "model.safetensors"), LLAMA)
    netweight.extract_lora(base, other, tmp_path / "out", rank=4)
    tensors = load_file(other / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + np.float32(0.25)
    write(other, tensors, LLAMA)
    (found,) = verdicts(tmp_path / "out").values()
    assert (found.name, found.reason) == ("lm_head.weight", "the models differ otherwise than when it was extracted")
    write(other, tensors | {"more.weight": np.ones((2, 2), np.float32)}, LLAMA)
    with pytest.raises(ModelNotFoundError, match="its files are not those that were extracted from"):
        netweight.verify(tmp_path / "out")
    other.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFoundError, match="say where it is: --moved"):
        netweight.verify(tmp_path / "out")
    write(tmp_path / "elsewhere", load_file(fine / "model.safetensors"), LLAMA)
    assert netweight.verify(tmp_path / "out", moved={str(other): str(tmp_path / "elsewhere")}).good
    with pytest.raises(OptionError, match="--moved nobody: the record names no such model"):
        netweight.verify(tmp_path / "out", moved={"nobody": "x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 9}, "schema 9, this version knows 1"),
        ({"request": {"rank": 4}}, "its request is none of an extraction"),
        ({"request": []}, "not the record of an extraction"),
        ({"inputs": []}, "expected the base and the fine-tune, got 0 inputs"),
    ],
)
def test_records_that_are_none(extracted, changes, message):
    path = extracted / "netweight_extract_lora.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(FormatError, match=message):
        netweight.verify(extracted)
    path.write_text("{")
    with pytest.raises(FormatError, match="not the record of an extraction"):
        netweight.verify(extracted)
