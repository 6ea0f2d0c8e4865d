"""A crash of the machine at any moment of a job: the old result or the new one stands there, whole, and the same
command goes on to the new one. tests/jobs/crashes.py has the model of a crash.
"""

from __future__ import annotations

import datetime as dt
import json
import random

import numpy as np
import pytest
from crashes import Record, State, needs_folder_sync, no_syncs, recorded
from merge_families import family
from safetensors import safe_open
from task_vectors import tree

import netweight
from netweight.jobs.download import fetch

pytestmark = needs_folder_sync

RESUMED = 25  # states of a job that are gone on with: some at random, and those that are most telling


def chosen(states: list[State], *, telling=()) -> list[State]:
    """A sample of the states, with all that are telling."""
    rest = [state for state in states if state not in telling]
    return [*telling, *random.Random(0).sample(rest, min(RESUMED, len(rest)))]


def bytes_of(state: State, folder: str) -> dict[str, bytes] | None:
    found = state.below(folder)
    return None if found is None else {name: data for name, data in found.items() if data is not None}


def check_folder(record: Record, old: dict[str, bytes] | None, new: dict[str, bytes]) -> list[State]:
    """The states, after all of them have the old folder `out` or the new one, and the last cannot be lost."""
    at_the_end = State(record.least(), {}, "at the end, all lost")
    assert bytes_of(at_the_end, "out") == new
    states = list(record.states())
    for state in states:
        assert bytes_of(state, "out") in (old, new), state.after
    assert any(bytes_of(state, "out") == old for state in states)
    return states


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base, tuned, *_ = family(tmp_path_factory.mktemp("models"))
    return base, tuned


@pytest.mark.parametrize("replaced", [False, True])
def test_merge(models, tmp_path, replaced):
    base, tuned = models
    root = tmp_path / "root"
    root.mkdir()

    def merge(weights, **settings):
        netweight.merge(
            None,
            root / "out",
            base=base,
            models=tuned[:2],
            weights=weights,
            workers=1,
            max_shard_size=10_000,
            overwrite=replaced,
            **settings,
        )

    old = None
    if replaced:
        merge([0.75, 0.5])
        old = tree(root / "out")
        assert len([name for name in old if name.endswith(".safetensors")]) > 2
    with recorded(root) as record:
        merge([0.25, 0.5])
    new = tree(root / "out")
    for name in new:
        if name.endswith(".safetensors"):
            safe_open(root / "out" / name, "np")
    states = check_folder(record, old, new)
    # where the stage has all weights, and some of them may be zeros
    late = [s for s in states if f'"done {"lm_head.weight"}'.encode() in s.tree.get(JOURNAL, b"")]
    for state in chosen(states, telling=random.Random(1).sample(late, min(len(late), RESUMED))):
        if bytes_of(state, "out") == new:
            continue
        state.put(root)
        with no_syncs():
            merge([0.25, 0.5], resume=True)
        assert tree(root / "out") == new, state.after
        assert list(root.iterdir()) == [root / "out"], state.after


JOURNAL = ".out.netweight-run/journal.jsonl"


def test_delta(models, tmp_path):
    base, tuned = models
    root = tmp_path / "root"
    root.mkdir()
    netweight.delta(base, tuned[1:], root / "out", workers=1)
    old = tree(root / "out")
    (root / "out" / "notes.txt").write_text("mine")
    old["notes.txt"] = b"mine"
    with recorded(root) as record:
        netweight.delta(base, tuned[:2], root / "out", workers=1)
    new = tree(root / "out")
    assert new["notes.txt"] == b"mine"
    states = check_folder(record, old, new)
    whole = max((state.tree.get(JOURNAL, b"") for state in states), key=len)
    assert whole.count(b"\n") > 20
    staged = [s for s in states if ".out.netweight-run/stage/pairwise_cosines.csv" in s.tree]
    assert staged
    for state in staged:  # what was measured is not lost before its tables stand
        assert state.tree.get(JOURNAL) == whole or bytes_of(state, "out") == new, state.after
    for state in chosen(states):
        state.put(root)
        with no_syncs():
            netweight.delta(base, tuned[:2], root / "out", workers=1, resume=True)
        assert tree(root / "out") == new, state.after
        assert list(root.iterdir()) == [root / "out"], state.after


@pytest.mark.parametrize("name", ["scan.json", "scan.csv", "scan.parquet"])
def test_scan(models, tmp_path, monkeypatch, name):
    class Frozen(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr("netweight.jobs.scan.job.datetime", Frozen)
    root = tmp_path / "root"
    root.mkdir()
    netweight.scan(models[1][0], output=root / name, workers=1)
    old = (root / name).read_bytes()
    with recorded(root) as record:
        netweight.scan(models[0], output=root / name, workers=1)
    new = (root / name).read_bytes()
    assert new != old
    assert record.least()[name] == new
    states = list(record.states())
    assert {state.tree[name] for state in states} == {old, new}
    for state in chosen(states)[:10]:
        state.put(root)
        with no_syncs():
            netweight.scan(models[0], output=root / name, workers=1, resume=True)
        assert (root / name).read_bytes() == new, state.after
        assert list(root.iterdir()) == [root / name], state.after


def test_download(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PIECE", 40_000)
    monkeypatch.setattr(fetch, "_RECORD", 10_000)
    rng = np.random.default_rng(0)
    root = tmp_path / "root"
    root.mkdir()

    def publish(seed):
        files = {
            "config.json": json.dumps({"model_type": "llama", "seed": seed}).encode(),
            "model.safetensors": rng.bytes(100_000),
            "tokenizer.json": b'"same in both"',
        }
        hub.publish("org/name", files)
        return files

    def stands(files):
        return {name: data for name, data in files.items() if not name.startswith(".netweight")}

    old = publish(1)
    netweight.download("org/name", root / "out", workers=1)
    before = tree(root / "out")
    new = publish(2)
    with recorded(root) as record:
        netweight.download("org/name", root / "out", workers=1)
    after = tree(root / "out")
    assert (stands(before), stands(after)) == (old, new)
    states = check_folder(record, before, after)
    verified = [s for s in states if b":verified:model.safetensors" in s.tree.get(JOURNAL, b"")]
    assert verified
    for state in verified:  # the journal's word is that the bytes are there, if the file is
        staged = state.tree.get(".out.netweight-run/stage/model.safetensors", new["model.safetensors"])
        assert staged in (new["model.safetensors"], old["model.safetensors"]), state.after
    for state in chosen(states, telling=verified[:RESUMED]):
        state.put(root)
        with no_syncs():
            netweight.download("org/name", root / "out", workers=1)
        assert stands(tree(root / "out")) == new, state.after
        assert list(root.iterdir()) == [root / "out"], state.after
