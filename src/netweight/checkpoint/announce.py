"""Telling files far away which tensors will be read, so that they are fetched in large pieces and ahead of time."""

from __future__ import annotations

from collections.abc import Iterable

from netweight.checkpoint.matrix import Part
from netweight.checkpoint.strided import span_of
from netweight.checkpoint.tensor import Tensor
from netweight.source.remote import announce

__all__ = ["announce_parts", "announce_tensors"]


def announce_tensors(tensors: Iterable[Tensor | None]) -> None:
    """Say that these tensors will be read, in this order; costs nothing where all files are on this machine."""
    announce((tensor.source, tensor.offset, _nbytes(tensor)) for tensor in tensors if tensor is not None)


def announce_parts(parts: Iterable[tuple[Tensor, Part]]) -> None:
    """Say that these parts of tensors will be read, in this order."""
    announce(
        (tensor.source, tensor.offset + part.start * tensor.dtype.bits // 8, _region(tensor, part))
        if tensor.strides is None
        else (tensor.source, tensor.offset, _nbytes(tensor))
        for tensor, part in parts
    )


def _region(tensor: Tensor, part: Part) -> int:
    return -(-part.region_rows * part.region_cols * tensor.dtype.bits // 8)


def _nbytes(tensor: Tensor) -> int:
    if tensor.strides is None:
        return tensor.nbytes
    return span_of(tensor.shape, tensor.strides) * tensor.dtype.bits // 8
