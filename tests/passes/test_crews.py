"""How many tasks run at a time, by the memory that they take."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from netweight.passes.crews import crews, run_crew
from netweight.run.threads import ThreadExecutor


@dataclass(frozen=True)
class Task:
    name: str
    memory: int


TASKS = [Task("large", 900), Task("a", 100), Task("middle", 400), Task("b", 100), Task("huge", 5000)]


def test_as_many_as_fit_and_one_always():
    found = crews(TASKS, 100, 4, 1000)
    assert {n: [t.name for t in crew] for n, crew in found.items()} == {
        1: ["large", "huge"],
        2: ["middle"],
        4: ["a", "b"],
    }
    assert list(found) == [1, 2, 4]
    assert crews([], 100, 4, 1000) == {}
    assert crews(TASKS, 100, 4, 0) == {1: TASKS}


def test_no_more_run_at_a_time_than_the_crew_allows():
    running, most, lock = 0, 0, threading.Lock()

    def work(task):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1
        return task.memory

    tasks = [Task(str(n), n) for n in range(12)]
    options = {"name": lambda task: task.name, "note": print}
    found = list(run_crew(tasks, 2, ThreadExecutor(4), lambda _: work, None, **options))
    assert sorted((task.name, memory) for task, memory in found) == sorted((str(n), n) for n in range(12))
    assert most <= 2
