"""What `netweight estimate` prints."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from netweight.errors import printable
from netweight.views.text import human_bytes, human_count, print_notes

if TYPE_CHECKING:
    from netweight.jobs.estimate.job import Estimate

__all__ = ["show_estimate"]


def show_estimate(result: Estimate) -> None:
    """Print it for people."""
    moved = result.bytes_to_read + result.bytes_to_write
    rates = ((moved, result.bytes_per_second, "B"), (result.flops, result.flops_per_second, "FLOP"))
    click.echo(f"job     {result.job} on {result.device}, workers: {result.workers}")
    click.echo(f"models  {', '.join(printable(ref, 300) for ref in result.models)}")
    click.echo(f"bytes   {human_bytes(result.bytes_to_read)} to read, {human_bytes(result.bytes_to_write)} to write")
    click.echo(f"memory  about {human_bytes(result.memory)}")
    click.echo(f"time    about {_clock(result.seconds)}: {_clock(result.start)} to start")
    for amount, rate, unit in rates:
        if rate:
            speed = human_count(round(rate))
            click.echo(f"        + {_clock(amount / rate)} for {human_count(amount)}{unit} at {speed}{unit}/s")
    print_notes(result.notes)


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 99.95 else str(timedelta(seconds=round(seconds)))
