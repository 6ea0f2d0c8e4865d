"""The parameters of a checkpoint, each counted once in one place: embeddings, blocks and their parts, head, the rest.

Counts are elements as they are stored. Nothing is left out: `total` is the sum of the places, buffers aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind
from netweight.params.block import Block, BlockBuilder
from netweight.params.declared import Declared
from netweight.params.role import Parameter
from netweight.params.sizes import find_sizes
from netweight.params.tied import Ties

__all__ = ["Structure", "Unplaced", "structure_of"]

_NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")
_MAIN_STACKS = ("", "encoder", "decoder")
_MOST_GAPS = 4096  # numbers of layers that no name has


@dataclass(frozen=True)
class Unplaced:
    """Tensors whose names no table knows, together by the form of their name (numbers as N): how many, where they
    were counted, and their elements.
    """

    pattern: str
    place: str
    tensors: int
    parameters: int
    example: str


@dataclass(frozen=True)
class Structure:
    """Elements by place. `embeddings` and `head` are by slot, `norms` are those outside blocks, `other` by name form,
    `towers` (vision, audio, mtp) by stack. `blocks` are the main stack's, or those of encoder and decoder.

    `tied` maps an alias to the name that it repeats (counted once); `absent_head` names the embedding that serves as
    the head which the file does not hold. `tied_twice` is what counting each tie under both names adds. `trainable` are
    floats that are neither buffers nor quantization scales; `packed` counts tensors that are no plain floats. `sizes`
    come from shapes: hidden_size, vocabulary.
    """

    embeddings: dict[str, int]
    head: dict[str, int]
    blocks: tuple[Block, ...]
    norms: dict[str, int]
    other: dict[str, int]
    towers: dict[str, dict[str, int]]
    rotations: dict[str, int]
    unplaced: tuple[Unplaced, ...]
    tied: dict[str, str]
    absent_head: str | None
    tied_twice: int
    trainable: int
    biases: int
    buffers: int
    bytes: int
    packed: int
    sizes: dict[str, int]
    missing_layers: tuple[int, ...] = ()

    @property
    def layer_parameters(self) -> int:
        """Elements in all blocks."""
        return sum(block.total for block in self.blocks)

    @property
    def total(self) -> int:
        """Every parameter once, buffers aside."""
        places = (self.embeddings, self.head, self.norms, self.other, self.rotations)
        towers = sum(tower["parameters"] for tower in self.towers.values())
        return self.layer_parameters + towers + sum(sum(place.values()) for place in places)

    @property
    def rotation_parameters(self) -> int:
        """Elements of SliceGPT's rotations, in blocks and outside."""
        return sum(self.rotations.values()) + sum(sum(block.rotation.values()) for block in self.blocks)


def structure_of(
    held: Mapping[str, Tensor],
    parameters: Mapping[str, Parameter],
    ties: Ties,
    declared: Declared,
    head_size: int | None = None,
) -> Structure:
    """The places of the tensors `held` by a checkpoint, whose names are read as `parameters`; headers only.

    `declared` are the numbers of the config; `head_size` (elements of one attention head) helps where config does not
    tell it, as from the base of a pruned model.
    """
    tensors = {name: tensor for name, tensor in held.items() if name not in ties.aliases}
    weights = {name: tensor for name, tensor in tensors.items() if not parameters[name].buffer}
    kinds = {name: parameters[name].kind for name in weights}
    floats = {name for name, tensor in weights.items() if tensor.dtype.kind is Kind.FLOAT}
    sizes = find_sizes(tensors, parameters)
    mains = _main_stacks(parameters.values())
    builders: dict[tuple[str, int], BlockBuilder] = {}
    places: dict[str, dict[str, int]] = {place: {} for place in ("embeddings", "head", "norms", "other", "rotations")}
    unplaced: dict[tuple[str, str], list[int | str]] = {}
    for name, tensor in weights.items():
        parameter = parameters[name]
        if parameter.stack not in mains:
            place = parameter.stack
        elif parameter.layer is not None:
            key = (parameter.stack, parameter.layer)
            if key not in builders:
                builders[key] = BlockBuilder(parameter.stack, parameter.layer, sizes)
            place = builders[key].add(parameter, tensor)
        else:
            place, key_in = _outside(parameter)
            places[place][key_in] = places[place].get(key_in, 0) + tensor.size
        if not parameter.slot:
            _note_unplaced(unplaced, name, place, tensor)
    blocks, missing = _in_order(builders, mains, declared)
    size_of_head = head_size if declared.head_size is None else declared.head_size
    repeated = [*ties.aliases, *([ties.absent] if ties.absent is not None else [])]
    return Structure(
        embeddings=places["embeddings"],
        head=places["head"],
        blocks=tuple(builder.finish(declared, size_of_head) for builder in blocks),
        norms=places["norms"],
        other=places["other"],
        towers=_towers(weights, parameters, mains),
        rotations=places["rotations"],
        unplaced=tuple(
            Unplaced(pattern, place, int(count), int(size), str(example))
            for (pattern, place), (count, size, example) in unplaced.items()
        ),
        tied=ties.aliases,
        absent_head=ties.absent,
        tied_twice=sum(held[name].size for name in repeated),
        trainable=sum(weights[name].size for name in floats if kinds[name] != "quantization"),
        biases=sum(tensor.size for name, tensor in weights.items() if kinds[name] == "bias"),
        buffers=sum(tensor.size for name, tensor in tensors.items() if name not in weights),
        bytes=sum(tensor.file_bytes for tensor in tensors.values()),
        packed=sum(name not in floats and kinds[name] != "quantization" for name in weights),
        sizes={"hidden_size": sizes.hidden, "vocabulary": sizes.vocabulary} if sizes.hidden else {},
        missing_layers=missing,
    )


def _towers(
    weights: Mapping[str, Tensor], parameters: Mapping[str, Parameter], mains: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    """The stacks beside the main ones: how many layers and elements each has."""
    towers: dict[str, dict[str, int]] = {}
    layers: dict[str, set[int]] = {}
    for name, tensor in weights.items():
        stack, layer = parameters[name].stack, parameters[name].layer
        if stack in mains:
            continue
        tower = towers.setdefault(stack, {"num_layers": 0, "parameters": 0})
        tower["parameters"] += tensor.size
        if layer is not None:
            layers.setdefault(stack, set()).add(layer)
            tower["num_layers"] = len(layers[stack])
    return towers


def _main_stacks(parameters: Iterable[Parameter]) -> tuple[str, ...]:
    """The stacks whose blocks are the model's layers: the main one, or encoder and decoder."""
    stacks = {parameter.stack for parameter in parameters if parameter.layer is not None}
    if "" in stacks or not stacks & {"encoder", "decoder"}:
        return ("",) if "" in stacks or not stacks else ("", next(iter(sorted(stacks))))
    return _MAIN_STACKS


def _outside(parameter: Parameter) -> tuple[str, str]:
    """(place, key in it) of a parameter outside the blocks."""
    key = parameter.slot or _NUMBER.sub("N", parameter.name)
    if parameter.slot == "rotation":
        return "rotations", _NUMBER.sub("N", parameter.name)
    if parameter.group == "embed":
        return "embeddings", key
    if parameter.group == "lm_head":
        return "head", key
    if parameter.part == "norm":
        return "norms", parameter.name.rpartition(".")[0] or parameter.name
    return "other", key


def _note_unplaced(unplaced: dict[tuple[str, str], list[int | str]], name: str, place: str, tensor: Tensor) -> None:
    row = unplaced.setdefault((_NUMBER.sub("N", name), place), [0, 0, name])
    row[0] = int(row[0]) + 1
    row[1] = int(row[1]) + tensor.size


def _in_order(
    builders: Mapping[tuple[str, int], BlockBuilder], mains: tuple[str, ...], declared: Declared
) -> tuple[list[BlockBuilder], tuple[int, ...]]:
    """The blocks stack by stack, numbers ascending; a number between others that no name has is an empty block."""
    ordered: list[BlockBuilder] = []
    missing: list[int] = []
    for stack in mains:
        numbers = sorted(number for at, number in builders if at == stack)
        if not numbers:
            continue
        gaps = set(range(numbers[-1])) - set(numbers) if numbers[-1] < len(numbers) + _MOST_GAPS else set()
        if len(gaps) > max(len(numbers), declared.layers or 0):
            gaps = set()
        missing += sorted(gaps)
        ordered += [
            builders.get((stack, number)) or BlockBuilder.empty(stack, number) for number in sorted(gaps.union(numbers))
        ]
    return ordered, tuple(missing)
