"""What is announced of a parameter's inputs: those that are used, and of their pieces what lies in the stretch."""

from __future__ import annotations

import pytest

from netweight.dtypes import DTYPES
from netweight.merging.target import Input, Piece, Target, prefetch


class Asked:
    """Takes a tensor's place, and keeps what it was asked for."""

    def __init__(self, name, said):
        self.name = name
        self.said = said

    def prefetch(self, start, count):
        self.said.append((self.name, start, count))


@pytest.mark.parametrize(
    ("used", "start", "stop", "expected"),
    [
        (None, 0, 10, [("a", 0, 10), ("b", 20, 4), ("c", 0, 6), ("d", 5, 10)]),
        ((1,), 0, 10, [("b", 20, 4), ("c", 0, 6)]),
        ((0, 2), 3, 5, [("a", 3, 2), ("d", 8, 2)]),
        ((1,), 3, 5, [("b", 23, 1), ("c", 0, 1)]),
        ((1,), 4, 10, [("c", 0, 6)]),
        ((1,), 0, 4, [("b", 20, 4)]),
        ((), 0, 10, []),
        (None, 7, 7, []),
    ],
)
def test_what_is_wanted_soon(used, start, stop, expected):
    said = []
    a, b, c, d = (Asked(name, said) for name in "abcd")
    pieces = [Piece(a, 0, 10)], [Piece(b, 20, 4), Piece(c, 0, 6)], [Piece(d, 5, 10)]
    inputs = tuple(Input(model, tuple(own)) for model, own in enumerate(pieces))
    prefetch(Target("w", (2, 5), DTYPES["F32"], inputs, None, None), used, start, stop)
    assert said == expected
