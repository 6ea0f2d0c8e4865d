"""How far the codes of a quantised weight reach: the lowest and the highest number that each element could have.

Both are the weight itself with other codes, every one the lowest or the highest: scales and zero points, transposes and
permutations are then where they belong, whatever the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from netweight.checkpoint.tensor import Stretch, Tensor
from netweight.checkpoint.tensors.blocks import BlockTensor
from netweight.checkpoint.tensors.computed import TimesTensor
from netweight.checkpoint.tensors.grouped import AffineTensor, GroupedTensor
from netweight.checkpoint.tensors.looked_up import LookedUpTensor
from netweight.checkpoint.tensors.microscaled import MicroscaledTensor, TurnedMicroscaledTensor
from netweight.checkpoint.tensors.packed import PackedTensor
from netweight.checkpoint.tensors.rearranged import RearrangedTensor
from netweight.checkpoint.tensors.scaled import ScaledTensor
from netweight.checkpoint.tensors.unpacked import UnpackedAcrossTensor, UnpackedTensor

__all__ = ["Ends", "ends_of"]


class Ends(NamedTuple):
    """`low` and `high`: tensors like the weight; `high` is None where it is -low. `below` and `above`: half of the last
    step at the low and at the high end, as a share of high - low: what rounds to an end is not farther out.
    """

    low: Tensor
    high: Tensor | None
    below: float
    above: float


class _Reach(NamedTuple):
    """Bytes of codes that are all the lowest, and all the highest (None where that is minus the lowest); see Ends."""

    low: int
    high: int | None
    below: float
    above: float


def _whole(bits: int, low: int = 0x00, high: int = 0xFF) -> _Reach:
    """Numbers one apart."""
    half = 0.5 / ((1 << bits) - 1)
    return _Reach(low, high, half, half)


def _floats(low: int, half: float) -> _Reach:
    return _Reach(low, None, half, half)


_E2M1 = _floats(0xFF, 1 / 12)  # 4 and 6
_REACH = {
    "I8": _whole(8, 0x80, 0x7F),
    "F8_E4M3": _floats(0xFE, 16 / 896),  # 416 and 448
    "F8_E5M2": _floats(0xFB, 4096 / 114688),  # 49152 and 57344
    "F8_E4M3FNUZ": _floats(0xFF, 8 / 480),  # 224 and 240
    "F8_E5M2FNUZ": _floats(0xFF, 4096 / 114688),
    "F6_E2M3": _floats(0xFF, 0.25 / 15),  # 7 and 7.5
    "F6_E3M2": _floats(0xFF, 2 / 56),  # 24 and 28
    "F4": _E2M1,
    "F4+0": _E2M1,
}
"""By the values that codes stand for."""

_TABLES = {
    "nf4": _Reach(0x00, 0x0F, (1 - 0.6961928009986877) / 4, (1 - 0.7229568362236023) / 4),
    "fp4": _floats(0x0B, 2 / 24),  # 8 and 12
    "e2m1": _floats(0x0F, 1 / 12),
    "e4m3": _REACH["F8_E4M3"],
    "int8": _REACH["I8"],
}
"""By the table of a LookedUpTensor, whose codes take a byte each."""

_FOURTHS = _Reach(0x00, 0xFF, 23 / 480, 24 / 480)  # -127, -104 ... 89, 113
_TERNARY = _Reach(0x00, 0xAA, 0.25, 0.25)
_BLOCKS: dict[str, tuple[int, int, _Reach]] = {
    "Q4_0": (2, 18, _whole(4)),
    "Q4_1": (4, 20, _whole(4)),
    "Q5_0": (2, 22, _whole(5)),
    "Q5_1": (4, 24, _whole(5)),
    "Q8_0": (2, 34, _REACH["I8"]),
    "Q8_1": (4, 36, _REACH["I8"]),
    "Q8_K": (4, 260, _REACH["I8"]),
    "Q2_K": (16, 80, _whole(2)),
    "Q3_K": (0, 96, _whole(3)),
    "Q4_K": (16, 144, _whole(4)),
    "Q5_K": (16, 176, _whole(5)),
    "Q6_K": (0, 192, _whole(6)),
    "IQ4_NL": (2, 18, _FOURTHS),
    "IQ4_XS": (8, 136, _FOURTHS),
    "MXFP4": (1, 17, _E2M1),
    "NVFP4": (4, 36, _E2M1),
    "TQ1_0": (0, 52, _whole(2)._replace(below=0.25, above=0.25)),
    "TQ2_0": (0, 64, _TERNARY),
    "Q1_0": (2, 18, _whole(1)),
}
"""Where the codes lie in a block of ggml's types, first byte and stop. The codebooks of IQ1, IQ2 and IQ3 have numbers
for eight or four elements together, and no end for one.
"""
_NO_BLOCK = (0, 0, None)


@dataclass(frozen=True)
class _FilledTensor(Tensor):
    """`inner`, with bytes `first` to `stop` of every `period` of them all `byte`; nothing is read where that is all."""

    inner: Tensor
    byte: int
    period: int = 1
    first: int = 0
    stop: int = 1

    @property
    def where(self) -> str:
        """See Tensor."""
        return self.inner.where

    @property
    def scratch(self) -> int:
        """See Tensor."""
        return self.inner.scratch

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if self.stop - self.first < self.period:
            yield from self.inner.bytes_of(start, count)

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor; of a period of several bytes, whole ones from the start of one."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        self.count_in(start, out)
        if self.stop - self.first < self.period:
            self.inner.read_into(start, out)
        np.frombuffer(out, np.uint8).reshape(-1, self.period)[:, self.first : self.stop] = self.byte


def ends_of(tensor: Tensor) -> Ends | None:
    """The ends of a quantised weight; None where it is not one, or has codes without ends (codebooks, sparse ones)."""
    match tensor:
        case RearrangedTensor():
            return _rearranged(tensor)
        case TimesTensor():
            inner = ends_of(tensor.inner)
            return inner and _each(inner, lambda held: replace(tensor, inner=held))
        case BlockTensor():
            size = tensor.size_of_block
            first, stop, reach = (2, size, _whole(2)) if tensor.kind == "Q2_0" else _BLOCKS.get(tensor.kind, _NO_BLOCK)
            return _made(reach, lambda byte: replace(tensor, codes=_filled(tensor.codes, byte, size, first, stop)))
        case PackedTensor():
            reach = _whole(tensor.bits) if tensor.values == "int" else _REACH.get(tensor.values)
        case ScaledTensor():
            reach = _REACH.get(tensor.codes.dtype.name)
        case MicroscaledTensor() | TurnedMicroscaledTensor():
            reach = _E2M1
        case LookedUpTensor(values=str(table)):
            reach = _TABLES.get(table)
        case AffineTensor() | GroupedTensor() if isinstance(tensor.codes, UnpackedTensor | UnpackedAcrossTensor):
            bits = tensor.codes.bits
            reach = _whole(bits, 0, (1 << bits) - 1)
        case _:
            return None
    return _made(reach, lambda byte: replace(tensor, codes=_filled(tensor.codes, byte)))


def _filled(tensor: Tensor, byte: int, period: int = 1, first: int = 0, stop: int = 1) -> Tensor:
    return _FilledTensor(tensor.name, tensor.shape, tensor.dtype, tensor, byte, period, first, stop)


def _made(reach: _Reach | None, with_byte: Callable[[int], Tensor]) -> Ends | None:
    if reach is None:
        return None
    high = None if reach.high is None else with_byte(reach.high)
    return Ends(with_byte(reach.low), high, reach.below, reach.above)


def _each(ends: Ends, change: Callable[[Tensor], Tensor]) -> Ends:
    return ends._replace(low=change(ends.low), high=None if ends.high is None else change(ends.high))


def _rearranged(tensor: RearrangedTensor) -> Ends | None:
    """None too where pieces have different steps at their ends."""
    held = {id(piece.tensor): ends_of(piece.tensor) for piece in tensor.placed}
    known = {number: ends for number, ends in held.items() if ends is not None}
    steps = {(ends.high is None, ends.below, ends.above) for ends in known.values()}
    if len(known) < len(held) or len(steps) != 1:
        return None
    ((mirrored, below, above),) = steps
    low = _of_pieces(tensor, {number: ends.low for number, ends in known.items()})
    highs = {number: ends.high for number, ends in known.items() if ends.high is not None}
    return Ends(low, None if mirrored else _of_pieces(tensor, highs), below, above)


def _of_pieces(tensor: RearrangedTensor, others: dict[int, Tensor]) -> Tensor:
    return replace(tensor, placed=tuple(replace(piece, tensor=others[id(piece.tensor)]) for piece in tensor.placed))
