"""Rates of a machine as they were measured, and the file that keeps them for the next time."""

from __future__ import annotations

import json
import math
import os
import platform
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from netweight.errors import OptionError, OutputError, printable
from netweight.run.memory import available_cores

__all__ = ["Rate", "host", "read_rates", "write_rates"]

_FORM = 1
_MOST = 10_000_000  # bytes: thousands of rates take some hundred kB
_KEYS = ("netweight_rates", "host", "rates")


@dataclass(frozen=True)
class Rate:
    """What work of one kind takes: `points` are (amount of one item, seconds), measured, ascending.

    Between points it is a straight line; below the first an item takes as long as the first; above the last as many
    units a second as the last.
    """

    unit: str
    points: tuple[tuple[float, float], ...]

    def seconds(self, amount: float) -> float:
        """Of one item of `amount` units."""
        at = bisect_left(self.points, (amount, 0.0))
        if at == len(self.points):
            most, seconds = self.points[-1]
            return seconds * amount / most
        if at == 0:
            return self.points[0][1]
        (low, fast), (high, slow) = self.points[at - 1], self.points[at]
        return fast + (slow - fast) * (amount - low) / (high - low)

    @property
    def per_second(self) -> float:
        """Units a second in large items."""
        amount, seconds = self.points[-1]
        return amount / seconds

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"unit": self.unit, "points": [list(point) for point in self.points]}


def host() -> dict[str, Any]:
    """What tells one machine from another: its processor and the cores that may be used."""
    return {"machine": platform.machine(), "processor": _processor(), "cores": available_cores()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def read_rates(path: Path) -> tuple[dict[str, Rate], dict[str, Any]]:
    """({name: rate}, the host that they were measured on); nothing and this host where there is no such file.

    Raises OptionError where the file is not what `write_rates` writes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except FileNotFoundError:
        return {}, host()
    except OSError as problem:
        raise _refused(path, problem.strerror or str(problem)) from None
    if len(data) > _MOST:
        raise _refused(path, f"more than {_MOST} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise _refused(path, "no JSON") from None
    if not isinstance(found, dict) or any(key not in found for key in _KEYS):
        raise _refused(path, "JSON of something else")
    if found["netweight_rates"] != _FORM:
        raise _refused(path, f"form {printable(repr(found['netweight_rates']), 40)}, not {_FORM}")
    if not isinstance(found["rates"], dict) or not isinstance(found["host"], dict):
        raise _refused(path, "JSON of something else")
    return {name: _rate(path, name, entry) for name, entry in found["rates"].items()}, found["host"]


def _rate(path: Path, name: str, entry: Any) -> Rate:
    points = entry.get("points") if isinstance(entry, dict) else None
    if not isinstance(points, list) or not points or not isinstance(entry.get("unit"), str):
        raise _refused(path, f"no points for {printable(repr(name), 80)}")
    taken: list[tuple[float, float]] = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(_is_positive(value) for value in point):
            raise _refused(path, f"a point that is no pair of positive numbers for {printable(repr(name), 80)}")
        taken.append((float(point[0]), float(point[1])))
    if any(a[0] >= b[0] for a, b in pairwise(taken)):
        raise _refused(path, f"points that do not ascend for {printable(repr(name), 80)}")
    return Rate(entry["unit"], tuple(taken))


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _refused(path: Path, got: str) -> OptionError:
    return OptionError(
        f"--rates {printable(str(path))}: expected what an earlier `netweight estimate` wrote there, got {got};"
        " delete the file or name another one"
    )


def write_rates(path: Path, rates: Mapping[str, Rate]) -> None:
    """Write the file in one step, in the place of an earlier one; raises OutputError where the disk refuses."""
    found = {"netweight_rates": _FORM, "host": host(), "rates": {name: rates[name].to_dict() for name in sorted(rates)}}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as problem:
        why = (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
        raise OutputError(f"--rates {printable(str(path))}: cannot be written: {why}; name a file elsewhere") from None
