"""Sparsity: zeros and near-zeros, dead rows and columns, 2:4 structure, and how magnitudes are spread.

Shares are of all elements; an element that is not finite is in none of them, but counts as a zero where rows, columns
and groups of four are looked at. 2:4: the structure that NVIDIA's sparse tensor cores take (Mishra et al. 2021).
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.measures.basic_stats import percentage, share
from netweight.measures.measure import Measure
from netweight.statistics.channels import CHANNELS
from netweight.statistics.values import ABS_PROBABILITIES, ABS_QUANTILES, COUNTS, MOMENTS, Values

if TYPE_CHECKING:
    from netweight.statistics.channels import Channels

__all__ = ["COLUMNS", "MEASURE", "NEEDS", "derive"]

NEEDS = frozenset({MOMENTS, ABS_QUANTILES, COUNTS, CHANNELS})

_LEVELS = (0.0, 1e-6, 1e-4, 1e-2)
_LEVEL_NAMES = {t: f"threshold_{t if t != 1e-4 else '0.0001'}" for t in _LEVELS}
_PERCENTILES = tuple(f"p{round(100 * p)}" for p in ABS_PROBABILITIES)

COLUMNS = (
    Column("zeros_percentage", "%", "100 #(x = 0) / n", "number"),
    Column("sparsity", "", "#(abs(x) <= 1e-8) / n", "number"),
    *(
        Column(f"sparsity_levels.{name}", "%", f"100 #(abs(x) <= {t:g}) / n", "number")
        for t, name in _LEVEL_NAMES.items()
    ),
    Column("dead_rows", "rows", "rows whose every element has abs(x) <= 1e-6", "integer"),
    Column("dead_rows_percentage", "%", "dead_rows of all rows", "number"),
    Column("dead_columns", "columns", "columns whose every element has abs(x) <= 1e-6", "integer"),
    Column("dead_columns_percentage", "%", "dead_columns of all columns", "number"),
    Column(
        "two_four_compliance",
        "",
        "share of whole aligned groups of four along the columns with at least two zeros; empty where there is none",
        "number",
    ),
    *(
        Column(f"magnitude_percentiles.{p}", "", f"quantile of abs(x) at {p[1:]}%, linear", "number")
        for p in _PERCENTILES
    ),
    Column("mean_abs_weight", "", "mean of abs(x)", "number"),
    Column("median_abs_weight", "", "median of abs(x)", "number"),
)


def derive(values: Values, channels: Channels) -> dict[str, Any]:
    """{field: value} of one matrix; `sparsity_levels` and `magnitude_percentiles` are mappings; nan: not defined."""
    n, m = values.n, values.moments
    percentiles = dict(zip(_PERCENTILES, values.abs_quantiles or (nan,) * len(_PERCENTILES), strict=True))
    return {
        "zeros_percentage": percentage(values.n_zero, n),
        "sparsity": share(values.at_most[1e-8], n),
        "sparsity_levels": {name: percentage(values.at_most[t], n) for t, name in _LEVEL_NAMES.items()},
        "dead_rows": channels.dead_rows,
        "dead_rows_percentage": percentage(channels.dead_rows, channels.rows),
        "dead_columns": channels.dead_columns,
        "dead_columns_percentage": percentage(channels.dead_columns, channels.cols),
        "two_four_compliance": share(channels.sparse_fours, channels.fours),
        "magnitude_percentiles": percentiles,
        "mean_abs_weight": m.l1 / m.n if m.n else nan,
        "median_abs_weight": percentiles["p50"],
    }


MEASURE = Measure(
    name="sparsity",
    doc="Zeros, dead rows and columns, 2:4 structure.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
    takes=("values", "channels"),
    axes=(("dead_rows", "dead_columns"), ("dead_rows_percentage", "dead_columns_percentage")),
    compared=(
        "sparsity_diff",
        "dead_rows_diff",
        "dead_columns_diff",
    ),
)
