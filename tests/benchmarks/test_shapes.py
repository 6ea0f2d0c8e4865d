from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the benchmark is scripts beside each other, not a package

import baseline_torch  # noqa: E402
import make_models  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
from shapes import SHAPES  # noqa: E402

needs_wait4 = pytest.mark.skipif(not hasattr(os, "wait4"), reason="os.wait4 is not on this system")


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    done = run("make_models.py", "--shape", "tiny", "--out", folder, "--shard-bytes", 5_000_000)
    assert done.returncode == 0, done.stderr
    return folder


def load(folder):
    return {name: w for file in sorted(folder.glob("*.safetensors")) for name, w in load_file(file).items()}


@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "shard_gigabytes"),
    [  # as on the models' own pages
        ("1b", 1_235_814_400, 146, [2.47]),
        ("3b", 3_212_749_824, 254, [4.97, 1.46]),
        ("8b", 8_030_261_248, 291, [4.98, 5.00, 4.92, 1.17]),
    ],
)
def test_shapes_are_those_of_the_published_models(name, parameters, tensors, shard_gigabytes):
    shape = SHAPES[name]
    assert shape.parameters == parameters
    assert len(shape.tensors()) == tensors
    shards = shape.shards()
    sizes = [sum(2 * int(np.prod(s)) for s in shard.values()) / 1e9 for shard in shards.values()]
    assert sizes == pytest.approx(shard_gigabytes, abs=0.006)
    assert {n: s for shard in shards.values() for n, s in shard.items()} == shape.tensors()


def test_made_checkpoints_open_and_agree_with_their_index(tiny):
    shape = SHAPES["tiny"]
    index = json.loads((tiny / "base" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * shape.parameters
    for file in set(index["weight_map"].values()):
        with safe_open(tiny / "base" / file, "pt") as opened:
            names = list(opened.keys())
            assert set(names) == {n for n, f in index["weight_map"].items() if f == file}
            for name in names:
                tensor = opened.get_tensor(name)
                assert tensor.dtype == torch.bfloat16
                assert tuple(tensor.shape) == shape.tensors()[name]
    assert json.loads((tiny / "base" / "config.json").read_text())["num_hidden_layers"] == shape.layers


def test_fine_tunes_differ_by_their_scales_and_keep_many_weights(tiny):
    base = load(tiny / "base")
    assert base["model.embed_tokens.weight"].float().std().item() == pytest.approx(0.02, rel=0.02)
    assert base["model.norm.weight"].float().mean().item() == pytest.approx(1, abs=0.02)
    norms, kept = [], []
    for i in (1, 2, 3):
        model = load(tiny / f"fine-tune-{i}")
        deltas = torch.cat([(model[n].double() - base[n].double()).flatten() for n in base])
        norms.append(deltas.norm().item())
        kept.append((deltas == 0).double().mean().item())
    assert norms[0] / SHAPES["tiny"].parameters ** 0.5 == pytest.approx(1e-3, rel=0.05)
    assert [norm / norms[0] for norm in norms] == pytest.approx([1, 0.3, 0.1], rel=0.1)
    assert kept == sorted(kept)
    assert kept[0] < 0.1
    assert 0.2 < kept[2] < 0.9


def test_rounding_to_bf16_is_half_to_even():
    patterns = np.arange(0, 1 << 32, 40503, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([patterns, ties]).view(np.float32)
    values = values[np.isfinite(values)]
    found = np.empty(values.size, np.uint16)
    make_models.to_bf16(values, found)
    with np.errstate(over="ignore"):
        assert np.array_equal(found, values.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert np.array_equal(make_models.from_bf16(found), found.view(ml_dtypes.bfloat16).astype(np.float32))


def test_a_second_run_keeps_whole_files_and_mends_the_others(tiny):
    arguments = ("--shape", "tiny", "--out", tiny, "--shard-bytes", 5_000_000)
    shards = sorted((tiny / "fine-tune-1").glob("*.safetensors"))
    digest = [shard.read_bytes() for shard in shards]
    stamps = [shard.stat().st_mtime_ns for shard in shards]
    with shards[1].open("r+b") as file:
        file.truncate(1000)
    done = run("make_models.py", *arguments)
    assert done.returncode == 0
    assert "base: kept" in done.stderr
    assert "fine-tune-1: kept" not in done.stderr
    assert [shard.read_bytes() for shard in shards] == digest
    assert shards[0].stat().st_mtime_ns == stamps[0]


def test_the_baseline_measures_what_numpy_does(tiny, tmp_path):
    models = [tiny / "fine-tune-1", tiny / "fine-tune-2"]
    done = run("baseline_torch.py", "--base", tiny / "base", "--models", *models, "--outdir", tmp_path)
    assert done.returncode == 0, done.stderr
    base, model = load(tiny / "base"), load(models[0])
    with (tmp_path / "fine-tune-1" / "per_param_stats.csv").open(newline="") as file:
        rows = {row["param"]: row for row in csv.DictReader(file)}
    assert rows.keys() == base.keys()
    for name, row in rows.items():
        delta = (model[name].double() - base[name].double()).flatten().numpy()
        assert float(row["l2"]) == pytest.approx(np.linalg.norm(delta), rel=1e-3)
        assert float(row["l1"]) == pytest.approx(np.abs(delta).sum(), rel=1e-3)
        assert float(row["std"]) == pytest.approx(delta.std(), rel=1e-3)
        assert float(row["q25"]) == pytest.approx(np.quantile(delta, 0.25), rel=1e-5)
    assert (tmp_path / "pairwise_cosines.csv").read_text().startswith(",fine-tune-1,fine-tune-2\n")
    same = report.agreement(tmp_path, tmp_path)
    assert [(a.model, a.largest_quartile_error) for a in same] == [("fine-tune-1", 0.0), ("fine-tune-2", 0.0)]


def test_the_baseline_takes_quantiles_of_tensors_that_torch_refuses(monkeypatch):
    delta = torch.randn(10_001, generator=torch.Generator().manual_seed(0))
    expected = baseline_torch.quantiles(delta)

    def refuse(*_):
        raise RuntimeError("quantile() input tensor is too large")

    monkeypatch.setattr(torch, "quantile", refuse)
    assert baseline_torch.quantiles(delta) == pytest.approx(expected, rel=1e-6)


@needs_wait4
def test_a_measured_process_is_measured_whole(tmp_path):
    code = "import time; x = bytearray(200_000_000); time.sleep(0.3); sum(range(3_000_000))"
    found = measure.measure([sys.executable, "-c", code], tmp_path / "log")
    assert 0.3 < found.wall < 30
    assert 0.01 < found.cpu < found.wall
    assert 200e6 < found.peak_rss < 10e9


@needs_wait4
def test_a_command_that_fails_is_said_with_its_last_lines(tmp_path):
    with pytest.raises(measure.CommandFailedError, match=r"returned 3:\nbroken"):
        measure.measure([sys.executable, "-c", "print('broken'); raise SystemExit(3)"], tmp_path / "log")


def test_the_median_is_taken_of_each_figure():
    runs = [measure.Measurement(*figures) for figures in ((1, 9, 0, 10, 0), (3, 5, 0, 30, 0), (2, 7, 0, 20, 9))]
    assert measure.median(runs) == measure.Measurement(2, 7, 0, 20, 0)


@needs_wait4
def test_the_runner_writes_figures_without_paths(tmp_path):
    program = tmp_path / "netweight"
    program.write_text(f"#!{sys.executable}\nimport sys\nassert sys.argv[1] in ('delta', 'info'), sys.argv\n")
    program.chmod(0o755)
    where = ("--workdir", tmp_path / "data", "--results", tmp_path / "results", "--netweight", program)
    done = run("run.py", "--shapes", "tiny", "--runs", 2, "--skip-baseline", "--cold", "--cold-by", "fadvise", *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## tiny, ")
    assert "| netweight delta | " in done.stdout
    assert "emptied by fadvise" in done.stdout
    (results,) = (tmp_path / "results").iterdir()
    figures = json.loads(results.read_text())
    assert [len(row["runs"]) for row in figures["rows"]] == [2, 2]
    assert figures["input_bytes"] > 4 * 2 * SHAPES["tiny"].parameters
    assert figures["cold_rates"]["dd_bytes_per_s"] > 0
    assert str(tmp_path) not in results.read_text()
    assert list((tmp_path / "data" / "tiny").iterdir()) == []


@needs_wait4
def test_the_runner_says_which_command_failed(tmp_path):
    program = tmp_path / "netweight"
    program.write_text(f"#!{sys.executable}\nraise SystemExit('no such base')\n")
    program.chmod(0o755)
    done = run("run.py", "--shapes", "tiny", "--workdir", tmp_path / "data", "--netweight", program)
    assert done.returncode == 1
    assert "error: tiny: netweight returned 1:\nno such base" in done.stderr


def test_ratios_are_baseline_over_netweight():
    ours = report.Row(report.DELTA, "a", (measure.Measurement(2, 3, 1, 100, 0),))
    theirs = report.Row(report.BASELINE, "b", (measure.Measurement(100, 150, 50, 1600, 0),), "load 1 s")
    made = report.Report("2025-01-01", "1b", 10**9, 3, 8 * 10**9, measure.machine(), (ours, theirs), None, ())
    assert report.ratios(made) == {"wall": 50, "cpu": 50, "peak_rss": 16}
    assert "| **baseline / netweight** | **50.0x** | **50.0x** | **16.0x** | | |" in report.as_markdown(made)
    assert "Stages of baseline (torch): load 1 s." in report.as_markdown(made)
    assert json.loads(json.dumps(report.as_json(made)))["ratios"]["wall"] == 50
