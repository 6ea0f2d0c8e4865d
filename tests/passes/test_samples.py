"""Which matrices are looked at again, how many bytes that is, and that a block is what lies in the file."""

from __future__ import annotations

import fine_tunes as ft
import numpy as np
import pytest
from task_vectors import save

from netweight.checkpoint.open import open_checkpoint
from netweight.jobs.kinds import layout_of_base
from netweight.params.pairing import align
from netweight.passes import samples as module
from netweight.passes.samples import COLS, PER_MODULE, ROWS, budget_of, choose_samples, measure_samples
from netweight.run.threads import ThreadExecutor


@pytest.fixture
def aligned(tmp_path):
    """(parameters, layout) of a base of 6 layers and two models."""
    base = ft.base(layers=6)
    paths = [save(tmp_path / name, base) for name in ("base", "a", "b")]
    with open_checkpoint(paths[0]) as opened, open_checkpoint(paths[1]) as a, open_checkpoint(paths[2]) as b:
        yield align(opened, [a, b]).parameters, layout_of_base(opened)


def names(parameters, *parts):
    return {p.name for p in parameters if any(part in p.name for part in parts)}


def test_three_of_a_kind_from_all_over_the_model(aligned):
    parameters, layout = aligned
    chosen = choose_samples(parameters, [names(parameters, "q_proj"), set()], layout)
    assert [s.name for s in chosen] == [f"model.layers.{i}.self_attn.q_proj.weight" for i in (1, 3, 5)]
    assert [[m for m, _ in s.models] for s in chosen] == [[0], [0], [0]]


def test_only_what_changed_and_only_matrices(aligned):
    parameters, layout = aligned
    changed = names(parameters, "norm", "layers.4.mlp.up_proj", "embed")
    chosen = choose_samples(parameters, [changed, names(parameters, "layers.4.mlp.up_proj")], layout)
    assert [(s.name, [m for m, _ in s.models]) for s in chosen] == [
        ("model.embed_tokens.weight", [0]),
        ("model.layers.4.mlp.up_proj.weight", [0, 1]),
    ]


def test_bytes_are_within_the_budget(aligned):
    parameters, layout = aligned
    every = names(parameters, "")
    budget = budget_of(parameters, layout)
    chosen = choose_samples(parameters, [every, every], layout)
    assert len(chosen) == 7 * PER_MODULE + 2 <= budget.matrices
    assert sum(s.nbytes for s in chosen) <= budget.nbytes
    apart = choose_samples(
        parameters, [names(parameters, "layers.0.", "layers.1."), names(parameters, "layers.5.")], layout
    )
    assert 0 < sum(s.nbytes for s in apart) <= budget.nbytes
    alone = [p.__class__(p.name, p.parameter, p.base, p.models[:1]) for p in parameters]
    one = choose_samples(alone, [every], layout)
    assert (len(one), sum(s.nbytes for s in one)) == (
        budget_of(alone, layout).matrices,
        budget_of(alone, layout).nbytes,
    )


@pytest.mark.parametrize("shape", [(30, 40), (2000, 64), (600, 5000), (40, 70_000)])
def test_a_block_is_what_lies_in_the_file(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(module, "_PIECE", 1 << 16)  # so that rows of 70,000 are read in part
    rng = np.random.default_rng(0)
    base = {"model.layers.0.mlp.up_proj.weight": rng.normal(size=shape).astype(np.float32)}
    tuned = {name: w + rng.normal(size=shape).astype(np.float32) for name, w in base.items()}
    seen = []
    monkeypatch.setattr(module, "block_of", lambda a, b, dtype: seen.append((a, b)))
    monkeypatch.setattr(module, "find", lambda name: type("Measure", (), {"derive": staticmethod(lambda block: {})}))
    with (
        open_checkpoint(save(tmp_path / "base", base)) as opened,
        open_checkpoint(save(tmp_path / "tuned", tuned)) as model,
    ):
        parameters = align(opened, [model]).parameters
        chosen = choose_samples(parameters, [names(parameters, "")], layout_of_base(opened))
        read = []
        measure_samples(chosen, ThreadExecutor(1), 1, read.append, resumable=True)
    ((a, b),) = seen
    step = ROWS // module.RUNS
    firsts = [i * (shape[0] - step) // (module.RUNS - 1) for i in range(module.RUNS)]
    rows = range(shape[0]) if shape[0] <= ROWS else [first + i for first in firsts for i in range(step)]
    for block, whole in ((a, base), (b, tuned)):
        assert np.array_equal(block, next(iter(whole.values()))[list(rows), :COLS])
    width = shape[1] if shape[1] <= 1 << 16 else COLS
    assert read == [2 * 4 * len(rows) * width] == [chosen[0].nbytes]


def test_of_a_stack_of_experts_the_middle_one(tmp_path):
    rng = np.random.default_rng(0)
    name = "model.layers.0.mlp.experts.down_proj"
    base = {name: rng.normal(size=(5, 64, 32)).astype(np.float32)}
    tuned = {name: base[name] + np.stack([rng.normal(size=(64, r)) @ rng.normal(size=(r, 32)) for r in range(1, 6)])}
    config = {"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 32}
    paths = [
        save(tmp_path / folder, {n: w.astype(np.float32) for n, w in held.items()}, config)
        for folder, held in (("base", base), ("tuned", tuned))
    ]
    with open_checkpoint(paths[0]) as opened, open_checkpoint(paths[1]) as model:
        parameters = align(opened, [model]).parameters
        chosen = choose_samples(parameters, [{p.name for p in parameters}], layout_of_base(opened))
        updates = measure_samples(chosen, ThreadExecutor(2), 2, lambda nbytes: None, resumable=True)
    (fields,) = updates.values()
    assert (fields[0]["update_form"], fields[0]["update_rank"]) == ("low rank", 3)
