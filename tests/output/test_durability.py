"""After a crash of the machine at any moment: the old or the new, whole. tests/jobs/crashes.py has the crashes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from crashes import Tree, needs_folder_sync, no_syncs, recorded
from safetensors.numpy import load_file

from netweight.dtypes import DTYPES
from netweight.errors import BusyError
from netweight.output import exchange, lock
from netweight.output.folder import ResultFolder
from netweight.output.result_file import write_file
from netweight.output.safetensors_file import TensorEntry, write_safetensors
from netweight.output.shard_writer import FarShards, ShardWriter
from netweight.output.shards import plan_shards
from netweight.run import journal

pytestmark = needs_folder_sync

OLD = {"a/s": "old a", "b/s": "old b", "c": "old", "config.json": "old"}
NEW = {"a/s": "new a", "d/e/s": "new d", "c": "new", "config.json": "new"}
MINE = {"mine": "m", "b/mine": "m"}
WORK = ".out.netweight-run"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def run(target: Path, files: dict[str, str], *, resume=False, inputs=(), **settings) -> tuple[str, ...]:
    with ResultFolder(target, inputs, "delta", resume=resume, **settings) as results:
        if not resume:
            results.journal_path.write_text("journal")
        write(results.stage, files)
        return results.commit()


def files(tree: Tree | None) -> dict[str, str] | None:
    """The files of a results folder but for the list of our own."""
    if tree is None:
        return None
    return {name: data.decode() for name, data in tree.items() if data is not None and name != ".netweight.json"}


def below(tree: Tree, folder: str) -> dict[str, str]:
    return files({n.removeprefix(f"{folder}/"): d for n, d in tree.items() if n.startswith(f"{folder}/")})


def read(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): p.read_text()
        for p in root.rglob("*")
        if p.is_file() and p.name != ".netweight.json"
    }


@pytest.fixture(params=["exchange", "two renames"])
def in_one_step(request, monkeypatch):
    if request.param == "two renames":
        monkeypatch.setattr(exchange, "swap", lambda first, second: False)
    return request.param


def test_a_new_folder(tmp_path):
    with recorded(tmp_path) as record:
        run(tmp_path / "deep" / "er" / "out", NEW)
    assert below(record.least(), "deep/er/out") == NEW  # who was told that it is there finds it there
    for state in record.states():
        found = files(state.below("deep/er/out"))
        assert found in (None, NEW), state.after


@pytest.mark.parametrize("keep_stage", [False, True])
def test_a_folder_in_place_of_an_earlier_one(tmp_path, in_one_step, keep_stage):
    target = tmp_path / "out"
    run(target, OLD)
    write(target, MINE)
    with recorded(tmp_path) as record:
        run(target, NEW, keep_stage=keep_stage)
    assert below(record.least(), "out") == NEW | MINE
    told = set()
    for number, state in enumerate(record.states()):
        found = files(state.below("out"))
        told.add("absent" if found is None else "new" if found == NEW | MINE else "old")
        if found is not None:
            assert found in (OLD | MINE, NEW | MINE), state.after
        if found == OLD | MINE and number % 3:  # of the many in which nothing has happened yet some are gone on with
            continue
        state.put(tmp_path)
        with pytest.raises(ZeroDivisionError), ResultFolder(target, [], "delta", resume=True, keep_stage=keep_stage):
            raise ZeroDivisionError
        assert read(target) in (OLD | MINE, NEW | MINE), state.after
        with no_syncs():
            run(target, {"after": "x"}, resume=True, keep_stage=keep_stage)
        extra = set(read(target)) - {"after", *MINE}
        assert extra <= set(NEW if keep_stage else ()), (state.after, extra)  # a kept stage is no earlier result
        assert all(read(target)[name] != OLD.get(name) for name in extra), state.after
        assert list(tmp_path.iterdir()) == [target]
    assert told == {"new", "old"} | ({"absent"} if in_one_step == "two renames" else set())


def test_files_put_in_place_one_by_one(tmp_path):
    """Where a folder cannot be renamed: every file is whole, and a list of ours that says `done` says so truly."""
    target = tmp_path / "out"
    write(target, {"model/w": "w"})
    inputs = [target / "model"]
    run(target, OLD, inputs=inputs)
    mine = MINE | {"model/w": "w"}
    write(target, MINE)
    before = json.loads((target / ".netweight.json").read_text())["results"]["delta"]
    with recorded(tmp_path) as record:
        run(target, NEW, inputs=inputs)
    after = json.loads((target / ".netweight.json").read_text())["results"]["delta"]
    assert below(record.least(), "out") == NEW | mine
    mixed = 0
    for state in record.states():
        found = files(state.below("out"))
        listed = json.loads(state.tree["out/.netweight.json"])["results"]["delta"]
        found = {name: text for name, text in found.items() if not name.startswith(".netweight-run/")}
        assert mine.items() <= found.items(), state.after
        ours = {name: text for name, text in found.items() if name not in mine}
        if listed == before:
            assert ours == OLD, state.after
        elif listed == after:
            assert ours == NEW, state.after
        else:
            mixed += 1
            assert set(listed) - {".netweight.json"} == set(OLD) | set(NEW), state.after
            assert all(text in {OLD.get(name), NEW.get(name)} for name, text in ours.items()), state.after
            assert set(OLD) & set(NEW) <= set(ours), state.after
            if ours["config.json"] == "new":  # it speaks of the others: it comes after them
                assert NEW.items() <= ours.items(), state.after
    assert mixed > 4
    for state in list(record.states())[::3]:
        state.put(tmp_path)
        with no_syncs():
            run(target, {"after": "x"}, inputs=inputs)
        assert read(target) == {"after": "x"} | mine, state.after


def test_foreign_files_that_are_copied(tmp_path, monkeypatch):
    target = tmp_path / "out"
    run(target, OLD)
    write(target, MINE)

    def none(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    with recorded(tmp_path) as record:
        run(target, NEW)
    assert below(record.least(), "out") == NEW | MINE
    for state in record.states():
        assert files(state.below("out")) in (OLD | MINE, NEW | MINE), state.after


def test_files_moved_from_another_file_system(tmp_path, monkeypatch):
    target = tmp_path / "out"
    real = os.path.ismount
    run(target, OLD)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target or real(path))

    with recorded(tmp_path) as record:
        replace = os.replace

        def across(source, place):
            if "stage" in Path(source).parts:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return replace(source, place)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", across)
            run(target, NEW)
    assert below(record.least(), "out") == NEW
    for state in record.states():
        found = {n: t for n, t in files(state.below("out")).items() if not n.startswith(".netweight-")}
        parts = {n for n in found if n.endswith(".netweight-part")}
        assert all(text in {OLD.get(name), NEW.get(name)} for name, text in found.items() if name not in parts), (
            state.after
        )


def test_a_result_file(tmp_path):
    target = tmp_path / "deep" / "er" / "table.json"
    with recorded(tmp_path) as record:
        write_file(target, lambda path: path.write_text("old"))
    assert record.least()["deep/er/table.json"] == b"old"
    assert {s.tree.get("deep/er/table.json") for s in record.states()} == {None, b"old"}
    with recorded(tmp_path) as record:
        write_file(target, lambda path: path.write_text("new"))
    assert record.least()["deep/er/table.json"] == b"new"
    assert {s.tree["deep/er/table.json"] for s in record.states()} == {b"old", b"new"}


def test_a_journal_goes_after_the_result_is_on_the_disk(tmp_path):
    from netweight.output.result_file import ResultFile

    (tmp_path / "f").write_text("old")
    work = tmp_path / ".f.netweight-run"
    work.mkdir()
    (work / "journal.jsonl").write_text("journal")
    with recorded(tmp_path) as record, ResultFile(tmp_path / "f", resume=True) as file:
        file.commit(lambda path: path.write_text("new"))
    for state in record.states():
        done = state.tree["f"] == b"new"
        assert done or state.tree[".f.netweight-run/journal.jsonl"] == b"journal", state.after


def test_a_folders_journal_goes_after_the_results_are_on_the_disk(tmp_path, in_one_step):
    run(tmp_path / "out", OLD)
    work = tmp_path / WORK
    work.mkdir()
    (work / "journal.jsonl").write_text("journal")
    with recorded(tmp_path) as record:
        run(tmp_path / "out", NEW, resume=True)
    for state in record.states():
        done = files(state.below("out")) == NEW
        assert done or state.tree[f"{WORK}/journal.jsonl"] == b"journal", state.after


def test_a_safetensors_file(tmp_path):
    path = tmp_path / "m.safetensors"
    old, new = {"a": np.zeros(300, "f4")}, {"a": np.ones(200, "f4"), "b": np.arange(7)}
    write_safetensors(path, old)
    first = path.read_bytes()
    with recorded(tmp_path) as record:
        write_safetensors(path, new)
    assert {name: x.tolist() for name, x in load_file(path).items()} == {name: x.tolist() for name, x in new.items()}
    assert record.least()["m.safetensors"] == path.read_bytes()
    assert {state.tree["m.safetensors"] for state in record.states()} == {first, path.read_bytes()}


def shards(folder, **settings):
    planned = plan_shards({name: TensorEntry(DTYPES["F32"], (8, 4)) for name in "abcd"}, 300)
    assert len(planned) == 2
    return planned, ShardWriter(folder, planned, keep=False, **settings)


def test_shards_are_on_the_disk_when_they_are_finished(tmp_path):
    _, writer = shards(tmp_path, sync=True)
    with recorded(tmp_path) as record, writer:
        for name in "abcd":
            writer.write(name, 0, np.full(32, 7, "f4").tobytes())
        writer.finish()
    for name, data in record.least().items():
        assert data == (tmp_path / name).read_bytes()
        assert all((x == 7).all() for x in load_file(tmp_path / name).values())


def test_what_another_node_has_settled_is_on_the_disk(tmp_path):
    planned, writer = shards(tmp_path, sync=True)
    with recorded(tmp_path) as record, FarShards(tmp_path, planned) as far:
        for name in "abcd":
            far.write(name, 0, np.full(32, 7, "f4").tobytes())
        far.settle("a")
        far.settle("d")
    writer.finish()
    for name, data in record.least().items():
        assert data == (tmp_path / name).read_bytes()


def test_a_closed_journal_is_on_the_disk(tmp_path):
    path = tmp_path / "j"
    with recorded(tmp_path) as record, journal.Journal.create(path, "plan") as kept:
        kept.append("a", {"n": 1})
    assert record.least()["j"] == path.read_bytes()
    with recorded(tmp_path) as record:
        kept, _ = journal.Journal.resume(path, "plan")
        kept.append("b", {"n": 2})
        kept.close()
    assert record.least()["j"] == path.read_bytes()


def test_a_journal_is_brought_to_the_disk_every_few_seconds(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(journal.time, "monotonic", lambda: now)
    synced = []
    with recorded(tmp_path) as record, journal.Journal.create(tmp_path / "j", "plan") as kept:
        for _ in range(12):
            now += 1
            kept.append("a", {"n": 1})
            synced.append(record.calls()[-1] == "fsync")
            if synced[-1]:
                assert record.least()["j"] == (tmp_path / "j").read_bytes()
    assert synced == [second % 5 == 0 for second in range(1, 13)]


def test_a_lock_on_a_file_that_another_has_replaced_is_none(tmp_path, monkeypatch):
    """The holder leaves between our open and our lock, and the next one comes: ours is a file that nobody sees."""
    import fcntl

    path, real, others = tmp_path / "lock", fcntl.flock, []

    def late(descriptor, operation):
        real(descriptor, operation)
        if not others:
            path.unlink()
            others.append(os.open(path, os.O_RDWR | os.O_CREAT))
            real(others[0], operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BusyError, match="another run is writing results there"):
        lock.lock(path, "out")
    os.close(others[0])
    descriptor, locked = lock.lock(path, "out")
    assert locked
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    lock.unlock(path, descriptor)
