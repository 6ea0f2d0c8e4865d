"""From references to checkpoints: folders, indexes, shards, config.json, and everything that is none of these."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from slowness import PEAK, slowness

from netweight.checkpoint import CheckpointFile, open_checkpoint
from netweight.errors import FormatError, ModelNotFoundError, NetweightError, ReadError, UnsafeFileError


def write(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors.numpy.save(arrays or {"w": np.ones(2, np.float32)}))
    return path


def one(value: float) -> np.ndarray:
    return np.full(2, value, np.float32)


def shards(folder: Path, *, index: dict | None = None, total: int | None = None, stem: str = "model") -> Path:
    """Two shards, a and b in the first, c in the second."""
    write(folder / f"{stem}-00001-of-00002.safetensors", a=one(1), b=one(2))
    write(folder / f"{stem}-00002-of-00002.safetensors", c=one(3))
    if index is not None:
        content = {"metadata": {"total_size": 24 if total is None else total}, "weight_map": index}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content))
    return folder


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
RIGHT = {"a": FIRST, "b": FIRST, "c": SECOND}


def refused(path: Path | str, error: type[NetweightError], message: str) -> str:
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


def test_a_single_file_and_its_folder(tmp_path) -> None:
    path = write(tmp_path / "model.safetensors", w=one(1))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for ref in (path, str(path), tmp_path):
        opened = open_checkpoint(ref)
        assert (opened.ref, opened.format, opened.config) == (str(ref), "safetensors", {"model_type": "llama"})
        assert opened.config_problem is None
        (file,) = opened.files
        assert isinstance(file, CheckpointFile)
        assert (file.path, file.size, len(file.digest)) == (str(path), path.stat().st_size, 64)
    assert repr(opened) == f"<Checkpoint '{tmp_path}': 1 tensors, safetensors>"


def test_shards_with_and_without_an_index(tmp_path) -> None:
    for folder in (shards(tmp_path / "with", index=RIGHT), shards(tmp_path / "without")):
        with open_checkpoint(folder) as opened:
            assert list(opened) == ["a", "b", "c"]
            assert [float(t.read()[0]) for t in opened.values()] == [1, 2, 3]
            assert len(opened.files) == len(opened.sources) == 2
            assert opened.notes == ()
            assert "c" in opened
            assert "d" not in opened
            opened.check_unchanged()
        with pytest.raises(ReadError, match="is closed"):
            opened["a"].read()
    opened = open_checkpoint(tmp_path / "with" / "model.safetensors.index.json")
    assert list(opened) == ["a", "b", "c"]


def test_a_shard_that_changes_is_noticed(tmp_path) -> None:
    opened = open_checkpoint(shards(tmp_path))
    write(tmp_path / SECOND, c=np.ones(5, np.float32))
    with pytest.raises(ReadError, match=f"{SECOND}: changed since it was opened"):
        opened.check_unchanged()


def test_an_index_that_disagrees_with_its_shards(tmp_path) -> None:
    opened = open_checkpoint(shards(tmp_path, index={"a": SECOND, "c": SECOND, "b": FIRST}, total=99))
    assert list(opened) == ["a", "b", "c"]
    assert opened.notes == (
        "model.safetensors.index.json: names the wrong shard for 1 tensors, 'a'; taken from where they are",
        "model.safetensors.index.json: total_size is 99 bytes, the tensors take 24",
    )
    opened = open_checkpoint(shards(tmp_path, index={"a": FIRST, "c": SECOND}))
    assert opened.notes == ("model.safetensors.index.json: does not list 1 tensors that are in its shards: 'b'",)
    assert float(opened["b"].read()[0]) == 2
    shards(tmp_path, index={**RIGHT, "d": FIRST, "e": SECOND})
    refused(
        tmp_path, FormatError, "index.json: lists 2 tensors that no shard holds: 'd', 'e'; shards of another version?"
    )


def test_tensors_in_two_shards(tmp_path) -> None:
    shards(tmp_path, index={**RIGHT, "b": SECOND})
    write(tmp_path / SECOND, c=one(3), b=one(4))
    opened = open_checkpoint(tmp_path)
    assert list(opened) == ["a", "b", "c"]
    assert float(opened["b"].read()[0]) == 4
    assert opened.notes[0] == "tensors in two shards, taken from the one that the index names: 'b'"
    (tmp_path / "model.safetensors.index.json").unlink()
    refused(tmp_path, FormatError, f"tensor 'b' is also in '{FIRST}'; these files are not one model: name one of them")


def test_missing_shards_are_named(tmp_path) -> None:
    shards(tmp_path, index={**RIGHT, "d": "model-00003-of-00003.safetensors"})
    refused(tmp_path, FormatError, "1 of its 3 shards are missing: 'model-00003-of-00003.safetensors'; download them")
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / FIRST).unlink()
    refused(tmp_path, FormatError, f"1 of 2 shards are missing: '{FIRST}'; download them into the same folder")


@pytest.mark.parametrize(
    "shard", ["/etc/passwd", "../x.safetensors", "a/../../x", "..\\x", "C:\\x", "\\x", "", "x\0y", "//host/x", "C:x"]
)
def test_shard_names_that_leave_the_folder(shard, tmp_path) -> None:
    write(tmp_path.parent / "x.safetensors")
    shards(tmp_path, index={"a": shard})
    refused(tmp_path, UnsafeFileError, "expected a file inside its own folder; nothing was read")


def test_shards_in_a_folder_below(tmp_path) -> None:
    write(tmp_path / "parts" / "x.safetensors", a=one(1))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "parts/x.safetensors"}}))
    opened = open_checkpoint(tmp_path)
    assert list(opened) == ["a"]
    assert opened.notes == ()


def test_links_out_of_the_folder(tmp_path) -> None:
    outside = write(tmp_path / "outside" / "secret.safetensors")
    folder = shards(tmp_path / "m", index=RIGHT)
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to(outside)
    refused(folder, UnsafeFileError, f"{SECOND}: is a link to {outside}, outside its folder; name that file itself")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, UnsafeFileError, "outside its folder")
    assert list(open_checkpoint(folder / SECOND)) == ["w"]  # the user named it


def test_links_of_a_hub_cache(tmp_path) -> None:
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    write(repo / "blobs" / "1234", w=one(5))
    (repo / "blobs" / "5678").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    (snapshot / "config.json").symlink_to("../../blobs/5678")
    opened = open_checkpoint(snapshot)
    assert float(opened["w"].read()[0]) == 5
    assert opened.config == {}
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(write(tmp_path / "blobs" / "9"))
    refused(snapshot, UnsafeFileError, "outside its folder")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a valid index: expected '{' at character 0, got '[]'"),
        ("", "is not a valid index: expected '{' at character 0, got the end of the text"),
        ("{}", "its weight_map lists no tensors; expected tensor names and their shards"),
        ('{"weight_map": []}', "is not a valid index: expected '{' at character 15"),
        ('{"weight_map": {"a": 1}}', "is not a valid index: expected a string at character 21"),
        ('{"weight_map": {"a": null}}', "is not a valid index: expected a string at character 21"),
        ('{"weight_map": {"a": "b"', "is not a valid index: expected ',' at character 24"),
        ('{"weight_map": {"a": "b"}} x', "is not a valid index: expected nothing more at character 27"),
        ('{"x": ' + "[" * 100_000, "more than 127 levels of nesting"),
        (b'{"\xff": 1}', "is not UTF-8 at byte 2"),
    ],
)
def test_broken_indexes(content, message, tmp_path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(tmp_path, FormatError, f"{path}: {message}"[: len(str(path)) + 2])
    refused(tmp_path, FormatError, message)


def test_an_index_of_too_many_shards(tmp_path) -> None:
    weight_map = {str(i): f"{i}.safetensors" for i in range(100_001)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, FormatError, "index.json: names 100001 shards, expected at most 100000")


MEASURE = f"""{PEAK}
import sys, time
from netweight.checkpoint import open_checkpoint
from netweight.errors import NetweightError
before, start = peak(), time.process_time()
try:
    print(len(open_checkpoint(sys.argv[1])))
except NetweightError as problem:
    print(problem)
print(time.process_time() - start, (peak() - before) / 1024)
"""


@pytest.mark.parametrize("size", [99_000_000, 101_000_000])
def test_an_index_of_a_hundred_megabytes(size, tmp_path) -> None:
    pytest.importorskip("resource", reason="peak memory is not told on this system")
    entry = ",".join(
        f'"model.layers.{i}.mlp.experts.gate_proj.weight":"model-00001-of-00002.safetensors"' for i in range(1000)
    )
    content = '{"weight_map":{' + ",".join([entry] * (size // len(entry)))
    (tmp_path / "model.safetensors.index.json").write_text(content)
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    said, numbers = done.stdout.splitlines()
    seconds, mebibytes = map(float, numbers.split())
    assert ("expected at most 100000000" if size > 100_000_000 else "is not a valid index") in said
    assert seconds < 10 * slowness()
    assert mebibytes < 256


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("", "config.json: is empty, expected a JSON object"),
        ("[1]", "config.json: holds a JSON array, expected an object"),
        ("3", "config.json: holds a JSON number, expected an object"),
        ("null", "config.json: holds a JSON null, expected an object"),
        ('{"a": ', "config.json: is not valid JSON: "),
        ("[" * 100_000, "config.json: is nested too deeply"),
        ("\udcff", "config.json: is not valid JSON: "),
    ],
)
def test_config_is_never_a_reason_to_fail(content, message, tmp_path) -> None:
    write(tmp_path / "model.safetensors")
    if content is not None:
        (tmp_path / "config.json").write_text(content, errors="surrogateescape")
    opened = open_checkpoint(tmp_path)
    assert opened.config is None
    assert message in opened.config_problem
    assert "\n" not in opened.config_problem


def test_huge_and_strange_configs(tmp_path) -> None:
    write(tmp_path / "model.safetensors")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(17 << 20)
    assert open_checkpoint(tmp_path).config_problem == (
        f"{tmp_path / 'config.json'}: 17825792 bytes, expected at most 16777216"
    )
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    assert "config.json: is a folder, expected a regular file" in open_checkpoint(tmp_path).config_problem
    (tmp_path / "config.json").rmdir()
    (tmp_path / "config.json").symlink_to("/etc/hostname")
    assert "outside its folder" in open_checkpoint(tmp_path).config_problem


def test_which_file_of_a_folder(tmp_path) -> None:
    def chosen(*names: str) -> list[str]:
        for path in tmp_path.iterdir():
            path.unlink()
        for i, name in enumerate(names):
            write(tmp_path / name, **{f"w{i}": one(i)})
        return [Path(file.path).name for file in open_checkpoint(tmp_path).files]

    assert chosen("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors") == ["model.safetensors"]
    assert chosen(FIRST, SECOND, "consolidated.safetensors") == [FIRST, SECOND]
    assert chosen("adapter_model.safetensors") == ["adapter_model.safetensors"]
    assert chosen("adapter_model.safetensors", "weights.safetensors") == ["weights.safetensors"]
    assert chosen("x.safetensors", "y.safetensors") == ["x.safetensors", "y.safetensors"]
    assert chosen("pruned_model.bin", "training_args.bin", "optimizer.pt", "rng_state_0.pth") == ["pruned_model.bin"]
    assert chosen("pytorch_model.bin", "pruned_model.bin") == ["pytorch_model.bin"]
    assert chosen("base_0.25.pt", "scheduler.pt") == ["base_0.25.pt"]
    assert chosen("pytorch_model-00001-of-00001.bin") == ["pytorch_model-00001-of-00001.bin"]
    for name in ("a.pt", "b.pt"):
        write(tmp_path / name)
    (tmp_path / "pytorch_model-00001-of-00001.bin").unlink()
    refused(tmp_path, FormatError, f"{tmp_path}: holds several models: 'a.pt', 'b.pt'; name one of them")


def test_a_single_file_wins_over_an_index_and_says_so(tmp_path) -> None:
    shards(tmp_path, index=RIGHT)
    write(tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    assert list(opened) == ["w"]
    assert opened.notes == ("model.safetensors.index.json: not used, model.safetensors is there too",)


def test_torch_shards_with_an_index(tmp_path) -> None:
    torch = pytest.importorskip("torch", reason="writes the shards")
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"c": torch.ones(4)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {name: f"pytorch_model-0000{n}-of-00002.bin" for name, n in [("a", 1), ("b", 1), ("c", 2)]}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    opened = open_checkpoint(tmp_path)
    assert (list(opened), opened.format, opened.notes) == (["a", "b", "c"], "torch zip", ())
    assert {t.name: t.read().size for t in opened.values()} == {"a": 2, "b": 3, "c": 4}


def test_formats_are_told_by_content_not_by_name(tmp_path) -> None:
    torch = pytest.importorskip("torch", reason="writes the files")
    assert open_checkpoint(write(tmp_path / "x.pt")).format == "safetensors"
    torch.save({"w": torch.ones(2)}, tmp_path / "y.npz")
    assert open_checkpoint(tmp_path / "y.npz").format == "torch zip"
    torch.save({"w": torch.ones(2)}, tmp_path / "z.tar", _use_new_zipfile_serialization=False)
    assert open_checkpoint(tmp_path / "z.tar").format == "torch legacy"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes), expected a model; download it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "is a Git LFS pointer and not the file itself: run",
        ),
        (b"GGUF\x03\x00\x00\x00" + bytes(30), "holds no tensors"),
        (b"GGUF", "its header goes on beyond its 4 bytes; the file is cut short: download it again"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "is an HDF5 (Keras) file, which is not supported"),
        (b"\x08\x07\x12\x07pytorch" + bytes(30), "is an ONNX file, which is not supported"),
        (b"\x93NUMPY\x01\x00" + bytes(30), "is a numpy array, which is not supported"),
        (b"\x1f\x8b\x08\x00" + bytes(30), "is a gzip archive: unpack it first"),
        (b"<!DOCTYPE html><html>" + bytes(30), "is an HTML page, not a model: the download failed"),
        (b'{"architectures": []}', "is JSON text, expected a model; name the model's folder or its weight file"),
        (
            b"hello, world",
            "is no known model file: starts with 68 65 6c 6c 6f 2c 20 77; expected safetensors, torch",
        ),
        (b"\x00", "is no known model file: starts with 00; expected safetensors, torch, GGUF or npz"),
    ],
)
@pytest.mark.parametrize("name", ["model.pt", "model.bin"])
def test_files_that_are_no_models(content, message, name, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, FormatError, f"{tmp_path / name}: {message}")


def test_an_lfs_pointer_named_safetensors(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    refused(
        tmp_path, FormatError, f"{path}: is a Git LFS pointer and not the file itself: run `git lfs pull` in its folder"
    )


def test_references_that_lead_nowhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    refused(tmp_path / "my-modle", ModelNotFoundError, "there is no such file or folder (did you mean 'my-model'?)")
    for ref in ("org/name", "hf://org/name", "org/name@main"):
        said = refused(ref, ModelNotFoundError, "there is no such file or folder here, it is not in the hub's cache (")
        assert said.startswith(f"hf://{ref.removeprefix('hf://')}: ")
        assert said.endswith("), and HF_HUB_OFFLINE forbids to ask the hub; unset it")
    refused("", ModelNotFoundError, "the model reference is empty; expected a folder or a file")
    refused("a\0b", ModelNotFoundError, "there is no such file or folder")
    refused("x" * 5000, ModelNotFoundError, "cannot be opened: File name too long")
    refused(
        tmp_path / "my-model",
        ModelNotFoundError,
        "holds no model: no .safetensors, .bin, .pt, .pth, .ckpt, .npz or .gguf file",
    )
    (tmp_path / "my-model" / "checkpoint-500").mkdir()
    refused(tmp_path / "my-model", ModelNotFoundError, "or .gguf file; its folders: 'checkpoint-500'")
    (tmp_path / "my-model" / "model.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    refused(tmp_path / "my-model", ModelNotFoundError, "holds 'model.mat', a MATLAB file, which is not supported")


def test_an_existing_path_wins_over_a_hub_id(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "org" / "name" / "model.safetensors")
    assert list(open_checkpoint("org/name")) == ["w"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_pipes_and_devices_do_not_hang(tmp_path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", FormatError, "is a pipe, expected a regular file")
    refused("/dev/zero", FormatError, "is a device, expected a regular file")
    refused(tmp_path, ModelNotFoundError, "holds no model")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch) -> None:
    """As a folder that may not be looked into: bad input, exit code 2."""
    path = write(tmp_path / "model.safetensors")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda name, mode: name != str(path) and allowed(name, mode))
    refused(path, ModelNotFoundError, f"{path}: cannot be opened: {os.strerror(errno.EACCES)}")
    refused(tmp_path, ModelNotFoundError, f"{path}: cannot be opened: {os.strerror(errno.EACCES)}")


def test_names_that_differ_in_case_or_hold_control_characters(tmp_path) -> None:
    names = ["w", "W", "a\nb", "\x1b[31m", "../x", "=1+1", "🙂", ""]
    path = write(tmp_path / "model.safetensors", **dict(zip(names, map(one, range(len(names))), strict=True)))
    opened = open_checkpoint(path)
    assert {name: float(tensor.read()[0]) for name, tensor in opened.items()} == {n: i for i, n in enumerate(names)}
    header = b'{"a\\n\\u001b[31m":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(path, FormatError, r"tensor 'a\\n\\x1b[31m': data_offsets [0, 8] hold 8 bytes")


def test_an_eight_billion_parameter_shape_opens_at_once(tmp_path) -> None:
    weight_map = {}
    for shard in range(4):
        entries, at = {}, 0
        for layer in range(8):
            for i, shape in enumerate([[4096, 4096], [1024, 4096], [1024, 4096], [4096, 4096], [14336, 4096],
                                       [14336, 4096], [4096, 14336], [4096], [4096]]):  # fmt: skip
                size = 2 * int(np.prod(shape))
                entries[f"model.layers.{shard * 8 + layer}.w{i}"] = {
                    "dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}  # fmt: skip
                at += size
        header = json.dumps(entries).encode()
        name = f"model-{shard + 1:05}-of-00004.safetensors"
        with (tmp_path / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + at)
        weight_map |= dict.fromkeys(entries, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    times = []
    for _ in range(5):
        start = time.thread_time()
        opened = open_checkpoint(tmp_path)
        times.append(time.thread_time() - start)
    assert sum(tensor.size for tensor in opened.values()) > 6_900_000_000
    assert min(times) < 0.1 * slowness()


def test_real_index_files_are_read(realweights) -> None:
    from netweight.checkpoint.index import read_index

    files = sorted((realweights / "json").glob("*index.json"))
    assert len(files) > 10
    for path in files:
        index = read_index(path)
        content = json.loads(path.read_text())
        assert index.weight_map == content["weight_map"]
        assert index.total_size == content.get("metadata", {}).get("total_size")
