"""A weight that is stored as numbers of 4 bits with a power of two for every 32 of them (MXFP4 of the OCP Microscaling
Formats), as bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Stretch
from netweight.checkpoint.tensors.quantised import QuantisedTensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GROUP", "MicroscaledTensor"]

GROUP = 32
"""Numbers that share a scale; they take 16 bytes."""
_GROUPS = 1 << 13  # that are read at a time


@dataclass(frozen=True)
class MicroscaledTensor(QuantisedTensor):
    """Numbers of `codes` (bytes, two numbers each, E2M1, the low one first) times 2^(scale - 127) of `scales` (bytes,
    E8M0: 255 is NaN), group after group in the tensor's order. Every product is a bfloat16.
    """

    @property
    def stored(self) -> str:
        """See Tensor."""
        return "MXFP4"

    @property
    def scratch(self) -> int:
        """See Tensor."""
        return _GROUPS * (17 + 2 * GROUP) + self.codes.scratch + self.scales.scratch

    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """See Tensor."""
        if count > 0:
            first, stop = start // GROUP, -(-(start + count) // GROUP)
            yield from self.codes.bytes_of(16 * first, 16 * (stop - first))
            yield from self.scales.bytes_of(first, stop - first)

    def read_into(self, start: int, out: memoryview) -> None:
        """See Tensor."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        from netweight.kernels.cpu.scaled import widen_fours  # noqa: PLC0415 - loops are compiled where they are needed

        count = self.count_in(start, out)
        target = np.frombuffer(out, "<u2")
        values, powers = _tables()
        done = 0
        while done < count:
            first, skip = divmod(start + done, GROUP)
            groups = min(_GROUPS, -(-(skip + count - done) // GROUP))
            pairs, scales = np.empty(16 * groups, np.uint8), np.empty(groups, np.uint8)
            self.codes.read_into(16 * first, pairs.data)
            self.scales.read_into(first, scales.data)
            some = min(groups * GROUP - skip, count - done)
            straight = skip == 0 and some == groups * GROUP
            wide = target[done : done + some] if straight else np.empty(groups * GROUP, np.uint16)
            widen_fours(pairs, scales, values, powers, wide)
            if not straight:
                target[done : done + some] = wide[skip : skip + some]
            done += some


@cache
def _tables() -> tuple[np.ndarray[Any, np.dtype[Any]], np.ndarray[Any, np.dtype[Any]]]:
    """(What the 16 codes of E2M1 stand for, what the 256 of E8M0 do), float32."""
    import ml_dtypes  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    codes = np.arange(256, dtype=np.uint8)
    fours = codes[:16].view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return fours, codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
