"""What a device may fail with: its memory is full, or it is gone."""

from __future__ import annotations

__all__ = ["DeviceLost", "DeviceOutOfMemory"]


class DeviceOutOfMemory(Exception):  # noqa: N818 - a state of the device, named as torch names it
    """Even the smallest block does not fit the device's memory."""


class DeviceLost(Exception):  # noqa: N818
    """The device fails otherwise."""
