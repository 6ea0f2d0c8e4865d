"""The executor of one machine."""

from __future__ import annotations

import threading
import time
from collections import deque

import pytest

from netweight.run.threads import ThreadExecutor


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_task_runs_once(workers):
    tasks = deque(range(100))
    found = dict(ThreadExecutor(workers).run(lambda: tasks.popleft() if tasks else None, lambda n: n * n))
    assert found == {n: n * n for n in range(100)}
    assert not [t for t in threading.enumerate() if t.name.startswith("netweight_")]


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_at_a_time_as_there_are_workers(workers):
    lock, under_way, most = threading.Lock(), 0, 0
    everyone = threading.Barrier(workers)

    def work(_):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        everyone.wait(30)  # broken, with an error, unless all workers are here at once
        with lock:
            under_way -= 1

    tasks = deque(range(4 * workers))
    assert len(list(ThreadExecutor(workers).run(lambda: tasks.popleft() if tasks else None, work))) == 4 * workers
    assert most == workers


def test_a_result_may_bring_new_tasks():
    """None means nothing now: it is asked again after each result."""
    todo, seen = deque([3]), []
    for task, result in ThreadExecutor(2).run(lambda: todo.popleft() if todo else None, lambda n: n - 1):
        seen.append(task)
        if result:
            todo.extend([result, result])
    assert sorted(seen) == [1, 1, 1, 1, 2, 2, 3]


def test_tasks_are_handed_out_only_a_few_ahead():
    asked = 0

    def endless():
        nonlocal asked
        asked += 1
        return asked

    run = ThreadExecutor(2).run(endless, lambda n: n)
    for _ in range(10):
        next(run)
    assert asked <= 10 + 3 + 3
    run.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("netweight_")]


def test_an_error_is_raised_after_the_tasks_under_way():
    ended = []

    def work(n):
        if n == 0:
            raise KeyError("zero")
        time.sleep(0.05)
        ended.append(n)

    tasks = deque(range(50))
    with pytest.raises(KeyError, match="zero"):
        list(ThreadExecutor(2).run(lambda: tasks.popleft() if tasks else None, work))
    count = len(ended)
    assert count <= 4
    time.sleep(0.15)
    assert len(ended) == count
    assert not [t for t in threading.enumerate() if t.name.startswith("netweight_")]


def test_nothing_to_do():
    assert list(ThreadExecutor(3).run(lambda: None, lambda n: n)) == []


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers(workers):
    with pytest.raises(ValueError, match=f"workers: expected 1 or more, got {workers}"):
        ThreadExecutor(workers)
