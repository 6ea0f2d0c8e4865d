"""Rearranged tensors against numpy: slices, stacks, transposes and rows that take turns, read from anywhere."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors import rearranged
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.source.held import HeldBytes

TYPES = {"F32": np.float32, "BF16": np.uint16, "F64": np.float64, "F8_E4M3": np.uint8, "C128": np.complex128}


def stored(values, dtype, name="t"):
    return StoredTensor(name, values.shape, DTYPES[dtype], HeldBytes(memoryview(values.tobytes()), f"{name}.bin"), 0)


def numbers(shape, dtype, seed=0):
    raw = np.random.default_rng(seed).integers(0, 200, shape)
    return raw.astype(TYPES[dtype])


def check(tensor, expected):
    """Every range of `tensor` reads what numpy has: whole, single elements, and ranges that begin anywhere."""
    flat = np.ascontiguousarray(expected).reshape(-1)
    assert tensor.shape == expected.shape
    assert tensor.size == flat.size
    rng = np.random.default_rng(1)
    ranges = [(0, flat.size), (flat.size, flat.size), (0, 0), (flat.size - 1, flat.size)]
    ranges += [tuple(sorted(rng.integers(0, flat.size + 1, 2))) for _ in range(60)]
    for start, stop in ranges:
        out = np.full(stop - start, 77, flat.dtype)
        tensor.read_into(int(start), out.view(np.uint8).data)
        assert out.tobytes() == flat[start:stop].tobytes(), (start, stop)
    with pytest.raises(ValueError, match="elements"):
        tensor.read_into(flat.size, np.zeros(1, flat.dtype).view(np.uint8).data)


@pytest.mark.parametrize("dtype", TYPES)
def test_stack_of_experts(dtype):
    gates, ups = ([numbers((6, 5), dtype, 10 * k + e) for e in range(3)] for k in (1, 2))
    placed = [
        Placed(range(12 * e + 6 * k, 12 * e + 6 * k + 6), range(5), stored(x, dtype, f"{k}{e}"), 0, 5, 1)
        for e in range(3)
        for k, x in enumerate((gates[e], ups[e]))
    ]
    tensor = RearrangedTensor("x", (3, 12, 5), DTYPES[dtype], 5, tuple(placed))
    check(tensor, np.stack([np.concatenate(pair) for pair in zip(gates, ups, strict=True)]))
    assert [part.name for part in tensor.parts] == ["00", "10", "01", "11", "02", "12"]
    assert tensor.where == "00.bin"


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_that_take_turns_and_stored_transposed(dtype):
    """gpt-oss: [experts, in, 2 * out], gate and up in turns; from single matrices [out, in], and back."""
    gates, ups = ([numbers((6, 5), dtype, 10 * k + e) for e in range(3)] for k in (1, 2))
    placed = [
        Placed(range(5 * e, 5 * e + 5), range(k, 12, 2), stored(x, dtype, f"{k}{e}"), 0, 1, 5)
        for e in range(3)
        for k, x in enumerate((gates[e], ups[e]))
    ]
    stack = np.zeros((3, 5, 12), TYPES[dtype])
    stack[:, :, 0::2] = np.stack(gates).transpose(0, 2, 1)
    stack[:, :, 1::2] = np.stack(ups).transpose(0, 2, 1)
    tensor = RearrangedTensor("x", (3, 5, 12), DTYPES[dtype], 12, tuple(placed))
    check(tensor, stack)
    for inner in (stored(stack, dtype), tensor):  # they nest
        one = Placed(range(6), range(5), inner, 2 * 60 + 1, 2, 12)
        check(RearrangedTensor("u", (6, 5), DTYPES[dtype], 5, (one,)), ups[2])


def test_rows_in_turns():
    x = numbers((8, 3), "F32")
    odd = RearrangedTensor("x", (4, 3), DTYPES["F32"], 3, (Placed(range(4), range(3), stored(x, "F32"), 3, 6, 1),))
    check(odd, x[1::2])
    far = RearrangedTensor("x", (2, 3), DTYPES["F32"], 3, (Placed(range(2), range(3), stored(x, "F32"), 3, 12, 1),))
    check(far, x[1::4])
    evens, odds = stored(x[::2].copy(), "F32", "a"), stored(x[1::2].copy(), "F32", "b")
    both = tuple(Placed(range(k, 8, 2), range(3), t, 0, 3, 1) for k, t in enumerate((evens, odds)))
    check(RearrangedTensor("x", (8, 3), DTYPES["F32"], 3, both), x)
    halves = (
        Placed(range(8), range(2), stored(x[:, :2].copy(), "F32", "a"), 0, 2, 1),
        Placed(range(8), range(2, 3), stored(x[:, 2:].copy(), "F32", "b"), 0, 1, 1),
    )
    check(RearrangedTensor("x", (8, 3), DTYPES["F32"], 3, halves), x)


def test_small_rooms(monkeypatch):
    """Rows and slabs of a few elements at a time change nothing, and no more bytes of slabs are kept than are said."""
    monkeypatch.setattr(rearranged, "_ROWS", 40)
    monkeypatch.setattr(rearranged, "_SLAB", 64)
    monkeypatch.setattr(rearranged, "_SLABS", 2)
    x = numbers((9, 7), "F32")
    turned = RearrangedTensor("x", (7, 9), DTYPES["F32"], 9, (Placed(range(7), range(9), stored(x, "F32"), 0, 1, 7),))
    check(turned, x.T)
    assert sum(slab.nbytes for _, slab in rearranged._kept._slabs.values()) <= 2 * 64
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: check(turned, x.T), range(8)))


def test_small_slabs_of_several_tensors_are_kept_together(monkeypatch):
    """As of one weight's codes, scales and zero points: each is read once, though they are read in turns."""
    reads = []
    monkeypatch.setattr(rearranged, "_kept", rearranged._Kept())

    @dataclass(frozen=True)
    class Counted(StoredTensor):
        def read_into(self, start, out):
            reads.append(self.name)
            super().read_into(start, out)

    x = numbers((5, 7), "F32")
    inner = [Counted(f"{i}", x.shape, DTYPES["F32"], HeldBytes(memoryview(x.tobytes()), "x"), 0) for i in range(6)]
    tensors = [rearranged.turned(tensor) for tensor in inner]
    for row in range(7):
        for tensor in tensors:
            out = np.empty(5, np.float32)
            tensor.read_into(5 * row, out.view(np.uint8).data)
            assert np.array_equal(out, x[:, row])
    assert sorted(reads) == [f"{i}" for i in range(6)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (130, 70), (65, 4000), (3, 20_000)])
@pytest.mark.parametrize("dtype", ["U8", "BF16", "I32", "F64"])
def test_turned(shape, dtype):
    """Lines that are read together, and lines that lie apart; whole blocks and parts of them."""
    x = (np.arange(shape[0] * shape[1]) % 251).astype(np.uint8).reshape(shape)
    x = x if dtype == "U8" else x.astype({"BF16": np.uint16, "I32": np.int32, "F64": np.float64}[dtype])
    inner = StoredTensor("x", shape, DTYPES[dtype], HeldBytes(memoryview(x.tobytes()), "x"), 0)
    tensor = rearranged.turned(inner)
    assert (tensor.name, tensor.shape, tensor.file_bytes) == ("x", shape[::-1], inner.nbytes)
    out = np.empty(shape[::-1], x.dtype)
    tensor.read_into(0, out.reshape(-1).view(np.uint8).data)
    assert np.array_equal(out, x.T)


def test_lines_that_lie_apart(monkeypatch):
    """Of a wide matrix a slab has a part of every line, which is read by itself."""
    monkeypatch.setattr(rearranged, "_GAP", 0)
    monkeypatch.setattr(rearranged, "_SLAB", 1 << 12)
    x = numbers((130, 900), "F32")
    check(rearranged.turned(stored(x, "F32")), x.T)


def test_pickles_by_its_parts(tmp_path):
    from netweight.source.local import open_local

    x = numbers((4, 6), "F32")
    (tmp_path / "x").write_bytes(x.tobytes())
    inner = StoredTensor("x", (4, 6), DTYPES["F32"], open_local(tmp_path / "x"), 0)
    tensor = RearrangedTensor("t", (6, 4), DTYPES["F32"], 4, (Placed(range(6), range(4), inner, 0, 1, 6),))
    check(tensor, x.T)  # the bands are made
    check(pickle.loads(pickle.dumps(tensor)), x.T)


def test_bytes_are_those_that_are_read():
    """What is announced and prefetched covers what is read."""
    x = numbers((6, 4), "F32")
    asked: set[int] = set()

    @dataclass(frozen=True)
    class Spied(StoredTensor):
        def read_into(self, start, out):
            asked.update(range(start, start + len(out) // 4))
            super().read_into(start, out)

    inner = Spied("x", x.shape, DTYPES["F32"], HeldBytes(memoryview(x.tobytes()), "x"), 0)
    for placed, shape in (
        (Placed(range(4), range(6), inner, 0, 1, 4), (4, 6)),
        (Placed(range(3), range(4), inner, 4, 8, 1), (3, 4)),
        (Placed(range(2), range(4), inner, 4, 4, 1), (2, 4)),
    ):
        tensor = RearrangedTensor("t", shape, DTYPES["F32"], shape[1], (placed,))
        for start in range(0, tensor.size - 2, 3):
            asked.clear()
            rearranged._kept._slabs.clear()
            tensor.read_into(start, memoryview(bytearray(4 * 3)))
            told = {i for s in tensor.bytes_of(start, 3) for i in range(s.offset // 4, (s.offset + s.size) // 4)}
            assert asked <= told


@dataclass(frozen=True)
class Doubling(Tensor):
    """A toy decoder: twice what another tensor holds."""

    inner: Tensor

    where = property(lambda self: self.inner.where)
    parts = property(lambda self: self.inner.parts)

    def bytes_of(self, start, count):
        return self.inner.bytes_of(start, count)

    def read_into(self, start, out):
        self.inner.read_into(start, out)
        np.frombuffer(out, np.float32)[:] *= 2


def test_over_a_tensor_that_is_decoded():
    x = numbers((4, 6), "F32")
    decoded = Doubling("d", x.shape, DTYPES["F32"], stored(x, "F32"))
    tensor = RearrangedTensor("t", (6, 4), DTYPES["F32"], 4, (Placed(range(6), range(4), decoded, 0, 1, 6),))
    check(tensor, 2 * x.T)


@pytest.mark.parametrize(
    "kind", ["transposed", "turned and back", "in turns, transposed", "side by side", "one long row"]
)
def test_memory_is_bounded(tmp_path, kind):
    """Up to 64 MiB, mostly holes: a thread that reads blocks of 2^16 elements holds what `scratch` says."""
    from netweight.source.local import open_local

    rows, cols, block = {"one long row": 128, "turned and back": 512}.get(kind, 2048), 4096, 1 << 16
    path = tmp_path / "experts.bin"
    path.touch()
    os.truncate(path, 2 * rows * cols * 4)  # holes
    marks = {(0, 0, 0): 1.0, (0, 7, 4095): 2.0, (1, rows - 1, 3): 3.0, (1, 20, 2000): 4.0}
    with path.open("r+b") as file:
        for (e, i, j), value in marks.items():
            file.seek(4 * ((e * rows + i) * cols + j))
            file.write(np.float32(value).tobytes())
    source = open_local(path)
    inner = [StoredTensor(f"{e}", (rows, cols), DTYPES["F32"], source, e * rows * cols * 4) for e in range(2)]
    if kind == "transposed":
        shape = 2, cols, rows
        placed = [Placed(range(e * cols, (e + 1) * cols), range(rows), t, 0, 1, cols) for e, t in enumerate(inner)]
        place = {(e, j, i): value for (e, i, j), value in marks.items()}
    elif kind == "turned and back":
        shape = 2, rows, cols
        turned = [
            RearrangedTensor("", (cols, rows), t.dtype, rows, (Placed(range(cols), range(rows), t, 0, 1, cols),))
            for t in inner
        ]
        placed = [Placed(range(e * rows, (e + 1) * rows), range(cols), t, 0, 1, rows) for e, t in enumerate(turned)]
        place = marks
    elif kind == "in turns, transposed":
        shape = cols, 2 * rows
        placed = [Placed(range(cols), range(e, 2 * rows, 2), t, 0, 1, cols) for e, t in enumerate(inner)]
        place = {(j, 2 * i + e): value for (e, i, j), value in marks.items()}
    elif kind == "side by side":
        shape = rows, 2 * cols
        placed = [Placed(range(rows), range(e * cols, (e + 1) * cols), t, 0, cols, 1) for e, t in enumerate(inner)]
        place = {(i, e * cols + j): value for (e, i, j), value in marks.items()}
    else:
        shape = 1, 2 * rows * cols
        placed = [Placed(range(1), range(e, shape[1], 2), t, 0, rows * cols, 1) for e, t in enumerate(inner)]
        place = {(0, 2 * (i * cols + j) + e): value for (e, i, j), value in marks.items()}
    tensor = RearrangedTensor("t", shape, DTYPES["F32"], shape[-1], tuple(placed))
    found = {}

    def stream():
        room = np.empty(block, np.float32)
        for start in range(0, tensor.size, block):
            tensor.read_into(start, room.view(np.uint8).data)
            for at in np.flatnonzero(room):
                found[tuple(int(i) for i in np.unravel_index(start + at, shape))] = float(room[at])

    with ThreadPoolExecutor(1) as pool:
        pool.submit(sum, ()).result()  # the thread itself
        tracemalloc.start()
        try:
            pool.submit(stream).result()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == place
    assert peak < tensor.scratch + (1 << 20)
