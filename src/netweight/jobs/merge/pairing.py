"""The models of a merge side by side: which tensor of each is which parameter of the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.dtypes import Kind
from netweight.errors import InputError, printable
from netweight.params.architecture import config_numbers
from netweight.params.prefix import find_prefixes
from netweight.params.role import Parameter, classify_all
from netweight.params.tied import find_ties

__all__ = ["Side", "is_head", "read_sides", "ties_head", "token_embedding"]


@dataclass(frozen=True)
class Side:
    """One checkpoint of a merge, `number` in the order of the recipe's references.

    `parameters` are by its own names; `names` maps names of the output to its own, with the embedding in the place of
    a head that is tied to it and not stored. `layers` counts the blocks of the main stack. `absent`: the embedding
    that serves as the head, where none is stored. `aliases` maps tensors that are left out to the ones that they
    repeat (only of the model that the output is named after).
    """

    number: int
    checkpoint: Checkpoint
    parameters: Mapping[str, Parameter]
    names: Mapping[str, str]
    layers: int
    absent: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """Its reference, safe to print."""
        return printable(self.checkpoint.ref)

    @property
    def tied_to(self) -> str | None:
        """The embedding that serves as the head in what is written of this model, None where a head is."""
        heads = (written for name, written in self.aliases.items() if is_head(self.parameters[name]))
        return self.absent or next(heads, None)

    def get(self, name: str) -> Tensor | None:
        """The tensor that stands for the output's parameter `name`."""
        own = self.names.get(name)
        return None if own is None else self.checkpoint[own]


def read_sides(checkpoints: Mapping[int, Checkpoint], anchor: int) -> tuple[dict[int, Side], list[str]]:
    """Read the names of every checkpoint and pair them with those of number `anchor`, after which the output is named.

    Returns the sides by number, and notes. Raises InputError for quantised weights, for adapters, and for a model that
    shares no name with the anchor.
    """
    base, notes = _anchor(anchor, checkpoints[anchor])
    sides = {anchor: base}
    for number, checkpoint in checkpoints.items():
        if number == anchor:
            continue
        parameters = classify_all({name: tensor.shape for name, tensor in checkpoint.items()})
        _refuse(checkpoint, parameters)
        names, note = _pair(base.checkpoint, checkpoint)
        if not names:
            raise InputError(
                f"{printable(checkpoint.ref)} and {base.ref} share no parameter: {_examples(checkpoint)} against"
                f" {_examples(base.checkpoint)}; expected models of one architecture"
            )
        notes += [note] if note else []
        absent = find_ties(checkpoint, parameters=parameters).absent
        notes += _fill_ties(base, checkpoint, names, absent)
        sides[number] = Side(number, checkpoint, parameters, names, _layers(checkpoint, parameters), absent)
    return sides, notes


def is_head(parameter: Parameter) -> bool:
    """Whether this is the matrix of a head that yields tokens."""
    return parameter.slot == "lm_head" and parameter.role == "output" and parameter.layer is None


def token_embedding(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> str | None:
    """The largest matrix of token embeddings outside of blocks and other towers."""
    embeddings = [
        name
        for name, p in parameters.items()
        if p.slot == "token_embedding" and p.role == "embedding" and p.layer is None and not p.stack
    ]
    matrices = [name for name in embeddings if len(checkpoint[name].shape) == 2]
    return max(matrices, key=lambda name: checkpoint[name].size, default=None)


def ties_head(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> bool:
    """Whether config ties the head to the embedding, whatever is stored."""
    headless = {name: p for name, p in parameters.items() if p.group != "lm_head"}
    return find_ties(checkpoint, parameters=headless).absent is not None


def _anchor(number: int, checkpoint: Checkpoint) -> tuple[Side, list[str]]:
    parameters = classify_all({name: tensor.shape for name, tensor in checkpoint.items()})
    _refuse(checkpoint, parameters)
    if not checkpoint:
        raise InputError(f"{printable(checkpoint.ref)}: holds no tensors, so there is nothing to merge")
    aliases, notes = _aliases(checkpoint, parameters)
    absent = find_ties(checkpoint, parameters=parameters).absent
    names = {name: name for name in checkpoint}
    return Side(number, checkpoint, parameters, names, _layers(checkpoint, parameters), absent, aliases), notes


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


def _refuse(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> None:
    """Quantised weights are no numbers to calculate with, and an adapter is no model."""
    quantised = isinstance(checkpoint.config, Mapping) and "quantization_config" in checkpoint.config
    adapters = 0
    for name, p in parameters.items():
        dtype = checkpoint[name].dtype
        whole = dtype.kind is Kind.INTEGER and p.kind == "weight" and quantised
        if dtype.kind is Kind.PACKED or p.kind == "quantization" or whole:
            raise InputError(
                f"{printable(checkpoint.ref)}: '{printable(name)}' ({dtype}) belongs to a quantised weight; quantised"
                " models cannot be merged: dequantise it first, or take the model that it was quantised from"
            )
        adapters += p.kind == "adapter"
    if adapters and adapters == len(parameters):
        raise InputError(
            f"{printable(checkpoint.ref)}: holds an adapter alone ({_examples(checkpoint)}); expected a whole model:"
            " merge it into its base model first"
        )


def _layers(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> int:
    """Blocks of the main stack. Those that config does not count predict further tokens and lie behind them."""
    last = max((p.layer for p in parameters.values() if p.layer is not None and not p.stack), default=-1)
    return min(last + 1, config_numbers(checkpoint.config).get("layers", last + 1))


def _pair(base: Checkpoint, model: Checkpoint) -> tuple[dict[str, str], str | None]:
    """{name in the base: name in the model}, equal names or, where that fails, names without a wrapper's prefix."""
    exact = {name: name for name in base if name in model}
    if 2 * len(exact) >= min(len(base), len(model)):
        return exact, None
    prefixes = find_prefixes(list(base), list(model))
    if prefixes is None or len(prefixes.pairs) <= len(exact):
        return exact, None
    sides = [f"the prefix '{printable(p)}' passed over" if p else "no prefix" for p in (prefixes.base, prefixes.model)]
    how = f"{sides[0]} in {printable(base.ref)} and {sides[1]} in the model"
    return dict(prefixes.pairs), f"{printable(model.ref)}: names matched with {how}"


def _fill_ties(base: Side, model: Checkpoint, names: dict[str, str], absent: str | None) -> list[str]:
    """Add tensors that the model stores under another name: one of several of a tensor, or the head's embedding."""
    for alias, name in base.checkpoint.shared.items():
        for lacking, stored in ((alias, name), (name, alias)):
            if lacking in base.checkpoint and lacking not in names and stored in names:
                names[lacking] = names[stored]
    embedding = token_embedding(base.checkpoint, base.parameters)
    if absent is None or embedding is None:
        return []
    rows = base.checkpoint[embedding].shape[0]
    notes = []
    for name, p in base.parameters.items():
        shape = base.checkpoint[name].shape
        if is_head(p) and name not in names and shape[:1] == (rows,) and shape[1:] == model[absent].shape[1:]:
            names[name] = absent
            notes.append(
                f"{printable(model.ref)}: ties its head, {base.ref} does not: '{printable(absent)}' stands for"
                f" '{printable(name)}' too"
            )
    return notes


def _examples(names: Mapping[str, object]) -> str:
    shown: Sequence[str] = [f"'{printable(name, 60)}'" for name in islice(names, 2)]
    return ", ".join(shown) if shown else "no tensors"
