"""Which devices a job computes on, and why."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from fake_gpus import CPU, fake_gpus, gpu

from netweight.errors import OptionError
from netweight.run import devices
from netweight.run.device_survey import Device, Survey
from netweight.run.devices import WORTH, Choice, choose, choose_for, spectral_effort, without_gpu
from netweight.run.memory import available_cores, default_budget

LARGE = 1e15
MPS = Device("mps", "mps", "Apple GPU", doubles=False)


@pytest.fixture
def nobody_asks(monkeypatch):
    """No torch is loaded for this choice."""

    def asked(**_):
        raise AssertionError("a survey loads torch")

    monkeypatch.setattr(devices, "survey", asked)


@pytest.mark.parametrize("work", ["statistics", "spectra", "merge"])
def test_the_cpu_where_it_is_asked_for(work, nobody_asks):
    assert choose("cpu", False, work, LARGE) == Choice(("cpu",), "asked for")


@pytest.mark.parametrize(
    ("work", "effort", "why"),
    [
        ("statistics", LARGE, "one pass over the bytes, which a CPU keeps up with"),
        ("merge", LARGE, "every byte is read and written once, which a CPU keeps up with"),
        ("spectra", 0.99 * WORTH, "its spectra take the CPU no longer than a GPU takes to start"),
    ],
)
def test_auto_without_a_question(work, effort, why, nobody_asks):
    assert choose("auto", False, work, effort) == Choice(("cpu",), why)


def test_auto_for_spectra_of_a_large_model(monkeypatch):
    fake_gpus(monkeypatch, gpus=[gpu(0, doubles=False), gpu(1, model="Large"), gpu(2)])
    note = "computing on cuda:1 (Large), for the spectra; --device cpu computes on the CPU"
    assert choose("auto", False, "spectra", WORTH) == Choice(("cuda:1",), "spectra gain from its float64", (note,))


@pytest.mark.parametrize(
    ("gpus", "why"),
    [
        ([], "spectra would gain from a GPU; torch sees none"),
        ([MPS], "spectra need float64, which mps (Apple GPU) has slow or not at all"),
        ([gpu(0, doubles=False, model="Small")], "spectra need float64, which cuda:0 (Small) has slow or not at all"),
    ],
)
def test_auto_for_spectra_without_float64(gpus, why, monkeypatch):
    fake_gpus(monkeypatch, gpus=gpus)
    assert choose("auto", False, "spectra", LARGE) == Choice(("cpu",), why)


def test_auto_asks_torch_only_where_there_is_a_driver(monkeypatch, nobody_asks):
    monkeypatch.setattr(devices, "driver_is_there", lambda: False)
    assert (
        choose("auto", False, "spectra", LARGE).why == "spectra would gain from a GPU; the system has no driver of one"
    )


@pytest.mark.parametrize("work", ["statistics", "spectra", "merge"])
@pytest.mark.parametrize(
    ("asked", "name"),
    [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("mps", "mps"), ("xpu", "xpu:0"), ("xpu:0", "xpu:0")],
)
def test_a_gpu_that_is_asked_for(asked, name, work, monkeypatch):
    fake_gpus(monkeypatch, gpus=[gpu(0), gpu(1), MPS, gpu(0, kind="xpu")])
    found = choose(asked, False, work)
    assert found == Choice((name,), "asked for")
    assert (found.gpu, found.backend, found.name) == (True, "torch", name)


def test_a_gpu_that_is_not_there(monkeypatch):
    fake_gpus(monkeypatch, gpus=[gpu(0, model="Ei\x1bns")])
    with pytest.raises(OptionError) as caught:
        choose("cuda:3", False, "statistics")
    assert str(caught.value) == r"--device cuda:3: there is no such device; there are cpu, cuda:0 (Ei\x1bns)"
    fake_gpus(monkeypatch, gpus=[gpu(0, model="x" * 500)])
    with pytest.raises(OptionError, match=rf"there are cpu, cuda:0 \({'x' * 57}\.\.\.\)$"):
        choose("cuda:3", False, "statistics")
    fake_gpus(monkeypatch, 0)
    with pytest.raises(OptionError) as caught:
        choose("xpu", False, "statistics")
    assert str(caught.value) == "--device xpu: there is no such GPU: torch sees none; use --device cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:01234", "mps:0", "cpu:0", "", "auto ", "tpu\x1b"])
def test_names_that_are_no_devices(name):
    with pytest.raises(
        OptionError, match="--device: expected auto, cpu, cuda, cuda:N, mps, xpu or xpu:N, got '"
    ) as caught:
        choose(name, False, "merge")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_all_gpus(asked, monkeypatch):
    fake_gpus(monkeypatch, gpus=[gpu(0), gpu(1, doubles=False, model="Small"), MPS])
    found = choose(asked, True, "statistics")
    assert found.devices == ("cuda:0", "cuda:1")
    assert found.name == "cuda:0, cuda:1"
    assert found.notes == ("computing on cuda:0 (Stub), cuda:1 (Small)",)


def test_all_gpus_where_there_is_none(monkeypatch):
    fake_gpus(monkeypatch, 0)
    why = "--multi-gpu, and there is no GPU: torch sees none"
    assert choose("auto", True, "merge") == Choice(("cpu",), why, (f"{why}; computing on the CPU",))
    with pytest.raises(OptionError, match="--device cuda: there is no such GPU"):
        choose("cuda", True, "merge")


@pytest.mark.parametrize("asked", ["cpu", "cuda:0", "mps", "xpu:1"])
def test_one_device_and_all_of_them(asked, nobody_asks):
    with pytest.raises(OptionError) as caught:
        choose(asked, True, "merge")
    assert str(caught.value) == f"--device {asked} and --multi-gpu: one device, or all GPUs; leave one of the two out"


@dataclass(frozen=True)
class Options:
    device: str = "auto"
    multi_gpu: bool = False
    executor_name: str = "ray"


def test_ray_computes_on_cpus(nobody_asks):
    assert choose_for(Options(), "spectra", LARGE) == Choice(("cpu",), "Ray's workers compute on CPUs")
    assert choose_for(Options("cpu"), "merge").devices == ("cpu",)
    for options, said in ((Options("cuda:1"), "--device cuda:1"), (Options(multi_gpu=True), "--multi-gpu")):
        with pytest.raises(OptionError) as caught:
            choose_for(options, "merge")
        assert str(caught.value) == (
            f"--executor ray and {said}: Ray's workers compute on CPUs; leave one of the two out"
        )
    assert choose_for(Options("cpu", executor_name="threads"), "merge").why == "asked for"


@dataclass(frozen=True)
class Room:
    workers: int | None = None
    memory: int | None = None


@pytest.mark.parametrize(
    ("shape", "effort"),
    [
        ((4, 3), 4 * 3 * 3 + 9 * 27),
        ((3, 4), 4 * 3 * 3 + 9 * 27),
        ((5, 4, 3), 5 * (4 * 3 * 3 + 9 * 27)),
        ((4, 3, 2, 2), 4 * 12 * 4 + 9 * 64),
        ((7,), 0),
        ((7, 1), 0),
        ((), 0),
        ((0, 4), 0),
    ],
)
def test_effort(shape, effort):
    assert spectral_effort(shape) == effort


def test_workers_and_memory():
    cpu, one, two = Choice(), Choice(("cuda:0",)), Choice(("cuda:0", "cuda:1"))
    assert [cpu.workers(n) for n in (None, 0, 1, 7)] == [None, 0, 1, 7]
    assert [one.workers(n) for n in (0, 1, 2, 7)] == [0, 2, 2, 7]
    assert [two.workers(n) for n in (1, 4, 7)] == [4, 4, 7]
    assert one.workers(None) == max(2, min(available_cores(), 4))
    assert two.workers(None) == max(4, min(available_cores(), 8))
    assert (cpu.libraries, one.libraries) == (0, 1 << 30)


def test_options_that_fit_the_devices():
    plain, asked = Room(), Room(workers=1, memory=5)
    assert Choice().fitted(plain) is plain
    assert Choice().fitted(asked) is asked
    gpu_alone = Choice(("cuda:0",))
    assert gpu_alone.fitted(plain) == Room(gpu_alone.workers(None), default_budget(4 << 30))
    assert gpu_alone.fitted(asked) == Room(2, 5)


def test_work_for_the_cpu_alone():
    assert without_gpu("auto", False, "it is done") is None
    assert without_gpu("cpu", False, "it is done") is None
    assert without_gpu("cuda:1", False, "clusters are computed") == "--device cuda:1: clusters are computed on the CPU"
    assert without_gpu("auto", True, "clusters are computed") == "--multi-gpu: clusters are computed on the CPU"
    with pytest.raises(OptionError, match="--device: expected"):
        without_gpu("gpu", False, "it is done")


def test_a_survey_has_the_cpu_first():
    assert Survey((CPU, gpu(0))).gpus == (gpu(0),)
