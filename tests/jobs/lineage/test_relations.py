"""What two models are to each other, from their sketches: made by numpy, every kind, and unlike ones."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from fine_tunes import LINEAR, changed, int4, lora, noise
from lineage_models import relayered, reordered, save, start

import netweight
from netweight.errors import OptionError
from netweight.jobs.lineage.relation import RELATIONS, relate
from netweight.jobs.lineage.result import label_of
from netweight.jobs.lineage.sketching import sketch_of


@pytest.fixture(scope="module")
def origin():
    return start(1)


def related(tmp_path, a, b, **config):
    one, two = (
        sketch_of(save(tmp_path / name, held, **(config if name == "b" else {}))) for name, held in (("a", a), ("b", b))
    )
    found = relate(one, two)
    assert found.relation in RELATIONS
    return found


def bf16(model):
    return {name: values.astype("f4").astype(ml_dtypes.bfloat16) for name, values in model.items()}


def came_first(found):
    return found.a if found.direction.known else None


def abliterated(model):
    rng = np.random.default_rng(3)
    v = rng.standard_normal(128)
    v /= np.linalg.norm(v)
    return {
        name: (w - np.outer(v, v @ w)).astype(w.dtype) if "o_proj" in name or "down_proj" in name else w
        for name, w in model.items()
    }


CASES = {
    "identical": (lambda m: m, "identical", None),
    "full": (lambda m: changed(m, noise(0.05), ""), "fine-tune", None),
    "tiny": (lambda m: changed(m, noise(1e-5), ""), "fine-tune", None),
    "far": (lambda m: changed(m, noise(1.2), ""), "far training", None),
    "frozen": (lambda m: changed(m, noise(0.05), "self_attn"), "fine-tune", None),
    "adapter": (lambda m: changed(m, lora(8), "q_proj", "v_proj"), "adapter merged", None),
    "cast": (bf16, "cast", "a"),
    "half": (lambda m: {n: w.astype("f2") for n, w in m.items()}, "cast", "a"),
    "four bits": (lambda m: changed(m, int4, *LINEAR), "quantised", "a"),
    "one direction": (abliterated, "rank-one edit", None),
    "fewer layers": (lambda m: relayered(m, [0, 1, 3]), "layers changed", "a"),
    "more layers": (lambda m: relayered(m, [0, 1, 2, 1, 2, 3]), "layers changed", "a"),
    "other order of layers": (lambda m: relayered(m, [2, 0, 3, 1]), "layers changed", None),
    "other order of dimensions": (reordered, "reordered", None),
    "another start": (lambda m: start(2), "unrelated", None),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind(tmp_path, origin, case) -> None:
    change, relation, first = CASES[case]
    found = related(tmp_path, origin, change(origin))
    assert found.relation == relation, (found.relation, found.detail, found.reasons)
    assert came_first(found) == first
    turned = related(tmp_path / "turned", change(origin), origin)
    assert turned.relation == relation
    assert came_first(turned) == {"a": "b"}.get(first)
    if relation == "unrelated":
        assert found.evidence.log10_p > -3
        assert f"{found.evidence.detectable:.2g}" in found.reasons[0]
    else:
        assert found.log10_p is not None
        assert found.log10_p <= -6


def test_it_says_what_belongs_to_the_relation(tmp_path, origin) -> None:
    adapter = related(tmp_path / "1", origin, CASES["adapter"][0](origin))
    assert label_of(adapter) == "adapter merged (rank 8 on q_proj, v_proj)"
    pruned = related(tmp_path / "2", origin, CASES["fewer layers"][0](origin))
    assert pruned.layers.of == [0, 1, 3]
    assert pruned.layers.removed == [2]
    assert label_of(pruned) == "layers changed (1 removed)"
    stacked = related(tmp_path / "3", origin, CASES["more layers"][0](origin))
    assert (stacked.layers.of, stacked.layers.repeated) == ([0, 1, 2, 1, 2, 3], [1, 2])
    other = related(tmp_path / "4", origin, CASES["other order of layers"][0](origin))
    assert other.layers.of == [2, 0, 3, 1]
    assert label_of(other) == "layers changed (in another order)"
    cast = related(tmp_path / "5", origin, bf16(origin))
    assert (cast.detail["type"], cast.detail["rounded"]) == ("F32 -> BF16", "b")
    flipped = related(tmp_path / "6", origin, reordered(origin))
    assert flipped.detail["columns_found"] == 128
    assert 40 < flipped.detail["signs_flipped"] < 90


def test_a_part_of_it_trained_from_another_start_is_said_block_by_block(tmp_path, origin) -> None:
    """Two of four layers are another model's: the test says which."""
    other = start(2)
    mixed = {name: other[name] if ".layers.2." in name or ".layers.3." in name else w for name, w in origin.items()}
    found = related(tmp_path, origin, mixed)
    ps = {block.label: block.test.p for block in found.evidence.blocks}
    assert all(ps[label] <= 1e-3 for label in ("0", "1", "residual"))
    assert all(ps[label] > 1e-3 for label in ("2", "3"))
    assert found.related


def test_a_model_that_trained_on_of_bfloat16_came_after_it(tmp_path, origin) -> None:
    """What did not change is on bfloat16's grid, and what changed is not: the one that is all on it came first."""
    plain = {name: w.astype("f4") for name, w in bf16(origin).items()}
    tuned = {n: (w * 1.01 + 0.001).astype("f4") if "q_proj" in n else w for n, w in plain.items()}
    tuned = changed(plain, noise(0.03), "q_proj", "v_proj")
    found = related(tmp_path, tuned, plain)
    assert found.relation == "fine-tune"
    assert came_first(found) == "b"
    assert "grid" in found.direction.reason
    everything = related(tmp_path / "all", changed(plain, noise(0.03), ""), plain)
    assert came_first(everything) is None  # the other may be it, rounded and trained


def test_narrower_models(tmp_path, origin) -> None:
    kept = np.sort(np.random.default_rng(1).choice(320, 200, replace=False))
    fewer = {name: w[:, kept] if "down_proj" in name else w[kept] if "mlp" in name else w for name, w in origin.items()}
    found = related(tmp_path / "1", origin, fewer, intermediate_size=200)
    assert (found.relation, came_first(found)) == ("narrowed", "a")
    assert (found.detail["a"]["units"], found.detail["b"]["units"]) == ([320], [200])
    dims = np.sort(np.random.default_rng(2).choice(128, 96, replace=False))
    thin = {
        name: w[dims] if "norm" in name or "o_proj" in name or "down_proj" in name else w[:, dims]
        for name, w in origin.items()
    }
    found = related(tmp_path / "2", origin, thin, hidden_size=96)
    assert (found.relation, came_first(found)) == ("narrowed", "a")
    assert found.detail["columns_found"] == 96
    independent = related(tmp_path / "3", start(7), thin, hidden_size=96)
    assert independent.relation in ("unrelated", "undecided")


def test_an_embedding_alone_that_was_taken_over_is_said(tmp_path, origin) -> None:
    """Everything else began anew: no relation by name, and not "unrelated" either."""
    other = start(2)
    taken = other | {"model.embed_tokens.weight": origin["model.embed_tokens.weight"]}
    found = related(tmp_path, origin, taken)
    assert found.relation == "undecided"
    assert "the embedding is the other's" in found.reasons[0]


def test_units_in_another_order_alone(tmp_path, origin) -> None:
    rng = np.random.default_rng(8)
    orders = [rng.permutation(320) for _ in range(4)]
    mixed = {
        name: w[:, orders[int(name.split(".")[2])]] if "down_proj" in name
        else w[orders[int(name.split(".")[2])]] if "mlp" in name else w
        for name, w in origin.items()
    }  # fmt: skip
    assert related(tmp_path, origin, mixed).relation == "reordered"


def test_more_rows_of_a_vocabulary(tmp_path, origin) -> None:
    rng = np.random.default_rng(4)
    more = {
        name: np.vstack([w, rng.normal(0, 0.02, (20, 128)).astype("f4")]) if w.shape[0] == 300 else w
        for name, w in origin.items()
    }
    found = related(tmp_path, origin, more)
    assert label_of(found) == "vocabulary changed (rows 300 -> 320)"


def test_not_a_number_is_not_unrelated(tmp_path, origin) -> None:
    broken = {name: np.full_like(w, np.nan) for name, w in origin.items()}
    found = related(tmp_path, origin, broken)
    assert found.relation == "undecided"
    assert "not numbers" in found.reasons[0]


def test_too_little_to_test_is_undecided(tmp_path) -> None:
    rng = np.random.default_rng(0)
    tiny = [
        {"a.weight": rng.normal(size=(3, 3)).astype("f4"), "b.weight": rng.normal(size=(2, 3)).astype("f4")}
        for _ in range(2)
    ]
    found = related(tmp_path, *tiny)
    assert found.relation == "undecided"
    assert found.log10_p is None
    assert "no block of units" in found.reasons[0]


def test_what_is_stored_otherwise_has_the_same_values(tmp_path, origin) -> None:
    narrow = bf16(origin)
    wide = {name: w.astype("f4") for name, w in narrow.items()}
    found = related(tmp_path, narrow, wide)
    assert found.relation == "same values"
    assert came_first(found) is None
    assert found.detail["types"] == ["BF16", "F32"]


def test_a_family_a_merge_and_a_stranger(tmp_path, origin) -> None:
    tunes = [changed(origin, noise(0.05), "", seed=seed) for seed in (5, 6, 7)]
    x, y, z = tunes
    merged = {n: (0.2 * x[n] + 0.3 * y[n] + 0.5 * z[n]).astype("f4") for n in origin}
    arithmetic = {n: (w + 0.7 * (x[n] - w) + 0.9 * (y[n] - w)).astype("f4") for n, w in origin.items()}
    held = {"base": origin, "x": x, "y": y, "z": z, "sum": merged, "task": arithmetic, "other": start(9)}
    for name, tensors in held.items():
        save(tmp_path / "models" / name, tensors)
    result = netweight.lineage(tmp_path / "models")
    assert sorted(map(sorted, result.families)) == [["base", "sum", "task", "x", "y", "z"], ["other"]]
    found = {merge.model: merge for merge in result.merges}
    assert sorted(found) == ["sum", "task"]
    weights = {name: dict(zip(merge.parents, merge.weights, strict=True)) for name, merge in found.items()}
    assert weights["sum"] == pytest.approx({"x": 0.2, "y": 0.3, "z": 0.5}, abs=1e-4)
    assert weights["task"] == pytest.approx({"x": 0.7, "y": 0.9}, abs=1e-4)
    task = found["task"]
    assert task.base == "base"
    assert all(weights == pytest.approx(list(task.weights), abs=1e-3) for weights in task.by_layer.values())
    into = {(edge.a, edge.b) for edge in result.edges if edge.relation == "merge"}
    assert into == {("x", "sum"), ("y", "sum"), ("z", "sum"), ("x", "task"), ("y", "task"), ("base", "task")}
    joined = {frozenset((edge.a, edge.b)) for edge in result.edges if edge.relation != "merge"}
    assert joined == {frozenset(("base", name)) for name in "xyz"}


def test_files_of_a_result(tmp_path, origin) -> None:
    from xml.etree import ElementTree as ET

    import pyarrow.parquet as pq

    models = [save(tmp_path / 'a "quoted" <name>', origin), save(tmp_path / "b", bf16(origin))]
    result = netweight.lineage(models)
    result.write(tmp_path / "out")
    held = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert [one["relation"] for one in held["relations"]] == ["cast"]
    assert held["relations"][0]["tests"][0].keys() >= {"block", "p", "z", "units", "permutations"}
    table = pq.read_table(tmp_path / "out" / "relations.parquet").to_pylist()
    assert table[0]["log10_p"] == held["relations"][0]["log10_p"]
    graph = ET.parse(tmp_path / "out" / "lineage.graphml").getroot()
    names = [
        data.text for data in graph.iter("{http://graphml.graphdrawing.org/xmlns}data") if data.get("key") == "name"
    ]
    assert 'a "quoted" <name>' in names
    dot = (tmp_path / "out" / "lineage.dot").read_text()
    assert '"a \\"quoted\\" <name>" -> "b" [label="cast (F32 -> BF16)"];' in dot


def test_one_model_is_no_family(tmp_path, origin) -> None:
    with pytest.raises(OptionError, match="two or more models"):
        netweight.lineage(save(tmp_path / "a", origin))


def test_a_model_that_cannot_be_read_is_listed(tmp_path, origin) -> None:
    models = [save(tmp_path / "a", origin), save(tmp_path / "b", bf16(origin)), tmp_path / "gone"]
    result = netweight.lineage(models)
    assert [one.ref for one in result.failed] == [str(tmp_path / "gone")]
    assert len(result.relations) == 1


def test_seeds_make_the_same_p(tmp_path, origin) -> None:
    a, b = save(tmp_path / "a", origin), save(tmp_path / "b", start(2))
    first, again = (netweight.lineage([a, b]).relations[0].evidence for _ in range(2))
    assert [block.test for block in first.blocks] == [block.test for block in again.blocks]


def test_what_is_said_of_a_and_b_is_of_these_whichever_was_named_first(tmp_path, origin) -> None:
    kept = np.arange(0, 320, 2)
    fewer = {n: w[:, kept] if "down_proj" in n else w[kept] if "mlp" in n else w for n, w in origin.items()}
    wide, thin = (sketch_of(save(tmp_path / name, held)) for name, held in (("wide", origin), ("thin", fewer)))
    first, second = relate(wide, thin), relate(thin, wide)
    assert (first.a, second.a) == ("wide", "wide")
    assert first.detail == second.detail
    assert first.detail["a"]["units"] == [320]
    doubled = sketch_of(save(tmp_path / "doubled", relayered(changed(origin, noise(0.3), ""), [0, 1, 2, 1, 2, 3])))
    first, second = relate(wide, doubled), relate(doubled, wide)
    assert [block.shown for block in first.evidence.blocks][-2] == "3 = 5"
    assert sorted(b.shown for b in first.evidence.blocks) == sorted(b.shown for b in second.evidence.blocks)
    assert first.figures.drift == pytest.approx(second.figures.drift, rel=1e-6)
    assert first.figures.drift != pytest.approx(relate(doubled, wide).figures.turned().drift, rel=1e-3)


def test_what_would_have_been_found_is_found(tmp_path) -> None:
    """A correlation of the size that is said, planted in every weight, has p <= 1e-6 in all but 1% of cases."""
    rng = np.random.default_rng(0)
    found = []
    for case in range(40):
        a = start(100 + case)
        c = 0.02795  # what is said of models of this size
        b = {n: (c * w + np.sqrt(1 - c * c) * rng.normal(0, 0.02, w.shape)).astype("f4") for n, w in a.items()}
        evidence = relate(*(sketch_of(save(tmp_path / f"{case}{s}", m)) for s, m in (("a", a), ("b", b)))).evidence
        assert evidence.detectable == pytest.approx(c, rel=0.02)
        found.append(evidence.log10_p <= -6 + 1e-9)
    assert sum(found) >= 39
