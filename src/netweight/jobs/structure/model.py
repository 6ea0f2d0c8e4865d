"""One model, analysed from its headers: its parameters placed, its config checked against its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.jobs.inputs import stamp_of
from netweight.jobs.structure.slices import Slices, slice_config, slice_notes
from netweight.params.block import Block
from netweight.params.block_types import BlockTypes, block_types
from netweight.params.declared import Declared, declared
from netweight.params.families import family
from netweight.params.model import Model
from netweight.params.role import Parameter, classify_all
from netweight.params.structure import Structure, structure_of
from netweight.params.tied import Ties, find_ties

__all__ = ["Analysed", "Check", "analyse", "file_stamps", "one_by_one", "varying_widths"]

_KINDS = {"safetensors": "standard"}


@dataclass(frozen=True)
class Check:
    """A number that config declares and shapes show: `shown` are the distinct values of the layers, in their order."""

    what: str
    key: str
    declared: int
    shown: tuple[int, ...]

    @property
    def agrees(self) -> bool:
        """Whether every layer has what config declares."""
        return all(value == self.declared for value in self.shown)

    def message(self) -> str:
        """The disagreement in a line."""
        values = ", ".join(str(value) for value in self.shown[:6]) + (", ..." if len(self.shown) > 6 else "")
        return f"config.json says {self.key} = {self.declared}, the tensors have {values}"


@dataclass(frozen=True)
class Analysed:
    """The analysis of one model's headers. `kind` is "standard", "bin" or "slicegpt"; `head_size` is the width of an
    attention head, where anything tells it.
    """

    name: str
    model: Model
    kind: str
    family: str
    types: BlockTypes
    structure: Structure
    declared: Declared
    head_size: int | None
    checks: tuple[Check, ...]
    slices: Slices
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    @property
    def checkpoint(self) -> Checkpoint:
        """Its tensors under its own names."""
        return self.model.checkpoint

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What its own names say."""
        return self.model.parameters

    @property
    def active(self) -> int | None:
        """Parameters that one token uses: all but the routed experts that it is not sent to; None where config does
        not tell to how many it is sent.
        """
        routed = sum(b.experts.routed_total for b in self.structure.blocks if b.experts)
        if not routed:
            return self.structure.total
        chosen = self.declared.experts_per_token
        if chosen is None:
            return None
        used = 0
        for block in self.structure.blocks:
            if block.experts and block.experts.routed_total:
                count = block.experts.count
                if not count:
                    return None
                used += block.experts.routed_total * min(chosen, count) // count
        return self.structure.total - routed + used


def file_stamps(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """What a later run compares to see that the files are the same: sizes, times and header digests, and those
    of config.json and SliceGPT's own.
    """
    entries: list[dict[str, Any]] = []
    for file in checkpoint.files:
        entry: dict[str, Any] = {"name": Path(file.path).name, "size": file.size}
        entry["modified_ns" if file.stamp is None else "stamp"] = stamp_of(file)
        entries.append(entry | {"header_digest": file.digest})
    files = [Path(file.path) for file in checkpoint.files if file.stamp is None]
    sliced = slice_config(files).path
    for beside in sorted({file.parent / "config.json" for file in files} | ({sliced} if sliced else set())):
        if beside.is_file():
            state = beside.stat()
            entries.append({"name": beside.name, "size": state.st_size, "modified_ns": state.st_mtime_ns})
    return entries


def analyse(checkpoint: Checkpoint, name: str, *, compare_tied: bool = False, head_size: int | None = None) -> Analysed:
    """Place every parameter of `checkpoint` and check them against its config. Reads headers only.

    `compare_tied` reads head and embedding where config ties them and the file holds both. `head_size` is used where
    the model itself does not tell how wide a head is.
    """
    model = Model(checkpoint)
    parameters = model.parameters
    ties = find_ties(checkpoint, compare=compare_tied, parameters=parameters)
    sliced = any(parameter.slot == "rotation" for parameter in parameters.values())
    slices = slice_config([Path(f.path) for f in checkpoint.files if f.stamp is None]) if sliced else Slices()
    config_says = declared(checkpoint.config)
    if config_says.head_size is None:
        shown = _rotary_head_size(checkpoint, parameters)
        head_size = shown if shown is not None else head_size
    structure = structure_of(model.tensors, parameters, ties, config_says, head_size)
    checks = () if sliced else tuple(_checks(structure, config_says, _config_keys(checkpoint.config)))
    notes = list(checkpoint.notes)
    notes += [check.message() for check in checks if not check.agrees]
    if checkpoint.config_problem:
        notes.append(f"{checkpoint.config_problem}; heads and declared sizes are not known from it")
    notes += slice_notes(slices, structure.blocks) if sliced else []
    notes += ties.notes("counted twice, as whether they are equal takes reading them (--deep)")
    if structure.packed:
        notes.append(
            f"{structure.packed} tensors hold no plain floats (quantized or integer): counts are elements as stored"
        )
    if structure.missing_layers:
        shown_numbers = ", ".join(str(number) for number in structure.missing_layers[:8])
        notes.append(f"layers without any tensor: {shown_numbers}: counted as layers of zero parameters")
    base = checkpoint.made_of[0] if checkpoint.made_of else checkpoint
    kind = "slicegpt" if sliced else _KINDS.get(base.format, "bin")
    named = family(checkpoint, checkpoint.config)
    return Analysed(
        name=name,
        model=model,
        kind=kind,
        family=named,
        types=block_types(named, checkpoint.config),
        structure=structure,
        declared=config_says,
        head_size=config_says.head_size if config_says.head_size is not None else head_size,
        checks=checks,
        slices=slices,
        notes=tuple(notes),
        skipped=checkpoint.skipped,
    )


def one_by_one(analysed: Analysed) -> Structure:
    """The places of a model's parameters with its projections and experts one by one, under canonical names."""
    model, structure = analysed.model, analysed.structure
    tensors = {name: tensor for name, (tensor, _) in model.items()}
    parameters = classify_all({name: tensor.shape for name, tensor in tensors.items()})
    tied = {model.canonical[alias]: model.canonical[name] for alias, name in structure.tied.items()}
    absent = None if structure.absent_head is None else model.canonical[structure.absent_head]
    return structure_of(tensors, parameters, Ties(tied, absent), analysed.declared, analysed.head_size)


def _rotary_head_size(checkpoint: Checkpoint, parameters: dict[str, Parameter]) -> int | None:
    """The width of a head from rotary frequencies that the file holds: Llama's turn the whole head."""
    for name, parameter in parameters.items():
        if parameter.buffer and name.endswith("rotary_emb.inv_freq") and ".self_attn." in name:
            shape = checkpoint[name].shape
            return 2 * shape[0] if len(shape) == 1 and shape[0] else None
    return None


_NAMES = {
    "num_hidden_layers": ("n_layer", "num_layers", "n_layers"),
    "hidden_size": ("n_embd", "d_model", "dim"),
    "vocab_size": ("padded_vocab_size",),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "multi_query"),
    "intermediate_size": ("ffn_hidden_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
}
"""What some families call a number in config.json."""


def _config_keys(config: Mapping[str, Any] | None) -> dict[str, str]:
    """{the usual key: the one that this config has for it}."""
    text = config.get("text_config") if isinstance(config, Mapping) else None
    levels = [level for level in (text, config) if isinstance(level, Mapping)]
    return {
        usual: next((key for key in (usual, *further) if any(level.get(key) for level in levels)), usual)
        for usual, further in _NAMES.items()
    }


def _checks(structure: Structure, config_says: Declared, named: Mapping[str, str]) -> Iterable[Check]:
    blocks = structure.blocks
    filled = [block for block in blocks if block.total]
    stacks = {block.stack for block in blocks}
    if stacks <= {""}:
        if config_says.layers is not None and blocks:
            extra = config_says.extra_layers if len(filled) == config_says.layers + config_says.extra_layers else 0
            yield Check("layers", named["num_hidden_layers"], config_says.layers, (len(filled) - extra,))
    else:
        for stack, count in config_says.stacks.items():
            if stack in stacks:
                layers = sum(block.stack == stack for block in filled)
                yield Check(f"{stack} layers", f"{stack} layers", count, (layers,))
    hidden = _distinct(block.dimensions.get("attention_input") for block in filled if not block.cross_attention)
    if not hidden and "hidden_size" in structure.sizes:
        hidden = (structure.sizes["hidden_size"],)
    vocabulary = (structure.sizes["vocabulary"],) if structure.sizes else ()
    experts = _distinct(b.experts.count for b in filled if b.experts and b.experts.routed)
    plain = _distinct(b.intermediate_size for b in filled)
    inside = _distinct(b.experts.intermediate_size for b in filled if b.experts and b.experts.routed)
    for quantity, key, number, values in (
        ("hidden_size", "hidden_size", config_says.hidden_size, hidden),
        ("vocabulary", "vocab_size", config_says.vocabulary, vocabulary),
        ("heads", "num_attention_heads", config_says.heads, _distinct(b.heads for b in filled)),
        ("kv_heads", "num_key_value_heads", config_says.kv_heads, _distinct(b.kv_heads for b in filled)),
        ("intermediate_size", "intermediate_size", config_says.intermediate_size, plain),
        ("experts", "num_experts", config_says.experts, experts),
        (
            "expert_size",
            "moe_intermediate_size" if config_says.expert_size else "intermediate_size",
            config_says.expert_size or config_says.intermediate_size,
            inside,
        ),
    ):
        if number is not None and values:
            yield Check(quantity, named.get(key, key), number, values)


def _distinct(values: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def varying_widths(blocks: Sequence[Block]) -> dict[str, dict[str, list[int]]]:
    """Widths that differ between blocks: {width: {value: numbers of the blocks that have it}}, each stack by itself."""
    widths: dict[str, dict[str, list[int]]] = {}
    for block in blocks:
        for key, value in _widths(block).items():
            widths.setdefault(key, {}).setdefault(str(value), []).append(block.index)
    return {key: values for key, values in widths.items() if len(values) > 1}


def _widths(block: Block) -> dict[str, Any]:
    widths: dict[str, Any] = {
        **block.dimensions,
        "num_heads": block.heads,
        "num_kv_heads": block.kv_heads,
        "intermediate_size": block.intermediate_size,
    }
    return {f"{block.stack}.{key}" if block.stack else key: value for key, value in widths.items() if value is not None}
