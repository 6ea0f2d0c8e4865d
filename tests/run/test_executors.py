"""Executors by name, and what a plan may count on."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass

import pytest

from netweight.errors import OptionError
from netweight.run import executors
from netweight.run.executors import check_executor, executor_for, matrix_budget, plan_workers, planned_executor
from netweight.run.ray_cluster import _undisturbed, check_address
from netweight.run.threads import ThreadExecutor

MIB = 1 << 20
NO_ADDRESS = "--ray-address: expected HOST:PORT of the head node or auto"


@dataclass(frozen=True)
class Chosen:
    executor_name: str = "threads"
    ray_address: str | None = None
    workers: int | None = None
    memory: int | None = None


@pytest.mark.parametrize(
    ("name", "address", "message"),
    [
        ("rays", None, "--executor: expected threads or ray, got 'rays' (did you mean 'ray'?)"),
        ("a\nb", None, r"--executor: expected threads or ray, got 'a\nb'"),
        ("threads", "auto", "--ray-address auto: is for --executor ray; add that, or leave it out"),
        (
            "ray",
            "ray://host:10001",
            f"{NO_ADDRESS}, got 'ray://host:10001'; run on a machine that is a node of the cluster",
        ),
    ],
)
def test_what_cannot_be(name, address, message):
    with pytest.raises(OptionError) as caught:
        check_executor(name, address)
    assert str(caught.value) == message


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "head.cluster.local:6379", "[::1]:6379", None])
def test_addresses(address):
    check_address(address)


@pytest.mark.parametrize("address", ["", "host", ":6379", "host:port", "host:123456", "ho st:1", "http://host:1"])
def test_what_is_no_address(address):
    with pytest.raises(OptionError, match=r"^--ray-address: expected HOST:PORT of the head node or auto, got "):
        check_address(address)


def test_threads():
    found = executor_for("threads", 3)
    assert isinstance(found, ThreadExecutor)
    assert found.workers == 3
    with planned_executor(Chosen(workers=7), 2, 100) as found:  # memory allowed two of the seven
        assert found.workers == 2


def test_ray(monkeypatch):
    monkeypatch.setattr("netweight.run.ray_cluster.load_ray", lambda: None)
    found = executor_for("ray", 5, "auto", memory=10)
    assert (type(found).__name__, found.workers, found.shares_memory) == ("RayExecutor", 5, False)
    with planned_executor(Chosen("ray", "auto", 4), 4, 400) as found:
        assert (found.workers, found._address, found._memory) == (4, "auto", 100)
    with planned_executor(Chosen("ray"), 4, 400) as found:
        assert found._wanted is None  # as many as the cluster has CPUs


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        OptionError, match=r"^--executor ray: Ray cannot be loaded \(.*\); pip install 'netweight\[ray\]'$"
    ):
        executor_for("ray", 1)


def test_the_plan_s_workers(monkeypatch):
    monkeypatch.setattr(executors, "available_cores", lambda: 6)
    assert plan_workers(Chosen(workers=4, memory=500 * MIB), 50 * MIB, 400 * MIB) == (2, 500 * MIB)
    assert plan_workers(Chosen("ray", workers=4, memory=500 * MIB), 50 * MIB, 400 * MIB) == (4, 4 * 450 * MIB)
    assert plan_workers(Chosen("ray", "auto", memory=500 * MIB), 50 * MIB, 400 * MIB)[0] == 6
    with pytest.raises(OptionError, match="--memory 440 MiB: this job needs at least 450 MiB for one worker"):
        plan_workers(Chosen("ray", workers=4, memory=440 * MIB), 50 * MIB, 400 * MIB)
    with pytest.raises(OptionError, match="--workers 0"):
        plan_workers(Chosen("threads", workers=0), 50 * MIB, 400 * MIB)


def test_the_budget_of_matrices():
    assert matrix_budget(Chosen(memory=500), 100) == 400
    assert matrix_budget(Chosen("ray", memory=500), 100) == sys.maxsize


def test_ctrl_c_waits_for_a_cluster_that_is_starting():
    reached = []

    def start(times):
        with _undisturbed():
            for number in range(times):
                signal.raise_signal(signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        start(1)
    assert reached == [0]
    with pytest.raises(KeyboardInterrupt):
        start(3)
    assert reached == [0, 0]  # the second is heard at once
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
