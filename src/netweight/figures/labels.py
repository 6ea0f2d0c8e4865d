"""Names as they fit into a picture: cut in the middle, still told apart, without characters that no font has."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

__all__ = ["distinct_short", "fit", "shorten", "visible"]


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, cut in the middle: both ends of a model's name tell something."""
    if len(text) <= limit:
        return text
    head = max(1, (limit - 1) // 2)
    tail = max(1, limit - 1 - head)
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"


def fit(text: str, width: float, measure: Callable[[str], float]) -> str:
    """`text` cut in the middle until `measure` of it is at most `width`."""
    if measure(text) <= width:
        return text
    low, high = 3, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(shorten(text, middle)) <= width else (low, middle - 1)
    return shorten(text, low)


def distinct_short(names: Sequence[str], limit: int) -> list[str]:
    """Each name in about `limit` characters; names that differ stay different, longer ones where they must be."""
    short = [shorten(name, limit) for name in names]
    while True:
        by_text: dict[str, set[str]] = {}
        for name, text in zip(names, short, strict=True):
            by_text.setdefault(text, set()).add(name)
        clashes = {text for text, full in by_text.items() if len(full) > 1}
        if not clashes:
            return short
        short = [
            shorten(name, len(text) + 4) if text in clashes else text for name, text in zip(names, short, strict=True)
        ]


def visible(text: str, has_glyph: Callable[[str], bool]) -> str:
    """`text` with every character that cannot be drawn written as an escape, so that names stay told apart."""
    return "".join(c if _drawn(c) and has_glyph(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _drawn(c: str) -> bool:
    # Controls and line separators would break the line, format characters could turn its direction.
    return c == " " or unicodedata.category(c)[0] not in "CZ" or unicodedata.category(c) == "Zs"
