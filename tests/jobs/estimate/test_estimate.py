"""What a job would take: bytes and FLOPs against its plan and hand-computed values, time against given rates."""

from __future__ import annotations

import errno
import json
import math
import os

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import netweight
from netweight.cli.main import cli
from netweight.dtypes import DTYPES
from netweight.errors import JobError, NetweightError, OptionError, OutputError
from netweight.jobs.estimate import (
    book as estimate_book,
)
from netweight.jobs.estimate import (
    devices as estimate_devices,
)
from netweight.jobs.estimate import (
    disk as estimate_disk,
)
from netweight.jobs.estimate import (
    flops as estimate_flops,
)
from netweight.jobs.estimate import (
    plans as estimate_plans,
)
from netweight.jobs.estimate import (
    probes as estimate_probes,
)
from netweight.jobs.estimate import (
    start as estimate_start,
)
from netweight.jobs.estimate.asked import JOBS
from netweight.jobs.estimate.rates import Rate, host, read_rates, write_rates
from netweight.kernels.cpu import lapack
from netweight.run.memory import available_cores

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
}


@pytest.fixture
def quick(monkeypatch):
    """Small made tensors, and no interpreter is started."""
    monkeypatch.setattr(estimate_probes, "_SIZES", (64, 1024, 4096))
    monkeypatch.setattr(estimate_probes, "_SHORT", (8, 16))
    monkeypatch.setattr(estimate_probes, "_PATIENCE", 1e-9)
    monkeypatch.setattr(estimate_disk, "_WRITTEN", 1 << 16)
    monkeypatch.setattr(estimate_book, "measure_start", lambda *_, **__: 1.5)


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
    return netweight.estimate(places[ref], job=job, **known, **more)


@pytest.mark.parametrize("job", DRY)
def test_bytes_workers_and_memory_are_those_of_the_dry_run(quick, places, job) -> None:
    done = CliRunner().invoke(cli, [*DRY[job].format(**places).split(), "--dry-run", "--format", "json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    found = asked(job, places)
    assert found.bytes_to_read == plan["bytes_to_read"] > 0
    assert found.bytes_to_write == plan.get("bytes_to_write", 0)
    if "workers" in plan:
        assert found.workers == plan["workers"]
        assert found.memory == plan.get("expected_memory", plan.get("memory"))


def test_options_that_change_the_plan(quick, places) -> None:
    all_of_it = netweight.estimate(places["a"])
    one = netweight.estimate(places["a"], include=["*layers.0.mlp*"], workers=1)
    assert (all_of_it.bytes_to_read, one.bytes_to_read) == (2 * (50 * 24 + 40 * 24 + 24), 2 * 40 * 24)
    assert one.workers == one.devices[0].threads == 1
    assert one.memory < all_of_it.memory or all_of_it.workers == 1
    with pytest.raises(OptionError, match=r"--memory 1 MiB: this job needs at least \d+ MiB"):
        netweight.estimate(places["a"], memory=1 << 20)


def test_flops_of_spectra_by_hand(quick, tmp_path) -> None:
    folder = write(tmp_path / "one", 0, {"model.layers.0.mlp.up_proj.weight": (96, 48)})
    found = netweight.estimate(folder, methods=["spectral"])
    work = {w.name: w for w in found.devices[0].work}
    # 48 * 49 / 2 inner products of 96 multiplications and additions; 4/3 48^3 + 10 48^2
    assert work["Gram matrices"].amount == 48 * 49 // 2 * 96 * 2 == 225_792
    assert work["eigenvalues: spectral"].amount == 147_456 + 23_040
    assert found.flops == 225_792 + 170_496
    assert sorted(work) == ["Gram matrices", "eigenvalues: spectral"]


def test_flops_of_large_matrices_go_by_way_of_the_band() -> None:
    assert (estimate_flops.TWO_STAGES, estimate_flops.BAND) == (lapack._TWO_STAGES, lapack._BAND)
    assert estimate_flops.eigenvalue_flops(1023) == 4 * 1023**3 // 3 + 10 * 1023**2
    assert estimate_flops.eigenvalue_flops(4096) == 91_625_968_981 + 6 * 48 * 4096**2 + 10 * 4096**2
    assert estimate_flops.seeding_flops(1000, 64, 30) == 2 * 1000 * 64 * 30 * (2 + int(math.log(30)))


def test_flops_of_the_other_jobs_by_hand(quick, places) -> None:
    elements = 50 * 24 + 40 * 24 + 24
    assert asked("delta", places).flops == elements * (2 + 2 * 1 + 2)
    assert netweight.estimate(places["a"], job="compare", models=places["b"]).flops == 16 * elements
    assert asked("merge", places).flops == elements * (2 * 3 + 1) + elements * (2 + 2 * 3)
    assert netweight.estimate(places["a"]).flops == 0  # patterns of 16 bits are counted


def given(tmp_path, rates):
    path = tmp_path / "rates.json"
    write_rates(path, rates)
    return path


def test_the_time_by_hand_from_given_rates(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(estimate_book, "split_by_cache", lambda pieces: (list(pieces), []))
    folder = write(tmp_path / "m", 0, {f"model.layers.{i}.mlp.up_proj.weight": (1000, 100) for i in range(3)}, "f4")
    mount = estimate_disk.find_mount(folder)
    path = given(
        tmp_path,
        {
            "cpu/values F32: basic_stats": Rate("element", ((1000.0, 1.0), (50_000.0, 6.0))),
            f"files {mount}/copying": Rate("B", ((6e5, 1.0),)),
            "start/scan basic_stats": Rate("start", ((1.0, 3.0),)),
        },
    )
    before = path.read_bytes()
    found = netweight.estimate(folder, rates=path, workers=1)
    (device,) = found.devices
    (work,) = device.work
    assert work.seconds == pytest.approx(3 * 12.0)  # 100,000 elements as fast as the largest that was measured
    assert found.reading.copying == pytest.approx(6e5)
    assert device.computing == pytest.approx(36.0 + 2.0)
    assert device.start == pytest.approx(3.0, abs=0.5)  # and the opening
    assert found.seconds == pytest.approx(device.start + 38.0)
    assert (device.limit, device.reading, found.measured) == ("computing", 0.0, False)
    assert path.read_bytes() == before


def test_reading_and_the_longest_task_limit_as_well(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(estimate_book, "split_by_cache", lambda pieces: ([], list(pieces)))
    folder = write(tmp_path / "m", 0, {"model.layers.0.mlp.up_proj.weight": (1000, 100)}, "f4")
    mount = estimate_disk.find_mount(folder)
    rates = {
        "cpu/values F32: basic_stats": Rate("element", ((100_000.0, 7.0),)),
        f"files {mount}/copying": Rate("B", ((4e8, 1.0),)),
        f"files {mount}/reading": Rate("B", ((4e4, 1.0),)),
        "start/scan basic_stats": Rate("start", ((1.0, 0.1),)),
    }
    (device,) = netweight.estimate(folder, rates=given(tmp_path, rates), workers=8).devices
    assert device.computing == pytest.approx(7.0, abs=0.01)  # one matrix is one task, however many threads there are
    assert device.reading == pytest.approx(10.0)
    assert (device.limit, device.threads) == ("reading", min(8, available_cores()))
    assert device.seconds == pytest.approx(10.0 + device.start)


def test_a_rate_between_and_beyond_its_points() -> None:
    rate = Rate("element", ((10.0, 1.0), (30.0, 5.0)))
    assert [rate.seconds(n) for n in (0, 10, 20, 30, 90)] == [1.0, 1.0, 3.0, 5.0, 15.0]
    assert rate.per_second == 6.0


def test_rates_are_kept_and_added_to(quick, places, tmp_path) -> None:
    path = tmp_path / "rates.json"
    first = netweight.estimate(places["a"], rates=path)
    assert first.measured
    names = set(json.loads(path.read_text())["rates"])
    assert names == {"cpu/values F16: basic_stats", "start/scan basic_stats"}  # few bytes say nothing of a disk
    rates, where = read_rates(path)
    assert where == host() == json.loads(path.read_text())["host"]
    again = tmp_path / "again.json"
    write_rates(again, rates)
    assert again.read_bytes() == path.read_bytes()
    asked("delta", places, rates=path)
    assert set(json.loads(path.read_text())["rates"]) == names | {"cpu/differences F16-2xF16", "start/delta"}
    assert read_rates(path)[0]["cpu/values F16: basic_stats"] == rates["cpu/values F16: basic_stats"]
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


GOOD = {"netweight_rates": 1, "host": {}, "rates": {}}
BROKEN = {
    "no JSON": "{",
    "JSON of something else": "[1]",
    "JSON of something else ": json.dumps({**GOOD, "rates": []}),
    "form 2, not 1": json.dumps({**GOOD, "netweight_rates": 2}),
    "no points for 'cpu/a\\x1b'": json.dumps({**GOOD, "rates": {"cpu/a\x1b": {"unit": "B", "points": []}}}),
    "no points for 'x'": json.dumps({**GOOD, "rates": {"x": 3}}),
    "positive numbers for 'x'": json.dumps({**GOOD, "rates": {"x": {"unit": "B", "points": [[1, 0]]}}}),
    "positive numbers for 'y'": json.dumps({**GOOD, "rates": {"y": {"unit": "B", "points": [[1, float("nan")]]}}}),
    "do not ascend for 'x'": json.dumps({**GOOD, "rates": {"x": {"unit": "B", "points": [[2, 1], [1, 1]]}}}),
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_rates_file_is_one_line(quick, places, tmp_path, said) -> None:
    path = tmp_path / "rates.json"
    path.write_text(BROKEN[said])
    with pytest.raises(OptionError) as caught:
        netweight.estimate(places["a"], rates=path)
    text = str(caught.value)
    assert said.strip() in text
    assert text.startswith(f"--rates {path}: expected what an earlier `netweight estimate` wrote there, got ")
    assert "\n" not in text
    assert "\x1b" not in text


def test_rates_that_cannot_be_read_or_kept(quick, places, tmp_path) -> None:
    with pytest.raises(
        OptionError, match=rf"^--rates .*: expected .* got {os.strerror(errno.EISDIR)}; delete the file or"
    ):
        netweight.estimate(places["a"], rates=tmp_path)
    with pytest.raises(
        OutputError, match=rf"^--rates .*nowhere.rates.json: cannot be written: {os.strerror(errno.ENOENT)}"
    ):
        netweight.estimate(places["a"], rates=tmp_path / "nowhere" / "rates.json")


def test_rates_of_another_machine_are_said(quick, places, tmp_path) -> None:
    path = tmp_path / "rates.json"
    netweight.estimate(places["a"], rates=path)
    found = json.loads(path.read_text())
    found["host"] |= {"processor": "Other\n9000", "cores": 96}
    path.write_text(json.dumps(found))
    (note,) = netweight.estimate(places["a"], rates=path).notes
    assert note == "the rates are those of another machine: Other\\n9000, 96 cores"


def test_hub_models_are_reckoned_from_their_headers(quick, hub, tmp_path) -> None:
    from hub_models import write_model

    arrays = write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    size = sum(values.nbytes for values in arrays.values())
    found = netweight.estimate("org/name", methods="all")
    assert hub.sent() < size / 20
    assert found.bytes_to_read == found.reading.far == size
    assert (found.reading.local, found.reading.disk, found.devices[0].reading) == (0, None, 0.0)
    assert found.models == ("org/name",)
    assert "org/name: comes over the network, at a rate that is not measured and not in the time" in found.notes


def test_a_gpu_is_reckoned_with_its_own_rates(quick, places, monkeypatch) -> None:
    monkeypatch.setattr(
        estimate_devices, "find_gpus", lambda asked, *, multi: ((("fake:0",), ("fake:0", "fake:1")), "")
    )
    real, asked_for = estimate_plans.load_of, []
    monkeypatch.setattr(
        estimate_plans,
        "load_of",
        lambda a, device, stack, *, multi=False: (asked_for.append((device, multi)), real(a, "cpu", stack))[1],
    )
    backends = []
    monkeypatch.setattr(
        estimate_book, "backends", lambda device: (backends.append(device), estimate_devices.backends("cpu"))[1]
    )
    found = netweight.estimate(places["a"], methods="all")
    assert [*dict.fromkeys(asked_for)] == [("cpu", False), ("fake:0", False), ("fake:0", True)]
    assert backends == ["cpu", "fake:0"]
    assert [d.device for d in found.devices] == ["cpu", "fake:0", "fake:0, fake:1"]
    cpu, one, two = found.devices
    assert (one.threads, two.threads) == (1, 2)
    assert [w.name for w in one.work] == [w.name for w in cpu.work]
    assert one.start > cpu.start
    assert found.seconds == cpu.seconds


def test_without_a_gpu_there_is_a_line_how_to(quick, places) -> None:
    found = netweight.estimate(places["a"], device="cpu")
    assert (found.gpu, len(found.devices)) == ("", 1)
    assert "pip install 'netweight[torch]'" in estimate_devices.HOW_TO


WRONG = {
    "--job: no job 'skan' (did you mean 'scan'?); there are scan, delta,": {"job": "skan"},
    "--base: goes with --job delta, merge, structure, not with scan; leave it out": {"base": "b"},
    "--deep: goes with --job structure, not with info; leave it out": {"job": "info", "deep": True},
    "--job delta: MODEL is a fine-tuned model; give its --base as well": {"job": "delta", "models": ["b"]},
    "--job compare: expected the other model as --models, got 0 of them": {"job": "compare"},
    "--methods: a merge has one method, got 2": {"job": "merge", "methods": ["ties", "slerp"]},
    "--methods: no method 'spectra' (did you mean 'spectral'?)": {"methods": "spectra"},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_cannot_be_reckoned_is_one_line(places, said) -> None:
    with pytest.raises(NetweightError) as caught:
        netweight.estimate(places["a"], **WRONG[said])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_recipe_and_an_output_that_takes_no_file(quick, places, tmp_path) -> None:
    recipe = tmp_path / "recipe.yml"
    models = "".join(f"  - model: {places[x]}\n    parameters: {{weight: 0.5}}\n" for x in "bc")
    recipe.write_text(f"merge_method: linear\nmodels:\n{models}dtype: float16\n")
    found = netweight.estimate(recipe, job="merge", output=tmp_path / "not" / "yet")
    assert found.what == "linear of 2 models"
    assert found.bytes_to_read == 2 * 2 * (50 * 24 + 40 * 24 + 24)
    assert found.reading.writing is not None
    assert found.devices[0].writing > 0
    assert not (tmp_path / "not").exists()
    with pytest.raises(OutputError, match="takes no file: "):
        netweight.estimate(recipe, job="merge", output="/proc/self/fd")


def test_headers_alone(quick, places) -> None:
    for job in ("info", "structure"):
        found = netweight.estimate(places["a"], job=job)
        assert (found.bytes_to_read, found.flops, found.devices[0].work) == (0, 0, ())
        assert (found.devices[0].limit, found.gpu) == ("start", "")
        assert found.seconds >= 1.5


def test_embeddings(quick, places) -> None:
    pytest.importorskip("sklearn")
    found = netweight.estimate(places["a"], job="embeddings")
    assert found.bytes_to_read == 50 * 24 * 2
    assert len(found.devices[0].work) == 2
    assert found.flops == sum(w.flops for w in found.devices[0].work) > 0


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F16", "BF16", "F32", "F64"])
def test_every_float_type_has_rates(quick, dtype) -> None:
    from netweight.measures.registry import find

    kernels, _ = estimate_devices.backends("cpu")
    one = DTYPES[dtype]
    measures = [find(name) for name in ("basic_stats", "quantization", "sparsity")]
    for rate in (
        estimate_probes.probe_values(one, measures, kernels),
        estimate_probes.probe_differences([DTYPES["BF16"], one, one], kernels),
        estimate_probes.probe_pairs(one, DTYPES["F32"], kernels),
        estimate_probes.probe_zeros(one),
    ):
        assert rate.per_second > 0
        assert [a for a, _ in rate.points] == sorted({a for a, _ in rate.points})


def test_rare_types_go_with_the_frequent_one(quick, tmp_path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    arrays = {"model.layers.0.mlp.up_proj.weight": np.ones((300, 100), "f2"), "model.norm.weight": np.ones(100, "f4")}
    save_file(arrays, folder / "model.safetensors")
    (work,) = netweight.estimate(folder).devices[0].work
    assert (work.name, work.amount) == ("values F16: basic_stats", 30_100)


@pytest.mark.parametrize("job", JOBS)
def test_what_the_start_is_measured_by_runs(tmp_path, job) -> None:
    if job == "embeddings":
        pytest.importorskip("sklearn")
    arguments, settings = estimate_start._call(job, tmp_path, DTYPES["BF16"], ("basic_stats",), deep=job == "structure")
    assert getattr(netweight, job)(*arguments, **settings) is not None
    assert json.loads(json.dumps([arguments, settings])) == [arguments, settings]


def test_the_start_is_that_of_a_fresh_interpreter(monkeypatch) -> None:
    assert 0.02 < estimate_start.measure_start("info", DTYPES["I8"], (), deep=False) < 60
    monkeypatch.setattr(estimate_start, "_PROGRAM", "raise ValueError('no\\x1bway')")
    with pytest.raises(JobError, match=r"^info: could not be started on a small made model: ValueError: no\\x1bway$"):
        estimate_start.measure_start("info", DTYPES["F32"], (), deep=False)


def test_files_are_read_in_pieces_spread_over_all_of_them(tmp_path) -> None:
    (tmp_path / "a").write_bytes(bytes(9 << 20))
    (tmp_path / "b").write_bytes(bytes(1000))
    files = [(str(tmp_path / "a"), 9 << 20), (str(tmp_path / "b"), 1000), (str(tmp_path / "b"), 0)]
    pieces = estimate_disk.pieces_of(files)
    assert [(p.offset, p.size) for p in pieces] == [(0, 4 << 20), (4 << 20, 4 << 20), (8 << 20, 1 << 20), (0, 1000)]
    assert estimate_disk.pieces_of([]) == []
    many = estimate_disk.pieces_of([("x", 10 << 30)])
    assert len(many) == 64
    assert sum(p.size for p in many) == 256 << 20
    assert many[-1].offset > 9 << 30
    done, seconds = estimate_disk.measure_disk(pieces, 2)
    assert 4 << 20 <= done <= (9 << 20) + 1000
    assert seconds > 0
    assert estimate_disk.measure_copying(pieces)[0] >= 4 << 20


def test_what_the_system_holds_in_memory(tmp_path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1 << 20))
    split = estimate_disk.split_by_cache(estimate_disk.pieces_of([(str(path), 1 << 20)]))
    if split is None:
        pytest.skip("this system does not tell")
    assert [len(part) for part in split] == [1, 0]  # just written


def test_a_system_that_does_not_tell(quick, places, monkeypatch) -> None:
    monkeypatch.setattr(estimate_book, "split_by_cache", lambda _: None)
    reading = netweight.estimate(places["a"]).reading
    assert reading.held is None
    assert reading.disk is not None
    assert reading.away(1) == reading.local


def test_a_file_that_is_gone_is_one_line(quick, places, monkeypatch) -> None:
    def gone(_):
        raise FileNotFoundError(2, "No such file", "a\nb")

    monkeypatch.setattr(estimate_book, "split_by_cache", gone)
    with pytest.raises(NetweightError, match=r"^a\\nb: could not be read: No such file; check the disk$"):
        netweight.estimate(places["a"])
