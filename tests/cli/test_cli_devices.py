"""`netweight devices`, and the options that name devices."""

from __future__ import annotations

import json

import pytest
from fake_gpus import fake_gpus, gpu
from task_vectors import normal, save, strict_json, tuned

import netweight
from netweight.cli.main import main
from netweight.jobs.devices import job
from netweight.run import devices

H200 = gpu(0, model="NVIDIA H200, of a \x1b[31mred kind that has a name which is longer than the table is wide")


def run(capsys, *args):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in args])
    out, err = capsys.readouterr()
    return left.value.code, out, err


@pytest.fixture
def gpus(monkeypatch):
    def put(*found):
        fake_gpus(monkeypatch, gpus=found)
        monkeypatch.setattr(job, "survey", devices.survey)

    return put


def test_a_table_of_80_columns(capsys, gpus, monkeypatch):
    gpus(H200, gpu(1, doubles=False, model="Small"))
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(capsys, "devices")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["device", "what", "it", "is", "memory", "free", "float64"]
    assert [line.split()[0] for line in lines if line.startswith(("cpu", "cuda"))] == ["cpu", "cuda:0", "cuda:1"]
    assert "\x1b" not in out
    assert next(line for line in lines if line.startswith("cuda:1")).endswith("85.9 GB  84.8 GB  slow or none")
    assert next(line for line in lines if line.startswith("spectra")).split()[:2] == ["spectra", "cuda:0"]
    assert next(line for line in lines if line.startswith("merge")).split()[:2] == ["merge", "cpu"]


def test_no_gpu(capsys, gpus):
    gpus()
    _, out, _ = run(capsys, "devices")
    assert "no GPU: torch sees none" in out.splitlines()
    assert "spectra would gain from a GPU; torch sees none" in " ".join(out.split())


def test_json_and_quiet(capsys, gpus):
    gpus(H200)
    code, out, _ = run(capsys, "devices", "--format", "json")
    found = strict_json(out)
    assert code == 0
    assert found == json.loads(json.dumps(netweight.devices().to_dict()))
    assert [d["device"] for d in found["devices"]] == ["cpu", "cuda:0"]
    assert found["devices"][1]["memory_total"] == 80 << 30
    assert found["no_gpu_because"] == ""
    assert found["auto"]["spectra"] == {"device": "cuda:0", "reason": "spectra gain from its float64"}
    assert found["auto"]["statistics"]["device"] == found["auto"]["merge"]["device"] == "cpu"
    assert run(capsys, "devices", "--format", "quiet") == (0, "", "")


def test_the_result(gpus, tmp_path):
    gpus(H200)
    found = netweight.devices()
    assert repr(found) == "<devices: cpu, cuda:0>"
    assert found.to_pandas()["float64"].tolist() == [True, True]
    assert "<table" in found._repr_html_()
    assert "\x1b" not in found._repr_html_()
    found.write(tmp_path / "devices.json")
    assert json.loads((tmp_path / "devices.json").read_text()) == json.loads(json.dumps(found.to_dict()))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = {f"model.layers.{i}.mlp.up_proj.weight": normal((20, 30), seed=i) for i in range(2)}
    return [save(folder / "base", base, {"model_type": "llama"}), save(folder / "one", tuned(base, 1))]


def command(name, models, out):
    base, one = models
    return {
        "delta": ["delta", "--base", base, "--models", one, "--outdir", out],
        "scan": ["scan", one, "--output", f"{out}.json"],
        "compare": ["compare", base, one, "--output", f"{out}.json"],
        "merge": ["merge", "--base", base, "--models", one, "--output", out],
    }[name]


@pytest.mark.parametrize("name", ["delta", "scan", "compare", "merge"])
def test_the_plan_says_where_and_why(name, models, capsys, gpus, tmp_path):
    gpus(gpu(0), gpu(1))
    dry = [*command(name, models, tmp_path / "o"), "--dry-run"]
    _, out, err = run(capsys, *dry)
    assert next(line for line in out.splitlines() if line.startswith("device ")).startswith("device     cpu: ")
    assert "computing on" not in err
    found = strict_json(run(capsys, *dry, "--device", "cuda:1", "--format", "json")[1])
    assert (found["device"], found["device_reason"]) == ("cuda:1", "asked for")
    found = strict_json(run(capsys, *dry, "--multi-gpu", "--format", "json")[1])
    assert (found["device"], found["device_reason"]) == ("cuda:0, cuda:1", "--multi-gpu: all there are")
    assert found["workers"] >= 4


@pytest.mark.parametrize("name", ["delta", "scan", "compare", "merge"])
def test_a_device_is_used(name, models, capsys, gpus, tmp_path):
    gpus(gpu(0), gpu(1))
    code, _, err = run(capsys, *command(name, models, tmp_path / "o"), "--multi-gpu")
    assert code == 0
    assert "note: computing on cuda:0 (Stub), cuda:1 (Stub)" in err.splitlines()


def test_verify_on_a_device(models, capsys, gpus, tmp_path):
    gpus(gpu(0))
    assert run(capsys, *command("merge", models, tmp_path / "o"), "--device", "cuda")[0] == 0
    code, out, _ = run(capsys, "verify", tmp_path / "o", "--device", "cuda:0", "--format", "json")
    assert (code, strict_json(out)["device"]) == (0, "cuda:0")
    code, _, err = run(capsys, "verify", tmp_path / "o", "--device", "cuda:3")
    assert (code, err) == (2, "error: --device cuda:3: there is no such device; there are cpu, cuda:0 (Stub)\n")


def test_no_gpu_means_the_cpu(models, capsys, gpus):
    gpus(gpu(0))
    for option in ("--no_gpu", "--no-gpu"):
        found = strict_json(run(capsys, "scan", models[1], option, "--dry-run", "--format", "json")[1])
        assert (found["device"], found["device_reason"]) == ("cpu", "asked for")
    code, _, err = run(capsys, "scan", models[1], "--no_gpu", "--device", "cuda")
    assert (code, err) == (2, "error: --no-gpu and --device cuda: leave one of the two out\n")
    code, _, err = run(capsys, "scan", models[1], "--no_gpu", "--multi-gpu")
    assert code == 2
    assert "--device cpu and --multi-gpu: one device, or all GPUs" in err


def test_commands_that_compute_on_the_cpu_alone(models, capsys):
    code, _, err = run(capsys, "structure", models[0], "--device", "cuda:1")
    assert (code, err) == (0, "note: --device cuda:1: headers and zeros are read on the CPU\n")
    assert run(capsys, "structure", models[0], "--multi-gpu", "--format", "quiet") == (0, "", "")
    assert run(capsys, "structure", models[0], "--device", "cpu")[2] == ""
