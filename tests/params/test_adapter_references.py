"""BASE+ADAPTER and adapters alone, in the forms that other tools than PEFT write; what is not one is a line."""

from __future__ import annotations

import json

import numpy as np
import pytest

import netweight
from netweight.checkpoint.adapters.references import split_adapters
from netweight.errors import FormatError, InputError, ModelNotFoundError, NetweightError, OptionError
from netweight.params.opening import open_whole

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
OUT, IN, RANK = 24, 20, 4


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


BASE = {f"{Q}.weight": numbers(OUT, IN), f"{V}.weight": numbers(8, IN), "model.norm.weight": numbers(IN)}
A, B = numbers(RANK, IN, seed=2), numbers(OUT, RANK, seed=3)
PRODUCT = (B.double() @ A.double()).numpy()
LORA = {f"base_model.model.{Q}.lora_A.weight": A, f"base_model.model.{Q}.lora_B.weight": B}
ABOUT = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "base_model_name_or_path": "base"}


def model(folder, tensors=None, config=None):
    folder.mkdir(parents=True)
    save_file(BASE if tensors is None else tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return folder


def adapter(folder, tensors=None, about=ABOUT, file="adapter_model.safetensors", metadata=None):
    folder.mkdir(parents=True)
    save_file(LORA if tensors is None else tensors, folder / file, metadata)
    if about is not None:
        (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def check(checkpoint, expected, name=f"{Q}.weight"):
    with checkpoint as held:
        assert np.abs(held[name].read() - expected).max() < 1e-5


EXPECTED = BASE[f"{Q}.weight"].double().numpy() + 2 * PRODUCT


def test_an_adapter_beside_its_base(tmp_path, monkeypatch):
    """As a folder and as a file, by its base's name from here, from its own folder, and by the user's word."""
    base, lora = model(tmp_path / "base"), adapter(tmp_path / "base" / "lora")
    for ref in (f"{base}+{lora}", f"{base}+{lora}/adapter_model.safetensors", f"{base}/model.safetensors+{lora}"):
        check(netweight.open(ref), EXPECTED)
    with pytest.raises(ModelNotFoundError, match=r"is an adapter of 'base', which was not found \(base: there is no"):
        open_whole(lora)
    check(open_whole(lora, base=base), EXPECTED)
    monkeypatch.chdir(tmp_path)
    check(open_whole("base/lora"), EXPECTED)
    (lora / "adapter_config.json").write_text(json.dumps(ABOUT | {"base_model_name_or_path": ".."}))
    monkeypatch.chdir("/")
    check(open_whole(lora), EXPECTED)
    with netweight.open(lora) as held:
        assert set(held) == set(LORA)


def test_a_folder_with_a_plus_in_its_name(tmp_path):
    base, lora = model(tmp_path / "a+b"), adapter(tmp_path / "c+d")
    check(netweight.open(base), BASE[f"{Q}.weight"].numpy())
    check(netweight.open(f"{base}+{lora}"), EXPECTED)
    assert split_adapters(f"{base}+{lora}+org/name@main") == (str(base), str(lora), "org/name@main")
    assert split_adapters("org/base@v1+org/lora@refs/pr/1") == ("org/base@v1", "org/lora@refs/pr/1")
    assert split_adapters("s3://bucket/a+b") == ("s3://bucket/a+b",)
    assert split_adapters("hf://org/base+hf://org/lora") == ("hf://org/base", "hf://org/lora")


def test_another_base_than_the_file_names_is_said(tmp_path):
    base, lora = model(tmp_path / "other"), adapter(tmp_path / "lora")
    with open_whole(lora, base=base) as held:
        assert any("was trained on base, as adapter_config.json says: read on" in note for note in held.notes)


def kohya(word="lora", alpha=8.0):
    held = {f"{word}_unet_mid_attn_to_q.lora_down.weight": A, f"{word}_unet_mid_attn_to_q.lora_up.weight": B}
    return held if alpha is None else held | {f"{word}_unet_mid_attn_to_q.alpha": torch.tensor(alpha)}


UNET = {"mid.attn.to_q.weight": BASE[f"{Q}.weight"], "mid.norm.weight": numbers(IN)}


@pytest.mark.parametrize(
    ("tensors", "scale"),
    [
        (kohya(), 2),
        (kohya(alpha=None), 1),
        (kohya() | {f"lora_te1_text_model.lora_{way}.weight": t.clone() for way, t in (("down", A), ("up", B))}, 2),
        ({"unet.mid.attn.to_q.lora_A.weight": A, "unet.mid.attn.to_q.lora_B.weight": B}, 1),
        ({"unet.mid.attn.to_q.lora.down.weight": A, "unet.mid.attn.to_q.lora.up.weight": B}, 1),
        ({"unet.mid.attn.processor.to_q_lora.down.weight": A, "unet.mid.attn.processor.to_q_lora.up.weight": B}, 1),
    ],
)  # fmt: skip
def test_files_of_kohya_and_diffusers(tmp_path, tensors, scale):
    """One file; modules of other components than the base are said."""
    base = model(tmp_path / "unet", UNET, {"_class_name": "UNet2DConditionModel"})
    save_file(tensors, tmp_path / "style.safetensors")
    expected = UNET["mid.attn.to_q.weight"].double().numpy() + scale * PRODUCT
    with netweight.open(f"{base}+{tmp_path}/style.safetensors") as held:
        assert np.abs(held["mid.attn.to_q.weight"].read() - expected).max() < 1e-5
        assert set(held) == set(UNET)
        said = "\n".join(held.notes)
        assert ("of other components than the base (lora_te1_)" in said) == any("te1" in name for name in tensors)
        assert ("nothing says the adapter's alpha" in said) == any(name.startswith("unet.") for name in tensors)


def test_settings_inside_a_file_of_diffusers(tmp_path):
    base = model(tmp_path / "unet", UNET)
    tensors = {"unet.mid.attn.to_q.lora_A.weight": A, "unet.mid.attn.to_q.lora_B.weight": B}
    said = json.dumps({"unet.lora_alpha": 12, "unet.r": 4, "unet.alpha_pattern": {"to_q": 2}})
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": said})
    expected = UNET["mid.attn.to_q.weight"].double().numpy() + 0.5 * PRODUCT
    check(netweight.open(f"{base}+{tmp_path}/pytorch_lora_weights.safetensors"), expected, "mid.attn.to_q.weight")


def test_adapters_of_mlx(tmp_path):
    """Factors the other way round, and the scale itself."""
    base = model(tmp_path / "base")
    held = {f"{Q}.lora_a": A.T.contiguous(), f"{Q}.lora_b": B.T.contiguous()}
    about = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.0}, "model": "base"}
    check(netweight.open(f"{base}+{adapter(tmp_path / 'mlx', held, about, 'adapters.safetensors')}"), EXPECTED)


def test_convolutions(tmp_path):
    """[out, r, 1, 1] times [r, in, h, w], as torch's convolutions one after the other give it."""
    weight = numbers(6, 5, 3, 3)
    down, up = numbers(2, 5, 3, 3, seed=5), numbers(6, 2, 1, 1, seed=6)
    base = model(tmp_path / "base", {"conv.weight": weight, "norm.weight": numbers(3)})
    held = {"base_model.model.conv.lora_A.weight": down, "base_model.model.conv.lora_B.weight": up}
    lora = adapter(tmp_path / "lora", held)
    made = torch.nn.functional.conv2d(down.transpose(0, 1), up).transpose(0, 1)
    check(netweight.open(f"{base}+{lora}"), (weight + 4 * made).numpy(), "conv.weight")


def test_other_layouts_of_the_base(tmp_path):
    """q and v of an adapter where the base has them fused, experts one by one where it has a stack."""
    q, k, v = numbers(8, IN, seed=1), numbers(4, IN, seed=2), numbers(4, IN, seed=3)
    name = "model.layers.0.self_attn"
    gates, downs = numbers(3, 2 * 6, IN, seed=4), numbers(3, IN, 6, seed=5)
    config = {
        "model_type": "phi3", "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": IN, "head_dim": 4,
        "num_hidden_layers": 1,
    }  # fmt: skip
    fused = {f"{name}.qkv_proj.weight": torch.cat([q, k, v]).to(torch.bfloat16), "model.norm.weight": numbers(IN)}
    base = model(tmp_path / "fused", fused, config)
    down, up = numbers(2, IN, seed=8), numbers(4, 2, seed=9)
    held = {f"base_model.model.{name}.v_proj.lora_{side}.weight": t for side, t in (("A", down), ("B", up))}
    lora = adapter(tmp_path / "v", held, ABOUT | {"lora_alpha": 2})
    expected = fused[f"{name}.qkv_proj.weight"].double()
    expected[12:] += up.double() @ down.double()
    with netweight.open(f"{base}+{lora}") as made:
        assert (made[f"{name}.qkv_proj.weight"].dtype.name, made[f"{name}.qkv_proj.weight"].written.name) == (
            "F32",
            "BF16",
        )
    check(netweight.open(f"{base}+{lora}"), expected.numpy(), f"{name}.qkv_proj.weight")
    at = "model.layers.0.mlp.experts"
    stacks = {f"{at}.gate_up_proj": gates, f"{at}.down_proj": downs, "model.norm.weight": numbers(IN)}
    base = model(tmp_path / "stacks", stacks, {"model_type": "mixtral", "num_hidden_layers": 1, "hidden_size": IN})
    down, up = numbers(2, IN, seed=8), numbers(6, 2, seed=9)
    held = {f"base_model.model.{at}.1.up_proj.lora_{side}.weight": t for side, t in (("A", down), ("B", up))}
    lora = adapter(tmp_path / "expert", held, ABOUT | {"lora_alpha": 2})
    expected = gates.double()
    expected[1, 6:] += up.double() @ down.double()
    check(netweight.open(f"{base}+{lora}"), expected.numpy(), f"{at}.gate_up_proj")


@pytest.mark.parametrize(
    ("tensors", "about", "message"),
    [
        (None, None, "nothing says by what the adapter is multiplied (lora_alpha): put its adapter_config.json"),
        (None, {k: v for k, v in ABOUT.items() if k != "lora_alpha"}, "lora_alpha: expected a number, got None"),
        (None, ABOUT | {"peft_type": "PROMPT_TUNING"}, "an adapter of kind PROMPT_TUNING, expected one of LoRA"),
        (None, ABOUT | {"layer_replication": [[0, 1]]}, "layer_replication: layers repeated in the base is not read"),
        ({k: v for k, v in LORA.items() if "lora_B" not in k}, ABOUT, "has half an adapter: lora_A without lora_B"),
        ({k: v for k, v in LORA.items() if "lora_A" not in k}, ABOUT, "has half an adapter: lora_B without lora_A"),
        ({k: v[:0] if "lora_A" in k else v[:, :0] for k, v in LORA.items()}, ABOUT, "rank 0: lora_A is F32 [0, 20]"),
        ({k: v[:, :-1] if "lora_A" in k else v for k, v in LORA.items()}, ABOUT, "is 24 x 19, its weight [24, 20]"),
        ({k.replace("layers.0", "layers.7"): v for k, v in LORA.items()}, ABOUT, "it is an adapter of another base"),
        ({k.replace(".weight", f".{n}.weight"): v.clone() for k, v in LORA.items() for n in "ab"}, ABOUT, "several"),
        ({f"base_model.model.{Q}.oft_r.weight": A}, ABOUT, "oft_r is not read"),
        ({k: v.to(torch.int32) for k, v in LORA.items()}, ABOUT, "expected floats of 8 to 32 bits"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_of_this_base(tmp_path, tensors, about, message):
    """One line each."""
    base = model(tmp_path / "base")
    lora = adapter(
        tmp_path / "lora", None if tensors is None else {k: v.contiguous() for k, v in tensors.items()}, about
    )
    with pytest.raises((FormatError, InputError)) as caught:
        netweight.open(f"{base}+{lora}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapters_in_the_wrong_places(tmp_path):
    base, lora = model(tmp_path / "base"), adapter(tmp_path / "lora")
    again = adapter(tmp_path / "again", about=ABOUT | {"base_model_name_or_path": str(lora)})
    nameless = adapter(tmp_path / "nameless", about={k: v for k, v in ABOUT.items() if "base" not in k})
    cases = [
        (f"{base}+{base}", "base: is no adapter; expected a model before the +"),
        (f"{lora}+{base}", "lora: is an adapter; expected a model before the +"),
        (f"{base}+", "a part is empty; expected BASE+ADAPTER"),
        (f"{base}+{tmp_path}/nothing", "there is no such file or folder"),
        (again, "which is an adapter too; name a model"),
        (nameless, "adapter_config.json does not name its base; name it: BASE+"),
    ]
    for ref, message in cases:
        with pytest.raises(NetweightError) as caught:
            open_whole(ref)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_quantised_bases(tmp_path):
    """FP8 in blocks: the decoded weight plus the update."""
    codes = numbers(OUT, IN).to(torch.float8_e4m3fn)
    scales = torch.full((1, 1), 0.25)
    held = {f"{Q}.weight": codes, f"{Q}.weight_scale_inv": scales, "model.norm.weight": numbers(IN)}
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    base, lora = model(tmp_path / "base", held, config), adapter(tmp_path / "lora")
    with netweight.open(f"{base}+{lora}") as made:
        assert made[f"{Q}.weight"].quantised
    with netweight.open(base) as plain:
        before = plain[f"{Q}.weight"].read().astype(np.float64)
    assert np.abs(before - 0.25 * codes.double().numpy()).max() < 0.01
    check(netweight.open(f"{base}+{lora}"), before + 2 * PRODUCT)


def test_delta_needs_a_base_for_models(tmp_path):
    base, lora = model(tmp_path / "base"), adapter(tmp_path / "lora")
    with pytest.raises(OptionError, match=r"--base: is missing, and .*base is no adapter"):
        netweight.delta(None, [lora, base])
