"""`verify` of adapters that were merged to one: every factor computed once more, and compared with the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from netweight.checkpoint.open import open_checkpoint
from netweight.errors import FormatError, OptionError, printable
from netweight.jobs.merge.as_adapter import RECORD, AdapterRequest, adapter_parts, adapter_sums
from netweight.jobs.merge.plan import prepare
from netweight.jobs.merge.request import Options, Request
from netweight.jobs.verify.inputs import check_inputs, places_of, read_record
from netweight.jobs.verify.result import Verdict, Verified
from netweight.output.peft_folder import ADAPTER_WEIGHTS, adapter_tensors
from netweight.params.selection import unwanted_reason

__all__ = ["RECORD", "verify_merged_adapter"]

_KINDS = {"recipe": str, "inputs": list, "modules": dict, "dtype": str}


def verify_merged_adapter(
    folder: Path, include: Sequence[str], exclude: Sequence[str], moved: Mapping[str, str], options: Options
) -> Verified:
    """See `verify`. Raises FormatError where the record is none of such a merge, and as `verify` does."""
    from netweight.merging.recipe.recipe import parse_recipe

    record = read_record(folder / RECORD, "a merge of adapters", "merge again")
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in _KINDS.items()):
        raise FormatError(f"{printable(str(folder / RECORD), 300)}: not the record of a merge of adapters; merge again")
    about = AdapterRequest(record.get("rank"), record["dtype"])
    recipe = parse_recipe(record["recipe"], str(folder / RECORD))
    places = places_of(folder, RECORD, record, recipe.references(), moved)
    with ExitStack() as stack:
        stored = stack.enter_context(open_checkpoint(folder / ADAPTER_WEIGHTS))
        prepared = prepare(Request(recipe), replace(options, allow_mismatch=True), stack, places)
        check_inputs(record, prepared.plan.checkpoints)
        modules, _ = adapter_parts(prepared, adapter_sums(prepared, recipe, about))
        wanted = {n: m for n, m in modules.items() if unwanted_reason(n, include, exclude) is None}
        if not wanted:
            raise OptionError(f"no parameter of {printable(str(folder))} is left by --include and --exclude")
        verdicts = []
        known: set[str] = set()
        for name, module in modules.items():
            tensors = adapter_tensors([module])
            known |= tensors.keys()
            if name in wanted:
                verdicts.append(_verdict(name, tensors, stored))
        if len(wanted) == len(modules):
            verdicts += [Verdict(name, "not of the recipe") for name in stored if name not in known]
    return Verified(folder, verdicts, len(modules), "cpu", ())


def _verdict(name: str, tensors: Mapping[str, Any], stored: Mapping[str, Any]) -> Verdict:
    differing = 0
    for own, tensor in tensors.items():
        held = stored.get(own)
        if held is None:
            return Verdict(name, "missing")
        if (held.shape, held.dtype) != (tensor.entry.shape, tensor.entry.dtype):
            return Verdict(name, "differs", held.size, f"stored as {held.dtype} {list(held.shape)}")
        data = bytearray(held.nbytes)
        held.read_into(0, memoryview(data))
        width = held.dtype.bits // 8
        made = b"".join(np.asarray(block).tobytes() for block in tensor.blocks())
        differing += sum(data[at : at + width] != made[at : at + width] for at in range(0, len(data), width))
    return Verdict(name, "differs", differing, "the factors were changed") if differing else Verdict(name, "same")
