"""Written bytes brought to the disk while more are written, so that little is left to wait for at the end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

__all__ = ["Flusher"]

_SHARE = 96 << 20  # bytes: far less than the disk takes in a second, far more than a call costs


class Flusher:
    """A thread that calls `sync` with the number of the file written most since its last time, whenever `share` bytes
    are waiting; it ends with `stop`.

    An OSError of `sync` is kept: the system reports lost bytes once. `check` raises it, and nothing more is synced.
    """

    def __init__(self, sync: Callable[[int], None], share: int = _SHARE) -> None:
        self._sync = sync
        self._share = share
        self._waiting: Counter[int] = Counter()
        self._total = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="netweight-flush", daemon=True)
        self._thread.start()

    def add(self, number: int, size: int) -> None:
        """`size` more bytes were written to file `number`; any thread may say so."""
        with self._changed:
            self._waiting[number] += size
            self._total += size
            if self._total >= self._share:
                self._changed.notify()

    def check(self) -> None:
        """Raise the OSError that a sync ended with."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the thread after the sync under way; stopping twice is allowed."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._total < self._share and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                ((number, size),) = self._waiting.most_common(1)
                del self._waiting[number]
                self._total -= size
            try:
                self._sync(number)
            except OSError as error:
                self._failure = error
                return
