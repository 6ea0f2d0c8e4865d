"""What every executor does: that of one machine's threads, and that of a cluster's processes."""

from __future__ import annotations

import threading
import time
from collections import deque

import pytest

from netweight.run.ray_executor import AHEAD
from netweight.run.threads import ThreadExecutor

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed file <_io.* name='/dev/null'.*:ResourceWarning"),  # of Ray itself
]


def of(count):
    """A function that gives the numbers up to `count`, then None."""
    tasks = deque(range(count))
    return lambda: tasks.popleft() if tasks else None


def nothing_left():
    return not [t for t in threading.enumerate() if t.name.startswith("netweight_")]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_task_runs_once_by_threads(workers):
    assert dict(ThreadExecutor(workers).run(of(100), lambda n: n * n)) == {n: n * n for n in range(100)}
    assert nothing_left()


def test_every_task_runs_once(executor_of):
    assert dict(executor_of(3).run(of(100), lambda n: n * n)) == {n: n * n for n in range(100)}
    assert nothing_left()


def test_as_many_at_a_time_as_there_are_workers(executor_of, tmp_path):
    folder = str(tmp_path)

    def work(n):
        from pathlib import Path

        (Path(folder) / f"here{n}").touch()
        end = time.monotonic() + 300
        while len(list(Path(folder).iterdir())) < 3:  # nobody leaves before all are here
            assert time.monotonic() < end
            time.sleep(0.01)

    assert len(list(executor_of(3).run(of(12), work))) == 12


def test_no_more_at_a_time_than_there_are_workers():
    lock, under_way, most = threading.Lock(), 0, 0

    def work(_):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1

    assert len(list(ThreadExecutor(3).run(of(12), work))) == 12
    assert most <= 3


def test_a_result_may_bring_new_tasks(executor_of):
    """None means nothing now: it is asked again after each result."""
    todo, seen = deque([3]), []
    for task, result in executor_of(3).run(lambda: todo.popleft() if todo else None, lambda n: n - 1):
        seen.append(task)
        if result:
            todo.extend([result, result])
    assert sorted(seen) == [1, 1, 1, 1, 2, 2, 3]


def test_tasks_are_handed_out_only_a_few_ahead(executor_of):
    asked = 0

    def endless():
        nonlocal asked
        asked += 1
        return asked

    run = executor_of(3).run(endless, lambda n: n)
    for _ in range(10):
        next(run)
    assert asked <= 10 + AHEAD * 3 + 4
    run.close()
    assert nothing_left()


def test_an_error_is_raised_after_the_tasks_under_way(executor_of, tmp_path):
    folder = str(tmp_path)

    def work(n):
        from pathlib import Path

        if n == 0:
            raise KeyError("zero")
        time.sleep(0.05)
        (Path(folder) / str(n)).touch()

    with pytest.raises(KeyError, match="zero"):
        list(executor_of(3).run(of(50), work))
    count = len(list(tmp_path.iterdir()))
    assert count <= AHEAD * 3
    time.sleep(0.15)
    assert len(list(tmp_path.iterdir())) == count
    assert nothing_left()


def test_nothing_to_do(executor_of):
    assert list(executor_of(3).run(lambda: None, lambda n: n)) == []


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers(workers):
    from netweight.run.ray_executor import RayExecutor

    for kind in (ThreadExecutor, RayExecutor):
        with pytest.raises(ValueError, match=f"workers: expected 1 or more, got {workers}"):
            kind(workers)
