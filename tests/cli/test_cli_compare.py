"""`netweight compare`: what it prints, in which form, and with which exit code."""

from __future__ import annotations

import numpy as np
import pytest
from task_vectors import beside_progress, normal, save, strict_json, tuned
from task_vectors import netweight as program

from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.cli.main import main

LONG = "model.layers.11.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    a = {f"model.layers.{i}.mlp.up_proj.weight": normal((30, 20), "bfloat16", seed=i) for i in range(4)}
    a |= {LONG: normal((20, 20), seed=9), "model.norm.weight": np.ones(20, "f4"), "gone": normal(3)}
    a["model.layers.3.input_layernorm.weight"] = np.zeros(20, "f4")
    save(folder / "a", a)
    b = tuned({n: x for n, x in a.items() if n != "gone"}, 1, 0.002)
    b["model.layers.0.mlp.up_proj.weight"] = a["model.layers.0.mlp.up_proj.weight"]
    b[LONG] = (a[LONG] * 2).astype("f4")
    b["model.layers.1.mlp.up_proj.weight"] = normal((3, 3))
    save(folder / "b", b | {"new": normal(3), "model.layers.4.mlp.up_proj.weight": normal((30, 20))})
    return folder


def run(capsys, *args):
    """The exit code, stdout and stderr of the program, in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in args])
    shown = capsys.readouterr()
    return left.value.code, shown.out, shown.err


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.setattr(StoredTensor, "read_into", lambda *_: pytest.fail("tensor data was read"))


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_for_people(models, capsys, narrow):
    code, out, err = run(capsys, "compare", models / "a", models / "b")
    assert (code, beside_progress(err)) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    plain = [line for line in lines if str(models) not in line and not line.startswith(("left out: ", "note: "))]
    assert max(map(len, plain)) <= 80
    assert lines[0] == "compared 78.8% of A's parameters, 78.5% of B's; the rest is left out"
    assert lines[1].split() == ["A", str(models / "a")]
    assert "compared        6 of A's 8 parameters, 2.24 k values; 2 more in B alone" in lines
    top = lines.index(next(line for line in lines if line.startswith("most changed")))
    assert lines[top].split() == ["most", "changed", "score", "of", "norm", "cosine", "same", "norm", "B/A", "largest"]
    assert [line.split()[0] for line in lines[top + 1 : top + 3]] == [f"…{LONG[13:]}", "…3.input_layernorm.weight"]
    assert lines[top + 1].split()[2:6] == ["100%", "1.000000", "0%", "2"]
    assert "1 column left out for want of room: signs; a wider terminal or --format json shows them" in " ".join(lines)
    blocks = [line.split() for line in lines if line.startswith("layer_")]
    assert [b[:2] for b in blocks] == [["layer_0", "1"], ["layer_2", "1"], ["layer_3", "2"], ["layer_11", "1"]]
    assert blocks[0][2:] == ["0", "0%", "1.000000", "100%", "0%", "0%"]
    assert "1 identical (every value is the same): model.layers.0.mlp.up_proj.weight" in lines
    text = " ".join(lines)
    assert f"adapted (norm beyond 10%): {LONG}" in text
    assert "1 only in A (missing in B): gone" in lines
    assert "2 only in B (missing in A): new, model.layers.4.mlp.up_proj.weight" in text
    assert "left out: model.layers.1.mlp.up_proj.weight: shape [30, 20] in A, [3, 3] in B" in lines
    assert "flagged: model.layers.3.input_layernorm.weight: a is zero" in lines
    assert "note: A has 5 layers, B has 6: aligned by name, layer by layer from the first" in lines


def test_the_names_of_the_replaced_tool(models, capsys, tmp_path, narrow):
    code, out, err = run(
        capsys, "compare", "--model1", models / "a", "--model2", models / "b", "--methods", "basic_stats", "spectral",
        "quantization", "--top-changes", "3", "--output", tmp_path / "comparison.json",
    )  # fmt: skip
    assert (code, beside_progress(err)) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    spectral = next(i for i, line in enumerate(lines) if line.startswith("spectral, from A to B"))
    name, condition, largest, stable = lines[spectral + 1].split()
    assert (name, largest) == (LONG, "x2")
    assert condition.startswith("x")
    assert abs(float(stable)) < 1e-3
    quantization = next(i for i, line in enumerate(lines) if line.startswith("quantization, from A to B"))
    assert quantization - spectral == 5  # three matrices and an empty line
    assert lines[-1] == f"written to {tmp_path / 'comparison.json'}"
    held = strict_json((tmp_path / "comparison.json").read_text())
    assert held["layer_comparisons"][LONG]["l2_norm_ratio"] == 2
    assert held["layer_comparisons"][LONG]["max_singular_value_ratio"] == pytest.approx(2)


def test_json_and_quiet(models, capsys, tmp_path):
    code, out, err = run(capsys, "compare", models / "a", models / "b", "--format", "json")
    assert (code, beside_progress(err)) == (0, "")
    found = strict_json(out)
    assert found["only_in_model1"] == ["gone"]
    assert found["adapted_layers"] == [LONG]
    file = tmp_path / "c.csv"
    assert run(capsys, "compare", models / "a", models / "b", "--format", "quiet", "--output", file) == (0, "", "")
    assert len(file.read_text().splitlines()) == 8


def test_identical_models(models, capsys):
    code, out, _ = run(capsys, "compare", models / "a", models / "a")
    assert code == 0
    assert "no parameter changed" in out.splitlines()
    assert "100% identical, 0% changed by more than 1%, 0% changed sign" in " ".join(out.split())


def test_a_norm_within_one_percent_is_not_called_frozen(tmp_path, capsys, narrow):
    whole = np.arange(64, dtype="f4").reshape(8, 8) % 13  # whose sums are exact in every order
    arrays = {"a.weight": normal((40, 40)), "b.weight": whole}
    other = {"a.weight": arrays["a.weight"], "b.weight": arrays["b.weight"][::-1].copy()}
    sides = save(tmp_path / "a", arrays), save(tmp_path / "b", other)
    _, out, _ = run(capsys, "compare", *sides)
    lines = out.splitlines()
    assert "1 identical (every value is the same): a.weight" in lines
    assert "1 with the norm within 1% (not identical): b.weight" in lines
    assert "no parameter changed in mean, spread or norm" in lines
    assert "frozen" not in out
    assert not any(line.endswith(" ") for line in lines)
    _, out, _ = run(capsys, "compare", *sides, "--format", "json")
    assert strict_json(out)["frozen_layers"] == ["a.weight", "b.weight"]


def test_nan_at_the_same_place_is_not_identical(tmp_path, capsys, narrow):
    array = normal((8, 8))
    array[1, 1] = np.nan
    model = save(tmp_path / "a", {"w": array, "v": normal((8, 8))})
    _, out, _ = run(capsys, "compare", model, model)
    assert "1 identical (every value is the same): v" in out.splitlines()
    assert "flagged: w: non-finite" in out.splitlines()
    assert "no parameter changed, but 1 with NaN or infinity on either side were not compared" in out.splitlines()
    _, out, _ = run(capsys, "compare", model, model, "--format", "json")
    found = strict_json(out)
    assert found["identical_layers"] == ["v"]
    assert found["layer_comparisons"]["w"]["identical_percentage"] == 100


@pytest.mark.parametrize("form", ["human", "json", "quiet"])
def test_an_unreadable_tensor_fails_the_command(models, capsys, monkeypatch, form):
    read = StoredTensor.read_into

    def failing(self, start, out):
        if self.name == LONG:
            raise OSError(5, "Input/output error")
        read(self, start, out)

    monkeypatch.setattr(StoredTensor, "read_into", failing)
    code, out, err = run(capsys, "compare", models / "a", models / "b", "--format", form)
    assert code == 1
    assert form == "quiet" or "Input/output error" in out
    assert (err == "") == (form == "quiet") or "Input/output error" in err


def test_dry_run(models, capsys, no_data):
    code, out, err = run(
        capsys, "compare", models / "a", models / "b", "--dry-run", "--workers", "2", "--memory", "1GiB"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:5] == [
        "compared 78.8% of A's parameters, 78.5% of B's; the rest is left out",
        f"A          {models / 'a'}",
        f"B          {models / 'b'}",
        "methods    basic_stats",
        "tensors    6 to compare, 1 left out, 1 only in A, 2 only in B",
    ]
    # three bf16 pairs of 600 elements, a float32 one of 400, and two of 20
    read = f"to read    {(3 * 600 * 4 + 440 * 8) / 1000:.1f} kB in 6 tasks"
    assert lines[5] == f"{read}, and up to 10.4 kB of 4 matrices once more"  # all but the vectors
    assert "left out: model.layers.1.mlp.up_proj.weight: shape [30, 20] in A, [3, 3] in B" in lines
    assert lines[-1] == "nothing was read or written; leave out --dry-run to run it"
    _, out, _ = run(capsys, "compare", models / "a", models / "b", "--dry-run", "--format", "json", "--methods", "all")
    plan = strict_json(out)
    assert plan["methods"] == ["basic_stats", "spectral", "quantization", "sparsity", "tail", "bulk"]
    assert plan["bytes_to_read"] == 2 * (3 * 600 * 4 + 440 * 8)  # once for the pairs, once for the matrices
    assert plan["not_comparable"][0]["name"] == "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--memory", "1MB"], "this job needs at least"),
        (["--methods", "spectra"], "--methods: no method 'spectra' (did you mean 'spectral'?)"),
        (["--include", "nothing*"], "is left by --include nothing*"),
        (["--output", "result.xlsx"], "expected a name that ends in .json, .csv, .parquet"),
        (["--device", "cuda:99"], "--device cuda:99: there is no such "),
        (["--top-changes", "-1"], "--top-changes"),
        (["third"], "compare takes two models, A and B"),
        (["--model1", "x"], "compare takes two models, A and B"),
    ],
)
def test_bad_options(models, capsys, no_data, more, said):
    code, out, err = run(capsys, "compare", models / "a", models / "b", *more)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_models_are_needed(models, capsys):
    code, _, err = run(capsys, "compare", models / "a")
    assert code == 2
    assert "compare takes two models, A and B: folders or files" in err
    assert run(capsys, "compare", "--model1", models / "a")[0] == 2
    assert run(capsys, "compare")[0] == 2


def test_what_was_left_out_on_purpose_is_one_line(models, capsys, narrow):
    for more in ([], ["--dry-run"]):
        code, out, _ = run(capsys, "compare", models / "a", models / "b", "--include", "*layers.3.*", *more)
        assert code == 0
        left = [line for line in out.splitlines() if line.startswith("left out")]
        assert left == ["left out: 8 tensors: not matched by --include"]
    _, out, _ = run(capsys, "compare", models / "a", models / "b", "--include", "*layers.3.*", "--verbose")
    assert "left out: gone: not matched by --include" in out.splitlines()


def test_an_adapter_without_its_scale_is_refused(models, tmp_path, capsys, no_data):
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    lora = {f"{module}.lora_A.weight": normal((4, 20)), f"{module}.lora_B.weight": normal((20, 4))}
    save(tmp_path / "adapter_model.safetensors", lora)
    for sides in ((models / "a", tmp_path), (tmp_path, models / "a")):
        code, out, err = run(capsys, "compare", *sides)
        assert (code, out) == (2, "")
        assert f"{tmp_path}: nothing says by what the adapter is multiplied (lora_alpha)" in err
        assert err.endswith("put its adapter_config.json beside it\n")


def test_a_dry_run_checks_the_output_name(models, capsys, no_data):
    code, out, err = run(capsys, "compare", models / "a", models / "b", "--dry-run", "--output", "c.xlsx")
    assert (code, out) == (2, "")
    assert "--output c.xlsx: expected a name that ends in" in err


def test_hostile_names(tmp_path, capsys, narrow):
    name = "model.layers.0.[red]x\x1b[31m\n.weight"
    a = save(tmp_path / "a", {name: normal(5), "b\x07": normal(2)})
    b = save(tmp_path / "b", {name: normal(5, seed=1), "c\x07": normal(2)})
    code, out, _ = run(capsys, "compare", a, b, "--verbose")
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]x\\x1b[31m\\n" in out
    assert "1 only in A (missing in B): b\\x07" in out


def test_as_a_program(models, tmp_path):
    """Progress and notes go to stderr, results to stdout."""
    done = program("compare", models / "a", models / "b", "--output", tmp_path / "c.parquet", cwd=tmp_path)
    assert done.returncode == 0
    assert "most changed" in done.stdout
    assert (tmp_path / "c.parquet").stat().st_size > 1000
    assert [p.name for p in tmp_path.iterdir()] == ["c.parquet"]
