"""Limits of computing time and of memory that hold on every machine, whatever else it does."""

from __future__ import annotations

import time

_REFERENCE = 0.03
"""CPU seconds of the loop below on the machine on which limits are set."""


def _loop():
    began = time.thread_time()
    total = 0
    for i in range(1_000_000):
        total += i
    return time.thread_time() - began


def slowness():
    """How many times longer a loop takes here and now than where limits are set, and at least 1.

    A limit of n seconds is `n * slowness()` of time.thread_time(), or of a whole program's time.process_time(): they
    leave out what others take.
    """
    return max(1.0, max(_loop() for _ in range(3)) / _REFERENCE)


PEAK = """
import resource

def peak():
    '''Most memory of this program so far, in KiB.'''
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
"""For programs that tests start. On Linux, `ru_maxrss` of a program begins with the size of what started it: a program
that takes less than the tests do would seem to take nothing.
"""
