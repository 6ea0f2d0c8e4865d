"""Executors by name, and how many workers a plan may count on."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Protocol

from netweight.errors import OptionError, did_you_mean, printable
from netweight.run.execute import Executor
from netweight.run.memory import available_cores, default_budget, fit_workers

__all__ = ["EXECUTORS", "ExecutorOptions", "check_executor", "executor_for", "matrix_budget", "plan_workers"]
__all__ += ["planned_executor"]

EXECUTORS = ("threads", "ray")


class ExecutorOptions(Protocol):
    """The options that choose an executor."""

    @property
    def workers(self) -> int | None:
        """How many were asked for."""
        ...

    @property
    def memory(self) -> int | None:
        """Bytes to stay within: all threads together, or each process."""
        ...

    @property
    def executor_name(self) -> str:
        """One of EXECUTORS."""
        ...

    @property
    def ray_address(self) -> str | None:
        """Of a cluster; None: one on this machine."""
        ...


def check_executor(name: str, ray_address: str | None) -> None:
    """Raises OptionError for an unknown name, and for an address without --executor ray."""
    if name not in EXECUTORS:
        hint = did_you_mean(name, EXECUTORS)
        raise OptionError(f"--executor: expected {' or '.join(EXECUTORS)}, got '{printable(name)}'{hint}")
    if ray_address is None:
        return
    if name != "ray":
        raise OptionError(f"--ray-address {printable(ray_address)}: is for --executor ray; add that, or leave it out")
    from netweight.run.ray_cluster import check_address  # noqa: PLC0415 - only where it is asked for

    check_address(ray_address)


def plan_workers(options: ExecutorOptions, per_worker: int, fixed: int) -> tuple[int, int]:
    """(workers, memory in bytes) of a run whose workers take `per_worker` bytes beside the `fixed` ones of a process.

    Workers of Ray are processes: --memory is what one of them may take, and their default number is that of this
    machine's cores; a cluster's is known when it is joined. Raises OptionError as `check_executor` and `fit_workers`
    do.
    """
    check_executor(options.executor_name, options.ray_address)
    if options.executor_name == "threads":
        workers = fit_workers(options.workers, options.memory, per_worker, fixed)
        return workers, fixed + workers * per_worker
    workers = options.workers or available_cores()
    fit_workers(workers, options.memory, per_worker, fixed)
    return workers, workers * (fixed + per_worker)


def matrix_budget(options: ExecutorOptions, remote: int) -> int:
    """Bytes that matrices measured at a time share, of which sources far away take `remote`; no limit where each
    matrix has a process, which Ray places where there is room.
    """
    if options.executor_name == "ray":
        return sys.maxsize
    return (default_budget() if options.memory is None else options.memory) - remote


def executor_for(name: str, workers: int | None, ray_address: str | None = None, *, memory: int = 0) -> Executor:
    """The executor of this name. `workers`: with ray None for as many as the cluster has CPUs; `memory`: bytes that one
    worker takes, by which Ray places them.

    Raises OptionError as `check_executor`, and where Ray is not installed.
    """
    check_executor(name, ray_address)
    if name == "ray":
        from netweight.run.ray_cluster import load_ray  # noqa: PLC0415 - only where it is asked for
        from netweight.run.ray_executor import RayExecutor  # noqa: PLC0415

        load_ray()
        return RayExecutor(workers, ray_address, memory=memory)
    from netweight.run.threads import ThreadExecutor  # noqa: PLC0415

    return ThreadExecutor(workers or available_cores())


def planned_executor(options: ExecutorOptions, workers: int, memory: int) -> closing[Executor]:
    """The executor that `options` choose, for a plan of so many workers and bytes in all; closed with the block."""
    asked = options.workers if options.executor_name == "ray" else workers
    return closing(executor_for(options.executor_name, asked, options.ray_address, memory=memory // max(workers, 1)))
