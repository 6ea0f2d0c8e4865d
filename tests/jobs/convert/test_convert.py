"""`convert`, and merges of models that are stored in different ways, against the decoded models."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from gguf_files import families, values_of, write_family
from safetensors.numpy import load_file as load_arrays

import netweight
from netweight.errors import InputError, OptionError

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netweight", *map(str, args)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_gguf_becomes_the_model_that_it_was_made_from(tmp_path):
    file, source = write_family("qwen3-moe", tmp_path)
    result = netweight.convert(file, tmp_path / "out", workers=1)
    made = load_arrays(tmp_path / "out" / "model.safetensors")
    shapes = families()["qwen3-moe"]["shapes"]
    assert made.keys() == shapes.keys()
    assert all(np.array_equal(made[name], values_of(name, shape)) for name, shape in shapes.items())
    assert netweight.verify(tmp_path / "out").good
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"]) == ("qwen3_moe", "float32")
    assert "# Converted model" in (tmp_path / "out" / "README.md").read_text()
    assert result.output == tmp_path / "out"
    assert set(netweight.compare(source, tmp_path / "out").identical) == set(shapes)


def test_transformers_loads_it(tmp_path):
    """And computes the same as with the source."""
    transformers = pytest.importorskip("transformers")
    file, source = write_family("llama", tmp_path)
    netweight.convert(file, tmp_path / "out", workers=1)
    tokens = torch.arange(1, 20).reshape(1, -1)
    with torch.no_grad():
        one, other = (
            transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits
            for folder in (source, tmp_path / "out")
        )
    assert torch.isfinite(one).all()
    assert torch.equal(one, other)


def test_rounded_once(tmp_path):
    file, _ = write_family("llama", tmp_path)
    netweight.convert(file, tmp_path / "out", dtype="bfloat16", workers=1)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        wanted = torch.from_numpy(values_of(name, families()["llama"]["shapes"][name]))
        assert torch.equal(tensor, wanted.to(torch.bfloat16))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_config_of_another_model(tmp_path):
    file, source = write_family("gemma3", tmp_path)
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"do not say all of config.json of gemma3_text; give --like MODEL"):
        netweight.convert(file, tmp_path / "out", workers=1)
    result = netweight.convert(file, tmp_path / "out", like=source, workers=1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["query_pre_attn_scalar"] == 8
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert not any("gets no config.json" in note for note in result.notes)
    assert netweight.verify(tmp_path / "out").good


def test_config_of_a_model_of_other_sizes(tmp_path):
    file, source = write_family("gemma3", tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"--like .*: config.json says num_hidden_layers = 3, .* count 2"):
        netweight.convert(file, tmp_path / "out", like=source, workers=1)
    (source / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config.json; expected a model with a config.json"):
        netweight.convert(file, tmp_path / "out", like=source, workers=1)
    assert not (tmp_path / "out").exists()


def test_a_torch_file_becomes_safetensors(tmp_path):
    held = {"model.embed_tokens.weight": torch.randn(8, 4), "model.norm.weight": torch.ones(4, dtype=torch.float16)}
    (tmp_path / "m").mkdir()
    torch.save(held, tmp_path / "m" / "pytorch_model.bin")
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    netweight.convert(tmp_path / "m", tmp_path / "out", workers=1)
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(made[name], tensor) and made[name].dtype == tensor.dtype for name, tensor in held.items())


def test_the_command(tmp_path):
    file, _ = write_family("qwen2", tmp_path)
    planned = run("convert", file, "--dry-run")
    assert planned.returncode == 0
    assert "nothing was written" in planned.stdout
    done = run("convert", file, "--output", tmp_path / "out", "--dtype", "float16", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipe"].count("passthrough") == 1
    again = run("convert", file, "--output", tmp_path / "out")
    assert (again.returncode, "give --overwrite to replace it" in again.stderr) == (2, True)
    assert run("convert", file, "--output", tmp_path / "out", "--overwrite").returncode == 0
    for args, message in (
        ((file,), "--output: expected the folder that the converted model goes into"),
        ((file, "--output", tmp_path / "x", "--dtype", "int4"), "--dtype"),
        ((tmp_path / "nothing", "--output", tmp_path / "x"), "there is no such file"),
        ((file, "--output", tmp_path / "x", "--like", tmp_path / "nothing"), "there is no such file"),
    ):
        bad = run("convert", *args)
        assert (bad.returncode, bad.stderr.count("\n")) == (2, 1), args
        assert message in bad.stderr


def test_a_dtype_that_is_not_known(tmp_path):
    file, _ = write_family("qwen2", tmp_path)
    with pytest.raises(OptionError, match="--dtype"):
        netweight.convert(file, tmp_path / "out", dtype="fp3", workers=1)


@pytest.fixture
def mixed(tmp_path):
    """(base in bfloat16, a fine-tune in FP8 with blocks, one in GGUF; the three decoded)."""
    file, source = write_family("llama", tmp_path)
    config = json.loads((source / "config.json").read_text())
    held = load_file(source / "model.safetensors")
    made = torch.Generator().manual_seed(3)
    base = {name: (tensor + torch.randn(tensor.shape, generator=made) / 9).bfloat16() for name, tensor in held.items()}
    fp8, dense = {}, {}
    for name, tensor in base.items():
        if "_proj.weight" not in name:
            fp8[name] = dense[name] = tensor
            continue
        scale = torch.rand((1, 1), generator=made) / 50
        fp8[name] = (torch.randn(tensor.shape, generator=made) * 50).to(torch.float8_e4m3fn)
        fp8[f"{name}_scale_inv"] = scale
        dense[name] = fp8[name].float() * scale
    places = []
    for folder, tensors, more in (
        ("base", base, {}),
        ("fp8", fp8, {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}),
        ("dense", dense, {}),
    ):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text(json.dumps(config | more))
        places.append(tmp_path / folder)
    return places[0], (places[1], file), (places[2], source)


@pytest.mark.parametrize("method", ["ties", "linear", "dare_ties"])
def test_a_merge_of_mixed_storage(mixed, tmp_path, method):
    """It is the merge of the decoded models, bit for bit, and dense."""
    base, stored, decoded = mixed
    for name, models in (("one", stored), ("other", decoded)):
        netweight.merge(
            None, tmp_path / name, base=base, models=list(models), method=method, weights=(0.6, 0.3), workers=1,
            settings={"density": 0.5} if method != "linear" else {},
        )  # fmt: skip
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) and tensor.dtype == other[name].dtype for name, tensor in one.items())
    assert netweight.verify(tmp_path / "one").good
    assert "quantization_config" not in json.loads((tmp_path / "one" / "config.json").read_text())


def test_jobs_on_mixed_storage(mixed, tmp_path):
    base, stored, decoded = mixed
    for models in zip(stored, decoded, strict=True):
        one, other = (netweight.delta(base, [path]).models[0].summary for path in models)
        assert (one["global_l2"], one["elements"]) == (other["global_l2"], other["elements"])
        scans = [netweight.scan(path) for path in models]
        assert scans[0].keys() == scans[1].keys()
        for name, measures in scans[0].items():
            for measure, fields in measures.items():
                assert fields == pytest.approx(scans[1][name][measure], nan_ok=True), (name, measure)
        totals = [netweight.structure(path).structure["total_params"] for path in models]
        assert totals[0] == totals[1]
    pair = netweight.delta(base, list(stored))
    wanted = netweight.delta(base, list(decoded))
    assert pair.cosines == wanted.cosines
