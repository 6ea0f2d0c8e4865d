"""Kernels of every backend."""

from __future__ import annotations

import pytest
from backends import BACKENDS, kernels_of


@pytest.fixture(scope="session", params=BACKENDS)
def kernels(request):
    """One backend's kernels: tests with it run on all of them."""
    return kernels_of(request.param)
