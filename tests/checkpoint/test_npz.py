"""numpy's archives read in place: names, shapes, types and bytes are those that numpy.load gives."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import netweight
from netweight.checkpoint import open_checkpoint
from netweight.errors import FormatError

TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]


def agree(path: Path) -> None:
    with open_checkpoint(path) as opened, np.load(path) as expected:
        assert opened.format == "npz"
        assert set(opened) == set(expected.files)
        for name in expected.files:
            mine, array = opened[name].read(), expected[name]
            assert mine.shape == array.shape
            assert mine.dtype == array.dtype.newbyteorder("<")
            assert mine.tobytes() == array.astype(array.dtype.newbyteorder("<"), order="C").tobytes(), name


def refused(path: Path, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def npy(descr: str, shape: str, data: bytes, *, version: int = 1, fortran: bool = False, header: str = "") -> bytes:
    text = (header or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}").encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


def test_every_type_order_and_shape(tmp_path) -> None:
    values = np.arange(24).reshape(2, 3, 4) % 7
    arrays = {
        f"{order}{kind}.{layout}": np.asarray(values, np.dtype(kind).newbyteorder(order), order=layout)
        for kind in TYPES
        for order in "<>"
        for layout in "CF"
    }
    arrays |= {
        "0-d": np.array(-0.0), "empty": np.empty((0, 3), np.float32), "empty.t": np.empty((3, 0, 2), order="F"),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-42], np.float32), "one": np.ones((1, 1, 1, 5)),
        "model/layers.0": np.ones(3), "column": np.asfortranarray(np.arange(5.0).reshape(5, 1)),
    }  # fmt: skip
    np.savez(tmp_path / "w.npz", np.arange(3), **arrays)
    agree(tmp_path / "w.npz")
    opened = open_checkpoint(tmp_path / "w.npz")
    assert "arr_0" in opened
    assert opened.notes == opened.skipped == ()


@given(st.data())
def test_any_stretch_of_any_array(data) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    kind = data.draw(st.sampled_from(["<f4", ">f4", "<f2", ">i8", "u1"]))
    array = np.arange(int(np.prod(shape))).astype(kind).reshape(shape, order=data.draw(st.sampled_from("CF")))
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.npz"
        np.savez(path, w=array)
        start = data.draw(st.integers(0, array.size))
        count = data.draw(st.integers(0, array.size - start))
        out = bytearray(count * array.itemsize)
        with open_checkpoint(path) as opened:
            opened["w"].read_into(start, memoryview(out))
    assert bytes(out) == array.astype(array.dtype.newbyteorder("<")).tobytes()[start * array.itemsize :][: len(out)]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_header_versions_and_ways_of_writing_them(version, tmp_path) -> None:
    data = np.arange(6, dtype="<f4")
    headers = {
        "numpy": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" + " " * 20,
        "mlx": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, )}" + " " * 5,
        "order": '{"shape": (2, 3), "descr": "<f4", "fortran_order": False}',
        "python2": "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
        "native": "{'descr': '=f4', 'fortran_order': False, 'shape': (2, 3), }",
        "long": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" + " " * 5000,
    }
    path = archive(
        tmp_path / "w.npz",
        **{name: npy("", "", data.tobytes(), version=version, header=text) for name, text in headers.items()},
    )
    opened = open_checkpoint(path)
    assert list(opened) == list(headers)
    for tensor in opened.values():
        assert tensor.read().tolist() == data.reshape(2, 3).tolist()


def test_bfloat16_as_mlx_and_ml_dtypes_write_it(tmp_path) -> None:
    values = np.array([[1.5, -2.0, 3.25], [np.inf, -0.0, 1e-38]], ml_dtypes.bfloat16)
    np.savez(tmp_path / "ml_dtypes.npz", w=values)
    by_hand = npy("'<V2'", "(2, 3, )", values.tobytes())  # mlx/io/load.cpp: kind V and two bytes
    for path in (tmp_path / "ml_dtypes.npz", archive(tmp_path / "mlx.npz", w=by_hand)):
        opened = open_checkpoint(path)
        assert opened["w"].dtype.name == "BF16"
        assert opened["w"].read().tobytes() == values.tobytes()
        assert opened.notes == (
            f"{path}: 1 arrays of two-byte elements without a type (V2) are read as bfloat16, as MLX does",
        )
    big = npy("'>V2'", "(2, 3)", values.view("<u2").astype(">u2").tobytes())
    assert open_checkpoint(archive(tmp_path / "big.npz", w=big))["w"].read().tobytes() == values.tobytes()


def test_arrays_that_are_not_read_are_listed(tmp_path) -> None:
    class Attack:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    np.savez(
        tmp_path / "w.npz",
        w=np.ones(2), objects=np.array([Attack(), {}], object), text=np.array(["a"]), raw=np.array([b"a"]),
        fields=np.zeros(2, [("a", "<f4"), ("b", "<i2")]), date=np.zeros(1, "M8[s]"), time=np.zeros(1, "m8[s]"),
        byte=np.zeros(2, ml_dtypes.float8_e4m3fn),
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "w.npz", "a") as file:
        file.writestr("readme.txt", "x")
        file.writestr("folder/", "")
    opened = open_checkpoint(tmp_path / "w.npz")
    assert list(opened) == ["w"]
    assert {entry.name: entry.reason for entry in opened.skipped} == {
        "objects": "an array of Python objects, which are pickled and not read",
        "text": "an array of text, not of numbers",
        "raw": "an array of text, not of numbers",
        "fields": "an array of several fields, which is not read",
        "date": "an array of dates, not of numbers",
        "time": "an array of times, not of numbers",
        "byte": "elements of the type <V1, which is not read",
        "readme.txt": "not a numpy array (.npy)",
    }
    assert not (tmp_path / "ran").exists()
    np.savez(tmp_path / "none.npz", objects=np.array([{}], object))
    refused(tmp_path / "none.npz", "holds no tensors; 'objects': an array of Python objects, which are pickled and")


def test_what_cannot_be_read_in_place_is_refused(tmp_path) -> None:
    np.savez_compressed(tmp_path / "w.npz", w=np.ones(1000))
    refused(
        tmp_path / "w.npz",
        "entry 'w.npy': is compressed, expected tensors stored as they are, as numpy.savez does; save the model again",
    )
    archive(tmp_path / "secret.npz", w=npy("'<f4'", "(1,)", bytes(4)))
    data = bytearray((tmp_path / "secret.npz").read_bytes())
    central = data.rfind(b"PK\x01\x02")
    data[central + 8] |= 1
    (tmp_path / "secret.npz").write_bytes(data)
    refused(tmp_path / "secret.npz", "entry 'w.npy': is encrypted")
    np.save(tmp_path / "one.npy", np.ones(2))
    refused(
        tmp_path / "one.npy", "is a numpy array, which is not supported: save a model's arrays together, with numpy."
    )


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"", "array 'w': has no header of an .npy file of version 1 to 3"),
        (b"\x93NUMPY\x01", "array 'w': has no header"),
        (b"\x93NUMPY\x04\x00" + bytes(100), "array 'w': has no header of an .npy file of version 1 to 3"),
        (b"\x93NUMPY\x01\x00\xff\x00", "array 'w': its header of 255 bytes is cut short"),
        (
            b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(100),
            "its header takes 2147483647 bytes, expected at most 65536",
        ),
        (npy("'<f4'", "(3,)", bytes(11)), "shape [3] of F32 takes 12 bytes, and it has 11; the file is cut short"),
        (npy("'<f4'", "(4000000000, 4000000000)", b""), "its shape is (4000000000, 4000000000), expected at most 64"),
        (npy("'<f4'", "(" + "1," * 65 + ")", bytes(4)), "expected at most 64 sizes that a file can have"),
        (npy("'<f4'", "(" + "9" * 500 + ",)", b""), "its shape is (999"),
        (npy("'<f4'", "(1 2,)", bytes(8)), "its shape is (1 2,)"),
        (npy("'<f4'", "(-1,)", bytes(8)), "expected a dict of descr, fortran_order and shape"),
        (npy("'<f4'", "3", bytes(12)), "expected a dict of descr, fortran_order and shape"),
        (npy("__import__('os')", "()", b""), "expected a dict of descr, fortran_order and shape"),
        (npy("", "", b"", header="{'descr': '<f4'}"), "expected a dict of descr, fortran_order and shape"),
        (npy("", "", b"", header="'descr': '<f4', 'fortran_order': False, 'shape': (), }"), "expected a dict of descr"),
        (npy("", "", b"", header="{" * 60_000), "expected a dict of descr, fortran_order and shape"),
        (npy("", "", b"", header="{'descr': '<f4', 'descr': '<f4', 'fortran_order': False}"), "expected a dict"),
        (npy("", "", b"", header="{'descr': '<f4', 'fortran_order': False, 'shape': ()} + 1"), "expected a dict"),
        (npy("", "", b"", header="\x1b[31m"), r"its header is '\\x1b[31m', expected a dict"),
    ],
)
def test_damaged_and_hostile_headers(member, message, tmp_path) -> None:
    refused(archive(tmp_path / "w.npz", w=member), message)


def test_damaged_archives(tmp_path) -> None:
    path = archive(tmp_path / "w.npz", a=npy("'<f4'", "(2,)", bytes(8)), b=npy("'<f4'", "(2,)", bytes(8)))
    whole = path.read_bytes()
    for cut in range(40, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            open_checkpoint(path)
    second = whole.rfind(b"PK\x01\x02")
    path.write_bytes(whole[: second + 42] + bytes(4) + whole[second + 46 :])  # both entries have the first one's bytes
    refused(path, "overlap: one ends at byte ")
    rest = archive(tmp_path / "rest.npz", a=npy("'<f4'", "(2,)", bytes(15)))
    assert open_checkpoint(rest).notes == (f"{rest}: 7 bytes behind its arrays belong to none (hidden bytes)",)


@given(st.binary(max_size=200))
def test_any_bytes_in_a_header(junk) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = archive(Path(folder) / "w.npz", w=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(junk)) + junk)
        try:
            assert open_checkpoint(path).format == "npz"
        except FormatError as problem:
            assert "\n" not in str(problem)  # noqa: PT017 - either is right, a traceback is not


def config(folder: Path, **more: object) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1, **more}))


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "model.embed_tokens.weight": rng.normal(size=(30, 8)).astype(np.float32),
        "model.layers.0.self_attn.q_proj.weight": rng.normal(size=(8, 8)).astype(np.float32),
        "model.layers.0.mlp.down_proj.weight": np.asfortranarray(rng.normal(size=(8, 16)).astype(np.float32)),
        "model.norm.weight": np.ones(8, np.float32),
        "lm_head.weight": rng.normal(size=(30, 8)).astype(np.float32),
    }


def test_folders_of_mlx(tmp_path) -> None:
    arrays = weights()
    config(tmp_path)
    np.savez(tmp_path / "weights.npz", **arrays)
    np.savez(tmp_path / "adapters.npz", a=np.ones(2))
    np.savez(tmp_path / "optimizer.npz", a=np.ones(2))
    assert set(open_checkpoint(tmp_path)) == set(arrays)
    (tmp_path / "weights.npz").rename(tmp_path / "other.npz")
    assert set(open_checkpoint(tmp_path)) == set(arrays)
    (tmp_path / "other.npz").unlink()
    for number, name in enumerate(arrays):
        np.savez(tmp_path / f"weights.{number:02}.npz", **{name: arrays[name]})
    opened = open_checkpoint(tmp_path)
    assert list(opened) == list(arrays)
    assert len(opened.files) == 5
    (tmp_path / "weights.02.npz").unlink()
    refused(tmp_path, "1 shards are missing: 'weights.02.npz'; download them into the same folder")


def test_jobs_on_archives_give_what_they_give_on_safetensors(tmp_path, monkeypatch) -> None:
    import pyarrow.parquet as pq
    import safetensors.numpy

    monkeypatch.chdir(tmp_path)
    for name, seed in (("base", 0), ("tuned", 1)):
        arrays = {key: np.ascontiguousarray(value) for key, value in weights(seed).items()}
        for kind in ("npz", "st"):
            folder = tmp_path / kind / name
            folder.mkdir(parents=True)
            config(folder)
        np.savez(tmp_path / "npz" / name / "weights.npz", **weights(seed))
        safetensors.numpy.save_file(arrays, tmp_path / "st" / name / "model.safetensors")
    merged, rows, scans = {}, {}, {}
    for kind in ("npz", "st"):
        base, tuned = f"{kind}/base", f"{kind}/tuned"
        assert netweight.info(base).parameters == sum(array.size for array in weights().values())
        netweight.delta(base, [tuned], outdir=f"{kind}/delta")
        table = pq.read_table(f"{kind}/delta/delta.parquet").to_pylist()
        rows[kind] = {row["param"]: row for row in table}
        scans[kind] = {name: repr(measured) for name, measured in netweight.scan(base).items()}
        netweight.merge(None, f"{kind}/merged", base=base, models=[tuned], method="linear", weights=[0.5])
        merged[kind] = safetensors.numpy.load_file(tmp_path / kind / "merged" / "model.safetensors")
    assert rows["npz"] == rows["st"]
    assert scans["npz"] == scans["st"]
    assert rows["npz"].keys() == weights().keys()
    assert merged["npz"].keys() == merged["st"].keys() == weights().keys()
    for name, array in merged["npz"].items():
        assert array.tobytes() == merged["st"][name].tobytes(), name


def test_archives_far_away(tmp_path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="holds the file")
    np.savez(tmp_path / "weights.npz", **weights())
    fsspec.filesystem("memory").pipe_file("/npz/weights.npz", (tmp_path / "weights.npz").read_bytes())
    for url in ("memory://npz/weights.npz", "memory://npz"):
        with open_checkpoint(url) as opened:
            assert {name: tensor.read().tobytes() for name, tensor in opened.items()} == {
                name: array.tobytes() for name, array in weights().items()
            }


def test_safetensors_of_mlx(tmp_path) -> None:
    import safetensors.numpy

    arrays = {name: np.ascontiguousarray(array) for name, array in weights().items()}
    config(tmp_path)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "mlx"})
    opened = open_checkpoint(tmp_path)
    assert opened.metadata == {"format": "mlx"}
    assert opened.notes == ()
    assert {name: tensor.read().tobytes() for name, tensor in opened.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_quantised_weights_of_mlx(kind, tmp_path) -> None:
    """Decoded where config says how, else said to be codes."""
    import safetensors.numpy

    arrays = {
        "q_proj.weight": np.full((8, 8), 0x21, np.uint32), "q_proj.scales": np.full((8, 1), 0.5, np.float16),
        "q_proj.biases": np.full((8, 1), -1, np.float16), "norm.weight": np.ones(8, np.float16),
    }  # fmt: skip
    if kind == "npz":
        np.savez(tmp_path / "weights.npz", **arrays)
    else:
        safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "mlx"})
    note = "weight is quantised by MLX, and no config says how: codes are packed into U32 and not decoded"
    assert f"{tmp_path}: 1 {note}" in open_checkpoint(tmp_path).notes[0]
    assert any("quantised by MLX" in note for note in netweight.scan(tmp_path).notes)
    config(tmp_path, quantization={"group_size": 64, "bits": 4})
    with open_checkpoint(tmp_path) as opened:
        assert set(opened) == {"q_proj.weight", "norm.weight"}
        assert np.array_equal(opened["q_proj.weight"].read(), np.tile([-0.5, 0, -1, -1, -1, -1, -1, -1], (8, 8)))


def test_opening_reads_no_data_and_imports_nothing_heavy(tmp_path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(4))
    code = (
        "import sys; from netweight.checkpoint import open_checkpoint\n"
        "print(len(open_checkpoint(sys.argv[1])))\n"
        "heavy = 'torch numpy numba scipy pyarrow matplotlib pandas polars ml_dtypes pickle zipfile ast'.split()\n"
        "print([name for name in heavy if name in sys.modules and name != 'ast'])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "w.npz"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1", "[]"]


def test_tensors_pickle_and_large_archives_have_offsets_of_64_bits(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as file, file.open("w.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.arange(5.0))  # as numpy and MLX write them: sizes after the fact
    agree(tmp_path / "w.npz")
    with open_checkpoint(tmp_path / "w.npz") as opened:
        assert pickle.loads(pickle.dumps(opened["w"])).read().tolist() == [0, 1, 2, 3, 4]
    stream = io.BytesIO()
    np.savez(stream, w=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    (tmp_path / "t.npz").write_bytes(stream.getvalue())
    agree(tmp_path / "t.npz")
