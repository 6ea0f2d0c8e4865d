"""Models that were saved with their LoRA adapters beside the weights, against torch: W + scale * B A."""

from __future__ import annotations

import json
import math
import pickle
import random

import numpy as np
import pytest

import netweight
from netweight.errors import FormatError
from netweight.jobs.inputs import stamps

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

Q, V, EMBED, NORM = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.v_proj",
    "model.embed_tokens",
    "model.norm",
)
OUT, IN, RANK, WORDS = 24, 20, 4, 30


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def base(dtype=torch.float32):
    shapes = {Q: (OUT, IN), V: (8, IN), EMBED: (WORDS, IN), NORM: (IN,)}
    return {f"{name}.weight": numbers(*shape, seed=1).to(dtype) for name, shape in shapes.items()}


def lora(module, out, cols, rank=RANK, adapter="default"):
    return {
        f"{module}.lora_A.{adapter}.weight": numbers(rank, cols, seed=2),
        f"{module}.lora_B.{adapter}.weight": numbers(out, rank, seed=3),
    }


def unmerged(weights, *modules, prefix="base_model.model."):
    """The state dict of a PEFT model with an adapter on `modules`."""
    held = {}
    for name, tensor in weights.items():
        module = name.removesuffix(".weight")
        if module in modules:
            held[f"{module}.base_layer.weight"] = tensor
            held |= lora(module, *tensor.shape)
        else:
            held[name] = tensor
    return {prefix + name: tensor for name, tensor in held.items()}


def write(folder, tensors, adapter=None, config=None):
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if adapter is not None:
        about = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": "base", **adapter}
        (folder / "adapter_config.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    return folder


def product(module, out, cols, rank=RANK):
    held = list(lora(module, out, cols, rank).values())
    return held[1].double() @ held[0].double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("about", "scale"),
    [
        ({}, 8 / RANK),
        ({"use_rslora": True}, 8 / math.sqrt(RANK)),
        ({"lora_alpha": 3, "alpha_pattern": {"v_proj": 1, "q_proj": 10, r"layers\.0\..*": 7}}, 10 / RANK),
        ({"lora_alpha": 3, "alpha_pattern": {"proj": 10}}, 3 / RANK),
        ({"lora_alpha": 3, "alpha_pattern": {r"model\.layers\.\d+\.self_attn\.q_proj": 5}}, 5 / RANK),
    ],
)
def test_a_weight_has_its_adapter_in_it(tmp_path, dtype, about, scale):
    """All of it, from anywhere, in another process too; everything else as it is."""
    weights = base(dtype)
    folder = write(tmp_path / "m", unmerged(weights, Q), about)
    expected = weights[f"{Q}.weight"].double() + scale * product(Q, OUT, IN)
    with netweight.open(folder) as model:
        at = "base_model.model."
        assert set(model) == {at + name for name in weights}
        tensor = model[f"{at}{Q}.weight"]
        assert (tensor.shape, tensor.dtype.name, tensor.stored) == (
            (OUT, IN), "F32", f"{model[f'{at}{V}.weight'].dtype.name} + LoRA r4",
        )  # fmt: skip
        whole = tensor.read()
        assert np.abs(whole - expected.numpy()).max() < 1e-6 * expected.abs().max()
        assert {part.name for part in tensor.stored_parts} == {
            f"{at}{Q}.{part}" for part in ("base_layer.weight", "lora_A.default.weight", "lora_B.default.weight")
        }
        again, rng = pickle.loads(pickle.dumps(tensor)), random.Random(1)
        for _ in range(30):
            start = rng.randrange(tensor.size)
            out = np.empty(rng.randint(1, tensor.size - start), np.float32)
            again.read_into(start, out.view(np.uint8).data)
            assert np.array_equal(out.view(np.uint32), whole.reshape(-1)[start : start + len(out)].view(np.uint32))
        assert any("1 weight has a LoRA adapter that is not merged" in note for note in model.notes)
        assert np.array_equal(
            model[f"{at}{V}.weight"].read().astype(np.float32), weights[f"{V}.weight"].float().numpy()
        )


def test_gpt2_s_weights_lie_the_other_way_round(tmp_path):
    weights = {"h.0.attn.c_attn.weight": numbers(IN, OUT, seed=1), "ln_f.weight": numbers(IN)}
    module = "h.0.attn.c_attn"
    held = {f"{module}.base_layer.weight": weights[f"{module}.weight"], **lora(module, OUT, IN)}
    held[f"{module}.base_layer.bias"] = numbers(OUT)
    folder = write(tmp_path / "m", {**held, "ln_f.weight": weights["ln_f.weight"]}, {"fan_in_fan_out": True})
    expected = weights[f"{module}.weight"].double() + 2 * product(module, OUT, IN).T
    with netweight.open(folder) as model:
        assert set(model) == {f"{module}.weight", f"{module}.bias", "ln_f.weight"}
        assert np.abs(model[f"{module}.weight"].read() - expected.numpy()).max() < 1e-5


def test_embeddings(tmp_path):
    weights = base()
    held = {name: tensor for name, tensor in weights.items() if not name.startswith(EMBED)}
    held[f"{EMBED}.base_layer.weight"] = weights[f"{EMBED}.weight"]
    held[f"{EMBED}.lora_embedding_A.default"] = numbers(RANK, WORDS, seed=5)
    held[f"{EMBED}.lora_embedding_B.default"] = numbers(IN, RANK, seed=6)
    expected = weights[f"{EMBED}.weight"] + 2 * (held[f"{EMBED}.lora_embedding_B.default"] @ held[
        f"{EMBED}.lora_embedding_A.default"
    ]).T  # fmt: skip
    with netweight.open(write(tmp_path / "m", held, {})) as model:
        assert np.abs(model[f"{EMBED}.weight"].read() - expected.numpy()).max() < 1e-5


def test_modules_that_were_trained_whole(tmp_path):
    weights = base()
    held = unmerged(weights, Q, prefix="")
    held[f"{EMBED}.original_module.weight"] = held.pop(f"{EMBED}.weight")
    held[f"{EMBED}.modules_to_save.default.weight"] = numbers(WORDS, IN, seed=9)
    with netweight.open(write(tmp_path / "m", held, {})) as model:
        assert set(model) == set(weights)
        assert np.array_equal(model[f"{EMBED}.weight"].read(), numbers(WORDS, IN, seed=9).numpy())


def test_jobs_measure_the_model_that_it_is(tmp_path):
    """delta, compare and merge as on the model that torch merges; both were measured as the base before."""
    weights = base()
    merged = {name: tensor.clone() for name, tensor in weights.items()}
    merged[f"{Q}.weight"] += (2 * product(Q, OUT, IN)).float()
    before = write(tmp_path / "base", weights)
    folder = write(tmp_path / "peft", unmerged(weights, Q), {})
    dense = write(tmp_path / "dense", merged)
    wanted, got = (netweight.delta(before, [path]).models[0].summary["global_l2"] for path in (dense, folder))
    assert got == pytest.approx(wanted, rel=1e-6)
    assert got > 1
    compared = netweight.compare(before, folder)
    assert set(compared.identical) == {f"{name}.weight" for name in (V, EMBED, NORM)}
    netweight.merge(None, tmp_path / "out", base=before, models=[folder], method="task_arithmetic", weights=(1.0,))
    assert netweight.verify(tmp_path / "out").good
    with netweight.open(tmp_path / "out") as model:
        expected = merged[f"{Q}.weight"].numpy()
        assert np.abs(model[f"{Q}.weight"].read() - expected).max() < 1e-5


def test_a_run_is_not_resumed_with_another_scale(tmp_path):
    """What says how weights are read is part of what a journal was made of."""
    folder = write(tmp_path / "m", unmerged(base(), Q), {})
    found = []
    for alpha in (8, 8, 16):
        about = json.loads((folder / "adapter_config.json").read_text()) | {"lora_alpha": alpha}
        (folder / "adapter_config.json").write_text(json.dumps(about))
        with netweight.open(folder) as model:
            found.append(stamps(model))
            assert model.settings["adapter_config"]["lora_alpha"] == alpha
    assert found[0] == found[1] != found[2]


def without(name):
    return lambda held: {key: tensor for key, tensor in held.items() if name not in key}


def part(of, name, tensor, module=Q, adapter="default"):
    """A part of an adapter: its name, its tensor."""
    return {f"{module}.{of}.{adapter}.{name}": tensor}


NARROW = part("lora_A", "weight", numbers(RANK, IN + 1))
EMPTY = part("lora_A", "weight", numbers(0, IN)) | part("lora_B", "weight", numbers(OUT, 0))
OTHER = lora(Q, OUT, IN, adapter="other")
WIDE = {f"{Q}.base_layer.weight": numbers(OUT, IN).double()}


@pytest.mark.parametrize(
    ("change", "about", "message"),
    [
        (lambda held: held, None, "nothing says by what it is multiplied"),
        (without("lora_A"), {}, "has half an adapter: lora_B without lora_A"),
        (without("lora_B"), {}, "has half an adapter: lora_A without lora_B"),
        (lambda held: held | NARROW, {}, "is 24 x 21, its weight [24, 20]"),
        (lambda held: held | EMPTY, {}, "rank 0: lora_A is F32 [0, 20]"),
        (lambda held: held | part("lora_magnitude_vector", "weight", numbers(OUT + 1)), {}, "expected 24 for [24, 20]"),
        (lambda held: held | part("lora_B", "bias", numbers(OUT)), {}, "has a bias of its own, F32 [24], the base"),
        (lambda held: held | part("lora_A", "weight", numbers(RANK, IN), "x"), {}, "and its weight is not there"),
        (lambda held: held | part("lora_A", "weight", numbers(RANK, IN), V), {}, "half an adapter: lora_A without"),
        (lambda held: held | WIDE, {}, "expected floats of 8 to 32 bits beside an adapter"),
        (lambda held: held, {"peft_type": "IA3"}, "has lora_A, of a LoRA, and its settings are those of a IA3"),
        (lambda held: held, {"peft_type": "BOFT"}, "an adapter of kind BOFT, expected one of LoRA, AdaLoRA"),
        (lambda held: held, {"use_dora": True}, "use_dora, and lora_magnitude_vector is not there"),
        (lambda held: held, {"lora_alpha": None}, "lora_alpha: expected a number, got None"),
        (lambda held: held, {"lora_alpha": float("nan")}, "lora_alpha: expected a number, got nan"),
        (lambda held: held, {"alpha_pattern": {"(": 1}}, "alpha_pattern: '('"),
        (lambda held: held, {"alpha_pattern": {"(a+)+": 1}}, "expected a name, or a regular expression of 256"),
        (lambda held: held, {"alpha_pattern": {".*.*.*b": 1}}, "expected a name, or a regular expression of 256"),
        (lambda held: held, {"alpha_pattern": {"(a)" * 90: 1}}, "expected a name, or a regular expression of 256"),
        (lambda held: held, {"lora_alpha": 10**400}, "lora_alpha: expected a number, got 1000"),
        (lambda held: held | {f"{Q}.weight": numbers(OUT, IN)}, {}, "is stored twice, by PEFT too"),
        (lambda held: held | {f"{V}.ia3_l.default": numbers(8, 1)}, {}, "has ia3_l, of a IA3"),
        (lambda held: held | {f"{Q}.ia3_l.default": numbers(IN)}, {}, "ia3_l is not read beside lora_A"),
        (lambda held: {k.replace("lora_A", "hada_w1_a").replace("lora_B", "hada_w1_b"): t for k, t in held.items()},
         {"peft_type": "LOHA", "alpha": 8}, "half an adapter: hada_w1_a without hada_w2_a"),
        (lambda held: held, {"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern: q_proj: expected a number, got 8"),
        (lambda held: held, {"alpha_pattern": [1]}, "alpha_pattern: expected numbers by pattern"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_as_what_it_means(tmp_path, change, about, message):
    """One line each; nothing is measured as if there were no adapter."""
    folder = write(tmp_path / "m", change(unmerged(base(), Q, prefix="")), about)
    with pytest.raises(FormatError) as caught:
        netweight.open(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_weight_beside_its_adapter_under_its_own_name(tmp_path):
    """As PEFT saved it before 0.6."""
    weights = base()
    folder = write(tmp_path / "m", weights | lora(Q, OUT, IN), {})
    with netweight.open(folder) as model:
        assert set(model) == set(weights)
        expected = weights[f"{Q}.weight"].double() + 2 * product(Q, OUT, IN)
        assert np.abs(model[f"{Q}.weight"].read() - expected.numpy()).max() < 1e-5


def test_several_adapters_are_left_as_they_are_stored(tmp_path):
    """Which of them counts is not known: nothing is taken for a weight with an adapter, and nothing is left out."""
    held = unmerged(base(), Q, prefix="") | OTHER
    folder = write(tmp_path / "m", held, {})
    with netweight.open(folder) as model:
        assert set(model) == set(held)
        assert any("holds several adapters that are not merged ('default', 'other')" in note for note in model.notes)
