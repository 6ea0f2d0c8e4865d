"""`verify`: computes a merged model once more from its inputs, and says whether its files are what the recipe gives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.errors import FormatError, ModelNotFoundError, OptionError, did_you_mean, nearest_path, printable
from netweight.jobs.inputs import globs
from netweight.jobs.merge.plan import course_of, merge_kernels, prepare, prepare_kernels
from netweight.jobs.merge.record import RECORD, SCHEMA
from netweight.jobs.merge.request import Options, Request
from netweight.jobs.merge.targets import MISSING
from netweight.jobs.merge.vocabulary import VOCAB
from netweight.jobs.run_options import MachineOptions
from netweight.jobs.verify.adapter import ADAPTER_RECORD, verify_adapter
from netweight.jobs.verify.inputs import check_inputs, places_of, read_record
from netweight.jobs.verify.merged_adapter import RECORD as MERGED_ADAPTER
from netweight.jobs.verify.merged_adapter import verify_merged_adapter
from netweight.jobs.verify.result import Verdict, Verified
from netweight.jobs.verify.stages import made_again
from netweight.merging.recipe.chain import stages_of
from netweight.params.matching import Match, match
from netweight.params.model import Model
from netweight.params.selection import unwanted_reason
from netweight.passes.merges import Finished, run_courses
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, Silent, shown
from netweight.run.spread import device_notes

if TYPE_CHECKING:
    from netweight.jobs.merge.targets import MergePlan
    from netweight.merging.target import Target
    from netweight.run.devices import Choice
    from netweight.run.execute import Executor

__all__ = ["verify"]


@dataclass(frozen=True)
class _Comparison:
    """A sink that compares what is computed with what is stored."""

    stored: Mapping[str, Tensor]

    def write(self, name: str, offset: int, data: memoryview) -> int:
        """How many elements differ."""
        tensor = self.stored[name]
        stored = bytearray(len(data))
        tensor.read_into(offset * 8 // tensor.dtype.bits, memoryview(stored))
        if stored == data:
            return 0
        width = max(1, tensor.dtype.bits // 8)
        unequal = np.frombuffer(stored, np.uint8) != np.frombuffer(data, np.uint8)
        return int(np.count_nonzero(unequal.reshape(-1, width).any(axis=1)))

    def settle(self, name: str) -> None:
        """Nothing was written."""


def verify(
    merged: str | os.PathLike[str],
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    moved: Mapping[str, str] | None = None,
    workers: int | None = None,
    memory: int | None = None,
    remote: bool = False,
    device: str = "auto",
    multi_gpu: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    executor_name: str = "threads",
    ray_address: str | None = None,
) -> Verified:
    """Compute the parameters of the folder `merged` (those that the globs let through; all) from the inputs that its
    record names, and compare them with its files, bit for bit: a merge, a conversion, or an extracted adapter.

    Inputs are looked for under their absolute paths, then relative to `merged` as when it was made, then from the
    current folder; `moved` maps a reference to where it is now. `remote`: read inputs that are models of a hub by
    ranges (default: bring them into the hub's cache). `device` and `multi_gpu` as for merge: the bits of what a GPU has
    merged are those of a GPU of its kind. `executor_name` and `ray_address` as in the options of a merge.

    Raises FormatError where the record is not one of a merge, ModelNotFoundError where an input cannot be found, or is
    not the model that was merged.
    """
    from netweight.merging.recipe.recipe import parse_recipe

    include, exclude = globs(include), globs(exclude)
    folder = Path(merged)
    progress = progress or Silent()
    if os.path.lexists(folder / ADAPTER_RECORD):
        machine = MachineOptions(workers, memory, remote, device, multi_gpu, executor_name, ray_address)
        return verify_adapter(folder, include, exclude, moved or {}, machine, progress, executor)
    if os.path.lexists(folder / MERGED_ADAPTER):
        return verify_merged_adapter(folder, include, exclude, moved or {}, Options(remote=remote))
    record = _record(folder)
    with ExitStack() as stack:
        stored = stack.enter_context(open_checkpoint(folder))
        recipe = parse_recipe(record["recipe"], str(folder / RECORD))
        options = Options(
            workers=workers,
            memory=memory,
            remote=remote,
            device=device,
            multi_gpu=multi_gpu,
            executor_name=executor_name,
            ray_address=ray_address,
            allow_mismatch=True,  # the merge has decided
            **record["options"],
        )
        given, known = made_again(folder, record, moved or {}, options, stack)
        own = {old: new for old, new in (moved or {}).items() if old in recipe.references() or old not in known}
        places = places_of(folder, RECORD, record, recipe.references(), own, given=given)
        prepared = prepare(Request(recipe), options, stack, places, {n: given[n] for n in stages_of(recipe, given)})
        check_inputs(record, prepared.plan.checkpoints)
        selected = _selected(prepared.plan.targets, folder, include, exclude)
        found = _held(prepared.plan, stored)
        verdicts = {t.name: v for t in selected if (v := _mismatch(t, found.tensors.get(t.name))) is not None}
        rest = [t for t in selected if t.name not in verdicts]
        kernels = merge_kernels(prepared, progress)
        _note_device(record.get("device"), prepared.choice, progress)
        prepare_kernels(prepared, prepared.plan, kernels, progress)
        comparison = _Comparison({t.name: found.tensors[t.name] for t in rest})
        if executor is None:
            executor = stack.enter_context(planned_executor(options, prepared.workers, prepared.memory))
        with shown(progress, len(rest), sum(i.nbytes for t in rest for i in t.inputs)):
            for finished in run_courses(rest, course_of, executor, kernels, comparison, progress):
                name = finished.target.name
                verdicts[name] = _verdict(finished, record["parameters"].get(name), prepared.plan.checkpoints)
        for checkpoint in (stored, *prepared.plan.checkpoints):
            checkpoint.check_unchanged()
        extra = [Verdict(part, "not of the recipe") for parts in found.left.values() for part in parts]
        listed = [verdicts[t.name] for t in selected] + extra
        notes = [note for note in (found.layout_note("the folder"),) if note]
        count = len(prepared.plan.targets)
        return Verified(folder, listed, count, prepared.choice.name, (*notes, *device_notes(kernels)))


def _held(plan: MergePlan, stored: Checkpoint) -> Match:
    """The tensors of the folder that are the plan's: under their names, or as another program has saved them since."""
    return match(Model(plan.outline(plan.config)), Model(stored))


def _selected(targets: Sequence[Target], folder: Path, include: Sequence[str], exclude: Sequence[str]) -> list[Target]:
    """The targets that the globs let through; raises OptionError where there are none."""
    selected = [t for t in targets if unwanted_reason(t.name, include, exclude) is None]
    if not selected:
        hint = did_you_mean(include[0] if include else "", [t.name for t in targets][:2000])
        raise OptionError(f"no parameter of {printable(str(folder))} is left by --include and --exclude{hint}")
    return selected


def _note_device(merged_on: Any, choice: Choice, progress: Progress) -> None:
    """Where a GPU has merged and the CPU verifies, or the other way round, last bits may differ."""
    if isinstance(merged_on, str) and (merged_on == "cpu") == choice.gpu:
        there = printable(merged_on.partition(",")[0], 20)
        progress.note(
            f"merged on {printable(merged_on, 60)}, verified on {choice.name}: last bits may differ; --device {there}"
            " verifies as it was merged"
        )


@dataclass(frozen=True, slots=True)
class _RecordedDigests:
    """The record's digests of a parameter's bytes and of its inputs' bytes, None where not known."""

    digest: str | None
    inputs: tuple[str | None, ...]


def _digests_only(entry: dict[str, Any]) -> Any:
    """Reduces a parameter's entry, and each of its inputs', to its digests: a record of many parameters is large, and
    nothing else of it is needed here.
    """
    if "digest" not in entry:
        return entry
    digest = entry["digest"] if isinstance(entry["digest"], str) else None
    if "inputs" not in entry:
        return _RecordedDigests(digest, ())
    inputs = entry["inputs"] if isinstance(entry["inputs"], list) else []
    return _RecordedDigests(digest, tuple(i.digest if isinstance(i, _RecordedDigests) else None for i in inputs))


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    label = printable(str(path), 300)
    if not os.path.lexists(path):
        near = nearest_path(str(path))
        raise ModelNotFoundError(
            f"{label}: there is no such file{near}; verify needs a folder that `netweight merge` made"
        )
    record = read_record(path, "a merge", "merge again", _digests_only)
    kinds = {"recipe": str, "options": dict, "inputs": list, "parameters": dict}
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise FormatError(f"{label}: not the record of a merge: recipe, options, inputs or parameters are missing")
    if record.get("schema") != SCHEMA:
        raise FormatError(
            f"{label}: schema {printable(str(record.get('schema')), 60)}, this version knows {SCHEMA}; use the version"
            f" of netweight that made it, {printable(str(record.get('netweight')), 60)}"
        )
    if not _are_merge_options(record["options"]):
        raise FormatError(f"{label}: its options are none of a merge: {printable(str(record['options']))}; merge again")
    return record


def _are_merge_options(options: Mapping[str, Any]) -> bool:
    return (
        options.keys() == {"vocab", "missing", "seed", "max_shard_size"}
        and options["vocab"] in (None, *VOCAB)
        and options["missing"] in MISSING
        and type(options["seed"]) is int
        and type(options["max_shard_size"]) is int
        and options["max_shard_size"] > 0
    )


def _mismatch(target: Target, stored: Tensor | None) -> Verdict | None:
    """The verdict where the stored tensor cannot be compared."""
    if stored is None:
        return Verdict(target.name, "missing")
    if (stored.shape, stored.dtype) != (target.shape, target.dtype):
        return Verdict(
            target.name,
            "differs",
            target.size,
            f"stored as {stored.dtype} {list(stored.shape)}, the recipe gives {target.dtype} {list(target.shape)}",
        )
    return None


def _verdict(finished: Finished, recorded: Any, checkpoints: Sequence[Checkpoint]) -> Verdict:
    """The verdict of the comparison, with its cause from the digests of the record."""
    name, differing = finished.target.name, finished.differing
    recorded = recorded if isinstance(recorded, _RecordedDigests) else _RecordedDigests(None, ())
    if not differing:
        if recorded.digest == finished.digest:
            return Verdict(name, "same")
        return Verdict(name, "differs", 0, "the file is what the recipe gives, but the record has another digest")
    if recorded.digest == finished.digest:
        return Verdict(name, "differs", differing, "the merged file was changed after the merge")
    for source, before, now in zip(finished.target.inputs, recorded.inputs, finished.inputs, strict=False):
        if before is not None and now is not None and before != now:
            ref = printable(checkpoints[source.model].ref)
            return Verdict(name, "differs", differing, f"the input {ref} was changed after the merge, or is another")
    return Verdict(name, "differs", differing, "recomputed otherwise: other settings, libraries or processor")
