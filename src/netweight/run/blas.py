"""The number of threads of linear algebra: workers are threads already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import threadpool_limits

__all__ = ["blas_threads", "keep_blas_threads"]


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Limit every BLAS of this process to `count` threads; what was set before comes back at the end."""
    with _limits(count):
        yield


def keep_blas_threads(count: int) -> None:
    """The same until the end of the process, for a process that does nothing else."""
    _limits(count)


def _limits(count: int) -> threadpool_limits:
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - few commands need it

    from netweight.kernels.cpu import lapack  # noqa: PLC0415

    lapack.load()  # what is not there yet cannot be limited
    return threadpool_limits(limits=count, user_api="blas")
