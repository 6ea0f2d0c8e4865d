"""The limit on BLAS threads."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info

from netweight.kernels.cpu import lapack
from netweight.run.blas import blas_threads


def pools():
    lapack.load()
    return [(p["filepath"], p["num_threads"]) for p in threadpool_info() if p["user_api"] == "blas"]


@pytest.mark.parametrize("count", [1, 2])
def test_every_pool_is_limited_and_set_back(count):
    before = pools()
    assert before
    with blas_threads(count):
        assert [path for path, _ in pools()] == [path for path, _ in before]
        assert {n for _, n in pools()} <= set(range(1, count + 1))
        with blas_threads(1):
            assert {n for _, n in pools()} == {1}
    assert pools() == before


def fails():
    with blas_threads(1):
        raise OSError("the job failed")


def test_set_back_after_a_failure():
    before = pools()
    with pytest.raises(OSError, match="the job failed"):
        fails()
    assert pools() == before
