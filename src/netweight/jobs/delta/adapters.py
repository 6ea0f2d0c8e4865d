"""Task vectors of adapters: what their factors tell exactly, with their base or without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.adapters.reading import adapter_in
from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.checkpoint.tensors.updates import UpdateTensor
from netweight.errors import InputError, OptionError, printable
from netweight.jobs.delta.names import model_names
from netweight.jobs.delta.plan import Options
from netweight.jobs.inputs import Reference, identity, locations, path_of, references
from netweight.params.opening import open_model
from netweight.params.pairing import Aligned, Coverage
from netweight.params.role import classify
from netweight.params.selection import nothing_matches, unwanted_reason
from netweight.params.updates import updates_of
from netweight.run.memory import available_cores
from netweight.run.threads import ThreadExecutor, in_order

if TYPE_CHECKING:
    from netweight.jobs.delta.result import Delta, ParameterDelta
    from netweight.statistics.factored import Factors

__all__ = ["delta_of_adapters", "with_factors"]


def with_factors(measured: ParameterDelta) -> ParameterDelta:
    """What was measured by blocks, with norms, inner products and spectra from the factors where there are some."""
    aligned = measured.aligned
    from netweight.passes.factored import has_factors

    if not any(has_factors(tensor, aligned.base) for tensor in aligned.models):
        return measured
    from netweight.passes.factored import factors_of, products

    gram = [list(row) for row in measured.gram]
    held = [None if tensor is None else factors_of(tensor, aligned.base) for tensor in aligned.models]
    for (i, j), product in products(aligned, held, aligned.base).items():
        if isfinite(product):
            gram[i][j] = gram[j][i] = product
    spectra = tuple(None if factors is None else _spectrum(factors) for factors in held)
    rows = list(measured.rows)
    for i, (row, factors) in enumerate(zip(rows, held, strict=True)):
        if row is not None and factors is not None and gram[i][i] >= 0:
            rows[i] = {**row, **_norms(sqrt(gram[i][i]), row["base_l2"])}
    return replace(measured, rows=tuple(rows), gram=tuple(map(tuple, gram)), spectra=spectra)


def _norms(l2: float, base_l2: float | None) -> dict[str, Any]:
    return {"l2": l2, "relative_l2": l2 / base_l2 if base_l2 else None}


def _spectrum(factors: Sequence[Factors]) -> dict[str, Any] | None:
    """The columns FACTORED of an update; None for a stack of experts."""
    from netweight.statistics.factored import spectrum
    from netweight.statistics.spectrum import EPS

    if len(factors) != 1:
        return None
    found = spectrum(factors[0])
    if not found.defined:
        return None
    values = found.values[: found.total - found.zeros]
    cells = (found.rank(max(found.rows, found.cols) * EPS), found.largest, found.stable_rank, found.entropy_rank)
    names = ("factor_rank", "sigma_1", "stable_rank", "entropy_rank")
    known = {name: float(cell) if isfinite(cell) else None for name, cell in zip(names, cells, strict=True)}
    return known | {"singular_values": values.tolist()}


def delta_of_adapters(models: Reference | Sequence[Reference], outdir: Reference | None, options: Options) -> Delta:
    """The delta of adapters without their base: of each update its norm, its inner products with the others', and its
    singular values; nothing that would take its elements. Only the adapters are read.

    Raises OptionError where a model is no adapter, InputError for kinds whose updates depend on the base.
    """
    from netweight.jobs.delta.result import result_folder, write_delta

    with ExitStack() as stack:
        opened = [_updates(ref, options, stack) for ref in references(models)]
        if not opened:
            raise OptionError("--models: expected one or more fine-tuned models, got none")
        names = model_names([path_of(c) for c in opened], _reserved())
        folder = None
        if outdir is not None:
            folder = stack.enter_context(result_folder(outdir, locations(opened), names))
        result = _measured(opened, names, options)
        for checkpoint in opened:
            checkpoint.check_unchanged()
        if folder is not None:
            write_delta(result, folder.stage)
            folder.commit()
        return result


def _reserved() -> Sequence[str]:
    from netweight.jobs.delta.result import RESERVED

    return RESERVED


def _updates(ref: Reference, options: Options, stack: ExitStack) -> Checkpoint:
    held = stack.enter_context(open_model(ref, download=not options.remote))
    adapter = None if held.made_of else adapter_in(held)
    if adapter is None:
        raise OptionError(f"--base: is missing, and {printable(held.ref)} is no adapter: give the base that it is of")
    made = updates_of(held, adapter)
    if not all(isinstance(tensor, UpdateTensor) for tensor in made.values()):
        raise InputError(f"{made.notes[-1]}, or --base")
    saved = (Skipped(name, "trained whole: what it changed takes the base") for name in adapter.saved)
    made.skipped = (*made.skipped, *saved)
    return made


def _measured(opened: Sequence[Checkpoint], names: Sequence[str], options: Options) -> Delta:
    from netweight.jobs.delta.result import Delta
    from netweight.run.blas import blas_threads

    every: dict[str, list[Tensor | None]] = {}
    skipped: list[list[Skipped]] = [list(checkpoint.skipped) for checkpoint in opened]
    for number, checkpoint in enumerate(opened):
        for name, tensor in checkpoint.items():
            if (reason := unwanted_reason(name, options.include, options.exclude)) is not None:
                skipped[number].append(Skipped(name, reason, asked=True))
                continue
            column = every.setdefault(name, [None] * len(opened))
            first = next((held for held in column if held is not None), tensor)
            if first.shape != tensor.shape:
                reason = f"shape {list(tensor.shape)}, {list(first.shape)} in an adapter before it"
                skipped[number].append(Skipped(name, reason))
                continue
            column[number] = tensor
    if not every:
        raise OptionError(nothing_matches(opened[0], options.include, options.exclude))
    workers = options.workers or available_cores()
    with blas_threads(1):
        parameters = list(in_order(list(every.items()), lambda entry: _parameter(*entry), ThreadExecutor(workers)))
    note = "without --base: norms, cosines and singular values of the updates, from their factors; nothing of elements"
    return Delta(
        "",
        names,
        [checkpoint.ref for checkpoint in opened],
        parameters,
        [tuple(entries) for entries in skipped],
        [Coverage(1.0, 1.0)] * len(opened),
        (note, *(text for checkpoint in opened for text in checkpoint.notes)),
        [identity(checkpoint) for checkpoint in opened],
    )


def _parameter(name: str, column: Sequence[Tensor | None]) -> ParameterDelta:
    from netweight.jobs.delta.result import ParameterDelta
    from netweight.passes.factored import factors_of, products

    first = next(tensor for tensor in column if tensor is not None)
    aligned = Aligned(name, classify(name, first.shape), first, tuple(column))
    held = [None if tensor is None else factors_of(tensor, None) for tensor in column]
    found = products(aligned, held, None)
    gram = [[found.get((max(i, j), min(i, j)), 0.0) for j in range(len(column))] for i in range(len(column))]
    rows = tuple(None if tensor is None else _row(gram[i][i]) for i, tensor in enumerate(column))
    spectra = tuple(None if factors is None else _spectrum(factors) for factors in held)
    return ParameterDelta(aligned, rows, tuple(map(tuple, gram)), spectra)


def _row(square: float) -> Mapping[str, Any]:
    """Drift's columns where only the norm is known."""
    from netweight.measures.drift import COLUMNS

    l2 = sqrt(square) if square >= 0 else nan
    finite = isfinite(l2)
    unknown: dict[str, Any] = {column.name: None for column in COLUMNS}
    return unknown | {
        "l2": l2 if finite else None, "n_nan": 0, "n_inf": 0, "flag": "" if finite else "non-finite",
    }  # fmt: skip
