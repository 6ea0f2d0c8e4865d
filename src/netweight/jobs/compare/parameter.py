"""One parameter that both models of a comparison name."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from netweight.columns import Column
from netweight.jobs.role_columns import ROLE_COLUMNS
from netweight.params.role import Parameter
from netweight.statistics.pairs import PairStatistics

__all__ = ["PARAMETER_COLUMNS", "ParameterComparison"]

PARAMETER_COLUMNS = (
    Column("param", "", "the parameter's name in A", "text"),
    Column("param_b", "", "its name in B", "text"),
    Column("shape", "", "its shape in A", "integers"),
    Column("shape_b", "", "its shape in B", "integers"),
    Column("dtype", "", "element type in A", "text"),
    Column("dtype_b", "", "element type in B", "text"),
    Column("stored", "", "how A's file has it: a dtype, or what is decoded, such as Q4_K", "text"),
    Column("stored_b", "", "how B's file has it", "text"),
    Column("bits_per_weight", "bits", "of A's file for an element, scales and all", "number"),
    Column("bits_per_weight_b", "bits", "of B's file for an element", "number"),
    *ROLE_COLUMNS,
)
"""The first columns of the table; those of measures.change and of the scan measures asked for follow."""


@dataclass(frozen=True)
class ParameterComparison:
    """One parameter that both models name: `metrics` are its fields, `pairs` the statistics that they follow from (None
    where its weights were not compared). Shapes and types are None where only summary numbers are known. `decoded`:
    which sides are decoded from codes.
    """

    parameter: Parameter
    name_b: str
    metrics: dict[str, Any]
    pairs: PairStatistics | None = None
    shape: tuple[int, ...] | None = None
    shape_b: tuple[int, ...] | None = None
    dtype: str | None = None
    dtype_b: str | None = None
    stored: str | None = None
    stored_b: str | None = None
    bytes_in_file: int | None = None
    bytes_in_file_b: int | None = None
    decoded: tuple[bool, bool] = (False, False)

    @property
    def bits(self) -> tuple[float | None, float | None]:
        """Bits of A's file and of B's for an element; None where they are not known."""
        size = prod(self.shape) if self.shape is not None else 0
        a, b = (8 * n / size if n is not None and size else None for n in (self.bytes_in_file, self.bytes_in_file_b))
        return a, b

    @property
    def quantised(self) -> bool:
        """Whether either side is decoded from codes."""
        return any(self.decoded)

    @property
    def name(self) -> str:
        """A's name for it."""
        return self.parameter.name
