"""Loops compiled before they are called, by several processes at once: most of the work holds the interpreter's lock.

`loops.json` says which loops a job calls for tensors of an element type; `benchmarks/list_loops.py` makes it from runs
of all jobs. What it lacks is compiled at its first call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.resources import files

from netweight.errors import printable
from netweight.kernels.cpu import object_files
from netweight.kernels.cpu.sources import Kind

__all__ = ["Entry", "compile_ahead", "every", "wanted"]

Entry = tuple[str, tuple[Kind, ...]]
"""A loop's name, and the kinds of arguments that it is compiled for."""

_PROCESSES = 4  # each takes a quarter of a gigabyte


@cache
def _listed() -> dict[str, list[Entry]]:
    """{"scan F32": its loops}."""
    held = json.loads(files("netweight.kernels.cpu").joinpath("loops.json").read_text(encoding="utf-8"))
    return {key: [(name, tuple(kinds.split())) for name, kinds in entries] for key, entries in held.items()}


def wanted(job: str, dtypes: Iterable[str]) -> list[Entry]:
    """The loops that a job calls for tensors of these element types, as far as the list knows."""
    return list(dict.fromkeys(entry for dtype in dtypes for entry in _listed().get(f"{job} {dtype}", ())))


def every() -> list[Entry]:
    """All loops of all jobs."""
    return list(dict.fromkeys(entry for entries in _listed().values() for entry in entries))


def compile_ahead(entries: Collection[Entry], note: Callable[[str], None]) -> int:
    """Compile what of `entries` no folder has; returns how many."""
    missing = [entry for entry in entries if not object_files.there(*entry)]
    if not missing:
        return 0
    if not object_files.can_keep():  # each process would compile for itself
        note(
            f"{printable(str(object_files.folders()[-1]))} takes no files, so that every run compiles its loops again;"
            " name another folder by NUMBA_CACHE_DIR"
        )
        return 0
    note(f"compiling once for this machine: {len(missing)} {'loop' if len(missing) == 1 else 'loops'}")
    count = min(_PROCESSES, os.cpu_count() or 1, len(missing))
    starts = [len(missing) * n // count for n in range(1, count)]
    helpers = [helper for at in starts if (helper := _start(missing[at:] + missing[:at])) is not None]
    try:
        _compile(missing)
        for name, kinds in missing:
            object_files.wait_for(name, kinds)
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()
    return len(missing)


def _start(entries: Sequence[Entry]) -> subprocess.Popen[bytes] | None:
    """A process that compiles those of `entries` that no other one has begun; None where none can be started, and this
    process compiles all.
    """
    # -P: nothing is imported from the current folder, which may be that of a model
    command = [sys.executable, "-P", "-c", "from netweight.kernels.cpu.ahead import take; take()"]
    try:
        helper = subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    assert helper.stdin is not None  # noqa: S101 - it was asked for
    with suppress(BrokenPipeError):  # it has ended already
        helper.stdin.write(json.dumps(entries).encode())
        helper.stdin.close()
    return helper


def take() -> None:
    """Compile the entries that stdin has, as JSON."""
    _compile([(name, tuple(kinds)) for name, kinds in json.load(sys.stdin)])


def _compile(entries: Iterable[Entry]) -> None:
    for name, kinds in entries:
        if not object_files.there(name, kinds) and not object_files.claimed(name, kinds):
            module, _, function = name.partition(".")
            loop = getattr(import_module(f"netweight.kernels.cpu.{module}"), function)
            loop.prepare(kinds)
