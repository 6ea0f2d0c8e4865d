"""The numbers that describe an architecture: from config.json where it has them, else from shapes where those are
certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.dtypes import Kind
from netweight.params.families import family
from netweight.params.role import Parameter

__all__ = ["Architecture", "config_numbers", "describe"]

_KEYS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "multi_query_group_num"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "head_size": ("head_dim", "d_kv", "kv_channels"),
}
"""The names of each number in config.json, by family; the first one that is there counts."""

_LARGEST = 10**12  # larger numbers in a config are not believed


@dataclass(frozen=True)
class Architecture:
    """Counts and sizes in elements; None where neither config nor shapes tell. `notes` say where the two disagree."""

    layers: int | None
    heads: int | None
    kv_heads: int | None
    hidden_size: int | None
    intermediate_size: int | None
    vocabulary: int | None
    stacks: dict[str, int]
    notes: tuple[str, ...] = ()


def describe(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> Architecture:
    """The architecture of a checkpoint whose names are classified as `parameters`. Reads headers only; invalid
    entries of a config are ignored.
    """
    declared = config_numbers(checkpoint.config)
    stacks = _stacks(parameters)
    shown = _from_shapes(checkpoint, parameters, declared)
    further = _further(checkpoint.config)
    if "" in stacks and further and declared.get("layers") == stacks[""] - further:
        stacks |= {"": stacks[""] - further, "mtp": stacks.get("mtp", 0) + further}
    if "" in stacks:
        shown["layers"] = stacks[""]
    notes = []
    for key, what in _COMPARED.items():
        if key in declared and key in shown and declared[key] != shown[key]:
            notes.append(f"config.json says {_KEYS[key][0]} = {declared[key]}, {what} {shown[key]}")
    numbers = shown | declared
    if "kv_heads" not in declared and "heads" in declared and shown.get("kv_heads") is None:
        numbers.pop("kv_heads", None)
    return Architecture(
        layers=numbers.get("layers"),
        heads=numbers.get("heads"),
        kv_heads=numbers.get("kv_heads"),
        hidden_size=numbers.get("hidden_size"),
        intermediate_size=numbers.get("intermediate_size"),
        vocabulary=numbers.get("vocabulary"),
        stacks=stacks,
        notes=tuple(notes),
    )


_COMPARED = {
    "layers": "the names of the tensors count",
    "hidden_size": "the columns of the embedding are",
    "vocabulary": "the rows of the embedding are",
    "kv_heads": "the rows of k_proj make",
    "heads": "the rows of q_proj make",
}


def config_numbers(config: Mapping[str, Any] | None) -> dict[str, int]:
    """The numbers that config.json gives, under netweight's names: layers, heads, kv_heads, hidden_size,
    intermediate_size, vocabulary, head_size; a `text_config` comes first, and what is no sensible number is left out.
    """
    if not isinstance(config, Mapping):
        return {}
    text = config.get("text_config")
    levels = [level for level in (text, config) if isinstance(level, Mapping)]
    numbers = {}
    for key, names in _KEYS.items():
        values = (level.get(name) for level in levels for name in names)
        number = next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 < v < _LARGEST), None)
        if number is not None:
            numbers[key] = number
    return numbers


def _further(config: Mapping[str, Any] | None) -> int:
    """Blocks behind the main ones that predict further tokens (DeepSeek-V3, GLM-4.5)."""
    number = (config or {}).get("num_nextn_predict_layers")
    return number if type(number) is int and number > 0 else 0


def _stacks(parameters: Mapping[str, Parameter]) -> dict[str, int]:
    """{stack: its blocks}, the main one as ""."""
    blocks: dict[str, set[int]] = {}
    for parameter in parameters.values():
        if parameter.layer is not None:
            blocks.setdefault(parameter.stack, set()).add(parameter.layer)
    return {stack: len(numbers) for stack, numbers in blocks.items()}


def _from_shapes(
    checkpoint: Checkpoint, parameters: Mapping[str, Parameter], declared: Mapping[str, int]
) -> dict[str, int]:
    """Numbers that shapes of float matrices in the main stack prove; quantized matrices are packed and prove none."""
    first: dict[str, Tensor] = {}
    embedding: Tensor | None = None
    for name, parameter in parameters.items():
        tensor = checkpoint[name]
        if (
            tensor.dtype.kind is not Kind.FLOAT
            or len(tensor.shape) != 2
            or parameter.kind != "weight"
            or parameter.stack
        ):
            continue
        if parameter.slot == "token_embedding" and parameter.layer is None:
            embedding = tensor if embedding is None or tensor.size > embedding.size else embedding
        elif parameter.role in {"q_proj", "k_proj", "up_proj"}:
            first.setdefault(parameter.slot, tensor)
    numbers: dict[str, int] = {}
    if embedding is None:
        return numbers
    numbers["vocabulary"], hidden = embedding.shape
    numbers["hidden_size"] = hidden
    if "up_proj" in first and hidden in first["up_proj"].shape:
        rows, columns = first["up_proj"].shape
        numbers["intermediate_size"] = rows if columns == hidden else columns
    head_size = declared.get("head_size")
    if head_size is None and "heads" in declared and hidden % declared["heads"] == 0:
        head_size = hidden // declared["heads"]
    gated = _has_gated_queries(checkpoint)
    for slot, key, parts in (("q_proj", "heads", 2 if gated else 1), ("k_proj", "kv_heads", 1)):
        rows, width = first[slot].shape if slot in first else (0, 0)
        if head_size and rows and width == hidden and rows % (parts * head_size) == 0:
            numbers[key] = rows // (parts * head_size)
    return numbers


def _has_gated_queries(checkpoint: Checkpoint) -> bool:
    """Whether q_proj holds a gate for every query: Qwen3-Next and Qwen3.5, and whose config says so."""
    text = (checkpoint.config or {}).get("text_config")
    levels = [level for level in (text, checkpoint.config) if isinstance(level, Mapping)]
    if any(level.get("attn_output_gate") is True for level in levels):
        return True
    return family(checkpoint, checkpoint.config) in {"qwen3-next", "qwen3.5", "qwen3.5-moe"}
