"""Quantised weights as what they stand for: every decoder looks for its own among the tensors that are stored, and each
weight is one tensor then.

Adding a decoder is a file beside this one with a `find`, and its name in _DECODERS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from netweight.checkpoint import awq, bitsandbytes, gptq, mlx, mxfp4, scales
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.checkpoint.undecoded import undecoded_note

__all__ = ["decoded"]

_DECODERS = (scales.find, mxfp4.find, gptq.find, awq.find, bitsandbytes.find, mlx.find)


class _Decoded(Mapping[str, Tensor]):
    """The tensors of `stored` in their order; those of `instead` stand in the places of what they are decoded from, and
    what is `hidden` are parts of them.
    """

    def __init__(self, stored: Mapping[str, Tensor], instead: dict[str, Tensor], hidden: frozenset[str]) -> None:
        self._stored = stored
        self._instead = instead
        self._own = {tensor.name: tensor for tensor in instead.values()}
        self._hidden = hidden | (instead.keys() - self._own.keys())

    def __getitem__(self, name: str) -> Tensor:
        own = self._own.get(name)
        if own is not None:
            return own
        if name in self._hidden:
            raise KeyError(name)
        return self._stored[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or (name in self._stored and name not in self._hidden)

    def __iter__(self) -> Iterator[str]:
        for name in self._stored:
            if name in self._instead:
                yield self._instead[name].name
            elif name not in self._hidden:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)


def decoded(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str
) -> tuple[Mapping[str, Tensor], tuple[Skipped, ...], tuple[str, ...]]:
    """(The tensors, every quantised weight that is known as one; what is left out beside them; notes that say so).

    `where` names the model in messages. Raises FormatError where parts of a weight do not fit each other.
    """
    instead: dict[str, Tensor] = {}
    hidden: set[str] = set()
    skipped: list[Skipped] = []
    notes: list[str] = []
    for find in _DECODERS:
        found = find(tensors, config, where)
        instead |= found.instead
        hidden |= found.parts
        skipped += found.skipped
        notes += [found.note] if found.note else []
    whole = _Decoded(tensors, instead, frozenset(hidden)) if instead else tensors
    left = undecoded_note(whole, config)
    return whole, tuple(skipped), (*notes, *([left] if left else []))
