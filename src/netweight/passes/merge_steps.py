"""The steps of a merge: a worker looks at one stretch of one parameter, writes it, or copies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import xxhash

from netweight.dtypes import DTYPES
from netweight.kernels.arrays import Array
from netweight.kernels.finite import count_nonfinite
from netweight.merging.course import Copy, Look, Write, is_write, makes_native, takes_native
from netweight.merging.target import Target, prefetch
from netweight.passes.far_work import FarWork
from netweight.passes.merge_blocks import BlockReader

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["Sink", "Step", "StepWorker", "Written", "tensor_digest"]


class Sink(Protocol):
    """Where the output's bytes go; called from any thread, or from other processes where it pickles."""

    def write(self, name: str, offset: int, data: memoryview) -> int | None:
        """Take bytes of the tensor `name` from byte `offset` of its data. A sink that only compares returns how many
        elements differ from its own.
        """
        ...

    def settle(self, name: str) -> None:
        """Called by a process on another machine when it has written its part of tensor `name`: those bytes must
        outlive the process from then on.
        """
        ...


@dataclass(frozen=True)
class Step:
    """Stretch `number` of a target, its elements `start` to `stop`, and the act to perform on them."""

    target: Target
    number: int
    start: int
    stop: int
    act: Look | Write | Copy

    @property
    def span(self) -> tuple[int, int]:
        """(start, stop)."""
        return self.start, self.stop


@dataclass(frozen=True)
class Written:
    """The result of writing a stretch: digests of the output and of every input that was read, how many elements are
    not finite, and how many differ from what a sink that compares has.
    """

    digest: bytes
    inputs: tuple[bytes | None, ...]
    nonfinite: int
    differing: int


@dataclass(frozen=True)
class _Identity:
    """Writes one input in another element type."""

    inputs: tuple[int, ...]
    whole_rows = False

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        out[:] = x[0]


def tensor_digest(stretches: Sequence[bytes]) -> str:
    """The digest of a tensor from those of its stretches in order: XXH3-128 over the XXH3-128 of each, in hex."""
    return xxhash.xxh3_128_hexdigest(b"".join(stretches))


class StepWorker(FarWork):
    """Performs steps; every thread has buffers of its own."""

    def __init__(self, kernels: MergeKernels, sink: Sink | None) -> None:
        self._kernels = kernels
        self._sink = sink
        super().__init__()

    def __call__(self, steps: Sequence[Step]) -> list[Any]:
        """Do some steps; return the statistics of each look, and what was `Written`."""
        return [self._do(step) for step in steps]

    def _do(self, step: Step) -> Any:
        act = step.act
        if self.far:  # this process has not announced what will be read
            used = (act.input,) if isinstance(act, Copy) else act.inputs if is_write(act) else None
            prefetch(step.target, used, step.start, step.stop)
        reader = BlockReader(self._kernels, self._own)
        if not isinstance(act, Copy):
            if not is_write(act):
                return self._look(reader, step, cast("Look", act))
            written = self._write(reader, step, act)
        elif all(piece.tensor.dtype == step.target.dtype for piece in step.target.inputs[act.input].pieces):
            written = self._copy(reader, step, act.input)
        else:
            written = self._write(reader, step, _Identity((act.input,)))
        if self.far and self._sink is not None:
            self._sink.settle(step.target.name)
        return written

    def _look(self, reader: BlockReader, step: Step, look: Look) -> Any:
        inputs = range(len(step.target.inputs))
        statistics = look.empty(len(inputs))
        fused = look if takes_native(look) else None
        native = None if fused is None else reader.native(step.target, inputs, whole_rows=look.whole_rows)
        for start, x in reader.blocks(step.target, step.span, inputs, native, whole_rows=look.whole_rows):
            if fused is None or native is None:
                look.add(statistics, x, start, self._kernels)
            else:
                fused.add_native(statistics, x, native, start, self._kernels)
        return statistics

    def _write(self, reader: BlockReader, step: Step, write: Write) -> Written:
        target = step.target
        assert target.subject is not None and self._sink is not None  # noqa: S101, PT018 - what has none is copied
        inputs = tuple(range(len(target.inputs))) if write.inputs is None else write.inputs
        fused = write if makes_native(write) else None
        native = None if fused is None else reader.native(target, inputs, whole_rows=write.whole_rows)
        native = native if native in {target.dtype, DTYPES["F32"]} else None
        hashes = [xxhash.xxh3_128() for _ in inputs]
        digest = xxhash.xxh3_128()
        width = target.dtype.bits // 8
        nonfinite = differing = 0
        for start, x in reader.blocks(target, step.span, inputs, native, whole_rows=write.whole_rows, hashes=hashes):
            count = x.shape[1]
            packed = reader.buffer("packed", count * width)[: count * width]
            if fused is None or native is None:
                out = reader.buffer("out", count * x.itemsize).view(x.dtype)[:count]
                write.block(x, start, out, self._kernels)
                nonfinite += self._kernels.narrow(out, target.dtype, packed)
            elif native == target.dtype:
                nonfinite += fused.native_block(x, native, start, packed.view(x.dtype), self._kernels)
            else:
                out = reader.buffer("out", count * x.itemsize).view(x.dtype)[:count]
                fused.native_block(x, native, start, out, self._kernels)
                nonfinite += self._kernels.narrow(out, target.dtype, packed)
            digest.update(packed.data)
            differing += self._sink.write(target.name, start * width, packed.data) or 0
        read = dict(zip(inputs, (h.digest() for h in hashes), strict=True))
        return Written(digest.digest(), tuple(read.get(i) for i in range(len(target.inputs))), nonfinite, differing)

    def _copy(self, reader: BlockReader, step: Step, number: int) -> Written:
        """Write the input's bytes as they are."""
        assert self._sink is not None  # noqa: S101 - a course that writes has a sink
        target, bits = step.target, step.target.dtype.bits
        digest = xxhash.xxh3_128()
        nonfinite = differing = 0
        for start, raw in reader.stored(target.inputs[number], step.span, bits):
            digest.update(raw.data)
            nonfinite += count_nonfinite(raw, target.dtype)
            differing += self._sink.write(target.name, start * bits // 8, raw.data) or 0
        copied = digest.digest()
        inputs = tuple(copied if i == number else None for i in range(len(target.inputs)))
        return Written(copied, inputs, nonfinite, differing)
