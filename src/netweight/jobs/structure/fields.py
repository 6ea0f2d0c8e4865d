"""A model's structure as model_structure.json has it: the reference's fields first, in its order, then netweight's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from netweight.jobs.structure.model import Analysed, Check, file_stamps, varying_widths
from netweight.jobs.structure.slices import sliced_dimensions
from netweight.jobs.structure.text import spans
from netweight.params.block import Block
from netweight.params.structure import Unplaced
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.structure.zeros import Zeros

__all__ = ["structure_dict"]

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


def structure_dict(
    model: Analysed,
    zero_layers: frozenset[tuple[str, int]],
    *,
    count_tied_twice: bool = False,
    zeros: Zeros | None = None,
) -> dict[str, Any]:
    """Everything known of one model, for JSON; counts are elements, tied weights once unless `count_tied_twice`.
    `zero_layers`: those that hold nothing but zeros.
    """
    structure = model.structure
    entry = {
        **_reference_fields(model, zero_layers, count_tied_twice=count_tied_twice),
        "layers": [_layer(model, block, zero_layers, zeros) for block in structure.blocks],
        **_further_counts(model, count_tied_twice=count_tied_twice),
        "tied": _ties(model),
        "other": [_unplaced(row) for row in structure.unplaced],
        "config": [_config_check(check) for check in model.checks],
        "varying": varying_widths(structure.blocks),
        "experts_per_token": model.declared.experts_per_token,
    }
    if model.kind == "slicegpt":
        entry["slicegpt"] = _slices(model)
    if zeros is not None:
        entry["zeros"] = zeros.to_dict(structure.total)
    entry["notes"] = list(model.notes)
    if zero_layers:
        numbers = [f"{stack}.{number}" if stack else number for stack, number in sorted(zero_layers)]
        entry["notes"].append(f"every weight is zero in layer {spans(numbers)}")
    entry["not_weights"] = [{"name": row.name, "reason": row.reason} for row in model.skipped[:100]]
    entry["source"] = {
        "netweight": __version__,
        "ref": model.checkpoint.ref,
        "count_tied_twice": count_tied_twice,
        "deep": zeros is not None,
        "files": file_stamps(model.checkpoint),
    }
    return entry


def _reference_fields(
    model: Analysed, zero_layers: frozenset[tuple[str, int]], *, count_tied_twice: bool
) -> dict[str, Any]:
    """The fields that the replaced tool has."""
    structure = model.structure
    head = sum(structure.head.values())
    return {
        "model_name": model.name,
        "total_params": structure.total + (structure.tied_twice if count_tied_twice else 0),
        "embedding_params": sum(structure.embeddings.values()),
        "lm_head_params": head + (_absent_head(model) if count_tied_twice else 0),
        "layer_summary": {
            "num_layers": len(structure.blocks),
            "total_layer_params": structure.layer_parameters,
            "num_zero_layers": len(zero_layers) + sum(block.total == 0 for block in structure.blocks),
            "attention": sum(sum(b.attention.values()) + sum(b.cross_attention.values()) for b in structure.blocks),
            "mlp": sum(block.mlp_total for block in structure.blocks),
            "norm": sum(sum(block.norms.values()) for block in structure.blocks),
            "rotation": sum(sum(block.rotation.values()) for block in structure.blocks),
            "other": sum(sum(block.other.values()) for block in structure.blocks),
        },
    }


def _further_counts(model: Analysed, *, count_tied_twice: bool) -> dict[str, Any]:
    structure, active = model.structure, model.active
    extra = structure.tied_twice if count_tied_twice else 0
    return {
        "model_type": model.kind,
        "format": model.checkpoint.format,
        "family": model.family,
        "norm_params": sum(structure.norms.values()),
        "other_params": sum(structure.other.values()) + sum(structure.rotations.values()),
        "towers": structure.towers,
        "embeddings": structure.embeddings,
        "lm_head": structure.head,
        "biases": structure.biases,
        "buffers": structure.buffers,
        "trainable_params": structure.trainable,
        "bytes": structure.bytes,
        "active_params": None if active is None else active + extra,
    }


def _ties(model: Analysed) -> dict[str, Any]:
    structure = model.structure
    return {
        "aliases": structure.tied,
        "head_is": structure.absent_head,
        "total_params_counted_twice": structure.total + structure.tied_twice,
        "lm_head_params_counted_twice": sum(structure.head.values()) + _absent_head(model),
    }


def _absent_head(model: Analysed) -> int:
    """Elements of the head where it is not stored, being the embedding."""
    absent = model.structure.absent_head
    return 0 if absent is None else model.checkpoint[absent].size


def _unplaced(row: Unplaced) -> dict[str, Any]:
    return {
        "pattern": row.pattern,
        "place": row.place,
        "tensors": row.tensors,
        "params": row.parameters,
        "example": row.example,
    }


def _config_check(check: Check) -> dict[str, Any]:
    return {
        "what": check.what,
        "key": check.key,
        "declared": check.declared,
        "found": check.shown[0] if len(check.shown) == 1 else list(check.shown),
        "agrees": check.agrees,
    }


def _layer(
    model: Analysed, block: Block, zero_layers: frozenset[tuple[str, int]], zeros: Zeros | None
) -> dict[str, Any]:
    attention_type, mlp_type, moe_type = model.types
    attention = sum(block.attention.values())
    mlp: dict[str, Any] = {
        "type": (moe_type if block.experts else mlp_type) if block.mlp_total else None,
        "total": block.mlp_total,
        **_parts(block.mlp, _MLP),
        "intermediate_size": block.intermediate_size,
    }
    if block.experts is not None:
        experts = block.experts
        mlp["experts"] = {
            "count": experts.count,
            "total": experts.routed_total,
            **experts.routed,
            "per_expert": experts.routed_total // experts.count if experts.count else None,
            "intermediate_size": experts.intermediate_size,
        }
        if experts.shared:
            mlp["shared_expert"] = {
                "total": sum(experts.shared.values()),
                **experts.shared,
                "intermediate_size": experts.shared_intermediate_size,
            }
        mlp["router"] = experts.router
    mlp["bias"] = block.biases.get("mlp", 0)
    layer: dict[str, Any] = {
        "layer_idx": block.index,
        "total": block.total,
        "attention": {
            "type": attention_type if attention else None,
            "total": attention,
            **_parts(block.attention, _ATTENTION),
            "num_heads": block.heads,
            "num_kv_heads": block.kv_heads,
            "bias": block.biases.get("attention", 0),
        },
        "mlp": mlp,
        "norm": sum(block.norms.values()),
        "is_zero_layer": block.total == 0 or (block.stack, block.index) in zero_layers,
        "norms": block.norms,
    }
    if block.stack:
        layer["stack"] = block.stack
    if block.cross_attention:
        layer["cross_attention"] = {
            "type": attention_type,
            "total": sum(block.cross_attention.values()),
            **_parts(block.cross_attention, _ATTENTION),
        }
    if block.rotation:
        layer["rotation"] = block.rotation
        layer["total_without_rotation"] = block.total - sum(block.rotation.values())
    if block.other:
        layer["other"] = block.other
    layer["dimensions"] = block.dimensions
    layer["bytes"] = block.bytes
    if zeros is not None:
        layer["zeros"] = zeros.layer(block.stack, block.index)
    return layer


def _parts(slots: Mapping[str, int], first: tuple[str, ...]) -> dict[str, int]:
    """The reference's fields always, 0 where a model has no such matrix of its own, then fused and other ones."""
    return {slot: slots.get(slot, 0) for slot in first} | {k: v for k, v in slots.items() if k not in first}


def _slices(model: Analysed) -> dict[str, Any]:
    structure = model.structure
    declared = model.slices.entries
    copied = ("hidden_size", "layers_num", "do_slice_head", "parallel_blocks", "head_dimension", "const_dimension")
    return {
        "config_file": model.slices.path.name if model.slices.path is not None else None,
        **{key: declared[key] for key in copied if isinstance(declared.get(key, ""), int | bool | type(None))},
        "embedding_dimension": structure.sizes.get("hidden_size"),
        "rotation_params": structure.rotation_parameters,
        "total_params_with_rotation": structure.total,
        "total_params_without_rotation": structure.total - structure.rotation_parameters,
        "layers": [
            {"layer_idx": block.index, **block.dimensions, "declared": sliced_dimensions(model.slices, block.index)}
            for block in structure.blocks
        ],
    }
