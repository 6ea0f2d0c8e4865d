"""numba's compiler as netweight uses it: nogil, cached on disk, sums free to be vectorised but never to ignore NaN."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache

__all__ = ["compiled", "compiled_exactly", "compiled_for_finite"]

F = TypeVar("F", bound=Callable[..., object])

# Sums may be split over vector lanes (reassoc, contract) and the sign of zero may be lost in them; NaN and Inf keep
# their meaning, since chunks that hold them are found by their sums.
_FASTMATH = {"reassoc", "contract", "nsz"}


def _digest_of_sources() -> str:
    """Hexadecimal, of all that is compiled into loops: they inline one another and hold constants of the seams."""
    digest = hashlib.sha256(llvmlite.__version__.encode())
    for package in ("netweight.kernels", "netweight.kernels.cpu"):
        folder = files(package)
        sources = {file.name: file for file in folder.iterdir() if file.name.endswith(".py")} if folder.is_dir() else {}
        for name, file in sorted(sources.items()):
            source = file.read_bytes()
            digest.update(f"{package} {name} {len(source)}\n".encode() + source)
    return digest.hexdigest()[:12]


_SOURCES = _digest_of_sources()  # now, not at the first call: what is imported is what was read


class _LoopCacheFiles(CompileResultCacheImpl):
    """Names of cached code that end with the digest of the sources.

    numba itself only looks at the file of the loop, and would run old code after a change in a loop that it inlines.
    """

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        base: str = super().get_filename_base(fullname, abiflags)  # type: ignore[no-untyped-call]
        return f"{base}-{_SOURCES}"


class _LoopCache(FunctionCache):
    """numba's cache of one loop, where numba would put it, without what other sources have left there."""

    _impl_class = _LoopCacheFiles

    def save_overload(self, sig: Any, data: Any) -> None:
        super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        loop = self._impl.filename_base.partition("-")[0]
        for file in Path(self.cache_path).glob(f"{loop}-*.nb[ci]"):
            if f"-{_SOURCES}." not in file.name:
                with suppress(OSError):  # another process uses it, or has removed it
                    file.unlink()


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
    loop: Any = numba.njit(nogil=True, fastmath=fastmath, error_model="numpy", forceinline=True)(function)
    try:
        cache = _LoopCache(function)  # type: ignore[no-untyped-call]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        numba.config.CACHE_DIR = _private_folder()  # type: ignore[attr-defined]
        cache = _LoopCache(function)  # type: ignore[no-untyped-call]
    loop._cache = cache  # noqa: SLF001 - what cache=True sets to numba's own
    result: F = loop
    return result


def compiled(function: F) -> F:
    """`function` compiled at its first call, or loaded from the cache of an earlier run."""
    return _compile(function, _FASTMATH)


def compiled_for_finite(function: F) -> F:
    """The same for a loop that is only ever given finite values, so that minima are found lane by lane."""
    return _compile(function, _FASTMATH | {"nnan", "ninf"})


def compiled_exactly(function: F) -> F:
    """The same with every operation as it is written: results are those of numpy's elementwise arithmetic."""
    return _compile(function, set())
