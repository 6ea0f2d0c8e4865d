"""Machine code of loops that a wheel carries, for processors of a usual kind: whoever has one compiles nothing.

`tools/prebuild.py` makes it. Code that runs here but was made of other sources, or needs another numba's runtime, is
in no folder that is looked into.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import llvmlite.binding as llvm

__all__ = ["FOLDER", "digest_of", "folder", "target"]

FOLDER = Path(__file__).parent / "prebuilt"

_V3 = ("avx2", "bmi", "bmi2", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sahf", "sse4.2", "xsave")
_TARGETS = (
    # the beginning of LLVM's triple, the processor that code is made for, and what one must have beyond the least
    ("x86_64-", "x86-64-v3", _V3),  # Intel from Haswell (2013), AMD from Excavator (2015)
    ("aarch64-", "generic", ("neon",)),
    ("arm64-apple-", "apple-m1", ("neon",)),
)


def digest_of(told: str) -> str:
    """Hexadecimal, of `told` and of all sources that are compiled into loops, as they inline one another and hold
    constants of the seams.
    """
    digest = hashlib.sha256(told.encode())
    for package in ("netweight.kernels", "netweight.kernels.cpu"):
        inside = files(package)
        sources = {file.name: file for file in inside.iterdir() if file.name.endswith(".py")} if inside.is_dir() else {}
        for name, file in sorted(sources.items()):
            source = file.read_bytes()
            digest.update(f"{package} {name} {len(source)}\n".encode() + source)
    return digest.hexdigest()[:12]


@cache
def target() -> tuple[str, str] | None:
    """(the processor that code is made for, the name of its folder) for a machine like this one, None where wheels
    carry none: its features are not all there, or it is of another kind.
    """
    triple = llvm.get_process_triple()
    features = llvm.get_host_cpu_features()
    for beginning, processor, needed in _TARGETS:
        if triple.startswith(beginning) and all(features.get(feature) for feature in needed):
            numba = ".".join(version("numba").split(".")[:2])
            return processor, f"{_system(triple)}-{processor}-numba-{numba}"
    return None


def _system(triple: str) -> str:
    """A triple without the system's version: that of macOS counts every release."""
    return triple.rstrip("0123456789.")


@cache
def folder() -> tuple[Path, str] | None:
    """(where the code for this machine lies, the digest in its files' names), None where there is none."""
    found = target()
    if found is None or not (FOLDER / found[1]).is_dir():
        return None
    return FOLDER / found[1], digest_of(found[1])
