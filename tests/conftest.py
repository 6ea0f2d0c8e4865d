"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

REALWEIGHTS = Path(__file__).parents[2] / "shared" / "realweights"


@pytest.fixture(scope="session")
def realweights() -> Path:
    """A folder of small real checkpoints beside the repository; tests that need it are skipped without it."""
    if not REALWEIGHTS.is_dir():
        pytest.skip("no folder of real checkpoints beside the repository")
    return REALWEIGHTS
