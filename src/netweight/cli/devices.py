"""`netweight devices`: the devices to compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netweight.cli.command import Command
from netweight.cli.options import format_option
from netweight.errors import printable
from netweight.views.console import print_folded, stdout_console
from netweight.views.fitted_table import labels, numbers, print_table, text
from netweight.views.text import human_bytes, print_json

if TYPE_CHECKING:
    from netweight.jobs.devices.job import Devices

__all__ = ["devices"]


@click.command(cls=Command, short_help="What there is to compute on, and what is used for which work.")
@click.option("--warm", is_flag=True, help="First compile all loops of the CPU, for containers and clusters: minutes.")
@format_option
def devices(output_format: str, *, warm: bool) -> None:
    """List the CPU and the GPUs that torch sees, with their memory, and say which of them --device auto takes, and why:
    for statistics (delta, compare, scan), for the spectra of large models (scan and compare with spectral or tail), and
    for merge and verify. GPUs need torch: pip install 'netweight[torch]'.
    """
    from netweight.jobs.devices.job import devices as find

    result = find(warm=warm, note=lambda text: click.echo(text, err=True))
    if output_format == "json":
        print_json(result.to_dict())
    elif output_format == "human":
        _show(result)


def _show(result: Devices) -> None:
    console = stdout_console()
    rows = []
    for d in result.devices:
        sizes = ["" if size is None else human_bytes(size) for size in (d.memory_total, d.memory_free)]
        rows.append((d.name, printable(d.model), *sizes, "full speed" if d.doubles else "slow or none"))
    columns = [*labels("device"), text("what it is"), *numbers("memory", "free"), *labels("float64")]
    print_table(console, columns, rows)
    if result.problem:
        print_folded(f"no GPU: {result.problem}")
    click.echo()
    chosen = [(work, choice.name, choice.why) for work, choice in result.auto.items()]
    print_table(console, [*labels("work", "auto takes"), text("because")], chosen)
