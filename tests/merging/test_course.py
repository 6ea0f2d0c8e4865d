"""What all looks and writes of merge methods have in common."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import netweight.merging

STEPS = {
    f"{made.__module__}.{made.__name__}": made
    for module in pkgutil.walk_packages(netweight.merging.__path__, "netweight.merging.")
    for made in vars(importlib.import_module(module.name)).values()
    if inspect.isclass(made) and made.__module__ == module.name and hasattr(made, "whole_rows")
    if not getattr(made, "_is_protocol", False)
}
"""Looks and writes: both say whether they need whole rows."""


def test_they_are_found():
    assert {"netweight.merging.grams.ColumnGramLook", "netweight.merging.writes.RowCombine"} <= STEPS.keys()


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_they_are_frozen(step):
    """Threads and machines share them: nothing of a run may be kept in one."""
    assert dataclasses.is_dataclass(step)
    assert step.__dataclass_params__.frozen
