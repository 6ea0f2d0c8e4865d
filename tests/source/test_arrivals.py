"""Sources that go to another process: they are values, opened there at the first read, and checked."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import socket

import pytest

from netweight.errors import ReadError
from netweight.source import arrivals
from netweight.source.fsspec_ranges import FsspecRanges
from netweight.source.http_ranges import HttpRanges
from netweight.source.local import HandlePerThreadFile, PreadFile, open_local
from netweight.source.remote import RemoteFile


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(arrivals, "_known", arrivals.OrderedDict())


def sent(source):
    return pickle.loads(pickle.dumps(source))


def read(source, offset, size):
    out = bytearray(size)
    source.read_into(offset, memoryview(out))
    return bytes(out)


@pytest.mark.parametrize("kind", [PreadFile, HandlePerThreadFile])
def test_a_local_file(kind, tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    given = kind(tmp_path / "file")
    found = sent(given)
    assert found is not given
    assert (found.name, found.size) == (given.name, 10)
    assert read(found, 3, 4) == b"3456"
    found.check_unchanged()
    given.close()
    assert read(found, 0, 2) == b"01"


def test_one_source_however_often_it_comes(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    first, second = open_local(tmp_path / "a"), open_local(tmp_path / "b")
    assert sent(first) is sent(first)
    assert sent(first) is not sent(second)


def test_a_relative_name_is_kept_for_messages_only(tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(b"abc")
    monkeypatch.chdir(tmp_path)
    blob = pickle.dumps(open_local("model"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = pickle.loads(blob)
    assert found.name == "model"
    assert read(found, 0, 3) == b"abc"


def test_another_inode_is_the_same_file_another_time_is_not(tmp_path):
    """As a folder that another node has mounted shows it."""
    path = tmp_path / "model"
    path.write_bytes(b"abcdef")
    blob = pickle.dumps(open_local(path))
    shutil.copy2(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    assert read(pickle.loads(blob), 0, 6) == b"abcdef"
    arrivals._known.clear()
    os.utime(path, (1, 1))
    with pytest.raises(ReadError) as caught:
        read(pickle.loads(blob), 0, 6)
    assert str(caught.value) == (
        f"{path}: changed since it was opened, or is another file on {socket.gethostname()} (then 6 bytes, now 6);"
        " every node must see the same file"
    )


def test_it_is_watched_after_its_first_read(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"abcdef")
    found = sent(open_local(path))
    read(found, 0, 1)
    os.utime(path, (1, 1))
    with pytest.raises(ReadError, match=r"changed since it was opened \(then 6 bytes, now 6\); run again"):
        found.check_unchanged()


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"abcdef")
    blob = pickle.dumps(open_local(path))
    path.unlink()
    with pytest.raises(ReadError) as caught:
        read(pickle.loads(blob), 0, 1)
    assert str(caught.value) == (
        f"{path}: cannot be opened on {socket.gethostname()}: {os.strerror(errno.ENOENT)}; every node must see the"
        " inputs under the same path"
    )


@pytest.fixture
def bucket():
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe_file("/arrivals/file", b"0123456789" * 10)
    yield system
    system.rm("/arrivals", recursive=True)


def test_a_file_of_fsspec(bucket):
    given = RemoteFile(FsspecRanges(bucket, "/arrivals/file", "memory://arrivals/file"))
    blob = pickle.dumps(given)
    found = pickle.loads(blob)
    assert (found.name, found.state) == (given.name, given.state)
    assert read(found, 15, 10) == b"5678901234"
    assert pickle.loads(blob) is found
    arrivals._known.clear()
    bucket.pipe_file("/arrivals/file", b"9" * 99)
    with pytest.raises(
        ReadError, match=r"^memory://arrivals/file: changed since it was opened \(then 100 bytes, now 99\)"
    ):
        read(pickle.loads(blob), 15, 10)
    bucket.rm_file("/arrivals/file")
    arrivals._known.clear()
    with pytest.raises(ReadError, match=r"^memory://arrivals/file: is gone since it was opened, or not on this node$"):
        read(pickle.loads(blob), 15, 10)
    bucket.pipe_file("/arrivals/file", b"0")


def test_what_leads_to_a_file_behind_http_stays_here():
    """Neither a signed address nor a token goes to another process."""
    given = HttpRanges("https://host/file", "hf://file", size=5, tag="abc", headers=tokens)
    given._direct = "https://storage/file?signature=secret"
    given._head = b"12345"
    blob = pickle.dumps(RemoteFile(given))
    assert b"secret" not in blob
    found = pickle.loads(blob)
    assert (found.name, found.size, found.state.stamp) == ("hf://file", 5, "abc")
    assert (found._ranges._direct, found._ranges.head) == (None, b"")
    assert found._ranges._headers is tokens


def tokens():
    return {"authorization": "secret"}


def test_those_longest_not_asked_for_are_forgotten(monkeypatch):
    monkeypatch.setattr(arrivals, "_MOST", 2)
    made = [arrivals.open_once(key, object) for key in "ab"]
    assert arrivals.open_once("a", object) is made[0]
    arrivals.open_once("c", object)
    assert arrivals.open_once("a", object) is made[0]
    assert arrivals.open_once("b", object) is not made[1]
