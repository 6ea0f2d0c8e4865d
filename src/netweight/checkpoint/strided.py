"""Elements of a strided view (transposed, sliced, expanded) read from its file in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from netweight.dtypes import DType, Kind
from netweight.source.protocol import Source

if TYPE_CHECKING:
    import numpy as np

__all__ = ["flip_signs", "is_c_order", "read_strided", "span_of", "swap_bytes"]

PIECE = 4 << 20  # bytes of a storage held at once
READ_COST = 32 << 10  # a read call costs about as much as this many bytes from the page cache


@dataclass(frozen=True)
class _Box:
    """A rectangular part of a view: its first element in the storage, its shape and strides in elements."""

    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_c_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements of `shape` with `strides` (in elements) lie one after the other."""
    step = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != step:
            return n == 0 or prod(shape) == 0
        step *= n
    return True


def span_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements of the storage from the view's first to its last, both included; 0 for an empty view."""
    if not prod(shape):
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


def swap_bytes(out: memoryview, dtype: DType) -> None:
    """Turn big-endian elements in `out` into little-endian ones, in place."""
    import numpy as np  # noqa: PLC0415 - headers are read without numpy

    width = dtype.bits // 8 // (2 if dtype.kind is Kind.COMPLEX else 1)
    if width > 1:
        np.frombuffer(out, f"<u{width}").byteswap(inplace=True)


def flip_signs(out: memoryview, dtype: DType, *, negative: bool, conjugate: bool) -> None:
    """Turn little-endian elements in `out` into their negatives, or complex ones into their conjugates, in place."""
    import numpy as np  # noqa: PLC0415 - headers are read without numpy

    width = dtype.bits // 8 // (2 if dtype.kind is Kind.COMPLEX else 1)
    bits = np.frombuffer(out, f"<u{width}")
    if dtype.kind is Kind.INTEGER:
        np.negative(bits, out=bits)  # modulo 2^bits, as torch does
        return
    sign = bits.dtype.type(1 << (8 * width - 1))
    if negative:
        np.bitwise_xor(bits, sign, out=bits)
    if conjugate:
        np.bitwise_xor(bits[1::2], sign, out=bits[1::2])


def read_strided(
    source: Source,
    offset: int,
    itemsize: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    start: int,
    out: memoryview,
) -> None:
    """Fill `out` with the view's elements from flat index `start`, whose element 0 lies at byte `offset`."""
    import numpy as np  # noqa: PLC0415 - headers are read without numpy

    dtype = np.dtype(f"<u{itemsize}" if itemsize <= 8 else f"V{itemsize}")
    flat: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(out, dtype)
    shape, strides = _merged(shape, strides)
    done = 0
    for box in _boxes(shape, strides, start, start + len(flat)):
        count = prod(box.shape)
        part = flat[done : done + count].reshape(box.shape)
        _gather(source, offset + box.first * itemsize, itemsize, box.strides, part)
        done += count


def _merged(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The same view with as few dimensions as possible."""
    sizes: list[int] = []
    steps: list[int] = []
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if sizes and steps[-1] == stride * n:
            sizes[-1] *= n
            steps[-1] = stride
        else:
            sizes.append(n)
            steps.append(stride)
    return tuple(sizes), tuple(steps)


def _boxes(shape: tuple[int, ...], strides: tuple[int, ...], start: int, stop: int) -> Iterator[_Box]:
    """The flat range `start` to `stop` (C order) as at most 2 x ndim - 1 boxes."""
    if start >= stop:
        return
    if len(shape) <= 1:
        yield _Box(start * (strides[0] if strides else 0), (stop - start,), strides or (1,))
        return
    inner = prod(shape[1:])
    row, into = divmod(start, inner)
    last, beyond = divmod(stop, inner)
    if into:
        for box in _boxes(shape[1:], strides[1:], into, min(inner, stop - row * inner)):
            yield replace(box, first=row * strides[0] + box.first)
        row += 1
    if row < last:
        yield _Box(row * strides[0], (last - row, *shape[1:]), strides)
    if beyond and row <= last:
        for box in _boxes(shape[1:], strides[1:], 0, beyond):
            yield replace(box, first=last * strides[0] + box.first)


def _gather(
    source: Source, offset: int, itemsize: int, strides: tuple[int, ...], out: np.ndarray[Any, np.dtype[Any]]
) -> None:
    """Copy one box into `out`, splitting it along its widest dimension until a piece of the storage is worth a read."""
    import numpy as np  # noqa: PLC0415

    span = span_of(out.shape, strides) * itemsize
    widths = [(n - 1) * stride for n, stride in zip(out.shape, strides, strict=True)]
    widest = max(range(len(widths)), key=widths.__getitem__)
    rows = out.shape[widest]
    row_span = span - widths[widest] * itemsize
    if span <= PIECE and READ_COST + span <= rows * (READ_COST + row_span):
        data = np.empty(span // itemsize, out.dtype)
        source.read_into(offset, data.view(np.uint8).data)
        byte_strides = [stride * itemsize for stride in strides]
        out[...] = np.lib.stride_tricks.as_strided(data, out.shape, byte_strides, writeable=False)
        return
    dense = READ_COST + span <= rows * (READ_COST + row_span)
    step = max(1, rows // -(-span // PIECE)) if dense else 1
    for row in range(0, rows, step):
        part = out[(slice(None),) * widest + (slice(row, row + step),)]
        _gather(source, offset + row * strides[widest] * itemsize, itemsize, strides, part)
