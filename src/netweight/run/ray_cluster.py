"""Joining a Ray cluster, or starting one on this machine, without messages and without usage reports."""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from netweight.errors import OptionError, printable

__all__ = ["check_address", "connect", "disconnect", "load_ray"]

_OBJECTS = 128 << 20  # bytes of shared memory for a local cluster: work and results are small
_SECONDS = 5.0
_ADDRESS = re.compile(r"(?:auto|\[?[\w.:-]+\]?:[0-9]{1,5})")
_ENDING = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
# Usage reports leave the machine; the other makes Ray warn of a coming change, and hides GPUs from workers till then.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def load_ray() -> Any:
    """The module; raises OptionError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as problem:
        raise OptionError(
            f"--executor ray: Ray cannot be loaded ({printable(str(problem))}); pip install 'netweight[ray]'"
        ) from None


def check_address(address: str | None) -> None:
    """Raises OptionError for what is no address of a cluster."""
    if address is not None and not _ADDRESS.fullmatch(address):
        raise OptionError(
            f"--ray-address: expected HOST:PORT of the head node or auto, got '{printable(address)}'; run on a machine"
            " that is a node of the cluster"
        )


def connect(address: str | None, cpus: int) -> tuple[Any, bool]:
    """(ray, whether this call connected it). Without an address (given, or in RAY_ADDRESS) a cluster of `cpus` workers
    is started on this machine; where the process is connected already, that connection is used.

    Raises OptionError where Ray is not installed or no cluster answers.
    """
    ray = load_ray()
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS") or None
    check_address(address)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        with _undisturbed():
            if address is None:
                ray.init(address="local", num_cpus=cpus, object_store_memory=_OBJECTS, **quiet)
            else:
                _join(ray, address, quiet)
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    _hush()
    return ray, True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C, and what else the program heeds, takes effect at the end of the block, which takes seconds: half a
    cluster could not be ended. A second time it takes effect at once. Where the program heeds SIGTERM, Ray's own
    handler, with which jobs would not put away what they have, is taken out at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {number: handler for number in _ENDING if callable(handler := signal.getsignal(number))}
    heard: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as handlers are called
        heard.append(number)
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, later)
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if heard:
        signal.raise_signal(heard[0])


def _join(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:  # Ray itself would try for a minute
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
        except (OSError, OverflowError) as problem:
            raise OptionError(
                f"--ray-address {printable(address)}: no cluster answers there: {problem}; give the address that"
                " `ray start --head` printed"
            ) from None
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as problem:
        raise OptionError(
            f"--ray-address {printable(address)}: the cluster cannot be joined: {printable(str(problem), 300)}; is this"
            " machine a node of it, with the same versions of Python and Ray?"
        ) from None


def disconnect(ray: Any) -> None:
    """Leave the cluster that `connect` joined, or end the one that it started."""
    ray.shutdown()
    if _usual:
        _printer().print_to_stdstream = _usual.pop()


_usual: list[Any] = []


def _printer() -> Any:
    return importlib.import_module("ray._private.worker")


def _hush() -> None:
    """Ray prints what happens to nodes on stdout, `log_to_driver` or not, where results of a command go."""
    worker = _printer()
    if hasattr(worker, "print_to_stdstream"):
        _usual.append(worker.print_to_stdstream)
        worker.print_to_stdstream = lambda *_, **__: None
