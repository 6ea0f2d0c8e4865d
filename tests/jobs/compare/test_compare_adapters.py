"""Adapters side by side, scanned and described, against numpy on their products."""

from __future__ import annotations

import json

import numpy as np
import pytest

import netweight
from netweight.errors import InputError
from netweight.jobs.scan import plots

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

Q = "model.layers.0.self_attn.q_proj"
WEIGHT = torch.randn((20, 24), generator=torch.Generator().manual_seed(1))
BASE = {f"{Q}.weight": WEIGHT, "model.norm.weight": torch.ones(24)}


def factors(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((20, rank), generator=generator), torch.randn((rank, 24), generator=generator)


def adapter(folder, b, a, alpha=8, base="base"):
    folder.mkdir(parents=True)
    held = {f"base_model.model.{Q}.lora_{side}.weight": t.contiguous() for side, t in (("A", a), ("B", b))}
    save_file(held, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": len(a), "lora_alpha": alpha, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(about | {"target_modules": ["q_proj"]}))
    return folder


def base_model(folder):
    folder.mkdir()
    save_file(BASE, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def product(b, a, alpha=8):
    return alpha / len(a) * (b.double() @ a.double()).numpy()


def test_two_adapters_by_what_they_add(tmp_path):
    """Not by their factors, which say nothing of the scale and are not unique."""
    one, other = factors(3, 2), factors(5, 3)
    x, y = product(*one), product(*other, alpha=20)
    result = netweight.compare(adapter(tmp_path / "a", *one), adapter(tmp_path / "b", *other, alpha=20))
    fields = result["layer_comparisons"][f"{Q}.weight"]
    assert fields["l2_distance"] == pytest.approx(np.linalg.norm(y - x), rel=1e-9)
    assert fields["cosine_similarity"] == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-9)
    assert fields["mean_diff"] == pytest.approx(y.mean() - x.mean(), rel=1e-9)
    assert fields["max_absolute_difference"] == pytest.approx(np.abs(y - x).max(), rel=1e-6)
    for space, matrices in (("column", (x, y)), ("row", (x.T, y.T))):
        bases = [np.linalg.svd(m)[0][:, :r] for m, r in zip(matrices, (3, 5), strict=True)]
        cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
        assert np.allclose(fields[f"{space}_cosines"], cosines, atol=1e-9)
        assert fields[f"{space}_overlap"] == pytest.approx(np.square(cosines).mean(), abs=1e-9)
    assert not result.parameters[0].quantised
    assert any("a LoRA without its base: 1 update" in note for note in result.notes)


def test_one_update_in_other_factors_is_the_same(tmp_path):
    """Twice the alpha of half the factor: nothing differs."""
    b, a = factors(3, 2)
    result = netweight.compare(adapter(tmp_path / "a", b, a), adapter(tmp_path / "b", b / 2, a, alpha=16))
    fields = result["layer_comparisons"][f"{Q}.weight"]
    assert (fields["l2_distance"], fields["identical_percentage"]) == (0, 100)
    assert fields["column_overlap"] == pytest.approx(1)


def test_an_adapter_beside_its_base(tmp_path):
    """It is read on the base that its file names; a weight with an adapter is not called quantised."""
    base, (b, a) = base_model(tmp_path / "base"), factors(3, 2)
    lora = adapter(tmp_path / "base" / "lora", b, a, base=str(base))
    result = netweight.compare(base, lora)
    fields = result["layer_comparisons"][f"{Q}.weight"]
    assert fields["l2_distance"] == pytest.approx(np.linalg.norm(product(b, a)), rel=1e-6)
    assert result.quantisation is None
    assert "column_overlap" not in fields
    again = netweight.compare(base, f"{base}+{lora}")
    assert again["layer_comparisons"] == result["layer_comparisons"]


def test_a_scan_of_an_adapter_is_of_its_updates(tmp_path):
    """The spectrum from the factors: as many values as the rank, the others exactly zero."""
    b, a = factors(3, 2)
    fields = netweight.scan(adapter(tmp_path / "a", b, a), methods="all")[f"{Q}.weight"]
    dense = product(b, a)
    values = np.linalg.svd(dense, compute_uv=False)
    spectral = fields["spectral"]
    assert spectral["max_singular_value"] == pytest.approx(values[0], rel=1e-9)
    assert spectral["stable_rank"] == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-9)
    assert spectral["nuclear_norm"] == pytest.approx(values[:3].sum(), rel=1e-9)
    assert spectral["actual_rank"] == 3
    assert spectral["singular"]
    assert fields["basic_stats"]["std"] == pytest.approx(dense.std(), rel=1e-6)


def test_pictures_say_that_they_are_of_an_update(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "weight_distribution", lambda _path, name, *_, under, **__: drawn.append((name, under)))
    b, a = factors(3, 5)
    netweight.scan(adapter(tmp_path / "a", b, a), plots=tmp_path / "plots")
    assert drawn == [(f"{Q}.weight", "q_proj, 20 x 24, LoRA r3")]


def test_info_says_what_an_adapter_is(tmp_path):
    base, (b, a) = base_model(tmp_path / "base"), factors(3, 2)
    about = netweight.info(adapter(tmp_path / "a", b, a, base=str(base))).adapter
    assert (about.kind, about.base, about.targets) == ("LoRA", str(base), {"q_proj": 1})
    assert (about.ranks, about.scales) == ({3: 1}, {8 / 3: 1})
    assert about.parameters == 3 * (20 + 24)
    assert about.base_share == pytest.approx(132 / (480 + 24))
    assert netweight.info(adapter(tmp_path / "b", b, a)).adapter.base_share is None
    assert netweight.info(base).adapter is None
    (tmp_path / "b" / "adapter_config.json").write_text(json.dumps({"peft_type": "OFT"}))
    broken = netweight.info(tmp_path / "b")
    assert broken.adapter is None
    assert any("an adapter of kind OFT, expected one of LoRA" in note for note in broken.notes)


def test_a_kind_that_depends_on_the_base_beside_one_that_does_not(tmp_path):
    b, a = factors(3, 2)
    dora = adapter(tmp_path / "dora", b, a)
    held = {f"base_model.model.{Q}.lora_A.weight": a, f"base_model.model.{Q}.lora_B.weight": b}
    held[f"base_model.model.{Q}.lora_magnitude_vector"] = torch.ones(20)
    save_file(held, dora / "adapter_model.safetensors")
    with pytest.raises(
        InputError, match=r"dora: what LoRA changes depends on the base, the other's does not: give BASE"
    ):
        netweight.compare(adapter(tmp_path / "lora", b, a), dora)
    result = netweight.compare(dora, dora)
    assert len(result.identical) == 3
    assert any("measured as it is stored" in note for note in result.notes)
