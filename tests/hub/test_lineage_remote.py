"""Lineage of models that are far away: little is read of them, by ranges."""

from __future__ import annotations

from hub_models import write_shape
from safetensors.numpy import load_file, save_file

import netweight
from netweight.jobs.lineage.sketching import sketch_of
from shapes import SHAPES, Shape

SMALL = Shape("small", 128, 4, 4, 2, 32, 320, 1000, tied=False, fine_tunes=0)


def test_of_eight_billion_parameters_less_than_100_mb_are_read(hub, tmp_path) -> None:
    commit = hub.publish("org/8b", write_shape(tmp_path / "8b", SHAPES["8b"]), hashed=False)
    hub.clear()
    index, done, failed = netweight.index_models("org/8b", tmp_path / "ix")
    assert (done, failed) == (["8b"], [])
    assert hub.sent() < 100_000_000
    sketch = index.load("8b")
    assert sketch.about.file_bytes > 16_000_000_000
    assert abs(hub.sent() - sketch.about.read_bytes) < 20_000_000  # headers, and pieces that are read ahead
    assert sketch.about.identity["revision"] == commit
    assert (tmp_path / "ix" / "sketches" / index.entry("8b").file).stat().st_size < 4_000_000
    hub.clear()
    _, done, _ = netweight.index_models("org/8b", tmp_path / "ix")
    assert done == []
    assert hub.sent() < 1_000_000  # headers alone say that nothing has changed


def test_near_and_far_have_one_sketch(hub, tmp_path) -> None:
    folder = write_shape(tmp_path / "small", SMALL)
    file = folder / "model.safetensors"
    save_file({name: values + 1 for name, values in load_file(file).items()}, file)
    hub.publish("org/small", folder, hashed=False)
    near, far = sketch_of(folder), sketch_of("org/small")
    assert near.digest == far.digest
    result = netweight.lineage([folder, "hf://org/small"])
    assert [relation.relation for relation in result.relations] == ["identical"]
