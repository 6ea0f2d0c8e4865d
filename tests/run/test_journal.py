"""The journal: whatever happens to its file, what comes back is a prefix of what was written."""

import errno
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.errors import JobError, OptionError
from netweight.run.journal import Journal

RECORDS = [
    ("model.layers.0.q", {"l2": 0.1, "shape": [2, 3]}),
    ('name\nwith "odd" \u97e9 \udc80 text', {"n": 1}),
    ("third", {"text": "}\n{", "deep": {"a": [None, True]}}),
]


def written(path: Path, records=RECORDS) -> Path:
    with Journal.create(path, "plan-a") as journal:
        for key, value in records:
            journal.append(key, value)
    return path


def test_every_line_is_json_and_the_header_comes_first(tmp_path):
    lines = written(tmp_path / "j").read_text(encoding="ascii").splitlines()
    first, *rest = map(json.loads, lines)
    assert (first["schema"], first["plan"]) == (1, "plan-a")
    assert [(r["key"], r["value"]) for r in rest] == RECORDS


def test_records_come_back_and_more_can_follow(tmp_path):
    path = written(tmp_path / "j")
    journal, done = Journal.resume(path, "plan-a")
    assert done == dict(RECORDS)
    journal.append("fourth", {"n": 4})
    journal.append("third", {"n": 3})
    journal.close()
    journal.close()
    assert Journal.resume(path, "plan-a")[1] == dict(RECORDS) | {"fourth": {"n": 4}, "third": {"n": 3}}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=64), max_size=8))
def test_floats_come_back_bit_for_bit(tmp_path_factory, values):
    path = written(tmp_path_factory.mktemp("j") / "j", [("k", {"v": [*values, -0.0, 5e-324, math.inf]})])
    back = Journal.resume(path, "plan-a")[1]["k"]["v"]

    def canonical(x: float) -> bytes:
        return b"nan" if math.isnan(x) else struct.pack("<d", x)

    assert [canonical(x) for x in back] == [canonical(x) for x in [*values, -0.0, 5e-324, math.inf]]


def test_a_file_cut_at_any_byte_gives_a_prefix_and_goes_on(tmp_path):
    whole = written(tmp_path / "j").read_bytes()
    ends = [i + 1 for i, b in enumerate(whole) if b == ord("\n")]
    for cut in range(len(whole) + 1):
        path = tmp_path / "cut"
        path.write_bytes(whole[:cut])
        journal, done = Journal.resume(path, "plan-a")
        count = max(0, sum(end <= cut for end in ends) - 1)
        assert list(done.items()) == RECORDS[:count], cut
        journal.append("next", {"n": cut})
        journal.close()
        assert Journal.resume(path, "plan-a")[1] == dict(RECORDS[:count]) | {"next": {"n": cut}}


def test_any_damaged_byte_drops_the_rest_and_never_invents_a_record(tmp_path):
    whole = written(tmp_path / "j").read_bytes()
    header = whole.index(b"\n") + 1
    for at in range(header, len(whole)):
        path = tmp_path / "bad"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x08]) + whole[at + 1 :])
        journal, done = Journal.resume(path, "plan-a")
        journal.close()
        hit = whole[header:at].count(b"\n")
        assert list(done.items()) == RECORDS[:hit], at


def test_another_plan_is_refused_in_one_line(tmp_path):
    path = written(tmp_path / "j")
    before = path.read_bytes()
    with pytest.raises(OptionError) as caught:
        Journal.resume(path, "plan-b")
    assert str(caught.value) == (
        f"{path}: cannot resume: the inputs or the options changed since "
        "(plan plan-a in the journal, plan-b now); run without --resume"
    )
    assert path.read_bytes() == before
    Journal.create(path, "0123456789ab" * 5).close()
    with pytest.raises(OptionError, match=r"\(plan 0123456789ab in the journal, ba9876543210 now\)"):
        Journal.resume(path, "ba9876543210" * 5)


def test_another_version_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "j")
    monkeypatch.setattr("netweight.run.journal.__version__", "99.0")
    with pytest.raises(OptionError, match=r"it was written by netweight .*, this is 99\.0 .*run without --resume"):
        Journal.resume(path, "plan-a")


@pytest.mark.parametrize("content", [None, b"", b'{"crc":"00', b"not a journal\n", b"\x00" * 100])
def test_no_usable_journal_starts_anew(tmp_path, content):
    path = tmp_path / "j"
    if content is not None:
        path.write_bytes(content)
    journal, done = Journal.resume(path, "plan-a")
    assert done == {}
    journal.append("k", {"n": 1})
    journal.close()
    assert Journal.resume(path, "plan-a")[1] == {"k": {"n": 1}}


def test_threads_append_whole_lines(tmp_path):
    with Journal.create(tmp_path / "j", "p") as journal:

        def work(worker: int) -> None:
            for i in range(200):
                journal.append(f"{worker}/{i}", {"v": "x" * (i % 50)})

        threads = [threading.Thread(target=work, args=(w,)) for w in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    done = Journal.resume(tmp_path / "j", "p")[1]
    assert done == {f"{w}/{i}": {"v": "x" * (i % 50)} for w in range(8) for i in range(200)}


def test_a_full_disk_is_one_line_and_leaves_whole_records(tmp_path, monkeypatch):
    path = tmp_path / "j"
    journal = Journal.create(path, "plan-a")
    journal.append("first", {"n": 1})
    real = os.write

    def half_then_full(descriptor: int, data: memoryview) -> int:
        if len(data) > 20:
            return real(descriptor, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        with pytest.raises(
            JobError, match=f"the journal cannot be kept: {os.strerror(errno.ENOSPC)}; free the disk"
        ) as caught:
            journal.append("second", {"text": "y" * 90})
    assert "\n" not in str(caught.value)
    journal.append("third", {"n": 3})
    journal.close()
    assert Journal.resume(path, "plan-a")[1] == {"first": {"n": 1}, "third": {"n": 3}}


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(JobError, match=f"the journal cannot be kept: {os.strerror(errno.ENOENT)}"):
        Journal.create(tmp_path / "missing" / "j", "p")
    with pytest.raises(JobError, match=f"the journal cannot be kept: {os.strerror(errno.EISDIR)}"):
        Journal.resume(tmp_path, "p")


def test_a_closed_journal_takes_nothing(tmp_path):
    journal = Journal.create(tmp_path / "j", "p")
    journal.close()
    with pytest.raises(ValueError, match="the journal is closed"):
        journal.append("k", {})


def test_a_closed_journal_gives_its_file_back(tmp_path, monkeypatch):
    for fails in (False, True):
        journal = Journal.create(tmp_path / "j", "p")
        descriptor = journal._descriptor
        with monkeypatch.context() as patch:
            if fails:
                patch.setattr(os, "fsync", lambda _: os.read(-1, 1))
                with pytest.raises(JobError, match="the journal cannot be kept"):
                    journal.close()
            journal.close()
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(descriptor)


WRITER = """
import sys
from pathlib import Path
from netweight.run.journal import Journal
journal, done = Journal.resume(Path(sys.argv[1]), "plan")
print("ready", flush=True)
for i in range(len(done), 10**9):
    journal.append(f"key {i}", {"i": i, "x": i / 7, "pad": "z" * (i % 300)})
    sys.stdout.write(f"{i}\\n"); sys.stdout.flush()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_kill_at_random_moments_loses_nothing_that_was_appended(tmp_path):
    path = tmp_path / "j"
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(5):
        with (tmp_path / "out").open("wb") as out:
            process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=out)
            while b"ready" not in (tmp_path / "out").read_bytes():
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.05))
            process.kill()
            process.wait()
        acknowledged = [int(x) for x in (tmp_path / "out").read_bytes().split(b"\n")[1:-1]]
        journal, done = Journal.resume(path, "plan")
        journal.close()
        expected = {f"key {i}": {"i": i, "x": i / 7, "pad": "z" * (i % 300)} for i in range(len(done))}
        assert done == expected, f"seed {seed}"
        assert len(done) > max(acknowledged, default=-1), f"seed {seed}"
