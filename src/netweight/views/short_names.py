"""Names of parameters shortened to few columns of a terminal, so that they still differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from netweight.checkpoint.tensor import Skipped
from netweight.errors import printable

__all__ = ["cells", "left_out_lines", "shorten_names"]

_LISTED, _NAMED = 6, 2
_LEAST_HEAD = 5
_DOTS = re.compile(r"\.(?![^\[\]]*\])")  # those between segments, not those in the brackets of a part


def cells(text: str) -> int:
    """Columns of a terminal that `text` takes; some characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shorten_names(names: Sequence[str], width: int, gap: str = "\N{HORIZONTAL ELLIPSIS}") -> list[str]:
    """Each name in at most `width` columns, all in one manner; names that differ stay different, those that cannot be
    told apart in so little room stay longer.

    The first of these that is enough: the segments that all names begin with go, up to a number; those before the first
    number go; long words between the dots are cut in their middle, numbers stay; the middle of the name goes. `gap`
    stands for what was cut.
    """
    split = [_DOTS.split(name) for name in names]
    numbers = [_first_number(segments) for segments in split]
    # the number of the layer says where a matrix is, also where all are of one layer
    shared = min([_shared_start(split), *(at for at in numbers if at)])
    numbered = [max(shared, at) for at in numbers]
    best = list(names)
    ways: list[list[str]] = [best, [_cut(segments, shared, 99, gap) for segments in split]]
    base = [_cut(segments, start, 99, gap) for segments, start in zip(split, numbered, strict=True)]
    ways.append(base)
    ways += [
        [
            whole if cells(whole) <= width else _cut(segments, start, limit, gap)
            for whole, segments, start in zip(base, split, numbered, strict=True)
        ]
        for limit in (12, 9, 7, 5, 4)
    ]
    ways.append([_ends(name, width, gap) for name in base])
    ways.append([_middle(name, width, gap) for name in base])
    for way in ways:
        if len(set(way)) == len(set(names)):
            best = way
            if all(cells(name) <= width for name in way):
                break
    return best


def _first_number(segments: Sequence[str]) -> int:
    return next((i for i, segment in enumerate(segments) if segment.isdigit()), 0)


def _shared_start(split: Sequence[Sequence[str]]) -> int:
    """How many segments all names begin with, one always left to each of them."""
    if len(split) < 2:
        return 0
    most = min(len(segments) for segments in split) - 1
    return next((i for i in range(most) if len({segments[i] for segments in split}) > 1), max(most, 0))


def _cut(segments: Sequence[str], start: int, limit: int, gap: str) -> str:
    kept = [_short(s, limit, gap) for s in segments[start:]]
    return gap + ".".join(kept) if start else ".".join(kept)


def _short(segment: str, limit: int, gap: str) -> str:
    """A segment in `limit` columns, and its brackets: which part of a tensor it is."""
    head, bracket = _bracket(segment)
    return (head if len(head) <= limit else _middle(head, limit, gap)) + bracket


def _ends(name: str, width: int, gap: str) -> str:
    """The middle cut out, and the brackets kept where they leave room for more."""
    head, bracket = _bracket(name)
    room = width - cells(bracket)
    return _middle(head, room, gap) + bracket if room >= _LEAST_HEAD else _middle(name, width, gap)


def _bracket(text: str) -> tuple[str, str]:
    at = text.rfind("[") if text.endswith("]") else -1
    return (text[:at], text[at:]) if at > 0 else (text, "")


def _middle(text: str, width: int, gap: str) -> str:
    """`text` cut in the middle to `width` columns."""
    if cells(text) <= width:
        return text
    room = max(2, width - cells(gap))
    head, tail = text[: (room + 1) // 2], text[-(room // 2) :]
    while cells(head + gap + tail) > width and len(head) + len(tail) > 2:  # characters of two columns
        head, tail = (head[:-1], tail) if len(head) >= len(tail) else (head, tail[1:])
    return head + gap + tail


def left_out_lines(skipped: Sequence[Skipped], *, verbose: bool) -> Iterator[str]:
    """Left-out tensors and why: a line for each reason, six at most, those that no option asked for first; with
    `verbose` a line for each tensor.
    """
    reasons: dict[str, list[Skipped]] = {}
    for entry in sorted(skipped, key=lambda entry: entry.asked):
        reasons.setdefault(f"{entry.reason}\n{entry.name}" if verbose else entry.reason, []).append(entry)
    groups = list(reasons.values())
    shown = groups if verbose else groups[:_LISTED]
    for entries in shown:
        yield f"left out: {_which(entries)}: {printable(entries[0].reason, 400)}"
    unseen = sum(map(len, groups[len(shown) :]))
    if unseen:
        yield f"left out: {unseen} more (--verbose lists them)"


def _which(entries: Sequence[Skipped]) -> str:
    if len(entries) == 1:
        return printable(entries[0].name)
    if entries[0].asked:
        return f"{len(entries)} tensors"
    names = ", ".join(printable(entry.name) for entry in entries[:_NAMED])
    return names + (f" and {len(entries) - _NAMED} more" if len(entries) > _NAMED else "")
