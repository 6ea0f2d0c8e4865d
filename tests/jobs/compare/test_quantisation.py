"""What `compare` says of quantised models, against numpy on what the gguf package makes of the same blocks."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import gguf_files
import numpy as np
import pyarrow.parquet as pq
import pytest
from gguf_files import field
from pages import cells_of, data_of
from safetensors.numpy import save_file

import netweight
from netweight.errors import OptionError
from netweight.jobs.compare.several import compare_to

gguf = pytest.importorskip("gguf")
TYPES = {"Q4_0": 2, "Q5_1": 7, "Q8_0": 8}
HUB = {
    "token_embd": "model.embed_tokens",
    "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
    "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
    "blk.1.ffn_up": "model.layers.1.mlp.up_proj",
    "output_norm": "model.norm",
}


def weights() -> dict[str, np.ndarray]:
    made = np.random.default_rng(0)
    shapes = {"token_embd": (40, 64), "blk.0.attn_v": (32, 64), "blk.0.ffn_up": (96, 64), "blk.1.ffn_up": (96, 64)}
    held = {name: (made.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    return held | {"output_norm": np.ones(64, np.float32)}


def write_original(path):
    path.mkdir()
    save_file({f"{HUB[name]}.weight": array for name, array in weights().items()}, path / "model.safetensors")
    return path


def write_gguf(path, kinds: dict[str, str]):
    """(The file, what is in it by the names of GGUF); tensors without a kind are F32."""
    tensors, decoded = [], {}
    for name, array in weights().items():
        kind = kinds.get(name)
        if kind is None:
            tensors.append((f"{name}.weight", array.shape, 0, array.tobytes()))
            decoded[name] = array
            continue
        blocks = gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind])
        tensors.append((f"{name}.weight", array.shape, TYPES[kind], blocks.tobytes()))
        decoded[name] = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    fields = [field("general.architecture", "text", "llama"), field("llama.attention.head_count", "u32", 4)]
    path.write_bytes(gguf_files.gguf(fields, tensors))
    return path, decoded


MIXED = {"token_embd": "Q8_0", "blk.0.attn_v": "Q5_1", "blk.0.ffn_up": "Q4_0", "blk.1.ffn_up": "Q4_0"}
BITS = {"Q4_0": 4.5, "Q5_1": 6.0, "Q8_0": 8.5, None: 32.0}


def sqnr(pairs) -> float:
    signal = sum(float((a.astype(np.float64) ** 2).sum()) for a, _ in pairs)
    noise = sum(float(((b - a).astype(np.float64) ** 2).sum()) for a, b in pairs)
    return 10 * math.log10(signal / noise) if noise else math.inf


@pytest.fixture
def models(tmp_path):
    original = write_original(tmp_path / "original")
    file, decoded = write_gguf(tmp_path / "mixed.gguf", MIXED)
    return original, file, decoded


def test_every_parameter(models):
    original, file, decoded = models
    result = netweight.compare(original, file)
    held = weights()
    assert {p.name for p in result.parameters} == {f"{HUB[name]}.weight" for name in held}
    for p in result.parameters:
        name = next(key for key, hub in HUB.items() if p.name == f"{hub}.weight")
        a, b = held[name], decoded[name]
        assert (p.stored, p.stored_b) == ("F32", MIXED.get(name, "F32"))
        assert p.bits == (32, BITS[MIXED.get(name)])
        assert p.metrics["sqnr_db"] == pytest.approx(sqnr([(a, b)]), rel=1e-9)
        assert p.metrics["max_absolute_difference"] == float(np.abs(b - a).max())
        assert p.metrics["relative_l2_distance"] == pytest.approx(
            float(np.linalg.norm((b - a).astype(np.float64)) / np.linalg.norm(a.astype(np.float64)))
        )


def test_sums(models):
    original, file, decoded = models
    result = netweight.compare(original, file)
    held, q = weights(), result.quantisation
    assert q is not None
    assert q.note == ""
    groups = {"Q4_0": ["blk.0.ffn_up", "blk.1.ffn_up"], "Q5_1": ["blk.0.attn_v"], "Q8_0": ["token_embd"]}
    for kind, names in groups.items():
        assert q.storage[kind]["sqnr_db"] == pytest.approx(sqnr([(held[n], decoded[n]) for n in names]), rel=1e-9)
        assert q.storage[kind]["bits_per_weight_b"] == BITS[kind]
        assert q.storage[kind]["elements"] == sum(held[n].size for n in names)
    assert math.isinf(q.storage["F32"]["sqnr_db"])
    assert set(q.storage) == {"Q4_0", "Q5_1", "Q8_0", "F32"}
    assert q.roles["up_proj"]["sqnr_db"] == q.storage["Q4_0"]["sqnr_db"]
    layer = ["blk.0.attn_v", "blk.0.ffn_up"]
    assert q.blocks["layer_0"]["sqnr_db"] == pytest.approx(sqnr([(held[n], decoded[n]) for n in layer]), rel=1e-9)
    assert q.total["sqnr_db"] == pytest.approx(sqnr([(held[n], decoded[n]) for n in held]), rel=1e-9)
    size = sum(array.size for array in held.values())
    bits = sum(array.size * BITS[MIXED.get(name)] for name, array in held.items())
    assert q.total["bits_per_weight_b"] == pytest.approx(bits / size)
    by_sqnr = sorted(MIXED, key=lambda name: sqnr([(held[name], decoded[name])]))
    assert list(q.worst) == [f"{HUB[name]}.weight" for name in by_sqnr]


def test_files(models, tmp_path):
    original, file, _ = models
    result = netweight.compare(original, file, output=tmp_path / "r.json")
    held = json.loads((tmp_path / "r.json").read_text())["quantisation"]
    assert held["worst"] == list(result.quantisation.worst)
    assert held["storage"]["F32"]["sqnr_db"] is None  # infinite
    assert held["total"]["sqnr_db"] == result.quantisation.total["sqnr_db"]
    netweight.compare(original, file, output=tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as stream:
        rows = {row["param"]: row for row in csv.DictReader(stream)}
    row = rows["model.layers.0.mlp.up_proj.weight"]
    assert (row["stored"], row["stored_b"], row["bits_per_weight_b"]) == ("F32", "Q4_0", "4.5")
    assert float(row["sqnr_db"]) == result["layer_comparisons"][row["param"]]["sqnr_db"]
    netweight.compare(original, file, output=tmp_path / "r.parquet")
    table = pq.read_table(tmp_path / "r.parquet")
    assert set(table["stored_b"].to_pylist()) == {"Q4_0", "Q5_1", "Q8_0", "F32"}


def test_what_is_not_quantised(models, tmp_path):
    original, _, _ = models
    plain, _ = write_gguf(tmp_path / "plain.gguf", {})
    result = netweight.compare(original, plain)
    assert result.quantisation is None
    assert all(math.isinf(m["sqnr_db"]) for m in result["layer_comparisons"].values())
    assert "quantisation" not in result.to_dict()
    with pytest.raises(OptionError, match="neither model is quantised"):
        netweight.compare(original, plain, plots=tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_the_other_way_round(models):
    """A model that is quantised, first: the numbers are of B against A, and a note says so."""
    original, file, _ = models
    assert "name the original first" in netweight.compare(file, original).quantisation.note


def test_two_quantised_models(models, tmp_path):
    _, file, decoded = models
    other, held = write_gguf(tmp_path / "q8.gguf", dict.fromkeys(MIXED, "Q8_0"))
    q = netweight.compare(other, file).quantisation
    assert q.note == ""
    assert set(q.storage) == {"Q8_0 to Q4_0", "Q8_0 to Q5_1", "Q8_0 to Q8_0", "F32"}
    names = ["blk.0.ffn_up", "blk.1.ffn_up"]
    wanted = sqnr([(held[n], decoded[n]) for n in names])
    assert q.storage["Q8_0 to Q4_0"]["sqnr_db"] == pytest.approx(wanted, rel=1e-9)


def test_nothing_to_hear_and_nothing_to_say(tmp_path):
    """A signal of zeros has no ratio; a change of zeros has an infinite one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, zero = np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)
    save_file({"x.weight": zero, "y.weight": one, "z.weight": zero}, tmp_path / "a" / "model.safetensors")
    save_file({"x.weight": one, "y.weight": one, "z.weight": zero}, tmp_path / "b" / "model.safetensors")
    found = netweight.compare(tmp_path / "a", tmp_path / "b")["layer_comparisons"]
    assert [found[f"{name}.weight"]["sqnr_db"] for name in "yxz"] == [
        math.inf, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True),
    ]  # fmt: skip


def test_several_side_by_side(models, tmp_path):
    original, file, decoded = models
    other, held = write_gguf(tmp_path / "q8.gguf", dict.fromkeys(MIXED, "Q8_0"))
    result = compare_to(original, [str(other), str(file)], output=tmp_path / "r.json", plots=tmp_path / "plots")
    assert list(result.quantisations) == [str(file), str(other)]  # the fewest bits first
    source = weights()
    for ref, values in ((str(file), decoded), (str(other), held)):
        wanted = sqnr([(source[n], values[n]) for n in source])
        assert result.quantisations[ref].total["sqnr_db"] == pytest.approx(wanted, rel=1e-9)
    written = json.loads((tmp_path / "r.json").read_text())
    assert (
        written["models"][str(other)]["total"]["bits_per_weight_b"]
        == result.quantisations[str(other)].total["bits_per_weight_b"]
    )
    pictures = sorted(path.name for path in (tmp_path / "plots").iterdir() if path.suffix == ".png")
    assert pictures == ["bits_and_error.png", "sqnr_by_block_and_role_1.png", "sqnr_by_block_and_role_2.png"]
    compare_to(original, [str(other), str(file)], output=tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * len(source)
    assert {row["model"] for row in rows} == {str(file), str(other)}
    with pytest.raises(OptionError, match="is named twice"):
        compare_to(original, [str(file), str(file)])
    with pytest.raises(OptionError, match="got none"):
        compare_to(original, [])


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netweight", *map(str, args)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_info_says_what_a_weight_takes(models):
    _, file, _ = models
    found = {row.dtype: row for row in netweight.info(file).dtypes}
    assert {kind: row.bits_per_weight for kind, row in found.items()} == {
        "Q4_0": 4.5,
        "Q5_1": 6,
        "Q8_0": 8.5,
        "F32": 32,
    }
    assert found["Q4_0"].elements == 2 * 96 * 64
    shown = run("info", file).stdout
    assert "stored as" in shown
    assert "bits each" in shown


def test_the_command(models, tmp_path):
    original, file, _ = models
    done = run("compare", original, file, "--plots", tmp_path / "plots")
    assert done.returncode == 0, done.stderr
    assert "lowest SQNR" in done.stdout
    assert "stored as" in done.stdout
    for name in ("sqnr_by_block_and_role.png", "bits_and_error.png"):
        assert (tmp_path / "plots" / name).read_bytes()[:4] == b"\x89PNG"
    other, _ = write_gguf(tmp_path / "q8.gguf", dict.fromkeys(MIXED, "Q8_0"))
    both = run("compare", file, other, "--to", original)
    assert both.returncode == 0, both.stderr
    assert "SQNR dB by role" in both.stdout
    assert json.loads(run("compare", file, "--to", original, "--format", "json").stdout)["original"] == str(original)
    for idle in (("--dry-run",), ("--model1", file)):
        refused = run("compare", file, "--to", original, *idle)
        assert (refused.returncode, f"{idle[0]}" in refused.stderr, refused.stdout) == (2, True, "")
    (tmp_path / "taken").write_text("")
    (tmp_path / "r.json").mkdir()
    for place in (("--plots", tmp_path / "taken"), ("--output", tmp_path / "r.json")):
        refused = run("compare", file, "--to", original, *place)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1), refused.stderr
    bad = run("compare", file, "--to", original, "--methods", "spectral")
    assert (bad.returncode, "--methods: has no effect with --to" in bad.stderr) == (2, True)


def test_what_is_to_read_is_what_files_hold(models, tmp_path):
    """Not what comes out of them: the plans of every job that reads all weights, and how far they are."""
    original, file, _ = models
    held = weights()
    dense = sum(array.nbytes for array in held.values())
    packed = sum(round(array.size * BITS[MIXED.get(name)] / 8) for name, array in held.items())
    assert packed < dense / 2
    output = tmp_path / "out"
    for command, wanted in (
        (("compare", original, file), dense + packed),
        (("delta", "--base", original, "--models", file, "--outdir", output), dense + packed),
        (("scan", file), packed),
        (("merge", "--base", original, "--models", file, "--method", "ties", "--output", output), 2 * (dense + packed)),
        (("structure", file, "--deep"), packed),
    ):
        done = run(*command, "--dry-run", "--format", "json")
        assert done.returncode == 0, (command, done.stderr)
        assert json.loads(done.stdout)["bytes_to_read"] == wanted, command
    done = json.loads(run("estimate", file, "--job", "structure", "--deep", "--format", "json").stdout)
    assert done["bytes_to_read"] == packed


def test_stretches_of_files_add_up(models):
    _, file, _ = models
    with netweight.open(file) as checkpoint:
        for tensor in checkpoint.values():
            for cut in (0, 1, 7, tensor.size // 3, tensor.size - 1, tensor.size):
                parts = tensor.file_bytes_of(0, cut), tensor.file_bytes_of(cut, tensor.size)
                assert sum(parts) == tensor.file_bytes
                assert parts[0] == pytest.approx(cut * tensor.file_bytes / tensor.size, abs=1)


def test_its_page_sets_bits_against_error(models, tmp_path) -> None:
    """Of the quantised side, whichever it is; of two that are stored as they are, none."""
    original, quantised, _ = models
    for pair, bits in (((original, quantised), "bits_per_weight_b"), ((quantised, original), "bits_per_weight")):
        found = netweight.compare(*pair)
        found.report(tmp_path / "c.html")
        (section,) = data_of((tmp_path / "c.html").read_text(encoding="utf-8"))["sections"]
        assert section["against"] == [bits, "relative_l2_distance"]
        columns = {column["name"]: cells_of(column) for column in section["columns"]}
        side = 1 if bits.endswith("_b") else 0
        assert columns[bits] == [p.bits[side] for p in found.parameters]
        assert section["order"] == "change_score"
    netweight.compare(original, original).report(tmp_path / "d.html")
    (section,) = data_of((tmp_path / "d.html").read_text(encoding="utf-8"))["sections"]
    assert section["against"] == []
