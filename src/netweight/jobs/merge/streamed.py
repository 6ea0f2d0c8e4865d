"""The model of a merge as a checkpoint that is computed where it is read, so that it need not be written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.checkpoint.tensor import Checkpoint, CheckpointFile, Stretch, Tensor
from netweight.jobs.inputs import identity
from netweight.jobs.merge.plan import Prepared, course_of
from netweight.merging.course import Copy, Write
from netweight.merging.recipe.recipe import write_recipe
from netweight.merging.target import Target
from netweight.passes.merge_blocks import BLOCK, BlockReader
from netweight.run.plan import digest_of

if TYPE_CHECKING:
    from netweight.jobs.merge.targets import MergePlan
    from netweight.kernels.merging import MergeKernels

__all__ = ["MergedTensor", "streamed"]

_FORMAT = "merge"


@dataclass(frozen=True)
class MergedTensor(Tensor):
    """A parameter of a merge: `write` of the inputs of `target`, rounded to its type, block by block."""

    target: Target
    write: Write | Copy
    kernels: MergeKernels

    @property
    def _inputs(self) -> tuple[int, ...]:
        if isinstance(self.write, Copy):
            return (self.write.input,)
        return tuple(range(len(self.target.inputs))) if self.write.inputs is None else self.write.inputs

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.target.inputs[self._inputs[0]].pieces[0].tensor.where

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """See Tensor."""
        pieces = (piece for i in self._inputs for piece in self.target.inputs[i].pieces)
        held = (part for piece in pieces for part in piece.tensor.stored_parts)
        return tuple({(part.where, part.name): part for part in held}.values())

    @property
    def file_bytes(self) -> int:
        """See Tensor."""
        return sum(self.target.inputs[i].nbytes for i in self._inputs)

    @property
    def scratch(self) -> int:
        """See Tensor."""
        width = 8 if self.target.subject is not None and self.target.subject.bits == 64 else 4
        below = max(piece.tensor.scratch for i in self._inputs for piece in self.target.inputs[i].pieces)
        return BLOCK * width * (len(self._inputs) + 3) + below

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        for i in self._inputs:
            first = 0
            for piece in self.target.inputs[i].pieces:
                a, b = max(start, first), min(start + count, first + piece.count)
                if a < b:
                    yield from piece.tensor.bytes_of(piece.start + a - first, b - a)
                first += piece.count

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        count, target, width = self.count_in(start, out), self.target, self.dtype.bits // 8
        with _room() as own:
            reader = BlockReader(self.kernels, own)
            span = start, start + count
            copied = target.inputs[self.write.input] if isinstance(self.write, Copy) else None
            if copied is not None and all(piece.tensor.dtype == self.dtype for piece in copied.pieces):
                for at, raw in reader.stored(copied, span, self.dtype.bits):
                    out[(at - start) * width :][: len(raw)] = raw.data
                return
            for at, x in reader.blocks(target, span, self._inputs, None, whole_rows=False):
                some = x.shape[1]
                if isinstance(self.write, Copy):
                    wide = x[0]  # in another element type
                else:
                    wide = reader.buffer("merged", some * x.itemsize).view(x.dtype)[:some]
                    self.write.block(x, at, wide, self.kernels)
                packed = np.frombuffer(out, np.uint8)[(at - start) * width : (at - start + some) * width]
                self.kernels.narrow(wide, self.dtype, packed)


class _Rooms(threading.local):
    """A thread's buffers for merges within merges, by depth."""

    def __init__(self) -> None:
        self.depth = 0
        self.held: list[Any] = []


_rooms = _Rooms()


@contextmanager
def _room() -> Iterator[threading.local]:
    """Buffers that no other merge uses that is under way in this thread."""
    if len(_rooms.held) == _rooms.depth:
        _rooms.held.append(threading.local())
    _rooms.depth += 1
    try:
        yield _rooms.held[_rooms.depth - 1]
    finally:
        _rooms.depth -= 1


def streamed(prepared: Prepared) -> Checkpoint | None:
    """The merge as a checkpoint of MergedTensors under its recipe's name, where its method needs no look at a whole
    parameter, and its files are those of one input that lies here; else None. The CPU computes it.

    What it reads stays open as long as the inputs.
    """
    plan, recipe = prepared.plan, prepared.plan.recipe
    plain = recipe.tokenizer is None and recipe.chat_template is None and plan.tokenizer_from == plan.config_from
    here = all(c.location is not None or c.made_of or c.format == _FORMAT for c in plan.checkpoints)
    if not plain or not here:
        return None
    writes = {target.name: _write_of(target) for target in plan.targets}
    if None in writes.values():
        return None
    from netweight.kernels.cpu.merging import CpuMergeKernels

    kernels = CpuMergeKernels()
    tensors: dict[str, Tensor] = {
        t.name: MergedTensor(t.name, t.shape, t.dtype, t, write, kernels)
        for t in plan.targets
        if (write := writes[t.name]) is not None
    }
    outline = plan.outline(plan.config, recipe.name or "")
    return Checkpoint(
        outline.ref,
        tensors,
        format=_FORMAT,
        files=(CheckpointFile(outline.ref, prepared.written, _digest(prepared, plan), prepared.digest),),
        config=outline.config,
        sources=tuple(source for checkpoint in plan.checkpoints for source in checkpoint.sources),
        place=outline.place,
    )


def _digest(prepared: Prepared, plan: MergePlan) -> str:
    """What tells one such merge from another: as headers do, it does not depend on where files lie."""
    options = prepared.options
    files = [identity(checkpoint)["files"] for checkpoint in plan.checkpoints]
    return digest_of([write_recipe(plan.recipe), files, options.vocab, options.missing, options.seed])


def _write_of(target: Target) -> Write | Copy | None:
    """The write of a course without looks that takes blocks of any size; None for others."""
    course = course_of(target)
    try:
        next(course)
    except StopIteration as end:
        act = end.value
        return act if isinstance(act, Copy) or not act.whole_rows else None
    course.close()
    return None
