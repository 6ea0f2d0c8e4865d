"""The recipe suite: recipes as people type them, on tiny models of eight families, by mergekit 0.1.5 (recorded by
benchmarks/mergekit/record_suite.py) and by netweight.

Tensors, tokenizers, configs, chat templates and what the loaded model says are compared. What differs stands in
DEPARTURES, by part, with its row in docs/merging.md; test_recipe_suite_right.py shows the right values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from suite_facts import RANDOM, digest, length, strings
from suite_models import FAMILIES, digest_of_models
from suite_recipes import CASES, DEPARTURES, NAMES, RECORDED, REFUSED, STOPPED, TOLERANCE, VALUES
from suite_tokenizers import KINDS

from netweight.errors import NetweightError

pytest.importorskip("transformers")
ABOUT = (Path(__file__).parents[3] / "docs" / "merging.md").read_text(encoding="utf-8")
SAMPLING = {"same": 0.02, "slope": 0.05, "squares": 0.15}
"""More than four standard errors of the difference of two draws."""
COMPARED = [name for name in NAMES if "error" not in CASES[name] and name not in STOPPED]


def slices(rows):
    """(name, its part of the values) for each tensor of a list."""
    at = 0
    for name, *_ in rows:
        yield name, slice(at, at + length(name))
        at += length(name)


def values_differ(name, found):
    """Whether a norm or value is apart by more than 1e-6 of its tensor's scale, in tensors of both."""
    own = dict(slices(found.facts["tensors"]))
    for key, part in slices(RECORDED["layouts"][CASES[name]["tensors"]]):
        if key in own:
            ours, theirs = found.values[own[key]], VALUES[name][part]
            scale = np.append(np.linalg.norm(found.tensors[key]), [np.abs(found.tensors[key]).max()] * (len(ours) - 1))
            both = ~np.isnan(ours)
            if (both == np.isnan(theirs)).any() or (np.abs(ours - theirs) > TOLERANCE * scale)[both].any():
                return True
    return False


def differing(found, name):
    """The parts of netweight's result that differ from mergekit's, from the run of mergekit's that is closest."""
    theirs = CASES[name]
    parts = set()
    if found.facts["tensors"] != RECORDED["layouts"][theirs["tensors"]]:
        parts.add("tensors")
    if name in RANDOM:
        if any(abs(found.facts["drawn"][key] - theirs["drawn"][key]) > most for key, most in SAMPLING.items()):
            parts.add("drawn")
    elif values_differ(name, found):
        parts.add("values")
    runs = [theirs, *theirs.get("also", [])]
    return parts | min((about_differs(found.facts, run, parts) for run in runs), key=len)


def about_differs(ours, theirs, parts):
    """Parts beside the tensors that differ from one run of mergekit's."""
    made = set()
    chance = theirs["tokenizer"]["numbers"] is None
    for part in ("config", "tokenizer"):
        for key, value in theirs[part].items():
            if chance and (value is None or key == "generation"):
                continue
            if ours[part].get(key) != value:
                made.add("chats" if key == "chats" else part)
    for key, value in theirs["loads"].items():
        if ours["loads"][key] != value and not (key == "says" and ("values" in parts or "drawn" in ours)):
            made.add("loads")
    return made


def test_the_recording_is_of_these_recipes_and_models(suite):
    assert RECORDED["versions"]["mergekit"] == "0.1.5"
    assert RECORDED["strings"] == digest(strings())
    assert len(strings()) == 200
    assert digest_of_models(suite.models) == RECORDED["models"]
    assert CASES.keys() == {*NAMES}
    assert len(NAMES) >= 60
    assert len(FAMILIES) == 8
    assert len({tuple(kind.tokens) for kind in KINDS.values()}) >= 8


@pytest.mark.parametrize("name", COMPARED)
def test_recipes_give_what_mergekit_gives(suite, name):
    found = suite.of(name)
    assert differing(found, name) == DEPARTURES.get(name, {}).keys()
    assert not found.facts["loads"]["wrong"]
    assert len(found.facts["loads"]["says"]) >= 1


@pytest.mark.parametrize("name", STOPPED)
def test_what_netweight_refuses(suite, name):
    assert "error" not in CASES[name]
    with pytest.raises(NetweightError, match=STOPPED[name][1]):
        suite.merge(name)


def test_every_difference_is_in_the_documents():
    section = ABOUT.partition("## Differences from mergekit")[2]
    topics = {topic for parts in DEPARTURES.values() for topic in parts.values()} | {*REFUSED.values()}
    topics |= {topic for topic, _ in STOPPED.values()}
    assert [topic for topic in sorted(topics) if f"| {topic} |" not in section] == []
    assert f"{len(NAMES)} recipes" in section
    assert {name for name, case in CASES.items() if "error" in case} == REFUSED.keys()
    assert DEPARTURES.keys() <= {*COMPARED}
