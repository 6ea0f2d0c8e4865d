"""The registry of measures, and drift's columns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from streaming import statistics_of

from netweight.columns import Column
from netweight.errors import OptionError
from netweight.measures import drift
from netweight.measures.registry import NAMES, Measure, find, needed


@pytest.mark.parametrize("name", NAMES)
def test_declared_columns_are_derived(name):
    measure = find(name)
    assert measure.name == name
    assert measure.doc
    assert len({c.name for c in measure.columns}) == len(measure.columns)
    assert all(c.doc for c in measure.columns)
    assert find(name) is measure


def test_needs_are_gathered():
    assert needed([]) == frozenset()
    assert needed([find("drift")] * 2) == {"difference.moments", "difference.order", "base.norm"}


def test_what_a_terminal_shows_of_a_measure():
    kinds = {"why": "text", "parts.first": "number", "count": "integer", "size": "number"}
    measure = Measure("m", "M.", frozenset(), tuple(Column(n, "", "", kind) for n, kind in kinds.items()), dict)
    assert measure.shown_columns() == ("count",)
    assert replace(measure, shown=("size", "count")).shown_columns() == ("size", "count")
    assert replace(measure, columns=measure.columns[:1]).shown_columns() == ()


def test_an_unknown_measure():
    with pytest.raises(OptionError, match=r"no measure 'drfit' \(did you mean 'drift'\?\); known: .*drift"):
        find("drfit")


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ([1.0, 2.0], ""),
        ([], "empty"),
        ([math.nan, 1.0], "non-finite"),
        ([math.inf, 1.0], "non-finite"),
        ([math.nan, math.inf], "nothing finite"),
        ([1e200, 2.0], "overflow"),
        ([1e200, math.nan], "non-finite overflow"),
    ],
)
def test_rows(values, flag):
    array = np.array(values)
    found = statistics_of(np.zeros_like(array), [array], ["F64", "F64"])
    row = drift.derive(found.distribution(0), found.base_l2())
    assert list(row) == [c.name for c in drift.COLUMNS]
    assert row["flag"] == flag
    assert row["relative_l2"] is None  # the base is zero
    assert all(v is None or isinstance(v, str) or math.isfinite(v) for v in row.values())
    assert (row["q0"] is None) == (not np.isfinite(array).any())


def test_names_of_quantiles():
    assert drift.QUANTILES == ("q0", "q1", "q5", "q10", "q25", "q50", "q75", "q90", "q95", "q99", "q100")
