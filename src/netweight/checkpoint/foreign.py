"""Files that are brought by mistake: what they are, told by their own bytes, and what to do. One is a row here.

A row's format is named only where the bytes prove it: by what they start with, or by a sign in `foreign_signs.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netweight.checkpoint import foreign_signs as signs
from netweight.errors import printable
from netweight.source.protocol import Source

__all__ = ["JOIN", "archive_of", "named_like", "what_is"]


@dataclass(frozen=True)
class _Foreign:
    """One format: the sentence that `is ...` begins, for files that start with one of `starts` at byte `at`, or that
    `told` tells. `named` is a pattern of its files' names, for those that no bytes tell and for folders.
    """

    what: str
    starts: tuple[bytes, ...] = ()
    at: int = 0
    told: Callable[[bytes, Source], bool] | None = None
    named: str = ""


def _model(kind: str, then: str, *starts: bytes, at: int = 0, told: Callable[[bytes, Source], bool] | None = None,
           named: str = "") -> _Foreign:  # fmt: skip
    return _Foreign(f"{kind}, which is not supported{': ' * bool(then)}{then}", starts, at, told, named)


_ORIGIN = "name the weights that it was made from"
_ARRAYS = "save its arrays with safetensors.numpy.save_file"
JOIN = "join its parts with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt`"
"""What to do with a folder that torch.distributed.checkpoint has written."""

_FETCH = "the download failed; fetch the file again"

_ROWS = (
    _model("an rwkv.cpp file", _ORIGIN, b"fmgg\x64\0\0\0", b"fmgg\x65\0\0\0"),
    _model("a GGML file", _ORIGIN, b"lmgg", b"fmgg", b"tjgg", b"algg", b"ggml", b"ggmf", b"ggjt", b"ggla"),
    _model("a llama2.c file", _ORIGIN, told=signs.is_llama2_c),
    _model("a CTranslate2 file", _ORIGIN, told=signs.is_ctranslate2),
    _model("an ncnn or PNNX file", _ORIGIN, b"7767517\n", b"7767517\r\n", b"\xdd\x85\x76\0",
           b"\x47\x6b\x30\x01", b"\x38\x4b\x0d\0", b"\x56\xc0\x02\0", named=r".*\.(ncnn|pnnx)\.(bin|param)"),
    _model("an ONNX file", f"{_ARRAYS} (onnx.numpy_helper.to_array makes arrays of its initializers)",
           told=signs.is_onnx, named=r".*\.onnx"),
    _model("the data of an ONNX file", f"load the .onnx file beside it, and {_ARRAYS}",
           named=r".*\.(onnx[._]data|onnx_data_\d+)"),
    _model("an ONNX Runtime file", _ORIGIN, b"ORTM", at=4, named=r".*\.ort"),
    _model("a TensorFlow Lite file", _ORIGIN, b"TFL3", at=4, named=r".*\.tflite"),
    _model("an ExecuTorch file", _ORIGIN, b"ET12", at=4, named=r".*\.pte"),
    _model("an HDF5 (Keras) file", f"{_ARRAYS} (Keras: of model.weights)", b"\x89HDF\r\n\x1a\n", named=r".*\.h(df)?5"),
    _model("a Keras file", f"{_ARRAYS} (of model.weights)", named=r".*\.keras"),
    _model("a numpy array", "save a model's arrays together, with numpy.savez", b"\x93NUMPY", named=r".*\.npy"),
    _model("a Flax file", "save its arrays with safetensors.flax.save_file", told=signs.is_flax, named=r".*\.msgpack"),
    _model("a TensorFlow SavedModel", f"{_ARRAYS} (of its variables)", told=signs.is_saved_model,
           named=r"saved_model\.pb"),
    _model("a TensorFlow graph", f"{_ARRAYS} (of its constants)", told=signs.is_graph_def, named=r".*\.pb"),
    _model("the index of a TensorFlow checkpoint", f"load it with tf.train.load_checkpoint, and {_ARRAYS}",
           told=signs.is_tensorflow_index, named=r".*\.ckpt.*\.index"),
    _model("the list of TensorFlow checkpoints", f"load one with tf.train.load_checkpoint, and {_ARRAYS}",
           b"model_checkpoint_path:"),
    _model("the data of a TensorFlow checkpoint", f"load it with tf.train.load_checkpoint, and {_ARRAYS}",
           named=r".*\.data-\d{5}-of-\d{5}"),
    _model("an OpenVINO description of a network", _ORIGIN, told=signs.is_openvino, named=r"openvino_.*\.(xml|bin)"),
    _model("a Core ML file", _ORIGIN, told=signs.is_core_ml, named=r".*\.ml(model|package)"),
    _model("a TensorRT engine", _ORIGIN, b"ftrt", b"ptrt"),
    _model("a Caffe file", _ARRAYS, told=signs.is_caffe, named=r".*\.caffemodel"),
    _model("a fastText file", _ARRAYS, b"\xba\x16\x4f\x2f"),
    _model("a CatBoost file", "trees have no weights", b"CBM1"),
    _model("a LightGBM file", "trees have no weights", b"tree\nversion=v"),
    _model("a MATLAB file", _ARRAYS, b"MATLAB 5.0 MAT-file", named=r".*\.mat"),
    _model("a part of a torch.distributed checkpoint",
           JOIN,
           named=r".*\.distcp"),
    _Foreign("a sentencepiece tokenizer, not a model: name the model's folder", told=signs.is_sentencepiece),
    _Foreign("a tiktoken vocabulary, not a model: name the model's folder", told=signs.is_tiktoken),
    _Foreign("a Parquet table, not a model", (b"PAR1",)),
    _Foreign("an Arrow table, not a model", (b"ARROW1\0\0",)),
    _Foreign("a gzip archive: unpack it first", (b"\x1f\x8b\x08",)),
    _Foreign("a bzip2 archive: unpack it first", tuple(b"BZh%d1AY&SY" % level for level in range(1, 10))),
    _Foreign("an xz archive: unpack it first", (b"\xfd7zXZ",)),
    _Foreign("a zstd archive: unpack it first", (b"\x28\xb5\x2f\xfd",)),
    _Foreign("an lz4 archive: unpack it first", (b"\x04\x22\x4d\x18",)),
    _Foreign("a 7z archive: unpack it first", (b"7z\xbc\xaf",)),
    _Foreign("a RAR archive: unpack it first", (b"Rar!",)),
    _Foreign("a Git LFS pointer and not the file itself: run `git lfs pull` in its folder",
             (b"version https://git-lfs", b"version https://hawser")),
    _Foreign("a git-annex pointer and not the file itself: run `git annex get` in its folder", (b"/annex/objects/",)),
    _Foreign(f"an HTML page, not a model: {_FETCH}", told=signs.is_html),
    _Foreign(f"a server's answer in XML, not a model: {_FETCH}", told=signs.is_xml_answer),
    _Foreign(f"a server's answer, not a model: {_FETCH}",
             (b"Entry not found", b"Repository not found", b"Invalid username or password", b"Access to model ")),
)  # fmt: skip

_ARCHIVES = (
    # what a zip archive is, the ends of names that it then holds
    ("a Keras model, which is not supported: " + _ARRAYS + " (of model.weights)", ("config.json", "model.weights.h5")),
    ("a torch.export program, which is not supported: save torch.export.load(FILE).state_dict with torch.save",
     ("archive_format", "archive_version")),
    ("a torch.export program, which is not supported: save torch.export.load(FILE).state_dict with torch.save",
     ("serialized_exported_program.json",)),
    ("a Core ML package, which is not supported: " + _ORIGIN, ("Manifest.json", ".mlmodel")),
    ("a TensorFlow SavedModel, which is not supported: " + _ARRAYS + " (of its variables)", ("saved_model.pb",)),
    ("a zip archive with numpy arrays that numpy.savez has not written: save them with it", (".npy",)),
)  # fmt: skip
_BESIDE = re.compile(r"optim|pytorch_variables|scheduler|scaler|training_args|rng_state|sample_inputs", re.IGNORECASE)


def what_is(start: bytes, source: Source) -> str:
    """What a file is that no reader takes, to follow "is", with what to do; nothing where its bytes prove nothing.
    `start` is what it starts with.
    """
    for row in _ROWS:
        if (row.starts and start.startswith(row.starts, row.at)) or (row.told is not None and row.told(start, source)):
            return row.what
    return ""


def named_like(name: str) -> str:
    """What a file is that has such a name, if it is what its name says, with what to do; or nothing."""
    last = name.rpartition("/")[2].lower()
    return next((row.what for row in _ROWS if row.named and re.fullmatch(row.named, last)), "")


def archive_of(kind: str, sizes: Mapping[str, int]) -> str:
    """What a `kind` archive is that holds files of such names and sizes, to follow "is", with what to do; nothing where
    it holds no model.
    """
    for what, ends in _ARCHIVES:
        if all(any(name.endswith(end) for name in sizes) for end in ends):
            return what
    inside = [name for name in sizes if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt"))]
    if not inside:
        return ""
    largest = max(inside, key=lambda name: (not _BESIDE.search(name), sizes[name]))
    return f"a {kind} archive with {printable(largest)!r} in it: unpack it first, and name that file"
