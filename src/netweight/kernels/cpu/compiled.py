"""numba's compiler as netweight uses it: nogil, cached on disk, sums free to be vectorised but never to ignore NaN."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

__all__ = ["compiled", "compiled_for_finite"]

F = TypeVar("F", bound=Callable[..., object])

# Sums may be split over vector lanes (reassoc, contract) and the sign of zero may be lost in them; NaN and Inf keep
# their meaning, since chunks that hold them are found by their sums.
_FASTMATH = {"reassoc", "contract", "nsz"}


def _private_folder() -> str:
    """A cache folder of this user's own under the temporary folder; never one that somebody else could have filled."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"netweight-numba-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    ours = not hasattr(os, "getuid") or (state.st_uid == owner and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return str(folder) if ours and stat.S_ISDIR(state.st_mode) else tempfile.mkdtemp(prefix="netweight-numba-")


def _compile(function: F, fastmath: set[str]) -> F:
    # Inlined always: a loop that calls another sums in one order when it was just compiled and in another when it comes
    # from the cache, since each copy of the callee is optimised for itself.
    decorator: Any = numba.njit(nogil=True, cache=True, fastmath=fastmath, error_model="numpy", forceinline=True)
    try:
        found: F = decorator(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        numba.config.CACHE_DIR = _private_folder()  # type: ignore[attr-defined]
        found = decorator(function)
    return found


def compiled(function: F) -> F:
    """`function` compiled at its first call, or loaded from the cache of an earlier run."""
    return _compile(function, _FASTMATH)


def compiled_for_finite(function: F) -> F:
    """The same for a loop that is only ever given finite values, so that minima are found lane by lane."""
    return _compile(function, _FASTMATH | {"nnan", "ninf"})
