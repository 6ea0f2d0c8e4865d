"""`verify`: computes a merged model once more from its inputs, and says whether its files are what the recipe gives."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import FormatError, ModelNotFoundError, OptionError, did_you_mean, printable
from netweight.jobs.inputs import identity
from netweight.jobs.merge import course_of, prepare, prepare_kernels
from netweight.jobs.merge_pass import Finished, run_courses
from netweight.jobs.merge_record import RECORD, SCHEMA
from netweight.jobs.merge_request import Options, Request
from netweight.jobs.verify_result import Verdict, Verified
from netweight.params.align import unwanted_reason
from netweight.run.progress import Progress, Silent

if TYPE_CHECKING:
    from netweight.merging.target import Target
    from netweight.run.execute import Executor

__all__ = ["verify"]

_LARGEST = 1 << 30  # bytes of a record: a million parameters


@dataclass
class _Comparison:
    """A sink that compares what is computed with what is stored; `differing` counts elements by parameter."""

    stored: Checkpoint
    targets: Mapping[str, Target]
    differing: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, name: str, offset: int, data: memoryview) -> None:
        tensor, target = self.stored[name], self.targets[name]
        found = bytearray(len(data))
        tensor.read_into(offset * 8 // target.dtype.bits, memoryview(found))
        if found == data:
            return
        width = max(1, target.dtype.bits // 8)
        unequal = np.frombuffer(found, np.uint8) != np.frombuffer(data, np.uint8)
        count = int(np.count_nonzero(unequal.reshape(-1, width).any(axis=1)))
        with self.lock:
            self.differing[name] = self.differing.get(name, 0) + count


def verify(
    merged: str | os.PathLike[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    moved: Mapping[str, str] | None = None,
    workers: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Verified:
    """Compute the parameters of the folder `merged` (those that the globs let through; all) from the inputs that its
    record names, and compare them with its files, bit for bit.

    Inputs are looked for where the record's references lead from the current folder, then relative to `merged`, as they
    lay when it was made; `moved` maps a reference to where it is now. Raises FormatError where the record is not one
    of a merge, ModelNotFoundError where an input is not to be found, InputError where it is another model than then.
    """
    from netweight.kernels.cpu.merging import CpuMergeKernels
    from netweight.merging.recipe import parse_recipe
    from netweight.run.threads import ThreadExecutor

    folder = Path(merged)
    record = _record(folder)
    progress = progress or Silent()
    with ExitStack() as stack:
        stored = stack.enter_context(open_checkpoint(folder))
        recipe = parse_recipe(record["recipe"], str(folder / RECORD))
        places = _places(folder, record, recipe.references(), moved or {})
        options = Options(workers=workers, memory=memory, **record["options"])
        prepared = prepare(Request(recipe), options, stack, places)
        _same_inputs(record, prepared.plan.checkpoints)
        wanted = [t for t in prepared.plan.targets if unwanted_reason(t.name, include, exclude) is None]
        if not wanted:
            first = include[0] if include else ""
            hint = did_you_mean(first, [t.name for t in prepared.plan.targets][:2000])
            raise OptionError(f"no parameter of {printable(str(folder))} is left by --include and --exclude{hint}")
        verdicts = {t.name: v for t in wanted if (v := _unlike(t, stored)) is not None}
        rest = [t for t in wanted if t.name not in verdicts]
        kernels = CpuMergeKernels()
        prepare_kernels(prepared.plan, kernels, progress)
        comparison = _Comparison(stored, {t.name: t for t in rest})
        progress.start(len(rest), sum(i.nbytes for t in rest for i in t.inputs))
        try:
            executor = executor or ThreadExecutor(prepared.workers)
            for one in run_courses(rest, course_of, executor, kernels, comparison, progress):
                name = one.target.name
                verdicts[name] = _verdict(one, comparison.differing.get(name, 0), record["parameters"].get(name))
        finally:
            progress.stop()
        for checkpoint in (stored, *prepared.plan.checkpoints):
            checkpoint.check_unchanged()
        planned = {t.name for t in prepared.plan.targets}
        extra = [Verdict(name, "not of the recipe") for name in stored if name not in planned]
        return Verified(folder, [verdicts[t.name] for t in wanted] + extra, len(prepared.plan.targets))


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    shown = printable(str(path))
    try:
        if path.stat().st_size > _LARGEST:
            raise FormatError(f"{shown}: {path.stat().st_size} bytes: larger than any record of a merge")
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{shown}: there is no such file; verify needs a folder that `netweight merge` made"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{shown}: not the record of a merge: {printable(str(error))}; merge again") from None
    kinds = {"recipe": str, "options": dict, "inputs": list, "parameters": dict}
    if not isinstance(record, dict) or not all(isinstance(record.get(k), t) for k, t in kinds.items()):
        raise FormatError(f"{shown}: not the record of a merge: recipe, options, inputs or parameters are missing")
    if record.get("schema") != SCHEMA:
        raise FormatError(
            f"{shown}: schema {printable(str(record.get('schema')))}, this version knows {SCHEMA}; use the version of"
            " netweight that made it"
        )
    try:
        Options(**record["options"])
    except TypeError:
        raise FormatError(f"{shown}: unknown options {printable(str(sorted(record['options'])))}") from None
    return record


def _places(
    folder: Path, record: Mapping[str, Any], references: Sequence[str], moved: Mapping[str, str]
) -> dict[str, str]:
    """Where every reference of the recipe is now."""
    for old in moved:
        if old not in references:
            raise OptionError(
                f"--moved {printable(old)}: the recipe names no such model{did_you_mean(old, references)}; it names"
                f" {', '.join(printable(r) for r in references)}"
            )
    paths = [entry.get("path") if isinstance(entry, dict) else None for entry in record["inputs"]]
    found = {}
    for ref, path in zip(references, paths + [None] * len(references), strict=False):
        near = folder / path if isinstance(path, str) else None
        if ref in moved:
            found[ref] = moved[ref]
        elif near is not None and near.exists():
            found[ref] = str(near)
        elif Path(ref).exists():
            found[ref] = ref
        else:
            raise ModelNotFoundError(
                f"{printable(ref)}: the input is not where it was; say where it is: --moved {printable(ref)}=FOLDER"
            )
    return found


def _same_inputs(record: Mapping[str, Any], checkpoints: Sequence[Checkpoint]) -> None:
    for entry, checkpoint in zip(record["inputs"], checkpoints, strict=False):
        now = identity(checkpoint)["files"]
        if isinstance(entry, dict) and entry.get("files") != now:
            raise ModelNotFoundError(
                f"{printable(checkpoint.ref)}: its files are not those that were merged (names, sizes or headers);"
                f" say where those are: --moved {printable(str(entry.get('ref')))}=FOLDER"
            )


def _unlike(target: Target, stored: Checkpoint) -> Verdict | None:
    """Where the stored tensor cannot be compared."""
    if target.name not in stored:
        return Verdict(target.name, "missing")
    tensor = stored[target.name]
    if (tensor.shape, tensor.dtype) != (target.shape, target.dtype):
        return Verdict(
            target.name,
            "differs",
            target.size,
            f"stored as {tensor.dtype} {list(tensor.shape)}, the recipe gives {target.dtype} {list(target.shape)}",
        )
    return None


def _verdict(one: Finished, differing: int, noted: Any) -> Verdict:
    """What the comparison says, and what the digests of the record say of its cause."""
    name = one.target.name
    noted = noted if isinstance(noted, dict) else {}
    before = [i.get("digest") for i in noted.get("inputs", ()) if isinstance(i, dict)]
    changed = any(a is not None and b is not None and a != b for a, b in zip(before, one.inputs, strict=False))
    if not differing:
        if noted.get("digest") == one.digest:
            return Verdict(name, "same")
        return Verdict(name, "differs", 0, "the file is what the recipe gives, but the record has another digest")
    if noted.get("digest") == one.digest:
        return Verdict(name, "differs", differing, "the merged file was changed after the merge")
    if changed:
        return Verdict(name, "differs", differing, "an input was changed after the merge")
    return Verdict(name, "differs", differing, "recomputed otherwise: other settings, libraries or processor")
