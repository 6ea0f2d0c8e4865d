"""torch files read without torch: names, shapes, dtypes and bytes are those that torch itself gives."""

from __future__ import annotations

import collections
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from netweight.checkpoint import open_checkpoint
from netweight.errors import FormatError

torch = pytest.importorskip("torch", reason="torch is the oracle here")

NAMES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64", torch.complex128: "C128", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
}  # fmt: skip
TYPED = [dtype for dtype, name in NAMES.items() if not name.startswith(("F8", "U16", "U32", "U64"))]


def raw(tensor: torch.Tensor) -> bytes:
    """The elements' bytes in C order."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def agree(path: Path, expected: dict[str, torch.Tensor]) -> None:
    with open_checkpoint(path) as opened:
        assert set(opened) == set(expected)
        for name, tensor in expected.items():
            mine = opened[name]
            assert (mine.shape, mine.dtype.name) == (tuple(tensor.shape), NAMES[tensor.dtype])
            assert mine.read().tobytes() == raw(tensor), name


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    def write(content, name: str = "model.bin") -> Path:
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    write.format = "torch zip" if request.param else "torch legacy"
    return write


def test_all_dtypes(save) -> None:
    values = torch.arange(24).reshape(2, 3, 4) % 7
    dtypes = list(NAMES) if save.format == "torch zip" else TYPED
    content = {str(dtype): values.to(dtype) if dtype != torch.float8_e8m0fnu else values.to(torch.uint8).view(dtype)
               for dtype in dtypes}  # fmt: skip
    path = save(content)
    agree(path, content)
    assert open_checkpoint(path).format == save.format


def test_shapes_and_values(save) -> None:
    content = {
        "0-d": torch.tensor(-0.0),
        "empty": torch.empty(0, 3),
        "five": torch.randn(2, 1, 3, 2, 2),
        "special": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42]),
        "one": torch.ones(1),
    }
    agree(save(content), content)


def views() -> dict[str, torch.Tensor]:
    base = torch.randn(6, 8, 10)
    return {
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(1, 2, 0)[1:, ::3],
        "sliced": base[:, 2:7, 1:9:2],
        "row": base[3, 5],
        "column": base[:, 3, 4],
        "expanded": torch.randn(5, 1).expand(5, 7),
        "expanded scalar": torch.tensor(3.0).expand(2, 3, 4),
        "matrix": torch.randn(30, 20).t(),
        "overlapping": torch.randn(23).as_strided((6, 5), (2, 3)),
        "complex": torch.randn(4, 5, dtype=torch.complex128).t(),
        "bytes": torch.arange(60, dtype=torch.uint8).reshape(6, 10).t(),
    }


def test_views_whole_and_in_blocks(save, monkeypatch) -> None:
    content = views()
    path = save(content)
    agree(path, content)
    monkeypatch.setattr("netweight.checkpoint.strided.PIECE", 64)
    monkeypatch.setattr("netweight.checkpoint.strided.READ_COST", 16)
    agree(path, content)
    rng = np.random.default_rng(0)
    with open_checkpoint(path) as opened:
        for name, tensor in content.items():
            expected, width = raw(tensor), opened[name].dtype.bits // 8
            for _ in range(40):
                start = int(rng.integers(0, tensor.numel() + 1))
                count = int(rng.integers(0, tensor.numel() - start + 1))
                block = bytearray(count * width)
                opened[name].prefetch(start, count)
                opened[name].read_into(start, memoryview(block))
                assert bytes(block) == expected[start * width : (start + count) * width]


def test_a_large_transposed_view_is_read_in_bounded_pieces(tmp_path, monkeypatch) -> None:
    base = torch.arange(4_000_000, dtype=torch.int32).reshape(4000, 1000)
    torch.save({"w": base.t()}, tmp_path / "m.pt")
    with open_checkpoint(tmp_path / "m.pt") as opened:
        tensor = opened["w"]
        sizes = []
        read = tensor.source.read_into
        monkeypatch.setattr(
            type(tensor.source), "read_into", lambda self, at, out: sizes.append(len(out)) or read(at, out)
        )
        for start in (0, 1_234_567, 3_999_000):
            block = np.empty(min(1 << 20, 4_000_000 - start), np.int32)
            tensor.read_into(start, memoryview(block.view(np.uint8)))
            np.testing.assert_array_equal(block, base.t().reshape(-1)[start : start + len(block)].numpy())
        assert max(sizes) <= 4 << 20


def test_reads_outside_a_tensor_are_refused(save) -> None:
    opened = open_checkpoint(save({"a": torch.ones(4), "b": torch.ones(4, 4).t()}))
    for name, start, size in [("a", -1, 4), ("a", 4, 4), ("a", 0, 3), ("a", 0, 20), ("b", 15, 8), ("b", 0, 5)]:
        with pytest.raises(ValueError, match=f"{name}: {size} bytes from element {start}, of "):
            opened[name].read_into(start, memoryview(bytearray(size)))


def test_shared_storages_and_overlaps(save) -> None:
    base = torch.randn(10, 4)
    content = {"a": base, "tied": base, "part": base[2:5], "other": torch.randn(10, 4)}
    path = save(content)
    agree(path, content)
    opened = open_checkpoint(path)
    assert opened.shared == {"tied": "a"}
    assert opened["a"].storage == opened["part"].storage != opened["other"].storage
    assert opened.notes == (
        f"{path}: 1 tensors overlap others in their storage without being the same view; each is taken for itself",
    )


def test_hidden_bytes_are_told(save) -> None:
    path = save({"a": torch.randn(100)[10:30]})
    assert open_checkpoint(path).notes == (f"{path}: 320 bytes of its storages belong to no tensor (hidden bytes)",)


def test_parameters_and_subclasses(save) -> None:
    content = {
        "p": torch.nn.Parameter(torch.randn(3)),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "b": torch.nn.Buffer(torch.randn(2)),
    }
    content["p"].note = "kept beside the tensor"
    agree(save(content), content)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "model_state_dict", "params", "ema"])
def test_wrappers(save, wrapper) -> None:
    state = collections.OrderedDict(w=torch.randn(2, 3), n=torch.tensor(7))
    agree(save({"epoch": 3, wrapper: state}), state)
    agree(save({"lightning": "2", "state_dict": {wrapper: state}}), state)


def test_training_checkpoints(save) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": torch.tensor(12), "best": 0.5,
        "config": {"lr": 1.0}, "ema": model.state_dict(), "rng_state": torch.get_rng_state(), "note": "x", "none": None,
    }  # fmt: skip
    path = save(content)
    agree(path, model.state_dict())
    opened = open_checkpoint(path)
    assert "1.num_batches_tracked" in opened
    assert {entry.name: entry.reason for entry in opened.skipped} == {
        "optimizer": "optimizer state: 12 tensors, 208 bytes",
        "iter_num": "a counter",
        "best": "a number, not a tensor",
        "config": "a dict of 1 entries without tensors",
        "ema": "other weights beside the model: 7 tensors, 136 bytes; to read them:"
        " torch.save(torch.load(FILE)['ema'], OUT)",
        "rng_state": f"state of a random number generator: 1 tensor, {torch.get_rng_state().numel()} bytes",
        "note": "text, not a tensor",
        "none": "nothing, not a tensor",
    }


def test_prefixes_that_all_names_carry(save) -> None:
    state = {"w": torch.ones(1), "b": torch.zeros(1)}
    agree(save({f"module._orig_mod.{name}": value for name, value in state.items()}), state)
    mixed = {"module.w": torch.ones(1), "b": torch.zeros(1)}
    agree(save(mixed), mixed)


def test_lists_nested_dicts_and_single_tensors(save) -> None:
    tensors = [torch.randn(2), torch.randn(3)]
    agree(save(tensors), {"0": tensors[0], "1": tensors[1]})
    agree(save({"encoder": {"w": tensors[0]}, "decoder": {"w": tensors[1]}, "step": torch.tensor(1)}),
          {"encoder.w": tensors[0], "decoder.w": tensors[1]})  # fmt: skip
    agree(save(tensors[0]), {"tensor": tensors[0]})
    agree(save({1: tensors[0], "2": tensors[1]}), {"1": tensors[0], "2": tensors[1]})


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.BatchNorm1d(4))
        self.tied = self.inner[0]
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("temporary", torch.arange(3), persistent=False)
        self.aside = torch.ones(2)


@pytest.mark.filterwarnings("ignore")
def test_whole_modules(save) -> None:
    net = Net()
    for content in (net, {"model": net, "tokenizer": object()}, [net, "x"], torch.nn.DataParallel(net)):
        path = save(content)
        agree(path, net.state_dict())
        opened = open_checkpoint(path)
        assert set(opened.shared) == {"tied.weight", "tied.bias"}
        reasons = {entry.name.removeprefix("module."): entry.reason for entry in opened.skipped}
        assert reasons["temporary"] == "a buffer that is not part of the module's state"
        assert reasons["aside"] == "an attribute of a module that is not part of its state"


def test_tensors_that_are_not_read_are_listed(save) -> None:
    content = {
        "w": torch.ones(2),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, device="meta"),
        "array": np.ones(3),
        "number": np.float32(1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content["quantized"] = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    opened = open_checkpoint(save(content))
    assert list(opened) == ["w"]
    reasons = {entry.name: entry.reason for entry in opened.skipped}
    assert reasons == {
        "sparse": "a sparse tensor, which is not read",
        "meta": "a meta tensor: it has a shape and no data",
        "array": "a numpy array or number, which is not read",
        "number": "a numpy array or number, which is not read",
        "quantized": "a quantized tensor, which is not read",
    }


def test_a_file_without_tensors_says_what_it_holds(save) -> None:
    path = save({"lr": 0.1, "name": "x"})
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    assert str(caught.value) == (f"{path}: holds no tensors; 'lr': a number, not a tensor; 'name': text, not a tensor")


def test_an_absurdly_expanded_view_is_listed_and_not_read(save) -> None:
    opened = open_checkpoint(save({"w": torch.ones(2), "big": torch.ones(1).expand(1 << 40)}))
    assert list(opened) == ["w"]
    assert opened.skipped[0].reason == "an expanded view: 4398046511104 bytes of tensor over 4 bytes of storage"


def test_big_endian_files(tmp_path) -> None:
    little = {"f": torch.randn(5), "h": torch.randn(4).half(), "c": torch.randn(3, dtype=torch.complex64),
              "z": torch.randn(3, dtype=torch.complex128), "u": torch.arange(4, dtype=torch.uint8),
              "t": torch.randn(3, 4).t()}  # fmt: skip
    torch.save(little, tmp_path / "little.pt")
    swapped = tmp_path / "big.pt"
    widths = {"0": 4, "1": 2, "2": 4, "3": 8, "4": 1, "5": 4}
    with zipfile.ZipFile(tmp_path / "little.pt") as old, zipfile.ZipFile(swapped, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            _root, _, rest = entry.filename.partition("/")
            if rest == "byteorder":
                data = b"big"
            elif rest.startswith("data/"):
                data = np.frombuffer(data, f"u{widths[rest[5:]]}").byteswap().tobytes()
            new.writestr(entry.filename, data)
    agree(swapped, little)


def test_torchscript_modules(tmp_path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(tmp_path / "s.pt")
    agree(tmp_path / "s.pt", net.state_dict())


def test_archives_of_more_entries_than_old_zips_can_count(tmp_path) -> None:
    content = {"w": torch.randn(3)}
    torch.save(content, tmp_path / "m.pt")
    path = tmp_path / "many.pt"
    with zipfile.ZipFile(tmp_path / "m.pt") as old, zipfile.ZipFile(path, "w") as new:
        for i in range(66_000):
            new.writestr(f"other/{i}", b"")
        for entry in old.infolist():
            with new.open(entry.filename, "w", force_zip64=True) as member:
                member.write(old.read(entry))
    agree(path, content)


def test_sizes_and_offsets_of_more_than_32_bits() -> None:
    from netweight.checkpoint.zip_directory import _wide

    full = 0xFFFFFFFF
    extra = struct.pack("<2H4s", 0x4246, 4, b"FBZZ") + struct.pack("<2H3Q", 1, 24, 5 << 32, 6 << 32, 7 << 32)
    assert _wide(extra, full, full, full) == (5 << 32, 6 << 32, 7 << 32)
    assert _wide(extra, 12, 12, full) == (12, 12, 5 << 32)
    assert _wide(extra[:20], full, 9, 9) == (5 << 32, 9, 9)
    assert _wide(b"", full, 1, 2) == (full, 1, 2)


def test_archives_with_dots_in_their_root_and_packed_pickles(tmp_path) -> None:
    content = {"w": torch.randn(3)}
    torch.save(content, tmp_path / "my.model.v1.2.pt")
    agree(tmp_path / "my.model.v1.2.pt", content)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(tmp_path / "my.model.v1.2.pt") as old, zipfile.ZipFile(packed, "w") as new:
        for entry in old.infolist():
            method = zipfile.ZIP_DEFLATED if entry.filename.endswith("data.pkl") else zipfile.ZIP_STORED
            new.writestr(entry.filename, old.read(entry), method)
    agree(packed, content)


def old_tar(path: Path, shape=(2, 3), stride=(3, 1), offset: int = 1, count: int = 7, storage: int = 7) -> np.ndarray:
    """A file as torch 0.1.9 wrote it: tensors are named by their keys in the pickle."""
    data = np.arange(count, dtype="<f4")

    def dumps(value) -> bytes:
        return pickle.dumps(value, protocol=2)

    storages = dumps(1) + dumps((7, "cpu", torch.FloatStorage))
    storages += struct.pack("<q", count) + data.tobytes() + dumps([(9, 7, 2, 5)])
    tensors = dumps(1) + dumps((5, storage, torch.FloatStorage)) + struct.pack("<ii", len(shape), 0)
    tensors += struct.pack(f"<{2 * len(shape) + 1}q", *shape, *stride, offset)
    content = b"\x80\x02}X\x01\x00\x00\x00wX\x01\x00\x00\x005Qs."  # {"w": the tensor of the persistent id "5"}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, member in [
            ("sys_info", dumps({})),
            ("pickle", content),
            ("tensors", tensors),
            ("storages", storages),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(member)
            archive.addfile(info, io.BytesIO(member))
    return data


def test_tar_archives_of_torch_before_0_1_10(tmp_path) -> None:
    path = tmp_path / "old.pt"
    data = old_tar(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.load(path, weights_only=False)
    agree(path, expected)
    opened = open_checkpoint(path)
    assert opened.format == "torch tar"
    np.testing.assert_array_equal(opened["w"].read(), data[1:7].reshape(2, 3))


def test_tar_archives_with_views_of_storages(tmp_path) -> None:
    path = tmp_path / "old.pt"
    data = old_tar(path, shape=(2, 2), stride=(2, 1), storage=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(expected["w"], data[3:7].reshape(2, 2))
    agree(path, expected)


class Stored:
    """Takes a storage's place in a pickle."""

    def __init__(self, *reference) -> None:
        self.reference = reference


class Rebuilt:
    def __init__(self, function, *args) -> None:
        self.answer = (function, args)

    def __reduce__(self):
        return self.answer


class Referring(pickle.Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Stored) else None


def old_stream(path: Path, tensor: Rebuilt, data: np.ndarray) -> Path:
    """A file of one tensor as torch wrote it before zip archives: its storage "0" has `data`."""
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, stream, 2)
    Referring(stream, 2).dump({"w": tensor})
    pickle.dump(["0"], stream, 2)
    path.write_bytes(stream.getvalue() + struct.pack("<q", len(data)) + data.tobytes())
    return path


def test_streams_with_views_of_storages(tmp_path) -> None:
    """As torch 0.3 writes them. No torch reads such a view without a type, which is of bytes."""
    data, view = np.arange(12, dtype="<f4"), ("v", 4, 6)
    stored = Stored("storage", torch.FloatStorage, "0", "cpu", 12, view)
    tensor = Rebuilt(torch._utils._rebuild_tensor_v2, stored, 1, (2, 2), (2, 1), False, collections.OrderedDict())
    path = old_stream(tmp_path / "typed.pt", tensor, data)
    expected = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(expected["w"], data[5:9].reshape(2, 2))
    agree(path, expected)
    data = np.arange(12, dtype="<u2")
    stored = Stored("storage", torch.UntypedStorage, "0", "cpu", 24, view)
    about = (1, (2,), (1,), False, collections.OrderedDict(), torch.uint16)
    path = old_stream(
        tmp_path / "untyped.pt", Rebuilt(torch._utils._rebuild_tensor_v3, stored, *about), data.view("u1")
    )
    with open_checkpoint(path) as opened:
        np.testing.assert_array_equal(opened["w"].read(), data[3:5])


def test_streams_with_views_beyond_their_storage(tmp_path) -> None:
    for view, message in [
        (("v", 8, 5), "its storage is a view of elements 8 to 13 of 12"),
        (("v", 2, 4), "reach byte 20 of its storage, which has 16; the file is damaged"),
        (("v", -1, 4), "its storage is a view without offset and size"),
        (("v", 1), "its storage is a view without offset and size"),
    ]:
        stored = Stored("storage", torch.FloatStorage, "0", "cpu", 12, view)
        tensor = Rebuilt(torch._utils._rebuild_tensor_v2, stored, 1, (2, 2), (2, 1), False, collections.OrderedDict())
        with pytest.raises(FormatError, match=rf"tensor 'w': .*{message}"):
            open_checkpoint(old_stream(tmp_path / "m.pt", tensor, np.arange(12, dtype="<f4")))


def test_references_that_are_no_persistent_ids(tmp_path) -> None:
    data = np.arange(6, dtype="<f4")
    reference = ("storage", torch.FloatStorage, "0", "cpu", 6)
    content = Rebuilt(torch._utils._rebuild_tensor_v2, reference, 2, (2, 2), (2, 1), False, collections.OrderedDict())
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({"w": content}, 2))
        archive.writestr("m/data/0", data.tobytes())
    with open_checkpoint(path) as opened:
        np.testing.assert_array_equal(opened["w"].read(), data[2:].reshape(2, 2))


def test_ordered_dicts_of_python_2(tmp_path) -> None:
    """They are made of a list of pairs."""
    content = {"a": torch.arange(3.0), "b": torch.ones(2)}
    pairs = [[name, tensor] for name, tensor in content.items()]
    path = tmp_path / "m.pt"
    torch.save(Rebuilt(collections.OrderedDict, pairs), path)
    assert torch.load(path).keys() == content.keys()
    agree(path, content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 2}, "tensor 'w': offset 2, shape [2, 3] and strides [3, 1] of F32 reach byte 32 of its storage"),
        ({"offset": -1}, "tensor '5': negative offset -1, shape [2, 3] or strides [3, 1]; the file is damaged"),
        ({"stride": (-3, 1)}, "tensor '5': negative offset 1, shape [2, 3] or strides [-3, 1]; the file is damaged"),
    ],
)
def test_tar_archives_with_impossible_views(changes, message, tmp_path) -> None:
    old_tar(tmp_path / "old.pt", **changes)
    with pytest.raises(FormatError) as caught:
        open_checkpoint(tmp_path / "old.pt")
    assert message in str(caught.value)


def oracle(path: Path):
    """What torch makes of a real file, unpickling freely only where it has to and can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError):
            try:
                return torch.load(path, map_location="cpu", weights_only=False)
            except (ImportError, AttributeError, RuntimeError, KeyError, EOFError) as problem:
                return problem


def model_in(content) -> dict[str, torch.Tensor]:
    """The model by the rules of the format notes, for the real files: written apart from the reader."""
    if isinstance(content, list):
        return {str(i): tensor for i, tensor in enumerate(content)}
    for key in ("model_state_dict", "model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def test_real_files_agree_with_torch(realweights) -> None:
    files = [path for path in sorted(realweights.iterdir()) if path.suffix in {".pt", ".pth", ".tar"}]
    assert len(files) > 10
    compared, left = 0, []
    for path in files:
        expected = oracle(path)
        if isinstance(expected, Exception):
            left.append(path.name)
            assert len(open_checkpoint(path)) > 0
            continue
        agree(path, model_in(expected))
        compared += 1
    assert compared >= 12
    assert len(left) <= 4, left


@pytest.mark.parametrize(("stem", "parameters"), [("twtygqyy", 664_704), ("ikostrikov", 23_249)])
def test_real_whole_modules(realweights, stem, parameters) -> None:
    (path,) = realweights.glob(f"{stem}__*")
    opened = open_checkpoint(path)
    assert sum(tensor.size for tensor in opened.values()) == parameters
    for tensor in opened.values():
        assert np.isfinite(tensor.read()).all()


def test_real_training_checkpoints_tell_the_optimizer_apart(realweights) -> None:
    (path,) = realweights.glob("saltyduckegg__*")
    opened = open_checkpoint(path)
    assert opened.shared == {"output.weight": "tok_embeddings.weight"}
    assert {entry.name: entry.reason for entry in opened.skipped}[
        "optimizer"
    ] == "optimizer state: 141 tensors, 2234044 bytes"


def test_opening_reads_no_data_and_imports_nothing_heavy(tmp_path) -> None:
    torch.save({"w": torch.ones(4), "t": torch.ones(2, 3).t()}, tmp_path / "zip.pt")
    torch.save({"w": torch.ones(4)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x"}))
    code = (
        "import sys; from netweight.checkpoint import open_checkpoint\n"
        "print([len(open_checkpoint(path)) for path in sys.argv[1:]])\n"
        "heavy = 'torch numpy numba scipy pyarrow matplotlib pandas polars ml_dtypes pickle zipfile'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "zip.pt", tmp_path / "old.pt"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["[2, 1]", "[]"]


@pytest.mark.parametrize("zipped", [True, False])
def test_lazy_negatives_and_conjugates(tmp_path, zipped):
    """torch keeps a bit beside such a view; its elements are those of the storage with another sign."""

    def z():
        return torch.complex(torch.arange(6.0).reshape(2, 3), torch.arange(6.0, 12.0).reshape(2, 3))

    tensors = {
        "negative": z().conj().imag,
        "strided": z().conj().imag.T,
        "conjugate": z().conj(),
        "both": torch._neg_view(z().conj()),
        "integers": torch._neg_view(torch.tensor([1, -(2**31), 0, 7], dtype=torch.int32)),
        "halves": torch._neg_view(torch.tensor([0.0, -0.0, float("inf"), 2.5], dtype=torch.float16)),
        "plain": z().imag,
        "as stored": torch._neg_view(torch._neg_view(torch.arange(3.0))),
    }
    torch.save(tensors, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    loaded = torch.load(tmp_path / "m.pt", weights_only=True)
    with open_checkpoint(tmp_path / "m.pt") as checkpoint:
        assert set(checkpoint) == set(tensors)
        assert not checkpoint.shared  # a negative is no alias of what it views
        for name, tensor in checkpoint.items():
            expected = loaded[name].resolve_conj().resolve_neg().contiguous()
            if expected.is_complex():
                expected = torch.view_as_real(expected)
            assert tensor.read().tobytes() == expected.numpy().tobytes(), name


def test_objects_that_hold_themselves(tmp_path):
    weight = torch.ones(2, 2)
    plain = {"w": weight}
    plain["self"] = plain
    nested = {"a": {"w": weight}}
    nested["a"]["up"] = nested
    listed = [weight]
    listed.append(listed)
    wrapped = {"state_dict": {"w": weight}}
    wrapped["state_dict"]["trainer"] = wrapped["model"] = wrapped
    for number, (held, name) in enumerate([(plain, "w"), (nested, "a.w"), ({"l": listed}, "l.0"), (wrapped, "w")]):
        torch.save(held, tmp_path / f"{number}.pt")
        with open_checkpoint(tmp_path / f"{number}.pt") as checkpoint:
            assert list(checkpoint) == [name]
            assert {entry.reason for entry in checkpoint.skipped} == {"what holds it: taken once"}


@pytest.mark.parametrize("about", [1, {"neg": 1}, {"odd": True}, {"conj": True}])
def test_bits_that_cannot_be(tmp_path, about):
    """Of a float tensor: what torch never writes is refused or listed, and never read without the bit."""

    class Written:
        def __reduce__(self):
            storage = torch.ones(2)._typed_storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, (2,), (1,), False, {}, about)

    torch.save({"w": Written(), "v": torch.ones(1)}, tmp_path / "m.pt")
    if about in ({"odd": True}, {"neg": 1}):
        with open_checkpoint(tmp_path / "m.pt") as checkpoint:
            assert list(checkpoint) == ["v"]
            assert checkpoint.skipped[0].reason == "bits beside its elements, of a kind that is not known"
    else:
        with pytest.raises(FormatError, match="'w'"):
            open_checkpoint(tmp_path / "m.pt")
