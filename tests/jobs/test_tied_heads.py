"""A head that no file holds, since it is the embedding: counted once, or as often as tools do that load the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import netweight

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
UP = "model.layers.0.mlp.up_proj.weight"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": True,
    "num_hidden_layers": 1,
}


def tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {EMBEDDING: rng.normal(size=(32, 8)).astype("f4"), UP: rng.normal(size=(16, 8)).astype("f4")}


def put(folder: Path, held: dict[str, np.ndarray], **config: object) -> Path:
    folder.mkdir()
    save_file(held, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def norm(*differences: np.ndarray) -> float:
    return float(np.sqrt(sum(np.square(d.astype("f8")).sum() for d in differences)))


@pytest.fixture
def tied(tmp_path):
    base, tuned = tensors(0), tensors(1)
    return put(tmp_path / "base", base), put(tmp_path / "tuned", tuned), {n: tuned[n] - base[n] for n in base}


def test_delta_counts_the_head_once_or_twice(tied):
    base, tuned, moved = tied
    once = netweight.delta(base, [tuned]).models[0].summary
    twice = netweight.delta(base, [tuned], count_tied_twice=True).models[0].summary
    assert once["global_l2"] == pytest.approx(norm(*moved.values()), rel=1e-12)
    assert twice["global_l2"] == pytest.approx(norm(moved[EMBEDDING], *moved.values()), rel=1e-12)
    assert once["groups"]["lm_head"]["l2"] == 0
    assert twice["groups"]["lm_head"]["l2"] == pytest.approx(norm(moved[EMBEDDING]), rel=1e-12)
    assert (once["elements"], twice["elements"]) == (384, 640)
    assert "skipped" in once
    assert once["skipped"] == twice["skipped"] == []


def test_delta_says_that_ties_count_once(tied):
    base, tuned, _ = tied
    [note] = netweight.delta(base, [tuned]).notes
    assert f"the head is '{EMBEDDING}', and counts once" in note
    assert "--count-tied-twice" in note
    assert netweight.delta(base, [tuned], count_tied_twice=True).notes == ()


def test_compare_counts_the_head_once_or_twice(tied):
    base, tuned, moved = tied
    once, twice = netweight.compare(base, tuned), netweight.compare(base, tuned, count_tied_twice=True)
    assert once.totals["l2_distance"] == pytest.approx(norm(*moved.values()), rel=1e-12)
    assert twice.totals["l2_distance"] == pytest.approx(norm(moved[EMBEDDING], *moved.values()), rel=1e-12)
    assert twice["layer_comparisons"][HEAD] == twice["layer_comparisons"][EMBEDDING]
    assert HEAD not in once["layer_comparisons"]
    assert once.coverage == twice.coverage == (1.0, 1.0)


def test_scan_measures_the_head_where_asked(tied):
    base, _, _ = tied
    assert HEAD not in netweight.scan(base)
    twice = netweight.scan(base, count_tied_twice=True)
    assert twice[HEAD] == twice[EMBEDDING]
    assert next(row for row in twice.rows if row.name == HEAD).parameter.role == "output"


def test_an_untied_model_against_a_tied_one(tied, tmp_path):
    """transformers gives the tied model's head the values of its embedding."""
    base, _, _ = tied
    own = tensors(2)
    own[HEAD] = np.random.default_rng(3).normal(size=(32, 8)).astype("f4")
    untied = put(tmp_path / "untied", own, tie_word_embeddings=False)
    was = tensors(0)
    expected = norm(own[EMBEDDING] - was[EMBEDDING], own[UP] - was[UP], own[HEAD] - was[EMBEDDING])
    for a, b in ((base, untied), (untied, base)):
        found = netweight.compare(a, b)
        assert found["only_in_model1"] == found["only_in_model2"] == []
        assert found.totals["l2_distance"] == pytest.approx(expected, rel=1e-12)
        summary = netweight.delta(a, [b]).models[0].summary
        assert summary["global_l2"] == pytest.approx(expected, rel=1e-12)
        assert "measured_share" not in summary
    assert netweight.compare(untied, base).coverage == (1.0, 1.0)


@pytest.mark.parametrize(
    ("base_name", "tuned_name", "model_type"),
    [
        ("transformer.wte.weight", "wte.weight", "gpt2"),
        ("language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "gemma3"),
        ("shared.weight", "shared.weight", "t5"),
    ],
)
def test_heads_of_other_families(tmp_path, base_name, tuned_name, model_type):
    """Heads meet also where the names of the embeddings differ; these families tie by default."""
    sides = []
    for seed, name in enumerate((base_name, tuned_name)):
        stem = name.removesuffix("wte.weight") if "wte" in name else name.removesuffix("embed_tokens.weight")
        other = "encoder.block.0.layer.0.SelfAttention.q.weight" if "shared" in name else f"{stem}h.0.mlp.c_fc.weight"
        held = tensors(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        save_file({name: held[EMBEDDING], other: held[UP]}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        sides.append(folder)
    summary = netweight.delta(sides[0], [sides[1]], count_tied_twice=True).models[0].summary
    a, b = tensors(0), tensors(1)
    moved = {n: b[n] - a[n] for n in a}
    assert summary["global_l2"] == pytest.approx(norm(moved[EMBEDDING], *moved.values()), rel=1e-12)


def test_a_base_class_has_no_head(tmp_path):
    """BertModel and LlamaModel yield hidden states."""
    sides = [put(tmp_path / str(seed), tensors(seed), architectures=["LlamaModel"]) for seed in (0, 1)]
    once, twice = (netweight.delta(*sides, count_tied_twice=c).models[0].summary for c in (False, True))
    assert once["global_l2"] == twice["global_l2"]
    assert once["n_params_considered"] == twice["n_params_considered"] == 2


def test_a_head_stored_beside_the_embedding_that_config_ties(tmp_path):
    """Whether they are equal takes reading them: both count, and a note says so."""
    sides = []
    for seed in (0, 1):
        held = tensors(seed)
        sides.append(put(tmp_path / str(seed), held | {HEAD: held[EMBEDDING].copy()}))
    found = netweight.delta(sides[0], [sides[1]])
    assert found.models[0].summary["n_params_considered"] == 3
    assert any("and the file holds both: both count" in note for note in found.notes)


def test_one_side_holds_every_name_and_the_other_one(tmp_path):
    """PyTorch's files hold all names of a tensor, T5's embedding has four: the other side counts as often."""
    torch = pytest.importorskip("torch")
    sides = []
    for seed in (0, 1):
        held = tensors(seed)
        shared, other = held[EMBEDDING], held[UP]
        files = {"shared.weight": shared, "encoder.block.0.layer.0.SelfAttention.q.weight": other}
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
        if seed:
            save_file(files, folder / "model.safetensors")
        else:
            state = {name: torch.from_numpy(array) for name, array in files.items()}
            state |= {f"{place}.embed_tokens.weight": state["shared.weight"] for place in ("encoder", "decoder")}
            torch.save(state | {"lm_head.weight": state["shared.weight"]}, folder / "pytorch_model.bin")
        sides.append(folder)
    a, b = tensors(0), tensors(1)
    moved = {name: b[name] - a[name] for name in a}
    for base, tuned in (sides, sides[::-1]):
        for counted, times in ((False, 1), (True, 4)):
            found = netweight.delta(base, [tuned], count_tied_twice=counted)
            expected = norm(*[moved[EMBEDDING]] * times, moved[UP])
            assert found.models[0].summary["global_l2"] == pytest.approx(expected, rel=1e-12)
            assert found.coverage == ((1.0, 1.0),)
            compared = netweight.compare(base, tuned, count_tied_twice=counted)
            assert compared.totals["l2_distance"] == pytest.approx(expected, rel=1e-12)
            assert compared.coverage == (1.0, 1.0)


def test_a_stored_head_under_a_name_that_says_nothing(tmp_path):
    """XLNet's head is `lm_loss`: shared with the embedding, it is no head that is lacking."""
    torch = pytest.importorskip("torch")
    sides = []
    for seed in (0, 1):
        held = torch.from_numpy(tensors(seed)[EMBEDDING])
        folder = tmp_path / str(seed)
        folder.mkdir()
        torch.save({"transformer.word_embedding.weight": held, "lm_loss.weight": held}, folder / "pytorch_model.bin")
        config = {"model_type": "xlnet", "architectures": ["XLNetLMHeadModel"], "tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps(config))
        sides.append(folder)
    moved = tensors(1)[EMBEDDING] - tensors(0)[EMBEDDING]
    for counted, times in ((False, 1), (True, 2)):
        summary = netweight.delta(sides[0], [sides[1]], count_tied_twice=counted).models[0].summary
        assert summary["global_l2"] == pytest.approx(norm(*[moved] * times), rel=1e-12)


@pytest.mark.parametrize(
    ("architecture", "rows"),
    [
        ("MarianMTModel", 2),
        ("ElectraForPreTraining", 1),
        ("BertForSequenceClassification", 1),
        ("AlbertForMaskedLM", 2),
    ],
)
def test_classes_with_a_head_of_tokens(tmp_path, architecture, rows):
    """The config of ALBERT and ELECTRA says nothing of ties: their classes tie."""
    held = {"embeddings.word_embeddings.weight": tensors(0)[EMBEDDING]}
    folder = put(tmp_path / "m", held, architectures=[architecture], model_type="albert")
    assert len(netweight.scan(folder, count_tied_twice=True)) == rows
