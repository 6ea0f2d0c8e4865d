"""The blocks of a merge: a worker reads, widens, looks at or writes one stretch of one parameter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import xxhash

from netweight.dtypes import DTYPES, DType
from netweight.errors import ReadError, printable
from netweight.kernels.finite import count_nonfinite
from netweight.merging.course import Copy, Look, NativeLook, NativeWrite, Write
from netweight.merging.target import Input, Target, prefetch
from netweight.passes.far_work import FarWork
from netweight.run.plan import STRETCH

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["BlockWorker", "Sink", "Step", "Written", "stretches_of", "tensor_digest", "working_bytes"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 16
"""Elements that are computed at a time; a multiple of the kernels' CHUNK."""

_NATIVE_BYTES = 16  # an input's block for every element of BLOCK: only tiles of it have to fit the first caches
_MOST_STRETCHES = 64  # of one parameter: what looks find in each is kept until all are done
_COPIED = 1 << 20  # bytes copied at a time
_WIDE = {32: DTYPES["F32"], 64: DTYPES["F64"]}


class Sink(Protocol):
    """Where the output's bytes go; called from any thread, or from other processes where it pickles."""

    def write(self, name: str, offset: int, data: memoryview) -> int | None:
        """Bytes of the tensor `name` from byte `offset` of its data. A sink that only compares says how many elements
        differ from what it has.
        """
        ...


@dataclass(frozen=True)
class Step:
    """Elements `start` to `stop` of a target, stretch `number` of it, and what is to be done with them."""

    target: Target
    number: int
    start: int
    stop: int
    act: Look | Write | Copy


@dataclass(frozen=True)
class Written:
    """What writing a stretch found: digests of the output and of every input that was read, how many elements are not
    finite, and how many differ from what a sink that compares has.
    """

    digest: bytes
    inputs: tuple[bytes | None, ...]
    nonfinite: int
    differing: int


@dataclass(frozen=True)
class _Identity:
    """One input in another element type."""

    inputs: tuple[int, ...]
    whole_rows = False

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:  # noqa: ARG002 - the protocol's
        out[:] = x[0]


def tensor_digest(stretches: Sequence[bytes]) -> str:
    """The digest of a tensor from those of its stretches in order: XXH3-128 over the XXH3-128 of each, in hex."""
    return xxhash.xxh3_128_hexdigest(b"".join(stretches))


def stretches_of(target: Target) -> list[tuple[int, int]]:
    """(start, stop) of the stretches of a target, fixed by its shape: whole rows, about STRETCH elements."""
    length = STRETCH * max(1, -(-target.size // (_MOST_STRETCHES * STRETCH)))
    if target.subject is not None:
        length = _in_rows(length, target.subject.cols, whole_rows=True)
    return [(start, min(start + length, target.size)) for start in range(0, max(target.size, 1), length)]


def _in_rows(length: int, cols: int, *, whole_rows: bool) -> int:
    return max(1, length // max(cols, 1)) * max(cols, 1) if whole_rows else length


def working_bytes(targets: Sequence[Target]) -> int:
    """Memory that one worker takes at most, in bytes: blocks of all inputs, wide or native, and what looks count."""
    most = 0
    for target in targets:
        if target.subject is None:
            continue
        rows = len(target.inputs)
        wide = max(BLOCK, min(target.subject.cols, target.size)) * ((rows + 3) * target.subject.bits // 8 + 8)
        native = _NATIVE_BYTES * BLOCK * (rows + 1)
        # counts of 16 bits under two prefixes: those of the stretch under way, and of one that waits to be merged
        looks = 2 * 2 * target.subject.models * 65536 * 8
        most = max(most, max(wide, native) + looks)
    return most + 2 * _COPIED


class BlockWorker(FarWork):
    """Does steps; every thread has buffers of its own."""

    def __init__(self, kernels: MergeKernels, sink: Sink | None) -> None:
        self._kernels = kernels
        self._sink = sink
        super().__init__()

    def __call__(self, step: Step) -> Any:
        """Do one step: what a look found, or what was `Written`."""
        act = step.act
        if self.far:  # nobody has said in this process what will be read
            used = (act.input,) if isinstance(act, Copy) else act.inputs if isinstance(act, Write) else None
            prefetch(step.target, used, step.start, step.stop)
        found = self._do(step, act)
        if self.far and isinstance(found, Written):
            settle = getattr(self._sink, "settle", None)
            if settle is not None:
                settle(step.target.name)
        return found

    def _do(self, step: Step, act: Look | Write | Copy) -> Any:
        if isinstance(act, Copy):
            source = step.target.inputs[act.input].pieces
            if all(piece.tensor.dtype == step.target.dtype for piece in source):
                return self._copy(step, act.input)
            act = _Identity((act.input,))
        return self._write(step, act) if isinstance(act, Write) else self._look(step, act)

    def _look(self, step: Step, act: Look) -> Any:
        inputs = tuple(range(len(step.target.inputs)))
        found = act.empty(len(inputs))
        fused = act if isinstance(act, NativeLook) else None
        native = None if fused is None else self._native(step.target, inputs, act)
        for start, x in self._blocks(step, inputs, None, native, whole_rows=act.whole_rows):
            if fused is None or native is None:
                act.add(found, x, start, self._kernels)
            else:
                fused.add_native(found, x, native, start, self._kernels)
        return found

    def _native(self, target: Target, inputs: tuple[int, ...], act: Look | Write) -> DType | None:
        """The element type of all these inputs, where they need not be widened block by block."""
        assert target.subject is not None  # noqa: S101 - what has no subject is copied
        dtypes = {piece.tensor.dtype for i in inputs for piece in target.inputs[i].pieces}
        if len(dtypes) != 1 or target.subject.bits != 32 or act.whole_rows:
            return None
        (dtype,) = dtypes
        return dtype if self._kernels.fuses(dtype) else None

    def _buffer(self, name: str, nbytes: int) -> Array:
        """At least so many bytes of this thread's own, aligned for every type."""
        found: Array | None = getattr(self._own, name, None)
        if found is None or len(found) < nbytes:
            found = np.empty(-(-nbytes // 8), np.float64).view(np.uint8)
            setattr(self._own, name, found)
        return found

    def _blocks(
        self,
        step: Step,
        inputs: tuple[int, ...],
        hashes: Sequence[Any] | None,
        native: DType | None,
        *,
        whole_rows: bool,
    ) -> Iterator[tuple[int, Array]]:
        """(start, [inputs, count]): elements of the type `native`, or widened where it is None."""
        subject = step.target.subject
        assert subject is not None  # noqa: S101 - what has no subject is copied
        kind = _WIDE[subject.bits] if native is None else native
        array = np.dtype(np.uint16 if kind.bits == 16 else kind.to_numpy())
        length = _in_rows(BLOCK, subject.cols, whole_rows=whole_rows)
        if native is not None:
            length = _NATIVE_BYTES * BLOCK // array.itemsize
        for start in range(step.start, step.stop, length):
            count = min(length, step.stop - start)
            x = self._buffer("blocks", len(inputs) * count * array.itemsize).view(array)[: len(inputs) * count]
            x = x.reshape(len(inputs), count)
            for row, number in enumerate(inputs):
                self._fill(step.target.inputs[number], start, x[row], kind, hashes[row] if hashes else None)
            yield start, x

    def _fill(self, source: Input, start: int, out: Array, kind: DType, digest: Any) -> None:
        """out = the input's elements from `start`, as `kind`; their bytes go to `digest` too."""
        first, stop = 0, start + len(out)
        for piece in source.pieces:
            a, b = max(start, first), min(stop, first + piece.count)
            if a < b:
                part, dtype = out[a - start : b - start], piece.tensor.dtype
                raw = part.view(np.uint8) if dtype == kind else self._raw((b - a) * dtype.bits // 8)
                _read(piece.tensor, piece.start + a - first, raw.data)
                if digest is not None:
                    digest.update(raw.data)
                if dtype != kind:
                    self._kernels.widen(raw, dtype, part)
            first += piece.count

    def _raw(self, nbytes: int) -> Array:
        return self._buffer("raw", nbytes)[:nbytes]

    def _write(self, step: Step, act: Write) -> Written:
        target = step.target
        assert target.subject is not None and self._sink is not None  # noqa: S101, PT018 - what has none is copied
        inputs = tuple(range(len(target.inputs))) if act.inputs is None else act.inputs
        fused = act if isinstance(act, NativeWrite) else None
        native = None if fused is None else self._native(target, inputs, act)
        native = native if native == target.dtype else None
        hashes = [xxhash.xxh3_128() for _ in inputs]
        digest = xxhash.xxh3_128()
        width = target.dtype.bits // 8
        nonfinite = differing = 0
        for start, x in self._blocks(step, inputs, hashes, native, whole_rows=act.whole_rows):
            count = x.shape[1]
            packed = self._buffer("packed", count * width)[: count * width]
            if fused is None or native is None:
                out = self._buffer("out", count * x.itemsize).view(x.dtype)[:count]
                act.block(x, start, out, self._kernels)
                nonfinite += self._kernels.narrow(out, target.dtype, packed)
            else:
                nonfinite += fused.native_block(x, native, start, packed.view(x.dtype), self._kernels)
            digest.update(packed.data)
            differing += self._sink.write(target.name, start * width, packed.data) or 0
        read = dict(zip(inputs, (h.digest() for h in hashes), strict=True))
        return Written(digest.digest(), tuple(read.get(i) for i in range(len(target.inputs))), nonfinite, differing)

    def _copy(self, step: Step, number: int) -> Written:
        """The input's bytes as they are."""
        assert self._sink is not None  # noqa: S101 - a course that writes has a sink
        target, bits = step.target, step.target.dtype.bits
        digest = xxhash.xxh3_128()
        per = _COPIED * 8 // bits
        first = nonfinite = differing = 0
        for piece in target.inputs[number].pieces:
            last = min(step.stop, first + piece.count)
            for start in range(max(step.start, first), last, per):
                count = min(per, last - start)
                raw = self._raw(count * bits // 8)
                _read(piece.tensor, piece.start + start - first, raw.data)
                digest.update(raw.data)
                nonfinite += count_nonfinite(raw, target.dtype)
                differing += self._sink.write(target.name, start * bits // 8, raw.data) or 0
            first += piece.count
        found = digest.digest()
        inputs = tuple(found if i == number else None for i in range(len(target.inputs)))
        return Written(found, inputs, nonfinite, differing)


def _read(tensor: Any, start: int, out: memoryview) -> None:
    try:
        tensor.read_into(start, out)
    except (OSError, ValueError) as error:
        raise ReadError(
            f"{printable(tensor.source.name)}: tensor {printable(tensor.name)!r} could not be read at element {start}:"
            f" {error}; check the file and the disk, then run again with --resume"
        ) from error
