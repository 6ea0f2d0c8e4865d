"""Folders of torch.distributed.checkpoint, against torch: what it writes itself, and what several ranks would write."""

from __future__ import annotations

import io
import itertools
import pickle
import random
import shutil

import pytest
from safetensors.torch import load_file, save, save_file

import netweight
from netweight.errors import FormatError, InputError, ModelNotFoundError, UnsafeFileError

torch = pytest.importorskip("torch")
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.filesystem import _StorageInfo  # noqa: E402
from torch.distributed.checkpoint.metadata import (  # noqa: E402
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

WHOLE = {
    "embed.weight": torch.arange(70, dtype=torch.float32).reshape(10, 7),
    "layers.0.wq.weight": torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "experts": torch.arange(96, dtype=torch.int32).reshape(4, 6, 4),
    "norm.weight": torch.ones(5),
    "scale": torch.tensor(3.5),
}
CUTS = {"embed.weight": [4, 3], "layers.0.wq.weight": [6, 3], "experts": [2, 4, 4], "norm.weight": [2], "scale": []}


def by_torch(folder, value):
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(value, checkpoint_id=folder)
    return folder


def packed(tensor, form: str) -> bytes:
    if form == "safetensors":
        return save({"a": tensor.contiguous()})
    stream = io.BytesIO()
    torch.save(tensor.clone(), stream)
    return stream.getvalue()


def by_ranks(folder, tensors=WHOLE, cuts=CUTS, *, paths=True, ranks=3, form="torch", change=None):
    """Chunks of `cuts` elements an axis, dealt out to the files of `ranks`, as FileSystemWriter lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    declared, stored, plan = {}, {}, {}
    files = [bytearray() for _ in range(ranks)]
    for name, tensor in tensors.items():
        full = f"model.{name}"
        chunks = []
        steps = cuts.get(name, list(tensor.shape))
        starts = itertools.product(*(range(0, n, step) for n, step in zip(tensor.shape, steps, strict=True)))
        for number, at in enumerate(starts):
            piece = tensor[tuple(slice(a, a + s) for a, s in zip(at, steps, strict=True))] if at else tensor
            chunks.append(ChunkStorageMetadata(torch.Size(at), piece.shape))
            data, file = packed(piece, form), (number + len(name)) % ranks
            stored[MetadataIndex(full, at, number)] = _StorageInfo(f"__{file}_0.distcp", len(files[file]), len(data))
            files[file] += data
        declared[full] = TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), tensor.shape, chunks)
        plan[full] = ("model", name)
    declared["step"] = BytesStorageMetadata()
    stored[MetadataIndex("step")] = _StorageInfo("__0_0.distcp", 0, 0)
    metadata = Metadata(declared, plan if paths else None, stored)
    if change:
        change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    for number, data in enumerate(files):
        (folder / f"__{number}_0.distcp").write_bytes(data)
    return folder


def same(checkpoint, tensors, prefix=""):
    assert sorted(checkpoint) == sorted(prefix + name for name in tensors)
    for name, tensor in tensors.items():
        read = checkpoint[prefix + name].read()
        assert read.tobytes() == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), name
        assert checkpoint[prefix + name].shape == tuple(tensor.shape)


def test_what_torch_writes(tmp_path):
    """The dict that was saved is looked through as one of a torch file: a model, and what else is beside it."""
    turned = {**WHOLE, "turned": torch.arange(12.0).reshape(3, 4).t()}
    optimizer = {"state": {"embed.weight": {"exp_avg": torch.ones(10, 7)}}, "param_groups": [{"lr": 1e-4}]}
    folder = by_torch(tmp_path / "a", {"model": turned, "optimizer": optimizer, "step": 7})
    for ref in (folder, folder / ".metadata"):
        with netweight.open(ref) as checkpoint:
            same(checkpoint, turned)
            assert checkpoint.format == "torch distributed"
            assert {entry.name: entry.reason for entry in checkpoint.skipped}["optimizer"].startswith(
                "optimizer state: 1"
            )
            assert [file.path for file in checkpoint.files] == [str(folder / ".metadata"), str(folder / "__0_0.distcp")]
    same(netweight.open(by_torch(tmp_path / "b", dict(WHOLE))), WHOLE)


@pytest.mark.parametrize("form", ["torch", "safetensors"])
@pytest.mark.parametrize("paths", [True, False])
def test_what_ranks_write(tmp_path, form, paths):
    folder = by_ranks(tmp_path, form=form, paths=paths)
    with netweight.open(folder) as checkpoint:
        same(checkpoint, WHOLE, "" if paths else "model.")
    files = [folder / ".metadata", *sorted(folder.glob("*.distcp"))]
    assert [file.path for file in checkpoint.files] == [str(file) for file in files]


def test_a_flat_dict_keeps_its_optimizer_apart(tmp_path):
    """Megatron names its optimizer's tensors like a model's, in one flat dict."""
    tensors = {"decoder.weight": torch.ones(4, 4), "optimizer.state.exp_avg.decoder.weight": torch.ones(4, 4)}
    with netweight.open(by_torch(tmp_path, tensors)) as checkpoint:
        assert list(checkpoint) == ["decoder.weight"]
        assert checkpoint.skipped[0].reason == "optimizer state: 1 tensor, 64 bytes"


def test_commands_take_it(tmp_path):
    """A merge of two, of which one lies in chunks, is the mean of both, and is verified; a copy is the same bytes."""
    torch.manual_seed(0)
    one = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(32, 16) for i in range(3)}
    two = {name: torch.randn_like(tensor) for name, tensor in one.items()}
    cuts = dict.fromkeys(one, (12, 8))
    left, right = by_ranks(tmp_path / "l", one, cuts), by_torch(tmp_path / "r", {"model": two})
    netweight.merge(None, tmp_path / "out", models=[left, right], method="linear", weights=(0.5, 0.5), dtype="float32")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in one.items():
        torch.testing.assert_close(merged[name], (tensor + two[name]) / 2, rtol=1e-6, atol=1e-7)
    assert netweight.verify(tmp_path / "out").good
    found = netweight.delta(left, [by_torch(tmp_path / "same", {"model": one}), right]).models
    assert found[0].summary["global_l2"] == 0
    norm = sum(float((two[name] - tensor).double().square().sum()) for name, tensor in one.items()) ** 0.5
    assert found[1].summary["global_l2"] == pytest.approx(norm, rel=1e-6)


def test_what_lies_beside_is_not_taken_for_the_model(tmp_path):
    """Megatron keeps its arguments in `common.pt`; a model under its usual name counts more than either."""
    folder = by_ranks(tmp_path)
    torch.save({"args": {"lr": 1.0}, "iteration": torch.tensor(5)}, folder / "common.pt")
    same(netweight.open(folder), WHOLE)
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    assert list(netweight.open(folder)) == ["w"]


def test_folders_that_lack_something(tmp_path):
    folder = by_ranks(tmp_path / "a")
    with pytest.raises(FormatError, match=rf"__1_0\.distcp: is a part of a torch\.distributed .*'{folder}'"):
        netweight.open(folder / "__1_0.distcp")
    (folder / "__1_0.distcp").unlink()
    with pytest.raises(FormatError, match=r"1 of 3 files are missing: '__1_0\.distcp'; each rank writes its own"):
        netweight.open(folder)
    (folder / ".metadata").unlink()
    with pytest.raises(FormatError, match=r"holds 2 parts of a torch\.distributed checkpoint and no \.metadata"):
        netweight.open(folder)
    with pytest.raises(FormatError, match="dcp_to_torch"):
        netweight.open(folder / "__0_0.distcp")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".metadata").write_bytes(b"not one of torch")
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        netweight.open(tmp_path / "b")


def test_files_of_another_save_are_told(tmp_path):
    """The metadata of one save beside the parts of another: chunks lie elsewhere, or have another shape."""
    one, other = by_ranks(tmp_path / "a"), by_ranks(tmp_path / "b", cuts=CUTS | {"embed.weight": [7, 4]})
    shutil.copy(one / ".metadata", other / ".metadata")
    with pytest.raises(FormatError, match=r"of two checkpoints or damaged|the file is damaged|cut short"):
        netweight.open(other)


def edit(name, **fields):
    def change(metadata):
        for key, value in fields.items():
            setattr(metadata.state_dict_metadata[f"model.{name}"], key, value)

    return change


def move(name, **fields):
    def change(metadata):
        for index, info in metadata.storage_data.items():
            if index.fqn == f"model.{name}":
                for key, value in fields.items():
                    setattr(info, key, value)

    return change


def drop(metadata):
    metadata.storage_data = {k: v for k, v in metadata.storage_data.items() if k.fqn != "model.norm.weight"}


@pytest.mark.parametrize(
    ("change", "problem", "message"),
    [
        (edit("embed.weight", size=torch.Size([11, 7])), FormatError, r"hold 70 elements .*\[11, 7\] once"),
        (edit("embed.weight", size=torch.Size([7, 10])), FormatError, "outside of its shape"),
        (edit("embed.weight", chunks=[]), FormatError, "its shape and chunks are no whole numbers"),
        (edit("embed.weight", properties=TensorProperties(dtype=torch.int32)), FormatError, "is F32, expected I32"),
        (move("norm.weight", offset=1 << 40), FormatError, r"norm.weight' ends at byte \d+ of \d+"),
        (move("norm.weight", offset=3), FormatError, "neither a torch nor a safetensors file from byte 3"),
        (move("norm.weight", length=100), FormatError, "a zip archive without its end"),
        (move("norm.weight", offset=-1), FormatError, "does not say of every item in which bytes of which file"),
        (move("norm.weight", length=None), FormatError, "does not say of every item in which bytes"),
        (move("norm.weight", relative_path=7), FormatError, "does not say of every item in which bytes of which file"),
        (move("norm.weight", relative_path="../x.distcp"), UnsafeFileError, r"names the shard '\.\./x\.distcp'"),
        (move("norm.weight", relative_path="/etc/passwd"), UnsafeFileError, "names the shard"),
        (move("norm.weight", transform_descriptors=["zstd"]), FormatError, "is stored packed, which is not supported"),
        (drop, FormatError, r"'model\.norm\.weight': no file is named for its chunk at \[0\]"),
        (edit("embed.weight", size=torch.Size([-1, 7])), FormatError, "no whole numbers"),
    ],
)  # fmt: skip
def test_metadata_that_lie(tmp_path, change, problem, message):
    with pytest.raises(problem, match=message):
        netweight.open(by_ranks(tmp_path, change=change))


def test_a_pickle_that_calls_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return eval, ("open('/nowhere')",)

    folder = by_ranks(tmp_path, change=lambda metadata: setattr(metadata, "storage_meta", Attack()))
    with pytest.raises(UnsafeFileError, match=r"asks to call builtins\.eval"):
        netweight.open(folder)


def test_damage_is_one_line(tmp_path):
    """Any byte of the metadata and of what stands before the data changed: the same values, or an error by name."""
    folder = by_ranks(tmp_path)
    rng = random.Random(4)
    files = [(path, path.read_bytes()) for path in sorted(folder.iterdir())]
    read = refused = 0
    for _ in range(150):
        path, data = rng.choice([files[0], rng.choice(files)])
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed[: rng.choice([len(data)] * 4 + [rng.randrange(len(data))])])
        try:
            with netweight.open(folder) as checkpoint:
                for tensor in checkpoint.values():
                    tensor.read()
            read += 1
        except InputError:
            refused += 1
        path.write_bytes(data)
    assert read
    assert refused > 30
