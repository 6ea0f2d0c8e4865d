"""The GPUs that an estimate can be made for, and the backends that measure their rates."""

from __future__ import annotations

from typing import Any

from netweight.run.devices import choose, driver_is_there, survey

__all__ = ["HOW_TO", "backends", "find_gpus"]

HOW_TO = "none found; where there is one: pip install 'netweight[torch]'"
"""What is said where nothing is known of a GPU."""


def find_gpus(asked: str, *, multi: bool) -> tuple[tuple[tuple[str, ...], ...], str]:
    """(groups of devices that work together, what to say where there are none): each GPU alone where `asked` is auto,
    else the one asked for; all of them together with `multi`. Nothing, and nothing to say, for the CPU.

    Raises OptionError for a device that is not there.
    """
    if asked == "cpu":
        return (), ""
    if asked != "auto" or multi:
        chosen = choose(asked, multi, "spectra")
        return ((chosen.devices,), "") if chosen.gpu else ((), HOW_TO)
    if not driver_is_there():
        return (), HOW_TO
    found = survey()
    return tuple((gpu.name,) for gpu in found.gpus), "" if found.gpus else f"none can be used: {found.problem}"


def backends(device: str) -> tuple[Any, Any]:
    """(kernels, merge kernels) of a device; raises OptionError where a library is missing."""
    from netweight.kernels.choose import kernels_for, merge_kernels_for

    return kernels_for(device), merge_kernels_for(device)
