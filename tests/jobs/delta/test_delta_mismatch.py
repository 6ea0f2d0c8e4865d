"""Bases and models that do not fit: everything measurable is measured, everything else listed with its reason."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from task_vectors import check_row, normal, read_cosines, read_rows, save, strict_json, tree, tuned
from task_vectors import netweight as program

import netweight
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.errors import InputError, NetweightError, OptionError


def measured(tmp_path, base, *models, **options):
    """Run delta over arrays; [(rows, summary)] of each model."""
    save(tmp_path / "base", base)
    paths = [save(tmp_path / f"m{i}", m) for i, m in enumerate(models)]
    netweight.delta(tmp_path / "base", paths, tmp_path / "out", **options)
    found = []
    for path in paths:
        where = tmp_path / "out" / path.name
        summary = strict_json((where / "summary.json").read_text())
        found.append((read_rows(where / "per_param_stats.csv"), summary))
    return found


def reasons(summary):
    assert summary["skipped_params"] == len(summary["skipped"])
    return {s["name"]: s["reason"] for s in summary["skipped"]}


def test_missing_extra_misshapen_and_not_floats(tmp_path):
    base = {
        "good": normal((4, 5)),
        "wide": normal((4, 5), seed=1),
        "gone": normal(3),
        "whole": np.arange(6, dtype=np.int64),
        "mask": np.ones(4, bool),
        "wave": np.ones(3, np.complex64),
        "quantized": normal(8, seed=2),
    }
    model = {**tuned(base, 1), "wide": normal((5, 4)), "quantized": np.arange(8, dtype=np.uint8), "extra": normal(2)}
    del model["gone"]
    [(rows, summary)] = measured(tmp_path, base, model)
    assert list(rows) == ["good"]
    check_row(rows["good"], base["good"], model["good"])
    assert summary["n_params_considered"] == 1
    assert reasons(summary) == {
        "wide": "shape [4, 5] in the base, [5, 4] in the model",
        "gone": f"missing in {tmp_path / 'm0'}",
        "whole": "integer dtype I64: not a weight (in the base)",
        "mask": "boolean dtype BOOL: not a weight (in the base)",
        "wave": "complex dtype C64: not measured (in the base)",
        "quantized": "integer dtype U8: not a weight (in the model)",
        "extra": f"missing in base {tmp_path / 'base'}",
    }


def test_non_finite_values_are_counted_and_flagged(tmp_path):
    base = {n: normal(1000, seed=i) for i, n in enumerate(("nan", "inf", "base", "all", "fine"))}
    model = tuned(base, 1)
    model["nan"][[1, 5]] = np.nan
    model["inf"][3] = -np.inf
    base["base"][7] = np.inf
    model["base"][7] = np.inf  # inf - inf is NaN
    model["all"][:] = np.nan
    [(rows, summary)] = measured(tmp_path, base, model)
    for name, row in rows.items():
        check_row(row, base[name], model[name])
    assert {n: (r["n_nan"], r["n_inf"]) for n, r in rows.items()} == {
        "nan": (2, 0), "inf": (0, 1), "base": (1, 0), "all": (1000, 0), "fine": (0, 0),
    }  # fmt: skip
    assert (summary["n_nan"], summary["n_inf"]) == (1003, 1)
    assert {f["name"]: f["flag"] for f in summary["flagged"]} == {
        "nan": "non-finite", "inf": "non-finite", "base": "non-finite", "all": "nothing finite",
    }  # fmt: skip


def test_scalars_empty_tensors_and_five_dimensions(tmp_path):
    base = {
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 7), np.float32),
        "one": np.ones((1, 1), ml_dtypes.bfloat16),
        "five": normal((2, 3, 4, 5, 6), "float16"),
    }
    model = {**tuned(base, 1, 0.1), "scalar": np.array(-2.25, np.float32), "empty": base["empty"]}
    [(rows, summary)] = measured(tmp_path, base, model)
    for name, row in rows.items():
        if name != "empty":
            check_row(row, base[name], model[name])
    assert (rows["scalar"]["q50"], rows["scalar"]["std"], rows["scalar"]["shape"]) == (-3.75, 0, "[]")
    assert rows["empty"]["flag"] == "empty"
    assert (rows["empty"]["l2"], rows["empty"]["mean"], rows["empty"]["unchanged_percentage"]) == (0, None, None)
    assert summary["flagged"] == [{"name": "empty", "flag": "empty"}]
    assert summary["elements"] == 1 + 1 + 720


def test_types_that_differ_between_the_models(tmp_path):
    kinds = ("float32", "float16", "float64", ml_dtypes.float8_e4m3fn)
    base = {f"p{i}": normal((50, 40), "bfloat16", seed=i) for i in range(3)}
    models = [{n: a.astype(kind) for n, a in tuned({n: a.astype("f8") for n, a in base.items()}, i, 0.01).items()}
        for i, kind in enumerate(kinds)]  # fmt: skip
    found = measured(tmp_path, base, *models)
    wide = {n: a.astype("f8") for n, a in base.items()}
    for (rows, _), model in zip(found, models, strict=True):
        for name, row in rows.items():
            # one float64 model makes the whole parameter float64: exact differences for all of them
            check_row(row, wide[name], model[name])
    table = netweight.delta(tmp_path / "base", [tmp_path / "m1"]).frame
    assert set(table.column("base_dtype")) == {"BF16"}
    assert set(table.column("model_dtype")) == {"F16"}


def test_a_parameter_of_only_one_model(tmp_path):
    base = {"both": normal((30, 30)), "first": normal((20, 20), seed=1), "second": normal(50, seed=2)}
    models = [{n: a for n, a in tuned(base, i).items() if n in keep} for i, keep in enumerate(
        ({"both", "first"}, {"both", "second"}, {"first"}))]  # fmt: skip
    found = measured(tmp_path, base, *models)
    for (rows, _), model in zip(found, models, strict=True):
        assert rows.keys() == model.keys()
        for name, row in rows.items():
            check_row(row, base[name], model[name])
    from task_vectors import cosine, is_close

    _, cosines = read_cosines(tmp_path / "out" / "pairwise_cosines.csv")
    for i in range(3):
        for j in range(i):
            assert is_close(cosines[i][j], cosine(base, models[i], models[j]))
    assert cosines[2][1] == 0.0  # nothing in common, yet both moved
    result = netweight.delta(tmp_path / "base", [tmp_path / f"m{i}" for i in range(3)])
    gram = dict(zip(zip(result.frame.column("model"), result.frame.column("param"), strict=True),
        result.frame.column("gram"), strict=True))  # fmt: skip
    assert gram["m0", "first"][1] == 0.0
    x = (models[0]["first"] - base["first"]).astype("f8").ravel()
    y = (models[2]["first"] - base["first"]).astype("f8").ravel()
    assert gram["m0", "first"][2] == pytest.approx(x @ y, rel=1e-12, abs=1e-18)
    assert gram["m0", "first"][0] == pytest.approx(x @ x, rel=1e-12)


def test_another_architecture(tmp_path, monkeypatch):
    """No name in common: said before any data is read."""
    save(tmp_path / "base", {"model.layers.0.mlp.up_proj.weight": normal((4, 4))})
    save(tmp_path / "other", {"transformer.h.0.attn.c_attn.weight": normal((4, 4))})
    save(tmp_path / "bent", {"model.layers.0.mlp.up_proj.weight": normal((4, 5))})
    (tmp_path / "none").mkdir()
    (tmp_path / "text.safetensors").write_text("no weights")
    monkeypatch.setattr(StoredTensor, "read_into", lambda *_: pytest.fail("tensor data was read"))
    for base, model, said in [
        ("base", "other", "share no parameter: 'model.layers.0.mlp.up_proj.weight' against 'transformer.h.0.attn"),
        ("other", "base", "share no parameter: "),
        ("base", "bent", "share names but no usable parameter: 'model.layers.0.mlp.up_proj.weight': shape [4, 4]"),
        ("none", "base", "none"),
        ("text.safetensors", "base", "text.safetensors"),
        ("missing", "base", "missing"),
        ("base", "missing", "missing"),
    ]:
        with pytest.raises(InputError) as caught:
            netweight.delta(tmp_path / base, [tmp_path / model], tmp_path / "out")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_partly_another_architecture_is_measured_and_said(tmp_path):
    base = {f"model.layers.{i}.mlp.up_proj.weight": normal((4, 4), seed=i) for i in range(9)}
    model = {n: tuned(base, 1)[n] if i < 3 else normal((8, 8)) for i, n in enumerate(base)}
    [(rows, summary)] = measured(tmp_path, base, model)
    assert len(rows) == 3
    assert len(reasons(summary)) == 6
    done = program("delta", "--base", tmp_path / "base", "--models", tmp_path / "m0", "--outdir", tmp_path / "again")
    assert "only 3 of 9 parameters of" in done.stdout.replace("\n", " ")


def test_tied_weights_count_once_or_twice(tmp_path):
    weight = torch.from_numpy(normal((40, 8)))
    for i, name in enumerate(("base.pt", "tuned.pt")):
        moved = weight + i * torch.from_numpy(normal((40, 8), seed=5))
        torch.save({"model.embed_tokens.weight": moved, "lm_head.weight": moved, "norm.weight": moved[0].clone()},
            tmp_path / name)  # fmt: skip
    once = netweight.delta(tmp_path / "base.pt", [tmp_path / "tuned.pt"])
    twice = netweight.delta(tmp_path / "base.pt", [tmp_path / "tuned.pt"], count_tied_twice=True)
    assert once.frame.column("param") == ["model.embed_tokens.weight", "norm.weight"]
    assert reasons(once.models[0].summary) == {"lm_head.weight": "tied to model.embed_tokens.weight: counted once"}
    assert twice.frame.column("param") == ["model.embed_tokens.weight", "lm_head.weight", "norm.weight"]
    assert twice.models[0].summary["skipped"] == []
    assert (once.models[0].summary["elements"], twice.models[0].summary["elements"]) == (328, 648)


def test_options_that_cannot_be(tmp_path):
    save(tmp_path / "m", {"a": normal(4)})
    with pytest.raises(OptionError, match="--models: expected one or more"):
        netweight.delta(tmp_path / "m", [])
    with pytest.raises(OptionError, match=r"--memory 1 MiB: this job needs at least \d+ MiB for one worker"):
        netweight.delta(tmp_path / "m", [tmp_path / "m"], memory=1 << 20)
    with pytest.raises(OptionError, match="--workers 0: expected 1 or more"):
        netweight.delta(tmp_path / "m", [tmp_path / "m"], workers=0)
    with pytest.raises(NetweightError, match=r"no parameter of .* is left by --include zzz"):
        netweight.delta(tmp_path / "m", [tmp_path / "m"], include=("zzz",))
    assert set(tree(tmp_path)) == {"m/model.safetensors"}
