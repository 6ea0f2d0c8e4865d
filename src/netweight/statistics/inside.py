"""What was found inside a matrix."""

from __future__ import annotations

from dataclasses import dataclass

from netweight.statistics.codes import Codes
from netweight.statistics.heads import Heads
from netweight.statistics.token_rows import TokenRows

__all__ = ["Within"]


@dataclass(frozen=True)
class Within:
    """The code of its values, its heads, its rows of tokens; None for what was not looked for, or cannot be told."""

    codes: Codes | None = None
    heads: Heads | None = None
    tokens: TokenRows | None = None
