"""Where the parts of a zip archive may end: at the last byte that holds them, and not one further."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from netweight.checkpoint import zip_directory
from netweight.checkpoint.zip_directory import ZipEntry, data_offset, read_directory, read_small
from netweight.errors import FormatError
from netweight.source.local import open_local

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
NAME, EXTRA, DATA = b"archive/data/0", b"FB\x03\0ZZZ", b"0123456789"


def local(data=DATA, method=0):
    return LOCAL.pack(b"PK\x03\x04", 20, 0, method, 0, 0, 0, len(data), len(data), len(NAME), len(EXTRA)) + NAME + EXTRA


def central(offset=0, comment=b""):
    size, crc = len(DATA), zlib.crc32(DATA)
    fields = (b"PK\x01\x02", 20, 20, 0, 0, 0, 0, crc, size, size, len(NAME), 0, len(comment), 0, 0, 0, offset)
    return CENTRAL.pack(*fields) + NAME + comment


def end(count, size, start, comment=b""):
    return END.pack(b"PK\x05\x06", 0, 0, count, count, size, start, len(comment)) + comment


def opened(path: Path, data: bytes):
    path.write_bytes(data)
    return open_local(path)


def entry(offset=0, size=10):
    return ZipEntry(NAME.decode(), offset, size, size, 0, encrypted=False)


@pytest.mark.parametrize("before", [0, 5])
def test_data_may_end_with_the_file(tmp_path, before):
    whole = bytes(before) + local() + DATA
    source = opened(tmp_path / "z", whole)
    start = before + LOCAL.size + len(NAME) + len(EXTRA)
    assert data_offset(source, entry(before)) == start
    assert read_small(source, entry(before), len(DATA)) == DATA
    for cut in (opened(tmp_path / "cut", whole[:-1]), opened(tmp_path / "header", whole[: before + LOCAL.size])):
        said = (
            rf"'archive/data/0': bytes {start} to {start + len(DATA)} are beyond the end, {cut.size}; the file is cut"
        )
        with pytest.raises(FormatError, match=said):
            data_offset(cut, entry(before))
        with pytest.raises(FormatError, match=said):
            read_small(cut, entry(before), 100)
    empty = opened(tmp_path / "empty", bytes(before) + local(b""))
    assert data_offset(empty, entry(before, 0)) == empty.size


def test_an_entrys_header_may_end_with_the_file_and_no_later(tmp_path):
    alone = LOCAL.pack(b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert data_offset(opened(tmp_path / "z", alone), entry(0, 0)) == len(alone)
    with pytest.raises(FormatError, match=rf"is said to start at byte 0 of {len(alone) - 1}; the file is cut short"):
        data_offset(opened(tmp_path / "cut", alone[:-1]), entry(0, 0))
    with pytest.raises(FormatError, match=rf"is said to start at byte 1 of {len(alone)}; the file is cut short"):
        data_offset(opened(tmp_path / "z", alone), entry(1, 0))


@pytest.mark.parametrize("comment", [b"", b"c" * 65_535])
def test_the_directory_ends_where_its_end_begins(tmp_path, comment):
    body = local() + DATA
    names = central(comment=b"of one entry")
    good = opened(tmp_path / "z", body + names + end(1, len(names), len(body), comment))
    assert read_directory(good) == {NAME.decode(): entry()}
    with zipfile.ZipFile(tmp_path / "z") as archive:  # the standard library agrees
        assert archive.read(NAME.decode()) == DATA
    several = opened(tmp_path / "several", body + names + b"x" + end(1, len(names), len(body), comment))
    with pytest.raises(FormatError, match="is several zip archives one after the other"):
        read_directory(several)


def test_a_directory_within_the_file(tmp_path):
    names = central()
    for start, size in ((0, len(names)), (END.size, len(names)), (END.size + 1, len(names)), (0, 1 << 20)):
        source = opened(tmp_path / "z", names + end(1, size, start))
        if start + size <= source.size:
            found = (FormatError, "damaged after 0 of 1 entries") if start else None
        else:
            found = (FormatError, rf"directory is said to be at bytes {start} to {start + size} of {source.size}")
        if found is None:
            assert list(read_directory(source)) == [NAME.decode()]
        else:
            with pytest.raises(found[0], match=found[1]):
                read_directory(source)


@pytest.mark.parametrize("more", [0, 1])
def test_a_directory_that_is_cut_or_counted_wrongly(tmp_path, more):
    names = central() + central(offset=1).replace(b"data/0", b"data/1")
    source = opened(tmp_path / "z", names + end(2 + more, len(names), 0))
    if not more:
        assert list(read_directory(source)) == ["archive/data/0", "archive/data/1"]
        return
    with pytest.raises(FormatError, match="its zip directory is damaged after 2 of 3 entries"):
        read_directory(source)


def test_as_many_entries_as_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_directory, "MAX_ENTRIES", 2)
    names = central() + central(offset=1).replace(b"data/0", b"data/1")
    assert len(read_directory(opened(tmp_path / "z", names + end(2, len(names), 0)))) == 2
    with pytest.raises(FormatError, match="a zip archive of 3 entries, expected at most 2"):
        read_directory(opened(tmp_path / "more", names + end(3, len(names), 0)))


@pytest.mark.parametrize("cut", range(1, END.size))
def test_an_end_that_is_cut(tmp_path, cut):
    names = central()
    whole = names + end(1, len(names), 0)
    with pytest.raises(FormatError, match="a zip archive without its end: the file is cut short; download it again"):
        read_directory(opened(tmp_path / "z", whole[:-cut]))


def zip64(names, *, at=None, start=0):
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(names), start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(names) if at is None else at, 1)
    return names + record + locator + END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def test_the_wide_end(tmp_path):
    names = central()
    assert list(read_directory(opened(tmp_path / "z", zip64(names)))) == [NAME.decode()]
    size = len(zip64(names))
    last = size - 56  # of the places where a record of 56 bytes fits
    with pytest.raises(FormatError, match=rf"has no zip64 end record at byte {last}; the archive is damaged"):
        read_directory(opened(tmp_path / "last", zip64(names, at=last)))
    with pytest.raises(FormatError, match=rf"zip64 end record is said to be at byte {last + 1} of {size}"):
        read_directory(opened(tmp_path / "beyond", zip64(names, at=last + 1)))


@pytest.mark.parametrize("method", [0, 8])
def test_small_entries_up_to_the_limit(tmp_path, method):
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(DATA) + packer.flush() if method else DATA
    source = opened(tmp_path / "z", local(packed, method) + packed)
    told = ZipEntry(NAME.decode(), 0, len(packed), len(DATA), method, encrypted=False)
    most = max(len(packed), len(DATA))
    assert read_small(source, told, most) == DATA
    with pytest.raises(FormatError, match=rf"{most} bytes, expected at most {most - 1}"):
        read_small(source, told, most - 1)
    if method:
        bomb = zlib.compressobj(wbits=-15)
        many = bomb.compress(bytes(1001)) + bomb.flush()
        source = opened(tmp_path / "bomb", local(many, 8) + many)
        lying = ZipEntry(NAME.decode(), 0, len(many), 1, 8, encrypted=False)
        assert read_small(source, lying, 1001) == bytes(1001)
        with pytest.raises(FormatError, match="unpacks to more than the 1000 bytes allowed"):
            read_small(source, lying, 1000)
