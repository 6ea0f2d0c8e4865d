"""Task vectors of adapters, by their factors: against numpy on the dense products in float64."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import netweight
from netweight.errors import InputError, OptionError

torch = pytest.importorskip("torch")
from lora_models import factors_of, numbers, write_adapter, write_model  # noqa: E402

AT = "model.layers.0"
SHAPES = {f"{AT}.self_attn.q_proj": (20, 24), f"{AT}.mlp.down_proj": (24, 36), "lm_head": (50, 24)}
CONFIG = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 24}


def base_tensors(dtype):
    held = {f"{name}.weight": numbers(*shape, seed=1, scale=0.1).to(dtype) for name, shape in SHAPES.items()}
    return held | {"model.norm.weight": torch.ones(24, dtype=dtype)}


def model(folder, tensors):
    return write_model(folder, tensors, CONFIG)


def factors(seed, rank):
    return factors_of({name: shape for name, shape in SHAPES.items() if "proj" in name}, seed, rank)


def adapter(folder, held, alpha=4, more=None):
    return write_adapter(folder, held, alpha=alpha, more=more)


def products(held, alpha=4):
    return {name: alpha / b.shape[1] * (b.double() @ a.double()).numpy() for name, (b, a) in held.items()}


@pytest.fixture
def two(tmp_path):
    one, other = factors(2, 3), factors(4, 5)
    return (adapter(tmp_path / "one", one), adapter(tmp_path / "two", other)), (products(one), products(other))


def cosine(first, second):
    dot = sum((first[name] * second[name]).sum() for name in first)
    norms = [np.sqrt(sum((held**2).sum() for held in vector.values())) for vector in (first, second)]
    return dot / norms[0] / norms[1]


def test_without_a_base_only_the_factors_are_read(tmp_path, two):
    """Norms, cosines and singular values to 1e-9; what takes the elements is empty, not zero."""
    folders, dense = two
    result = netweight.delta(None, folders, tmp_path / "o")
    assert result.cosines[0][1] == pytest.approx(cosine(*dense), rel=1e-9, abs=1e-12)
    table = {(row["model"], row["param"]): row for row in pq.read_table(tmp_path / "o" / "delta.parquet").to_pylist()}
    for number, (name, products_) in enumerate(zip(("one", "two"), dense, strict=True)):
        whole = np.sqrt(sum((held**2).sum() for held in products_.values()))
        summary = result.models[number].summary
        assert summary["global_l2"] == pytest.approx(whole, rel=1e-9)
        assert (summary["relative_l2"], summary["base_l2"], summary["global_l1"]) == (None, None, None)
        for param, held in products_.items():
            row = table[name, f"{param}.weight"]
            values = np.linalg.svd(held, compute_uv=False)
            rank = (3, 5)[number]
            shares = values[:rank] / values[:rank].sum()
            assert row["l2"] == pytest.approx(np.linalg.norm(held), rel=1e-9)
            assert row["factor_rank"] == rank
            assert np.allclose(row["singular_values"], values[:rank], rtol=1e-9)
            assert row["sigma_1"] == pytest.approx(values[0], rel=1e-9)
            assert row["stable_rank"] == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-9)
            assert row["entropy_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
            assert (row["maxabs"], row["q50"], row["unchanged_percentage"]) == (None, None, None)
    assert not (tmp_path / "o" / "one" / "top50_by_maxabs.csv").exists()
    assert any("from their factors" in note for note in result.notes)


def test_an_orthogonal_matrix_between_the_factors_changes_nothing(tmp_path, two):
    folders, _ = two
    between, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
    between = torch.from_numpy(between).float()
    held = {name: (b @ between, between.T @ a) for name, (b, a) in factors(2, 3).items()}
    turned = adapter(tmp_path / "turned", held)
    result = netweight.delta(None, [folders[0], turned])
    assert result.cosines[0][1] == pytest.approx(1, abs=1e-9)
    norms = [model.summary["global_l2"] for model in result.models]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)  # the factors were rounded to float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_a_base_adapters_and_dense_models_are_compared(tmp_path, two, dtype):
    """Inner products of adapters, and of adapters with dense fine-tunes, from the factors; all else from blocks."""
    folders, dense = two
    before = base_tensors(dtype)
    base = model(tmp_path / "base", before)
    after = {
        name: (tensor.float() + numbers(*tensor.shape, seed=9, scale=0.01)).to(dtype) for name, tensor in before.items()
    }
    tuned = model(tmp_path / "tuned", after)
    result = netweight.delta(base, [*folders, tuned], tmp_path / "o")
    changes = {name: after[name].double().numpy() - before[name].double().numpy() for name in before}
    norms = [np.sqrt(sum((h**2).sum() for h in d.values())) for d in (*dense, changes)]
    for i, first in enumerate(dense):
        assert result.models[i].summary["global_l2"] == pytest.approx(norms[i], rel=1e-9)
        dot = sum((held * changes[f"{name}.weight"]).sum() for name, held in first.items())
        assert result.cosines[i][2] == pytest.approx(dot / norms[i] / norms[2], rel=1e-7, abs=1e-9)
    assert result.cosines[0][1] == pytest.approx(cosine(*dense), rel=1e-9, abs=1e-12)
    rows = {(row["model"], row["param"]): row for row in pq.read_table(tmp_path / "o" / "delta.parquet").to_pylist()}
    row = rows["one", f"{AT}.self_attn.q_proj.weight"]
    update = dense[0][f"{AT}.self_attn.q_proj"]
    weight = before[f"{AT}.self_attn.q_proj.weight"].double().numpy()
    assert row["relative_l2"] == pytest.approx(np.linalg.norm(update) / np.linalg.norm(weight), rel=1e-9)
    assert row["maxabs"] == pytest.approx(np.abs(update).max(), rel=1e-4)
    assert row["q50"] == pytest.approx(np.median(update), abs=1e-6)
    assert row["factor_rank"] == 3
    assert rows["tuned", f"{AT}.self_attn.q_proj.weight"]["factor_rank"] is None
    assert rows["one", "lm_head.weight"]["unchanged_percentage"] == 100


def test_two_adapters_on_one_base_are_one_update(tmp_path, two):
    folders, dense = two
    base = model(tmp_path / "base", base_tensors(torch.float32))
    result = netweight.delta(base, [f"{base}+{folders[0]}+{folders[1]}"])
    both = {name: dense[0][name] + dense[1][name] for name in dense[0]}
    whole = np.sqrt(sum((held**2).sum() for held in both.values()))
    assert result.models[0].summary["global_l2"] == pytest.approx(whole, rel=1e-9)
    spectra = [parameter.spectrum(0)["factor_rank"] for parameter in result.parameters]
    assert [rank for rank in spectra if rank is not None] == [8, 8]


def test_a_resumed_run_gives_the_same_bytes(tmp_path, two):
    folders, _ = two
    base = model(tmp_path / "base", base_tensors(torch.float32))
    first = netweight.delta(base, folders, tmp_path / "a", workers=1).to_dict()
    second = netweight.delta(base, folders, tmp_path / "b", workers=2).to_dict()
    assert first == second
    assert (tmp_path / "a" / "delta.parquet").read_bytes() == (tmp_path / "b" / "delta.parquet").read_bytes()


def test_what_takes_the_base(tmp_path, two):
    """Kinds whose updates depend on it, tensors trained whole, models."""
    folders, _ = two
    dora = {f"base_model.model.{AT}.mlp.down_proj.lora_magnitude_vector": torch.ones(24)}
    with pytest.raises(InputError, match=r"what LoRA changes depends on the base.*or --base"):
        netweight.delta(None, adapter(tmp_path / "dora", factors(2, 3), more=dora))
    base = model(tmp_path / "base", base_tensors(torch.float32))
    with pytest.raises(OptionError, match=r"--base: is missing, and .* is no adapter"):
        netweight.delta(None, [*folders, base])
    saved = adapter(tmp_path / "saved", factors(2, 3), more={"base_model.model.lm_head.weight": numbers(50, 24)})
    result = netweight.delta(None, saved)
    assert [(s.name, s.reason) for s in result.models[0].skipped] == [
        ("lm_head.weight", "trained whole: what it changed takes the base")
    ]
    with pytest.raises(OptionError):
        netweight.delta(None, folders, include="nothing*")
    found = netweight.delta(None, folders, include="*q_proj*")
    assert [p.aligned.name for p in found.parameters] == [f"{AT}.self_attn.q_proj.weight"]


def test_nan_in_an_adapter_is_no_number(tmp_path, two):
    held = factors(2, 3)
    held[f"{AT}.mlp.down_proj"][0][0, 0] = float("nan")
    result = netweight.delta(None, [two[0][1], adapter(tmp_path / "nan", held)])
    assert result.models[1].summary["global_l2"] is None
    assert result.models[1].summary["flagged"] == [{"name": f"{AT}.mlp.down_proj.weight", "flag": "non-finite"}]
    assert result.cosines[0][1] is None


CHESS = ("model_adapter_model@031004", "model_penalized_adapter_model@0c7b2a")
IA3 = "huggingface__peft__examples_conditional_generation_bigscience_mt0-large_IA3_SEQ_2_SEQ_LM"
SETTINGS = {
    "chess": "chetanreddyv__ChessGPT__model_adapter_config@82ad3d.json",
    "score": "anirudh-ak__peft-gpt2__model_lora_model_adapter_config.json",
    "ia3": f"{IA3}_adapter_config@a346e8.json",
}  # fmt: skip


def published(folder, realweights, file, config):
    """A published adapter as a folder of PEFT's."""
    folder.mkdir()
    suffix = ".bin" if file.endswith(".bin") else ".safetensors"
    (folder / f"adapter_model{suffix}").write_bytes((realweights / file).read_bytes())
    (folder / "adapter_config.json").write_bytes((realweights / "json" / SETTINGS[config]).read_bytes())
    return folder


def test_published_adapters(tmp_path, realweights):
    """GPT-2's, whose weights lie the other way round; one with a head that was trained whole; vectors of IA3."""
    from safetensors.torch import load_file

    files = [f"chetanreddyv__ChessGPT__{name}.safetensors" for name in CHESS]
    folders = [published(tmp_path / str(i), realweights, file, "chess") for i, file in enumerate(files)]
    result = netweight.delta(None, folders)
    dense = []
    for file in files:
        held = {name: tensor.double().numpy() for name, tensor in load_file(realweights / file).items()}
        modules = {name.partition(".lora_")[0] for name in held}
        dense.append({m: 4 * held[f"{m}.lora_B.weight"] @ held[f"{m}.lora_A.weight"] for m in modules})
    assert result.cosines[0][1] == pytest.approx(cosine(*dense), rel=1e-9)
    for model_, products_ in zip(result.models, dense, strict=True):
        whole = np.sqrt(sum((held**2).sum() for held in products_.values()))
        assert model_.summary["global_l2"] == pytest.approx(whole, rel=1e-9)
    score = published(
        tmp_path / "score", realweights, "anirudh-ak__peft-gpt2__model_lora_model_adapter_model.safetensors", "score"
    )
    about = netweight.info(score).adapter
    assert (about.targets, about.ranks, about.saved) == ({"c_attn": 12}, {8: 12}, ("score.weight",))
    folder = published(tmp_path / "ia3", realweights, f"{IA3}_adapter_model@040dd0.bin", "ia3")
    ia3 = netweight.info(folder).adapter
    assert (ia3.kind, ia3.targets, ia3.ranks) == ("IA3", {"k": 72, "v": 72, "wi_1": 48}, {})
    with pytest.raises(InputError, match="what IA3 changes depends on the base"):
        netweight.delta(None, folder)


def test_settings_of_published_adapters_are_read(realweights):
    """Every adapter_config.json there is, but for kinds that are refused by name."""
    from netweight.checkpoint.adapters.settings import settings_of
    from netweight.errors import FormatError

    refused = {}
    for path in sorted((realweights / "json").glob("*adapter*config*.json")):
        try:
            settings_of(json.loads(path.read_text()), path.name)
        except FormatError as problem:
            refused[path.name.partition("__")[0]] = str(problem)
    assert set(refused) <= {"huggingface"}
    assert all("MonteCLoRA is not read" in problem for problem in refused.values())
