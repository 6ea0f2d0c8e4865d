from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from netweight.dtypes import DTYPES
from netweight.errors import OutputError
from netweight.output.safetensors_file import (
    TensorEntry,
    file_size,
    header_bytes,
    write_safetensors,
    write_safetensors_blocks,
)

NUMPY_TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]


@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_the_safetensors_package_reads_every_numpy_type_back(tmp_path, name):
    array = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(name)
    write_safetensors(tmp_path / "m.safetensors", {"a": array, "empty": array[:0], "scalar": array[0, 0].reshape(())})
    with safetensors.safe_open(tmp_path / "m.safetensors", "np") as file:
        for key, wanted in {"a": array, "empty": array[:0], "scalar": array[0, 0].reshape(())}.items():
            found = file.get_tensor(key)
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape
            assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [
        (ml_dtypes.bfloat16, torch.bfloat16),
        (ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn),
        (ml_dtypes.float8_e5m2, torch.float8_e5m2),
    ],
)
def test_torch_reads_the_small_floats_back(tmp_path, dtype, torch_dtype):
    array = np.linspace(-3, 3, 24, dtype=np.float32).astype(dtype).reshape(4, 6)
    write_safetensors(tmp_path / "m.safetensors", {"a": array})
    found = safetensors.torch.load_file(tmp_path / "m.safetensors")["a"]
    assert found.dtype == torch_dtype
    assert np.array_equal(found.to(torch.float64).numpy(), array.astype(np.float64))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=12).filter(lambda name: name != "__metadata__"),
        hnp.arrays(
            st.sampled_from([np.dtype(name) for name in NUMPY_TYPES]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        ),
        max_size=5,
    )
)
def test_round_trip_of_any_names_and_shapes(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("round") / "m.safetensors"
    write_safetensors(path, tensors)
    found = safetensors.numpy.load_file(path)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_strided_and_big_endian_arrays_are_written_in_order(tmp_path):
    array = np.arange(24, dtype=">f4").reshape(4, 6)
    write_safetensors(tmp_path / "m.safetensors", {"t": array.T, "s": array[::2, 1::2]})
    found = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert np.array_equal(found["t"], array.T)
    assert np.array_equal(found["s"], array[::2, 1::2])


def test_order_metadata_and_alignment(tmp_path):
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"z": np.zeros(3, "f4"), "a": np.zeros(5, "u1")}, {"format": "pt", "häher": "✓"})
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    assert list(header) == ["__metadata__", "z", "a"]
    assert header["a"]["data_offsets"] == [12, 17]
    assert len(raw) == 8 + length + 17
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "häher": "✓"}


def test_blocks_may_be_cut_anywhere(tmp_path):
    entries = {"a": TensorEntry(DTYPES["F32"], (3,)), "b": TensorEntry(DTYPES["I16"], (2, 2))}
    a, b = np.array([1, 2, 3], "f4"), np.array([[4, 5], [6, 7]], "i2")
    raw = a.tobytes() + b.tobytes()
    path = tmp_path / "m.safetensors"
    write_safetensors_blocks(path, entries, [raw[:5], bytearray(raw[5:13]), memoryview(raw[13:]), b""])
    found = safetensors.numpy.load_file(path)
    assert np.array_equal(found["a"], a)
    assert np.array_equal(found["b"], b)
    assert path.stat().st_size == file_size(entries)


@pytest.mark.parametrize(("given_bytes", "said"), [(11, "hold 11 bytes"), (13, "hold at least 13 bytes")])
def test_blocks_that_do_not_add_up_leave_the_old_file(tmp_path, given_bytes, said):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=f"the blocks for m.safetensors {said}; its tensors take 12"):
        write_safetensors_blocks(path, {"a": TensorEntry(DTYPES["F32"], (3,))}, [bytes(given_bytes)])
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_an_error_in_the_blocks_leaves_the_old_file(tmp_path):
    def blocks():
        yield bytes(4)
        raise OSError("reading failed")

    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="reading failed"):
        write_safetensors_blocks(path, {"a": TensorEntry(DTYPES["F32"], (3,))}, blocks())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("folder", ["none", "file"])
def test_a_folder_that_is_not_one_is_an_output_error(tmp_path, folder):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        write_safetensors(tmp_path / folder / "m.safetensors", {"a": np.zeros(2, "f4")})
    message = str(caught.value)
    assert message.startswith("cannot write ")
    assert message.endswith(" bytes are needed: check the folder's permissions and free space")
    assert "\n" not in message


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="tensor 'a' is C128, which safetensors does not have"):
        write_safetensors(path, {"a": np.zeros(2, "c16")})
    with pytest.raises(ValueError, match="tensor 'a' is of numpy type <U1, which safetensors does not have"):
        write_safetensors(path, {"a": np.array(["x"])})
    with pytest.raises(ValueError, match="a tensor cannot be named '__metadata__'"):
        write_safetensors(path, {"__metadata__": np.zeros(2, "f4")})
    with pytest.raises(ValueError, match="3 elements of F4 \\(4 bits each\\) do not fill whole bytes"):
        header_bytes({"a": TensorEntry(DTYPES["F4"], (3,))})
    with pytest.raises(ValueError, match="a block of shape \\(3, 2\\) is not contiguous"):
        write_safetensors_blocks(path, {"a": TensorEntry(DTYPES["F32"], (6,))}, [np.zeros((2, 3), "f4").T])
    assert list(tmp_path.iterdir()) == []
