"""`verify` of an extracted adapter: its factors computed once more, compared with the file, and their errors with the
record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from netweight.checkpoint.safetensors import read_safetensors
from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.errors import FormatError, OptionError, did_you_mean, printable
from netweight.jobs.extract_lora.adapter import shares_adapter
from netweight.jobs.extract_lora.plan import REQUEST, Options, Prepared, prepare
from netweight.jobs.extract_lora.record import RECORD as ADAPTER_RECORD
from netweight.jobs.extract_lora.record import SCHEMA
from netweight.jobs.run_options import MachineOptions
from netweight.jobs.verify.inputs import check_inputs, places_of, read_record
from netweight.jobs.verify.result import Verdict, Verified
from netweight.output.peft_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from netweight.params.selection import unwanted_reason
from netweight.run.executors import planned_executor
from netweight.run.progress import Progress, shown
from netweight.run.spread import device_notes, kernels_on
from netweight.source.local import open_local

if TYPE_CHECKING:
    from netweight.jobs.extract_lora.targets import Target
    from netweight.kernels.factors import FactorKernels
    from netweight.passes.task_vectors import Factored, TaskVector
    from netweight.run.execute import Executor

__all__ = ["ADAPTER_RECORD", "verify_adapter"]

_FIRST = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:embedding_A|A\.weight)")
_PIECE = 1 << 20  # elements that are compared at a time
_SAME_ERROR = 1e-9  # relative: of sums in float64 that another library takes in another order
_KINDS = {"request": dict, "inputs": list, "parameters": dict, "whole": dict}


def verify_adapter(
    folder: Path,
    include: Sequence[str],
    exclude: Sequence[str],
    moved: Mapping[str, str],
    machine: MachineOptions,
    progress: Progress,
    executor: Executor | None,
) -> Verified:
    """See `verify`. Raises FormatError where the record is none of an extraction, and as `verify` does."""
    from netweight.kernels.choose import factor_kernels_for

    record = _record(folder)
    references = [str(entry.get("ref")) for entry in record["inputs"] if isinstance(entry, dict)]
    if len(references) != 2:
        raise FormatError(f"{_label(folder)}: expected the base and the fine-tune, got {len(references)} inputs")
    places = places_of(folder, ADAPTER_RECORD, record, references, moved, "the record", "extract again")
    options = _options(folder, record["request"], machine)
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_local(folder / ADAPTER_WEIGHTS)))
        stored = dict(read_safetensors(source).tensors)
        prepared = prepare(references[0], references[1], options, stack, places)
        check_inputs(record, (prepared.base, prepared.model), "extracted from")
        wanted = [v for v in prepared.vectors if unwanted_reason(v.name, include, exclude) is None]
        if not wanted:
            hint = did_you_mean(include[0] if include else "", [v.name for v in prepared.vectors][:2000])
            raise OptionError(f"no parameter of {printable(str(folder))} is left by --include and --exclude{hint}")
        sinks = StoredFactors(prepared, stored)
        kernels = kernels_on(prepared.choice, factor_kernels_for, prepared.workers, progress.note)
        if executor is None:
            executor = stack.enter_context(planned_executor(options, prepared.workers, prepared.memory))
        with shown(progress, len(wanted), sum(v.nbytes for v in wanted)):
            runs = prepared.factorised(wanted, sinks, executor, kernels, progress)
            found = {vector.name: result for vector, result in runs}
        judge = _Judge(prepared, stored, record, sinks, factor_kernels_for("cpu"))
        judged = (judge.verdict(t, found[t.name]) for t in prepared.targets.targets if t.name in found)
        verdicts = [verdict for verdict in judged if verdict is not None]
        verdicts += [*judge.others(), *_config_verdict(folder, judge)] if not include and not exclude else []
        for checked in (source, prepared.base, prepared.model):
            checked.check_unchanged()
    planned = len(record["parameters"]) + 1  # and adapter_config.json
    return Verified(folder, verdicts, planned, prepared.choice.name, device_notes(kernels))


def _label(folder: Path) -> str:
    return printable(str(folder / ADAPTER_RECORD), 300)


def _record(folder: Path) -> dict[str, Any]:
    record = read_record(folder / ADAPTER_RECORD, "an extraction", "extract again")
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in _KINDS.items()):
        raise FormatError(
            f"{_label(folder)}: not the record of an extraction: request, inputs or parameters are missing"
        )
    if record.get("schema") != SCHEMA:
        raise FormatError(
            f"{_label(folder)}: schema {printable(str(record.get('schema')), 60)}, this version knows {SCHEMA}; use the"
            f" version of netweight that made it, {printable(str(record.get('netweight')), 60)}"
        )
    return record


def _options(folder: Path, request: Mapping[str, Any], machine: MachineOptions) -> Options:
    try:
        options = Options(**{name: request[name] for name in REQUEST})
    except (TypeError, KeyError, OptionError) as error:
        raise FormatError(
            f"{_label(folder)}: its request is none of an extraction: {printable(str(error))}; extract again"
        ) from None
    return replace(options, **{field.name: getattr(machine, field.name) for field in fields(machine)})


class _Compared:
    """FactorSink that compares with stored factors, both as the weight's own layout has them."""

    def __init__(self, left: Any, right: Any) -> None:
        self._given = self._stored = left, right
        self._digest = xxhash.xxh3_128()
        self.differing = 0

    def start(self, rank: int) -> None:
        """See FactorSink."""
        left, right = self._given
        self._fits = rank <= len(right) and _is_zero(left[:, rank:]) and _is_zero(right[rank:])
        self._stored = left[:, :rank], right[:rank]
        self._digest.reset()
        self.differing = 0 if self._fits else max(1, left.size + right.size)

    def right(self, factor: Any) -> None:
        """See FactorSink."""
        self._take(factor, self._stored[1])

    def left(self, first: int, rows: Any) -> None:
        """See FactorSink."""
        self._take(rows, self._stored[0][first : first + len(rows)])

    def _take(self, made: Any, stored: Any) -> None:
        made = np.ascontiguousarray(made)
        self._digest.update(made.view(np.uint8).data)
        if self._fits:
            bits = f"u{made.itemsize}"
            self.differing += int(np.count_nonzero(made.view(bits) != np.ascontiguousarray(stored).view(bits)))

    def settle(self) -> tuple[str, int]:
        """The digest of what came, and how many elements differ."""
        return self._digest.hexdigest(), self.differing


def _is_zero(values: Any) -> bool:
    return not np.any(np.asarray(values, np.float32))


class StoredFactors:
    """passes.task_vectors.PartSinks that compares with the adapter's file."""

    def __init__(self, prepared: Prepared, stored: Mapping[str, Tensor]) -> None:
        self._targets = {t.name: t for t in prepared.targets.targets if t.layer is not None}
        self._dtype = prepared.plan.dtype
        self._stored = {tensor.name: tensor for tensor in stored.values()}
        self._open: dict[str, _Compared] = {}

    def names(self, target: Target) -> tuple[str, str]:
        """The names of A and B."""
        where = f"base_model.model.{target.module}."
        if target.layer == "embedding":
            return f"{where}lora_embedding_A", f"{where}lora_embedding_B"
        return f"{where}lora_A.weight", f"{where}lora_B.weight"

    def factors(self, target: Target) -> tuple[Any, Any] | None:
        """(left [m, r], right [r, n]) as stored, None where they are missing, or of another type or shape."""
        a, b = (self._stored.get(name) for name in self.names(target))
        rows, cols = target.base.shape
        if a is None or b is None or a.dtype != self._dtype or b.dtype != self._dtype:
            return None
        down, up = a.read(), b.read()
        left, right = (up, down) if target.layer == "linear" else (down.T, up.T)
        if left.ndim != 2 or right.ndim != 2 or left.shape != (rows, len(right)) or right.shape[1] != cols:
            return None
        return left, right

    def sink(self, vector: TaskVector) -> _Compared:
        """See PartSinks."""
        rows, cols = vector.base.shape
        none = np.zeros((rows, 0), self._dtype.to_numpy()), np.zeros((0, cols), self._dtype.to_numpy())
        self._open[vector.name] = _Compared(*(self.factors(self._targets[vector.name]) or none))
        return self._open[vector.name]

    def settle(self, vector: TaskVector) -> tuple[str, int]:
        """See PartSinks."""
        return self._open.pop(vector.name).settle()


@dataclass
class _Judge:
    """What is to be said of every parameter."""

    prepared: Prepared
    stored: Mapping[str, Tensor]
    record: Mapping[str, Any]
    sinks: StoredFactors
    kernels: FactorKernels

    def __post_init__(self) -> None:
        self.known: set[str] = set()
        self.whole: set[str] = set()

    def verdict(self, target: Target, found: Factored) -> Verdict | None:
        """None for what did not change, and has nothing in the adapter."""
        row = self.record["parameters"].get(target.name)
        if target.layer is not None and (row is not None or target.experts):
            self.known |= set(self.sinks.names(target))
        if not found.squares:
            return self._unchanged(target, row)
        if not isinstance(row, dict) or not isinstance(row.get("squares"), float):
            return Verdict(target.name, "missing", 0, "the record does not have it")
        if not isclose(row["squares"], found.squares, rel_tol=_SAME_ERROR):
            return Verdict(target.name, "differs", 0, "the models differ otherwise than when it was extracted")
        if target.layer is not None:
            return self._factors(target, found, row)
        if target.bias:
            return self._tensors(target.name, {self._bias_name(target): target.model})
        if target.whole:
            return self._module(target)
        return Verdict(target.name, "same")

    def _unchanged(self, target: Target, row: Any) -> Verdict | None:
        """An expert beside changed ones has factors of zeros."""
        if row is not None:
            return Verdict(target.name, "differs", 0, "the models do not differ in it")
        factors = self.sinks.factors(target) if target.experts else None
        if factors is None:
            return None
        good = all(map(_is_zero, factors))
        return None if good else Verdict(target.name, "differs", 0, "the models do not differ in it")

    def _bias_name(self, target: Target) -> str:
        name = f"base_model.model.{target.module}.base_layer.bias"
        return name if name in self.stored else f"base_model.model.{target.module}.bias"

    def _module(self, target: Target) -> Verdict:
        members = self.prepared.targets.members[target.module]
        self.whole.add(target.module)
        expected = {f"base_model.model.{name}": tensor for name, tensor in members.items()}
        if target.name == self.prepared.targets.tied and self.prepared.targets.head:
            self.whole.add(self.prepared.targets.head)
            expected[f"base_model.model.{self.prepared.targets.head}.weight"] = target.model
        return self._tensors(target.name, expected)

    def _tensors(self, name: str, expected: Mapping[str, Tensor]) -> Verdict:
        """The verdict on copies of the fine-tune's tensors."""
        self.known |= expected.keys()
        differing = 0
        for stored_name, tensor in expected.items():
            stored = self.stored.get(stored_name)
            if stored is None:
                return Verdict(name, "missing", 0, stored_name)
            if (stored.shape, stored.dtype) != (tensor.shape, tensor.dtype):
                return Verdict(name, "differs", tensor.size, f"stored as {stored.dtype} {list(stored.shape)}")
            differing += _unequal(stored, tensor)
        return Verdict(name, "differs", differing, "not the fine-tune's") if differing else Verdict(name, "same")

    def _factors(self, target: Target, found: Factored, row: Mapping[str, Any]) -> Verdict:
        stored = self.sinks.factors(target)
        if stored is None:
            return Verdict(target.name, "missing", 0, "no factors of the type and shape that the record says")
        if not self._head_is_like(target, stored):
            return Verdict(target.name, "differs", 0, "the head's factors are not those of the embedding")
        if not found.differing:
            same = row.get("digest") == found.digest and isclose(row["left"], found.left, rel_tol=_SAME_ERROR)
            return Verdict(target.name, "same") if same else Verdict(
                target.name, "differs", 0, "the file is what the models give, but the record says otherwise"
            )  # fmt: skip
        left = self._left_by(target, stored)
        if not isclose(row["left"], left, rel_tol=1e-6, abs_tol=1e-12 * found.squares):
            return Verdict(target.name, "differs", found.differing, "the factors do not give the recorded error")
        why = "computed otherwise: other libraries or processor; the factors give the recorded error"
        return Verdict(target.name, "differs", found.differing, why)

    def _head_is_like(self, target: Target, factors: tuple[Any, Any]) -> bool:
        """Whether the factors of a tied head, where it has any of its own, are those of the embedding."""
        targets = self.prepared.targets
        if target.name != targets.tied or not targets.head or shares_adapter(target):
            return True
        head = replace(target, layer="linear", module=targets.head)
        self.known |= set(self.sinks.names(head))
        own = self.sinks.factors(head)
        return own is not None and all(map(np.array_equal, own, factors))

    def _left_by(self, target: Target, factors: tuple[Any, Any]) -> float:
        """What the stored factors leave of the squares."""
        from netweight.passes.task_vectors import TaskVector, TaskVectorRows

        left, right = factors
        sent = self.kernels.send(right.astype(np.float64), wide=True)
        total, first = 0.0, 0
        for block in TaskVectorRows(TaskVector(target.name, target.base, target.model, "factors")).blocks():
            total += self.kernels.residual(block, left[first : first + len(block)], sent)
            first += len(block)
        return total

    def others(self) -> list[Verdict]:
        """Resized modules, and tensors that nothing asks for."""
        verdicts = [self._module(target) for target in self.prepared.targets.targets if target.resized]
        return verdicts + [Verdict(name, "not of the recipe") for name in self.stored if name not in self.known]


def _unequal(one: Tensor, other: Tensor) -> int:
    """How many elements of two tensors of one shape and type differ, read piece by piece."""
    total, size = 0, one.dtype.nbytes(min(_PIECE, one.size))
    rooms = np.empty((2, size), np.uint8)
    for start in range(0, one.size, _PIECE):
        count = min(_PIECE, one.size - start)
        sides = rooms[:, : one.dtype.nbytes(count)]
        for tensor, side in zip((one, other), sides, strict=True):
            read_elements(tensor, start, side.data)
        total += int(np.count_nonzero((sides[0] != sides[1]).reshape(count, -1).any(axis=1)))
    return total


def _config_verdict(folder: Path, judge: _Judge) -> list[Verdict]:
    """Whether adapter_config.json still says that every product counts once, and which modules are kept whole."""
    from netweight.checkpoint.adapters.settings import settings_of

    where = printable(str(folder / ADAPTER_CONFIG), 300)
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        return [Verdict(ADAPTER_CONFIG, "missing", 0, printable(str(error)))]
    if not isinstance(config, dict):
        return [Verdict(ADAPTER_CONFIG, "differs", 0, "not an object")]
    settings = settings_of(config, where)
    for name, tensor in judge.stored.items():
        found = _FIRST.fullmatch(name)
        if found and settings.scale_of(found["module"], tensor.shape[0]) != 1.0:
            return [Verdict(ADAPTER_CONFIG, "differs", 0, f"{found['module']}: its product is not multiplied by 1")]
    if set(config.get("modules_to_save") or ()) != judge.whole:
        return [Verdict(ADAPTER_CONFIG, "differs", 0, "modules_to_save are not those that changed")]
    return [Verdict(ADAPTER_CONFIG, "same")]
