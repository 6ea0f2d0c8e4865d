"""What `netweight estimate` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netweight.errors import printable
from netweight.views.text import human_bytes, human_count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from netweight.jobs.estimate.result import DeviceTime, Estimate, Reading, WorkTime

__all__ = ["human_seconds", "show_estimate"]

_SHORT = {"element": "", "FLOP": "FLOP", "B": "B"}


def human_seconds(seconds: float) -> str:
    """Two figures, as people say them: 0.4 s, 12 s, 3.5 min, 7 h 20 min, 3 days."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.05 else "<0.1 s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 9.95:
        return f"{minutes:.1f} min"
    if minutes < 99.5:
        return f"{minutes:.0f} min"
    hours, left = divmod(round(minutes / 10) * 10, 60)
    if hours < 10:
        return f"{hours} h {left} min" if left else f"{hours} h"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def show_estimate(found: Estimate) -> None:
    """Print it for people, at the terminal's width."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    _show_rows(console, [(label, Text(value)) for label, value in _facts(found)])
    console.print()
    for device in found.devices:
        _show_work(console, device, found.reading, found.bytes_to_write)
    rows = []
    for device in found.devices:
        label = "time" if device.device == "cpu" else device.device
        rows.append((label, Text(f"about {human_seconds(device.seconds)}", style="bold")))
        rows.append(("", Text(_parts(device))))
    if found.gpu:
        rows.append(("GPU", Text(printable(found.gpu, 300))))
    _show_rows(console, rows)
    for note in found.notes:
        console.print(Text(f"note: {printable(note, 400)}"))


def _show_rows(console: Console, rows: Sequence[tuple[str, Text]]) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=9)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    console.print(grid)


def _facts(found: Estimate) -> list[tuple[str, str]]:
    rows = [("job", f"{found.job}: {found.what}"), ("model", printable(found.models[0], 300))]
    rows += [("", printable(ref, 300)) for ref in found.models[1:]]
    if found.bytes_to_read:
        rows.append(("to read", f"{human_bytes(found.bytes_to_read)}{_held(found.reading)}"))
    else:
        rows.append(("to read", "headers only"))
    if found.bytes_to_write:
        rows.append(("to write", human_bytes(found.bytes_to_write)))
    if found.flops:
        rows.append(("compute", _amount(found.flops, "FLOP")))
    many = "s" if found.workers > 1 else ""
    return [*rows, ("memory", f"about {human_bytes(found.memory)} with {found.workers} worker{many}")]


def _held(reading: Reading) -> str:
    if reading.local == 0 and reading.far:
        return " over the network"
    if reading.held is None:
        return ""
    return f", {100 * reading.held:.0f}% of it in the system's memory now"


def _show_work(console: Console, device: DeviceTime, reading: Reading, written: int) -> None:
    from rich.table import Table

    if not device.work and not reading.local:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"on {device.device}", overflow="fold", ratio=1)
    for name in ("amount", "a second", "one thread" if device.device == "cpu" else "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for work in device.work:
        table.add_row(work.name, *_cells(work))
    if reading.local and reading.copying:
        taken = reading.local / reading.copying
        table.add_row("out of memory", *_rated(reading.local, reading.copying, taken))
    if device.reading and reading.disk:
        away = round(device.reading * reading.disk)
        table.add_row(
            "from the disk", human_bytes(away), human_bytes(round(reading.disk)), human_seconds(device.reading)
        )
    if written and reading.writing:
        table.add_row(
            "to the disk", human_bytes(written), human_bytes(round(reading.writing)), human_seconds(device.writing)
        )
    console.print(table)
    console.print()


def _rated(nbytes: int, rate: float, seconds: float) -> tuple[str, str, str]:
    return human_bytes(nbytes), human_bytes(round(rate)), human_seconds(seconds)


def _cells(work: WorkTime) -> tuple[str, str, str]:
    return _amount(work.amount, work.unit), _amount(round(work.per_second), work.unit), human_seconds(work.seconds)


def _amount(number: int, unit: str) -> str:
    if unit == "B":
        return human_bytes(number)
    text = human_count(number)
    return f"{text}{'' if text[-1].isalpha() else ' '}{_SHORT[unit]}".rstrip()


def _parts(device: DeviceTime) -> str:
    """What the time is made of, the longest first."""
    threads = f" by {device.threads} threads" if device.threads > 1 and device.device == "cpu" else ""
    parts = {
        "to start": device.start,
        f"computing{threads}": device.computing,
        "reading": device.reading,
        "writing": device.writing,
    }
    order = sorted((name for name in parts if parts[name]), key=lambda name: -parts[name])
    return ", ".join(f"{human_seconds(parts[name])} {name}" for name in order)
