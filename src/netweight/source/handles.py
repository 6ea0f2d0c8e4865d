"""A bounded pool of open file handles: a model of hundreds of shards must not use up the process's descriptors."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["HandlePool"]

H = TypeVar("H")


@dataclass(slots=True)
class _Entry(Generic[H]):
    handle: H
    close: Callable[[H], None]
    users: int = 0
    retired: bool = False


class HandlePool(Generic[H]):
    """Handles by key, at most `limit` of them open while nobody uses more; the one longest unused is closed first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry[H]] = OrderedDict()
        self._abandoned: deque[Callable[[Hashable], bool]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def use(self, key: Hashable, open_handle: Callable[[], H], close_handle: Callable[[H], None]) -> Iterator[H]:
        """The handle of `key`, opened if need be; it stays open at least as long as the `with` block runs."""
        with self._lock:
            while self._abandoned:
                self._close_where(self._abandoned.popleft())
            entry = self._entries.get(key)
            if entry is None:
                self._make_room()
                entry = self._entries[key] = _Entry(open_handle(), close_handle)
            else:
                self._entries.move_to_end(key)
            entry.users += 1
        try:
            yield entry.handle
        finally:
            with self._lock:
                entry.users -= 1
                if entry.retired and not entry.users:
                    entry.close(entry.handle)

    def retire(self, wanted: Callable[[Hashable], bool]) -> None:
        """Close the handles whose key is `wanted`; one in use is closed when its last user is done."""
        with self._lock:
            self._close_where(wanted)

    def abandon(self, wanted: Callable[[Hashable], bool]) -> None:
        """Like `retire`, at the next use: takes no lock, so that a destructor may call it at any moment."""
        self._abandoned.append(wanted)

    def _close_where(self, wanted: Callable[[Hashable], bool]) -> None:
        for key in [key for key in self._entries if wanted(key)]:
            entry = self._entries.pop(key)
            entry.retired = True
            if not entry.users:
                entry.close(entry.handle)

    def _make_room(self) -> None:
        idle = (key for key, entry in self._entries.items() if not entry.users)
        for key in list(idle)[: max(0, len(self._entries) + 1 - self.limit)]:
            entry = self._entries.pop(key)
            entry.close(entry.handle)
