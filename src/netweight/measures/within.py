"""Within: what lies inside a matrix. Whether its values are of a code, which of its heads are unlike the others, which
rows of a table of tokens training never moved.

Codes and rows of tokens: statistics/codes and statistics/token_rows say how they are told. A head is beside the median
of the heads of its matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.columns import Column
from netweight.measures.measure import Measure

if TYPE_CHECKING:
    from netweight.statistics.codes import Codes
    from netweight.statistics.heads import Heads
    from netweight.statistics.token_rows import TokenRows

__all__ = ["COLUMNS", "MEASURE", "Within", "derive"]


@dataclass(frozen=True)
class Within:
    """The code of its values, its heads, its rows of tokens; None for what was not looked for, or cannot be told."""

    codes: Codes | None = None
    heads: Heads | None = None
    tokens: TokenRows | None = None


COLUMNS = (
    Column(
        "code_group",
        "",
        "what has one scale where values are of a code of 8 bits or less: 16 columns to 256 columns of a row, row,"
        " tile (128 x 128), matrix; empty where they are of none, or nothing tells",
        "text",
    ),
    Column("code_values", "", "different values in a group, of 98% of the groups that were looked at", "integer"),
    Column("code_effective", "", "1 / the chance that two values of a group are equal", "number"),
    Column("significant_bits", "bits", "of the values, but for 1% of them; 8 in bfloat16, 24 in float32", "integer"),
    Column("heads", "heads", "heads of an attention projection; empty where they are not known", "integer"),
    Column("zero_heads", "heads", "heads whose elements are all zero", "integer"),
    Column(
        "head_scale",
        "",
        "largest rms of a head over the median of the heads', or its inverse; infinite for a head of zeros",
        "number",
    ),
    Column("head_scale_at", "", "which head that is, from 0", "integer"),
    Column("head_noise", "", "least largest singular value of a head over that of noise of its size", "number"),
    Column("head_noise_at", "", "which head that is, from 0", "integer"),
    Column("head_noise_median", "", "the median of the heads", "number"),
    Column("untrained_rows", "rows", "rows of a table of tokens that are zero, repeated, alike or as begun", "integer"),
    Column("untrained_percentage", "%", "of all rows", "number"),
    Column("zero_rows", "rows", "rows of zeros", "integer"),
    Column("repeated_rows", "rows", "rows equal to another one", "integer"),
    Column("alike_rows", "rows", "rows of nearly one direction with seven others or more", "integer"),
    Column("begun_rows", "rows", "rows that are noise of one variance, in a table that is not", "integer"),
)


def derive(found: Within) -> dict[str, Any]:
    """{column: value} of one matrix; None for what was not looked for or cannot be told."""
    return {**_codes(found.codes), **_heads(found.heads), **_tokens(found.tokens)}


def _codes(codes: Codes | None) -> dict[str, Any]:
    return {
        "code_group": "" if codes is None else codes.group,
        "code_values": None if codes is None else codes.values,
        "code_effective": nan if codes is None or codes.effective is None else codes.effective,
        "significant_bits": None if codes is None else codes.significant,
    }


def _heads(heads: Heads | None) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(("heads", "zero_heads", "head_scale_at", "head_noise_at"))
    fields |= dict.fromkeys(("head_scale", "head_noise", "head_noise_median"), nan)
    if heads is None:
        return fields
    rms, noise = heads.rms, heads.noise
    fields |= {"heads": len(rms), "zero_heads": int((rms == 0).sum())}
    usual = float(np.median(rms))
    if usual > 0:
        with np.errstate(divide="ignore"):
            fold = np.maximum(rms / usual, np.where(rms > 0, usual / np.where(rms > 0, rms, 1), inf))
        at = int(np.argmax(fold))
        fields |= {"head_scale": float(fold[at]), "head_scale_at": at}
    if np.isfinite(noise).any():
        at = int(np.nanargmin(noise))
        fields |= {"head_noise": float(noise[at]), "head_noise_at": at, "head_noise_median": float(np.nanmedian(noise))}
    return fields


def _tokens(tokens: TokenRows | None) -> dict[str, Any]:
    names = ("untrained_rows", "zero_rows", "repeated_rows", "alike_rows", "begun_rows")
    if tokens is None:
        return {**dict.fromkeys(names), "untrained_percentage": nan}
    masks = (tokens.untrained, tokens.zero, tokens.repeated, tokens.alike, tokens.begun)
    counts = dict(zip(names, (int(mask.sum()) for mask in masks), strict=True))
    rows = len(tokens.zero)
    return {**counts, "untrained_percentage": 100 * counts["untrained_rows"] / rows if rows else nan}


MEASURE = Measure(
    name="within",
    doc="Codes that values were rounded to, single heads, untrained token rows.",
    needs=frozenset({"within"}),
    columns=COLUMNS,
    derive=derive,
    takes=("within",),
    shown=("code_effective", "head_scale", "untrained_rows"),
)
