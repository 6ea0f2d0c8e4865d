"""`extract_lora`: the change of a fine-tune against its base as a LoRA adapter, with the error that it makes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import InputError
from netweight.jobs.extract_lora.plan import Options, Prepared, prepare
from netweight.jobs.inputs import Reference
from netweight.jobs.journalled import Record, journalled, note_resumed
from netweight.jobs.output_folder import output_folder, under_way
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, Silent, shown
from netweight.run.spread import DeviceKernels, device_notes, kernels_on

if TYPE_CHECKING:
    from netweight.jobs.extract_lora.parts import PartFolder
    from netweight.jobs.extract_lora.result import Extracted
    from netweight.kernels.factors import FactorKernels
    from netweight.output.folder import ResultFolder
    from netweight.passes.task_vectors import Factored
    from netweight.run.execute import Executor

__all__ = ["Options", "extract_lora", "result_folder"]

_PARTS = "parts"


def extract_lora(
    base: Reference,
    model: Reference,
    output: Reference,
    *,
    options: Options | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> Extracted:
    """Write the change of `model` against its `base` as a PEFT adapter into the folder `output`, which appears whole,
    in one step, at the end: the leading singular directions of every matrix that changed.

    `settings` are the fields of Options by name: `rank=32`, `energy=0.99` or `error=0.05` choose the ranks. `resume`
    goes on with a run that was stopped, and gives the same bytes.

    Raises InputError and its kin before any data is read, and where nothing changed or an element is NaN or infinite;
    ReadError where bytes cannot be read or change meanwhile, JobError where the disk refuses.
    """
    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    with ExitStack() as stack:
        prepared = prepare(base, model, options, stack)
        executor = executor or stack.enter_context(planned_executor(options, prepared.workers, prepared.memory))
        folder = result_folder(prepared, output, resume=resume)
        with under_way(folder, output):
            return _extract(prepared, folder, Path(output), resume=resume, progress=progress, executor=executor)


def result_folder(prepared: Prepared, output: Reference, *, resume: bool = False) -> ResultFolder:
    """The folder of the adapter, not entered yet; raises OutputError where `output` is empty."""
    return output_folder(output, "adapter", prepared.locations(), "extract-lora", prepared.options, resume=resume)


def _extract(
    prepared: Prepared,
    folder: ResultFolder,
    output: Path,
    *,
    resume: bool,
    progress: Progress,
    executor: Executor,
) -> Extracted:
    from netweight.jobs.extract_lora.adapter import assemble
    from netweight.jobs.extract_lora.parts import PartFolder
    from netweight.jobs.extract_lora.record import write_folder
    from netweight.kernels.choose import factor_kernels_for

    kernels = kernels_on(prepared.choice, factor_kernels_for, prepared.workers, progress.note)
    parts = PartFolder(folder.stage / _PARTS)
    parts.make()
    for path in folder.stage.iterdir():  # what a run that was killed at its end has left half written
        if path.name != _PARTS:
            path.unlink()
    try:
        with journalled(folder.journal_path, prepared.digest, resume=resume) as record:
            found = _restored(prepared, parts, record, progress) if resume else {}
            _work(prepared, found, parts, executor, kernels, progress, record)
        adapter = assemble(prepared, found, parts)
        result = write_folder(folder.stage, prepared, adapter, output, device_notes(kernels))
    except InputError:  # a run with --resume would end as this one
        folder.discard()
        raise
    for checkpoint in (prepared.base, prepared.model):
        checkpoint.check_unchanged()
    parts.remove()
    for note in (*result.notes, *folder.commit()):
        progress.note(note)
    return result


def _restored(prepared: Prepared, parts: PartFolder, record: Record, progress: Progress) -> dict[str, Factored]:
    """What a stopped run has found, where its factors are still as they were written."""
    from netweight.passes.task_vectors import Factored

    found: dict[str, Factored] = {}
    for vector in prepared.vectors:
        if vector.name in record.done:
            entry = record.done[vector.name]
            result = Factored(**entry | {"values": tuple(entry["values"])})
            if not result.rank or parts.digest(vector.number) == result.digest:
                found[vector.name] = result
    note_resumed(progress, len(found), len(prepared.vectors))
    return found


def _work(
    prepared: Prepared,
    found: dict[str, Factored],
    parts: PartFolder,
    executor: Executor,
    kernels: FactorKernels | DeviceKernels[FactorKernels],
    progress: Progress,
    record: Record,
) -> None:
    """Factorise and measure what is not `found` yet."""
    rest = [vector for vector in prepared.vectors if vector.name not in found]
    left = sum(vector.nbytes for vector in rest)
    with shown(progress, len(prepared.vectors), prepared.read, len(found), prepared.read - left):
        for vector, result in prepared.factorised(rest, parts, executor, kernels, progress):
            found[vector.name] = result
            record.append(vector.name, vars(result) | {"values": list(result.values)})
