"""How many workers fit."""

from __future__ import annotations

import os

import psutil
import pytest

from netweight.errors import OptionError
from netweight.run import memory
from netweight.run.memory import FLOOR, available_cores, default_budget, fit_workers

MIB = 1 << 20


@pytest.mark.parametrize(
    ("wanted", "budget", "each", "workers"),
    [
        (1, FLOOR + 10, 10, 1),
        (5, FLOOR + 10, 10, 1),
        (5, FLOOR + 39, 10, 3),
        (2, FLOOR + 1000, 10, 2),
        (None, FLOOR + (1 << 40), 10, available_cores()),
        (None, FLOOR + 10, 10, 1),
    ],
)
def test_workers_that_fit(wanted, budget, each, workers):
    assert fit_workers(wanted, budget, each) == workers


def test_too_little_memory_says_how_much_is_enough():
    with pytest.raises(OptionError) as caught:
        fit_workers(None, 100 * MIB, 30 * MIB)
    need = (FLOOR + 30 * MIB) // MIB
    assert str(caught.value) == (
        f"--memory 100 MiB: this job needs at least {need} MiB for one worker; give --memory {need + 1}MiB"
    )
    assert fit_workers(None, (need + 1) * MIB, 30 * MIB) == 1


@pytest.mark.parametrize("wanted", [0, -3])
def test_no_workers(wanted):
    with pytest.raises(OptionError, match=f"--workers {wanted}: expected 1 or more"):
        fit_workers(wanted, None, 1)


def test_the_default_budget():
    assert default_budget() == min(1 << 30, psutil.virtual_memory().total // 4)


def test_a_small_machine(monkeypatch):
    pages = {"SC_PHYS_PAGES": 1 << 18, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.get, raising=False)
    assert default_budget() == 256 * MIB


def test_a_system_that_does_not_tell(monkeypatch):
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert default_budget() == 1 << 30
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(memory.os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1 byte"), (1024, "1024 bytes"), ((1 << 20) - 1, "1048575 bytes"), (10**7, "9 MiB")]
)
def test_what_was_asked_for_is_said_in_numbers_that_people_read(size, text):
    with pytest.raises(OptionError, match=rf"^--memory {text}: this job needs at least \d+ MiB"):
        fit_workers(None, size, 1 << 20)
