"""Every block type of GGUF against the `gguf` package, bit for bit; what it does not decode against its definition."""

from __future__ import annotations

import pickle

import gguf_files
import numpy as np
import pytest
from ends_checks import check_ends, low_and_high

import netweight
from netweight.checkpoint.gguf.types import TYPES
from netweight.checkpoint.tensors.ends import ends_of

gguf = pytest.importorskip("gguf")
NUMBERS = {row.name: number for number, row in TYPES.items()}
OWN = {"Q8_1", "Q8_K", "Q1_0", "Q2_0"}
"""What the package knows and does not decode."""


def test_types_are_the_package_s():
    known = {kind.name: kind.value for kind in gguf.GGMLQuantizationType}
    sizes = gguf.constants.GGML_QUANT_SIZES
    for row in TYPES.values():
        if row.name in known and row.name != "Q8_1":  # ggml has two float16 there, the package counts two float32
            assert NUMBERS[row.name] == known[row.name]
            assert (row.numbers, row.size) == sizes[gguf.GGMLQuantizationType[row.name]]
    assert {name for name in known if name not in NUMBERS} == {
        "F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64",
    }  # fmt: skip


def blocks_of(name: str, count: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, bytes]: any bytes, then blocks of one byte each, then scales of every float16 that is special."""
    row = TYPES[NUMBERS[name]]
    made = np.random.default_rng(seed).integers(0, 256, (count, row.size), dtype=np.uint8)
    made[:256] = np.arange(256, dtype=np.uint8)[:, None]
    special = np.array([0, 0x8000, 1, 0x03FF, 0x0400, 0x7BFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00], np.uint16)
    for at, pattern in enumerate(special):
        rows = made[256 + 32 * at : 288 + 32 * at]
        for place in (0, 2, row.size - 4, row.size - 2):  # wherever a type has its scales
            rows[:, place : place + 2] = np.frombuffer(pattern.tobytes(), np.uint8)
    return made


def expected(name: str, blocks: np.ndarray) -> np.ndarray:
    """float32 [count, numbers]."""
    with np.errstate(all="ignore"):
        if name not in OWN:
            return gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
        if name == "Q8_K":
            return blocks[:, :4].copy().view(np.float32) * blocks[:, 4:260].view(np.int8).astype(np.float32)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        if name == "Q8_1":
            return scale * blocks[:, 4:].view(np.int8).astype(np.float32)
        if name == "Q1_0":
            return np.where(np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") == 1, scale, -scale)
        codes = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
        return scale * (codes.reshape(len(blocks), -1).astype(np.float32) - np.float32(1))


def same_bits(read: np.ndarray, wanted: np.ndarray) -> None:
    nan = np.isnan(wanted)
    assert read.dtype == wanted.dtype == np.float32
    assert np.array_equal(np.isnan(read), nan)
    assert np.array_equal(read[~nan].view(np.uint32), wanted[~nan].view(np.uint32))


def write(path, name: str, blocks: np.ndarray, shape: tuple[int, ...]):
    path.write_bytes(gguf_files.gguf([], [("x", shape, NUMBERS[name], blocks.tobytes())]))
    return path


@pytest.mark.parametrize("name", NUMBERS)
def test_all_bytes(tmp_path, name):
    blocks = blocks_of(name, 1200)
    numbers = TYPES[NUMBERS[name]].numbers
    with netweight.open(write(tmp_path / "a.gguf", name, blocks, (300, 4 * numbers))) as model:
        tensor = model["x"]
        assert tensor.stored == name
        assert tensor.file_bytes == blocks.size
        assert str(tensor.dtype) == "F32"
        same_bits(tensor.read().ravel(), expected(name, blocks).ravel())


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "IQ3_XXS", "NVFP4", "Q2_0"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 3, 2)])
def test_any_part(tmp_path, name, shape):
    """Elements from anywhere, as many as one likes: blocks are cut on both sides."""
    row = TYPES[NUMBERS[name]]
    blocks = blocks_of(name, 576 + int(np.prod(shape)), 3)[576:]
    full = (*shape[:-1], shape[-1] * row.numbers)
    with netweight.open(write(tmp_path / "a.gguf", name, blocks, full)) as model:
        wanted = expected(name, blocks).ravel()
        tensor = model["x"]
        for start in (0, 1, row.numbers - 1, row.numbers, len(wanted) - 1):
            for count in (1, 2, row.numbers, row.numbers + 1, len(wanted)):
                if start + count <= len(wanted):
                    out = np.empty(count, np.float32)
                    tensor.read_into(start, out.view(np.uint8).data)
                    same_bits(out, wanted[start : start + count])
        same_bits(pickle.loads(pickle.dumps(tensor)).read().ravel(), wanted)


@pytest.mark.parametrize(("rows", "note"), [(200, ""), (2, "Q2_0 is read in blocks of 64 as ggml has it")])
def test_the_fork_s_blocks_of_q2_0(tmp_path, rows, note):
    """One number, two layouts: of 64 and of 128. Where tensors lie tells which, a note where it does not."""
    made = np.random.default_rng(5).integers(0, 256, (3 * rows, 34), dtype=np.uint8)
    made[:, 1] &= 0x3F
    tensors = [("x", (rows, 384), 42, made.tobytes()), ("y", (1, 128), 42, made[:1].tobytes())]
    (tmp_path / "a.gguf").write_bytes(gguf_files.gguf([], tensors))
    codes = (made[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    scale = made[:, :2].copy().view(np.float16).astype(np.float32)
    wanted = scale * (codes.reshape(-1, 128).astype(np.float32) - np.float32(1))
    with netweight.open(tmp_path / "a.gguf") as model:
        if note:
            assert any(note in line for line in model.notes)
            return
        same_bits(model["x"].read(), wanted.reshape(rows, 384))
        same_bits(model["y"].read(), wanted[:1])


@pytest.mark.parametrize("name", [name for name in NUMBERS if not name.startswith(("IQ1", "IQ2", "IQ3"))])
def test_how_far_codes_reach(tmp_path, name):
    """With scales of any bits no code is beyond the ends; with these scales and all codes, ends and last steps are
    those of the numbers that come out.
    """
    random = np.random.default_rng(8)
    row = TYPES[NUMBERS[name]]
    blocks = random.integers(0, 256, (800, row.size), dtype=np.uint8)
    if name == "TQ2_0":
        blocks[:, :64] = random.choice(np.array([0x00, 0x55, 0x64, 0x1A, 0xAA], np.uint8), (800, 64))  # of 0, 1 and 2
    with netweight.open(write(tmp_path / "a.gguf", name, blocks, (800, row.numbers))) as model:
        tensor = model["x"]
        check_ends(tensor)
        ends = ends_of(tensor)
        low, high = low_and_high(tensor)
        turned = ends.low.read() == high
        codes = slice(ends.low.codes.first, ends.low.codes.stop)
    size = np.maximum(abs(low), abs(high))
    tried = 0
    for at in np.flatnonzero(((high - low > size / 100) & (size > 1e-30) & (size < 1e30)).all(axis=1))[:5]:
        made = np.repeat(blocks[at : at + 1], 5000, axis=0)
        made[:, codes] = random.choice(blocks[:, codes].ravel(), (5000, codes.stop - codes.start))
        decoded = expected(name, made).astype(np.float64)
        for place in (0, 1, row.numbers // 2, row.numbers - 1):
            levels = np.unique(decoded[:, place])
            assert (levels[0], levels[-1]) == (low[at, place], high[at, place])
            steps = (levels[1] - levels[0], levels[-1] - levels[-2])
            assert np.array(steps) / 2 / (levels[-1] - levels[0]) == pytest.approx(
                (ends.above, ends.below) if turned[at, place] else (ends.below, ends.above), rel=1e-3
            )
        tried += 1
    assert tried


@pytest.mark.parametrize("name", [name for name in NUMBERS if name.startswith(("IQ1", "IQ2", "IQ3"))])
def test_codebooks_have_no_ends(tmp_path, name):
    with netweight.open(write(tmp_path / "a.gguf", name, blocks_of(name, 600), (600, 256))) as model:
        assert ends_of(model["x"]) is None
