"""Rows of several tensors put together by token, at any place, against numpy."""

import pickle
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensors.token_rows import MEAN, ZERO, TokenRows
from netweight.dtypes import DTYPES

COLS, ROWS = 5, 300


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(tensors of the dtypes F32, BF16, F64, their values)."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((ROWS, COLS)).astype(t) for t in ("f4", ml_dtypes.bfloat16, "f8")]
    path = tmp_path_factory.mktemp("rows") / "m.safetensors"
    save_file({str(n): value for n, value in enumerate(values)}, path)
    checkpoint = open_checkpoint(path)
    return [checkpoint[str(n)] for n in range(3)], values


def rows_of(made, use, seed, *, means=True):
    tensors, values = made
    rng = np.random.default_rng(seed)
    origins = rng.integers(0, len(use), ROWS)
    rows = rng.integers(0, ROWS, ROWS)
    origins[50:150], rows[50:150] = 0, np.arange(50, 150)  # a long stretch
    groups = {}
    if means:
        origins[rng.integers(0, ROWS, 40)] = ZERO
        for at in rng.integers(0, ROWS, 20):
            origins[at] = MEAN
            groups[int(at)] = tuple((n, int(rng.integers(0, ROWS))) for n in range(len(use)))
        groups = {at: group for at, group in groups.items() if origins[at] == MEAN}
    sources = [values[n].astype("f8") for n in use]
    expected = np.zeros((ROWS, COLS))
    for at in range(ROWS):
        if origins[at] >= 0:
            expected[at] = sources[origins[at]][rows[at]]
        elif origins[at] == MEAN:
            expected[at] = np.mean([sources[n][row] for n, row in groups[at]], axis=0)
    names = {tensors[n].dtype.name for n in use}
    dtype = tensors[use[0]].dtype if len(names) == 1 and not means else DTYPES["F64" if "F64" in names else "F32"]
    return TokenRows("e", (ROWS, COLS), dtype, tuple(tensors[n] for n in use), origins, rows, groups), expected


@pytest.mark.parametrize("use", [(0,), (1,), (2,), (0, 1), (1, 0), (1, 2)])
@pytest.mark.parametrize("means", [True, False])
def test_the_whole(made, use, means):
    tensor, expected = rows_of(made, use, 1, means=means)
    np.testing.assert_array_equal(tensor.read(), expected.astype(tensor.dtype.to_numpy()))
    again = pickle.loads(pickle.dumps(tensor))
    np.testing.assert_array_equal(again.read(), tensor.read())
    assert tensor.written == tensor.sources[0].dtype
    counted = [int((tensor.origins == n).sum()) for n in range(len(use))]
    for group in tensor.means.values():
        for n, _ in group:
            counted[n] += 1
    assert tensor.file_bytes == sum(c * COLS * s.dtype.bits // 8 for c, s in zip(counted, tensor.sources, strict=True))


class Recorder:
    """A source that keeps what it is told."""

    def __init__(self):
        self.hints = []

    def prefetch(self, offset, size):
        self.hints.append((offset, size))


def test_hints(made):
    """Neighbouring rows: their own bytes; rows that lie apart: the same part of every source."""
    recorders = Recorder(), Recorder()
    tensors = [replace(t, source=r, offset=0) for t, r in zip(made[0][:2], recorders, strict=True)]
    apart = np.random.default_rng(1).permutation(ROWS)
    halves = np.repeat([0, 1], ROWS // 2)
    for rows, origins, expected in (
        (np.arange(ROWS), halves, ([((ROWS // 2 - 1) * COLS * 4, COLS * 4)], [(ROWS // 2 * COLS * 2, COLS * 2)])),
        (apart, np.zeros(ROWS, int), tuple([((ROWS // 2 - 1) * COLS * n, 2 * COLS * n)] for n in (4, 2))),
    ):
        TokenRows("e", (ROWS, COLS), DTYPES["F32"], tuple(tensors), origins, rows, {}).prefetch(
            (ROWS // 2 - 1) * COLS, 2 * COLS
        )
        for recorder, hints in zip(recorders, expected, strict=True):
            assert recorder.hints == hints
            recorder.hints = []


@given(st.integers(0, ROWS * COLS), st.integers(0, ROWS * COLS), st.integers(0, 3))
def test_any_part(made, start, stop, seed):
    start, stop = min(start, stop), max(start, stop)
    tensor, expected = rows_of(made, (1, 0), seed)
    out = np.full(stop - start, np.nan, "f4")
    tensor.read_into(start, out.view(np.uint8).data)
    np.testing.assert_array_equal(out, expected.astype("f4").reshape(-1)[start:stop])
    read = sum(size for _, _, size in tensor.bytes_of(start, stop - start))
    held = {n: s.dtype.bits // 8 for n, s in enumerate(tensor.sources)}
    size = 0
    for element in range(start, stop):
        row = element // COLS
        origin = int(tensor.origins[row])
        size += held[origin] if origin >= 0 else sum(held[n] for n, _ in tensor.means.get(row, ()))
    assert read == size
