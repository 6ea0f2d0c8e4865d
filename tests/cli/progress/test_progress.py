"""Progress: lines now and then in a file, a line that is redrawn on a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from task_vectors import PROGRAM, beside_progress, normal, save, tuned

from netweight.cli.progress import bar as progress
from netweight.cli.progress.bar import LineProgress, TerminalProgress, progress_for
from netweight.run.progress import Silent


class Clock:
    """time.monotonic under the test's control."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_line_every_ten_seconds(clock, capsys):
    shown = LineProgress()
    shown.start(100, 100_000_000)
    for _ in range(60):  # 0.5 s and 1 MB each
        clock.now += 0.5
        shown.advance(1, 1_000_000)
    shown.stop()
    assert capsys.readouterr().err.splitlines() == [
        "20.0 MB of 100 MB, 20 of 100 tensors, 2.00 MB/s, 0:40 left",
        "40.0 MB of 100 MB, 40 of 100 tensors, 2.00 MB/s, 0:30 left",
        "60.0 MB of 100 MB, 60 of 100 tensors, 2.00 MB/s, 0:20 left",
    ]


def test_what_was_done_before_says_nothing_of_the_rate(clock, capsys):
    shown = LineProgress()
    shown.start(100, 100_000_000, 50, 50_000_000)
    clock.now += 10
    shown.advance(1, 10_000_000)
    assert capsys.readouterr().err == "60.0 MB of 100 MB, 51 of 100 tensors, 1.00 MB/s, 0:40 left\n"


def test_hours_and_no_bytes(clock, capsys):
    shown = LineProgress()
    shown.start(2, 36_000_000_000)
    clock.now += 10
    shown.advance(0, 10_000_000)
    clock.now += 10
    shown.advance(0, 0)
    said = capsys.readouterr().err
    assert "9:59:50 left" in said
    assert beside_progress(f"{said}note: b\nc left\n") == "note: b\nc left\n"
    empty = LineProgress()
    empty.start(1, 0)
    clock.now += 10
    empty.advance(1, 0)
    assert capsys.readouterr().err == "0 B of 0 B, 1 of 1 tensors, 0 B/s, 0:00 left\n"


def test_notes_at_once_and_harmless(clock, capsys):
    LineProgress().note("a finding\nin \x1b[31m lines")
    assert capsys.readouterr().err == "note: a finding in \\x1b[31m lines\n"


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_terminals_line_fits(clock, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = TerminalProgress()
    shown.start(10, 1000)
    for _ in range(10):
        clock.now += 0.2
        shown.advance(1, 100)
    shown.note("something")
    shown.stop()
    drawn = capsys.readouterr().err
    assert drawn.endswith("\r\x1b[K")
    assert "\r\x1b[Knote: something\n" in drawn
    lines = [line for line in re.split(r"\r\x1b\[K|\n", drawn) if line]
    assert len(lines) == 11
    assert max(map(len, lines)) < columns
    assert ("[###" in drawn) == (columns >= 80)


def test_a_terminal_is_redrawn_ten_times_a_second_at_most(clock, capsys):
    shown = TerminalProgress()
    shown.start(1000, 1000)
    for _ in range(1000):
        clock.now += 0.001
        shown.advance(1, 1)
    assert capsys.readouterr().err.count("\r") <= 10


def test_what_suits(monkeypatch):
    assert isinstance(progress_for("quiet"), Silent)
    for tty, kind in ((True, TerminalProgress), (False, LineProgress)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda tty=tty: tty)
        assert type(progress_for("human")) is type(progress_for("json")) is kind


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
def test_on_a_real_terminal(tmp_path):
    import pty

    base = {f"p{i}": normal((300, 300), seed=i) for i in range(60)}
    save(tmp_path / "base", base)
    save(tmp_path / "one", tuned(base, 1))
    ours, theirs = pty.openpty()
    arguments = ["delta", "--base", tmp_path / "base", "--models", tmp_path / "one", "--outdir", tmp_path / "o"]
    program = "import netweight.cli.progress.bar as p; p._REDRAW = 0.0\n" + PROGRAM[-1]
    run = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stderr=theirs, stdout=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    drawn, end = b"", time.monotonic() + 300
    while time.monotonic() < end:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not piece:
            break
        drawn += piece
    os.close(ours)
    assert run.stdout is not None
    assert b"\x1b" not in run.stdout.read()
    run.stdout.close()
    assert run.wait(300) == 0
    text = drawn.decode()
    # on a fresh installation the loops may have to be compiled now, which is said in a line of its own
    text = text.replace("\r\x1b[Knote: compiling the kernels: only at the first run of an installation\r\n", "")
    assert re.search(
        r"\r\x1b\[K\[#+ *\] [0-9.]+ [kMG]B of 86\.4 MB, \d+ of 120 tensors, [0-9.]+ [kMG]B/s, 0:\d\d left", text
    )
    assert text.endswith("\r\x1b[K")
    assert not (set(text) & {"\n"})
