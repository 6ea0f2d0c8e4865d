"""`netweight.scan(TUNED, base=B)`: the measures of differences, against numpy's own."""

from __future__ import annotations

import csv
import json

import ml_dtypes
import numpy as np
import pytest
from peft_models import llama, write
from task_vectors import normal, save

import netweight
from netweight.cli.main import main
from netweight.errors import InputError


def run(*args, code=0):
    with pytest.raises(SystemExit) as left:
        main(["scan", *map(str, args)])
    assert (left.value.code or 0) == code


CONFIG = {"model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 48}
AT = "model.layers.0"


def base_tensors(dtype="bfloat16"):
    return {
        "model.embed_tokens.weight": normal((200, 48), dtype, seed=1),
        f"{AT}.self_attn.q_proj.weight": normal((48, 48), dtype, seed=2),
        f"{AT}.mlp.up_proj.weight": normal((130, 48), dtype, seed=3),
        f"{AT}.input_layernorm.weight": np.ones(48, ml_dtypes.bfloat16),
    }


def changed(tensors, dtype, seed=50):
    random = np.random.default_rng(seed)
    return {
        name: (x.astype(np.float64) + 0.01 * random.standard_normal(x.shape)).astype(dtype)
        for name, x in tensors.items()
    }


def difference(a, b):
    return (a.astype(np.float64) - b.astype(np.float64)).astype(np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    base = base_tensors()
    return save(folder / "base", base, CONFIG), save(folder / "tuned", changed(base, ml_dtypes.bfloat16), CONFIG)


@pytest.mark.parametrize("types", [("bfloat16", "float16"), ("float32", "bfloat16"), ("float64", "float32")])
def test_spectra_and_moments_are_those_of_the_difference(types, tmp_path):
    base = base_tensors(types[0])
    tuned = changed(base, np.dtype(types[1]) if types[1] != "bfloat16" else ml_dtypes.bfloat16)
    folders = save(tmp_path / "b", base, CONFIG), save(tmp_path / "t", tuned, CONFIG)
    found = netweight.scan(folders[1], base=folders[0], methods=["basic_stats", "spectral", "tail"])
    assert found.differences
    assert list(found) == list(base)
    for name, row in found.items():
        d = difference(tuned[name], base[name])
        assert row["basic_stats"]["std"] == pytest.approx(d.std(), rel=1e-9)
        assert row["basic_stats"]["max"] == d.max()
        if d.ndim > 1:
            sigma = np.linalg.svd(d, compute_uv=False)
            assert row["spectral"]["max_singular_value"] == pytest.approx(sigma[0], rel=1e-9)
            assert row["tail"]["log_spectral_norm"] == pytest.approx(2 * np.log10(sigma[0]), rel=1e-9)
            assert row["tail"]["sv_min"] == pytest.approx(sigma[-1], rel=1e-6)


def test_what_a_low_rank_update_was_is_seen(models, tmp_path):
    base = base_tensors("float32")
    tuned = dict(base)
    random = np.random.default_rng(9)
    update = random.standard_normal((130, 3)) @ random.standard_normal((3, 48)) * 0.01
    tuned[f"{AT}.mlp.up_proj.weight"] = (base[f"{AT}.mlp.up_proj.weight"] + update).astype(np.float32)
    folders = save(tmp_path / "b", base, CONFIG), save(tmp_path / "t", tuned, CONFIG)
    found = netweight.scan(folders[1], base=folders[0], methods=["spectral", "tail", "bulk"])
    assert found[f"{AT}.mlp.up_proj.weight"]["spectral"]["effective_rank"] == 3
    same = found[f"{AT}.self_attn.q_proj.weight"]
    assert same["tail"]["tail_reason"] == same["bulk"]["bulk_reason"] == "all elements are zero"


def test_what_has_no_difference_is_listed_and_the_share_is_said_first(models, tmp_path):
    tensors = base_tensors()
    tensors["lm_head.weight"] = normal((200, 48), "bfloat16", seed=7)
    tensors["model.embed_tokens.weight"] = normal((210, 48), "bfloat16", seed=1)
    grown = save(tmp_path / "grown", tensors, CONFIG)
    found = netweight.scan(grown, base=models[0])
    reasons = {entry.name: entry.reason for entry in found.skipped}
    assert reasons["lm_head.weight"] == "missing in the base"
    assert reasons["model.embed_tokens.weight"] == "shape [210, 48] in the model, [200, 48] in the base"
    share = 100 * (48 * 48 + 130 * 48 + 48) / sum(x.size for x in tensors.values())
    assert found.notes[0].endswith(f"not its weights, {share:.3g}% of its parameters: the others are listed below")


def test_the_first_line_says_so_and_health_is_not_judged(models, capsys):
    base, tuned = map(str, models)
    run(tuned, "--base", base, "--methods", "all")
    assert capsys.readouterr().out.splitlines()[0].startswith("measured: what ")
    run(tuned, "--base", base, "--health", code=2)
    assert "judges weights" in capsys.readouterr().err
    result = netweight.scan(tuned, base=base, methods="all")
    assert not result.health().findings
    assert result.health().training is None
    section = result.section()
    assert section.notes[0].startswith("measured: what ")
    assert not section.findings


def test_files_name_both_models(models, tmp_path):
    base, tuned = map(str, models)
    netweight.scan(tuned, base=base, output=tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        assert {row["model_path"] for row in csv.DictReader(file)} == {f"{tuned} - {base}"}
    result = netweight.scan(tuned, base=base, output=tmp_path / "a.parquet")
    assert [entry["ref"] for entry in result.inputs] == [tuned, base]


def test_a_run_against_another_base_is_not_gone_on_with(models, capsys):
    base, tuned = models
    digests = set()
    for more in ([], ["--base", base], ["--base", tuned]):
        run(tuned, *more, "--dry-run", "--format", "json")
        digests.add(json.loads(capsys.readouterr().out)["digest"])
    assert len(digests) == 3


def test_an_adapter_is_read_on_the_base(tmp_path):
    arrays = llama(dtype=np.float32)
    base = write(tmp_path / "base", arrays, {"model_type": "llama"})
    name = "model.layers.0.self_attn.q_proj.weight"
    rows, cols = arrays[name].shape
    random = np.random.default_rng(3)
    a, b = (random.standard_normal(s).astype(np.float32) for s in ((2, cols), (rows, 2)))
    stem = "base_model.model." + name.removesuffix(".weight")
    lora = write(tmp_path / "lora", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b})
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (lora / "adapter_config.json").write_text(json.dumps(settings))
    for place in (lora, f"{base}+{lora}"):
        found = netweight.scan(place, base=base, methods=["spectral"])[name]["spectral"]
        sigma = np.linalg.svd(2.0 * b.astype(np.float64) @ a.astype(np.float64), compute_uv=False)
        assert found["max_singular_value"] == pytest.approx(sigma[0], rel=1e-5)
        assert found["effective_rank"] == 2


def test_models_that_share_nothing_are_refused(models, tmp_path):
    other = save(tmp_path / "other", {"x.weight": np.ones((9, 9), np.float32)}, {})
    with pytest.raises(InputError, match="no parameter is in both with one shape"):
        netweight.scan(other, base=models[0])
