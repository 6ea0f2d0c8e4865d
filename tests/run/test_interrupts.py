"""Ctrl-C at every moment at which a lock of the pool has just been taken: the run ends, and no thread waits on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from netweight.run.interrupts import held_back
from netweight.run.threads import ThreadExecutor, in_order

# A handler that raises is called between the taking of a lock and the block that gives it back.
SCRIPT = """
import signal, sys, threading, time
from netweight.run.threads import ThreadExecutor

at, taken = int(sys.argv[1]), 0
plain = threading.Condition.__enter__

def enter(self):
    global taken
    held = plain(self)
    if threading.get_ident() == threading.main_thread().ident:
        taken += 1
        if taken == at:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0)
    return held

threading.Condition.__enter__ = enter
tasks = iter(range(40))
try:
    for _ in ThreadExecutor(2).run(lambda: next(tasks, None), lambda task: time.sleep(0.001)):
        pass
    print("ended")
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 7, 9, 14, 30, 10**6])
def test_no_lock_is_left_taken(at):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(at)], check=True, capture_output=True, text=True, timeout=20
    )
    assert done.stdout == ("ended\n" if at == 10**6 else "stopped\n"), done.stderr


def test_a_signal_is_heard_when_the_block_ends():
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
        with held_back():
            pass
        signal.raise_signal(signal.SIGINT)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_done():
    found = []

    def look():
        with held_back():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_in_the_order_of_the_tasks(workers):
    def work(task):
        threading.Event().wait(0.002 * (task % 3))
        return task * task

    assert list(in_order(range(20), work, ThreadExecutor(workers))) == [n * n for n in range(20)]
