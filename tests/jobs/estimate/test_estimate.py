"""What a job would take: bytes, FLOPs and memory against its dry run and values by hand, time against given rates."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file

import netweight
from netweight.cli.main import cli, main
from netweight.errors import NetweightError, OptionError, ReadError
from netweight.jobs.estimate import job as estimate_job
from netweight.jobs.estimate import rates as estimate_rates
from netweight.jobs.estimate.plan import JOBS, Request, plan_work

ELEMENTS = 50 * 24 + 40 * 24 + 24
DRY = {
    "scan": "scan {a} --methods all",
    "delta": "delta --base {a} --models {b} {c}",
    "compare": "compare {a} {b} --methods all",
    "merge": "merge --base {a} --models {b} {c} --method ties",
    "structure": "structure {a} --deep",
}
ASKED = {
    "scan": ("a", {"methods": "all"}),
    "delta": ("b", {"base": "a", "models": ["c"]}),
    "compare": ("a", {"models": "b", "methods": "all"}),
    "merge": ("b", {"base": "a", "models": ["c"], "methods": ["ties"]}),
    "structure": ("a", {"deep": True}),
    "info": ("a", {}),
    "embeddings": ("a", {}),
}


@pytest.fixture
def given(monkeypatch):
    """Rates that are not measured: 1.5 s, 1 MB/s through the job, 2 MB/s from files, 1 MFLOP/s."""
    monkeypatch.setattr(estimate_job, "measure", lambda *_: (1.5, 1e6, 2e6, 1e6, 1e6))


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Small made models in a folder of the test's own, which is returned."""
    monkeypatch.setattr(estimate_rates, "_SHAPE", (64, 16))
    monkeypatch.setattr(estimate_rates, "_SIDE", 16)
    monkeypatch.setattr(estimate_rates, "_COLS", 8)
    folder = tmp_path / "made"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write(folder, seed, shapes=None, kind="f2"):
    folder.mkdir()
    random = np.random.default_rng(seed)
    shapes = shapes or {
        "model.embed_tokens.weight": (50, 24),
        "model.layers.0.mlp.up_proj.weight": (40, 24),
        "model.layers.0.input_layernorm.weight": (24,),
    }
    save_file({name: random.normal(size=s).astype(kind) for name, s in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 24}')
    return folder


@pytest.fixture
def places(tmp_path):
    return {name: str(write(tmp_path / name, seed)) for seed, name in enumerate("abc")}


def asked(job, places, **more):
    ref, settings = ASKED[job]
    known = {k: [places.get(x, x) for x in v] if isinstance(v, list) else places.get(v, v) for k, v in settings.items()}
    return netweight.estimate(places[ref], job=job, **{**known, **more})


def request_of(ref, job="scan", methods=(), base=None, models=(), **settings):
    return Request(str(ref), job, methods, base, models, job == "structure", settings)


def nbytes(folder):
    with safe_open(f"{folder}/model.safetensors", "numpy") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize("job", DRY)
def test_bytes_workers_and_memory_are_those_of_the_dry_run(given, places, job) -> None:
    done = CliRunner().invoke(cli, [*DRY[job].format(**places).split(), "--dry-run", "--format", "json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    found = asked(job, places)
    assert found.bytes_to_read == plan["bytes_to_read"] > 0
    assert found.bytes_to_write == plan.get("bytes_to_write", 0)
    if job != "structure":  # whose dry run does not say them
        assert found.workers == plan["workers"]
        assert found.memory == plan.get("expected_memory", plan.get("memory"))


def test_bytes_by_hand(given, places) -> None:
    one = nbytes(places["a"])
    assert one == 2 * ELEMENTS
    read = {"scan": one, "delta": 3 * one, "merge": 6 * one, "structure": one, "info": 0}  # norms, then the merge
    assert {job: asked(job, places).bytes_to_read for job in read} == read
    assert asked("compare", places, methods=()).bytes_to_read == 2 * one
    done = netweight.merge(None, f"{places['a']}-merged", base=places["a"], models=[places["b"]], method="ties")
    (file,) = (p for p in done.output.iterdir() if p.suffix == ".safetensors")
    assert netweight.estimate(places["b"], job="merge", base=places["a"]).bytes_to_write == file.stat().st_size


def test_flops_of_spectra_by_hand(given, tmp_path) -> None:
    shapes = {"model.layers.0.mlp.up_proj.weight": (96, 48), "model.layers.0.mlp.down_proj.weight": (48, 96)}
    a, b = (write(tmp_path / name, 0, shapes) for name in "ab")
    each = 96 * 48 * 48 + 9 * 48**3  # a Gram matrix of the short side, and its eigenvalues
    assert netweight.estimate(a, methods="spectral").flops == 2 * each
    assert netweight.estimate(a, job="compare", models=b, methods="tail").flops == 4 * each
    assert netweight.estimate(a, methods=["quantization", "sparsity"]).flops == 0


def test_flops_of_k_means_by_hand(given, places) -> None:
    pytest.importorskip("sklearn")
    found = asked("embeddings", places)
    looks = sum(2 * 24 * k * (3 * 20 * 50 + 50) for k in range(2, 31))
    assert found.flops == looks + 2 * 24 * 50 * 50
    assert found.bytes_to_read == 50 * 24 * 2


def test_the_time_by_hand_from_given_rates(monkeypatch, given, tmp_path) -> None:
    folder = write(tmp_path / "m", 0, {"model.layers.0.mlp.up_proj.weight": (1000, 100)}, "f4")
    found = netweight.estimate(folder, methods="spectral")
    opening = found.start - 1.5
    assert 0 <= opening < 60
    flops = 1000 * 100 * 100 + 9 * 100**3
    assert found.seconds == pytest.approx(opening + 1.5 + 0.4 + flops / 1e6)
    assert (found.bytes_per_second, found.flops_per_second) == (pytest.approx(1e6), 1e6)
    monkeypatch.setattr(estimate_job, "measure", lambda *_: (1.5, 1e6, 1e5, inf, 1e6))
    slow = netweight.estimate(folder)  # the disk takes longer than the job
    assert slow.seconds == pytest.approx(slow.start + 4.0)
    assert (slow.bytes_per_second, slow.flops_per_second) == (pytest.approx(1e5), None)


@pytest.mark.parametrize("job", ["scan", "delta", "compare", "merge", "structure"])
def test_twice_the_model_takes_no_less_time(given, tmp_path, job) -> None:
    seconds = []
    for layers in (1, 2, 4):
        shapes = {f"model.layers.{i}.mlp.up_proj.weight": (400, 100) for i in range(layers)}
        (tmp_path / str(layers)).mkdir()
        grown = {name: str(write(tmp_path / str(layers) / name, i, shapes)) for i, name in enumerate("abc")}
        found = asked(job, grown)
        seconds.append(found.seconds - found.start)
    assert 0 < seconds[0] < seconds[1] < seconds[2]


@pytest.mark.parametrize("job", JOBS)
def test_rates_are_measured_by_the_job_itself(quick, places, job) -> None:
    if job == "embeddings":
        pytest.importorskip("sklearn")
    found = asked(job, places)
    assert found.start > 0
    assert (found.bytes_per_second is not None) == (job != "info")
    assert (found.flops_per_second is not None) == (job in ("scan", "compare", "embeddings"))
    assert 0 < found.seconds < inf
    assert list(quick.iterdir()) == []
    assert json.loads(json.dumps(found.to_dict()))["seconds"] == found.seconds


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u1"])
def test_made_models_have_the_models_element_types(tmp_path, kind) -> None:
    folders = [
        write(tmp_path / "base", 0, {"a.weight": (6, 4)}, kind),
        write(tmp_path / "tuned", 1, {"a.weight": (6, 4)}, "f4"),
    ]
    with ExitStack() as stack:
        opened = tuple(stack.enter_context(netweight.open(folder)) for folder in folders)
        work = plan_work(request_of(folders[0], "info"), stack)
        made = estimate_rates._write(tmp_path, replace(work, checkpoints=opened), (64, 32), 3)
    with (
        safe_open(f"{made[0]}/model.safetensors", "numpy") as base,
        safe_open(f"{made[1]}/model.safetensors", "numpy") as tuned,
    ):
        names = list(base.keys())
        assert len(names) == 3
        for name in names:
            first, second = base.get_tensor(name), tuned.get_tensor(name)
            assert first.shape == second.shape == (64, 32)
            assert first.dtype == ("f4" if kind == "u1" else kind)  # integers are not what a job computes with
            assert second.dtype == "f4"
            assert 0 < np.abs(second - first.astype("f4")).max() < 0.01 < np.abs(second).max()


RECIPE = """merge_method: ties
base_model: {a}
models:
  - {{model: {b}, parameters: {{weight: 0.5, density: 0.3}}}}
  - {{model: {c}, parameters: {{weight: 0.25}}}}
dtype: float16
"""
SLICES = """merge_method: passthrough
slices:
  - sources: [{{model: {a}, layer_range: [0, 1]}}]
  - sources: [{{model: {b}, layer_range: [0, 1]}}]
dtype: float16
"""


def test_recipes_are_timed_as_they_are(quick, places, tmp_path) -> None:
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(RECIPE.format(**places))
    found = netweight.estimate(recipe, job="merge")
    assert found.bytes_to_read == 3 * nbytes(places["a"])  # explicit weights: nothing is measured first
    assert found.models == tuple(places[name] for name in "abc")
    with ExitStack() as stack:
        request = request_of(recipe, "merge")
        work = plan_work(request, stack)
        moved = estimate_rates._moved(request, work, ["x", "y", "z"]).ref
    assert moved.references() == ("x", "y", "z")
    assert [source.parameters for source in moved.models] == [source.parameters for source in work.recipe.models]
    assert moved.models[0].parameters


def test_one_document_at_a_time(places, tmp_path) -> None:
    recipe = tmp_path / "chain.yml"
    one = RECIPE.format(**places)
    recipe.write_text(f"name: first\n{one}---\n{one.replace(str(places['b']), 'first')}")
    with pytest.raises(OptionError, match="an estimate is of one document, and the recipe has several"):
        netweight.estimate(recipe, job="merge")


def test_a_recipe_with_slices_is_timed_as_a_copy(quick, places, tmp_path) -> None:
    recipe = tmp_path / "slices.yaml"
    recipe.write_text(SLICES.format(**places))
    found = netweight.estimate(recipe, job="merge")
    assert found.bytes_per_second > 0
    with ExitStack() as stack:
        request = request_of(recipe, "merge")
        moved = estimate_rates._moved(request, plan_work(request, stack), ["x", "y"])
    assert (moved.ref, moved.base, moved.models, moved.methods) == ("x", None, (), ("linear",))


def test_made_models_are_computed_where_the_job_would_be(places) -> None:
    with ExitStack() as stack:
        request = request_of(places["a"], device="auto", workers=1)
        work = replace(plan_work(request, stack), device="cuda:1")
        assert estimate_rates._moved(request, work, ["x"]).settings == {"device": "cuda:1", "workers": 1}
        all_gpus = replace(request, settings={"device": "cuda", "multi_gpu": True})
        assert estimate_rates._moved(all_gpus, work, ["x"]).settings == {"device": "cuda", "multi_gpu": True}


def test_large_matrices_keep_a_gpu_busy(places, monkeypatch) -> None:
    shapes = []

    def timed(request, work, shape, tensors, runs):
        shapes.append((shape, request.methods))
        return [1.0] * runs, replace(work, flops=1)

    monkeypatch.setattr(estimate_rates, "_timed", timed)
    with ExitStack() as stack:
        request = request_of(places["a"], methods=("all",))
        work = replace(plan_work(request, stack), side=5000)
        estimate_rates.measure(request, work)
        estimate_rates.measure(request, replace(work, device="cuda:0"))
    assert [shape for shape, _ in shapes] == [
        (64, 32),
        (2048, 1024),
        (3072, 1536),
        (64, 32),
        (2048, 1024),
        (8192, 4096),
    ]
    assert shapes[1][1] == ("basic_stats", "quantization", "sparsity", "within")
    assert shapes[2][1] == ("spectral", "tail", "bulk")


def test_rates_by_hand_from_given_times(places, monkeypatch) -> None:
    def timed(first):
        times = iter([[first, 0.5], [0.7, 9.0, 0.6]])
        return lambda request, work, *_: (next(times), replace(work, read=1000, written=20))

    with ExitStack() as stack:
        request = request_of(places["a"])
        work = plan_work(request, stack)
        monkeypatch.setattr(estimate_rates, "_timed", timed(2.0))
        start, through, files, flops, encoding = estimate_rates.measure(request, work)
        assert encoding == inf
        assert (start, through, flops) == (2.0, pytest.approx(1020 / 0.2), inf)  # the median, less what no bytes take
        assert 0 < files < inf
        monkeypatch.setattr(estimate_rates, "_timed", timed(40.0))
        assert estimate_rates.measure(request, work)[0] == 0.5  # loops were compiled, as they are once


def test_files_are_read_in_places_and_a_broken_one_is_one_line(places, monkeypatch) -> None:
    with ExitStack() as stack:
        work = plan_work(request_of(places["a"], "structure"), stack)
        sizes = []
        monkeypatch.setattr(estimate_rates, "bytearray", lambda n: sizes.append(n) or bytearray(n), raising=False)
        assert 0 < estimate_rates._read_some(work) < inf
        assert sum(sizes) == nbytes(places["a"])
        assert estimate_rates._read_some(replace(work, read=0)) == inf
        with Path(places["a"], "model.safetensors").open("r+b") as file:
            file.truncate(600)
        with pytest.raises(ReadError, match=r"model\.safetensors"):
            estimate_rates._read_some(work)


def test_hub_models_are_reckoned_from_their_headers(quick, hub, tmp_path) -> None:
    from hub_models import write_model

    arrays = write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    size = sum(values.nbytes for values in arrays.values())
    found = netweight.estimate("org/name")
    assert hub.sent() < size / 20
    assert found.bytes_to_read == size
    assert found.models == ("org/name",)
    assert "org/name: the time of the network is not in it" in found.notes


REFUSED = {
    "scan {a} --memory 1MB": {"ref": "a", "memory": 1_000_000},
    "scan {a} --methods spectra": {"ref": "a", "methods": "spectra"},
    "compare {a} {b} --methods spectra": {"ref": "a", "job": "compare", "models": "b", "methods": "spectra"},
    "delta --base {a} --models {other}": {"ref": "other", "job": "delta", "base": "a"},
    "merge --base {a} --models {b} --method slerp": {"ref": "b", "job": "merge", "base": "a", "methods": "slerp"},
    "merge --base {a} --models {b} --method tise": {"ref": "b", "job": "merge", "base": "a", "methods": "tise"},
    "scan {a} --device cuda:99": {"ref": "a", "device": "cuda:99"},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_a_dry_run_refuses_is_refused_in_the_same_words(places, tmp_path, capsys, line) -> None:
    places["other"] = str(write(tmp_path / "other", 3, {"quite.another.weight": (4, 4)}))
    with pytest.raises(SystemExit):
        main([*line.format(**places).split(), "--dry-run"])
    said = capsys.readouterr().err.strip().removeprefix("error: ")
    with pytest.raises(NetweightError) as caught:
        netweight.estimate(**{k: places.get(v, v) if isinstance(v, str) else v for k, v in REFUSED[line].items()})
    assert " ".join(str(caught.value).split()) == said


WRONG = {
    "--job: no job 'skan' (did you mean 'scan'?); there are scan, delta,": {"job": "skan"},
    "--base: goes with --job delta/merge, not with scan; leave it out": {"base": "b"},
    "--models: goes with --job delta/merge/compare, not with info; leave it out": {"job": "info", "models": "b"},
    "--methods: goes with --job scan/compare/merge, not with structure": {"job": "structure", "methods": "all"},
    "--deep: goes with --job structure, not with info; leave it out": {"job": "info", "deep": True},
    "--job delta: MODEL is a fine-tuned model; give its --base as well": {"job": "delta", "models": ["b"]},
    "--job compare: expected the other model as --models, got 0 of them": {"job": "compare"},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_cannot_be_reckoned_is_one_line(places, said) -> None:
    with pytest.raises(OptionError) as caught:
        netweight.estimate(places["a"], **WRONG[said])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_what_is_encoded_is_reckoned_by_elements_and_not_by_bytes(places, monkeypatch) -> None:
    def timed(request, work, shape, tensors, runs):
        return [3.0] * runs if request.methods == ("formats",) else [1.0] * runs, replace(work, read=100, encoded=500)

    monkeypatch.setattr(estimate_rates, "_timed", timed)
    with ExitStack() as stack:
        request = request_of(places["a"], methods=("formats", "sparsity"))
        work = plan_work(request, stack)
        parts = [row for row in netweight.scan(places["a"]).rows if row.matrix]
        assert work.encoded == sum(min(row.rows, max(16, (1 << 17) // row.cols)) * row.cols for row in parts)
        assert work.light == ("sparsity",)
        assert estimate_rates.measure(request, work)[4] == 500 / 2.0
