"""Digests of tensors that a merge has written, read back from the disk."""

from __future__ import annotations

from collections.abc import Callable

import xxhash

from netweight.merging.target import Target
from netweight.passes.merge_blocks import stretches_of
from netweight.passes.merge_steps import tensor_digest

__all__ = ["stored_digest"]

_READ = 1 << 20  # bytes


def stored_digest(target: Target, read: Callable[[str, int, memoryview], None]) -> str:
    """The digest of the stored bytes of `target`; `read` fills a view with the tensor's bytes from an offset."""
    buffer = memoryview(bytearray(min(_READ, max(target.nbytes, 1))))
    digests = []
    for first, last in stretches_of(target):
        digest = xxhash.xxh3_128()
        begin, end = first * target.dtype.bits // 8, last * target.dtype.bits // 8
        for offset in range(begin, end, _READ):
            view = buffer[: min(_READ, end - offset)]
            read(target.name, offset, view)
            digest.update(view)
        digests.append(digest.digest())
    return tensor_digest(digests)
