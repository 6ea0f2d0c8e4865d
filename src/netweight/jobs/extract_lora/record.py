"""What stands beside the adapter's weights: adapter_config.json, the record, and the table of errors."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import printable
from netweight.jobs.extract_lora.result import COLUMNS, Extracted, totals
from netweight.jobs.extract_lora.targets import CONVERTED
from netweight.jobs.inputs import identity, recorded
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.extract_lora.adapter import Adapter
    from netweight.jobs.extract_lora.plan import Prepared

__all__ = ["ERRORS", "RECORD", "SCHEMA", "write_folder"]

RECORD = "netweight_extract_lora.json"
ERRORS = "errors"
SCHEMA = 1

_FUSED = frozenset({"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names of projections that PEFT takes for those of experts, wherever they stand."""

_DIGESTS = "XXH3-128 of the right factor's bytes and then the left one's, each as made: rows of the weight as stored"


def write_folder(
    stage: Path, prepared: Prepared, adapter: Adapter, output: Path, device_notes: Sequence[str] = ()
) -> Extracted:
    """Write all files of the adapter into `stage`, and return the result; `device_notes`: what happened to devices.
    Raises OutputError and OSError where the disk refuses.
    """
    from netweight.jobs.extract_lora.adapter import shares_adapter
    from netweight.output.peft_folder import adapter_config, adapter_tensors, write_adapter
    from netweight.output.table import write_csv, write_json, write_parquet

    targets = prepared.targets
    tied = adapter.tied and any(shares_adapter(t) for t in targets.targets if t.name == targets.tied)
    config = adapter_config(
        adapter.modules,
        base=prepared.base.ref,
        revision=prepared.base.revision,
        saved=adapter.whole,
        fan_in_fan_out=targets.conv1d,
        tied=tied,
        biased=bool(adapter.biases),
        rank=adapter.rank,
        others=targets.modules,
    )
    write_adapter(stage, config, adapter_tensors(adapter.modules, adapter.saved, adapter.biases))
    libraries = ("numba", "numpy", "scipy-openblas32", "xxhash", *(("torch",) if prepared.choice.gpu else ()))
    record: dict[str, Any] = {
        "netweight": __version__,
        "schema": SCHEMA,
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "device": prepared.choice.name,
        "request": prepared.options.request,
        "inputs": [recorded(c, output) for c in (prepared.base, prepared.model)],
        "digests": _DIGESTS,
        "whole": totals(list(adapter.rows.values())),
        "modules_to_save": sorted(adapter.whole),
        "parameters": adapter.rows,
        "left_out": [{"name": entry.name, "reason": entry.reason, "asked": entry.asked} for entry in targets.left_out],
        "notes": [*prepared.notes, *device_notes, *_notes(prepared, adapter)],
    }
    write_json(stage / RECORD, record)
    result = Extracted(output, record)
    write_csv(stage / f"{ERRORS}.csv", COLUMNS, result.frame.rows)
    inputs = [identity(c) for c in (prepared.base, prepared.model)]
    write_parquet(stage / f"{ERRORS}.parquet", COLUMNS, result.frame.rows, inputs=inputs)
    return result


def _notes(prepared: Prepared, adapter: Adapter) -> list[str]:
    notes = []
    above = [n for n, row in adapter.rows.items() if _is_above(row, prepared.options.error)]
    if above:
        notes.append(
            f"{len(above)} matrices are above --error {prepared.options.error:g}, which their rounding to"
            f" {prepared.options.dtype} alone exceeds, first {printable(above[0])}; give --dtype float32"
        )
    if adapter.tied and prepared.targets.head:
        notes.append(
            f"{prepared.targets.head} is the embedding, and has its factors too; PEFT's merge_and_unload would add them"
            " twice to a tied model: untie it before that"
        )
    elif adapter.tied:
        notes.append("the head shares the embedding: PEFT adapts the embedding alone as long as it is not merged")
    notes += _notes_on_experts(prepared, adapter)
    resized = next((target for target in prepared.targets.targets if target.resized), None)
    if resized is not None:
        rows = resized.model.shape[0]
        notes.append(
            f"{printable(resized.name)} has {rows} rows in the fine-tune, {resized.base.shape[0]} in the base: call"
            f" base.resize_token_embeddings({rows}) before PEFT loads the adapter"
        )
    return notes


def _notes_on_experts(prepared: Prepared, adapter: Adapter) -> list[str]:
    """What becomes of factors of single experts where transformers has them in one tensor."""
    experts = {target.module for target in prepared.targets.targets if target.experts}
    if adapter.rank is None:
        return []
    kind = str((prepared.base.config or {}).get("model_type"))
    if kind not in CONVERTED:
        others = f"for newer ones PEFT converts other models' factors, and none of the type {printable(kind, 40)}"
        return [f"experts have factors one by one, as transformers before 5 loads them; {others}"]
    alike = [m.name for m in adapter.modules if m.name not in experts and m.name.rpartition(".")[2] in _FUSED]
    if not alike:
        return []
    lost = "with transformers 5, PEFT 0.21 loads no factors of such; load the adapter with transformers 4"
    return [f"{len(alike)} modules outside of the experts are named like theirs, first {printable(alike[0])}: {lost}"]


def _is_above(row: dict[str, Any], error: float | None) -> bool:
    return error is not None and row["kept"] == "factors" and bool(row["left"] > error**2 * row["squares"])
