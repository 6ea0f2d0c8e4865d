"""What jobs gather for the drawer of a page: right numbers, and nothing else of a result changes by it."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from pages import data_of, lists_of
from task_vectors import normal, save

import netweight
from netweight.errors import OptionError

Q, UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"


def tensors(seed=0, dtype="bfloat16"):
    held = {Q: normal((24, 24), dtype, seed=seed), UP: normal((300, 24), dtype, seed=seed + 1)}
    held[UP][0, :3] = 900
    return held | {"model.norm.weight": np.ones(24, ml_dtypes.bfloat16)}


@pytest.fixture
def base(tmp_path):
    return save(tmp_path / "base", tensors())


def pictures_of(page):
    (section,) = data_of(Path(page).read_text(encoding="utf-8"))["sections"]
    return section, {name: lists_of(column) for name, column in section["pictures"].items()}


def check_histogram(edges, counts, values):
    values = np.sort(values[np.isfinite(values)].astype(np.float64).ravel())
    assert (edges[0], edges[-1]) == (values[0], values[-1])
    assert sum(counts) == len(values)
    if edges[0] == edges[-1]:
        return
    inside = np.array(edges[1:-1])
    free = inside[~np.isin(inside, values)]  # an edge that is no value has a certain number of values below it
    below = np.cumsum(counts)[:-1][~np.isin(inside, values)]
    assert len(free) > 10
    assert (np.searchsorted(values, free) == below).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_scan_gathers_histograms_and_singular_values(tmp_path, dtype) -> None:
    arrays = tensors(dtype=dtype)
    arrays[UP] = np.repeat(arrays[UP], 20, axis=0)  # more than 65,536 elements: another way of counting
    model = save(tmp_path / "m", arrays)
    plain = netweight.scan(model, methods="all")
    found = netweight.scan(model, methods="all", pictured=True)
    assert json.dumps(plain.to_dict()) == json.dumps(found.to_dict())
    assert [column.name for column in plain.columns] == [column.name for column in found.columns]
    found.report(tmp_path / "a.html")
    section, pictures = pictures_of(tmp_path / "a.html")
    assert set(pictures) == {"histogram.edges", "histogram.counts", "singular_values.ranks", "singular_values.values"}
    assert not {column["name"] for column in section["columns"]} & set(pictures)
    for at, row in enumerate(found.rows):
        array = arrays[row.name].astype(np.float64)
        check_histogram(pictures["histogram.edges"][at], pictures["histogram.counts"][at], array)
        sigma = np.linalg.svd(np.atleast_2d(array), compute_uv=False)
        ranks, values = pictures["singular_values.ranks"][at], pictures["singular_values.values"][at]
        assert (ranks[0], ranks[-1]) == (1, len(sigma))
        assert np.allclose(values, sigma[np.array(ranks, int) - 1], rtol=1e-9)


def test_as_methods_they_are_in_files_and_their_pages(base, tmp_path) -> None:
    """By name, not with all: then a page of the file has what a page of the run has."""
    named = netweight.scan(base, methods=["all", "histogram", "singular_values"], output=tmp_path / "s.parquet")
    netweight.report(tmp_path / "s.parquet", tmp_path / "a.html")
    netweight.scan(base, methods="all", pictured=True).report(tmp_path / "b.html")
    assert pictures_of(tmp_path / "a.html")[1] == pictures_of(tmp_path / "b.html")[1]
    assert named[Q]["histogram"]["edges"] == pictures_of(tmp_path / "a.html")[1]["histogram.edges"][0]
    with pytest.raises(OptionError, match="no method 'histogram'"):
        netweight.compare(base, base, methods=["histogram"])


def test_only_what_is_counted_anyway_is_drawn(base) -> None:
    assert {m.name for m in netweight.scan(base, methods="tail", pictured=True).pictures} == {"singular_values"}
    assert {m.name for m in netweight.scan(base, pictured=True).pictures} == {"histogram"}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_delta_gathers_histograms_of_differences(tmp_path, base, workers) -> None:
    for number, name in enumerate(("one", "two")):
        save(tmp_path / name, tensors(seed=10 * (number + 1), dtype="float32"))
    models = [tmp_path / "one", tmp_path / "two"]
    plain = netweight.delta(base, models)
    found = netweight.delta(base, models, pictured=True, workers=workers)
    assert plain.to_dict() == found.to_dict()
    assert plain.frame.rows == found.frame.rows
    found.report(tmp_path / "d.html")
    _, pictures = pictures_of(tmp_path / "d.html")
    before = tensors()
    for at, row in enumerate(found.frame.rows):
        after = tensors(seed=10 if row[0] == "one" else 20, dtype="float32")
        difference = after[row[1]].astype(np.float32) - before[row[1]].astype(np.float32)
        check_histogram(pictures["histogram.edges"][at], pictures["histogram.counts"][at], difference)


def test_a_run_that_was_stopped_goes_on_with_its_pictures(tmp_path, base) -> None:
    """What the journal holds is drawn as what is measured anew."""
    from netweight.jobs.delta import job

    other = save(tmp_path / "one", tensors(seed=5))
    whole = netweight.delta(base, other, pictured=True)
    (parameter, *_) = whole.parameters
    entry = {"rows": parameter.rows, "gram": parameter.gram, "spectra": (), "pictures": parameter.pictures}
    restored = job._restored(parameter.aligned, json.loads(json.dumps(entry)))
    assert restored.pictures == parameter.pictures


def test_a_merge_says_how_task_vectors_disagree(tmp_path, base) -> None:
    """Against numpy, over the very elements: all of a small parameter, eight stretches of a larger one."""
    arrays = [tensors(seed, "float32") for seed in (0, 7, 8)]
    for number, held in enumerate(arrays):
        held["large"] = normal((250, 400), "float32", seed=50 + number)
        held["model.norm.weight"] = np.ones(24, np.float32)
        save(tmp_path / f"m{number}", held)
    found = netweight.merge(
        None, tmp_path / "out", base=tmp_path / "m0", models=[tmp_path / "m1", tmp_path / "m2"], weights=[0.5, 0.25],
        dtype="float32", pictured=True,
    )  # fmt: skip
    found.report(tmp_path / "m.html")
    for name, sample in found.samples.items():
        flat = [held[name].astype(np.float64).ravel() for held in arrays]
        size = len(flat[0])
        spans = [(0, size)] if size <= 16384 else [(int(s), int(s) + 2048) for s in np.linspace(0, size - 2048, 8)]
        taken = [np.concatenate([one[a:b] for a, b in spans]) for one in flat]
        one, two = taken[1] - taken[0], taken[2] - taken[0]
        assert sample.rms == pytest.approx([np.sqrt(np.mean(one**2)), np.sqrt(np.mean(two**2))], rel=1e-12)
        merged = 0.5 * one + 0.25 * two
        assert sample.merged == pytest.approx(np.sqrt(np.mean(merged**2)), rel=1e-4, abs=1e-9)
        changed = (one != 0) | (two != 0)
        wanted = np.mean(one[changed] * two[changed] < 0) if changed.any() else None
        assert sample.conflicts == (None if wanted is None else pytest.approx(wanted, rel=1e-12))
    assert found.samples["model.norm.weight"].conflicts is None
    section, _ = pictures_of(tmp_path / "m.html")
    assert section["metrics"][:2] == ["conflicts", "moved"]
    assert "samples" not in found.record
