"""The pictures of `scan`: of all matrices, and of chosen ones their distribution and singular values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.checkpoint.matrix import Matrix
from netweight.errors import OptionError, ReadError, printable
from netweight.figures.health import health_dashboard
from netweight.figures.rank import rank_efficiency
from netweight.figures.scan import condition_bars, quantization_risk
from netweight.figures.tensor import singular_spectrum, weight_distribution
from netweight.jobs.scan.result import ScanResults, ScanRow
from netweight.kernels.cpu import CpuKernels
from netweight.passes.matrices import LONGEST_ROW, Scratch, gather
from netweight.passes.subjects import Subject
from netweight.statistics.difference import PROBABILITIES

if TYPE_CHECKING:
    from netweight.measures.measure import Measure
    from netweight.output.folder import ResultFolder

__all__ = ["check_globs", "choose_tensors", "plots_folder", "write_plots"]

_CHOSEN = 4  # matrices drawn one by one where none were named
_MOST = 64  # and where they were
_BINS = 200
_AT_ONCE = 1 << 20  # elements that are widened at a time
_WORST = 5


def check_globs(names: Iterable[str], globs: Sequence[str]) -> None:
    """Raises OptionError where one of `globs` fits none of the `names`, or all of them too many."""
    named = set()
    for glob in globs:
        fitting = {name for name in names if fnmatchcase(name, glob)}
        if not fitting:
            raise OptionError(f"--plot-tensors {printable(glob)}: no matrix that is measured has such a name")
        named |= fitting
    if len(named) > _MOST:
        raise OptionError(f"--plot-tensors: {len(named)} matrices are named; expected at most {_MOST}")


def plots_folder(folder: str | PathLike[str], inputs: Sequence[Path], measures: Iterable[Measure]) -> ResultFolder:
    """The folder of the pictures, not entered yet; which matrices are drawn one by one is not known before."""
    from netweight.output.folder import ResultFolder

    names = {measure.name for measure in measures}
    planned = ["health.png"]
    planned += ["condition_numbers.png", "rank_efficiency.png"] if "spectral" in names else []
    planned += ["quantization_risk.png"] if "quantization" in names else []
    return ResultFolder(Path(folder), inputs, "scan plots", planned=planned)


def choose_tensors(result: ScanResults, globs: Sequence[str]) -> list[ScanRow]:
    """The matrices to draw one by one: those that a glob names, else the worst by condition number and by SQNR and the
    largest.
    """
    if globs:
        return [row for row in result.rows if any(fnmatchcase(row.name, glob) for glob in globs)]
    matrices = [row for row in result.rows if row.matrix and not row.fused]
    ranked: list[ScanRow] = []
    for field, sign in (("spectral.condition_number", -1), ("quantization.sqnr_db", 1)):
        known = [(sign * v, i) for i, row in enumerate(matrices) if isinstance(v := row.value(field), float) and v == v]  # noqa: PLR0124
        ranked += [matrices[i] for _, i in sorted(known)[:2]]
    ranked += sorted(matrices, key=lambda row: -row.elements)[:_CHOSEN]
    return list({row.name: row for row in ranked}.values())[:_CHOSEN]


def write_plots(result: ScanResults, subjects: Sequence[Subject], folder: Path, globs: Sequence[str] = ()) -> list[str]:
    """Draw what was measured into the empty `folder`; returns notes on what could not be drawn.

    Raises OSError where the disk refuses.
    """
    title = Path(result.ref).name or result.ref
    chosen = choose_tensors(result, globs)
    rows = sorted((row for row in result.rows if row.matrix and not row.fused), key=_depth)
    names = {measure.name for measure in result.measures}
    if "spectral" in names:
        condition_bars(
            folder / "condition_numbers.png", title, [(r.name, r.value("spectral.condition_number")) for r in rows]
        )
        rank_efficiency(
            folder / "rank_efficiency.png",
            title,
            [
                (
                    r.parameter.layer_group,
                    r.parameter.role,
                    r.value("spectral.svd_90_percent_ratio"),
                    r.value("spectral.stable_rank_ratio"),
                )
                for r in rows
            ],
        )
    if "quantization" in names:
        quantization_risk(
            folder / "quantization_risk.png",
            title,
            [
                (r.name, r.value("quantization.extreme_outlier_percentage"), r.value("quantization.sqnr_db"))
                if r.value("quantization.risk_level") != "broken"  # the zones are advice for finite matrices
                else (r.name, None, None)
                for r in rows
            ],
        )
    _dashboard(folder / "health.png", title, result, rows)
    described = {subject.name: subject for subject in subjects}
    scratch = Scratch(CpuKernels())
    notes = []
    for number, row in enumerate(chosen, 1):
        stem = f"tensor_{number:02}_{re.sub(r'[^A-Za-z0-9._-]+', '_', row.name)[:80]}"
        try:
            _draw_matrix(folder / stem, row, described[row.name], scratch, names)
        except ReadError as error:
            notes.append(f"{printable(row.name)}: not drawn: {error}")
    return notes


def _depth(row: ScanRow) -> tuple[str, int]:
    """Files may hold layer 10 before layer 2."""
    return row.parameter.stack, -1 if row.parameter.layer is None else row.parameter.layer


def _dashboard(path: Path, title: str, result: ScanResults, rows: Sequence[ScanRow]) -> None:
    health = result.health()
    points = [
        (
            r.parameter.layer_group,
            {
                "condition_number": r.value("spectral.condition_number"),
                "sqnr_db": r.value("quantization.sqnr_db"),
                "sparsity": _first_known(r.value("sparsity.sparsity"), r.value("basic_stats.sparsity")),
                "rank_ratio": r.value("spectral.svd_90_percent_ratio"),
            },
        )
        for r in rows
    ]
    worst = [(f.level, f"{f.said} in {f.parameter}") for f in health.findings[:_WORST]]
    health_dashboard(path, title, {str(level): count for level, count in health.counts().items()}, points, worst)


def _first_known(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _draw_matrix(stem: Path, row: ScanRow, subject: Subject, scratch: Scratch, names: set[str]) -> None:
    under = f"{row.parameter.role}, {' x '.join(map(str, (row.rows, row.cols)))}, {subject.tensor.stored}"
    matrix = subject.open()
    if names & {"basic_stats", "quantization", "sparsity"}:
        _distribution(stem.with_name(f"{stem.name}_distribution.png"), row, matrix, scratch, under)
    short = min(matrix.rows, matrix.cols)
    if names & {"spectral", "tail"} and short > 1 and matrix.dtype.nbytes(matrix.cols) <= LONGEST_ROW:
        accumulator = scratch.kernels.spectrum(matrix.dtype, matrix.rows, matrix.cols)
        gather(matrix, scratch, frozenset(), sinks=(accumulator,))
        if accumulator.look_again():
            gather(matrix, scratch, frozenset(), sinks=(accumulator,))
        singular = accumulator.singular_values()
        if singular.values is not None:
            marks = {
                label: int(value)
                for label, field in (("90% rank", "svd_90_percent_rank"), ("actual rank", "actual_rank"))
                if isinstance(value := row.value(f"spectral.{field}"), int)
            }
            fit = (row.value("tail.xmin"), row.value("tail.alpha"))
            singular_spectrum(
                stem.with_name(f"{stem.name}_spectrum.png"),
                row.name,
                singular.values.tolist(),
                marks,
                fit=fit if all(isinstance(v, float) and isfinite(v) for v in fit) else None,
                under=under,
            )


def _distribution(path: Path, row: ScanRow, matrix: Matrix, scratch: Scratch, under: str) -> None:
    values = gather(matrix, scratch, frozenset({"values.moments", "values.quantiles"})).values
    assert values is not None  # noqa: S101 - it was asked for
    moments = values.moments
    if not moments.n or not isfinite(moments.maximum - moments.minimum):
        return
    low, high = moments.minimum, moments.maximum
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.zeros(_BINS, np.int64)
    for piece in _pieces(matrix):
        counts += np.histogram(piece[np.isfinite(piece)], edges)[0]
    fences = []
    if values.quantiles:
        quartiles = dict(zip(PROBABILITIES, values.quantiles, strict=True))
        q25, q75 = quartiles[0.25], quartiles[0.75]
        fences = [(q25 - k * (q75 - q25), q75 + k * (q75 - q25)) for k in (1.5, 3.0)]
    weight_distribution(
        path,
        row.name,
        edges.tolist(),
        counts.tolist(),
        mean=moments.average,
        std=moments.std,
        fences=fences,
        under=under,
    )


def _pieces(matrix: Matrix) -> Iterator[np.ndarray[Any, Any]]:
    """All elements as float64, some at a time."""
    kind, width = matrix.dtype.to_numpy(), matrix.dtype.bits // 8
    room = np.empty(_AT_ONCE * width, np.uint8)
    if matrix.cols > _AT_ONCE:
        for row in range(matrix.rows):
            for first in range(0, matrix.cols, _AT_ONCE):
                count = min(_AT_ONCE, matrix.cols - first)
                matrix.read_cells(row, first, count, room[: count * width].data)
                yield room[: count * width].view(kind).astype(np.float64)
        return
    at_once = max(1, _AT_ONCE // max(1, matrix.cols))
    for first in range(0, matrix.rows, at_once):
        count = min(at_once, matrix.rows - first)
        nbytes = count * matrix.cols * width
        matrix.read_rows(first, count, room[:nbytes].data)
        yield room[:nbytes].view(kind).astype(np.float64)
