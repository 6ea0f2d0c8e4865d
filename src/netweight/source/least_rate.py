"""A least rate for answers over HTTP: a server that sends a byte now and then would keep a program for ever."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from netweight.source.retry import Passing

__all__ = ["arriving", "least_rate"]

_LEAST = 1 << 10  # bytes a second that an answer must bring, over each _WINDOW of seconds
_WINDOW = 60.0


def arriving(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of an answer as they come; raises Passing where those of a minute make less than 1 KiB a second."""
    begun, got = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        got += len(chunk)
        if (seconds := time.monotonic() - begun) >= _WINDOW:
            if got < _LEAST * seconds:
                raise Passing(f"the server sent {got} bytes in {seconds:.0f} seconds, expected {_LEAST} a second")
            begun, got = time.monotonic(), 0


@contextmanager
def least_rate() -> Iterator[None]:
    """While it lasts, whatever huggingface_hub's connections read must arrive so."""
    from huggingface_hub import get_session  # noqa: PLC0415 - nothing of it is loaded for local files

    client = get_session()
    before = client.event_hooks
    client.event_hooks = {**before, "response": [*before["response"], _watch]}
    try:
        yield
    finally:
        client.event_hooks = before


def _watch(response: Any) -> None:
    """Put a watched stream in the place of the answer's own, before any of it is read."""
    own = response.stream
    library = sys.modules[type(response).__module__.partition(".")[0]]  # httpx or httpx2, as the release has it

    def close(_self: object) -> None:
        own.close()

    kind = type("Watched", (library.SyncByteStream,), {"__iter__": lambda _: arriving(own), "close": close})
    response.stream = kind()
