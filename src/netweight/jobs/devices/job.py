"""`devices`: the devices to compute on, with their memory, and what `--device auto` takes for which work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from netweight.columns import Column
from netweight.output.frame import Frame, Framed
from netweight.run.devices import Choice, Survey, Work, choose, survey

if TYPE_CHECKING:
    from netweight.run.devices import Device

__all__ = ["COLUMNS", "Devices", "devices"]

COLUMNS = (
    Column("device", "", "its name for --device", "text"),
    Column("kind", "", "cpu, cuda (AMD's too), mps or xpu", "text"),
    Column("model", "", "what it is", "text"),
    Column("memory_total", "bytes", "its memory", "integer"),
    Column("memory_free", "bytes", "what of it is free now", "integer"),
    Column("float64", "", "whether float64 runs at full speed, which spectra need", "boolean"),
)
"""The columns of the table."""


class Devices(Framed):
    """The result of `netweight.devices`: `devices`, the CPU first; `problem`: why there is no GPU, empty where there is
    one; `auto` {"statistics" | "spectra" | "merge": what `--device auto` takes, for a large model}.
    """

    def __init__(self, surveyed: Survey, auto: Mapping[Work, Choice]) -> None:
        self.devices: tuple[Device, ...] = surveyed.devices
        self.problem = surveyed.problem
        self.auto = dict(auto)

    @cached_property
    def frame(self) -> Frame:
        """A row for each device."""
        return Frame(
            COLUMNS, [(d.name, d.kind, d.model, d.memory_total, d.memory_free, d.doubles) for d in self.devices]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        names = [column.name for column in COLUMNS]
        return {
            "devices": [dict(zip(names, row, strict=True)) for row in self.frame.rows],
            "no_gpu_because": self.problem,
            "auto": {work: {"device": c.name, "reason": c.why} for work, c in self.auto.items()},
        }

    def write(self, path: str | Path) -> None:
        """Write it as JSON into the file `path`; raises OutputError and JobError where that cannot be."""
        from netweight.output.result_file import write_file
        from netweight.output.table import write_json

        write_file(Path(path), lambda file: write_json(file, self.to_dict()))

    def __repr__(self) -> str:
        return f"<devices: {', '.join(d.name for d in self.devices)}>"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(work)}: {escape(c.name)}: {escape(c.why)}</p>" for work, c in self.auto.items())
        return f"{self.frame._repr_html_()}{lines}"


def devices(*, warm: bool = False, note: Callable[[str], None] = lambda _: None) -> Devices:
    """Every device with its memory. Loads torch, where it is installed, and starts each GPU, which takes seconds.

    `warm` compiles all loops of the CPU first that are not compiled yet, as an image of a container should: the next
    runs, of any job and element type, begin at once. `note` hears how many and where they are.
    """
    if warm:
        from netweight.kernels.cpu.ahead import compile_ahead, every

        count = compile_ahead(every(), note)
        note(f"{count} loops were compiled" if count else "all loops are compiled")
    surveyed = survey(memory=True)
    return Devices(surveyed, {work: choose("auto", False, work, math.inf) for work in get_args(Work)})
