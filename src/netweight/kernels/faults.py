"""How a device fails: what kernels raise, and whoever hands out work decides about. No heavy library is needed here."""

from __future__ import annotations

__all__ = ["DeviceLost", "DeviceOutOfMemory"]


class DeviceOutOfMemory(Exception):  # noqa: N818 - says what happened; it ends a task on one device, not the run
    """Not even the smallest block fits the device's memory: this task is for another device, the next may fit."""


class DeviceLost(Exception):  # noqa: N818 - likewise
    """The device answers no more, or wrongly: nothing that runs on it will succeed."""
