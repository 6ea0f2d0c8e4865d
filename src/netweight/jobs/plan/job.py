"""`plan`: for every tensor a format, so that the model has the size that was asked for and loses least."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.errors import FormatError, JobError, printable
from netweight.jobs.inputs import Reference, identity, locations
from netweight.jobs.plan.choose import Frontier, Option
from netweight.jobs.plan.plan import Options, Prepared, Unit, prepare
from netweight.run.progress import Progress, Silent, shown
from netweight.run.threads import ThreadExecutor, in_order

if TYPE_CHECKING:
    from netweight.jobs.plan.result import PlanResult
    from netweight.kernels.arrays import F32Array

__all__ = ["plan"]

_EXPERTS = 8  # of a stack, of which rows are encoded
_KEPT = "kept"


def plan(
    ref: Reference,
    size: str,
    *,
    backend: str = "gguf",
    output: Reference | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> PlanResult:
    """A format for every tensor of the model `ref`, so that it has at most `size` ("4.5bpw", "8GB") in a `backend`.

    What is small is the sum, over the tensors that take one format, of their squared relative error: a tensor counts as
    much as another, whatever its size, the embedding and the head ten times as much. `output`: the file that the back
    end takes, put in place in one step. `settings` are the fields of Options by name. Errors are those of sampled rows,
    and of 8 experts of a stack, unless `exact`.

    Raises InputError and its kin before data is read, JobError where libgguf is needed and not installed, ReadError.
    """
    from netweight.jobs.plan.result import Planned, PlanResult, write_plan

    options = replace(options or Options(size), size=size, backend=backend, **settings)
    progress = progress or Silent()
    with ExitStack() as stack:
        prepared = prepare(ref, options, stack)
        _require_encoders(prepared)
        importance = _importance(options)
        target = None
        if output is not None:
            from netweight.output.result_file import ResultFile

            target = stack.enter_context(ResultFile(Path(output), locations([prepared.checkpoint])))
        errors = _measure(prepared, options, importance, progress)
        prepared.checkpoint.check_unchanged()
        free = [unit for unit in prepared.units if unit.formats]
        choices = [_options(unit, errors[unit.name], prepared) for unit in free]
        frontier = Frontier(choices)
        room = prepared.budget - prepared.fixed
        chosen = {unit.name: option for unit, option in zip(free, frontier.at(room), strict=True)}
        rows = [
            Planned(unit, chosen.get(unit.name), prepared.backend.other(2), errors.get(unit.name, {}))
            for unit in prepared.units
        ]
        notes = list(prepared.notes)
        if room > frontier.most:
            notes.append(f"--size {options.size}: more than the best of all formats takes")
        if importance is not None and (unknown := [u.name for u in free if u.name not in importance]):
            notes.append(f"{len(unknown)} tensors are not in the imatrix, their columns count alike: {unknown[0]} ...")
        uniform = _uniform(prepared, errors)
        result = PlanResult(
            rows,
            prepared,
            _curve(frontier, prepared, sum(unit.weight for unit in free), [bits for _, bits, _ in uniform]),
            uniform,
            notes,
            (identity(prepared.checkpoint),),
            exact=options.exact,
        )
        if target is not None:
            target.commit(lambda path: write_plan(result, path))
        return result


def _require_encoders(prepared: Prepared) -> None:
    from netweight.statistics.formats.ggml import NEEDED, installed

    if prepared.backend.name == "gguf" and not installed():
        raise JobError(NEEDED)


def _importance(options: Options) -> Mapping[str, F32Array] | None:
    if options.imatrix is None:
        return None
    from netweight.statistics.formats.ggml import importance

    try:
        return importance(options.imatrix)
    except OSError as error:
        raise FormatError(f"{printable(str(options.imatrix))}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{printable(str(options.imatrix))}: is no imatrix of llama.cpp: {error}") from error


def _measure(
    prepared: Prepared, options: Options, importance: Mapping[str, F32Array] | None, progress: Progress
) -> dict[str, dict[str, float]]:
    """{unit: {format: squared relative error}}."""
    free = [unit for unit in prepared.units if unit.formats]
    executor = ThreadExecutor(options.workers or os.cpu_count() or 1)
    with shown(progress, len(free), sum(_nbytes(unit, options) for unit in free)):
        found = {}
        measured = in_order(free, lambda one: _errors(one, options, importance), executor)
        for unit, errors in zip(free, measured, strict=True):
            found[unit.name] = errors
            progress.advance(1, _nbytes(unit, options))
        return found


def _nbytes(unit: Unit, options: Options) -> int:
    """Bytes that are read of it, about."""
    from netweight.statistics.formats.errors import sample_size

    total = 0
    for matrix in (unit.matrices[number] for number in _sampled(unit, options)):
        rows, cols = matrix.part.matrix_shape
        total += matrix.nbytes * sample_size(rows, cols, exact=options.exact) // max(1, rows)
    return total


def _sampled(unit: Unit, options: Options) -> Sequence[int]:
    """The numbers of the matrices of which rows are encoded."""
    count = len(unit.matrices)
    if options.exact or count <= _EXPERTS:
        return range(count)
    return [(2 * i + 1) * count // (2 * _EXPERTS) for i in range(_EXPERTS)]


def _errors(unit: Unit, options: Options, importance: Mapping[str, F32Array] | None) -> dict[str, float]:
    """{format: squared relative error} of the unit, its matrices by their squares."""
    from netweight.passes.format_errors import ZERO, sampled_errors

    lost = dict.fromkeys((one.key for one in unit.formats), 0.0)
    squares = 0.0
    for number in _sampled(unit, options):
        matrix = unit.matrices[number]
        opened = matrix.open()
        weights = None if importance is None else _weights(importance.get(unit.name), unit, number, opened.cols)
        found = sampled_errors(opened, unit.formats, exact=options.exact, weights=weights)
        if found.reason == ZERO:
            continue
        if found.reason:
            raise JobError(f"{printable(matrix.name)}: {found.reason}: no plan can be made of it")
        scale = found.of / found.rows
        squares += found.squares * scale
        for key, error in found.errors.items():
            lost[key] += error * scale
    return {key: error / squares if squares else 0.0 for key, error in lost.items()}


def _weights(held: F32Array | None, unit: Unit, number: int, cols: int) -> F32Array | None:
    """The importance of the columns of the matrix of this number: stacks of experts have theirs one after another. None
    where nothing is known of it: an expert that no token came to has zeros.
    """
    if held is None:
        return None
    count = len(unit.matrices)
    if len(held) not in (cols, cols * count):
        raise FormatError(f"imatrix: {unit.name} has {len(held)} numbers, expected {cols} (or {cols * count})")
    own = held if len(held) == cols else held[number * cols : (number + 1) * cols]
    if not (np.isfinite(own).all() and (own >= 0).all()):
        raise FormatError(f"imatrix: {unit.name} has numbers that are no importance: NaN, infinite or negative")
    return own if own.any() else None


def _options(unit: Unit, errors: Mapping[str, float], prepared: Prepared) -> list[Option]:
    """The formats of a unit; costs are what is kept small."""
    found = [Option(one.key, one.bits * unit.elements, unit.weight * errors[one.key]) for one in unit.formats]
    kept = prepared.backend.kept
    return [*found, Option(_KEPT, kept * unit.elements, 0.0)] if kept is not None else found


def _curve(
    frontier: Frontier, prepared: Prepared, weights: float, sizes: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """(bits for a parameter, root mean square of relative errors) of the best choices, over all sizes and at these."""
    points = []
    least, most = frontier.least, frontier.most
    even = [least + (most - least) * i / 24 for i in range(25)]
    named = [bits * prepared.parameters - prepared.fixed for bits in sizes]
    for room in sorted({*even, *(room + 1e-3 for room in named if least <= room)}):
        chosen = frontier.at(room)
        points.append((room, sqrt(sum(option.cost for option in chosen) / weights)))
    return tuple(((room + prepared.fixed) / prepared.parameters, error) for room, error in points)


def _uniform(prepared: Prepared, errors: Mapping[str, Mapping[str, float]]) -> tuple[tuple[str, float, float], ...]:
    """(format, bits for a parameter, root mean square of relative errors) where all have one format, or the smallest of
    theirs that has as many bits.
    """
    free = [unit for unit in prepared.units if unit.formats]
    found = []
    for one in prepared.backend.formats:
        bits, lost = float(prepared.fixed), 0.0
        for unit in free:
            larger = [f for f in unit.formats if f.bits >= one.bits] or [max(unit.formats, key=lambda f: f.bits)]
            taken = one if one in unit.formats else min(larger, key=lambda f: f.bits)
            bits += taken.bits * unit.elements
            lost += unit.weight * errors[unit.name][taken.key]
        found.append((one.label, bits / prepared.parameters, sqrt(lost / sum(unit.weight for unit in free))))
    return tuple(sorted(found, key=lambda entry: -entry[1]))
