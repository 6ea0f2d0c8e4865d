"""The share of values that a quantisation cut off, against numpy: what is beyond the codes by more than half a step."""

from __future__ import annotations

import json
import math

import gguf_files
import numpy as np
import pytest
from gguf_files import field
from safetensors.numpy import save_file

import netweight
from netweight.passes.clipping import PERIOD, RUN, WHOLE

Q4_0, Q8_0, F32 = 2, 8, 0
NAME, HUB = "blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"


def quantised(values: np.ndarray, scales: np.ndarray) -> bytes:
    """Q4_0: the nearest of -8 to 7 times a scale for every 32 values, which need not reach."""
    rows = values.reshape(-1, 32)
    codes = (np.clip(np.rint(rows / scales[:, None].astype(np.float64)), -8, 7) + 8).astype(np.uint8)
    made = np.empty((len(rows), 18), np.uint8)
    made[:, :2] = scales.astype(np.float16)[:, None].view(np.uint8)
    made[:, 2:] = codes[:, :16] | codes[:, 16:] << 4
    return made.tobytes()


def write(path, values, kind, data):
    fields = [field("general.architecture", "text", "llama"), field("llama.attention.head_count", "u32", 4)]
    norm = ("output_norm.weight", (4,), F32, np.ones(4, np.float32).tobytes())
    path.write_bytes(gguf_files.gguf(fields, [(NAME, values.shape, kind, data), norm]))
    return path


def original(path, values):
    path.mkdir()
    save_file({HUB: values, "model.norm.weight": np.ones(4, np.float32)}, path / "model.safetensors")
    return path


def beyond(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Of Q4_0: half a step below -8 scales or above 7 of them; a negative scale turns the two."""
    wide = np.repeat(scales.astype(np.float16).astype(np.float64), 32).reshape(values.shape)
    ends = np.stack([-8.5 * wide, 7.5 * wide])
    return (values < ends.min(0)) | (values > ends.max(0))


def percent(mask: np.ndarray) -> float:
    return 100 * int(mask.sum()) / mask.size


def some(shape, seed=0):
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape).astype(np.float32)
    reach = random.uniform(0.8, 3.5, values.size // 32) * random.choice([-1, 1], values.size // 32) / 8
    return values, reach.astype(np.float16).astype(np.float32)


def test_as_numpy_counts(tmp_path):
    """Scales of both signs that reach from 0.8 to 3.5 standard deviations."""
    values, scales = some((96, 64))
    file = write(tmp_path / "q.gguf", values, Q4_0, quantised(values, scales))
    result = netweight.compare(original(tmp_path / "a", values), file, output=tmp_path / "r.json")
    wanted = percent(beyond(values, scales))
    assert 1 < wanted < 50
    metrics = result["layer_comparisons"]
    assert metrics[HUB]["clipped_percentage"] == wanted
    assert "clipped_percentage" not in metrics["model.norm.weight"]  # float32 in both
    q = result.quantisation
    assert q.storage["Q4_0"]["clipped_percentage"] == q.total["clipped_percentage"] == wanted
    assert math.isnan(q.storage["F32"]["clipped_percentage"])
    held = json.loads((tmp_path / "r.json").read_text())
    assert held["layer_comparisons"][HUB]["clipped_percentage"] == wanted
    assert held["quantisation"]["storage"]["F32"]["clipped_percentage"] is None
    (cell,) = (row for row in result.frame.rows if row[0] == HUB)
    assert cell[[c.name for c in result.columns].index("clipped_percentage")] == wanted


def test_nothing_is_cut_off_where_codes_reach(tmp_path):
    """By its greatest value, rounded to the nearest: the largest of each group is an end, or half a step from it."""
    values, _ = some((64, 64), 2)
    scales = np.abs(values.reshape(-1, 32)).max(1) / 7
    file = write(tmp_path / "q.gguf", values, Q4_0, quantised(values, scales))
    result = netweight.compare(original(tmp_path / "a", values), file)
    assert result["layer_comparisons"][HUB]["clipped_percentage"] == 0


def test_values_that_are_no_numbers_are_not_looked_at(tmp_path):
    values, scales = some((96, 64))
    data = quantised(values, scales)
    lost = values.copy()
    lost[0], lost[1], lost[2] = np.inf, np.nan, -np.inf
    scales = scales.copy()
    file = write(tmp_path / "q.gguf", values, Q4_0, data)
    result = netweight.compare(original(tmp_path / "a", lost), file)
    wanted = percent(beyond(values, scales)[3:])
    assert result["layer_comparisons"][HUB]["clipped_percentage"] == wanted
    codes = bytearray(data)
    codes[2 * 18 * 3 : 2 * 18 * 3 + 2] = np.float16(np.nan).tobytes()  # the fourth row's first scale
    broken = write(tmp_path / "n.gguf", values, Q4_0, bytes(codes))
    good = np.ones(values.shape, bool)
    good[:3], good[3, :32] = False, False
    result = netweight.compare(tmp_path / "a", broken)
    assert result["layer_comparisons"][HUB]["clipped_percentage"] == percent(beyond(values, scales)[good])


@pytest.mark.parametrize("workers", [1, 2])
def test_of_large_tensors_some_runs_are_looked_at(tmp_path, workers):
    """The first of every two million; what is cut off elsewhere is not seen, as the column says."""
    values = np.zeros((9, PERIOD // 4), np.float32)
    flat = values.reshape(-1)
    seen = np.zeros(flat.size, bool)
    for first in range(0, flat.size, PERIOD):
        seen[first : first + RUN] = True
    random = np.random.default_rng(1)
    flat[:] = random.standard_normal(flat.size)
    flat[~seen] *= 100
    scales = np.full(flat.size // 32, 0.25, np.float32)
    file = write(tmp_path / "q.gguf", values, Q4_0, quantised(flat, scales))
    result = netweight.compare(original(tmp_path / "a", values), file, workers=workers)
    wanted = percent(beyond(flat, scales)[seen])
    assert 0 < wanted < 10
    assert result["layer_comparisons"][HUB]["clipped_percentage"] == wanted
    small = flat[:WHOLE].reshape(4, -1)  # as many as are looked at one by one
    file = write(tmp_path / "s.gguf", small, Q4_0, quantised(small, scales[: small.size // 32]))
    result = netweight.compare(original(tmp_path / "b", small), file, workers=workers)
    wanted = percent(beyond(small.reshape(-1), scales[: small.size // 32]))
    assert result["layer_comparisons"][HUB]["clipped_percentage"] == wanted


def test_weights_that_lie_turned(tmp_path):
    """GPTQ stores the transpose: groups go down its columns, and still belong to the right rows."""
    random = np.random.default_rng(4)
    rows, cols, group = 24, 64, 32
    scales = random.uniform(0.05, 0.3, (cols // group, rows)).astype(np.float16)
    codes = random.integers(0, 16, (cols, rows), dtype=np.uint32)
    packed = np.zeros((cols // 8, rows), np.uint32)
    for at in range(8):
        packed |= codes[at::8] << np.uint32(4 * at)
    zeros = np.full((cols // group, rows // 8), 0x77777777, np.uint32)  # 8, stored less one
    layer = HUB.removesuffix(".weight")
    stored = {
        f"{layer}.qweight": packed.view(np.int32),
        f"{layer}.qzeros": zeros.view(np.int32),
        f"{layer}.scales": scales,
        f"{layer}.g_idx": (np.arange(cols) // group).astype(np.int32),
        "model.norm.weight": np.ones(4, np.float32),
    }
    (tmp_path / "q").mkdir()
    save_file(stored, tmp_path / "q" / "model.safetensors")
    about = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": group}}
    (tmp_path / "q" / "config.json").write_text(json.dumps(about))
    values = random.standard_normal((rows, cols)).astype(np.float32)
    result = netweight.compare(original(tmp_path / "a", values), tmp_path / "q")
    wide = np.repeat(scales, group, axis=0).T
    with np.errstate(over="ignore"):
        low, high = ((wide * np.float16(code)).astype(np.float64) for code in (-8, 7))
    half = (high - low) / 30
    wanted = percent((values < low - half) | (values > high + half))
    assert 1 < wanted < 90
    assert result["layer_comparisons"][HUB]["clipped_percentage"] == wanted
