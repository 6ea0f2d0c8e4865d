"""The models that a merge of several documents was made of, as its record describes them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import FormatError, printable
from netweight.jobs.merge.plan import prepare
from netweight.jobs.merge.record import RECORD
from netweight.jobs.merge.request import Options, Request
from netweight.jobs.merge.streamed import streamed
from netweight.jobs.verify.inputs import check_inputs, places_of
from netweight.merging.recipe.chain import stages_of
from netweight.merging.recipe.recipe import parse_recipe

__all__ = ["made_again"]

_KINDS = {"name": str, "recipe": str, "inputs": list, "computed": bool}


def made_again(
    folder: Path, record: Mapping[str, Any], moved: Mapping[str, str], options: Options, stack: ExitStack
) -> tuple[dict[str, Checkpoint], set[str]]:
    """(the stages that were computed where they were read, by name; the references of all stages' recipes). One that
    `moved` has is a folder.

    Raises FormatError where the record does not describe its stages, else what planning a merge raises.
    """
    entries = record.get("stages") or []
    kinds_fit = isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in _KINDS.items())
        for entry in entries
    )
    if not kinds_fit:
        raise FormatError(
            f"{printable(str(folder / RECORD), 300)}: stages: expected name, recipe, inputs and computed of each"
        )
    given: dict[str, Checkpoint] = {}
    known: set[str] = set()
    for entry in entries:
        recipe = parse_recipe(entry["recipe"], f"{folder / RECORD}, stages")
        references = recipe.references()
        known.update(references)
        if entry["name"] in moved or not entry["computed"]:
            continue  # a folder, which is looked for where it is needed
        own = {ref: moved[ref] for ref in references if ref in moved}
        places = places_of(folder, RECORD, entry, references, own, given=given)
        used = {name: given[name] for name in stages_of(recipe, given)}
        prepared = prepare(Request(recipe), options, stack, places, used)
        check_inputs(entry, prepared.plan.checkpoints)
        model = streamed(prepared)
        if model is None:
            raise FormatError(
                f"{printable(str(folder / RECORD), 300)}: {printable(entry['name'])} was computed where it was read,"
                " which this version or these inputs do not allow; merge again with --intermediate-dir"
            )
        given[entry["name"]] = model
    return given, known
