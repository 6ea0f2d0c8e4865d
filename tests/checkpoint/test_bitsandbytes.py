"""bitsandbytes' weights of 4 and 8 bits against the package: what it made of random bits, and what it stored."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from packed_cases import bitsandbytes, recorded
from packed_files import bits_of, check_jobs, check_recorded, fails, of_package, write

import netweight

CASES = bitsandbytes()
STORED = ["nf4", "nf4 nested", "fp4", "fp4 nested", "int8"]
STATE = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4, 64]}


def weight(state=None, kind="nf4", **others):
    """A weight [4, 64] of 4 bits; `state` as it is, or with some entries changed."""
    rng = np.random.default_rng(1)
    text = state if isinstance(state, bytes) else json.dumps(STATE | (state or {})).encode()
    return {
        "x.weight": ("U8", rng.integers(0, 256, (128, 1)).astype(np.uint8)),
        "x.weight.absmax": ("F32", rng.random(4).astype(np.float32)),
        f"x.weight.quant_state.bitsandbytes__{kind}": ("U8", np.frombuffer(text, np.uint8)),
        "x.weight.quant_map": ("F32", np.zeros(16, np.float32)),
        **others,
    }


@pytest.mark.parametrize("name", CASES)
def test_what_bitsandbytes_makes_of_random_bits(tmp_path, name):
    """Blocks that are cut, odd sizes, one to three axes, codes in other types, nested scales; all of int8."""
    case = CASES[name]
    tensor = check_recorded("bitsandbytes", case, name, tmp_path)
    assert (list(tensor.shape), tensor.dtype.name) == (case.more["shape"], case.more["dtype"])
    if name.startswith("int8"):
        assert tensor.stored == "int8 rows"
    else:
        assert tensor.stored == name[:3].upper() + (" nested" if "nested" in name else "")


def test_every_recorded_case_is_tested():
    assert recorded("bitsandbytes")["digests"].keys() == CASES.keys()


@pytest.mark.parametrize("at", STORED)
def test_weights_as_bitsandbytes_stores_them(tmp_path, at):
    stored, others = of_package("bitsandbytes", at)
    dtype, expected = others["weight"]
    with netweight.open(write(tmp_path / "m", stored, {})) as checkpoint:
        assert list(checkpoint) == ["x.weight"]
        tensor = checkpoint["x.weight"]
        assert (tensor.shape, tensor.dtype.name) == (expected.shape, dtype)
        assert np.array_equal(bits_of(tensor), expected.reshape(-1).view(bits_of(tensor, 0, 1).dtype))
        assert "1 weight is stored by bitsandbytes (" in checkpoint.notes[0]


def test_more_than_is_read_at_a_time(tmp_path):
    """700 x 901 in blocks of 64, against the numbers of NF4 times float32 scales."""
    rng = np.random.default_rng(2)
    n = 700 * 901
    packed, absmax = rng.integers(0, 256, n // 2).astype(np.uint8), rng.random(-(-n // 64)).astype(np.float32)
    state = json.dumps({**STATE, "dtype": "float32", "shape": [700, 901]}).encode()
    tensors = {
        "x.weight": ("U8", packed[:, None]),
        "x.weight.absmax": ("F32", absmax),
        "x.weight.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(state, np.uint8)),
    }
    table = np.float32([
        -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
    ])  # fmt: skip
    codes = np.stack([packed >> 4, packed & 15], -1).reshape(-1)
    with netweight.open(write(tmp_path / "m", tensors, {})) as checkpoint:
        read = checkpoint["x.weight"].read()
    assert np.array_equal(read.reshape(-1), table[codes] * np.repeat(absmax, 64)[:n])


def test_zeros_of_fp4_have_their_sign(tmp_path):
    """As bitsandbytes' kernels give them: code 8 is -0."""
    state = {"quant_type": "fp4", "dtype": "float32"}
    tensors = weight(state, "fp4") | {"x.weight": ("U8", np.full((128, 1), 0x08, np.uint8))}
    with netweight.open(write(tmp_path / "m", tensors, {})) as checkpoint:
        assert np.signbit(checkpoint["x.weight"].read()).reshape(-1, 2).tolist() == [[False, True]] * 128


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (b"", "is U8 \\[0\\]; expected JSON in 1 to 4096 bytes"),
        (b" " * 5000, "is U8 \\[5000\\]; expected JSON in 1 to 4096 bytes"),
        (b"[" * 4000, "holds .*; expected a JSON object"),
        (b"\xff{}", "holds .*; expected a JSON object"),
        (b"[]", "holds b'\\[\\]'; expected a JSON object"),
        ({"quant_type": "fp4"}, "its quant_type is 'fp4'; expected nf4 or fp4, as its name says"),
        ({"dtype": "float64"}, "its dtype is 'float64'; expected one of float16, bfloat16, float32"),
        ({"dtype": ["float16"]}, "its dtype is"),
        ({"shape": None}, "its shape is None; expected whole numbers above 0"),
        ({"shape": []}, "its shape is"),
        ({"shape": [4, 0]}, "its shape is"),
        ({"shape": [4, -64]}, "its shape is"),
        ({"shape": [4, 64.0]}, "its shape is"),
        ({"shape": [True, 256]}, "its shape is"),
        ({"shape": [1 << 60]}, "its shape is"),
        ({"shape": [1] * 9}, "its shape is"),
        ({"shape": [4, 66]}, "do not fit; expected codes of 264 elements, \\[4, 66\\], and scales of blocks of 64"),
        ({"shape": [1 << 40, 1 << 40]}, "do not fit; expected codes of"),
        ({"blocksize": 32}, "do not fit; expected codes of 256 elements"),
        ({"blocksize": 0}, "its blocksize is 0"),
        ({"blocksize": 1 << 40}, "its blocksize is 1099511627776, .* expected a power of two from 32 to 4096"),
        ({"blocksize": [64]}, "its blocksize is"),
        ({"blocksize": "64"}, "its blocksize is '64'"),
        ({"nested_offset": float("nan")}, "nested_offset nan; expected .* and a float"),
        ({"nested_offset": 10**400}, "nested_offset 1000"),
        ({"nested_blocksize": -1}, "nested_blocksize -1"),
        ({"nested_dtype": "float16"}, "its nested_dtype is 'float16'; expected float32"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_states_that_cannot_be(tmp_path, state, match):
    fails(tmp_path, weight(state), {}, match)


@pytest.mark.parametrize(
    "others",
    [
        {"x.weight": ("U8", np.zeros((127, 1), np.uint8))},
        {"x.weight": ("F64", np.zeros((128, 1)))},
        {"x.weight.absmax": ("F32", np.zeros(5, np.float32))},
        {"x.weight.absmax": ("U8", np.zeros(4, np.uint8))},
        {"x.weight.quant_map": ("F32", np.zeros(15, np.float32))},
        {"x.weight.nested_absmax": ("F32", np.zeros(1, np.float32))},
        {"x.weight.nested_quant_map": ("F32", np.zeros(256, np.float32))},
    ],
    ids=lambda others: ", ".join(f"{name} {held[0]} {held[1].shape}" for name, held in others.items()),
)
def test_parts_that_do_not_fit(tmp_path, others):
    fails(tmp_path, weight(**others), {}, r"'x.weight' .*do not fit; expected codes of 256 elements, \[4, 64\]")


def test_without_scales(tmp_path):
    tensors = weight()
    del tensors["x.weight.absmax"]
    fails(tmp_path, tensors, {}, r"'x.weight' .*do not fit; expected codes of 256 elements")


@pytest.mark.parametrize(
    ("absmax", "nested", "values"), [("F32", 1, 256), ("U8", 2, 256), ("U8", 0, 256), ("U8", 1, 255)]
)
def test_nested_scales_that_do_not_fit(tmp_path, absmax, nested, values):
    others = {
        "x.weight.absmax": (absmax, np.zeros(4, np.uint8 if absmax == "U8" else np.float32)),
        "x.weight.nested_absmax": ("F32", np.zeros(nested, np.float32)),
        "x.weight.nested_quant_map": ("F32", np.zeros(values, np.float32)),
    }
    state = {"nested_blocksize": 256, "nested_offset": 0.5, "nested_dtype": "float32"}
    fails(
        tmp_path, weight(state, **others), {}, "do not fit; expected 4 codes of scales, a scale for every 256 of them"
    )


def test_two_states(tmp_path):
    tensors = weight() | {"x.weight.quant_state.bitsandbytes__fp4": ("U8", np.zeros(3, np.uint8))}
    fails(tmp_path, tensors, {}, "tensor 'x.weight': has two states of bitsandbytes")


def test_rows_in_the_order_of_a_gpu_are_refused(tmp_path):
    tensors = dict(CASES["int8, 33 x 256"].tensors)
    tensors["x.weight_format"] = ("U8", np.array(2, np.uint8))
    fails(tmp_path, tensors, {}, "'x.weight_format': it is 2, an order that a GPU had; expected 0: row by row")
    tensors["x.weight_format"] = ("U8", np.zeros(2, np.uint8))
    fails(tmp_path, tensors, {}, "expected a byte that says how rows are stored")
    del tensors["x.weight_format"]
    assert netweight.open(write(tmp_path / "m", tensors, {}))["x.weight"].stored == "int8 rows"
    tensors["x.SCB"] = ("F32", np.zeros(32, np.float32))
    fails(tmp_path, tensors, {}, r"'x.SCB' F32 \[32\]: do not fit; expected int8 \[out, in\] and float32 \[out\]")


def test_conv1d_is_turned_back(tmp_path):
    """transformers turns GPT-2's layers before it quantises them."""
    named = {}
    for at, module in (("nf4", "c_attn"), ("int8", "c_fc")):
        stored, _ = of_package("bitsandbytes", at)
        named |= {name.replace("x.", f"h.0.{module}.", 1): held for name, held in stored.items()}
    folder = write(tmp_path / "m", named, {"model_type": "gpt2"})
    with netweight.open(folder) as checkpoint:
        for at, module in (("nf4", "c_attn"), ("int8", "c_fc")):
            _, others = of_package("bitsandbytes", at)
            tensor, expected = checkpoint[f"h.0.{module}.weight"], others["weight"][1]
            assert tensor.shape == expected.shape[::-1]
            assert np.array_equal(bits_of(tensor).reshape(tensor.shape), expected.T.view(bits_of(tensor, 0, 1).dtype))


@pytest.mark.parametrize("at", STORED)
def test_jobs_give_what_they_give_on_the_decoded_model(tmp_path, at):
    stored, others = of_package("bitsandbytes", at)
    name = "model.layers.0.self_attn.q_proj"
    tensors = {part.replace("x", name, 1): held for part, held in stored.items()}
    about = {"quantization_config": {"quant_method": "bitsandbytes"}}
    check_jobs(tmp_path, tensors, {f"{name}.weight": others["weight"]}, about)


def test_far_away(tmp_path):
    """States are read when a model is opened, from wherever it lies."""
    fsspec = pytest.importorskip("fsspec", reason="holds the file")
    stored, others = of_package("bitsandbytes", "nf4 nested")
    folder = write(tmp_path / "m", stored, {})
    for name in ("model.safetensors", "config.json"):
        fsspec.filesystem("memory").pipe_file(f"/bnb/{name}", (folder / name).read_bytes())
    with netweight.open("memory://bnb") as checkpoint:
        assert np.array_equal(bits_of(checkpoint["x.weight"]), others["weight"][1].reshape(-1).view(np.uint16))


def test_opening_imports_nothing_heavy(tmp_path):
    """Of none of the four formats."""
    folders = [write(tmp_path / "bnb", weight(), {})]
    for package, at in (("gptq", "4/gptq"), ("awq", "gemm"), ("mlx", "affine float16")):
        about = {"quantization": {"bits": 4, "group_size": 64, "x.down": {"bits": 8, "group_size": 32}}}
        method = {
            "quantization_config": {"quant_method": package, "bits": 4, "group_size": 32 if package == "gptq" else 64}
        }
        folders.append(write(tmp_path / package, of_package(package, at)[0], about if package == "mlx" else method))
    code = (
        "import json, sys, netweight\n"
        "stored = [[tensor.stored for tensor in netweight.open(path).values()] for path in sys.argv[1:]]\n"
        "heavy = [name for name in 'torch numpy numba scipy ml_dtypes'.split() if name in sys.modules]\n"
        "print(json.dumps([stored, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    stored, heavy = json.loads(done.stdout)
    assert stored[:3] == [["NF4"], ["GPTQ int4 g32"], ["AWQ int4 g64"]]
    assert set(stored[3]) == {"MLX int4 g64", "MLX int8 g32", "F16"}
    assert heavy == []
