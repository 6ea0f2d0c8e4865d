"""Retries of what a network made fail: how often, and how long to wait in between."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from netweight.errors import ReadError, printable

__all__ = ["ATTEMPTS", "Passing", "Patience", "retry_after", "retry_passing"]

T = TypeVar("T")

ATTEMPTS = 6
_FIRST_WAIT = 0.5  # seconds; doubled each time
_LONGEST_WAIT = 8.0
_LONGEST_ASKED = 300.0  # that a server may ask for; beyond it, the user should know and decide


class Passing(Exception):  # noqa: N818 - it is no error yet
    """A failure that may pass; `wait` is how many seconds the server asked to be left alone, None where it did not."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Patience:
    """Counts failures in a row and waits between them; `stop` ends the waiting early."""

    def __init__(self, what: str, stop: threading.Event | None = None, attempts: int = ATTEMPTS) -> None:
        self._what = what
        self._stop = stop or threading.Event()
        self._attempts = attempts
        self._failures = 0

    def renew(self) -> None:
        """Something went well: failures are counted anew."""
        self._failures = 0

    def wait(self, failure: Passing) -> None:
        """Wait after `failure`; raises ReadError where it was one too many, or where the wait would be too long."""
        self._failures += 1
        why = printable(str(failure), 300)
        if self._failures >= self._attempts:
            raise ReadError(f"{self._what}: {why}, {self._failures} times in a row; try again later")
        if failure.wait is not None and failure.wait > _LONGEST_ASKED:
            raise ReadError(f"{self._what}: {why}; the server asks to wait {failure.wait:.0f} s: try again then")
        # Spread, so that several readers that failed together do not come back together.
        usual = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (self._failures - 1)) * random.uniform(0.75, 1.25)  # noqa: S311
        if self._stop.wait(usual if failure.wait is None else failure.wait + 0.05):
            raise ReadError(f"{self._what}: is closed; open the checkpoint again")


def retry_passing(what: str, call: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """The result of `call`, retried where it raises Passing; ReadError beginning with `what` after `attempts`."""
    patience = Patience(what, attempts=attempts)
    while True:
        try:
            return call()
        except Passing as failure:
            patience.wait(failure)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header Retry-After asks for (a number or a date, RFC 9110 10.2.3); None without a valid one."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal() and len(text) < 10:
        return float(text)
    from datetime import UTC, datetime  # noqa: PLC0415 - rarely a date
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    now = datetime.now(UTC)
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds())
