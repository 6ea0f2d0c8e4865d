"""`netweight.plan`: sizes that hold, rules that are kept, files that back ends take, and wrong input."""

from __future__ import annotations

import json
import struct

import libgguf
import numpy as np
import pytest
import yaml
from task_vectors import normal, save

import netweight
from netweight.cli.main import main
from netweight.errors import FormatError, JobError, OptionError
from netweight.jobs.plan import job
from netweight.passes import format_errors
from netweight.statistics.formats.ggml import NEEDED

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 256}
BITS = {"q8_0": 8.5, "q6_k": 6.5625, "q5_k": 5.5, "q4_k": 4.5, "q3_k": 3.4375, "q2_k": 2.625, "iq4_xs": 4.25}
BITS |= {"iq4_nl": 4.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}


def llama(*, tied=False, seed=0):
    shapes = {"model.embed_tokens": (512, 256)} | ({} if tied else {"lm_head": (512, 256)})
    for i in range(2):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.self_attn.{x}_proj": (128 if x in "kv" else 256, 256) for x in "qkvo"}
        shapes |= {f"{at}.mlp.{x}_proj": (512, 256) for x in ("gate", "up")} | {f"{at}.mlp.down_proj": (256, 512)}
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        found[f"{name}.weight"] = normal(shape, "float32", seed=seed + number)
    found["model.layers.1.mlp.down_proj.weight"][:, ::37] *= 30  # outliers, of which small formats lose much
    return found | {"model.norm.weight": np.ones(256, np.float32)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("plan") / "model", llama(), CONFIG)


def run(*args, code=0):
    with pytest.raises(SystemExit) as left:
        main(["plan", *map(str, args)])
    assert (left.value.code or 0) == code


def lines_of(path):
    return dict(line.split("=") for line in path.read_text().split())


@pytest.mark.parametrize("size", ["3bpw", "3.7 bpw", "4.5bpw", "6bits", "560KB", "600KiB"])
def test_the_model_has_at_most_the_size_that_was_asked_for(model, size, tmp_path):
    result = netweight.plan(model, size, output=tmp_path / "types.txt")
    arrays = llama()
    parameters = sum(x.size for x in arrays.values())
    assert result.parameters == parameters
    named = {row.unit.name: sum(m.part.size for m in row.unit.matrices) for row in result.rows}
    written = {name.strip("^$").replace("\\", ""): kind for name, kind in lines_of(tmp_path / "types.txt").items()}
    assert written.keys() == named.keys()
    used = sum(BITS[kind] * named[name] for name, kind in written.items()) + 32 * 256
    assert used / 8 == result.size
    number = float(size.rstrip("bpwitskKB "))
    budget = (
        number * parameters
        if "b" in size.replace("KB", "") and "K" not in size
        else 8 * number * (1024 if "Ki" in size else 1000)
    )
    assert used <= budget
    assert used > 0.985 * budget
    assert result.bits == used / parameters


def test_names_are_llama_cpps_and_what_is_small_gets_more_bits(model):
    rows = {row.unit.name: row for row in netweight.plan(model, "4.4bpw").rows}
    assert {"token_embd.weight", "output.weight", "blk.1.attn_output.weight", "blk.0.ffn_down.weight"} <= rows.keys()
    for i in range(2):  # a bit of a small matrix costs less, and its error counts as much
        assert rows[f"blk.{i}.attn_k.weight"].bits > rows[f"blk.{i}.ffn_up.weight"].bits
    assert rows["output.weight"].bits >= 6.5625


def test_errors_are_those_of_the_rows_in_the_format(model):
    row = next(r for r in netweight.plan(model, "4.5bpw", exact=True).rows if r.unit.name == "blk.1.ffn_down.weight")
    x = llama()["model.layers.1.mlp.down_proj.weight"].astype(np.float32)
    kind = libgguf.GGMLQuantizationType[row.option.key.upper()]
    back = libgguf.dequantize_rows(libgguf.quantize_rows(x, kind), kind, n_per_row=512)
    assert row.error == pytest.approx(float(np.sqrt(((x - back) ** 2).sum() / (x**2).sum())), rel=1e-5)


def test_more_bits_lose_less_and_never_more_than_one_format_for_all(model):
    result = netweight.plan(model, "4.5bpw")
    errors = [error for _, error in result.curve]
    assert errors == sorted(errors, reverse=True)
    for _, bits, error in result.uniform:
        assert result.error_at(bits) <= error * (1 + 1e-9)


def test_the_head_and_the_embedding_have_at_least_what_was_asked_for(model, tmp_path):
    def bits(name, *, folder=model, **settings):
        rows = {row.unit.name: row for row in netweight.plan(folder, "3.6bpw", **settings).rows}
        return rows[name].bits

    assert bits("output.weight", head="Q8_0") == 8.5
    assert bits("output.weight", head="any") < 6.5
    assert bits("token_embd.weight", embedding="q6_k") >= 6.5625
    tied = save(tmp_path / "tied", llama(tied=True), {**CONFIG, "tie_word_embeddings": True})
    assert bits("token_embd.weight", folder=tied) >= 6.5625  # it is the head


def test_importance_is_read_and_counts(model, tmp_path):
    name = b"blk.1.ffn_down.weight"
    weights = np.full(512, 1e-3, np.float32)
    weights[::37] = 1.0  # the large columns matter
    legacy = struct.pack("<i", 1) + struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, 512) + weights.tobytes()
    (tmp_path / "imatrix.dat").write_bytes(legacy)
    result = netweight.plan(model, "4.5bpw", imatrix=tmp_path / "imatrix.dat", exact=True)
    assert any("tensors are not in the imatrix" in note for note in result.notes)
    row = next(r for r in result.rows if r.unit.name == name.decode())
    x = llama()["model.layers.1.mlp.down_proj.weight"].astype(np.float32)
    kind = libgguf.GGMLQuantizationType[row.option.key.upper()]
    held = libgguf.load_imatrix(tmp_path / "imatrix.dat")[name.decode()]
    back = libgguf.dequantize_rows(libgguf.quantize_rows(x, kind, held), kind, n_per_row=512)
    lost = ((x.astype(float) - back) ** 2 @ held.astype(float)).sum()
    lost /= (x.astype(float) ** 2 @ held.astype(float)).sum()
    assert row.error == pytest.approx(np.sqrt(lost), rel=1e-5)


def test_every_expert_has_its_own_importance_also_in_a_sample(tmp_path, monkeypatch):
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 1, "num_experts": 20, "hidden_size": 256}
    arrays = {"model.embed_tokens.weight": normal((64, 256)), "lm_head.weight": normal((64, 256), seed=1)}
    arrays |= {f"model.layers.0.mlp.experts.{e}.up_proj.weight": normal((32, 256), seed=e) for e in range(20)}
    name = b"blk.0.ffn_up_exps.weight"
    held = np.repeat(np.arange(20, dtype=np.float32), 256)  # each its number; that of the first is nothing
    legacy = struct.pack("<i", 1) + struct.pack("<i", len(name)) + name
    legacy += struct.pack("<ii", 1, len(held)) + held.tobytes()
    (tmp_path / "imatrix.dat").write_bytes(legacy)
    seen, plain = {}, format_errors.sampled_errors

    def sampled(matrix, *args, weights=None, **more):
        seen[matrix.name] = weights
        return plain(matrix, *args, weights=weights, **more)

    monkeypatch.setattr(format_errors, "sampled_errors", sampled)
    folder = save(tmp_path / "moe", arrays, config)
    for exact, count in ((False, 8), (True, 20)):
        seen.clear()
        netweight.plan(folder, "5bpw", imatrix=tmp_path / "imatrix.dat", exact=exact)
        experts = {key.split(".")[5]: weights for key, weights in seen.items() if "experts" in key}
        assert len(experts) == count
        for number, weights in experts.items():
            assert weights is None if number == "0" else (weights == float(number)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_importance_that_is_none_is_one_line(model, tmp_path, bad):
    name, held = b"output.weight", np.full(256, bad, np.float32)
    legacy = struct.pack("<i", 1) + struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, 256) + held.tobytes()
    (tmp_path / "bad").write_bytes(legacy)
    with pytest.raises(FormatError, match="no importance"):
        netweight.plan(model, "4.5bpw", imatrix=tmp_path / "bad")


def test_an_imatrix_that_does_not_fit_or_is_none_is_one_line(model, tmp_path):
    (tmp_path / "junk").write_bytes(b"GGUFjunk")
    with pytest.raises(FormatError, match="cannot be read: No such file"):
        netweight.plan(model, "4.5bpw", imatrix=tmp_path / "none")
    with pytest.raises(FormatError, match="is no imatrix"):
        netweight.plan(model, "4.5bpw", imatrix=tmp_path / "junk")
    name = b"output.weight"
    short = struct.pack("<i", 1) + struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, 7) + bytes(28)
    (tmp_path / "short").write_bytes(short)
    with pytest.raises(FormatError, match=r"output\.weight has 7 numbers, expected 256"):
        netweight.plan(model, "4.5bpw", imatrix=tmp_path / "short")
    with pytest.raises(OptionError, match="goes with --format gguf"):
        netweight.plan(model, "4.5bpw", backend="mlx", imatrix=tmp_path / "short")


def test_vllms_fused_layers_have_one_scheme_and_the_recipe_names_them(model, tmp_path):
    result = netweight.plan(model, "8.5bpw", backend="compressed-tensors", output=tmp_path / "recipe.yaml")
    modifier = yaml.safe_load((tmp_path / "recipe.yaml").read_text())["quant_stage"]["quant_modifiers"]
    modifier = modifier["QuantizationModifier"]
    scheme = {t: key for key, group in modifier["config_groups"].items() for t in group["targets"]}
    scheme |= dict.fromkeys(modifier["ignore"], "kept")
    for i in range(2):
        at = f"model.layers.{i}"
        assert len({scheme[f"{at}.self_attn.{x}_proj"] for x in "qkv"}) == 1
        assert len({scheme[f"{at}.mlp.{x}_proj"] for x in ("gate", "up")}) == 1
    assert scheme["lm_head"] == "kept"
    assert "model.embed_tokens" not in scheme
    assert modifier["config_groups"]["int4_sym"]["weights"]["group_size"] == 128
    heads = 2 * 512 * 256 * 16 + 256 * 16
    assert result.size * 8 >= heads


def test_mlx_has_a_setting_for_every_module(model, tmp_path):
    netweight.plan(model, "4.6bpw", backend="mlx", output=tmp_path / "plan.json")
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["lm_head"]["bits"] >= 6
    given = [held for held in found.values() if held is not False]
    assert all(held["group_size"] == 64 and held["bits"] in (2, 3, 4, 5, 6, 8) for held in given)
    assert len(found) == 16


def test_stacks_of_experts_are_one_tensor_and_a_few_are_measured(tmp_path, monkeypatch):
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 1, "num_experts": 20, "hidden_size": 256}
    arrays = {"model.embed_tokens.weight": normal((300, 256)), "lm_head.weight": normal((300, 256), seed=1)}
    arrays["model.layers.0.mlp.gate.weight"] = normal((20, 256), seed=2)
    for e in range(20):
        arrays |= {
            f"model.layers.0.mlp.experts.{e}.{x}_proj.weight": normal((256, 256), seed=10 * e + n)
            for n, x in enumerate(("gate", "up", "down"))
        }
    folder = save(tmp_path / "moe", arrays, config)
    seen, plain = [], job._errors

    def errors(unit, options, importance):
        seen.append(len(job._sampled(unit, options)))
        return plain(unit, options, importance)

    monkeypatch.setattr(job, "_errors", errors)
    rows = {row.unit.name: row for row in netweight.plan(folder, "4.5bpw").rows}
    modules = {row.unit.name: row for row in netweight.plan(folder, "5bpw", backend="mlx").rows}
    at = "model.layers.0.mlp"
    assert modules.keys() == {
        "model.embed_tokens",
        "lm_head",
        *(f"{at}.switch_mlp.{x}_proj" for x in ("gate", "up", "down")),
    }
    result = netweight.plan(folder, "9bpw", backend="compressed-tensors", output=tmp_path / "r.yaml")
    assert [row.unit.name for row in result.rows] == [f"{at}.experts"]
    assert len(result.rows[0].unit.matrices) == 60
    text = (tmp_path / "r.yaml").read_text()
    assert text.count("experts.7.up_proj\n") == 1
    stacks = {f"blk.0.ffn_{x}_exps.weight" for x in ("gate", "up", "down")}
    assert set(rows) == {"token_embd.weight", "output.weight", *stacks}
    assert len(rows["blk.0.ffn_up_exps.weight"].unit.matrices) == 20
    assert max(seen) == 8


def test_rows_that_k_types_do_not_fit_get_others_and_what_none_fits_is_kept(tmp_path):
    arrays = llama()
    arrays["model.layers.0.mlp.down_proj.weight"] = normal((256, 96))
    arrays["model.layers.1.mlp.up_proj.weight"] = normal((64, 50))
    result = netweight.plan(save(tmp_path / "m", arrays, CONFIG), "4.6bpw")
    rows = {row.unit.name: row for row in result.rows}
    assert rows["blk.0.ffn_down.weight"].option.key in {"q8_0", "iq4_nl", "q5_1", "q5_0", "q4_1", "q4_0"}
    assert rows["blk.1.ffn_up.weight"].option is None
    assert rows["blk.1.ffn_up.weight"].format == "kept"


def test_what_the_back_end_has_no_name_for_is_said(tmp_path):
    arrays = llama() | {"model.layers.0.extra.adapter_proj.weight": normal((256, 256))}
    result = netweight.plan(save(tmp_path / "m", arrays, CONFIG), "5bpw")
    assert any("1 matrices" in note and "what gguf calls them is not known" in note for note in result.notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": "1bpw"}, "the smallest that gguf gives is"),
        ({"size": "four"}, "expected bits for a parameter or bytes"),
        ({"size": "4bpw", "backend": "onnx"}, "no back end 'onnx'"),
        ({"size": "4bpw", "head": "Q9"}, "no format 'Q9'"),
        ({"size": "9bpw", "backend": "compressed-tensors", "head": "any"}, "leaves it as it is"),
        ({"size": "9bpw", "head": "kept"}, "--head: no format 'kept'"),
    ],
)
def test_wrong_options_are_one_line(model, settings, said):
    settings = dict(settings)
    with pytest.raises(OptionError, match=said):
        netweight.plan(model, settings.pop("size"), **settings)


def test_families_without_known_names_are_refused(tmp_path):
    folder = save(tmp_path / "m", {"x.q_proj.weight": normal((256, 256))}, {"model_type": "whisper"})
    with pytest.raises(OptionError, match=r"what llama\.cpp calls the tensors of 'whisper' is not known"):
        netweight.plan(folder, "5bpw")


def test_nan_and_a_missing_library_end_the_plan(tmp_path, monkeypatch):
    arrays = llama()
    arrays["model.layers.0.mlp.up_proj.weight"] = np.full((512, 256), np.nan, np.float32)
    folder = save(tmp_path / "m", arrays, CONFIG)
    with pytest.raises(JobError, match="NaN or infinite"):
        netweight.plan(folder, "5bpw")
    monkeypatch.setattr("netweight.statistics.formats.ggml.installed", lambda: False)
    with pytest.raises(JobError) as raised:
        netweight.plan(folder, "5bpw")
    assert str(raised.value) == NEEDED


def test_the_command_prints_writes_and_draws(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run(model, "--size", "4.5bpw", "-o", tmp_path / "types.txt", "--plot", tmp_path / "sizes.png")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "formats by role" in shown
    assert "Q4_K" in shown
    assert (tmp_path / "sizes.png").read_bytes()[:4] == b"\x89PNG"
    run(model, "--size", "4.5bpw", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_parameter"] <= 4.5
    assert len(found["tensors"]) == 16
    weights = model / "model.safetensors"
    run(model, "--size", "4.5bpw", "-o", weights, code=2)
    assert "error: " in capsys.readouterr().err
