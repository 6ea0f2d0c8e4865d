"""The number of threads of linear algebra: workers are threads already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["blas_threads", "keep_blas_threads"]


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Limit every BLAS of this process to `count` threads; what was set before comes back at the end."""
    import scipy.linalg  # noqa: F401, PLC0415 - scipy brings a BLAS of its own, which must be there to be limited
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    with threadpool_limits(limits=count, user_api="blas"):
        yield


def keep_blas_threads(count: int) -> None:
    """The same until the end of the process, for a process that does nothing else."""
    import scipy.linalg  # noqa: F401, PLC0415 - as above
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    threadpool_limits(limits=count, user_api="blas")
