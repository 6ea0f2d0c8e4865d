"""A run that was stopped is gone on with only by one of the same options: each of them is in the plan's digest."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from safetensors.numpy import save_file

from netweight.jobs.compare import plan as compare
from netweight.jobs.delta import plan as delta
from netweight.jobs.scan import plan as scan

NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight")


@pytest.fixture
def models(tmp_path):
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        rng = np.random.default_rng(seed)
        tensors = {n: rng.normal(size=(8, 8)).astype(np.float32) for n in NAMES}
        save_file(tensors, tmp_path / name / "model.safetensors")
    return str(tmp_path / "a"), str(tmp_path / "b")


def digest(job, models, **options) -> str:
    a, b = models
    with ExitStack() as stack:
        if job == "delta":
            return delta.prepare(a, [b], delta.Options(**options), stack).plan.digest
        if job == "compare":
            return compare.prepare(a, b, "all", compare.Options(**options), stack).plan.digest
        return scan.prepare(a, scan.choose("all", None), scan.Options(**options), stack).plan.digest


@pytest.mark.parametrize("job", ["delta", "compare", "scan"])
@pytest.mark.parametrize(
    "options",
    [{"include": ("*proj*",)}, {"exclude": ("*norm*",)}, {"exclude": ("*proj*",)}, {"count_tied_twice": True}],
)
def test_what_is_chosen(models, job, options):
    plain = digest(job, models)
    assert digest(job, models) == plain
    assert digest(job, models, **options) != plain
    assert digest(job, models, workers=1) == plain  # results do not depend on it


@pytest.mark.parametrize("options", [{"weights_only": True}, {"split": False}, {"rank_k": 3}])
def test_how_a_scan_measures(models, options):
    assert digest("scan", models, **options) != digest("scan", models)


def test_which_methods(models):
    a, b = models
    with ExitStack() as stack:
        digests = {
            compare.prepare(a, b, methods, compare.Options(), stack).plan.digest
            for methods in ("basic_stats", "spectral", "all")
        } | {
            scan.prepare(a, scan.choose(methods, None), scan.Options(), stack).plan.digest
            for methods in ("basic_stats", "spectral", "all")
        }
    assert len(digests) == 6


@pytest.mark.parametrize("job", ["delta", "compare", "scan"])
def test_which_files(models, tmp_path, job):
    before = digest(job, models)
    save_file({n: np.zeros((8, 8), np.float32) for n in NAMES}, tmp_path / "a" / "model.safetensors")
    assert digest(job, models) != before
    (tmp_path / "a" / "config.json").write_text('{"model_type": "llama"}')
    with_config = digest(job, models)
    (tmp_path / "a" / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 2}')
    assert digest(job, models) != with_config
