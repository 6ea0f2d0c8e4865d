"""The kind of a fine-tune, from parameters made by hand: the word, its figures, and where there is none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from netweight.measures.kind import KIND_COLUMNS, MODULE_COLUMNS, WORDS, Changed
from netweight.measures.kind_rules import kind_of
from netweight.measures.update import COLUMNS

LAYERS = 4
ROLES = ("q_proj", "k_proj", "down_proj")


def update(form, rank=None, gap=2.0, above=None, **fields):
    made = dict.fromkeys((c.name for c in COLUMNS), None) | {
        "update_form": form,
        "update_rank": rank,
        "update_gap": gap if rank else None,
        "update_above": rank if above is None else above,
        "update_effective_rank": 100.0,
        "update_noise_rank": 200.0,
        "update_block": [256, 512],
        "update_rows": 256,
        "update_reason": "hidden" if form == "unclear" else "",
    }
    return made | {f"update_{name}": value for name, value in fields.items()}


def model(**changes):
    """A model of 4 layers; `changes` {module: the update of each of its matrices, or True for vectors}."""
    held = [Changed("embed", "embedding", "", 1000, 0, matrix=True, top=True)]
    for i in range(LAYERS):
        held += [Changed(f"{i}.{role}", role, f"layer_{i}", 100, 0, matrix=True) for role in ROLES]
        held.append(Changed(f"{i}.norm", "norm", f"layer_{i}", 10, 0, matrix=False))
    held.append(Changed("head", "lm_head", "", 1000, 0, matrix=True, top=True))
    return [
        replace(p, changed=p.size // 2, update=None if changes[p.module] is True else changes[p.module])
        if p.module in changes
        else p
        for p in held
    ]


def everything(made):
    return model(**dict.fromkeys(("embedding", *ROLES, "lm_head"), made), norm=True)


def test_identical():
    kind = kind_of(model())
    assert (kind.word, kind.reason) == ("identical", "every value is the same")
    assert (kind.unchanged_percentage, kind.targets, kind.changed_parameters) == (100.0, (), 0)
    assert str(kind_of(model(), "80% of A, 90% of B")) == (
        "identical: every value is the same where compared (80% of A, 90% of B)"
    )


def test_nothing():
    assert str(kind_of([])) == "undecided: nothing was compared"


def test_adapter():
    kind = kind_of(model(q_proj=update("low rank", 16), k_proj=update("low rank", 16)))
    assert (kind.word, kind.rank, kind.targets) == ("adapter-like", 16, ("q_proj", "k_proj"))
    assert kind.reason == "rank 16 on q_proj, k_proj (2 of 3 matrices of a layer); 87.7% of the values unchanged"
    assert (kind.matrices, kind.looked_at, kind.parameters) == (8, 8, 18)


def test_adapter_beside_modules_that_are_trained_in_full():
    kind = kind_of(model(q_proj=update("low rank", 8), embedding=update("full"), norm=True))
    assert (kind.word, kind.rank) == ("adapter-like", 8)
    assert "rank 8 on q_proj (1 of 3 matrices of a layer), and embedding, norm changed too" in kind.reason


def test_adapter_that_scales_rows():
    kind = kind_of(model(q_proj=update("low rank", 8, scaled="rows")))
    assert kind.reason.startswith("rank 8, and rows scaled, on q_proj")


def test_adapter_whose_scaled_rows_are_not_seen_everywhere():
    held = model(**dict.fromkeys(ROLES, update("low rank", 8, scaled="rows")))
    some = [replace(p, update=update("full")) if p.name in ("0.q_proj", "1.q_proj") else p for p in held]
    assert kind_of(some).rank == 8, "two of twelve"
    unscaled = model(**dict.fromkeys(ROLES, update("low rank", 8)))
    some = [replace(p, update=update("full")) if p.name in ("0.q_proj", "1.q_proj") else p for p in unscaled]
    assert kind_of(some).word == "undecided"


def test_ranks_that_rounding_hides_in_part():
    held = model(q_proj=update("low rank", 16))
    hidden = replace(held[1], update=update("unclear", above=9))
    assert kind_of([held[0], hidden, *held[2:]]).rank == 16
    more = replace(held[1], update=update("unclear", above=17))
    assert kind_of([held[0], more, *held[2:]]).word == "undecided", "more than any adapter's rank"


def test_ranks_that_differ():
    ranks = {"q_proj": update("low rank", 4), "k_proj": update("low rank", 9)}
    kind = kind_of(model(**ranks))
    assert (kind.word, kind.rank) == ("adapter-like", None), "one rank for each kind of module"
    assert kind.reason.startswith("rank 4 to 9 on")
    held = [
        replace(p, update=update("low rank", 3 + i, gap=gap)) if p.changed else p
        for gap in (2.0, 50.0)
        for i, p in enumerate(model(q_proj=True, k_proj=True))
    ]
    narrow, wide = held[: len(held) // 2], held[len(held) // 2 :]
    assert kind_of(narrow).word == "undecided"
    assert "low rank, but of" in kind_of(narrow).reason
    assert (kind_of(wide).word, kind_of(wide).rank) == ("adapter-like", None), "nothing hides them"


def test_full():
    kind = kind_of(everything(update("full")))
    assert kind.reason == ("all tensors changed, effective rank 100 of at most 256; 50% of the values unchanged")
    assert kind.word == "full"
    noise = everything(update("full", effective_rank=199.0))
    assert "as flat as noise" in kind_of(noise).reason


def test_full_in_some_layers():
    held = [p if p.layer in ("", "layer_0") else replace(p, changed=0, update=None) for p in everything(update("full"))]
    held = [replace(p, changed=0) if p.top else p for p in held]
    assert kind_of(held).reason.startswith("4 of 18 tensors in layer_0 changed")


def test_hidden_by_rounding():
    unclear = update("unclear", above=2)
    kind = kind_of(everything(unclear))
    assert kind.word == "full", "embeddings, norms and all"
    assert "rounding hides its rank: 2 of 256 singular values" in kind.reason
    matrices = kind_of(model(**dict.fromkeys(ROLES, unclear)))
    assert (matrices.word, matrices.reason.partition(";")[0]) == ("undecided", "hidden")


def test_forms_that_do_not_agree():
    kind = kind_of(model(q_proj=update("low rank", 4), k_proj=update("full")))
    assert kind.word == "undecided"
    assert kind.reason.startswith("low rank on q_proj; full on k_proj")


@pytest.mark.parametrize(
    ("form", "fields", "said"),
    [
        ("sparse", {}, "50% of the values of changed matrices changed"),
        ("pruned", {}, "50% of the values of changed matrices became zero"),
        ("rounded", {}, "in another precision"),
        ("quantised", {}, "a grid of 4 bits or fewer"),
        ("scaled", {"scale": 0.9, "scaled": "all"}, "the base's values times 0.9"),
        ("scaled", {"scaled": "rows"}, "the base's values times numbers of their own for rows"),
    ],
)
def test_other_forms(form, fields, said):
    kind = kind_of(model(**dict.fromkeys(ROLES, update(form, **fields))))
    assert kind.word == form
    assert said in kind.reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lm_head": update("full")}, "only lm_head changed (effective rank 100 of at most 256)"),
        ({"embedding": update("low rank", 4)}, "only embedding changed"),
        ({"norm": True}, "only norm changed"),
        ({"k_proj": update("full")}, "only k_proj changed"),
    ],
)
def test_one_module(changes, said):
    kind = kind_of(model(**changes))
    assert (kind.word, kind.targets) == ("one module", tuple(changes))
    assert kind.reason.startswith(said)


def test_vectors_alone():
    held = [*model(norm=True), Changed("0.bias", "bias", "layer_0", 10, 10, matrix=False)]
    assert str(kind_of(held)).startswith("one module: only vectors changed: norm, bias")


def test_codes_of_a_quantisation():
    held = everything(update("full"))
    coded = kind_of([replace(p, quantised="Q4_K") for p in held])
    assert str(coded).startswith("quantised: stored as Q4_K, whose errors hide what else was changed")
    of_coded = kind_of([replace(p, of_quantised="NF4") for p in held])
    assert str(of_coded).startswith("undecided: the base is stored as NF4")


def test_values_that_are_not_finite():
    kind = kind_of(model(q_proj=update("unclear", reason="values that are NaN or infinite")))
    assert kind.reason.endswith("values that are NaN or infinite among them")


def test_its_fields():
    kind = kind_of(model(q_proj=update("low rank", 16), norm=True))
    fields = json.loads(json.dumps(kind.to_dict(), allow_nan=False))
    assert list(fields) == [*(c.name for c in KIND_COLUMNS), "modules"]
    assert fields["word"] in WORDS
    assert fields["modules"]["q_proj"] == {
        "parameters": 4,
        "changed_parameters": 4,
        "elements": 400,
        "unchanged_percentage": 50.0,
        "looked_at": 4,
        "forms": {"low rank": 4},
        "rank": 16,
        "effective_rank": 100.0,
        "of": 256,
    }
    assert all(list(m) == [c.name for c in MODULE_COLUMNS] for m in fields["modules"].values())
    assert fields["modules"]["lm_head"]["effective_rank"] is None
