"""Local sources: both kinds read the same bytes, bounded in open files, and notice files that change."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from netweight.errors import FormatError, ModelNotFoundError, ReadError
from netweight.source import local
from netweight.source.local import HandlePerThreadFile, PreadFile, open_local

KINDS = [PreadFile, HandlePerThreadFile] if hasattr(os, "pread") else [HandlePerThreadFile]
Open = Callable[[Path], PreadFile | HandlePerThreadFile]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request) -> Open:
    return request.param


@pytest.fixture
def content(tmp_path) -> tuple[Path, bytes]:
    data = random.Random(1).randbytes(100_003)
    path = tmp_path / "data.bin"
    path.write_bytes(data)
    return path, data


def test_any_range_is_read(kind, content) -> None:
    path, data = content
    source = kind(path)
    assert (source.name, source.size) == (str(path), len(data))
    for start, size in [(0, 0), (0, 1), (0, len(data)), (len(data), 0), (99_000, 1003), (17, 4096)]:
        buffer = bytearray(size)
        source.read_into(start, memoryview(buffer))
        source.prefetch(start, size)
        assert bytes(buffer) == data[start : start + size]


@pytest.mark.parametrize(("start", "size"), [(100_000, 4), (100_004, 1), (-1, 1)])
def test_a_range_beyond_the_end_says_what_is_missing(kind, content, start, size) -> None:
    path, data = content
    with pytest.raises(ReadError) as caught:
        kind(path).read_into(start, memoryview(bytearray(size)))
    got = max(0, len(data) - start) if start >= 0 else 0
    assert str(caught.value) == (
        f"{path}: bytes {start} to {start + size} wanted, only {got} of {size} are there; the file is cut short"
    )


def test_threads_read_at_once(kind, content) -> None:
    path, data = content
    source = kind(path)
    wrong: list[int] = []

    def reader(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(200):
            start = rng.randrange(len(data))
            buffer = bytearray(rng.randrange(len(data) - start))
            source.read_into(start, memoryview(buffer))
            if bytes(buffer) != data[start : start + len(buffer)]:
                wrong.append(start)

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_short_reads_are_continued(content, monkeypatch) -> None:
    path, data = content
    monkeypatch.setattr(
        os, "preadv", lambda fd, views, at: views[0][:7].__setitem__(slice(None), os.pread(fd, 7, at)) or 7
    )
    buffer = bytearray(70)
    PreadFile(path).read_into(5, memoryview(buffer))
    assert bytes(buffer) == data[5:75]


def test_systems_without_preadv_or_pread(content, monkeypatch) -> None:
    path, data = content
    monkeypatch.delattr(os, "preadv")
    buffer = bytearray(1000)
    PreadFile(path).read_into(3, memoryview(buffer))
    assert bytes(buffer) == data[3:1003]
    assert isinstance(open_local(path), PreadFile)
    monkeypatch.delattr(os, "pread")
    assert isinstance(open_local(path), HandlePerThreadFile)


def test_systems_without_flags_of_others(kind, content, monkeypatch) -> None:
    path, data = content
    for flag in ("O_CLOEXEC", "O_NONBLOCK"):
        monkeypatch.delattr(os, flag, raising=False)
    buffer = bytearray(1000)
    kind(path).read_into(3, memoryview(buffer))
    assert bytes(buffer) == data[3:1003]


def test_a_changed_file_is_noticed(kind, content) -> None:
    path, data = content
    source = kind(path)
    source.check_unchanged()
    path.write_bytes(data + b"x")
    message = f"{path}: changed since it was opened (then {len(data)} bytes, now {len(data) + 1}); "
    with pytest.raises(ReadError) as caught:
        source.check_unchanged()
    assert str(caught.value) == message + "run again when nothing writes to it"
    with pytest.raises(ReadError, match="changed since it was opened"):
        source.read_into(0, memoryview(bytearray(1)))


def test_a_replaced_file_of_the_same_size_and_time_is_noticed(kind, content) -> None:
    path, data = content
    source = kind(path)
    times = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(data)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    with pytest.raises(ReadError, match="changed since it was opened"):
        source.check_unchanged()


def test_a_removed_file_is_noticed(kind, content) -> None:
    path, _ = content
    source = kind(path)
    path.unlink()
    with pytest.raises(ReadError, match=rf"data\.bin: is gone since it was opened: {os.strerror(errno.ENOENT)}"):
        source.check_unchanged()
    with pytest.raises(ReadError, match=rf"data\.bin: cannot be opened: {os.strerror(errno.ENOENT)}"):
        source.read_into(0, memoryview(bytearray(1)))


def test_a_file_cut_while_it_is_read(kind, content) -> None:
    path, data = content
    source = kind(path)
    source.read_into(0, memoryview(bytearray(10)))
    os.truncate(path, 50)
    with pytest.raises(ReadError, match=rf"changed since it was opened \(then {len(data)} bytes, now 50\)"):
        source.read_into(0, memoryview(bytearray(100)))


def test_closing_twice_and_reading_afterwards(kind, content) -> None:
    path, _ = content
    source = kind(path)
    source.read_into(0, memoryview(bytearray(1)))
    source.close()
    source.close()
    with pytest.raises(ReadError, match=r"data\.bin: is closed; open the checkpoint again"):
        source.read_into(0, memoryview(bytearray(1)))


def test_few_files_are_open_at_once_whatever_their_number(kind, tmp_path) -> None:
    sources = []
    for i in range(200):
        path = tmp_path / f"{i}.bin"
        path.write_bytes(i.to_bytes(2, "little"))
        sources.append(kind(path))
    before = _open_files()
    for _ in range(2):
        for i, source in enumerate(sources):
            buffer = bytearray(2)
            source.read_into(0, memoryview(buffer))
            assert int.from_bytes(buffer, "little") == i
    assert _open_files() - before <= local.MAX_OPEN_FILES
    for source in sources:
        source.close()
    assert _open_files() <= before


def test_forgotten_sources_give_their_files_back(kind, tmp_path, content) -> None:
    path, _ = content
    before = _open_files()
    for _ in range(20):
        kind(path).read_into(0, memoryview(bytearray(1)))
    last = kind(path)
    last.read_into(0, memoryview(bytearray(1)))
    assert _open_files() - before <= 2


def _open_files() -> int:
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        pytest.skip("this system does not list a process's open files")
    return len(list(listing.iterdir()))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_a_pipe_is_refused_without_hanging(kind, tmp_path) -> None:
    path = tmp_path / "pipe.bin"
    os.mkfifo(path)
    with pytest.raises(FormatError) as caught:
        kind(path)
    assert str(caught.value) == f"{path}: is a pipe, expected a regular file; name a model file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_a_pipe_put_in_a_files_place_does_not_hang(kind, content) -> None:
    path, _ = content
    source = kind(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ReadError, match="changed since it was opened"):
        source.read_into(0, memoryview(bytearray(1)))


def test_folders_devices_and_missing_files(kind, tmp_path) -> None:
    with pytest.raises(FormatError, match=r": is a folder, expected a regular file; name a model file$"):
        kind(tmp_path)
    if Path("/dev/null").exists():
        with pytest.raises(FormatError, match=r"^/dev/null: is a device, expected a regular file"):
            kind(Path("/dev/null"))
    with pytest.raises(ModelNotFoundError, match=rf"nothing: {os.strerror(errno.ENOENT)}$"):
        kind(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError, match=r"a\\x00b: "):
        kind("a\0b")
