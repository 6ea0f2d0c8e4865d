"""Layers of zeros alone: a look at the first weights of each layer tells nearly every one that is none."""

from __future__ import annotations

from collections.abc import Sequence

from netweight.checkpoint.announce import announce_tensors
from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind
from netweight.jobs.structure.model import Analysed
from netweight.run.threads import ThreadExecutor
from netweight.source.remote import announce

__all__ = ["NO_ZERO", "ONE_ZERO", "find_zero_layers"]

NO_ZERO = frozenset({"F8_E8M0"})
"""Powers of two: the format has no zero."""

ONE_ZERO = frozenset({"F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""No negative zero: its pattern is NaN."""

_GLANCE = 512  # elements of a tensor that nearly always show that it is not zero
_BLOCK = 1 << 18  # elements at a time
_READERS = 8  # at once, for models that are far away


def find_zero_layers(model: Analysed) -> frozenset[tuple[str, int]]:
    """(stack, number) of the layers that hold parameters, every one of them 0 or -0.

    Reads the first weights of each layer, and on only while all is zero. A layer with weights of other types than
    floats counts as not zero. Raises ReadError.
    """
    layers: dict[tuple[str, int], list[Tensor]] = {(b.stack, b.index): [] for b in model.structure.blocks if b.total}
    for name, parameter in model.parameters.items():
        tensor = model.model.tensors[name]
        if parameter.layer is None or parameter.buffer or name in model.structure.tied or not tensor.size:
            continue
        if (parameter.stack, parameter.layer) in layers:
            layers[parameter.stack, parameter.layer].append(tensor)
    held = [(key, sorted(tensors, key=lambda tensor: tensor.size)) for key, tensors in layers.items()]
    announce(part for _, tensors in held for t in tensors[:1] for part in t.bytes_of(0, min(_GLANCE, t.size)))
    waiting = iter(held)
    looked = ThreadExecutor(_READERS).run(lambda: next(waiting, None), lambda layer: _all_zero(layer[1]))
    return frozenset(key for (key, _), zero in looked if zero)


def _all_zero(tensors: Sequence[Tensor]) -> bool:
    if any(t.dtype.kind is not Kind.FLOAT or t.dtype.name in NO_ZERO for t in tensors):
        return False
    if not all(_zero_up_to(t, min(_GLANCE, t.size)) for t in tensors):
        return False
    announce_tensors(tensors)
    return all(_zero_up_to(t, t.size) for t in tensors)


def _zero_up_to(tensor: Tensor, stop: int) -> bool:
    width = tensor.dtype.bits // 8
    buffer = bytearray(width * min(_BLOCK, stop))
    unsigned = (1 << (8 * width - (tensor.dtype.name not in ONE_ZERO))) - 1
    bits = int.from_bytes(unsigned.to_bytes(width, "little") * min(_BLOCK, stop), "little")
    for start in range(0, stop, _BLOCK):
        size = width * min(_BLOCK, stop - start)
        with memoryview(buffer)[:size] as block:
            tensor.read_into(start, block)
            if int.from_bytes(block, "little") & bits:
                return False
    return True
