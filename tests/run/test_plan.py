"""The plan: stretches, totals, and a digest that tells runs apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netweight.run import plan
from netweight.run.plan import STRETCH, Plan, PlannedTask, digest_of, stretches


@given(st.integers(0, 1 << 31))
def test_stretches_cover_everything_once(size):
    found = stretches(size)
    assert found[0][0] == 0
    assert found[-1][1] == size
    assert all(a[1] == b[0] for a, b in pairwise(found))
    assert all(0 < stop - start <= STRETCH for start, stop in found) or found == [(0, 0)]
    assert len(found) == max(1, -(-size // STRETCH))


def test_a_stretch_is_whole_chunks():
    """Sums are formed by chunk: a stretch that cut one would change the last bits."""
    from netweight.kernels.protocol import CHUNK

    assert STRETCH % CHUNK == 0


def test_small_stretches(monkeypatch):
    monkeypatch.setattr(plan, "STRETCH", 10)
    assert stretches(25) == [(0, 10), (10, 20), (20, 25)]
    assert stretches(20) == [(0, 10), (10, 20)]


def test_a_plan():
    tasks = (PlannedTask("a", 0, 0, 10, 40), PlannedTask("b", 0, 0, 5, 30))
    made = Plan("delta", tasks, tensors=2, skipped=1, workers=3, memory=1000, digest="d")
    assert made.nbytes == 70
    assert made.to_dict() == {
        "job": "delta", "tensors": 2, "skipped": 1, "tasks": 2, "bytes_to_read": 70, "workers": 3,
        "expected_memory": 1000, "digest": "d", "device": "cpu", "device_reason": "",
    }  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.tensors = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        tasks[0].stop = 11


def test_digests():
    first = {"b": [1, "é\udcff"], "a": None}
    again = {"a": None, "b": [1, "é\udcff"]}
    assert digest_of(first) == digest_of(again)
    assert digest_of(first) != digest_of({**first, "b": [2]})
    plain = json.dumps({"x": 1}, sort_keys=True, separators=(",", ":")).encode()
    assert digest_of({"x": 1}) == hashlib.sha256(plain).hexdigest()
