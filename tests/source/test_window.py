"""A part of a file as a file of its own: its bytes, and nothing of what lies around it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from netweight.errors import ReadError
from netweight.source.local import open_local
from netweight.source.window import WindowSource

DATA = random.Random(2).randbytes(1000)
BEGIN, SIZE = 300, 200


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "outer").write_bytes(DATA)
    return tmp_path / "outer"


@pytest.fixture
def window(path) -> WindowSource:
    return WindowSource(open_local(path), BEGIN, SIZE)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (0, SIZE), (17, 150), (SIZE - 1, SIZE), (SIZE, SIZE)])
def test_its_bytes(window, path, start, stop) -> None:
    assert (window.name, window.size) == (str(path), SIZE)
    buffer = bytearray(stop - start)
    window.read_into(start, memoryview(buffer))
    assert bytes(buffer) == DATA[BEGIN:][start:stop]


@pytest.mark.parametrize(("start", "size"), [(-1, 1), (0, SIZE + 1), (SIZE - 1, 2), (SIZE, 1)])
def test_nothing_around_it_is_read(window, path, start, size) -> None:
    buffer = bytearray(size)
    with pytest.raises(ReadError) as caught:
        window.read_into(start, memoryview(buffer))
    assert str(caught.value) == (
        f"{path}: {size} bytes from {start} of a part of 200 bytes, which begins at byte 300; the file is damaged"
    )
    assert not any(buffer)


def test_hints_and_checks_reach_the_file(path) -> None:
    hints: list[tuple[int, int]] = []
    outer = open_local(path)
    outer.prefetch = lambda offset, size: hints.append((offset, size))
    window = WindowSource(outer, BEGIN, SIZE)
    window.prefetch(10, 50)
    assert hints == [(BEGIN + 10, 50)]
    window.close()
    window.read_into(0, memoryview(bytearray(1)))  # the file stays open
    window.check_unchanged()
    os.utime(path, (1, 1))
    with pytest.raises(ReadError, match="changed since it was opened"):
        window.check_unchanged()
