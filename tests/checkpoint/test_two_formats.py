"""Files that fit two formats: a name that ends in .safetensors decides, else they are refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

import netweight
from netweight.errors import FormatError

PROTO = b"\x80\x02"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def member(name: str, data: bytes) -> bytes:
    head = bytearray(512)
    head[: len(name)] = name.encode()
    head[124:136] = b"%011o\0" % len(data)
    head[156:157] = b"0"
    head[257:263] = b"ustar\0"
    return bytes(head) + data + bytes(-len(data) % 512)


def torch_tar() -> bytes:
    storages = (
        PROTO + b"K\x01." + PROTO + text("1") + text("cpu") + b"ctorch\nFloatStorage\n\x87."
        + struct.pack("<q4f", 4, 666, 666, 666, 666) + PROTO + b"]."
    )  # fmt: skip
    tensors = (
        PROTO + b"K\x01." + PROTO + text("7") + text("1") + b"ctorch\nFloatTensor\n\x87."
        + struct.pack("<qqqq", 1, 4, 1, 0)
    )  # fmt: skip
    pickle = PROTO + b"}" + text("w") + text("7") + b"Qs."
    parts = (("storages", storages), ("tensors", tensors), ("pickle", pickle))
    return b"".join(member(name, data) for name, data in parts) + bytes(1024)


def safetensors_and_tar() -> bytes:
    """A safetensors file whose header is the first member of a tar archive."""
    tar = torch_tar()
    opening = '{"__metadata__":{"a":"'
    block = bytearray(b" " * 504)
    block[: len(opening)] = opening.encode()
    block[116:128] = b"%011o " % 512
    block[249:255] = b"ustar "
    rest = {"dtype": "U8", "shape": [len(tar)], "data_offsets": [0, len(tar)]}
    weight = {"dtype": "F32", "shape": [4], "data_offsets": [len(tar), len(tar) + 16]}
    header = bytes(block) + f'"}},"rest":{json.dumps(rest)},"w":{json.dumps(weight)}}}'.encode()
    header = header.ljust(1016)
    return struct.pack("<Q", len(header)) + header + tar + struct.pack("<4f", 1, 2, 3, 4)


def test_the_parts_are_what_they_are_meant_to_be(tmp_path):
    (tmp_path / "m.tar").write_bytes(torch_tar())
    with netweight.open(tmp_path / "m.tar") as checkpoint:
        assert checkpoint["w"].read().tolist() == [666.0] * 4


def test_a_safetensors_file_is_read_as_that_package_reads_it(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_and_tar())
    expected = safetensors.numpy.load_file(path)
    for place in (path, tmp_path):
        with netweight.open(place) as checkpoint:
            assert checkpoint.format == "safetensors"
            assert {n: t.read().tobytes() for n, t in checkpoint.items()} == {
                n: a.tobytes() for n, a in expected.items()
            }


@pytest.mark.parametrize("name", ["model.bin", "model", "model.tar"])
def test_elsewhere_it_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(safetensors_and_tar())
    with pytest.raises(FormatError, match="could be torch tar or safetensors, which would be other tensors"):
        netweight.open(tmp_path / name)


def test_a_header_as_long_as_a_zip_begins(tmp_path):
    """PK, 3 and 4 are also the length of a header of 67 MB."""
    length = int.from_bytes(b"PK\x03\x04", "little")
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + struct.pack("<4f", 1, 2, 3, 4))
    with netweight.open(path) as checkpoint:
        assert checkpoint["w"].read().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("length", [0x80, 0x180, 0x280, 0x380, 0x480, 0x580])
def test_a_header_as_long_as_a_pickle_begins(tmp_path, length):
    """A hub's cache names files by their digests: the length of a header is no pickle."""
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(length)
    (tmp_path / "blob").write_bytes(struct.pack("<Q", length) + header + struct.pack("<4f", 1, 2, 3, 4))
    with netweight.open(tmp_path / "blob") as checkpoint:
        assert checkpoint.format == "safetensors"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_that_is_called_safetensors(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(4)}, tmp_path / "m.safetensors", _use_new_zipfile_serialization=zipped)
    kind = "torch zip" if zipped else "torch legacy"
    with pytest.raises(FormatError, match=f"is no safetensors file, though its name says so, but .* {kind}; give it"):
        netweight.open(tmp_path / "m.safetensors")


def test_an_archive_of_arrays_is_of_numpy(tmp_path):
    np.savez(tmp_path / "m.npz", w=np.ones(4, np.float32))
    with netweight.open(tmp_path / "m.npz") as checkpoint:
        assert checkpoint.format == "npz"
