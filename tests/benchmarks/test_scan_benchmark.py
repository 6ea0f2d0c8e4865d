from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the benchmark is scripts beside each other, not a package

import scan  # noqa: E402
from gpt2_shape import GPT2_SHAPES, make_gpt2  # noqa: E402
from measure import Measurement, machine  # noqa: E402
from report import Row  # noqa: E402
from scan_report import (  # noqa: E402
    Part,
    ScanReport,
    as_json,
    as_markdown,
    change_differences,
    tail_differences,
)
from shapes import SHAPES  # noqa: E402

needs_wait4 = pytest.mark.skipif(not hasattr(os, "wait4"), reason="os.wait4 is not on this system")

PROGRAM = """#!{python}
import json, sys
command, arguments = sys.argv[1], sys.argv[2:]
assert command in ("scan", "compare"), sys.argv
output = arguments[arguments.index("--output") + 1]
if command == "compare":
    assert len(arguments) == 4
    sys.path.insert(0, {benchmarks!r})
    import compare_torch
    sys.argv = ["compare_torch.py", *arguments]
    compare_torch.main()
else:
    assert arguments[1] == "--methods", arguments
    open(output, "w").write("{{}}")
"""


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    assert make_gpt2(folder, GPT2_SHAPES["gpt2-tiny"], 0)
    return folder


def test_gpt2_has_the_published_sizes():
    shape = GPT2_SHAPES["gpt2"]
    assert (shape.parameters, shape.matrices, len(shape.tensors())) == (124_439_808, 50, 148)
    assert shape.tensors()["h.11.attn.c_attn.weight"] == (768, 2304)


def test_the_made_gpt2_opens_and_its_spectra_have_tails(tiny):
    weights = load_file(tiny / "model.safetensors")
    assert {name: tuple(w.shape) for name, w in weights.items()} == GPT2_SHAPES["gpt2-tiny"].tensors()
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert json.loads((tiny / "config.json").read_text())["model_type"] == "gpt2"
    w = weights["h.1.mlp.c_fc.weight"]
    assert w.std().item() == pytest.approx(0.13, rel=0.1)
    noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) * w.std()
    assert torch.linalg.matrix_norm(w, 2) > 1.2 * torch.linalg.matrix_norm(noise, 2)
    assert weights["ln_f.weight"].mean().item() == pytest.approx(1, abs=0.05)
    assert weights["ln_f.bias"].mean().item() == pytest.approx(0, abs=0.05)
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    assert not make_gpt2(tiny, GPT2_SHAPES["gpt2-tiny"], 0)
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before


def test_the_torch_comparison_is_what_numpy_finds(tmp_path):
    random = np.random.default_rng(0)
    a = random.standard_normal((40, 50)).astype(np.float32)
    b = a + random.standard_normal((40, 50)).astype(np.float32) * (random.random((40, 50)) < 0.5).astype(np.float32)
    for name, w in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.from_numpy(w), name: torch.ones(3)}, tmp_path / name / "model.safetensors")
    done = run("compare_torch.py", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("load ")
    found = json.loads((tmp_path / "out.json").read_text())["layer_comparisons"]
    assert list(found) == ["w"]
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    d = y - x
    assert found["w"]["l2_distance"] == pytest.approx(np.linalg.norm(d), rel=1e-5)
    assert found["w"]["relative_l2_distance"] == pytest.approx(np.linalg.norm(d) / np.linalg.norm(x), rel=1e-5)
    assert found["w"]["cosine_similarity"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-5)
    assert found["w"]["identical_percentage"] == pytest.approx(100 * np.mean(x == y), rel=1e-5)
    assert found["w"]["sign_flip_percentage"] == pytest.approx(100 * np.mean(x * y < 0), rel=1e-5)
    assert found["w"]["significant_change_percentage"] == pytest.approx(
        100 * np.mean(np.abs(d) / (np.abs(x) + 1e-10) > 0.01), abs=0.1
    )
    assert found["w"]["difference_stats"]["std"] == pytest.approx(d.std(), rel=1e-5)
    assert found["w"]["std_diff"] == pytest.approx(y.std() - x.std(), rel=1e-4)


def test_operations_of_a_spectrum_are_counted_by_the_short_side():
    shape = SHAPES["tiny"]
    expected = sum(
        min(dims) ** 2 * max(dims) + 4 / 3 * min(dims) ** 3 for dims in shape.tensors().values() if len(dims) == 2
    )
    assert scan.spectrum_flops(shape) == pytest.approx(expected)
    assert scan.spectrum_flops(SHAPES["8b"]) / scan.spectrum_flops(SHAPES["1b"]) == pytest.approx(13.77, abs=0.01)


def test_differences_to_weightwatcher_are_the_largest_of_matching_matrices(tmp_path):
    columns = ["alpha", "D", "xmin", "stable_rank", "log_norm", "spectral_norm", "entropy", "num_pl_spikes"]
    ones = dict.fromkeys(columns, 1.0)
    scanned = {"h.0.w": {"tail": ones | {"alpha": 2.0}}, "h.1.w": {"tail": ones}, "left": {"skipped": "a vector"}}
    (tmp_path / "ours.json").write_text(json.dumps(scanned))
    with (tmp_path / "theirs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["longname", "status", *columns])
        writer.writeheader()
        writer.writerow({"longname": "h_0_w", "status": "success", **ones, "alpha": 2.5})
        writer.writerow({"longname": "h_1_w", "status": "success", **ones})
        writer.writerow({"longname": "left", "status": "success", **ones})
    found = tail_differences(tmp_path / "ours.json", tmp_path / "theirs.csv")
    assert found["matrices"] == 2
    assert found["alpha"] == pytest.approx(0.2)
    assert found["D"] == 0
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^none\.json and theirs\.csv have no matrix in common$"):
        tail_differences(tmp_path / "none.json", tmp_path / "theirs.csv")


def test_differences_of_comparisons_are_relative_but_for_percentages(tmp_path):
    values = {
        "l2_distance": 2.0,
        "cosine_similarity": 0.5,
        "max_absolute_difference": 1.0,
        "identical_percentage": 40.0,
    }
    (tmp_path / "a.json").write_text(json.dumps({"layer_comparisons": {"w": values, "only": values}}))
    other = values | {"l2_distance": 2.5, "identical_percentage": 41.0}
    (tmp_path / "b.json").write_text(json.dumps({"layer_comparisons": {"w": other}}))
    found = change_differences(tmp_path / "a.json", tmp_path / "b.json")
    assert (found["parameters"], found["l2_distance"], found["identical_percentage"]) == (1, 0.25, 1.0)
    (tmp_path / "c.json").write_text(json.dumps({"layer_comparisons": {}}))
    with pytest.raises(ValueError, match=r"have no parameter in common$"):
        change_differences(tmp_path / "a.json", tmp_path / "c.json")


def test_a_report_puts_ours_first_and_the_others_over_it():
    ours = Row("netweight scan", "a", (Measurement(2, 3, 1, 100, 0),))
    theirs = Row("WeightWatcher", "b", (Measurement(20, 36, 4, 500, 0),), "analyze() 15 s, 49 matrices")
    made = ScanReport(
        "2025-01-01", "1b", machine(), (Part("gpt2", "a title", (ours, theirs), {"x": 1.0}, ("A fact.",)),)
    )
    text = as_markdown(made)
    assert "| **WeightWatcher / netweight** | **10.0x** | **10.0x** | **5.0x** | |" in text
    assert "WeightWatcher: analyze() 15 s, 49 matrices." in text
    assert "A fact." in text
    figures = json.loads(json.dumps(as_json(made)))
    assert figures["ratios"]["gpt2"]["WeightWatcher"] == {"wall": 10, "cpu": 10, "peak_rss": 5}
    assert figures["parts"][0]["figures"] == {"x": 1.0}


@needs_wait4
def test_the_runner_measures_every_part_and_leaves_nothing(tmp_path):
    program = tmp_path / "netweight"
    program.write_text(PROGRAM.format(python=sys.executable, benchmarks=str(BENCHMARKS)))
    program.chmod(0o755)
    where = ("--workdir", tmp_path / "data", "--results", tmp_path / "results", "--netweight", program)
    done = run("scan.py", "--shape", "tiny", "--runs", 1, "--skip-weightwatcher", *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## scan and compare, tiny, ")
    for title in ("gpt2-tiny: 10 matrices", "G elements per second", "every singular value", "two models compared"):
        assert title in done.stdout
    (results,) = (tmp_path / "results").iterdir()
    assert results.name.endswith("-scan-tiny.json")
    figures = json.loads(results.read_text())
    assert [part["key"] for part in figures["parts"]] == ["gpt2", "elements", "spectra", "formats", "compare"]
    assert figures["parts"][4]["figures"]["apart_l2_distance"] == 0
    assert str(tmp_path) not in results.read_text()
    assert [list(folder.iterdir()) for folder in (tmp_path / "data").iterdir()] == [[]]


@needs_wait4
def test_the_runner_says_which_command_failed_and_what_is_missing(tmp_path, monkeypatch, capsys):
    program = tmp_path / "netweight"
    program.write_text(f"#!{sys.executable}\nraise SystemExit('no such method')\n")
    program.chmod(0o755)
    arguments = ["--shape", "tiny", "--workdir", str(tmp_path / "data"), "--netweight", str(program)]
    done = run("scan.py", "--parts", "elements", *arguments)
    assert done.returncode == 1
    assert "error: netweight returned 1:\nno such method" in done.stderr
    monkeypatch.setattr(scan, "WATCHER", tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        scan.main(arguments)
    assert "run benchmarks/weightwatcher/setup.sh, or give --skip-weightwatcher" in capsys.readouterr().err
