"""Writes what stands beside the weights of a merge: the record (netweight_merge.json), the recipe, and the files that
make the folder a model.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.jobs.inputs import recorded
from netweight.jobs.merge.output_tokenizer import NOTHING_ADDED, renumber_generation
from netweight.jobs.merge.result import Merged
from netweight.merging.coefficients import remark
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.merge.chat_template import ChosenTemplate
    from netweight.jobs.merge.plan import Prepared
    from netweight.jobs.merge.targets import MergePlan
    from netweight.jobs.merge.weights import Weighting
    from netweight.merging.target import Input
    from netweight.passes.merges import Finished

__all__ = ["RECIPE", "RECORD", "SCHEMA", "weighting_record", "write_records"]

RECORD = "netweight_merge.json"
RECIPE = "merge_recipe.yml"
SCHEMA = 1

_DIGESTS = "XXH3-128 over the XXH3-128 digests of stretches: whole rows, about 2^24 elements each, at most 64"


def write_records(
    stage: Path,
    prepared: Prepared,
    plan: MergePlan,
    weighting: Weighting | None,
    finished: Sequence[Finished],
    output: Path,
    template: ChosenTemplate,
    device_notes: Sequence[str] = (),
) -> Merged:
    """Write everything but the weights into `stage`, and return the result; `template`: what the recipe's
    chat_template stands for; `device_notes`: what happened to devices. Raises OSError where the disk refuses.
    """
    from netweight.jobs.merge.files import model_card, write_model_files
    from netweight.merging.recipe.recipe import write_recipe
    from netweight.output.table import write_json

    comments = [f"netweight {__version__}", *_comments(prepared, weighting)]
    recipe = write_recipe(plan.recipe, comments)
    bad = [parameter for parameter in finished if parameter.nonfinite]
    notes = [*plan.notes, *device_notes]
    if bad:
        count = sum(parameter.nonfinite for parameter in bad)
        notes.append(f"{count} elements of {len(bad)} parameters are NaN or infinite, first in {bad[0].target.name}")
    weights = weighting_record(prepared, weighting)
    card = model_card(
        references=plan.references,
        base=plan.recipe.base,
        method=plan.recipe.method,
        models=[(m["model"], m["weight"], m["l2"]) for m in weights["models"]] if weights else (),
        recipe=recipe,
    )
    copy_tokenizer = prepared.options.copy_tokenizer
    if not copy_tokenizer and plan.recipe.tokenizer is not None:
        notes.append("the tokenizer is copied all the same: the recipe says whose it is")
        copy_tokenizer = True
    file_notes = write_model_files(
        stage,
        config=plan.config,
        from_place=(plan.like or plan.checkpoints[plan.config_from]).place,
        tokenizer_place=(plan.like or plan.checkpoints[plan.tokenizer_from]).place,
        shards=prepared.shards,
        card=card if prepared.options.card else None,
        copy_tokenizer=copy_tokenizer,
        template=template,
        added=plan.tokens.added if plan.tokens is not None else NOTHING_ADDED,
    )
    notes += file_notes
    if plan.tokens is not None and plan.tokens.owner:
        notes += renumber_generation(stage, plan.checkpoints[plan.tokens.owner])
    libraries = ("numba", "numpy", "ml_dtypes", "xxhash", *(("torch",) if prepared.choice.gpu else ()))
    record = {
        "netweight": __version__,
        "schema": SCHEMA,
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "device": prepared.choice.name,
        "recipe": recipe,
        "like": None if plan.like is None else plan.like.ref,
        "stages": list(prepared.stages),
        "options": {
            "vocab": prepared.options.vocab,
            "missing": prepared.options.missing,
            "seed": prepared.options.seed,
            "max_shard_size": prepared.options.max_shard_size,
        },
        "inputs": [recorded(c, output) for c in plan.checkpoints],
        "weights": weights,
        "digests": _DIGESTS,
        "parameters": _parameters(prepared, finished),
        "dropped": [{"name": s.name, "reason": s.reason} for s in plan.dropped],
        "notes": notes,
    }
    (stage / RECIPE).write_text(recipe, encoding="utf-8", newline="\n")
    write_json(stage / RECORD, record)
    return Merged(output, record, notes)


def _comments(prepared: Prepared, weighting: Weighting | None) -> list[str]:
    request = prepared.request.weights
    comments = [
        f"to run it again give --{name} {value}"
        for name, value, usual in (
            ("vocab", prepared.options.vocab, None),
            ("missing", prepared.options.missing, "error"),
            ("seed", prepared.options.seed, 0),
        )
        if value != usual
    ]
    if request is None or weighting is None:
        return comments
    about = request.to_dict()
    comments.append("weights: " + ", ".join(f"{key} {value}" for key, value in about.items()))
    if weighting.norms is not None:
        names = prepared.names()
        comments += [f"L2 of {name}: {norm!r}" for name, norm in zip(names, weighting.norms, strict=True)]
    return comments


def weighting_record(prepared: Prepared, weighting: Weighting | None) -> dict[str, Any] | None:
    """JSON-safe: mode, and by model weight and norm; the cosines; the norm of the weighted sum."""
    if weighting is None:
        return None
    names = prepared.names()
    same = weighting.weights if isinstance(weighting.weights, tuple) and weighting.weights else None
    request = prepared.request.weights
    entry: dict[str, Any] = {
        **(request.to_dict() if request else {"mode": "recipe"}),
        "models": [
            {
                "model": name,
                "weight": same[i] if same else None,
                "l2": weighting.norms[i] if weighting.norms else None,
            }
            for i, name in enumerate(names if len(names) == _models(weighting, names) else ())
        ],
        "cosines": [list(row) for row in weighting.cosines] if weighting.cosines else None,
        "merged_l2": weighting.merged_norm,
    }
    groups = [weighting.weights] if isinstance(weighting.weights, tuple) else list(weighting.weights.values())
    if weighting.by_group is not None:
        groups = list(weighting.by_group.values())
    entry["remark"] = remark(str(entry["mode"]), groups, weighting.norms, names)
    if weighting.by_group is not None:
        entry["by_layer"] = {label: list(weights) for label, weights in weighting.by_group.items()}
    return entry


def _models(weighting: Weighting, names: Sequence[str]) -> int:
    return len(weighting.norms) if weighting.norms is not None else len(names)


def _parameters(prepared: Prepared, finished: Sequence[Finished]) -> dict[str, Any]:
    files = {name: shard.name for shard in prepared.shards for name in shard.entries}
    entries = {}
    for written in finished:
        target, subject = written.target, written.target.subject
        entries[target.name] = {
            "file": files[target.name],
            "dtype": target.dtype.name,
            "shape": list(target.shape),
            "elements": target.size,
            "layer": target.layer,
            "method": target.method,
            "settings": dict(subject.settings) if subject else {},
            "each": [dict(settings) for settings in subject.model_settings] if subject else [],
            "inputs": [
                {"model": i.model, "tensors": _names(i), "digest": digest}
                for i, digest in zip(target.inputs, written.inputs, strict=True)
            ],
            "digest": written.digest,
            "nonfinite": written.nonfinite,
        }
    return entries


def _names(source: Input) -> list[str]:
    """The input's own names."""
    return list(dict.fromkeys(part.name for piece in source.pieces for part in piece.tensor.parts))
