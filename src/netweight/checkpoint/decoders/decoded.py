"""Quantised weights as what they stand for: every decoder looks for its own among the tensors that are stored, and each
weight is one tensor then.

Adding a decoder is a file beside this one with a `find`, and its name in _DECODERS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from netweight.checkpoint.decoders import awq, bitsandbytes, comfy, fours, gptq, mlx, mxfp4, packed_ints, scales, sparse
from netweight.checkpoint.decoders.found import Found, several
from netweight.checkpoint.decoders.quantisation import compressed_tensors, declared
from netweight.checkpoint.decoders.undecoded import disguised, undecoded_note
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.errors import FormatError, printable

__all__ = ["decoded", "replaced"]

_FIRST = (sparse.find,)  # what they make may be the codes of others
_DECODERS = (
    scales.find,
    mxfp4.find,
    packed_ints.find,
    fours.find,
    gptq.find,
    awq.find,
    bitsandbytes.find,
    mlx.find,
)

# What belongs to a layer whose weight is quantised, by its last word or the end of it; and to the layer above it.
_OF_LAYER = {
    "input_scale": "a scale of a layer's inputs",
    "input_scale_inv": "a scale of a layer's inputs",
    "scale_input": "a scale of a layer's inputs",
    "activation_scale": "a scale of a layer's inputs",
    "act_scale": "a scale of a layer's inputs",
    "input_global_scale": "a scale of a layer's inputs",
    "input_zero_point": "a zero point of a layer's inputs",
    "output_scale": "a scale of a layer's outputs",
    "output_zero_point": "a zero point of a layer's outputs",
}
_SIGN = re.compile(r"scale|packed|qweight|SCB|absmax|blocks|compressed|bitmask|quant")
"""What a name's last word has where a weight is quantised, or is a part of one."""
_OF_CACHE = frozenset({"k_scale", "v_scale", "k_zero_point", "v_zero_point"})


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
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None,
    where: str,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Mapping[str, Tensor], tuple[Skipped, ...], tuple[str, ...]]:
    """(The tensors, every quantised weight that is known as one; what is left out beside them; notes that say so).

    `where` names the model in messages; `metadata` is that of its files. Raises FormatError where parts of a weight do
    not fit each other, or two decoders take one tensor.
    """
    signs = map(_SIGN.search, {name.rpartition(".")[2] for name in tensors})
    if not declared(config) and not comfy.named_in(metadata or {}) and not any(signs):
        return tensors, (), ()
    marks = comfy.find(tensors, metadata or {}, where)
    tensors = replaced(tensors, [marks], where)
    early = [find(tensors, config, where) for find in _FIRST]
    tensors = replaced(tensors, early, where)
    late = [find(tensors, config, where) for find in _DECODERS]
    tensors = replaced(tensors, late, where)
    modules = {tensor.name.rpartition(".")[0] for found in late for tensor in found.instead.values()}
    codes = disguised(tensors, config)
    beside = Found(skipped=(*(_beside(tensors, modules) if modules else ()), *codes))
    tensors = replaced(tensors, [Found(parts=frozenset(entry.name for entry in beside.skipped))], where)
    every = [marks, *early, *late, beside]
    notes = [found.note for found in every if found.note]
    if modules and (made := compressed_tensors(config)) and made.transformed:
        notes.append("its quantization_config has a transform_config: weights are read as they are stored, transformed")
    if left := undecoded_note(tensors, config):
        notes.append(left)
    if codes:
        notes.append(f"{several(len(codes), 'weight is', 'weights are')} {codes[0].reason}; dequantise the model first")
    return tensors, tuple(entry for found in every for entry in found.skipped), tuple(notes)


def replaced(tensors: Mapping[str, Tensor], every: Sequence[Found], where: str) -> Mapping[str, Tensor]:
    """`tensors` with what was found; raises FormatError where two have found one tensor."""
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    made: set[str] = set()
    for found in every:
        names = {tensor.name for tensor in found.instead.values()}
        twice = [*((instead.keys() | parts) & (found.instead.keys() | found.parts)), *(made & names)]
        if twice:
            raise FormatError(
                f"{where}: tensor {printable(min(twice))!r}: belongs to quantised weights of two formats, expected one"
            )
        instead |= found.instead
        parts |= found.parts
        made |= names
    return _Decoded(tensors, instead, frozenset(parts)) if instead or parts else tensors


def _beside(tensors: Mapping[str, Tensor], modules: set[str]) -> Iterator[Skipped]:
    """What layers with quantised weights have for inputs, outputs and the attention's cache."""
    above = {module.rpartition(".")[0] for module in modules}
    for name in tensors:
        module, _, last = name.rpartition(".")
        if module in modules and (ending := next((end for end in _OF_LAYER if last.endswith(end)), None)):
            yield Skipped(name, f"{_OF_LAYER[ending]}, no weight")
        elif last in _OF_CACHE and (module in modules or module in above):
            yield Skipped(name, "a scale of the attention's cache, no weight")
