"""A Ray cluster of three nodes on this machine, each with a working directory of its own."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

_MISSED = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 2}


class Nodes:
    """`address` for --ray-address; `executor` has a worker a node."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._made = 0
        self._cluster = Cluster()
        for _ in range(3):
            self.add()
        self.address: str = self._cluster.address

    def add(self) -> None:
        more = {} if self._made else {"_system_config": _MISSED}
        own = self._folder / f"node{self._made}"
        own.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(own)
            patch.setenv("HF_HUB_OFFLINE", "0")  # workers ask the hub of a test
            self._cluster.add_node(num_cpus=1, object_store_memory=80 << 20, include_dashboard=False, **more)
        self._made += 1

    def kill(self) -> None:
        """One that is not the head, as if its plug were pulled."""
        node = next(iter(self._cluster.worker_nodes))
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        processes = [raylet, *raylet.children(recursive=True)]
        for process in processes:
            process.suspend()  # or the first to end would be told of by the others
        for process in processes:
            process.kill()
        self._cluster.remove_node(node, allow_graceful=False)

    def wait(self, executor: Any) -> None:
        """Until every worker has had a task at the same time as the others."""

        def pid(_: int) -> int:
            time.sleep(0.1)
            return os.getpid()

        end = time.monotonic() + 300
        seen: set[int] = set()
        tasks = iter(range(10**6))
        while len(seen) < executor.workers:
            assert time.monotonic() < end
            left = 3 * executor.workers
            round_ = iter([next(tasks) for _ in range(left)])
            seen = {result for _, result in executor.run(lambda r=round_: next(r, None), pid)}

    def connect(self) -> Any:
        from netweight.run.ray_executor import RayExecutor

        return RayExecutor(3, self.address)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="package")  # its processes would take from the tests of other folders
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'netweight[ray]'")
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ[name] = "0"
    found = Nodes(tmp_path_factory.mktemp("cluster"))
    yield found
    found.close()


@pytest.fixture(scope="package")
def ray_executor(nodes: Nodes) -> Iterator[Any]:
    """Three workers that stay from test to test."""
    executor = nodes.connect()
    yield executor
    executor.close()
    time.sleep(0.1)


@pytest.fixture(params=["threads", "ray"])
def executor_of(request: pytest.FixtureRequest) -> Any:
    """A function that makes an executor of so many workers; of Ray there are three."""
    if request.param == "threads":
        from netweight.run.threads import ThreadExecutor

        return ThreadExecutor
    made = request.getfixturevalue("ray_executor")

    def three(workers: int) -> Any:
        assert workers == made.workers
        return made

    return three
