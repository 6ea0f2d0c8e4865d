"""Writing a model's files in any order: byte for byte what safetensors writes, room made first, good files kept."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from netweight.dtypes import DTYPES
from netweight.errors import JobError, OutputError
from netweight.output import flusher, positioned, shard_writer
from netweight.output.safetensors_file import TensorEntry
from netweight.output.shard_writer import ShardWriter
from netweight.output.shards import plan_shards

F32 = DTYPES["F32"]
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def entries(tensors):
    names = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8"}
    return {name: TensorEntry(DTYPES[names[str(x.dtype)]], x.shape) for name, x in tensors.items()}


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {f"layer.{i}.weight": rng.standard_normal(shape, dtype=np.float32) for i, shape in enumerate(shapes)}


def pieces(tensors, size):
    return [(name, at, x.tobytes()[at : at + size]) for name, x in tensors.items() for at in range(0, x.nbytes, size)]


def write(folder, tensors, limit=10**9, *, size=1000, keep=False, sync=True):
    shards = plan_shards(entries(tensors), limit)
    with ShardWriter(folder, shards, keep=keep, sync=sync) as writer:
        for piece in pieces(tensors, size):
            writer.write(*piece)
        writer.finish()
    return shards


def load(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return found


def assert_holds(folder, tensors):
    found = load(folder)
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x)


TENSORS = st.dictionaries(
    st.text('abc.µ"\\', min_size=1, max_size=6),
    st.tuples(st.sampled_from(["float32", "float16", "int64", "uint8"]), st.lists(st.integers(0, 6), max_size=3)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=50, deadline=None)
@given(TENSORS, st.integers(1, 40), st.randoms(), st.booleans(), st.integers(1, 400))
def test_pieces_in_any_order_make_the_file_that_safetensors_makes(tmp_path_factory, spec, size, random, sync, limit):
    rng = np.random.default_rng(random.randrange(1 << 30))
    tensors = {name: rng.integers(0, 100, shape).astype(dtype) for name, (dtype, shape) in spec.items()}
    # the order in which safetensors puts them
    tensors = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    folder = tmp_path_factory.mktemp("stage")
    shards = plan_shards(entries(tensors), limit)
    work = pieces(tensors, size)
    random.shuffle(work)
    with ShardWriter(folder, shards, keep=False, sync=sync) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda piece: writer.write(*piece), work))
        writer.finish()
    for shard in shards:
        expected = save({name: tensors[name] for name in shard.entries}, {"format": "pt"})
        assert (folder / shard.name).read_bytes() == expected
    assert_holds(folder, tensors)
    shutil.rmtree(folder)


def open_files() -> int:
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.exists() else 0


@pytest.mark.parametrize("sync", [True, False])
def test_many_threads_and_a_busy_flusher(tmp_path, monkeypatch, sync):
    monkeypatch.setattr(shard_writer, "_MOST_OPEN", 2)  # files are closed and opened again all the time
    monkeypatch.setattr(shard_writer, "Flusher", lambda call: flusher.Flusher(call, share=5000))
    calls = []
    real = positioned.bring_to_disk
    monkeypatch.setattr(shard_writer, "bring_to_disk", lambda d: (calls.append(d), real(d)))
    tensors = arrays(*[(50, 40)] * 12)
    shards = plan_shards(entries(tensors), 16_000)
    assert len(shards) == 6
    work = pieces(tensors, 900)
    np.random.default_rng(1).shuffle(work)
    before = open_files()
    with ShardWriter(tmp_path, shards, keep=False, sync=sync) as writer, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda p: writer.write(p[0], int(p[1]), bytes(p[2])), work))
        writer.finish()
    assert bool(calls) == sync
    assert_holds(tmp_path, tensors)
    assert before == open_files()
    assert not [t for t in threading.enumerate() if t.name == "netweight-flush"]


def test_without_sync_nothing_is_synced(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("synced")

    monkeypatch.setattr(os, "fsync", never)
    monkeypatch.setattr(os, "fdatasync", never, raising=False)
    tensors = arrays((10, 10))
    write(tmp_path, tensors, sync=False)
    assert_holds(tmp_path, tensors)


def test_every_file_is_synced_at_the_end(tmp_path, monkeypatch):
    synced, real = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (synced.add(os.fstat(d).st_ino), real(d)))
    write(tmp_path, arrays((10, 10), (10, 10)), 400)
    assert synced == {path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(synced) == 2


def test_room_is_made_and_headers_stand_first(tmp_path):
    shards = plan_shards({"a": TensorEntry(F32, (1 << 18,))}, 1 << 30)
    with ShardWriter(tmp_path, shards, keep=False, sync=False):
        path = tmp_path / "model.safetensors"
        assert path.stat().st_size == shards[0].size
        assert path.read_bytes()[: len(shards[0].header)] == shards[0].header
        if sys.platform == "linux":
            assert path.stat().st_blocks * 512 >= shards[0].size


@pytest.mark.parametrize("lacking", [("fallocate",), ("pwrite", "preadv", "pread"), ("preadv",), ("fdatasync",)])
def test_systems_that_lack_a_call(tmp_path, monkeypatch, lacking):
    for name in lacking:
        if name == "fallocate":
            monkeypatch.setattr(positioned, "_fallocate", lambda *_: False)
        else:
            monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(shard_writer, "Flusher", lambda call: flusher.Flusher(call, share=500))
    tensors = arrays((30, 7), (9,))
    with ShardWriter(tmp_path, plan_shards(entries(tensors), 900), keep=False, sync=True) as writer:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda piece: writer.write(*piece), pieces(tensors, 64)))
        out = bytearray(80)
        writer.read("layer.0.weight", 4, memoryview(out))
        assert out == tensors["layer.0.weight"].tobytes()[4:84]
        writer.finish()
    assert_holds(tmp_path, tensors)


def test_short_writes_and_reads_are_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(positioned, "_MOST", 7)
    tensors = arrays((30, 7))
    shards = write(tmp_path, tensors)
    assert_holds(tmp_path, tensors)
    out = bytearray(840)
    with ShardWriter(tmp_path, shards, keep=True, sync=False) as writer:
        writer.read("layer.0.weight", 0, memoryview(out))
    assert out == tensors["layer.0.weight"].tobytes()


def test_bytes_outside_of_a_tensor_and_after_the_end(tmp_path):
    with ShardWriter(tmp_path, plan_shards({"a": TensorEntry(F32, (4,))}, 99), keep=False, sync=False) as writer:
        for offset, size in ((0, 17), (15, 2), (-1, 1)):
            with pytest.raises(ValueError, match=f"a: bytes {offset} to {offset + size} of a tensor of 16 bytes"):
                writer.write("a", offset, bytes(size))
        writer.write("a", 16, b"")
        writer.finish()
        with pytest.raises(ValueError, match=r"model\.safetensors: the writer is closed"):
            writer.write("a", 0, b"x")


def test_good_files_of_a_stopped_run_are_kept(tmp_path):
    tensors = arrays((10, 10), (10, 10), (10, 10), (10, 10))
    shards = write(tmp_path, tensors, 400)
    inodes = [(tmp_path / s.name).stat().st_ino for s in shards]
    (tmp_path / shards[1].name).write_bytes(b"short")
    header = bytearray((tmp_path / shards[2].name).read_bytes())
    header[20] ^= 1
    (tmp_path / shards[2].name).write_bytes(header)
    (tmp_path / shards[3].name).rename(tmp_path / "elsewhere")
    (tmp_path / shards[3].name).symlink_to("elsewhere")
    (tmp_path / "model-00001-of-00009.safetensors").write_bytes(b"of another plan")
    with ShardWriter(tmp_path, shards, keep=True, sync=True) as writer:
        assert writer.kept == {shards[0].name}
        out = bytearray(400)
        writer.read("layer.0.weight", 0, memoryview(out))
        assert out == tensors["layer.0.weight"].tobytes()
        for name in ("layer.1.weight", "layer.2.weight", "layer.3.weight"):
            writer.read(name, 0, memoryview(out))
            assert out == bytes(400)
            writer.write(name, 0, tensors[name].tobytes())
        writer.finish()
    assert (tmp_path / shards[0].name).stat().st_ino == inodes[0]
    assert (tmp_path / "elsewhere").stat().st_ino == inodes[3]
    (tmp_path / "elsewhere").unlink()
    assert not (tmp_path / shards[3].name).is_symlink()
    assert_holds(tmp_path, tensors)
    with ShardWriter(tmp_path, shards, keep=False, sync=False) as writer:
        assert not writer.kept
        writer.read("layer.0.weight", 0, memoryview(out))
        assert out == bytes(400)


def test_too_little_room_is_said_before_anything_is_made(tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1500, 1500))
    tensors = arrays((10, 10), (10, 10), (100, 10))
    shards = plan_shards(entries(tensors), 1000)
    needed = sum(s.size for s in shards)
    with pytest.raises(OutputError) as caught:
        ShardWriter(tmp_path, shards, keep=False, sync=True)
    assert str(caught.value) == (
        f"{tmp_path}: not enough room: {needed / 1000:.2f} kB are needed, 1.50 kB are free; make room, or choose "
        "another output folder"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EFBIG, "the largest file would have 512 bytes; give a smaller --max-shard-size, or choose another"),
        (errno.EDQUOT, "1.02 kB are needed; make room, or choose another"),
        (errno.EIO, "choose another"),
    ],
)
def test_files_that_cannot_be_made_leave_nothing(tmp_path, monkeypatch, number, advice):
    calls = itertools.count()

    def refuse(descriptor, size):
        if next(calls):
            raise OSError(number, os.strerror(number))
        os.ftruncate(descriptor, size)

    monkeypatch.setattr(shard_writer, "allocate", refuse)
    shards = plan_shards(entries(arrays((10, 10), (10, 10))), 400)
    assert [s.size for s in shards] == [512, 512]
    with pytest.raises(OutputError) as caught:
        ShardWriter(tmp_path, shards, keep=False, sync=True)
    assert str(caught.value) == (
        f"{tmp_path}: the model's files cannot be made: {os.strerror(number)}; {advice} output folder"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "todo"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EIO, "check the disk")]
)
def test_a_disk_that_refuses_while_writing(tmp_path, monkeypatch, number, todo):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    shards = plan_shards({"a": TensorEntry(F32, (4,))}, 99)
    with ShardWriter(tmp_path, shards, keep=False, sync=True) as writer:
        monkeypatch.setattr(os, "pwrite", refuse)
        with pytest.raises(JobError) as caught:
            writer.write("a", 0, bytes(16))
        monkeypatch.undo()
        assert str(caught.value) == (
            f"{tmp_path / 'model.safetensors'}: cannot be written: {os.strerror(number)}; {todo}, then run again with "
            "--resume"
        )
    with ShardWriter(tmp_path, shards, keep=True, sync=True) as writer:
        assert writer.kept == {"model.safetensors"}


def test_bytes_lost_in_the_background_stop_the_run(tmp_path, monkeypatch):
    """The system tells of them once, to the flusher: the writer must not take them for written."""
    lost = threading.Event()

    def lose(_):
        lost.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shard_writer, "bring_to_disk", lose)
    monkeypatch.setattr(shard_writer, "Flusher", lambda call: flusher.Flusher(call, share=16))
    with ShardWriter(tmp_path, plan_shards({"a": TensorEntry(F32, (8,))}, 99), keep=False, sync=True) as writer:
        writer.write("a", 0, bytes(16))
        assert lost.wait(60)
        with pytest.raises(
            JobError, match=rf"model\.safetensors: cannot be brought to the disk: {os.strerror(errno.EIO)}"
        ):
            writer.finish()
        with pytest.raises(
            JobError, match=rf"model\.safetensors: cannot be written: {os.strerror(errno.EIO)}; check the disk"
        ):
            writer.write("a", 16, bytes(16))


def test_a_file_cut_short_meanwhile(tmp_path):
    with ShardWriter(tmp_path, plan_shards({"a": TensorEntry(F32, (4,))}, 99), keep=False, sync=False) as writer:
        os.truncate(tmp_path / "model.safetensors", 100)
        with pytest.raises(JobError, match="cannot be read: the file ends at byte 100; check the disk"):
            writer.read("a", 0, memoryview(bytearray(16)))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not ROOT or shutil.which("mount") is None:
        pytest.skip("a file system cannot be mounted here")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_a_disk_that_is_really_full(small_disk, monkeypatch):
    shards = plan_shards({"a": TensorEntry(F32, (1 << 18,)), "b": TensorEntry(F32, (1 << 20,))}, 1 << 20)
    with pytest.raises(OutputError, match=r"not enough room: 5\.24 MB are needed, 4\.19 MB are free; make room"):
        ShardWriter(small_disk, shards, keep=False, sync=True)
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))  # filled between look and leap
    with pytest.raises(
        OutputError, match=rf"cannot be made: {os.strerror(errno.ENOSPC)}; 5\.24 MB are needed; make room"
    ):
        ShardWriter(small_disk, shards, keep=False, sync=True)
    assert list(small_disk.iterdir()) == []
    monkeypatch.setattr(positioned, "_fallocate", lambda *_: False)  # a file system that cannot promise room
    with ShardWriter(small_disk, shards, keep=False, sync=True) as writer:
        writer.write("a", 0, bytes(1 << 20))
        with pytest.raises(
            JobError, match=rf"00002-of-00002\.safetensors: cannot be written: {os.strerror(errno.ENOSPC)}"
        ):
            writer.write("b", 0, bytes(4 << 20))
    with ShardWriter(small_disk, shards, keep=True, sync=True) as writer:
        assert len(writer.kept) == 2


LIMITED = """
import resource, signal, sys
from pathlib import Path
from netweight.dtypes import DTYPES
from netweight.errors import OutputError
from netweight.output.safetensors_file import TensorEntry
from netweight.output.shard_writer import ShardWriter
from netweight.output.shards import plan_shards
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    shards = plan_shards({"a": TensorEntry(DTYPES["U8"], (200_000,))}, 10**6)
    ShardWriter(Path(sys.argv[1]), shards, keep=False, sync=True)
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="no such limits")
def test_a_limit_on_the_size_of_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == (
        f"{tmp_path}: the model's files cannot be made: {os.strerror(errno.EFBIG)}; the largest file would have "
        "200.10 kB; give a smaller --max-shard-size, or choose another output folder\n"
    ), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_process_writes_into_the_same_files(tmp_path):
    import pickle

    shards = plan_shards({"a": TensorEntry(DTYPES["U8"], (4,)), "b": TensorEntry(DTYPES["U8"], (3,))}, 4)
    with ShardWriter(tmp_path, shards, keep=False, sync=False) as writer:
        far = pickle.loads(pickle.dumps(writer))
        with far:
            far.write("a", 1, b"xyz")
            far.write("b", 0, b"123")
            far.settle("a")
            far.settle("b")
        found = bytearray(3)
        writer.read("b", 0, memoryview(found))
        writer.write("a", 0, b"w")
        writer.finish()
    assert found == b"123"
    assert [(tmp_path / shard.name).read_bytes()[len(shard.header) :] for shard in shards] == [b"wxyz", b"123"]


def test_a_node_that_does_not_see_the_output(tmp_path):
    import pickle
    import socket

    shards = plan_shards({"a": TensorEntry(DTYPES["U8"], (4,))}, 4)
    with ShardWriter(tmp_path, shards, keep=False, sync=False) as writer:
        far = pickle.loads(pickle.dumps(writer))
        (tmp_path / shards[0].name).unlink()
        with pytest.raises(JobError) as caught:
            far.write("a", 0, b"xyz")
    assert str(caught.value) == (
        f"{tmp_path / shards[0].name}: cannot be written: {os.strerror(errno.ENOENT)}; every node must see the output"
        f" folder under the same path, {socket.gethostname()} too, then run again with --resume"
    )
    assert not (tmp_path / shards[0].name).exists()
