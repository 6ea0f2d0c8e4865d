"""Answers that arrive too slowly, by a clock of the test's."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from netweight.source import least_rate
from netweight.source.retry import Passing


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(least_rate, "time", SimpleNamespace(monotonic=lambda: self.now))

    def chunks(self, *parts: tuple[float, int]) -> Iterator[bytes]:
        """(seconds, bytes): chunks that come so much later than the one before."""
        for seconds, size in parts:
            self.now += seconds
            yield bytes(size)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    "parts",
    [
        [(59.0, 1)],  # a minute is not over
        [(60.0, 60 << 10)],  # exactly the least
        [(60.0, 60 << 10), (59.9, 0)],
        [(60.0, 60 << 10), (60.0, 60 << 10)],
        [(30.0, 0), (30.0, 60 << 10)],
    ],
)
def test_answers_at_the_least_rate_pass(clock, parts) -> None:
    assert [len(chunk) for chunk in least_rate.arriving(clock.chunks(*parts))] == [size for _, size in parts]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([(60.0, (60 << 10) - 1)], r"61439 bytes in 60 seconds"),
        ([(30.0, 100), (30.0, 100)], r"200 bytes in 60 seconds"),
        ([(1.0, 1 << 30), (59.0, 0), (60.0, 5)], r"5 bytes in 60 seconds"),  # each minute for itself
        ([(120.0, 100 << 10)], r"102400 bytes in 120 seconds"),
    ],
)
def test_slower_ones_are_given_up(clock, parts, said) -> None:
    with pytest.raises(Passing, match=rf"^the server sent {said}, expected 1024 a second$"):
        for _ in least_rate.arriving(clock.chunks(*parts)):
            pass
