"""Files read by ranges: the bytes, how they are asked for, what is held meanwhile, and waiting after failures."""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.errors import ReadError
from netweight.source import remote, retry
from netweight.source.protocol import FileState
from netweight.source.remote import RemoteFile, announce
from netweight.source.retry import Passing, Patience, retry_after, retry_passing

DATA = random.Random(0).randbytes(3 << 20)


class Ranges:
    """Bytes in memory behind the protocol; remembers what was asked for."""

    head = b""
    name = "memory"

    def __init__(self, data: bytes = DATA, delay: float = 0.0) -> None:
        self.data = data
        self.state = FileState(len(data), "tag")
        self.current = self.state
        self.asked: list[tuple[int, int]] = []
        self.delay = delay
        self.failing: set[int] = set()
        self.at_once = self.most_at_once = 0
        self.answers = threading.Event()
        self.answers.set()
        self.lock = threading.Lock()

    def fetch(self, start: int, view: memoryview, stop: threading.Event) -> None:
        with self.lock:
            self.asked.append((start, start + len(view)))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if start in self.failing:
                raise ReadError("memory: fails")
            stop.wait(self.delay)
            assert self.answers.wait(60)
            view[:] = self.data[start : start + len(view)]
        finally:
            with self.lock:
                self.at_once -= 1

    def now(self) -> FileState:
        return self.current


@pytest.fixture
def small(monkeypatch):
    """Pieces, heads and read-ahead so small that a few MB are many."""
    monkeypatch.setattr(remote, "HEAD", 1000)
    monkeypatch.setattr(remote, "PIECE", 100_000)
    monkeypatch.setattr(remote, "_SMALL", 5000)
    monkeypatch.setattr(remote, "_room", remote._Room(400_000))


def read(file: RemoteFile, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    file.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_the_head_comes_once_and_nothing_more_than_was_asked_for(small) -> None:
    ranges = Ranges()
    file = RemoteFile(ranges)
    assert ranges.asked == []
    assert read(file, 0, 8) + read(file, 8, 500) == DATA[:508]
    assert ranges.asked == [(0, 1000)]
    assert read(file, 900, 300) == DATA[900:1200]
    assert read(file, 2_000_000, 7) == DATA[2_000_000:2_000_007]
    assert ranges.asked[1:] == [(1000, 1200), (2_000_000, 2_000_007)]
    assert read(file, 5, 0) == b""
    with pytest.raises(ReadError, match=r"memory: bytes 3145720 to 3145730 wanted, the file has 3145728; it is cut"):
        read(file, len(DATA) - 8, 10)


def test_what_was_announced_is_fetched_whole_and_ahead(small) -> None:
    ranges = Ranges()
    file = RemoteFile(ranges)
    file.announce([(500_000, 250_000), (10_000, 3000), (13_000, 2000), (15_000, 200_000)])
    for at in range(500_000, 750_000, 10_000):
        assert read(file, at, 10_000) == DATA[at : at + 10_000]
    for at in range(10_000, 215_000, 5000):
        assert read(file, at, 5000) == DATA[at : at + 5000]
    # by pieces from where a large range begins, small neighbours with the first; each once
    assert sorted(ranges.asked) == [
        (10_000, 115_000), (115_000, 215_000),
        (500_000, 600_000), (600_000, 700_000), (700_000, 750_000),
    ]  # fmt: skip


def test_large_neighbours_are_fetched_apart(small) -> None:
    ranges = Ranges()
    file = RemoteFile(ranges)
    announce([(file, 100_000, 50_000), (file, 150_000, 50_000), (file, 200_000, 100)])
    assert read(file, 100_000, 100_100) == DATA[100_000:200_100]
    assert sorted(ranges.asked) == [(100_000, 150_000), (150_000, 200_100)]


def test_a_prefetch_reads_these_bytes_and_returns_at_once(small) -> None:
    ranges = Ranges()
    ranges.answers.clear()
    file = RemoteFile(ranges)
    file.prefetch(300_000, 250_000)
    end = time.monotonic() + 60  # here before anything can have come
    while ranges.at_once < 3 and time.monotonic() < end:
        time.sleep(0.001)
    ranges.answers.set()
    assert read(file, 300_000, 250_000) == DATA[300_000:550_000]
    assert sorted(ranges.asked) == [(300_000, 400_000), (400_000, 500_000), (500_000, 550_000)]
    assert ranges.most_at_once == 3
    file.prefetch(len(DATA) - 10, 1000)
    assert read(file, len(DATA) - 10, 10) == DATA[-10:]
    file.prefetch(len(DATA) + 5, 10)
    file.prefetch(800_000, 1)
    while (800_000, 800_001) not in ranges.asked and time.monotonic() < end:
        time.sleep(0.001)
    assert ranges.asked.count((800_000, 800_001)) == 1
    file.prefetch(0, 100)
    assert read(file, 0, 1000) == DATA[:1000]
    assert ranges.asked.count((0, 1000)) == 1


def test_read_ahead_has_its_bounds_and_is_given_back(small) -> None:
    files = [RemoteFile(Ranges(delay=0.01)) for _ in range(3)]
    for file in files:
        file.announce([(0, len(DATA))])
        read(file, 1000, 10)
    held = sum(piece.size for file in files for piece in file._held.values() if piece.ahead)
    assert 0 < held <= 400_000
    assert remote._room._free == 400_000 - held
    for file in files:
        file.close()
        file.close()
    assert remote._room._free == 400_000
    with pytest.raises(ReadError, match="memory: is closed; open the checkpoint again"):
        read(files[0], 0, 1)


def test_pieces_that_are_read_in_part_do_not_pile_up(small, monkeypatch) -> None:
    monkeypatch.setattr(remote, "KEPT", 3)
    monkeypatch.setattr(remote, "_room", remote._Room(0))
    ranges = Ranges()
    file = RemoteFile(ranges)
    file.announce([(0, len(DATA))])
    for at in range(1000, len(DATA) - 10, 100_000):
        assert read(file, at, 10) == DATA[at : at + 10]
        assert len(file._held) <= 3
    assert len(ranges.asked) == 32
    assert read(file, at + 10, 10) == DATA[at + 10 : at + 20]
    assert len(ranges.asked) == 32


def test_more_workers_than_cores_may_each_be_in_a_piece(small, monkeypatch) -> None:
    monkeypatch.setattr(remote, "PIECE", 10_000)
    monkeypatch.setattr(remote, "_room", remote._Room(0))
    workers = min(2 * (os.cpu_count() or 1), 300)
    ranges = Ranges()
    file = RemoteFile(ranges)
    file.announce([(0, len(DATA))])
    for offset in (0, 10, 20):
        for at in range(1000 + offset, 1000 + 10_000 * workers, 10_000):
            assert read(file, at, 10) == DATA[at : at + 10]
    assert len(ranges.asked) == workers


def test_a_file_that_is_dropped_gives_its_room_back(small) -> None:
    file = RemoteFile(Ranges())
    file.announce([(0, len(DATA))])
    read(file, 1000, 10)
    time.sleep(0.1)  # what is on its way still holds the file
    del file
    assert remote._room._free == 400_000


def test_a_piece_that_fails_is_raised_where_it_is_read_and_asked_for_again(small) -> None:
    ranges = Ranges()
    ranges.failing = {301_000}
    file = RemoteFile(ranges)
    file.announce([(1000, 600_000)])
    assert read(file, 1000, 250_000) == DATA[1000:251_000]
    with pytest.raises(ReadError, match="memory: fails"):
        read(file, 301_000, 10)
    ranges.failing = set()
    assert read(file, 301_000, 10) == DATA[301_000:301_010]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_reads_in_any_order_from_several_threads(data) -> None:
    size = 300_000
    spot = st.tuples(st.integers(0, size - 1), st.integers(1, 60_000))
    announced = data.draw(st.lists(spot, max_size=8))
    reads = data.draw(st.lists(spot, min_size=1, max_size=20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "HEAD", data.draw(st.sampled_from([1, 1000, 400_000])))
        patch.setattr(remote, "PIECE", data.draw(st.sampled_from([7000, 50_000])))
        patch.setattr(remote, "_SMALL", data.draw(st.sampled_from([1, 9000])))
        patch.setattr(remote, "_room", remote._Room(data.draw(st.sampled_from([0, 20_000, 1 << 20]))))
        file = RemoteFile(Ranges(DATA[:size]))
        file.announce([(offset, min(length, size - offset)) for offset, length in announced])
        wrong = []

        def work(mine: list[tuple[int, int]]) -> None:
            for offset, most in mine:
                length = min(most, size - offset)
                file.prefetch(offset, length)
                if read(file, offset, length) != DATA[offset : offset + length]:
                    wrong.append((offset, length))

        threads = [threading.Thread(target=work, args=(reads[i::3],)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        room = remote._room
        file.close()
        assert not wrong
        assert room._free >= 0


def test_a_file_that_changed(small) -> None:
    ranges = Ranges()
    file = RemoteFile(ranges)
    file.check_unchanged()
    ranges.current = FileState(len(DATA), "another")
    with pytest.raises(ReadError, match=r"memory: changed since it was opened \(then 3145728 bytes, now 3145728\)"):
        file.check_unchanged()


class Recorder(threading.Event):
    """Nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


@pytest.mark.parametrize(("chance", "share"), [(min, 0.75), (max, 1.25)])
def test_how_long_it_is_waited(monkeypatch, chance, share) -> None:
    """As docs/remote.md says, give or take a quarter."""
    monkeypatch.setattr(retry.random, "uniform", chance)
    recorder = Recorder()
    patience = Patience("it", recorder, attempts=9)
    for _ in range(7):
        patience.wait(Passing("busy"))
    assert recorder.waits == [share * seconds for seconds in (0.5, 1, 2, 4, 8, 8, 8)]
    patience.renew()
    patience.wait(Passing("busy"))
    assert recorder.waits[-1] == share * 0.5


def test_waiting_between_attempts(monkeypatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.02)
    calls = []

    def flaky() -> str:
        calls.append(time.monotonic())
        if len(calls) < 4:
            raise Passing("busy")
        return "done"

    assert retry_passing("it", flaky) == "done"
    assert all(b - a >= 0.015 for a, b in pairwise(calls))
    recorder = Recorder()
    patience = Patience("it", recorder)
    for _ in range(4):
        patience.wait(Passing("busy"))
    assert all(a < b for a, b in pairwise(recorder.waits))
    with pytest.raises(ReadError, match=r"^it: busy, 3 times in a row; try again later$"):
        retry_passing("it", lambda: (_ for _ in ()).throw(Passing("busy")), attempts=3)
    stop = threading.Event()
    stop.set()
    with pytest.raises(ReadError, match="it: is closed"):
        Patience("it", stop).wait(Passing("busy", 100.0))


def test_retry_after() -> None:
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({"Retry-After": "-1"}) is None
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < retry_after({"Retry-After": soon}) <= 30
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
