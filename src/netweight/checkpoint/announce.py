"""Telling files far away which tensors will be read, so that they are fetched in large pieces and ahead of time."""

from __future__ import annotations

from collections.abc import Iterable

from netweight.checkpoint.matrix import Part
from netweight.checkpoint.tensor import Tensor
from netweight.source.remote import announce

__all__ = ["announce_elements", "announce_parts", "announce_tensors"]


def announce_tensors(tensors: Iterable[Tensor | None]) -> None:
    """Say that these tensors will be read, in this order; costs nothing where all files are on this machine."""
    announce(stretch for tensor in tensors if tensor is not None for stretch in tensor.bytes_of(0, tensor.size))


def announce_parts(parts: Iterable[tuple[Tensor, Part]]) -> None:
    """Say that these parts of tensors will be read, in this order."""
    announce(
        stretch
        for tensor, part in parts
        for stretch in tensor.bytes_of(part.start, part.region_rows * part.region_cols)
    )


def announce_elements(stretches: Iterable[tuple[Tensor, int, int]]) -> None:
    """Say that these elements will be read, in this order: (tensor, the first, how many)."""
    announce(stretch for tensor, start, count in stretches for stretch in tensor.bytes_of(start, count))
