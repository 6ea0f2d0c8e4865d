"""The same bytes whatever the number of workers, in every file."""

from __future__ import annotations

import numpy as np
import pytest
from task_vectors import check_row, cosine, is_close, normal, read_cosines, read_rows, save, tree, tuned

import netweight
from netweight.run import plan


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and two fine-tunes: a bf16 tensor of more than one stretch, a float32 one that needs a second look."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    large = (1 << 24) + 70_001
    base = {
        "model.embed_tokens.weight": rng.integers(0x3A00, 0x3E00, large, dtype=np.uint16).view(
            normal(1, "bfloat16").dtype
        ),
        "model.layers.0.mlp.up_proj.weight": normal((1100, 1000), seed=1),
        "model.layers.0.input_layernorm.weight": normal(300, "float64", seed=2),
        "model.layers.1.self_attn.q_proj.weight": normal((200, 300), "float16", seed=3),
        "model.norm.weight": normal(64, "bfloat16", seed=4),
    }
    arrays = [base]
    for seed in (1, 2):
        moved = tuned({n: a for n, a in base.items() if "embed" not in n}, seed)
        bits = base["model.embed_tokens.weight"].view(np.uint16) + rng.integers(0, 3, large, dtype=np.uint16)
        arrays.append({"model.embed_tokens.weight": bits.view(base["model.embed_tokens.weight"].dtype), **moved})
    return [save(folder / name, a) for name, a in zip(("base", "one", "two"), arrays, strict=True)], arrays


def test_one_two_and_seven_workers(models, tmp_path):
    paths, arrays = models
    assert arrays[0]["model.embed_tokens.weight"].size > plan.STRETCH
    found = {}
    for workers in (1, 2, 7):
        netweight.delta(paths[0], paths[1:], tmp_path / f"{workers}", workers=workers)
        found[workers] = tree(tmp_path / f"{workers}")
    assert {"delta.parquet", "pairwise_cosines.png", "one/group_l2_bar.png", "two/summary.json"} < found[1].keys()
    for workers in (2, 7):
        assert found[workers].keys() == found[1].keys()
        differing = [name for name in found[1] if found[1][name] != found[workers][name]]
        assert differing == []
    for i, name in enumerate(("one", "two")):
        rows = read_rows(tmp_path / "7" / name / "per_param_stats.csv")
        for param, row in rows.items():
            if i or "embed" not in param:  # numpy is slow at 16 M elements: once is enough
                check_row(row, arrays[0][param], arrays[i + 1][param])
    _, cosines = read_cosines(tmp_path / "7" / "pairwise_cosines.csv")
    assert is_close(cosines[0][1], cosine(*arrays))


def test_many_small_stretches_in_any_order(models, tmp_path, monkeypatch):
    """Stretches are the unit of order: with tiny ones, results of seven workers come back well mixed."""
    paths, arrays = models
    monkeypatch.setattr(plan, "STRETCH", 1 << 14)
    trees = []
    for workers in (1, 7):
        result = netweight.delta(paths[0], paths[1:], tmp_path / f"{workers}", workers=workers, exclude=("*embed*",))
        assert result.models[0].summary["skipped"][0]["reason"] == "excluded by --exclude *embed*"
        trees.append(tree(tmp_path / f"{workers}"))
    assert trees[0] == trees[1]
    for param, row in read_rows(tmp_path / "7" / "two" / "per_param_stats.csv").items():
        check_row(row, arrays[0][param], arrays[2][param])
