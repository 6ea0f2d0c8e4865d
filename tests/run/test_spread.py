"""One queue for several devices: none waits while there is work, and what one cannot do others do."""

from __future__ import annotations

import pickle
import threading
from collections import Counter, deque

import pytest

from netweight.errors import JobError, OptionError
from netweight.kernels.faults import DeviceLost, DeviceOutOfMemory
from netweight.run.devices import Choice
from netweight.run.spread import DeviceKernels, Spread, all_kernels, device_notes, kernels_on, prepare_on, run_on
from netweight.run.threads import ThreadExecutor

PATIENCE = 30  # seconds until a test fails that would otherwise wait for ever


def run(work, tasks, workers):
    """{task: result} of an executor of threads."""
    waiting = deque(tasks)
    return dict(ThreadExecutor(workers).run(lambda: waiting.popleft() if waiting else None, work))


@pytest.mark.parametrize("each_has", [1, 2, 3])
def test_every_device_has_its_share_of_the_workers(each_has):
    """All workers must be at work at once for the barrier to open: then every device has as many as the others."""
    everyone = threading.Barrier(2 * each_has)
    lock, seen = threading.Lock(), []

    def on(device):
        def work(task):
            everyone.wait(PATIENCE)
            with lock:
                seen.append(device)
            return device

        return work

    run(Spread({"a": on("a"), "b": on("b")}), range(2 * each_has), 2 * each_has)
    assert Counter(seen) == {"a": each_has, "b": each_has}


def test_no_device_waits_while_there_is_work():
    """While one device is busy with its first task the other does all the rest: only then the first may go on."""
    rest_is_done = threading.Event()
    lock, done = threading.Lock(), {"slow": [], "fast": []}
    started = threading.Barrier(2)  # both have begun: neither found the queue empty

    def slow(task):
        started.wait(PATIENCE)
        assert rest_is_done.wait(PATIENCE)
        done["slow"].append(task)
        return task

    def fast(task):
        if not done["fast"]:
            started.wait(PATIENCE)
        with lock:
            done["fast"].append(task)
            if len(done["fast"]) == 19:
                rest_is_done.set()
        return task

    found = run(Spread({"slow": slow, "fast": fast}), range(20), 2)
    assert found == {n: n for n in range(20)}
    assert (len(done["slow"]), len(done["fast"])) == (1, 19)


def test_a_thread_stays_with_its_device():
    """What a thread holds on a device is held once."""
    lock, seen = threading.Lock(), {}

    def on(device):
        def work(task):
            with lock:
                seen.setdefault(threading.get_ident(), set()).add(device)
            return task

        return work

    run(Spread({"a": on("a"), "b": on("b")}), range(200), 4)
    assert all(len(devices) == 1 for devices in seen.values())


def test_work_of_a_device_that_fails_goes_to_the_others():
    lock, calls = threading.Lock(), Counter()
    both = threading.Barrier(2)

    def good(task):
        with lock:
            calls["good"] += 1
            first = calls["good"] == 1
        if first:
            both.wait(PATIENCE)
        return task * 10

    def bad(task):
        with lock:
            calls["bad"] += 1
        both.wait(PATIENCE)  # it fails when the other is at work too
        raise DeviceLost("an illegal memory access was encountered\nCompile with ... to enable assertions")

    spread = Spread({"cuda:0": good, "cuda:1": bad}, lambda task: 1 / 0)
    assert run(spread, range(30), 2) == {n: 10 * n for n in range(30)}
    assert calls == {"good": 30, "bad": 1}
    assert list(spread.notes()) == ["cuda:1 fails, its work goes to cuda:0: an illegal memory access was encountered"]
    assert list(spread.notes()) == []


def test_a_device_that_fails_in_several_threads_is_struck_off_once():
    both = threading.Barrier(2)

    def bad(task):
        both.wait(PATIENCE)
        raise DeviceLost("gone")

    lost = {}
    spread = Spread({"cuda:0": bad}, lambda task: -task, lost=lost)
    assert run(spread, [1, 2], 2) == {1: -1, 2: -2}
    assert lost == {"cuda:0": "gone"}
    assert list(spread.notes()) == ["cuda:0 fails, its work goes to the CPU: gone"]


def test_too_little_memory_is_of_one_task_alone():
    used = Counter()

    def small(task):
        used["gpu"] += 1
        if task == "lar\x1bge":
            raise DeviceOutOfMemory("tried to allocate 20.00 GiB\nof which 3 GiB are free")
        return f"gpu {task}"

    def cpu(task):
        used["cpu"] += 1
        return f"cpu {task}"

    spread = Spread({"cuda:0": small}, cpu, name=lambda task: f"layer.{task}")
    found = run(spread, ["a", "lar\x1bge", "b", "c"], 1)
    assert found == {"a": "gpu a", "lar\x1bge": "cpu lar\x1bge", "b": "gpu b", "c": "gpu c"}
    assert used == {"gpu": 4, "cpu": 1}
    assert list(spread.notes()) == [
        r"layer.lar\x1bge: the memory of cuda:0 is too small for it, computed on the CPU: tried to allocate 20.00 GiB"
    ]


def test_what_a_task_had_on_the_device_is_free_when_the_cpu_takes_over():
    import gc
    import weakref

    class Held:
        pass

    alive = []

    def work(task):
        held = Held()
        alive.append(weakref.ref(held))
        raise DeviceOutOfMemory

    def cpu(task):
        gc.collect()
        return alive[0]() is None

    assert Spread({"a": work}, cpu)("task") is True


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_fallback_takes_so_many_tasks_at_a_time(at_once):
    lock, now, most = threading.Lock(), 0, 0
    everyone, together = threading.Barrier(4), threading.Barrier(at_once)

    def full(task):
        everyone.wait(PATIENCE)
        raise DeviceOutOfMemory("full")

    def cpu(task):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(PATIENCE)
        with lock:
            now -= 1
        return task

    run(Spread({"cuda:0": full}, cpu, at_once=at_once), range(4), 4)
    assert most == at_once


def test_all_devices_lost_is_one_line():
    def bad(why):
        def work(task):
            raise DeviceLost(why)

        return work

    spread = Spread({"cuda:0": bad("no kernel image"), "cuda:1": bad("fell off the bus")})
    with pytest.raises(JobError) as caught:
        run(spread, range(8), 4)
    lost = {"cuda:0: no kernel image", "cuda:1: fell off the bus"}
    head, _, tail = str(caught.value).partition("compute on: ")
    assert head == "no device is left to "
    assert {*tail.removesuffix("; use --device cpu").split("; ")} == lost


def test_no_memory_and_no_fallback():
    def full(task):
        raise DeviceOutOfMemory

    said = "t: the memory of cuda:0 is too small for it: DeviceOutOfMemory; use --device cpu"
    with pytest.raises(JobError) as caught:
        Spread({"cuda:0": full})("t")
    assert str(caught.value) == said


def test_other_errors_go_to_the_caller():
    def broken(task):
        raise KeyError(task)

    with pytest.raises(KeyError, match="'x'"):
        run(Spread({"a": broken, "b": broken}, lambda task: task), ["x"], 2)


def test_spread_work_stays_in_its_process():
    with pytest.raises(OptionError, match="GPUs work with an executor of threads alone"):
        pickle.dumps(Spread({"a": len}))


def test_kernels_of_the_devices_chosen():
    made, said = [], []

    def make(device):
        made.append(device)
        return device.upper()

    assert kernels_on(Choice(notes=("of the choice",)), make, note=said.append) == "CPU"
    assert said == ["of the choice"]
    assert all_kernels("CPU") == ["CPU"]
    placed = kernels_on(Choice(("cuda:0", "cuda:1")), make, at_once=3)
    assert all_kernels(placed) == ["CUDA:0", "CUDA:1", "CPU"]
    assert (placed.by_device, placed.fallback, placed.at_once) == ({"cuda:0": "CUDA:0", "cuda:1": "CUDA:1"}, "CPU", 3)
    assert made == ["cpu", "cuda:0", "cuda:1", "cpu"]
    assert kernels_on(Choice(("cuda:0",)), make).at_once == 1


def test_a_long_message_of_a_library_is_cut():
    spread = Spread({"cuda:0": lambda _: raise_lost("y" * 1000)}, lambda task: task)
    spread("task")
    assert list(spread.notes()) == [f"cuda:0 fails, its work goes to the CPU: {'y' * 297}..."]


def raise_lost(why):
    raise DeviceLost(why)


def test_a_device_that_cannot_be_used_is_found_before_any_task():
    prepared = []
    prepare_on("CPU", prepared.append)
    prepare_on(DeviceKernels({"cuda:0": "a", "cuda:1": "b"}, "cpu"), prepared.append)
    assert prepared == ["CPU", "a", "b"]

    def fail(kernels):
        raise DeviceLost("no kernel image is available\nfor execution on the device")

    with pytest.raises(JobError) as caught:
        prepare_on(DeviceKernels({"cuda:0": "a"}, "cpu"), fail)
    assert str(caught.value) == "cuda:0 cannot be used: no kernel image is available; choose another --device"


def test_notes_come_in_the_callers_thread():
    """Progress is called from one thread; a device that is lost stays lost for the next pass of the same job."""
    caller, said = threading.get_ident(), []

    def note(text):
        assert threading.get_ident() == caller
        said.append(text)

    def make(kernels):
        def work(task):
            if kernels == "broken":
                raise DeviceLost("gone")
            return kernels

        return work

    placed = DeviceKernels({"cuda:0": "broken", "cuda:1": "good"}, "cpu")
    executor = ThreadExecutor(4)
    for _ in range(2):
        waiting = deque(range(10))
        results = run_on(
            placed, executor, lambda waiting=waiting: waiting.popleft() if waiting else None, make, name=str, note=note
        )
        assert dict(results) == dict.fromkeys(range(10), "good")
    assert said == ["cuda:0 fails, its work goes to cuda:1: gone"]
    assert device_notes(placed) == tuple(said)
    assert device_notes("CPU") == ()


def test_notes_come_also_where_the_run_ends_with_an_error():
    def make(kernels):
        def work(task):
            raise DeviceLost("gone") if kernels == "gpu" else ValueError("broken")

        return work

    placed, said = DeviceKernels({"cuda:0": "gpu"}, "cpu"), []
    waiting = deque([1])
    executor = ThreadExecutor(1)
    results = run_on(placed, executor, lambda: waiting.popleft() if waiting else None, make, name=str, note=said.append)
    with pytest.raises(ValueError, match="broken"):
        list(results)
    assert said == ["cuda:0 fails, its work goes to the CPU: gone"]
