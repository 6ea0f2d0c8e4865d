"""Measures matrices: each on one thread, read once for all its measures, the largest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from netweight.checkpoint.announce import announce_parts
from netweight.checkpoint.matrix import Matrix
from netweight.checkpoint.tensor import Skipped
from netweight.checkpoint.tensors.updates import ProductTensor
from netweight.errors import ReadError
from netweight.kernels.protocol import Kernels
from netweight.measures.registry import Measure, needed
from netweight.measures.within import Within
from netweight.passes.crews import crews, run_crew
from netweight.passes.factored import factors_of_update
from netweight.passes.far_work import FarWork
from netweight.passes.format_errors import KEPT, SampledRows, errors_of
from netweight.passes.format_errors import SCRATCH as ENCODED
from netweight.passes.inside import Inside, Look, inside_bytes, look_of
from netweight.passes.matrices import LONGEST_ROW, Scratch, gather, scratch_bytes
from netweight.passes.permuted import held_bytes as permuted_bytes
from netweight.passes.permuted import permuted_spectra, replicas
from netweight.passes.subjects import Subject
from netweight.run.blas import blas_threads, keep_blas_threads
from netweight.run.devices import spectral_effort
from netweight.run.execute import Executor
from netweight.run.memory import FLOOR
from netweight.run.spread import DeviceKernels, all_kernels
from netweight.statistics.channels import CHANNELS
from netweight.statistics.factored import spectrum as of_factors
from netweight.statistics.formats.errors import Largest, sample_size
from netweight.statistics.spectrum import Spectrum

__all__ = ["Load", "Measurement", "crews_of", "effort_of", "loads_of", "measure_matrix", "measure_subjects"]

Measurement = dict[str, dict[str, Any]] | Skipped
"""{measure: {field: value}} of one matrix, or why it has none."""

_SPECTRUM = "spectrum"
_PERMUTED = "permuted"
_SLICES = "slices"
FORMATS = "formats"
_WITHIN = "within"
_ENCODING = 2000.0  # the work of an element in all formats, in the units of a Gram matrix's
_TOGETHER = 32  # matrices in one task, at most
_TOGETHER_ELEMENTS = 1 << 19  # and their elements, where there are several


def measure_matrix(
    matrix: Matrix,
    measures: Sequence[Measure],
    scratch: Scratch,
    *,
    leading: int | None = None,
    spectrum: Spectrum | None = None,
    seed: int = 0,
    exact: bool = False,
    slices: Sequence[Matrix] = (),
    look: Look | None = None,
) -> dict[str, dict[str, Any]]:
    """{measure: {field: value}} of one matrix, its bytes read once (twice where a statistic needs it).

    `leading`: only so many singular values; `spectrum`: those that are known already; `seed`: of random orders;
    `exact`: no sample of rows where a measure takes one; `slices`: of a convolution; `look`: what to look for inside.
    Raises ReadError where bytes cannot be read.
    """
    asked = needed(measures)
    needs = asked - {_SPECTRUM, _PERMUTED, _SLICES, FORMATS, _WITHIN}
    readable = matrix.dtype.nbytes(matrix.cols) <= LONGEST_ROW
    wide = min(matrix.rows, matrix.cols) > 1
    largest = Largest(matrix.dtype, matrix.rows, matrix.cols) if FORMATS in asked and wide and readable else None
    inside = Inside(matrix, look or Look()) if _WITHIN in asked and wide and readable else None
    sample = SampledRows(matrix) if largest is not None and not exact and SampledRows.fit(matrix) else None
    sinks = (*(one for one in (largest, sample) if one is not None), *(inside.sinks if inside is not None else ()))
    objects: dict[str, Any] = {}
    if _SPECTRUM not in asked:
        gathered = gather(matrix, scratch, needs, sinks)
    elif spectrum is not None:
        gathered = gather(matrix, scratch, needs, sinks)
        objects[_SPECTRUM] = spectrum
    elif not wide:
        # one singular value at most: the norm, which follows from the moments
        gathered = gather(matrix, scratch, needs | {"values.moments"})
        assert gathered.values is not None  # noqa: S101 - it was asked for
        objects[_SPECTRUM] = Spectrum.of_vector(matrix.rows, matrix.cols, gathered.values)
    elif not readable:
        gathered = gather(matrix, scratch, needs)
        objects[_SPECTRUM] = Spectrum.undefined(matrix.rows, matrix.cols, "rows of more than 64 MiB are not taken in")
    else:
        accumulator = scratch.kernels.spectrum(matrix.dtype, matrix.rows, matrix.cols, leading)
        gathered = gather(matrix, scratch, needs, (accumulator, *sinks))
        if accumulator.look_again():
            gather(matrix, scratch, frozenset(), (accumulator,))
        objects[_SPECTRUM] = Spectrum.of(accumulator)
        del accumulator  # and with it its memory
    if _PERMUTED in asked:
        seeded = _seed_of(matrix.name, seed)
        objects[_PERMUTED] = permuted_spectra(matrix, scratch, seeded) if wide and readable else ()
    if _SLICES in asked:
        objects[_SLICES] = tuple(_spectrum_of(one, scratch) for one in slices)
    if FORMATS in asked:
        objects[FORMATS] = errors_of(matrix, largest, exact=exact, sample=sample)
    if _WITHIN in asked:
        objects[_WITHIN] = Within() if inside is None else inside.finish()
    objects |= {"values": gathered.values, "channels": gathered.channels}
    return {m.name: dict(m.derive(*(objects[name] for name in m.takes))) for m in measures}


def _spectrum_of(matrix: Matrix, scratch: Scratch) -> Spectrum:
    """All singular values of a matrix, from a reading of its own."""
    if min(matrix.rows, matrix.cols) <= 1:
        gathered = gather(matrix, scratch, frozenset({"values.moments"}))
        assert gathered.values is not None  # noqa: S101 - it was asked for
        return Spectrum.of_vector(matrix.rows, matrix.cols, gathered.values)
    accumulator = scratch.kernels.spectrum(matrix.dtype, matrix.rows, matrix.cols, None)
    gather(matrix, scratch, frozenset(), (accumulator,))
    if accumulator.look_again():
        gather(matrix, scratch, frozenset(), (accumulator,))
    return Spectrum.of(accumulator)


def _seed_of(name: str, seed: int) -> int:
    """A seed for one matrix, which depends on nothing else that is measured."""
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:4], "little")


@dataclass(frozen=True)
class Load:
    """The cost of measuring one subject: bytes of memory beside the scratch, and work in arbitrary units."""

    subject: Subject
    memory: int
    work: float


def loads_of(
    subjects: Sequence[Subject],
    measures: Sequence[Measure],
    kernels: Kernels,
    leading: int | None,
    *,
    exact: bool = False,
) -> list[Load]:
    """The load of every subject, largest first; those of equal work in file order."""
    needs = needed(measures)
    spectral = _SPECTRUM in needs
    loads = []
    for as_read in subjects:
        subject = as_read if needs & {CHANNELS, FORMATS, _WITHIN} else as_read.as_stored()
        rows, cols = subject.part.stored_shape
        memory, work = subject.held_bytes, float(rows * cols)
        if spectral and min(rows, cols) > 1 and not _is_product(subject):
            if subject.part.transposed:
                rows, cols = cols, rows
            memory += kernels.spectrum_bytes(subject.tensor.dtype, rows, cols, leading)
            short, long = sorted((rows, cols))
            spectra = 1 + (replicas(rows, cols) if _PERMUTED in needs else 0)
            # the Gram matrix, and its eigenvalues at a slower rate
            work += spectra * short * short * (long + 6.0 * short) / 16
        if _PERMUTED in needs and min(rows, cols) > 1:
            width = subject.tensor.dtype.nbytes(cols)
            memory = max(memory, subject.held_bytes + kernels.spectrum_bytes(subject.tensor.dtype, rows, cols, None))
            memory += permuted_bytes(width, rows)
        if _SLICES in needs and subject.convolution:
            out, inner = subject.tensor.shape[:2]
            held = 2 * subject.tensor.dtype.nbytes(subject.part.size)
            memory = max(memory, held + kernels.spectrum_bytes(subject.tensor.dtype, out, inner, None))
        if FORMATS in needs:
            memory += ENCODED + KEPT + 24 * subject.tensor.dtype.nbytes(cols)
            work += _ENCODING * cols * sample_size(rows, cols, exact=exact)
        if _WITHIN in needs:
            memory += inside_bytes(subject)
        loads.append(Load(subject, memory, work))
    return sorted(loads, key=lambda load: -load.work)


@dataclass(frozen=True)
class _Batch:
    """Loads that are measured one after another by one worker: small ones, which would cost more to hand over one by
    one than to measure.
    """

    loads: tuple[Load, ...]

    @property
    def memory(self) -> int:
        """Of the one that takes most."""
        return max(load.memory for load in self.loads)


def _batches(loads: Sequence[Load], workers: int) -> list[_Batch]:
    """The loads in their order, small neighbours together; a worker has several batches to the end."""
    most = max(1, min(_TOGETHER, len(loads) // (8 * workers)))
    found: list[list[Load]] = []
    room = 0
    for load in loads:
        size = load.subject.part.size
        if not found or size > room or len(found[-1]) >= most:
            found.append([])
            room = _TOGETHER_ELEMENTS
        found[-1].append(load)
        room -= size
    return [_Batch(tuple(held)) for held in found]


def effort_of(subjects: Sequence[Subject], measures: Sequence[Measure]) -> float:
    """The work of all spectra, 0 where none is asked for; see `run.devices.spectral_effort`."""
    if _SPECTRUM not in needed(measures):
        return 0.0
    return sum(spectral_effort(subject.part.stored_shape) for subject in subjects)


def crews_of(
    loads: Sequence[Load], measures: Sequence[Measure], kernels: Kernels, workers: int, budget: int
) -> dict[int, list[Load]]:
    """{number measured at a time: their loads}, the fewest first; each crew in the order of `loads`."""
    return crews(loads, scratch_bytes(kernels, measures), workers, budget - FLOOR)


def _is_product(subject: Subject) -> bool:
    """Whether the whole of a product is measured, so that its factors tell the spectrum."""
    return isinstance(subject.tensor, ProductTensor) and subject.part.size == subject.tensor.size


def spectrum_of_factors(subject: Subject) -> Spectrum | None:
    """The spectrum of a product, None for anything else."""
    if not _is_product(subject) or not isinstance(subject.tensor, ProductTensor):
        return None
    (factors,) = factors_of_update(subject.tensor)
    return of_factors(factors)


class _SubjectMeasurer(FarWork):
    """Measures subjects; every thread has a scratch of its own."""

    def __init__(
        self,
        measures: Sequence[Measure],
        kernels: Kernels,
        *,
        leading: int | None,
        threads: int | None,
        seed: int,
        exact: bool,
    ) -> None:
        self._measures = measures
        self._kernels = kernels
        self._leading = leading
        self._seed = seed
        self._exact = exact
        self._threads = threads  # that a spectrum takes, None where there is none
        super().__init__()

    def __call__(self, batch: _Batch) -> list[Measurement]:
        return [self._measure(load) for load in batch.loads]

    def _measure(self, load: Load) -> Measurement:
        if not hasattr(self._own, "scratch"):
            self._own.scratch = Scratch(self._kernels)
            if self.far and self._threads:
                keep_blas_threads(self._threads)
        subject = load.subject
        if self.far:
            announce_parts([(subject.tensor, subject.part)])
        try:
            needs = needed(self._measures)
            known = spectrum_of_factors(subject) if _SPECTRUM in needs else None
            measured = measure_matrix(
                subject.open(),
                self._measures,
                self._own.scratch,
                leading=self._leading,
                spectrum=known,
                seed=self._seed,
                exact=self._exact,
                slices=subject.slices() if _SLICES in needs else (),
                look=look_of(subject) if _WITHIN in needs else None,
            )
            return _as_stored(measured, self._measures, transposed=subject.part.transposed)
        except ReadError as error:
            return Skipped(subject.name, str(error))


def _as_stored(
    measured: dict[str, dict[str, Any]], measures: Sequence[Measure], *, transposed: bool
) -> dict[str, dict[str, Any]]:
    """The fields of rows and columns as these are stored, where the matrix that was measured is a transpose."""
    for measure in measures if transposed else ():
        fields = measured[measure.name]
        for rows, columns in measure.axes:
            fields[rows], fields[columns] = fields[columns], fields[rows]
    return measured


def _name(batch: _Batch) -> str:
    return batch.loads[0].subject.name


def measure_subjects(
    loads: Sequence[Load],
    measures: Sequence[Measure],
    executor: Executor,
    kernels: Kernels | DeviceKernels[Kernels],
    *,
    budget: int,
    leading: int | None = None,
    seed: int = 0,
    exact: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[tuple[Subject, Measurement]]:
    """Yield every subject's measures, or the reason why it has none, as they are done.

    As many are measured at a time as `budget` bytes of memory allow, one always; where fewer spectra fit than there are
    workers, each takes several BLAS threads, so that there are never more threads than workers were asked for. What
    happens to devices goes to `note`.
    """
    host = all_kernels(kernels)[0]
    spectral = bool({_SPECTRUM, _WITHIN} & needed(measures))
    for at_once, crew in crews_of(loads, measures, host, executor.workers, budget).items():
        threads = executor.workers // at_once if spectral else None
        make = partial(_SubjectMeasurer, measures, leading=leading, threads=threads, seed=seed, exact=exact)
        with blas_threads(threads) if threads else nullcontext():
            batches = _batches(crew, executor.workers)
            for batch, results in run_crew(batches, at_once, executor, make, kernels, name=_name, note=note):
                for load, measured in zip(batch.loads, results, strict=True):
                    yield load.subject, measured
