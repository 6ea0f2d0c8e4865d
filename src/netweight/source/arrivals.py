"""Sources that came from another process, each opened once here however many tensors and tasks name it."""

from __future__ import annotations

import atexit
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["open_once"]

S = TypeVar("S")

_MOST = 4096  # a source that is not read from holds a few hundred bytes
_known: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.Lock()
atexit.register(_known.clear)  # destructors need what a module holds, and the end takes that away first


def open_once(key: Hashable, make: Callable[[], S]) -> S:
    """The source of this key, from `make` where there is none yet; those longest not asked for are forgotten."""
    with _lock:
        if key not in _known:
            _known[key] = make()
        _known.move_to_end(key)
        while len(_known) > _MOST:
            _known.popitem(last=False)
        source: S = _known[key]
        return source
