"""Files of other programs are named by their own bytes, written here by hand from each format's description."""

from __future__ import annotations

import bz2
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from netweight.checkpoint import open_checkpoint
from netweight.errors import FormatError, ModelNotFoundError


def said(path: Path, content: bytes | None = None) -> str:
    """What opening says after `PATH: is `."""
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: is ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: is ")


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def content(field: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(field << 3 | 2) + varint(len(body)) + body


def named(field: int, *names: bytes) -> bytes:
    """A message whose fields 1, 2 ... are texts."""
    return content(field, *(content(i, name) for i, name in enumerate(names, 1)))


OPSET = content(8, content(1, b""), number(2, 13))
GRAPH = content(7, content(1, content(1, b"x"), content(4, b"Add")), content(2, b"g"), content(5, bytes(5000)))


@pytest.mark.parametrize("version", [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20])
def test_onnx_of_every_version(version, tmp_path) -> None:
    for rest in (content(2, b"pytorch") + content(3, b"2.0") + GRAPH + OPSET, GRAPH + OPSET, content(2, b"") + GRAPH,
                 content(4, b"ai.x") + GRAPH, content(2, b"skl2onnx") + named(14, b"k", b"v") + GRAPH,
                 content(2, b"pytorch") + bytes(64)):  # fmt: skip
        assert said(tmp_path / "m.onnx", number(1, version) + rest).startswith("an ONNX file, which is not supported: ")
    for rest in (GRAPH + OPSET + number(1, version), OPSET + number(1, version) + content(2, b"x") + GRAPH):
        assert said(tmp_path / "m.bin", rest).startswith("an ONNX file, which is not supported: ")


NODE = named(1, b"x", b"Placeholder")
PIECES = b"".join(
    content(1, content(1, piece), b"\x15" + struct.pack("<f", -1.0), number(3, 2)) for piece in (b"<unk>", b"<s>", b"a")
)
TENSORFLOW = "load it with tf.train.load_checkpoint, and save its arrays with safetensors.numpy.save_file"
CASES = {
    "an rwkv.cpp file, which is not supported: name the weights that it was made from": [
        struct.pack("<II", 0x67676D66, 100),
        struct.pack("<II", 0x67676D66, 101),
    ],
    "a GGML file, which is not supported: name the weights that it was made from": [
        struct.pack("<II", magic, 1) for magic in (0x67676D6C, 0x67676D66, 0x67676A74, 0x67676C61)
    ],
    "a CTranslate2 file, which is not supported: name the weights": [
        struct.pack("<IH", 6, len(name) + 1) + name + b"\0" + struct.pack("<II", 7, 100)
        for name in (b"TransformerSpec", b"TransformerDecoderSpec", b"WhisperSpec", b"TransformerBig")
    ],
    "an ncnn or PNNX file, which is not supported": [b"7767517\n75 83\n", struct.pack("<I", 0x01306B47)],
    "an ONNX Runtime file, which is not supported": [b"\x18\0\0\0ORTM"],
    "a TensorFlow Lite file, which is not supported": [b"\x1c\0\0\0TFL3"],
    "an ExecuTorch file, which is not supported": [b"\x40\0\0\0ET12"],
    "an HDF5 (Keras) file, which is not supported: save its arrays with": [b"\x89HDF\r\n\x1a\n"],
    "an OpenVINO description of a network, which is not supported": [
        b'<?xml version="1.0"?>\n<net name="torch_jit" version="11">\n'
    ],
    "a TensorRT engine, which is not supported": [b"ftrt\x57\0\0\0", b"ptrt\x2b\0\0\0"],
    "a fastText file, which is not supported": [struct.pack("<ii", 793712314, 12)],
    "the list of TensorFlow checkpoints, which is not supported": [b'model_checkpoint_path: "model.ckpt-1"\n'],
    "a tiktoken vocabulary, not a model: name the model's folder": [b"IQ== 0\nIg== 1\nIw== 2\n"],
    "a Git LFS pointer and not the file itself: run `git lfs pull` in its folder": [b"version https://git-lfs.github"],
    "a git-annex pointer and not the file itself: run `git annex get`": [b"/annex/objects/SHA256E-s4--0.bin\n"],
    "an HTML page, not a model: the download failed; fetch the file again": [b"<!doctype html>", b"\n<HTML>"],
    "a server's answer in XML, not a model": [b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>'],
    "a server's answer, not a model: the download failed": [b"Entry not found", b"Repository not found"],
    "a bzip2 archive: unpack it first": [bz2.compress(b"x" * 100)],
    "a Parquet table, not a model": [b"PAR1\x15\x04"],
}
WHOLE = {
    "a TensorFlow SavedModel, which is not supported": number(1, 1) + content(2, content(1, content(5, b"2.1"))),
    "a TensorFlow graph, which is not supported": NODE + named(1, b"y", b"Const") + content(4, number(1, 22)),
    f"the index of a TensorFlow checkpoint, which is not supported: {TENSORFLOW}": bytes(90)
    + (0xDB4775248B80FB57).to_bytes(8, "little"),
    "a Core ML file, which is not supported": number(1, 5) + content(2, named(1, b"image")) + content(500, b"\x08\x01"),
    "a Caffe file, which is not supported": content(1, b"VGG") + named(100, b"conv1", b"Convolution"),
    "a sentencepiece tokenizer, not a model: name the model's folder": PIECES,
}


@pytest.mark.parametrize("what", CASES)
def test_files_that_start_as_their_format_says(what, tmp_path) -> None:
    for start in CASES[what]:
        for name in ("model.bin", "model.safetensors", "x"):
            assert said(tmp_path / name, start + b"\n" + bytes(40)).startswith(what)


@pytest.mark.parametrize("what", WHOLE)
def test_messages_and_tables_without_a_magic_number(what, tmp_path) -> None:
    assert said(tmp_path / "x.bin", WHOLE[what]).startswith(what)
    assert said(tmp_path / "x.bin", WHOLE[what][: len(WHOLE[what]) // 3]).startswith("no known model file")


def test_llama2_c_by_its_magic_number_or_its_size(tmp_path) -> None:
    dim, hidden, layers, heads, kv_heads, vocabulary, length = 8, 16, 2, 2, 1, 30, 12
    head = dim // heads
    elements = vocabulary * dim + dim + length * head  # embedding, last norm, two tables of length x head / 2
    elements += layers * (2 * dim + 2 * dim * dim + 2 * dim * kv_heads * head + 3 * dim * hidden)
    what = "a llama2.c file, which is not supported: name the weights that it was made from"
    sizes = (dim, hidden, layers, heads, kv_heads)
    tied = struct.pack("<7i", *sizes, vocabulary, length)
    own = struct.pack("<7i", *sizes, -vocabulary, length)
    assert said(tmp_path / "a.bin", tied + bytes(4 * elements)) == what
    assert said(tmp_path / "a.bin", own + bytes(4 * (elements + vocabulary * dim))) == what
    assert said(tmp_path / "a.bin", struct.pack("<Ii", 0x616B3432, 2) + bytes(300)) == what
    assert said(tmp_path / "a.bin", tied + bytes(4 * elements + 4)).startswith("no known model file")


def test_flax_by_its_array_extension(tmp_path) -> None:
    msgpack = pytest.importorskip("msgpack", reason="writes the file")

    def extension(array: np.ndarray) -> object:
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    what = "a Flax file, which is not supported: save its arrays with safetensors.flax.save_file"
    for size in (0, 1, 100, 70_000):
        for tree in ({"params": {"dense" * 9: {"kernel": np.ones(size, np.float32)}}}, {"w": np.ones(size)}):
            data = msgpack.packb(tree, default=extension)
            assert said(tmp_path / "flax_model.msgpack", data) == what
    other = said(tmp_path / "x.msgpack", msgpack.packb({"a": 1, "b": [2]}))
    assert other.startswith("no known model file: starts with 82 a1")
    assert other.endswith("; it is named like " + what)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.onnx.data", "the data of an ONNX file, which is not supported: load the .onnx file beside it"),
        ("model.onnx_data", "the data of an ONNX file, which is not supported"),
        ("m.ckpt.data-00000-of-00001", f"the data of a TensorFlow checkpoint, which is not supported: {TENSORFLOW}"),
        ("openvino_model.bin", "an OpenVINO description of a network, which is not supported"),
        ("x.ncnn.bin", "an ncnn or PNNX file, which is not supported"),
    ],
)
def test_names_are_a_hint_where_the_bytes_say_nothing(name, what, tmp_path) -> None:
    text = said(tmp_path / name, b"\x11" * 100)
    assert text.startswith(
        "no known model file: starts with 11 11 11 11 11 11 11 11; expected safetensors, torch, GGUF or npz"
    )
    assert f"; it is named like {what}" in text


def test_folders_of_other_programs(tmp_path) -> None:
    for name, what in [("saved_model.pb", "a TensorFlow SavedModel"), ("model.onnx", "an ONNX file"),
                       ("flax_model.msgpack", "a Flax file"), ("tf_model.h5", "an HDF5 (Keras) file"),
                       ("model.tflite", "a TensorFlow Lite file"),
                       ("model.ckpt-9.index", "the index of a TensorFlow checkpoint")]:  # fmt: skip
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(b"x")
        (folder / "tokenizer.model").write_bytes(PIECES)
        with pytest.raises(ModelNotFoundError) as caught:
            open_checkpoint(folder)
        assert str(caught.value).startswith(f"{folder}: holds {name!r}, {what}")
        assert "which is not supported: " in str(caught.value)
    folder = tmp_path / "m.mlpackage"
    folder.mkdir()
    (folder / "Manifest.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"m\.mlpackage: is a Core ML file, which is not supported"):
        open_checkpoint(folder)


def test_pointers_in_the_place_of_shards(tmp_path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    what = "a Git LFS pointer and not the file itself: run `git lfs pull` in its folder"
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in names:
        assert said(tmp_path / name, pointer) == what
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(zip("ab", names))}))  # noqa: B905
    with pytest.raises(FormatError, match=f"{names[0]}: is a Git LFS pointer"):
        open_checkpoint(tmp_path)
    torch_folder = tmp_path / "torch"
    assert said(torch_folder / "pytorch_model.bin", pointer) == what
    with pytest.raises(FormatError, match=r"pytorch_model\.bin: is a Git LFS pointer"):
        open_checkpoint(torch_folder)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (
            ["metadata.json", "config.json", "model.weights.h5"],
            "a Keras model, which is not supported: save its arrays",
        ),
        (["m/archive_format", "m/archive_version", "m/data/sample_inputs/model.pt"], "a torch.export program, which"),
        (["M/Manifest.json", "M/Data/com.apple.CoreML/model.mlmodel"], "a Core ML package, which is not supported"),
        (["s/saved_model.pb", "s/variables/variables.index"], "a TensorFlow SavedModel, which is not supported"),
        (["a/optimizer.pt", "a/model.pt"], "a zip archive with 'a/model.pt' in it: unpack it first, and name that"),
        (["readme", "a.npy"], "a zip archive with numpy arrays that numpy.savez has not written: save them with it"),
        (["readme"], "a zip archive without data.pkl, not a torch file"),
    ],
)
def test_zip_archives(names, what, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * (100 if "optim" in name else 10))
    assert said(tmp_path / "x.zip").startswith(what)


def test_tar_archives(tmp_path) -> None:
    with tarfile.open(tmp_path / "m.nemo", "w") as archive:
        for name in ("./model_config.yaml", "./model_weights.ckpt"):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b"abcde"))
    what = "a tar archive with 'model_weights.ckpt' in it: unpack it first, and name that file"
    assert said(tmp_path / "m.nemo") == what


def test_torch_distributed_and_torch_export(tmp_path) -> None:
    torch = pytest.importorskip("torch", reason="writes the files")
    with (tmp_path / "__0_0.distcp").open("wb") as file:  # each tensor is an archive, with positions of its own
        for tensor in (torch.ones(3), torch.zeros(3)):
            torch.save(tensor, file)
    text = said(tmp_path / "__0_0.distcp")
    assert text.startswith("a part of a torch.distributed checkpoint, which is not supported: join its parts with ")
    assert text.endswith("`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt`")
    torch.export.save(torch.export.export(torch.nn.Linear(3, 4), (torch.ones(2, 3),)), tmp_path / "m.pt2")
    assert said(tmp_path / "m.pt2").startswith("a torch.export program, which is not supported: save")


def test_pickles_of_other_libraries(tmp_path) -> None:
    text = said(tmp_path / "x.pdparams", pickle.dumps({"w": np.ones(3)}, 2))
    assert text == "a plain pickle of numpy arrays, expected a file made by torch.save; save them with numpy.savez"
    linear = pytest.importorskip("sklearn.linear_model", reason="makes the model")
    joblib = pytest.importorskip("joblib", reason="writes the file")
    model = linear.LinearRegression().fit(np.eye(3), np.ones(3))
    text = said(tmp_path / "m.pkl", pickle.dumps(model))
    assert text.startswith("a plain pickle of an object of sklearn.linear_model._base.LinearRegression, expected")
    joblib.dump(model, tmp_path / "m.joblib")
    assert said(tmp_path / "m.joblib").startswith("a file of joblib with numpy arrays between its pickle's opcodes")


def test_bytes_that_prove_nothing_are_given_as_they_are(tmp_path) -> None:
    chance = random.Random(0)
    for start in (b"", b"\x08", b"\x08\x07", b"\x0a\x05", b"\x12\x00", b"\x82\xa1", b"\xde\x00", bytes(100)):
        for length in (1, 60, 700):
            tail = chance.randbytes(length)
            assert said(tmp_path / "x.bin", start + b"\xc2" + tail).startswith("no known model file: starts with")
