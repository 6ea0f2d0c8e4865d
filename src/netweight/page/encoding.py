"""Columns of a page's data: numbers as base64 of float64, texts and lists of numbers once each, and where they are."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import nan
from typing import Any

__all__ = ["encoded", "encoded_lists", "size_of"]

_NOTHING = 0xFFFFFFFF
_EXACT = 1 << 53  # beyond, a float64 does not hold every whole number


def encoded(cells: Sequence[Any]) -> dict[str, Any]:
    """The cells of one column: base64 of float64 with NaN for None, or the texts that occur and where."""
    if all(cell is None or _is_number(cell) for cell in cells) and any(cell is not None for cell in cells):
        return {"numbers": _base64("d", (nan if cell is None else cell for cell in cells))}
    texts: dict[str, int] = {}
    at = [_NOTHING if cell is None else texts.setdefault(_text(cell), len(texts)) for cell in cells]
    return {"texts": list(texts), "at": _base64("I", at)}


def encoded_lists(lists: Sequence[Sequence[float] | None]) -> dict[str, Any]:
    """Lists of finite numbers: the numbers of those that occur one after the other, where each ends, and which of them
    each cell is.
    """
    known: dict[tuple[float, ...], int] = {}
    at = [_NOTHING if held is None else known.setdefault(tuple(held), len(known)) for held in lists]
    return {
        "lists": _base64("d", (value for held in known for value in held)),
        "ends": _base64("I", accumulate(map(len, known))),
        "at": _base64("I", at),
    }


def size_of(column: dict[str, Any]) -> int:
    """Characters of what `encoded` or `encoded_lists` made."""
    texts = sum(map(len, column.get("texts") or ()))
    return texts + sum(len(column.get(key) or "") for key in ("numbers", "at", "lists", "ends"))


def _base64(kind: str, values: Iterable[float]) -> str:
    """Little-endian float64 ("d") or uint32 ("I")."""
    held = array(kind, values)
    if sys.byteorder == "big":
        held.byteswap()
    return base64.b64encode(held.tobytes()).decode()


def _is_number(cell: Any) -> bool:
    return (isinstance(cell, float) and cell == cell) or (type(cell) is int and abs(cell) <= _EXACT)  # noqa: PLR0124


def _text(cell: Any) -> str:
    """A text as it is; lists, flags and numbers that float64 cannot hold as JSON has them."""
    return cell if isinstance(cell, str) else json.dumps(cell, allow_nan=True)
