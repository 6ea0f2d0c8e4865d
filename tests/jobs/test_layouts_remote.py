"""Two layouts of models that are far away, read by ranges: what files on this machine give, and no byte twice."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from far_executor import FarExecutor

import netweight
from netweight.checkpoint.tensors import rearranged
from netweight.jobs.compare.plan import Options as CompareOptions
from netweight.jobs.compare.plan import prepare as prepare_compare
from netweight.jobs.delta.plan import Options, prepare
from netweight.passes import samples
from netweight.run import plan
from netweight.source import remote

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from layout_models import Folders, named, ordered  # noqa: E402 - torch and transformers may be missing

ALL = [pair for pair in ordered(kinds=["mixtral", "gpt_oss", "phi3"]) if "linear layers, router too" not in pair]
STRAIGHT = [pair for pair in ALL if pair[0] != "gpt_oss"]
TURNED = [pair for pair in ALL if pair[0] == "gpt_oss"]


def over(pairs):
    return pytest.mark.parametrize("pair", pairs, ids=map(named, pairs))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Many ranges of a tiny file: a tensor of an expert is several, the header another."""
    monkeypatch.setattr(remote, "HEAD", 1 << 10)
    monkeypatch.setattr(remote, "PIECE", 1 << 11)
    monkeypatch.setattr(remote, "_SMALL", 1 << 9)


@pytest.fixture
def far(hub, folders):
    """(here, there): base and fine-tune as folders, and as models of a hub."""

    def published(pair):
        kind, first, second = pair
        here = folders(kind, first), folders(kind, second, 1)
        for name, folder in zip(("base", "tuned"), here, strict=True):
            hub.publish(f"org/{name}", Path(folder))
        hub.clear()
        return here, ("org/base", "org/tuned")

    return published


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def fetched(hub):
    """{model: the ranges that were fetched of its weights}."""
    found = {"base": [], "tuned": []}
    for request in hub.requests:
        if request.method == "GET" and request.range and request.path.startswith("/cdn/"):
            first, last = map(int, request.range.removeprefix("bytes=").split("-"))
            found[request.path.split("/")[-2]].append((first, last + 1))
    return found


def sizes(folders):
    return {
        name: (Path(folder) / "model.safetensors").stat().st_size
        for name, folder in zip(("base", "tuned"), folders, strict=True)
    }


def merge(out, base, model, **more):
    return netweight.merge(
        None, out, base=base, models=[model], weights=(0.5,), sync=False, allow_mismatch=True, **more
    )


@over(ALL)
def test_results_are_those_of_files(tmp_path, monkeypatch, far, pair):
    """Also where stretches, rows and slabs are small, and workers many."""
    for name, size in (("_ROWS", 1 << 10), ("_SLAB", 1 << 11)):
        monkeypatch.setattr(rearranged, name, size)
    monkeypatch.setattr(plan, "STRETCH", 1 << 12)
    here, there = far(pair)
    near, distant = netweight.delta(*here), netweight.delta(*there, remote=True, workers=3)
    assert distant.per_parameter(0) == near.per_parameter(0)
    assert distant.coverage == near.coverage
    near, distant = netweight.compare(*here), netweight.compare(*there, remote=True, workers=3)
    assert distant["layer_comparisons"] == near["layer_comparisons"]
    assert distant.totals == near.totals
    merge(tmp_path / "near", *here)
    merge(tmp_path / "far", *there, remote=True, workers=3)
    assert weights(tmp_path / "far") == weights(tmp_path / "near")
    assert netweight.verify(tmp_path / "far", remote=True, workers=3).good


@pytest.mark.parametrize("pair", [STRAIGHT[1], TURNED[0]], ids=named)
def test_urls(hub, far, pair):
    here, _ = far(pair)
    urls = [f"{hub.url}/org/{name}/resolve/main" for name in ("base", "tuned")]
    expected = netweight.delta(*here).per_parameter(0)
    assert netweight.delta(*urls).per_parameter(0) == expected
    assert netweight.delta(*urls, executor=FarExecutor()).per_parameter(0) == expected
    with netweight.open(urls[1], canonical=True) as opened, netweight.open(here[1], canonical=True) as held:
        assert opened.keys() == held.keys()
        assert all(opened[name].read().tobytes() == held[name].read().tobytes() for name in held)


def run(job, there, tmp_path, workers):
    if job == "merge":
        merge(tmp_path / "out", *there, remote=True, workers=workers)
    else:
        netweight.compare(*there, remote=True, workers=workers)


@pytest.fixture
def unsampled(monkeypatch):
    """Without the sample of matrices that compare reads once more."""
    monkeypatch.setattr(samples, "choose_samples", lambda *_: ())


@pytest.mark.usefixtures("unsampled")
@over(STRAIGHT)
@pytest.mark.parametrize("job", ["compare", "merge"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_byte_is_fetched_once(tmp_path, hub, far, pair, job, workers):
    """Packed or one by one: all of both files, and nothing twice."""
    here, there = far(pair)
    run(job, there, tmp_path, workers)
    for name, size in sizes(here).items():
        ranges = sorted(fetched(hub)[name])
        assert len(ranges) > 10
        assert [0, *(stop for _, stop in ranges)] == [*(start for start, _ in ranges), size]


@over(STRAIGHT)
def test_a_sample_is_fetched_once_more(hub, far, pair):
    """And hardly more than the plan says."""
    here, there = far(pair)
    with ExitStack() as stack:
        sample = prepare_compare(*there, "basic_stats", CompareOptions(remote=True), stack).sample
    hub.requests.clear()
    assert netweight.compare(*there, remote=True, workers=3).kind.looked_at > 0
    whole = sum(sizes(here).values())
    total = sum(stop - start for ranges in fetched(hub).values() for start, stop in ranges)
    assert whole < total <= whole + sample.nbytes + (8 << 10)  # ranges have whole pieces


@pytest.mark.usefixtures("unsampled")
@over(TURNED)
@pytest.mark.parametrize("job", ["compare", "merge"])
def test_what_is_turned_is_fetched_by_one_worker_as_often_as_it_has_parts(tmp_path, hub, far, pair, job):
    """Gate and up take turns in a row: each of both is a column that goes through all of it."""
    here, there = far(pair)
    run(job, there, tmp_path, 1)
    sums = {name: sum(stop - start for start, stop in ranges) for name, ranges in fetched(hub).items()}
    most = sizes(here)
    assert sums["base"] == most["base"]
    assert most["tuned"] <= sums["tuned"] <= 2 * most["tuned"]


@over(ALL)
def test_a_plan_reads_headers_alone(hub, far, pair):
    here, there = far(pair)
    with netweight.open(there[0]) as base, netweight.open(there[1]) as tuned:
        headers = hub.sent("/cdn/*")
        assert headers < sum(sizes(here).values()) / 2
        assert len(base) != len(tuned)
    hub.clear()
    with ExitStack() as stack:
        prepared = prepare(there[0], there[1], Options(remote=True), stack)
        assert [tuple(share) for share in prepared.alignment.coverage] == [(1, 1)]
        assert hub.sent("/cdn/*") == headers
