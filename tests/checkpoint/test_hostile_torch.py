"""Hostile and broken torch files: one line of error or a correct result, bounded, and no code is ever run."""

# ruff: noqa: E501 - one case a line reads better

from __future__ import annotations

import bisect
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from slowness import PEAK, slowness

from netweight.checkpoint import open_checkpoint
from netweight.checkpoint.unpickler import load_pickle
from netweight.errors import FormatError, NetweightError, UnsafeFileError

MAGIC = 0x1950A86A20F9469CFC6C


def zipped(path: Path, pkl: bytes, entries: dict[str, bytes] | None = None, **compression) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pkl, **compression)
        for name, data in (entries or {}).items():
            archive.writestr(f"archive/{name}", data)
    return path


def legacy(path: Path, pkl: bytes, rest: bytes = b"") -> Path:
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": True})) + pkl + rest)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tensor(shape=(2,), stride=(1,), offset=0, count=2, key="0", kind="FloatStorage") -> bytes:
    """The opcodes of one torch tensor."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    sizes = b"(" + b"".join(map(number, shape)) + b"t"
    strides = b"(" + b"".join(map(number, stride)) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + strides + b"\x89}tR"


def state(**tensors: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


def refused(path: Path, message: str, error: type[NetweightError] = FormatError) -> None:
    with pytest.raises(error) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


class Reduced:
    def __init__(self, function, *args) -> None:
        self.answer = (function, args)

    def __reduce__(self):
        return self.answer


def attacks(sentinel: str) -> dict[str, tuple[bytes, str]]:
    import runpy

    code = f"open({sentinel!r}, 'w').close()"

    def called(module: str, name: str) -> bytes:
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + text(code) + b"tR."

    return {
        "os.system": (pickle.dumps(Reduced(os.system, f"touch {sentinel}"), 2), f"{os.system.__module__}.system"),
        "eval": (pickle.dumps(Reduced(eval, code), 4), "builtins.eval"),
        "exec": (pickle.dumps({"w": Reduced(exec, code)}, 2), "__builtin__.exec"),
        "runpy": (pickle.dumps(Reduced(runpy.run_path, sentinel), 4), "runpy.run_path"),
        "subprocess": (called("subprocess", "Popen"), "subprocess.Popen"),
        "torch.load": (called("torch.serialization", "load"), "torch.serialization.load"),
        "torch.hub": (called("torch.hub", "load"), "torch.hub.load"),
        "importlib": (called("importlib", "import_module"), "importlib.import_module"),
        "inst": (b"\x80\x02(" + text(code) + b"ios\nsystem\n.", "os.system"),
        "obj": (b"\x80\x02(cos\nsystem\n" + text(code) + b"o.", "os.system"),
        "newobj": (b"\x80\x02cos\nsystem\n(" + text(code) + b"t\x81.", "os.system"),
        "newobj_ex": (b"\x80\x04cos\nsystem\n(" + text(code) + b"t}\x92.", "os.system"),
        "stack_global": (b"\x80\x04" + text("os") + text("system") + b"\x93(" + text(code) + b"tR.", "os.system"),
        "reconstructor": (b"\x80\x02ccopyreg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.", "os.system"),
        "nested module": (called("os.path", "join"), "os.path.join"),
        "setstate": (b"\x80\x02cos\nsystem\n)R}b.", "os.system"),
        "in a tensor": (state(w=b"cos\nsystem\n(" + text(code) + b"tR"), "os.system"),
    }


@pytest.mark.parametrize("container", [zipped, legacy])
@pytest.mark.parametrize("name", list(attacks("x")))
def test_calls_that_only_attacks_make(container, name, tmp_path) -> None:
    sentinel = tmp_path / "sentinel"
    pkl, called = attacks(str(sentinel))[name]
    path = container(tmp_path / "model.pt", pkl)
    refused(path, f"its pickle asks to call {called}", UnsafeFileError)
    refused(path, "nothing was run; do not load this file elsewhere", UnsafeFileError)
    assert not sentinel.exists()


def test_other_unknown_calls_are_inert(tmp_path) -> None:
    sentinel = tmp_path / "sentinel"
    (tmp_path / "evil_module.py").write_text(
        f"open({str(sentinel)!r}, 'w')\ndef run(*args): open({str(sentinel)!r}, 'w')"
    )
    evil = b"cevil_module\nrun\n(" + text("x") + b"tR}" + text("k") + text("v") + b"sb"
    path = zipped(tmp_path / "m.pt", state(w=tensor(), evil=evil), {"data/0": bytes(8)})
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from netweight.checkpoint import open_checkpoint
opened = open_checkpoint(sys.argv[2])
print(list(opened), opened.skipped[0].reason, "evil_module" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path, path], capture_output=True, text=True, check=True)
    assert done.stdout == "['w'] an object of evil_module.run, not a tensor False\n"
    assert not sentinel.exists()


IMPOSSIBLE = [
    (tensor(shape=(3,)), "offset 0, shape [3] and strides [1] of F32 reach byte 12 of its storage, which has 8"),
    (tensor(offset=1), "offset 1, shape [2] and strides [1] of F32 reach byte 12 of its storage, which has 8"),
    (tensor(offset=1 << 60), "of its storage, which has 8; the file is damaged"),
    (tensor(stride=(1 << 62,)), "of its storage, which has 8; the file is damaged"),
    (tensor(shape=(1 << 50, 1 << 50), stride=(1 << 50, 1)), "of its storage, which has 8; the file is damaged"),
    (tensor(stride=(-1,)), "offset, sizes and strides are no whole numbers from 0: 0, (2), (-1)"),
    (tensor(shape=(-2,)), "offset, sizes and strides are no whole numbers from 0: 0, (-2), (1)"),
    (tensor(offset=-1), "offset, sizes and strides are no whole numbers from 0: -1, (2), (1)"),
    (tensor(shape=(1 << 70,)), "offset, sizes and strides are no whole numbers from 0: 0, (a huge number), (1)"),
    (tensor(shape=(1, 2)), "offset, sizes and strides are no whole numbers from 0: 0, (1, 2), (1)"),
    (tensor(shape=(1,) * 65, stride=(1,) * 65), "offset, sizes and strides are no whole numbers from 0"),
    (tensor(count=-1), "its storage has no key and number of elements"),
    (tensor(count=1), "reach byte 8 of its storage, which has 4; the file is damaged"),
    (tensor(count=4, shape=(4,)), "reach byte 16 of its storage, which has 8; the file is damaged"),
    (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "a tensor without its storage"),
    (b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR", "a tensor without its storage"),
    (b"ctorch._utils\n_rebuild_parameter\n(" * 9 + tensor() + b"tR" * 9, "wrapped more than eight times"),
]  # fmt: skip


@pytest.mark.parametrize(("opcodes", "message"), IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_impossible_tensors(opcodes, message, tmp_path) -> None:
    path = zipped(tmp_path / "m.pt", state(w=opcodes), {"data/0": bytes(8)})
    refused(path, f"{path}: tensor 'w': ")
    refused(path, message)


@pytest.mark.parametrize(("opcodes", "reason"), [
    (tensor(kind="WeirdStorage"), "its storage is of the unknown class torch.WeirdStorage"),
    (tensor(kind="QInt8Storage"), "a quantized tensor, which is not read"),
    (tensor(kind="UntypedStorage"), "its dtype is none, which is not known"),
])  # fmt: skip
def test_tensors_of_unknown_types_are_listed(opcodes, reason, tmp_path) -> None:
    opened = open_checkpoint(zipped(tmp_path / "m.pt", state(w=tensor(), x=opcodes), {"data/0": bytes(8)}))
    assert list(opened) == ["w"]
    assert [(entry.name, entry.reason) for entry in opened.skipped] == [("x", reason)]


DAMAGED = [
    (b"", "it ends before its end mark"),
    (b"\x80\x02", "it ends before its end mark"),
    (b"\x80\x06N.", "protocol 6, expected at most 5"),
    (b"\x80\x02\xff.", "opcode b'\\xff' is not known"),
    (b"\x80\x02\x82\x01.", "opcode b'\\x82' is not known"),  # extension registry
    (b"\x80\x05\x97.", "opcode b'\\x97' is not known"),  # out-of-band buffer
    (b"\x80\x02.", "it takes more from its stack than it put there"),
    (b"\x80\x02t.", "it takes more from its stack than it put there"),
    (b"\x80\x02N\x86.", "it takes more from its stack than it put there"),
    (b"\x80\x02NN}\x92.", "the arguments of a call are no tuple"),
    (b"\x80\x02h\x07.", "7"),
    (b"\x80\x02X\xff\xff\xff\xffabc.", "a string of 4294967295 bytes, expected at most 67108864"),
    (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "a string of 18446744073709551615 bytes, expected at most 67108864"),
    (b"\x80\x02X\x10\x00\x00\x00abc.", "it ends in the middle of a value"),
    (b"\x80\x02\x8b\xff\xff\xff\x7f.", "an integer of 2147483647 bytes, expected at most 4096"),
    (b"\x80\x02\x8b\xff\xff\xff\xff.", "an integer of -1 bytes, expected at most 4096"),
    (b"\x80\x02L" + b"9" * 10_000 + b"L\n.", "Exceeds the limit"),
    (b"\x80\x02I" + b"1" * (2 << 20), "a line has no end within 1048576 bytes"),
    (b"\x80\x02B\xff\xff\xff\xff.", "it ends in the middle of a value"),
    (b"\x80\x02NNR.", "the arguments of a call are no tuple"),
    (b"\x80\x04K\x01K\x02\x93.", "a global's name is not text"),
    (b"\x80\x02K\x01K\x02a.", "it appends to what is no list"),
    (b"\x80\x02]K\x01K\x02s.", "it sets items of what is no dict"),
    (b"\x80\x02}(K\x01u.", "a key without a value"),
    (b"\x80\x02Np-1\n.", "memo index -1"),
    (b"Sabc\n.", "a string without its quotes"),
    (b"\x80\x02X\x02\x00\x00\x00\xc3\x28.", "can't decode byte"),
]  # fmt: skip


@pytest.mark.parametrize(("pkl", "message"), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_pickles(pkl, message, tmp_path) -> None:
    path = zipped(tmp_path / "m.pt", pkl)
    refused(path, "its pickle from byte 0 is damaged or hostile at byte ")
    refused(path, message)


def bombs() -> dict[str, tuple[bytes, str]]:
    deep = b"\x80\x02" + b"]" * 3_000_000
    laughs = b"\x80\x02" + b"]q\x00" + b"".join(b"(" + b"h\x00" * 10 + b"lq\x00" for _ in range(60)) + b"."
    names = b"\x80\x02}q\x00(" + text("w") + tensor() + b"u"
    doubled = (
        names
        + b"".join(b"0}q\x01(" + text("a") + b"h\x00" + text("b") + b"h\x00u0h\x01q\x00" for _ in range(40))
        + b"."
    )
    return {
        "flood of opcodes": (b"\x80\x02" + b"N0" * 5_000_000 + b".", "it has more than 8388608 opcodes"),
        "flood of lists": (deep, "it makes more than 160 MiB of objects"),
        "flood of dicts": (b"\x80\x02" + b"}" * 4_000_000, "it makes more than 160 MiB of objects"),
        "flood of marks": (b"\x80\x02" + b"(" * 4_000_000, "it makes more than 160 MiB of objects"),
        "flood of memos": (b"\x80\x04N" + b"\x94" * 4_000_000, "it makes more than 160 MiB of objects"),
        "flood of calls": (b"\x80\x02" + b"cx\ny\n)R" * 2_000_000, "it makes more than 160 MiB of objects"),
        "copies of a list": (
            b"\x80\x02](" + b"N" * 500_000 + b"eq\x000" + b"cbuiltins\nlist\n(h\x00tR0" * 200_000 + b".",
            "it makes more than 160 MiB of objects",
        ),
        "deep tuples": (b"\x80\x02N" + b"\x85" * 300_000 + b".", "holds no tensors"),
        "deep lists": (b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".", "holds no tensors"),
        "a billion laughs": (laughs, "holds no tensors"),
        "a list of itself": (b"\x80\x02]q\x00h\x00a.", "holds no tensors"),
        "a dict of itself": (b"\x80\x02}q\x00" + text("model") + b"h\x00s.", "holds no tensors"),
        "names without end": (doubled, "nest"),
    }  # fmt: skip


MEASURE = f"""{PEAK}
import sys, time
from netweight.checkpoint import open_checkpoint
from netweight.errors import FormatError
before, start = peak(), time.process_time()
try:
    print(len(open_checkpoint(sys.argv[1])))
except FormatError as problem:
    print(problem)
print(time.process_time() - start, (peak() - before) / 1024)
"""


@pytest.mark.parametrize("name", list(bombs()))
def test_bombs_are_bounded(name, tmp_path) -> None:
    pytest.importorskip("resource", reason="peak memory is not told on this system")
    pkl, message = bombs()[name]
    path = zipped(tmp_path / "m.pt", pkl, {"data/0": bytes(8)})
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    said, numbers = done.stdout.splitlines()
    seconds, mebibytes = map(float, numbers.split())
    assert said.startswith(f"{path}: ")
    assert message in said
    assert seconds < 10 * slowness()
    assert mebibytes < 256


@pytest.mark.parametrize("opcode", [b"N", b"\x88", b"\x89", b"K\x07", b")", b"2"])
def test_another_reference_to_an_object_costs_a_pointer(opcode) -> None:
    """None, true, false, small numbers, the empty tuple and what is doubled are there already."""

    def room(before: bytes) -> int:
        """Characters of the longest text that may still follow."""

        def fits(size: int) -> bool:
            try:
                load_pickle(io.BytesIO(b"\x80\x02" + before + text("x" * size) + b"."), "x", most=4000)
            except FormatError as problem:
                assert "it makes more than 0 MiB of objects" in str(problem)  # noqa: PT017 - either may be
                return False
            return True

        return bisect.bisect_left(range(4000), True, key=lambda size: not fits(size)) - 1

    assert room(b"N") - room(b"N" + opcode * 50) == 50 * struct.calcsize("P")


def test_a_module_of_itself_is_read_once(tmp_path) -> None:
    pkl = (
        b"\x80\x02cx\nNet\n)Rq\x00}(" + text("_parameters") + b"}" + text("w") + tensor() + b"s"
        + text("_modules") + b"}" + text("m") + b"h\x00s" + text("_buffers") + b"}ub."
    )  # fmt: skip
    with open_checkpoint(zipped(tmp_path / "m.pt", pkl, {"data/0": bytes(8)})) as checkpoint:
        assert list(checkpoint) == ["w"]
        assert [(entry.name, entry.reason) for entry in checkpoint.skipped] == [("m", "what holds it: taken once")]


def test_a_zip_bomb_as_the_pickle(tmp_path) -> None:
    path = zipped(tmp_path / "m.pt", b"N" * (1 << 28), compress_type=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    refused(path, "entry 'archive/data.pkl': 268435456 bytes, expected at most 16777216")
    data = bytearray(path.read_bytes())
    for at in (22, data.rfind(b"PK\x01\x02") + 24):
        data[at : at + 4] = struct.pack("<I", 100)  # a lie about the size
    path.write_bytes(data)
    refused(path, "entry 'archive/data.pkl': unpacks to more than the 16777216 bytes allowed")


def test_compressed_data_is_refused(tmp_path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", state(w=tensor(shape=(100,), count=100)))
        archive.writestr("a/data/0", bytes(400))
    refused(path, "entry 'a/data/0': is compressed, expected tensors stored as they are, as torch.save does")


def test_missing_storages_and_foreign_archives(tmp_path) -> None:
    refused(zipped(tmp_path / "m.pt", state(w=tensor())), "the storage '0' is missing; the file is damaged")
    for name, message in [("x.txt", "is a zip archive without data.pkl, not a torch file"),
                          ("model.safetensors", "is a zip archive with 'model.safetensors' in it: unpack it first")]:  # fmt: skip
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr(name, b"x")
        refused(tmp_path / "other.zip", message)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    refused(tmp_path / "empty.zip", "is a zip archive without data.pkl, not a torch file")


def test_storages_that_do_not_say_little_or_big(tmp_path) -> None:
    path = zipped(tmp_path / "m.pt", state(w=tensor()), {"data/0": bytes(8), "byteorder": b"middle"})
    refused(path, "its byte order is 'middle', expected 'little' or 'big'")


def test_every_cut_and_many_flips_of_a_zip(tmp_path) -> None:
    whole = zipped(tmp_path / "m.pt", state(w=tensor()), {"data/0": bytes(8), "byteorder": b"little"}).read_bytes()
    path = tmp_path / "broken.pt"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(NetweightError) as caught:
            open_checkpoint(path)
        assert "\n" not in str(caught.value)
    rng = random.Random(3)
    refusals = 0
    for _ in range(1500):
        broken = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 5])):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            for found in open_checkpoint(path).values():
                found.read()
        except NetweightError as problem:
            refusals += 1
            assert "\n" not in str(problem)  # noqa: PT017 - both answers are right
    assert 300 < refusals < 1500


def test_many_flips_and_cuts_of_a_legacy_stream(tmp_path) -> None:
    rest = pickle.dumps(["0"], 2) + struct.pack("<q", 2) + bytes(8)
    whole = legacy(tmp_path / "m.pt", state(w=tensor()), rest).read_bytes()
    assert list(open_checkpoint(tmp_path / "m.pt")) == ["w"]
    path = tmp_path / "broken.pt"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            open_checkpoint(path)
    rng = random.Random(4)
    refusals = 0
    for _ in range(1500):
        broken = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 5])):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            for found in open_checkpoint(path).values():
                found.read()
        except NetweightError as problem:
            refusals += 1
            assert "\n" not in str(problem)  # noqa: PT017 - both answers are right
    assert 300 < refusals < 1500


@pytest.mark.parametrize(("rest", "message"), [
    (b"", "it ends before its end mark"),
    (pickle.dumps(3, 2), "has no list of storages after its pickle; the file is damaged"),
    (pickle.dumps(["0"], 2), "before storage '0'; it is cut short"),
    (pickle.dumps(["0"], 2) + struct.pack("<q", 3) + bytes(8), "is said to hold 3 elements, more than it has"),
    (pickle.dumps(["0"], 2) + struct.pack("<q", -2) + bytes(8), "is said to hold -2 elements, more than it has"),
    (pickle.dumps(["0"], 2) + struct.pack("<q", 1 << 62) + bytes(8), "elements, more than it has"),
    (pickle.dumps(["1"], 2) + struct.pack("<q", 2) + bytes(8), "or of a type that its pickle does not name"),
    (pickle.dumps([], 2), "the storage '0' is not in the file; it is damaged"),
    (pickle.dumps(["0"], 2) + struct.pack("<q", 1) + bytes(8), "reach byte 8 of its storage, which has 4"),
])  # fmt: skip
def test_broken_legacy_storages(rest, message, tmp_path) -> None:
    refused(legacy(tmp_path / "m.pt", state(w=tensor()), rest), message)


def test_plain_pickles_and_other_magic(tmp_path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"w": [1, 2]}))
    refused(path, "is a plain pickle, expected a file made by torch.save; save the model with it")
    path.write_bytes(pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2))
    refused(path, "its torch protocol is not 1001, expected a file made by torch.save")


def test_tar_archives_that_are_no_models(tmp_path) -> None:
    import tarfile

    path = tmp_path / "m.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("readme")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    refused(path, "is a tar archive without 'storages' and 'pickle', no torch file; unpack it first")
    data = path.read_bytes()
    path.write_bytes(data[:124] + b"77777777777\0" + data[136:])
    refused(path, "tar member 'readme' of 8589934591 bytes at byte 512 is cut short")
    path.write_bytes(data[:124] + b"-1\0" + data[127:])
    refused(path, "tar member 'readme' at byte 0 has no valid size")


def test_names_with_lone_surrogates_become_writable(tmp_path) -> None:
    name = b"X\x04\x00\x00\x00w\xed\xa0\x80"
    path = zipped(tmp_path / "m.pt", b"\x80\x02}" + name + tensor() + b"s.", {"data/0": bytes(8)})
    assert list(open_checkpoint(path)) == ["w?"]


def test_names_are_kept_as_they_are_and_escaped_in_messages(tmp_path) -> None:
    names = ["a\nb", "\x1b[31mred", "../../etc", "=1+1", "🙂", "A", "a", "<b>"]
    path = zipped(tmp_path / "m.pt", state(**dict.fromkeys(names, tensor())), {"data/0": bytes(8)})
    assert sorted(open_checkpoint(path)) == sorted(names)
    path = zipped(tmp_path / "m.pt", state(**{"x\n\x1b[31m": tensor(shape=(9,))}), {"data/0": bytes(8)})
    refused(path, "tensor 'x\\\\n\\\\x1b[31m': ")
