"""What a device can fail with, whatever library drives it."""

from __future__ import annotations

__all__ = ["DeviceLost", "DeviceOutOfMemory"]


class DeviceOutOfMemory(Exception):  # noqa: N818 - a state of the device, which whoever runs tasks answers
    """Not even the smallest block fits into the device's memory; other work of this device can go on."""


class DeviceLost(Exception):  # noqa: N818 - likewise
    """The device fails, and nothing more is to be expected of it."""
