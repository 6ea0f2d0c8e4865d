"""What the executor does with workers and tasks, by a cluster that does as it is told, with a clock of its own."""

from __future__ import annotations

import pickle
from collections import Counter, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from netweight.errors import JobError
from netweight.run import ray_executor
from netweight.run.ray_executor import RayExecutor
from netweight.run.ray_worker import Facts
from netweight.version import __version__

LIMIT = 3000  # questions and workers after which a run would go on for ever


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


@dataclass(eq=False)
class Ref:
    """An answer that comes after so many seconds: a value, or an exception."""

    at: float
    call: Any


class Actor:
    """One worker: `begins` is "well", "late", "badly" or "never"."""

    def __init__(self, ray: Cluster, begins: str) -> None:
        self._ray = ray
        self._begins = begins
        self._work: Any = None
        self.waiting: list[Any] = []
        self.take = SimpleNamespace(remote=self._take)
        self.do = SimpleNamespace(remote=self._do)

    def _take(self, work: bytes) -> Ref:
        self._work = pickle.loads(work)
        return Ref(self._ray.now + {"never": float("inf"), "late": 100.0}.get(self._begins, 0.0), self._greet)

    def _greet(self) -> Any:
        if self._begins == "badly":
            raise RayError("The actor died because of a bad start")
        return Facts(f"node{self._ray.actors.index(self)}", 1, __version__)

    def _do(self, blob: bytes) -> Ref:
        task = pickle.loads(blob)
        self.waiting.append(task)
        self._ray.sent.append((self._ray.actors.index(self), task, len(self.waiting)))
        return Ref(self._ray.now + self._ray.seconds, lambda: self._answer(task))

    def _answer(self, task: Any) -> Any:
        if self._ray.is_deadly(task) or self in self._ray.ended:
            self._ray.ended.append(self)
            raise RayError("The actor died because its node is gone")
        self.waiting.remove(task)
        return self._work(task)


class Cluster:
    """As much of the module `ray` as the executor uses. `begins` says how each worker begins, the last for all more."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, begins: list[str], nodes: list[dict[str, Any]] | None = None) -> None:
        self._begins = begins
        self._nodes = nodes or []
        self._asked = 0
        self.now = 0.0
        self.seconds = 0.0  # that a task takes
        self.is_deadly = lambda task: False
        self.actors: list[Actor] = []
        self.options: list[dict[str, Any]] = []
        self.ended: list[Actor] = []
        self.sent: list[tuple[int, Any, int]] = []  # (worker, task, how many it has then)

    def put(self, blob: bytes) -> bytes:
        return blob

    def remote(self, _: type) -> Any:
        def made() -> Actor:
            assert len(self.actors) < LIMIT
            number = min(len(self.actors), len(self._begins) - 1)
            self.actors.append(Actor(self, self._begins[number]))
            return self.actors[-1]

        return SimpleNamespace(options=lambda **how: self.options.append(how) or SimpleNamespace(remote=made))

    def wait(self, refs: list[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
        assert num_returns == 1
        self._asked += 1
        assert self._asked < LIMIT
        ready = [ref for ref in refs if ref.at <= self.now][:1]
        if not ready:
            self.now += timeout
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: Ref) -> Any:
        return True, pickle.dumps(ref.call())

    def kill(self, actor: Actor, no_restart: bool) -> None:
        assert no_restart
        self.ended.append(actor)

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}

    def available_resources(self) -> dict[str, float]:
        return {}


def double(task: int) -> int:
    return 2 * task


def run(ray: Cluster, tasks, workers: int = 2, **settings) -> tuple[RayExecutor, list[tuple[int, int]]]:
    executor = RayExecutor(workers, **settings)
    executor._ray = ray
    waiting = deque(tasks)
    return executor, list(executor.run(lambda: waiting.popleft() if waiting else None, double))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(ray_executor, "_pickled", pickle.dumps)


@pytest.fixture
def cluster(monkeypatch):
    def make(*begins: str, **settings: Any) -> Cluster:
        made = Cluster(list(begins), **settings)
        clock = SimpleNamespace(monotonic=lambda: made.now, sleep=lambda _: None)
        monkeypatch.setattr(ray_executor, "time", clock)
        return made

    return make


def test_a_worker_has_one_task_under_way_and_the_next(cluster):
    ray = cluster("well")
    ray.seconds = 1.0
    executor, found = run(ray, range(20), 3)
    assert sorted(found) == [(n, 2 * n) for n in range(20)]
    assert {(worker, have) for worker, _, have in ray.sent} == {(w, n) for w in range(3) for n in (1, 2)}
    assert (executor.lost, len(ray.actors), ray.ended) == (0, 3, [])


def test_tasks_of_a_lost_worker_are_done_by_another(cluster):
    ray = cluster("well", "well", "late")
    tries = Counter()

    def once(task):
        tries[task] += 1
        return task == 3 and tries[task] == 1

    ray.is_deadly = once
    ray.seconds = 1.0
    executor, found = run(ray, range(10), 2)
    assert sorted(found) == [(n, 2 * n) for n in range(10)]
    assert (executor.lost, len(ray.actors)) == (1, 3)
    assert [have for _, task, have in ray.sent if task == 3][1:] == [1]  # tried again, it is alone


def test_a_task_that_ends_its_workers_is_named_and_no_other(cluster):
    ray = cluster("well")
    ray.is_deadly = lambda task: task == 0
    ray.seconds = 1.0  # the next task is there when the worker is lost
    with pytest.raises(JobError) as caught:
        run(ray, range(50), 1)
    assert str(caught.value) == (
        "0: the worker that had it was lost 3 times, last on node2: The actor died because its node is gone;"
        " is there memory for one worker on every CPU? then run again with --resume"
    )
    assert [(worker, have) for worker, task, have in ray.sent if task == 0] == [(0, 1), (1, 1), (2, 1)]
    assert not [task for worker, task, _ in ray.sent if worker and task]  # tried again, it is alone
    assert set(ray.ended) == set(ray.actors)


def test_a_task_may_lose_its_worker_twice(cluster):
    ray = cluster("well")
    ray.seconds = 1.0
    ends = Counter()

    def twice(task):
        ends[task] += 1
        return task in {0, 2, 4} and ends[task] <= 2

    ray.is_deadly = twice
    executor, found = run(ray, range(8), 1)
    assert sorted(found) == [(n, 2 * n) for n in range(8)]
    assert executor.lost == 6


def test_workers_that_do_not_start_are_replaced_a_few_times(cluster):
    ray = cluster("well", "badly")
    ray.seconds = 1.0
    executor, found = run(ray, range(20), 2)
    assert len(found) == 20
    assert (executor.lost, len(ray.actors)) == (6, 7)  # three times as often as there are to be
    ray = cluster("badly", "badly", "well")
    _, found = run(ray, range(20), 2)
    assert len(found) == 20
    assert len(ray.actors) == 4
    ray = cluster("badly")
    with pytest.raises(JobError, match=r"^--executor ray: no worker could be started on the cluster: .* a bad start; "):
        run(ray, range(20), 2)
    assert len(ray.actors) == 5
    assert len(ray.ended) == 2  # those that were still to answer


def test_no_worker_for_five_minutes(cluster):
    ray = cluster("never")
    with pytest.raises(JobError) as caught:
        run(ray, range(5))
    assert str(caught.value) == (
        "--executor ray: no worker could be started on the cluster: 0 of its 4 CPUs are free; is netweight"
        f" {__version__} installed on every node, and is a CPU free?"
    )
    assert 300 < ray.now <= 302
    ray = cluster("well", "never")
    ray.seconds = 1000.0
    _, found = run(ray, range(3))  # a worker is there, and it works
    assert len(found) == 3
    ray = cluster("well", "late")
    ray.seconds = 400.0
    left = [0]
    ray.is_deadly = lambda task: bool(left) and left.pop() == task
    _, found = run(ray, range(3), 1)  # it was there a minute ago
    assert len(found) == 3


@pytest.mark.parametrize(
    ("memory", "nodes", "asked"),
    [
        (0, [100], None),
        (50, [100, 20], 50),
        (50, [40, 20], 40),  # one worker is always tried
        (50, [None], None),  # a node that does not say
        (50, [], None),
    ],
)
def test_memory_is_asked_for_as_far_as_a_node_has_it(memory, nodes, asked, cluster):
    known = [{"Alive": True, "Resources": {} if size is None else {"memory": float(size)}} for size in nodes]
    gone = {"Alive": False, "Resources": {"memory": 1000.0}}
    ray = cluster("well", nodes=[*known, gone])
    run(ray, [1], 1, memory=memory)
    (options,) = ray.options
    assert options.pop("memory", None) == asked
    assert options == {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}


def test_numbers_of_workers(cluster):
    with pytest.raises(ValueError, match=r"^workers: expected 1 or more, got 0$"):
        RayExecutor(0)
    assert RayExecutor(1).workers == 1
    everyone = RayExecutor()
    everyone._ray = cluster("well")
    assert everyone.workers == 4
