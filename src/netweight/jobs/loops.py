"""Loops compiled before a job begins, where the CPU computes and they are not on the disk yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from netweight.dtypes import DType
from netweight.run.progress import Progress

if TYPE_CHECKING:
    from netweight.run.devices import Choice

__all__ = ["compile_first"]


def compile_first(jobs: Sequence[str], dtypes: Iterable[DType], choice: Choice, progress: Progress) -> None:
    """Compile what these jobs call for tensors of these types, by several processes, and say so: "scan " with
    a measure, "delta", "compare", "merge by norms", and "merge " with a method.
    """
    if choice.gpu:
        return
    from netweight.kernels.cpu.ahead import compile_ahead, wanted

    names = {dtype.name for dtype in dtypes}
    compile_ahead([entry for job in jobs for entry in wanted(job, sorted(names))], progress.note)
