"""What a download shows while it runs."""

from __future__ import annotations

import io

from rich.console import Console

from netweight.cli.progress.download import DownloadBars, DownloadLines
from netweight.jobs.download.progress import Waiting

FILES = [Waiting("a[bold]\x1b[31m.safetensors", 3_000_000, 1_000_000), Waiting("config.json", 20, 0)]


def test_bars():
    text = io.StringIO()
    bars = DownloadBars(Console(file=text, force_terminal=True, width=100, markup=False, color_system=None))
    bars.start(FILES)
    bars.advance(FILES[0].name, 1_500_000)
    bars.advance(FILES[0].name, -500_000)
    bars._bars.refresh()
    assert "a[bold]\\x1b[31m.safetensors" in text.getvalue()
    assert "2.0/3.0 MB" in text.getvalue()
    assert "0 of 2 files" in text.getvalue()
    bars.advance("config.json", 20)
    bars.finish("config.json")
    bars.note("a [red]note[/red]\nof two lines")
    bars.stop()
    assert "1 of 2 files" in text.getvalue()
    assert "note: a [red]note[/red] of two lines" in text.getvalue()


def test_lines(capsys, monkeypatch):
    lines = DownloadLines()
    lines.start(FILES)
    monkeypatch.setattr("netweight.cli.progress.bar._EVERY", 0.0)
    lines.advance(FILES[0].name, 1_000_000)
    lines.finish("config.json")
    lines.note("a note")
    lines.stop()
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("2.00 MB of 3.00 MB, 0 of 2 files, ")
    assert shown[1] == "config.json: 20 B, verified"
    assert shown[-1] == "note: a note"
