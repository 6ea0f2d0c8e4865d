"""The models of a merge side by side: which tensor of each is which parameter of the output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.dtypes import Kind
from netweight.errors import InputError, printable
from netweight.params.architecture import config_numbers
from netweight.params.matching import match
from netweight.params.model import Model
from netweight.params.names import LAYER_LISTS
from netweight.params.role import Parameter
from netweight.params.selection import examples
from netweight.params.tied import find_ties, token_embedding

__all__ = ["Side", "Stacked", "is_head", "read_sides", "stack_of", "ties_head"]

_NUMBER = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class Side:
    """One model of a merge, `number` in the order of the recipe's references.

    `tensors` are those that stand for the output's parameters, by the output's names and in its layout, with the
    embedding in the place of a head that is tied to it and not stored. `left` is what of its own tensors none of them
    takes, `unmade` why some could not be put together (see Match); `across`: some of them have another name or layout
    there. `layers` counts the blocks of the main stack. `absent`: the embedding that serves as the head, where none is
    stored. `aliases` maps tensors that are left out to the ones that they repeat (only of the model that the output is
    named after).
    """

    number: int
    model: Model
    tensors: Mapping[str, Tensor]
    layers: int
    left: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmade: Mapping[str, str] = field(default_factory=dict)
    across: bool = False
    absent: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint:
        """Its tensors under its own names."""
        return self.model.checkpoint

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What its own names say."""
        return self.model.parameters

    @property
    def ref(self) -> str:
        """Its reference, safe to print."""
        return printable(self.checkpoint.ref)

    @property
    def tied_to(self) -> str | None:
        """The embedding that serves as the head in what is written of this model, None where a head is."""
        heads = (written for name, written in self.aliases.items() if is_head(self.parameters[name]))
        return self.absent or next(heads, None)


def read_sides(
    checkpoints: Mapping[int, Checkpoint], anchor: int, *, by_layers: bool = False
) -> tuple[dict[int, Side], list[str]]:
    """Read the names of every checkpoint and pair them with those of number `anchor`, after which the output is named;
    `by_layers` pairs every layer with what any layer of the anchor holds.

    Returns the sides by number, and notes. Raises InputError for quantised weights, and for a model that
    shares no name with the anchor.
    """
    base, notes = _anchor(anchor, Model(checkpoints[anchor]))
    sides = {anchor: base}
    for number, checkpoint in checkpoints.items():
        if number == anchor:
            continue
        model = Model(checkpoint)
        _refuse(model)
        layers = _layers(model)
        found = match(_stretched(base, layers) if by_layers else base.model, model)
        if not found.tensors:
            raise InputError(
                f"{printable(checkpoint.ref)} and {base.ref} share no parameter: {examples(checkpoint)} against"
                f" {examples(base.checkpoint)}; expected models of one architecture"
            )
        for note in (found.prefix_note((base.ref, "the model")), found.layout_note("the model")):
            notes += [f"{printable(checkpoint.ref)}: {note}"] if note else []
        tensors, tie_notes = _with_ties(base, model, found.tensors)
        notes += tie_notes
        sides[number] = Side(
            number, model, tensors, layers, found.left, found.unmade, bool(found.across), model.ties.absent
        )
    return sides, notes


def is_head(parameter: Parameter) -> bool:
    """Whether this is the matrix of a head that yields tokens."""
    return parameter.slot == "lm_head" and parameter.role == "output" and parameter.layer is None


def ties_head(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> bool:
    """Whether config ties the head to the embedding, whatever is stored."""
    headless = {name: p for name, p in parameters.items() if p.group != "lm_head"}
    return find_ties(checkpoint, parameters=headless).absent is not None


def _anchor(number: int, model: Model) -> tuple[Side, list[str]]:
    _refuse(model)
    if not model.checkpoint:
        raise InputError(f"{printable(model.checkpoint.ref)}: holds no tensors, so there is nothing to merge")
    aliases, notes = _aliases(model.checkpoint, model.parameters)
    return Side(number, model, model.tensors, _layers(model), absent=model.ties.absent, aliases=aliases), notes


def _stretched(anchor: Side, layers: int) -> Model:
    """The anchor with so many layers, each holding what any of its layers holds, to pair names and layouts with."""
    stack = stack_of(anchor.model)
    tensors = dict(anchor.model.tensors)
    for tail, tensor in {tail: t for block in stack.blocks.values() for tail, t in block.items()}.items():
        for layer in range(max(layers, anchor.layers)):
            name = stack.name(layer, tail)
            tensors.setdefault(name, replace(tensor, name=name))
    checkpoint = anchor.checkpoint
    return Model(Checkpoint(checkpoint.ref, tensors, format=checkpoint.format, files=(), config=checkpoint.config))


def _aliases(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> tuple[dict[str, str], list[str]]:
    """Which names with one storage are not written. safetensors files share nothing, so that a tie is only kept by
    writing one of them, which config must then tie again.
    """
    members: dict[str, list[str]] = {}
    for alias, name in checkpoint.shared.items():
        if alias in checkpoint and name in checkpoint:
            members.setdefault(name, [name]).append(alias)
    tied = bool(members) and ties_head(checkpoint, parameters)
    left_out: dict[str, str] = {}
    notes = []
    for group in members.values():
        roles = {name: parameters[name].role for name in group}
        slots = {parameters[name].slot for name in group}
        if tied and slots <= {"token_embedding", "lm_head"}:
            written = next((name for name in group if roles[name] == "embedding"), group[0])
            left_out |= {name: written for name in group if name != written}
        else:
            listed = ", ".join(f"'{printable(name)}'" for name in group)
            notes.append(
                f"{printable(checkpoint.ref)}: {listed} are one tensor, which config does not say: each is written"
            )
    return left_out, notes


def _refuse(model: Model) -> None:
    """Quantised weights are no numbers to calculate with."""
    ref = printable(model.checkpoint.ref)
    quantised = isinstance(model.checkpoint.config, Mapping) and "quantization_config" in model.checkpoint.config
    for name, p in model.parameters.items():
        dtype = model.tensors[name].dtype
        whole = dtype.kind is Kind.INTEGER and p.kind == "weight" and quantised
        if dtype.kind is Kind.PACKED or p.kind == "quantization" or whole:
            raise InputError(
                f"{ref}: '{printable(name)}' ({dtype}) belongs to a quantised weight; quantised"
                " models cannot be merged: dequantise it first, or take the model that it was quantised from"
            )


def _layers(model: Model) -> int:
    """Blocks of the main stack. Those that config does not count predict further tokens and lie behind them."""
    last = max((p.layer for p in model.parameters.values() if p.layer is not None and not p.stack), default=-1)
    return min(last + 1, config_numbers(model.checkpoint.config).get("layers", last + 1))


def _with_ties(base: Side, model: Model, paired: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`paired`, and what the model stores under another name: one of several of a tensor, or the head's embedding."""
    tensors = dict(paired)
    for alias, name in base.checkpoint.shared.items():
        for lacking, stored in ((alias, name), (name, alias)):
            if lacking in base.checkpoint and lacking not in tensors and stored in tensors:
                tensors[lacking] = tensors[stored]
    absent = model.ties.absent
    embedding = token_embedding(base.checkpoint, base.parameters)
    if absent is None or embedding is None:
        return tensors, []
    rows = base.checkpoint[embedding].shape[0]
    notes = []
    for name, p in base.parameters.items():
        shape = base.checkpoint[name].shape
        held = model.tensors[absent]
        if is_head(p) and name not in tensors and shape[:1] == (rows,) and shape[1:] == held.shape[1:]:
            tensors[name] = held
            notes.append(
                f"{printable(model.checkpoint.ref)}: ties its head, {base.ref} does not: '{printable(absent)}' stands"
                f" for '{printable(name)}' too"
            )
    return tensors, notes


@dataclass(frozen=True)
class Stacked:
    """The blocks of a main stack: `head` is what stands before the number; `blocks` {layer: {what stands behind it:
    the tensor}}.
    """

    head: str
    blocks: dict[int, dict[str, Tensor]]

    def name(self, layer: int, tail: str) -> str:
        """The name of a tensor of one layer."""
        return ".".join(part for part in (self.head, str(layer), tail) if part)


def stack_of(model: Model) -> Stacked:
    """The main stack's blocks. Raises InputError where two names are one parameter of one layer."""
    head = ""
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, p in model.parameters.items():
        if p.layer is None or p.stack:
            continue
        head, tail = _split(name)
        block = blocks.setdefault(p.layer, {})
        if tail in block:
            both = f"'{printable(block[tail].name)}' and '{printable(name)}'"
            raise InputError(
                f"{printable(model.checkpoint.ref)}: {both} are both of layer {p.layer}; expected one name for each"
                " parameter of a layer"
            )
        block[tail] = model.tensors[name]
    return Stacked(head, blocks)


def _split(name: str) -> tuple[str, str]:
    """What stands before and behind the number of a layer: behind the first list of blocks, as `classify` reads it."""
    segments = name.split(".")
    for at in range(1, len(segments)):
        if segments[at - 1].lower() in LAYER_LISTS and _NUMBER.fullmatch(segments[at]):
            return ".".join(segments[:at]), ".".join(segments[at + 1 :])
    msg = f"{name!r} was read as part of a layer, and has no list of layers"
    raise ValueError(msg)
