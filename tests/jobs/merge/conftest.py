"""Fixtures for tests of merges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from suite_recipes import Results


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What netweight makes of the recipe suite, on the models of tests/jobs/suite_models.py."""
    pytest.importorskip("transformers")
    from suite_models import write_models
    from suite_recipes import Results

    models = tmp_path_factory.mktemp("suite-models")
    write_models(models)
    return Results(models, tmp_path_factory.mktemp("suite"))
