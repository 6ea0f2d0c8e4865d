"""A pruned model beside its base, at every level: original, pruned, reduced, reduction_ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netweight.errors import printable
from netweight.jobs.structure.layers import Fingerprint, LayerKey, LayerMatch, match_layers
from netweight.jobs.structure.model import Analysed, one_by_one
from netweight.params.block import Block

__all__ = ["comparison_dict", "needs_fingerprints", "reduction"]

_FUSED = frozenset({"qkv", "kv_proj", "gate_up"})


def reduction(original: int, pruned: int) -> dict[str, Any]:
    """{original, pruned, reduced, reduction_ratio} in elements; the ratio is None where there was nothing and now
    is something.
    """
    reduced = original - pruned
    ratio = reduced / original if original else (0.0 if not pruned else None)
    return {"original": original, "pruned": pruned, "reduced": reduced, "reduction_ratio": ratio}


def needs_fingerprints(model: Analysed, base: Analysed) -> bool:
    """Whether layers were removed or added, so that their contents must tell which ones."""
    return _filled(model) != _filled(base)


def _filled(model: Analysed) -> set[LayerKey]:
    return {(block.stack, block.index) for block in model.structure.blocks if block.total}


def comparison_dict(
    model: Analysed,
    base: Analysed,
    base_prints: Mapping[LayerKey, Fingerprint] | None,
    pruned: Mapping[str, Any],
    original: Mapping[str, Any],
) -> dict[str, Any]:
    """The comparison for JSON; `pruned` and `original` are the `structure_dict` of both. Data is read only where
    layers were removed or added. Raises ReadError.
    """
    matched = match_layers(model, base, base_prints)
    model, base = _in_one_layout(model, base)
    blocks = {(block.stack, block.index): block for block in model.structure.blocks}
    of_base: dict[LayerKey, tuple[LayerKey, LayerMatch]] = {}
    added = []
    for key, match in matched.matches.items():
        if match is None or match.base in of_base:
            if key not in matched.unknown:
                added.append((key, match))
        else:
            of_base[match.base] = (key, match)
    certain = not matched.unknown
    zero_layers = {(row.get("stack", ""), row["layer_idx"]) for row in pruned["layers"] if row["is_zero_layer"]}
    layers = []
    for block in base.structure.blocks:
        key = (block.stack, block.index)
        if key in of_base:
            own, match = of_base[key]
            layers.append(_layer(block, blocks[own], match, zero=own in zero_layers))
        elif certain or key in matched.gone:
            layers.append(_layer(block, None, None, zero=True))
    entry: dict[str, Any] = {
        "original_name": base.name,
        "pruned_name": model.name,
        "total_params": reduction(original["total_params"], pruned["total_params"]),
        "layer_params": reduction(base.structure.layer_parameters, model.structure.layer_parameters),
        "layers": layers,
        "embedding_params": reduction(original["embedding_params"], pruned["embedding_params"]),
        "lm_head_params": reduction(original["lm_head_params"], pruned["lm_head_params"]),
        "num_layers": reduction(len(_filled(base)), len(_filled(model))),
        "bytes": reduction(base.structure.bytes, model.structure.bytes),
        "removed_layers": [_label(key) for key in matched.gone],
        "added_layers": [
            {"layer_idx": key[1], "repeats": _label(match.base) if match else None} for key, match in added
        ],
        "layer_map": [
            {
                "layer_idx": _label(key),
                "base_layer": _label(match.base) if match else None,
                "matched_by": match.how if match else None,
                "similarity": match.similarity if match else None,
            }
            for key, match in matched.matches.items()
        ],
    }
    if model.kind == "slicegpt":
        plain = model.structure.total - model.structure.rotation_parameters
        entry["total_params_without_rotation"] = reduction(original["total_params"], plain)
    if "zeros" in pruned:
        entry["nonzero_params"] = reduction(original["total_params"], pruned["zeros"]["nonzero_params"])
    entry["unknown_layers"] = [_label(key) for key in matched.unknown]
    entry["notes"] = [*matched.notes, *_packed(model, base)]
    return entry


def _in_one_layout(model: Analysed, base: Analysed) -> tuple[Analysed, Analysed]:
    """Both as they are; with projections one by one where only one of them has fused ones."""
    fused = [
        {slot for block in side.structure.blocks for slot in (*block.attention, *block.mlp)} & _FUSED
        for side in (model, base)
    ]
    if fused[0] == fused[1]:
        return model, base
    return replace(model, structure=one_by_one(model)), replace(base, structure=one_by_one(base))


def _packed(model: Analysed, base: Analysed) -> list[str]:
    """The note where only one of both is quantized: elements as stored are not parameters then."""
    if bool(model.structure.packed) == bool(base.structure.packed):
        return []
    which = printable(model.name if model.structure.packed else base.name)
    return [f"{which} is stored packed (quantized): reductions are of elements as stored, not of parameters"]


def _label(key: LayerKey) -> int | str:
    return f"{key[0]}.{key[1]}" if key[0] else key[1]


def _layer(base: Block, pruned: Block | None, match: LayerMatch | None, *, zero: bool) -> dict[str, Any]:
    total = 0 if pruned is None else pruned.total
    empty: dict[str, int] = {}
    entry: dict[str, Any] = {
        "layer_idx": base.index,
        "total": reduction(base.total, total),
        "attention": _part(base.attention, empty if pruned is None else pruned.attention),
        "mlp": _part(_mlp(base), empty if pruned is None else _mlp(pruned)),
        "is_zero_layer": zero,
        "norm": reduction(sum(base.norms.values()), 0 if pruned is None else sum(pruned.norms.values())),
    }
    if base.stack:
        entry["stack"] = base.stack
    if base.cross_attention:
        entry["cross_attention"] = _part(base.cross_attention, empty if pruned is None else pruned.cross_attention)
    if pruned is not None and pruned.rotation:
        without = pruned.total - sum(pruned.rotation.values())
        entry["total_without_rotation"] = reduction(base.total, without)
    entry["pruned_layer_idx"] = None if pruned is None else pruned.index
    entry["matched_by"] = None if match is None else match.how
    for name, was, now in (
        ("num_heads", base.heads, pruned.heads if pruned else None),
        ("num_kv_heads", base.kv_heads, pruned.kv_heads if pruned else None),
        ("intermediate_size", base.intermediate_size, pruned.intermediate_size if pruned else None),
    ):
        if was is not None:
            entry[name] = {"original": was, "pruned": now}
    return entry


def _mlp(block: Block) -> dict[str, int]:
    parts = dict(block.mlp)
    if block.experts is not None:
        parts |= {"experts": block.experts.routed_total, "router": block.experts.router}
        if block.experts.shared:
            parts["shared_expert"] = sum(block.experts.shared.values())
    return parts


def _part(base: Mapping[str, int], pruned: Mapping[str, int]) -> dict[str, Any]:
    slots = list(dict.fromkeys([*base, *pruned]))
    return {
        "total": reduction(sum(base.values()), sum(pruned.values())),
        **{slot: reduction(base.get(slot, 0), pruned.get(slot, 0)) for slot in slots},
    }
