"""Statistics of a matrix's rows, columns and groups of columns."""

from __future__ import annotations

from dataclasses import dataclass

from netweight.kernels.arrays import F64Array
from netweight.kernels.channels import DEAD, ChannelPartial
from netweight.statistics.values import Values

__all__ = ["CHANNELS", "Channels"]

CHANNELS = "channels"
"""The name by which measures ask for `Channels`."""


@dataclass(frozen=True, eq=False)
class Channels:
    """Of a matrix [rows, cols]; elements that are not finite count as zeros in all of it.

    Sums of (x - x')^2 over all elements, x' the quantized and dequantized x: `int8` symmetric with a scale max abs /
    127 for every row; `int4_g128_...` and `int4_g32_...` in groups of 128 and of 32 along the columns (a row's last
    group may be short), symmetric (max abs / 7) and asymmetric ((max - min) / 15, from the least element on). Quotients
    are float32 (float64 for F64): an error whose root mean square is below about 1e-4 of a step is rounding, and counts
    as 0. column_maxabs: float64 [cols], or None for one row. dead_rows, dead_columns: every magnitude <= 1e-6. fours:
    whole aligned groups of four along the columns; sparse_fours: those with at least two zeros.
    """

    rows: int
    cols: int
    int8: float
    int4_g128_symmetric: float
    int4_g128_asymmetric: float
    int4_g32_symmetric: float
    int4_g32_asymmetric: float
    column_maxabs: F64Array | None
    dead_rows: int
    dead_columns: int
    fours: int
    sparse_fours: int

    @classmethod
    def of(cls, rows: int, cols: int, partial: ChannelPartial, values: Values | None) -> Channels:
        """From the partial result of a kernel.

        A matrix of one row has its int8 error and its dead columns from `values` (which must hold counts and int8):
        its columns are its elements. Raises ValueError where they are missing.
        """
        int8, maxabs = partial.int8_error, partial.column_maxabs
        if int8 is None or maxabs is None:
            if values is None or DEAD not in values.at_most or (values.moments.n and values.int8 is None):
                raise ValueError("channels of one row: expected values with int8 sums and the count of abs(x) <= 1e-6")
            int8 = values.int8.error_square if values.int8 else 0.0
            dead_columns = values.at_most[DEAD] + values.n_nan + values.n_inf
        else:
            dead_columns = int((maxabs <= DEAD).sum()) if rows else 0
        return cls(
            rows=rows,
            cols=cols,
            int8=int8,
            int4_g128_symmetric=partial.int4_128_symmetric_error,
            int4_g128_asymmetric=partial.int4_128_asymmetric_error,
            int4_g32_symmetric=partial.int4_32_symmetric_error,
            int4_g32_asymmetric=partial.int4_32_asymmetric_error,
            column_maxabs=maxabs,
            dead_rows=partial.dead_rows,
            dead_columns=dead_columns,
            fours=partial.fours,
            sparse_fours=partial.sparse_fours,
        )
