"""The pictures of a comparison with a quantised model."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from netweight.figures.quantisation import bits_and_error, sqnr_map

if TYPE_CHECKING:
    from netweight.jobs.compare.result import Comparison
    from netweight.output.folder import ResultFolder

__all__ = ["draw", "plots_folder", "write_plots"]

_MAP, _BITS = "sqnr_by_block_and_role.png", "bits_and_error.png"


def plots_folder(folder: str | PathLike[str], inputs: Sequence[Path]) -> ResultFolder:
    """The folder of the pictures, not entered yet."""
    from netweight.output.folder import ResultFolder

    return ResultFolder(Path(folder), inputs, "compare plots", planned=[_BITS])


def draw(
    results: Sequence[Comparison], names: Sequence[str], folder: str | PathLike[str], inputs: Sequence[Path]
) -> list[str]:
    """Put the pictures into `folder` in one step; returns notes on what stood there."""
    with plots_folder(folder, inputs) as held:
        write_plots(results, names, held.stage)
        return list(held.commit())


def write_plots(results: Sequence[Comparison], names: Sequence[str], folder: Path) -> None:
    """Draw what quantisations did into the empty `folder`: of one model (SQNR by block and role, and its parameters by
    role), or of several of one original (each one a point, and a map of each). Raises OSError where the disk refuses.
    """
    names = [name.rstrip("/").rpartition("/")[2] or name for name in names]
    held = [(name, q) for name, result in zip(names, results, strict=True) if (q := result.quantisation) is not None]
    if len(held) == 1:
        name, quantisation = held[0]
        sqnr_map(folder / _MAP, name, quantisation.cells)
        points = [
            (p.parameter.role, float(p.bits[1] or "nan"), float(p.metrics["sqnr_db"]))
            for p in results[0].parameters
            if p.pairs is not None and p.pairs.n
        ]
        bits_and_error(folder / _BITS, name, f"{len(points)} parameters by role", points)
        return
    for number, (name, quantisation) in enumerate(held, 1):
        sqnr_map(folder / f"{Path(_MAP).stem}_{number}.png", name, quantisation.cells)
    points = [(name, float(q.total["bits_per_weight_b"]), float(q.total["sqnr_db"])) for name, q in held]
    bits_and_error(folder / _BITS, "quantisations of one model", f"{len(points)} models", points)
