"""Where to compute, by name."""

from __future__ import annotations

import re

from netweight.errors import OptionError, printable

__all__ = ["check_device"]


def check_device(name: str) -> str:
    """`name` where this version can compute there: auto or cpu; raises OptionError otherwise."""
    if name in {"auto", "cpu"}:
        return name
    if re.fullmatch(r"cuda(:[0-9]{1,4})?", name):
        raise OptionError(f"--device {name}: GPUs come with a later version; leave the option out, or use --device cpu")
    raise OptionError(f"--device: expected auto, cpu, cuda or cuda:N, got '{printable(name)}'")
