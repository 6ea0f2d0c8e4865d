"""A model's results boiled down to what tables and pictures need: one line for the model, one for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netweight.columns import Column
from netweight.errors import FormatError, printable
from netweight.output.table import Row

__all__ = ["LAYER_COLUMNS", "SUMMARY_COLUMNS", "LayerRow", "ModelRow", "summary_row"]


@dataclass(frozen=True)
class LayerRow:
    """One layer of a model, or a base layer that is gone (`layer` None); counts are elements. `base_layer` is
    the number of the base's layer, None where it is not known or there is no base.
    """

    stack: str
    layer: int | None
    base_layer: int | None
    matched_by: str | None
    total: int
    attention: int
    mlp: int
    norm: int
    rotation: int
    heads: int | None
    kv_heads: int | None
    intermediate_size: int | None
    original: int | None
    reduction_ratio: float | None
    zero_share: float | None


@dataclass(frozen=True)
class ModelRow:
    """One model: the counts of its summary, in elements; those of the comparison are None without one."""

    total: int
    layers: int
    layer_params: int
    embedding: int
    lm_head: int
    attention: int | None
    mlp: int | None
    norm: int | None
    rotation: int | None
    buffers: int | None
    bytes: int | None
    active: int | None
    zero_layers: int
    zero_share: float | None
    original: int | None
    reduction_ratio: float | None
    removed: tuple[int | str, ...] | None
    disagreements: int
    base_name: str | None
    base_ref: str | None
    rows: tuple[LayerRow, ...]


SUMMARY_COLUMNS = (
    Column("name", "", "the model's name in the results", "text"),
    Column("type", "", "standard, bin, slicegpt or none", "text"),
    Column("status", "", "analysed, kept, failed or skipped", "text"),
    Column("total_params", "elements", "every parameter once, buffers aside", "integer"),
    Column("num_layers", "", "layers, those without parameters included", "integer"),
    Column("layer_params", "elements", "in all layers", "integer"),
    Column("embedding_params", "elements", "token, position and type embeddings", "integer"),
    Column("lm_head_params", "elements", "the head, 0 where it is the embedding", "integer"),
    Column("attention_params", "elements", "attention of all layers, norms aside", "integer"),
    Column("mlp_params", "elements", "feed-forward of all layers, experts and routers included", "integer"),
    Column("norm_params", "elements", "norms of all layers", "integer"),
    Column("rotation_params", "elements", "SliceGPT's shortcut_Q matrices", "integer"),
    Column("active_params", "elements", "parameters that one token uses", "integer"),
    Column("buffers", "elements", "what the model's code computes; not in total_params", "integer"),
    Column("bytes", "bytes", "of all tensors, ties once", "integer"),
    Column("zero_layers", "", "layers without parameters, or with nothing but zeros", "integer"),
    Column("zero_share", "", "share of parameters that are exactly zero, where data was read", "number"),
    Column("original_params", "elements", "the base's total_params", "integer"),
    Column("reduction_ratio", "", "1 - total_params / original_params", "number"),
    Column("removed_layers", "", "the base's layers that are gone", "text"),
    Column("config_disagreements", "", "numbers of config.json that the tensors contradict", "integer"),
    Column("path", "", "where the model is", "text"),
    Column("error", "", "why it could not be analysed", "text"),
)
"""A row for each model: models_summary.csv."""

LAYER_COLUMNS = (
    Column("model", "", "the model's name in the results", "text"),
    Column("stack", "", "encoder or decoder, empty for the only one", "text"),
    Column("layer_idx", "", "the layer's number in the model, empty where the base's layer is gone", "integer"),
    Column("base_layer_idx", "", "the base's layer that it is", "integer"),
    Column("matched_by", "", "name, content, similar or position", "text"),
    Column("total", "elements", "parameters of the layer", "integer"),
    Column("attention", "elements", "of attention, norms aside", "integer"),
    Column("mlp", "elements", "of the feed-forward, experts and router included", "integer"),
    Column("norm", "elements", "of its norms", "integer"),
    Column("rotation", "elements", "of SliceGPT's shortcut_Q matrices", "integer"),
    Column("num_heads", "", "attention heads that the shapes show", "integer"),
    Column("num_kv_heads", "", "heads for keys and values", "integer"),
    Column("intermediate_size", "", "width inside the feed-forward", "integer"),
    Column("original", "elements", "parameters of the base's layer", "integer"),
    Column("reduction_ratio", "", "1 - total / original", "number"),
    Column("zero_share", "", "share of exact zeros, where data was read", "number"),
)
"""A row for each layer: structure.csv and structure.parquet."""


def layer_cells(name: str, row: LayerRow) -> Row:
    """`row` under LAYER_COLUMNS."""
    return (
        name, row.stack, row.layer, row.base_layer, row.matched_by, row.total, row.attention, row.mlp, row.norm,
        row.rotation, row.heads, row.kv_heads, row.intermediate_size, row.original, row.reduction_ratio, row.zero_share,
    )  # fmt: skip


def summary_row(structure: Mapping[str, Any], comparison: Mapping[str, Any] | None, where: str) -> ModelRow:
    """The rows of one model from its JSON, also from files of the tool that netweight replaces (fewer fields).

    Raises FormatError, naming `where`, where a field is missing or of another type.
    """
    try:
        return _summary_row(structure, comparison)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        fault = f"no field {error}" if isinstance(error, KeyError) else f"a field of the wrong type ({error})"
        raise FormatError(
            f"{printable(where)}: is no structure analysis: {printable(fault)}; run again with --reanalyze"
        ) from None


def _summary_row(structure: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> ModelRow:
    summary = structure["layer_summary"]
    totals = comparison["total_params"] if comparison else {}
    config = structure.get("config", [])
    return ModelRow(
        total=_count(structure["total_params"]),
        layers=_count(summary["num_layers"]),
        layer_params=_count(summary["total_layer_params"]),
        embedding=_count(structure["embedding_params"]),
        lm_head=_count(structure["lm_head_params"]),
        attention=summary.get("attention"),
        mlp=summary.get("mlp"),
        norm=summary.get("norm"),
        rotation=summary.get("rotation"),
        buffers=structure.get("buffers"),
        bytes=structure.get("bytes"),
        active=structure.get("active_params"),
        zero_layers=sum(bool(layer["is_zero_layer"]) for layer in structure["layers"]),
        zero_share=structure["zeros"]["zero_share"] if "zeros" in structure else None,
        original=_count(totals["original"]) if comparison else None,
        reduction_ratio=totals["reduction_ratio"] if comparison else None,
        removed=tuple(comparison.get("removed_layers", ())) if comparison else None,
        disagreements=sum(not row["agrees"] for row in config),
        base_name=_text(comparison.get("original_name")) if comparison else None,
        base_ref=_text(comparison.get("source", {}).get("base_ref")) if comparison else None,
        rows=tuple(_rows(structure["layers"], comparison)),
    )


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.40} where a count must be")
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _rows(layers: list[dict[str, Any]], comparison: Mapping[str, Any] | None) -> list[LayerRow]:
    compared = comparison["layers"] if comparison else []
    by_layer = {
        (row.get("stack", ""), row.get("pruned_layer_idx", row["layer_idx"])): row
        for row in compared
        if row.get("pruned_layer_idx", row["layer_idx"]) is not None
    }
    rows = []
    for layer in layers:
        if not layer["total"] and comparison:
            continue  # it follows below, as a layer of the base that is gone
        key = layer.get("stack", ""), layer["layer_idx"]
        match = by_layer.get(key)
        attention, mlp = layer["attention"], layer["mlp"]
        rows.append(
            LayerRow(
                stack=key[0],
                layer=key[1],
                base_layer=match["layer_idx"] if match else None,
                matched_by=match.get("matched_by") if match else None,
                total=layer["total"],
                attention=attention["total"] + layer.get("cross_attention", {}).get("total", 0),
                mlp=mlp["total"],
                norm=layer["norm"],
                rotation=sum(layer.get("rotation", {}).values()),
                heads=attention.get("num_heads"),
                kv_heads=attention.get("num_kv_heads"),
                intermediate_size=mlp.get("intermediate_size"),
                original=match["total"]["original"] if match else None,
                reduction_ratio=match["total"]["reduction_ratio"] if match else None,
                zero_share=layer["zeros"]["zero_share"] if "zeros" in layer else None,
            )
        )
    for row in compared:
        if not row["total"]["pruned"]:
            gone = (row.get("stack", ""), None, row["layer_idx"], None, 0, 0, 0, 0, 0, None, None, None)
            rows.append(LayerRow(*gone, row["total"]["original"], row["total"]["reduction_ratio"], None))
    return rows
