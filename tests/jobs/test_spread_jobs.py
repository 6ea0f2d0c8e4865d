"""Jobs on two devices, with the CPU's kernels under their names: the bytes of the plain run, whatever a device does."""

from __future__ import annotations

import json
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_gpus import StubKernels, StubMergeKernels, fake_gpus
from merge_families import family
from safetensors.numpy import load_file, save_file
from task_vectors import normal, save, tree, tuned

import netweight
from netweight.errors import JobError, OptionError
from netweight.kernels.cpu.differences import CpuDifferences
from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory
from netweight.passes import differences
from netweight.run.threads import ThreadExecutor

BOTH = {"device": "auto", "multi_gpu": True}
SIZES = {"a": (30, 20), "b": (70, 64), "c": (1100, 1000), "d": (50, 40)}


class Notes:
    """A progress that keeps its notes."""

    def __init__(self):
        self.notes = []

    def start(self, *_, **__): ...
    def advance(self, *_): ...
    def stop(self): ...

    def note(self, text):
        if "compiling" not in text:
            self.notes.append(text)


class Recording(ThreadExecutor):
    """Which tasks were asked for, in their order."""

    def __init__(self, workers):
        super().__init__(workers)
        self.tasks = []

    def run(self, next_task, work):
        def asked():
            if (task := next_task()) is not None:
                self.tasks.append(task)
            return task

        return super().run(asked, work)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kinds = dict(zip(SIZES, ("float32", "float16", "float32", "bfloat16"), strict=True))
    base = {
        f"model.layers.{i}.mlp.{n}_proj.weight": normal(shape, kinds[n], seed=i)
        for i, (n, shape) in enumerate(SIZES.items())
    }
    return [
        save(folder / name, a)
        for name, a in zip(("base", "one", "two"), (base, tuned(base, 1), tuned(base, 2)), strict=True)
    ]


def same_tables(a, b):
    """Parquet files that differ in the device alone, and in what happened to it."""
    first, second = (pq.read_table(path) for path in (a, b))
    assert first.equals(second)
    apart = {b"netweight.device", b"netweight.notes"}
    kept = [{k: v for k, v in t.schema.metadata.items() if k not in apart} for t in (first, second)]
    assert kept[0] == kept[1]
    return [t.schema.metadata[b"netweight.device"].decode() for t in (first, second)]


def same_delta(plain, spread):
    found = [{k: v for k, v in tree(folder).items() if k != "delta.parquet"} for folder in (plain, spread)]
    assert found[0] == found[1]
    return same_tables(plain / "delta.parquet", spread / "delta.parquet")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small parameters too are computed on devices."""
    monkeypatch.setattr(differences, "_FEW", 0)


@pytest.fixture
def plain(models, tmp_path):
    netweight.delta(models[0], models[1:], tmp_path / "plain")
    return tmp_path / "plain"


def test_delta(models, plain, tmp_path, monkeypatch):
    fake_gpus(monkeypatch)
    progress = Notes()
    result = netweight.delta(models[0], models[1:], tmp_path / "gpus", **BOTH, progress=progress)
    assert same_delta(plain, tmp_path / "gpus") == ["cpu", "cuda:0, cuda:1"]
    assert result.device == result.to_dict()["device"] == "cuda:0, cuda:1"
    assert progress.notes == ["computing on cuda:0 (Stub), cuda:1 (Stub)"]
    assert result.notes == ()


def test_the_cpu_that_is_asked_for_is_the_default(models, plain, tmp_path):
    netweight.delta(models[0], models[1:], tmp_path / "cpu", device="cpu")
    assert tree(plain) == tree(tmp_path / "cpu")


def test_the_largest_parameters_come_first(models, tmp_path, monkeypatch):
    from netweight.run import plan

    monkeypatch.setattr(plan, "STRETCH", 1 << 19)
    plain, spread = Recording(1), Recording(1)
    netweight.delta(models[0], models[1:], executor=plain)
    fake_gpus(monkeypatch)
    netweight.delta(models[0], models[1:], executor=spread, **BOTH)
    first = [
        [r.stretch for task in e.tasks if isinstance(task, list) for r in task if type(r).__name__ == "FirstReading"]
        for e in (plain, spread)
    ]
    assert [t.name.split(".")[4][0] for t in first[0]] == ["a", "b", "c", "c", "c", "d"]
    assert [t.name.split(".")[4][0] for t in first[1]] == ["c", "c", "c", "b", "d", "a"]
    assert [t.number for t in first[1]] == [0, 1, 2, 0, 0, 0]


def test_a_run_on_a_gpu_does_not_go_on_on_the_cpu(models, tmp_path, monkeypatch):
    """They agree within tolerances, and a result is of one of them."""
    from contextlib import ExitStack

    from netweight.jobs.delta.plan import Options, prepare

    fake_gpus(monkeypatch)
    digests = []
    for device in ("auto", "cpu", "cuda:0", "cuda:1"):
        with ExitStack() as stack:
            digests.append(prepare(models[0], models[1:], Options(device=device), stack).plan.digest)
    assert digests[0] == digests[1] != digests[2] == digests[3]


class Tight(StubKernels):
    """Device 0 has no room for pairs of float16."""

    def differences(self, models):
        device = self.device

        class Differences(CpuDifferences):
            def start(self, dtypes, kept):
                super().start(dtypes, kept)
                if device == "cuda:0" and dtypes[0].name == "F16":
                    raise DeviceOutOfMemory("tried to allocate 2.00 GiB")

        return Differences(models)


def test_too_little_memory_for_one_task(models, plain, tmp_path, monkeypatch):
    fake_gpus(monkeypatch, kernels=Tight)
    progress = Notes()
    result = netweight.delta(models[0], models[1:], tmp_path / "gpus", device="cuda:0", progress=progress)
    said = (
        "model.layers.1.mlp.b_proj.weight: the memory of cuda:0 is too small for it, computed on the CPU: tried to"
        " allocate 2.00 GiB"
    )
    assert progress.notes == [said]
    assert result.notes == (said,)
    same_delta(plain, tmp_path / "gpus")


class Failing(StubKernels):
    """Device 1 is lost at its first task."""

    def differences(self, models):
        if self.device == "cuda:1" and threading.current_thread().name.startswith("netweight"):
            raise DeviceLost("unspecified launch failure")
        return super().differences(models)


def test_a_lost_device(models, plain, tmp_path, monkeypatch):
    fake_gpus(monkeypatch, kernels=Failing)
    result = netweight.delta(models[0], models[1:], tmp_path / "gpus", **BOTH)
    same_delta(plain, tmp_path / "gpus")
    assert result.notes == ("cuda:1 fails, its work goes to cuda:0: unspecified launch failure",)
    result = netweight.delta(models[0], models[1:], tmp_path / "one", device="cuda:1")
    same_delta(plain, tmp_path / "one")
    assert result.notes == ("cuda:1 fails, its work goes to the CPU: unspecified launch failure",)


class Unusable(StubKernels):
    def prepare(self, combinations):
        raise DeviceLost("no kernel image is available for execution on the device")


def test_a_device_that_cannot_be_used(models, tmp_path, monkeypatch):
    fake_gpus(monkeypatch, kernels=Unusable)
    with pytest.raises(JobError) as caught:
        netweight.delta(models[0], models[1:], tmp_path / "o", device="cuda")
    assert str(caught.value) == (
        "cuda:0 cannot be used: no kernel image is available for execution on the device; choose another --device"
    )


def test_scan(models, tmp_path, monkeypatch):
    settings = {"methods": "all", "workers": 4, "memory": 3 << 30}
    names = ("plain.json", "gpus.json")
    one = netweight.scan(models[1], output=tmp_path / names[0], **settings)
    fake_gpus(monkeypatch)
    two = netweight.scan(models[1], output=tmp_path / names[1], **BOTH, **settings)
    assert (tmp_path / names[0]).read_bytes() == (tmp_path / names[1]).read_bytes()
    assert (one.device, two.device) == ("cpu", "cuda:0, cuda:1")
    for result in (one, two):
        result.created_at = "then"
        result.write(tmp_path / f"{result.device[:3]}.parquet")
    assert same_tables(tmp_path / "cpu.parquet", tmp_path / "cud.parquet") == ["cpu", "cuda:0, cuda:1"]


class NoRoom(StubKernels):
    """No spectrum fits."""

    def spectrum(self, dtype, rows, cols, leading=None):
        raise DeviceOutOfMemory("tried to allocate 8.00 GiB")


def test_spectra_that_do_not_fit(models, tmp_path, monkeypatch):
    settings = {"methods": "spectral", "workers": 2, "include": ("*a_proj*", "*b_proj*")}
    plain = netweight.scan(models[1], **settings)
    fake_gpus(monkeypatch, kernels=NoRoom)
    found = netweight.scan(models[1], device="cuda", **settings)
    assert str(found) == str(plain)
    assert {note.partition(": ")[0] for note in found.notes} == {*plain}
    assert all("computed on the CPU: tried to allocate 8.00 GiB" in note for note in found.notes)


def test_auto_takes_a_gpu_for_large_spectra(models, monkeypatch):
    from netweight.run import devices

    progress = Notes()
    fake_gpus(monkeypatch)
    some = {"methods": "spectral", "include": ("*a_proj*",), "progress": progress}
    assert netweight.scan(models[1], **some).device == "cpu"
    assert netweight.scan(models[1], device="cuda:1", **some).device == "cuda:1"
    assert progress.notes == []
    monkeypatch.setattr(devices, "WORTH", 1.0)
    assert netweight.scan(models[1], **some).device == "cuda:0"
    assert progress.notes == ["computing on cuda:0 (Stub), for the spectra; --device cpu computes on the CPU"]
    assert netweight.scan(models[1], **(some | {"methods": "basic_stats"})).device == "cpu"


def test_compare(models, monkeypatch):
    from netweight.run import devices

    chosen = {"methods": ["basic_stats", "spectral"], "include": ("*a_proj*", "*b_proj*")}
    plain = netweight.compare(models[0], models[1], **chosen)
    fake_gpus(monkeypatch)
    both = netweight.compare(models[0], models[1], **chosen, **BOTH)
    assert (plain.device, both.device) == ("cpu", "cuda:0, cuda:1")
    assert json.dumps(both.to_dict() | {"device": ""}) == json.dumps(plain.to_dict() | {"device": ""})
    monkeypatch.setattr(devices, "WORTH", 1.0)
    assert netweight.compare(models[0], models[1], **chosen).device == "cuda:0"
    assert netweight.compare(models[0], models[1], include=chosen["include"]).device == "cpu"


def test_merge_and_verify(tmp_path, monkeypatch):
    base, tuned_models, _, _ = family(tmp_path)
    what = {"base": base, "models": tuned_models, "method": "dare_ties", "settings": {"density": 0.5}}
    plain = netweight.merge(None, tmp_path / "plain", **what)
    fake_gpus(monkeypatch)
    progress = Notes()
    both = netweight.merge(None, tmp_path / "gpus", **what, **BOTH, progress=progress)
    one, two = (tree(tmp_path / name) for name in ("plain", "gpus"))
    records = [json.loads(t.pop("netweight_merge.json")) for t in (one, two)]
    assert one == two
    assert [r.pop("device") for r in records] == ["cpu", "cuda:0, cuda:1"]
    assert records[1].pop("libraries").keys() - records[0].pop("libraries").keys() == {"torch"}
    for record in records:
        for entry in record["inputs"]:
            entry.pop("path")
    assert records[0] == records[1]
    assert plain.record["device"] == "cpu"
    assert progress.notes[0] == "computing on cuda:0 (Stub), cuda:1 (Stub)"
    for device, merged_there in (("cuda:1", True), ("auto", False)):
        progress = Notes()
        found = netweight.verify(tmp_path / "gpus", device=device, progress=progress)
        assert found.good
        assert found.device == found.to_dict()["device"] == ("cpu" if device == "auto" else device)
        assert progress.notes == ([] if merged_there else [
            "merged on cuda:0, cuda:1, verified on cpu: last bits may differ; --device cuda:0 verifies as it was merged"
        ])  # fmt: skip
    assert both.notes == plain.notes


class Stumbling(StubMergeKernels):
    """Widens every block, and has no room for the second one of every tensor."""

    def fuses(self, dtype):
        return False

    def combine(self, x, pivot, scale, factors, out):
        calls = self.calls = getattr(self, "calls", 0) + 1
        if calls % 2 == 0:
            raise DeviceOutOfMemory("full")
        super().combine(x, pivot, scale, factors, out)


def test_what_is_computed_twice_is_counted_once(tmp_path, monkeypatch):
    """Blocks of the device and of the CPU are not of one size; the difference lies in the block that both compute."""
    name = "model.layers.0.mlp.up_proj.weight"
    arrays = [{name: normal((400, 1000), seed=n)} for n in range(2)]
    paths = [save(tmp_path / f"m{n}", a, {"model_type": "llama"}) for n, a in enumerate(arrays)]
    netweight.merge(None, tmp_path / "out", models=paths, method="linear", weights=[0.5, 0.5])
    file = tmp_path / "out" / "model.safetensors"
    merged = load_file(file)
    merged[name][0, :3] += 1
    merged[name][-1, -1] += 1
    save_file(merged, file, {"format": "pt"})
    fake_gpus(monkeypatch, merging=Stumbling)
    found = netweight.verify(tmp_path / "out", device="cuda:0", workers=1)
    assert [(v.name, v.differing) for v in found.verdicts] == [(name, 4)]
    assert found.notes == (f"{name}: the memory of cuda:0 is too small for it, computed on the CPU: full",)
    assert found.to_dict()["notes"] == list(found.notes)


def test_merge_with_a_device_that_stumbles(tmp_path, monkeypatch):
    arrays = [{"model.layers.0.mlp.up_proj.weight": normal((400, 1000), seed=n)} for n in range(2)]
    paths = [save(tmp_path / f"m{n}", a, {"model_type": "llama"}) for n, a in enumerate(arrays)]
    what = {"models": paths, "method": "linear", "weights": [0.25, 0.75]}
    netweight.merge(None, tmp_path / "plain", **what)
    fake_gpus(monkeypatch, merging=Stumbling)
    found = netweight.merge(None, tmp_path / "gpu", **what, device="cuda")
    bytes_of = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("plain", "gpu")]
    assert bytes_of[0] == bytes_of[1]
    assert any("is too small for it, computed on the CPU: full" in note for note in found.notes)
    assert found.record["notes"] == list(found.notes)


def test_merged_targets_come_largest_first(tmp_path, monkeypatch):
    _base, tuned_models, _, _ = family(tmp_path)
    fake_gpus(monkeypatch)
    executor = Recording(1)
    netweight.merge(None, tmp_path / "out", models=tuned_models, method="linear", executor=executor, **BOTH)
    sizes = [step.target.size for steps in executor.tasks for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 1


@pytest.mark.parametrize("job", ["delta", "scan", "compare", "merge"])
def test_a_device_that_is_not_there(job, models, tmp_path, monkeypatch):
    fake_gpus(monkeypatch, 1)
    run = {
        "delta": lambda **more: netweight.delta(models[0], models[1:], **more),
        "scan": lambda **more: netweight.scan(models[0], **more),
        "compare": lambda **more: netweight.compare(models[0], models[1], **more),
        "merge": lambda **more: netweight.merge(None, tmp_path / "o", models=models[1:], method="linear", **more),
    }[job]
    with pytest.raises(OptionError, match="--device cuda:7: there is no such device; there are cpu, cuda:0"):
        run(device="cuda:7")
    assert not (tmp_path / "o").exists()


def test_without_any_gpu_all_of_them_is_the_cpu(models, monkeypatch):
    fake_gpus(monkeypatch, 0)
    progress = Notes()
    assert netweight.delta(models[0], models[1:], multi_gpu=True, progress=progress).device == "cpu"
    assert progress.notes == ["--multi-gpu, and there is no GPU: torch sees none; computing on the CPU"]


def test_memory_of_the_devices_libraries_counts(models, monkeypatch):
    fake_gpus(monkeypatch)
    with pytest.raises(
        OptionError, match=r"--memory 1024 MiB: this job needs at least 1[3-9][0-9]{2} MiB for one worker"
    ):
        netweight.delta(models[0], models[1:], device="cuda", memory=1 << 30)


def test_numbers_of_two_devices_are_numpys(models, monkeypatch):
    """The stub's numbers are the CPU's; this one asks an oracle that knows neither."""
    fake_gpus(monkeypatch)
    found = netweight.delta(models[0], models[1:2], **BOTH)
    one, two = (load_file(models[n] / "model.safetensors") for n in (0, 1))
    for parameter in found.parameters:
        x = two[parameter.aligned.name].astype("f4") - one[parameter.aligned.name].astype("f4")
        row = parameter.rows[0]
        assert row["maxabs"] == np.abs(x).max()
        assert row["l2"] == pytest.approx(np.sqrt((x.astype("f8") ** 2).sum()), rel=1e-12)
