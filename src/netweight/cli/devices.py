"""`netweight devices`: the devices to compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netweight.cli.options import format_option
from netweight.errors import printable
from netweight.views.console import plain_table, print_trimmed, stdout_console
from netweight.views.text import human_bytes, print_json

if TYPE_CHECKING:
    from netweight.jobs.devices.job import Devices

__all__ = ["devices"]


@click.command(short_help="What there is to compute on, and what is used for which work.")
@format_option
def devices(output_format: str) -> None:
    """List the CPU and the GPUs that torch sees, with their memory, and say which of them --device auto takes, and why:
    for statistics (delta, compare, scan), for the spectra of large models (scan and compare with spectral or tail), and
    for merge and verify. GPUs need torch: pip install 'netweight[torch]'.
    """
    from netweight.jobs.devices.job import devices as find

    result = find()
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        _show(result)


def _show(result: Devices) -> None:
    from rich.text import Text

    console = stdout_console()
    table = plain_table()
    table.add_column("device", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name in ("memory", "free"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("float64", no_wrap=True)
    for d in result.devices:
        sizes = ["" if size is None else human_bytes(size) for size in (d.memory_total, d.memory_free)]
        table.add_row(d.name, Text(printable(d.model)), *sizes, "full speed" if d.doubles else "slow or none")
    print_trimmed(console, table)
    if result.problem:
        print_trimmed(console, Text(f"no GPU: {result.problem}"))
    click.echo()
    chosen = plain_table()
    for name in ("work", "auto takes"):
        chosen.add_column(name, no_wrap=True)
    chosen.add_column("because", overflow="fold")
    for work, choice in result.auto.items():
        chosen.add_row(work, choice.name, Text(choice.why))
    print_trimmed(console, chosen)
