"""The scan measures of both sides of a comparison: the matrices of every pair scanned, each set against its twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from netweight.checkpoint.matrix import matrix_name
from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.kernels.protocol import Kernels
from netweight.measures.between import derive_between
from netweight.measures.registry import Measure, find
from netweight.params.layouts.fused import Layout, layout_of, pieces
from netweight.params.pairing import Pair
from netweight.params.role import Parameter
from netweight.passes.matrices import scratch_bytes
from netweight.passes.scans import Load, loads_of, measure_subjects
from netweight.passes.subjects import Subject
from netweight.run.execute import Executor
from netweight.run.progress import Progress
from netweight.run.spread import DeviceKernels

__all__ = ["Sides", "measure_sides", "plan_sides"]


@dataclass(frozen=True)
class Sides:
    """What is to be scanned: `subjects` {id of a subject: (A's name of the parameter, its part, side 0 or 1)}, `loads`
    in the order of measuring; `scratch`: bytes that a worker takes beside its matrix.
    """

    subjects: dict[int, tuple[str, str, int]]
    loads: tuple[Load, ...]
    measures: tuple[Measure, ...]
    scratch: int

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(load.subject.nbytes for load in self.loads)

    @property
    def largest(self) -> int:
        """Memory that the largest matrix takes."""
        return max((load.memory for load in self.loads), default=0)


def plan_sides(a: Checkpoint, pairs: Sequence[Pair], methods: Sequence[str], kernels: Kernels) -> Sides:
    """The matrices of all pairs that can be compared, of both sides in A's layout; experts in one tensor are told
    apart.
    """
    measures = tuple(find(name) for name in methods if name != "basic_stats")
    layout = layout_of({name: tensor.shape for name, tensor in a.items()}, a.config)
    subjects: list[Subject] = []
    places: dict[int, tuple[str, str, int]] = {}
    for pair in pairs:
        if pair.reason or pair.parameter.state != "learned":
            continue
        for side, tensor in enumerate((pair.a, pair.b)):
            for subject in _subjects(pair.parameter, tensor, layout):
                subjects.append(subject)
                places[id(subject)] = (pair.name, subject.part.label, side)
    loads = tuple(loads_of(subjects, measures, kernels, None))
    return Sides(places, loads, measures, scratch_bytes(kernels, measures))


def _subjects(parameter: Parameter, tensor: Tensor, layout: Layout) -> list[Subject]:
    return [
        Subject(replace(parameter, name=matrix_name(tensor, piece.part), role=piece.role), tensor, piece.part)
        for piece in pieces(parameter, tensor.shape, layout)
        if not piece.fused
    ]


def measure_sides(
    sides: Sides,
    executor: Executor,
    kernels: Kernels | DeviceKernels[Kernels],
    progress: Progress,
    *,
    budget: int,
    methods: Sequence[str],
) -> tuple[dict[str, dict[str, Any]], dict[str, Skipped]]:
    """({parameter: {field: value}} of measures.between.derive_between, {parameter: why its bytes could not be read}).

    A stack of experts has its fields by expert, under `matrices`; its own are NaN.
    """
    scanned: dict[str, dict[str, list[dict[str, Any]]]] = {}  # by parameter and part: A's and B's
    failed: dict[str, Skipped] = {}
    results = measure_subjects(sides.loads, sides.measures, executor, kernels, budget=budget, note=progress.note)
    for subject, measured in results:
        name, label, side = sides.subjects[id(subject)]
        if isinstance(measured, Skipped):
            failed.setdefault(name, Skipped(name, measured.reason))
        else:
            scanned.setdefault(name, {}).setdefault(label, [{}, {}])[side] = measured
        progress.advance(1, subject.nbytes)
    fields = {}
    for name, matrices in scanned.items():
        if "" in matrices:
            fields[name] = derive_between(matrices[""], methods)
            continue
        parts = {label: derive_between(matrices[label], methods) for label in sorted(matrices, key=_numbered)}
        reason = f"a stack of {len(parts)} matrices: see `matrices`"
        unknown = derive_between(({}, {}), methods)
        fields[name] = {k: reason if k.endswith("_reason") else v for k, v in unknown.items()} | {"matrices": parts}
    return fields, failed


def _numbered(label: str) -> tuple[int, str]:
    return int(label) if label.isdigit() else -1, label
