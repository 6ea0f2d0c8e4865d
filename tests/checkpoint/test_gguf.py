"""GGUF files: the header against llama.cpp's own package, files that lie, sets of several files."""

from __future__ import annotations

import struct

import gguf_files
import numpy as np
import pytest
from gguf_files import field, info, text

import netweight
from netweight.checkpoint.gguf.header import Omitted, read_header
from netweight.errors import FormatError, ModelNotFoundError
from netweight.source.local import open_local

gguf = pytest.importorskip("gguf")
F32 = np.arange(6, dtype=np.float32).tobytes()


def test_a_file_of_the_package_s_writer(tmp_path):
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("some.float", 1e-5)
    writer.add_bool("some.flag", True)
    writer.add_string("some.text", "Wörter")
    writer.add_array("some.list", [1, 2, 3])
    writer.add_array("tokenizer.ggml.tokens", [f"t{n}" for n in range(1000)])
    made = np.random.default_rng(0)
    tensors = {
        "a": made.standard_normal((3, 5)).astype(np.float32),
        "b": made.standard_normal((2, 3, 7)).astype(np.float16),
        "c": made.integers(-9, 9, 11).astype(np.int32),
        "d": made.standard_normal((4, 3)),
    }
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(open_local(path))
    assert header.fields["llama.block_count"] == 3
    assert header.fields["some.float"] == np.float32(1e-5)
    assert header.fields["some.flag"] is True
    assert header.fields["some.text"] == "Wörter"
    assert header.fields["some.list"] == (1, 2, 3)
    assert header.fields["tokenizer.ggml.tokens"] == Omitted(1000)
    with netweight.open(path) as model:
        assert model.format == "gguf"
        assert list(model) == list(tensors)
        assert model.metadata["general.architecture"] == "llama"
        for name, array in tensors.items():
            assert model[name].shape == array.shape
            assert np.array_equal(model[name].read(), array)


def test_bfloat16(tmp_path):
    patterns = np.arange(6, dtype=np.uint16) * np.uint16(0x1234)
    (tmp_path / "a.gguf").write_bytes(gguf_files.gguf([], [("x", (2, 3), 30, patterns.tobytes())]))
    with netweight.open(tmp_path / "a.gguf") as model:
        assert str(model["x"].dtype) == "BF16"
        assert np.array_equal(model["x"].read().view(np.uint16).ravel(), patterns)


def test_version_1_counts_in_32_bits(tmp_path):
    head = b"GGUF" + struct.pack("<III", 1, 1, 2)
    head += text("general.architecture", "<I") + struct.pack("<I", 8) + text("none", "<I")
    head += text("words", "<I") + struct.pack("<IIIII", 9, 8, 2, 1, ord("a"))[:-3] + text("bc", "<I")
    head += text("x", "<I") + struct.pack("<IIIIQ", 2, 3, 2, 0, 0)
    (tmp_path / "a.gguf").write_bytes(head + b"\0" * (-len(head) % 32) + F32)
    with netweight.open(tmp_path / "a.gguf") as model:
        assert np.array_equal(model["x"].read(), np.arange(6, dtype=np.float32).reshape(2, 3))


def test_alignment(tmp_path):
    content = gguf_files.gguf(
        [field("general.alignment", "u32", 8)], [("x", (1,), 0, F32[:4]), ("y", (2,), 0, F32[:8])], alignment=8
    )
    (tmp_path / "a.gguf").write_bytes(content)
    with netweight.open(tmp_path / "a.gguf") as model:
        assert np.array_equal(model["y"].read(), [0, 1])


def test_bytes_of_no_tensor_are_told(tmp_path):
    (tmp_path / "a.gguf").write_bytes(gguf_files.gguf([], [("x", (6,), 0, F32)]) + b"\0" * 100)
    with netweight.open(tmp_path / "a.gguf") as model:
        assert any("100 bytes belong to no tensor" in note for note in model.notes)


X = ("x", (2, 3), 0, F32)
HUGE = 1 << 40
BAD = {
    "no version": (b"GGUF" + bytes(20), "is GGUF of version 0, expected 1 to 3"),
    "a version to come": (gguf_files.gguf([], [X], version=4), "is GGUF of version 4, expected 1 to 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 0), "big-endian order"),
    "tensors without end": (gguf_files.gguf([], [X], counts=(HUGE, 0)), f"says that it has {HUGE} tensors"),
    "key-values without end": (gguf_files.gguf([], [X], counts=(1, 1 << 63)), "key-values, for which its"),
    "a text without end": (
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62) + bytes(60),
        "its header goes on beyond its",
    ),
    "a list without end": (
        gguf_files.gguf([text("k") + struct.pack("<IIQ", 9, 4, 1 << 61)], []),
        f"says that it has {1 << 61} entries of 'k'",
    ),
    "a list of lists": (gguf_files.gguf([text("k") + struct.pack("<IIQ", 9, 9, 1)], []), "'k' is a list of type 9"),
    "a type of value": (gguf_files.gguf([text("k") + struct.pack("<I", 13)], []), "of type 13, which GGUF"),
    "a key twice": (
        gguf_files.gguf([field("k", "u32", 1), field("k", "u32", 2)], []), "has the key 'k' twice",
    ),
    "a tensor twice": (gguf_files.gguf([], [X, X]), "has the tensor 'x' twice"),
    "no UTF-8": (
        gguf_files.gguf([struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 0)], []), "is no UTF-8 text",
    ),
    "dimensions": (gguf_files.gguf([], [("x", (1,) * 5, 0, F32[:4])]), "has 5 dimensions, expected at most 4"),
    "a type of elements": (gguf_files.gguf([], [("x", (6,), 99, F32)]), "is of ggml's type 99, which is not known"),
    "a type that is gone": (gguf_files.gguf([], [("x", (6,), 4, F32)]), "is of ggml's type Q4_2, which ggml has"),
    "rows of part blocks": (gguf_files.gguf([], [("x", (2, 16), 2, bytes(18))]), "expected rows of whole blocks of 32"),
    "more than there is": (gguf_files.gguf([], [("x", (7, 3), 0, F32)]), "it is cut short"),
    "more than can be": (
        gguf_files.gguf([], [("x", (HUGE, HUGE), 0, F32)]), "is more than 2**63 bytes",
    ),
    "a product that wraps": (
        gguf_files.gguf([], [("x", (1 << 33, 1 << 33), 24, F32)]), "is more than 2**63 bytes",
    ),
    "bytes of another": (
        gguf_files.gguf([], [X, ("y", (6,), 0, F32)], offsets=[0, 0]), "begins at 0 of the data, where another ends",
    ),
    "an offset between": (gguf_files.gguf([], [X], offsets=[4]), "expected a multiple of 32"),
    "an offset beyond": (gguf_files.gguf([], [X], offsets=[HUGE]), "it is cut short"),
    "alignment of 0": (gguf_files.gguf([field("general.alignment", "u32", 0)], [X]), "general.alignment is 0"),
    "alignment of 24": (gguf_files.gguf([field("general.alignment", "u32", 24)], [X]), "general.alignment is 24"),
    "alignment of text": (gguf_files.gguf([field("general.alignment", "text", "8")], [X]), "general.alignment is 8"),
    "a matrix of importance": (gguf_files.gguf([field("general.type", "text", "imatrix")], [X]), "holds an importance"),
    "nothing": (gguf_files.gguf([], []), "holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_files_that_lie(tmp_path, kind):
    content, message = BAD[kind]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError) as raised:
        netweight.open(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_every_cut_is_an_error(tmp_path):
    content = gguf_files.gguf([field("a", "text", "b"), field("c", "[u32]", [1, 2])], [X])
    path = tmp_path / "cut.gguf"
    for end in range(24, len(content) - 8):  # the last 8 bytes are padding
        path.write_bytes(content[:end])
        with pytest.raises(FormatError):
            netweight.open(path)


def split(folder, count: int, missing: int = -1) -> None:
    for number in range(count):
        fields = [field("split.no", "u32", number), field("split.count", "u32", count)]
        if number == 0:
            fields += [field("general.architecture", "text", "llama"), field("llama.attention.head_count", "u32", 1)]
        array = np.full((2, 4), number, np.float32)
        content = gguf_files.gguf(fields, [(f"blk.{number}.attn_q.weight", (2, 4), 0, array.tobytes())])
        if number != missing:
            (folder / f"m-{number + 1:05}-of-{count:05}.gguf").write_bytes(content)


def test_a_set_of_files(tmp_path):
    """By its folder, and by one of its files, as llama.cpp has it: the first alone says what the model is."""
    split(tmp_path, 3)
    for ref in (tmp_path, tmp_path / "m-00001-of-00003.gguf", tmp_path / "m-00003-of-00003.gguf"):
        with netweight.open(ref) as model:
            assert list(model) == [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(3)]
            assert [float(tensor.read()[0, 0]) for tensor in model.values()] == [0, 1, 2]


def test_a_set_with_a_gap(tmp_path):
    split(tmp_path, 3, missing=1)
    for ref in (tmp_path, tmp_path / "m-00001-of-00003.gguf"):
        with pytest.raises(FormatError, match=r"1 of 3 shards are missing: 'm-00002-of-00003.gguf'"):
            netweight.open(ref)


def test_several_in_a_folder(tmp_path):
    """Quantisations side by side, as hub repositories have them: the choice is the reader's."""
    one = gguf_files.gguf([], [X])
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf"):
        (tmp_path / name).write_bytes(one)
    with pytest.raises(FormatError, match=r"holds several models: 'm-Q4_K_M.gguf', 'm-Q8_0.gguf'; name one of them"):
        netweight.open(tmp_path)


def test_what_lies_beside_a_model(tmp_path):
    for name in ("m-Q8_0.gguf", "mmproj-F16.gguf", "imatrix.gguf"):
        (tmp_path / name).write_bytes(gguf_files.gguf([], [X]))
    with netweight.open(tmp_path) as model:
        assert [file.path.rpartition("/")[2] for file in model.files] == ["m-Q8_0.gguf"]
        assert sum("left out: a part that works beside the model" in note for note in model.notes) == 2
    with netweight.open(tmp_path / "mmproj-F16.gguf") as model:  # asked for by its name
        assert list(model) == ["x"]


def test_a_numbered_file_that_is_not_there(tmp_path):
    split(tmp_path, 2)
    with pytest.raises(ModelNotFoundError):
        netweight.open(tmp_path / "other-00001-of-00002.gguf")


def test_far_away(hub, tmp_path):
    """The header by ranges, and no more of the data than is asked for."""
    big = np.arange(1 << 20, dtype=np.float32)
    content = gguf_files.gguf([], [("x", (6,), 0, F32), ("y", big.shape, 0, big.tobytes())])
    hub.publish("org/name", {"m-F32.gguf": content})
    with netweight.open("hf://org/name/m-F32.gguf") as model:
        assert np.array_equal(model["x"].read(), np.arange(6, dtype=np.float32))
        assert hub.sent("*.gguf") < len(content) // 2


def test_a_long_vocabulary(tmp_path):
    """A header of several megabytes is read through, not kept."""
    tokens = [f"token number {n}" for n in range(150_000)]
    content = gguf_files.gguf([field("tokenizer.ggml.tokens", "texts", tokens)], [X])
    (tmp_path / "a.gguf").write_bytes(content)
    with netweight.open(tmp_path / "a.gguf") as model:
        assert np.array_equal(model["x"].read().ravel(), np.arange(6))


def test_info_is_what_it_makes():
    assert gguf_files.gguf([], [X]).count(info("x", (2, 3), 0, 0)) == 1
