"""Results folders: whole or not at all, other people's files kept, one run at a time."""

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from netweight.errors import BusyError, JobError, OutputError
from netweight.output import carry, exchange, folder
from netweight.output.folder import ResultFolder

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def tree(root: Path) -> dict[str, str]:
    """Every file (or link) below `root` but the list of our own."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[path.relative_to(root).as_posix()] = f"-> {path.readlink()}"
        elif path.is_file() and path.name != ".netweight.json":
            found[path.relative_to(root).as_posix()] = path.read_text()
    return found


def run(target: Path, files: dict[str, str], kind: str = "delta", inputs=()) -> tuple[str, ...]:
    with ResultFolder(target, inputs, kind) as results:
        write(results.stage, files)
        return results.commit()


def fail(target: Path, failure: BaseException) -> None:
    """A run that has something staged and a journal, and then fails."""
    with ResultFolder(target, [], "delta") as results:
        write(results.stage, NEW)
        results.journal_path.write_text("done: 1")
        raise failure


OLD = {"a/summary.json": "old a", "b/summary.json": "old b", "cosines.csv": "old"}
NEW = {"a/summary.json": "new a", "c/summary.json": "new c", "cosines.csv": "new"}


def swap_not_there(first, second):
    return False


def cannot_rename(first, second):
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


@pytest.fixture(params=["exchange", "two renames", "entries"])
def way(request, monkeypatch):
    """Every way in which results can be put in place."""
    if request.param == "two renames":
        monkeypatch.setattr(exchange, "swap", swap_not_there)
    if request.param == "entries":
        monkeypatch.setattr(exchange, "swap", cannot_rename)
    return request.param


def test_a_new_folder(tmp_path):
    target = tmp_path / "not" / "yet" / "out"
    with ResultFolder(target, [], "delta") as results:
        assert results.target == target
        assert list(results.stage.iterdir()) == []
        assert results.stage.parent == target.parent / ".out.netweight-run" == results.journal_path.parent
        write(results.stage, NEW)
        assert not target.exists()
        assert results.commit() == ()
    assert tree(target) == NEW
    assert [p.name for p in target.parent.iterdir()] == ["out"]
    assert json.loads((target / ".netweight.json").read_text())["results"] == {"delta": sorted(NEW)}


def test_a_repeated_run_replaces_its_own_and_keeps_the_rest(tmp_path, way):
    target = tmp_path / "out"
    run(target, OLD)
    mine = {"notes.txt": "mine", "b/notes.txt": "mine too", "deep/er/x": "x"}
    write(target, mine)
    (target / "link").symlink_to("notes.txt")
    (target / "dangling").symlink_to("/nowhere/at/all")
    (target / "empty" / "folder").mkdir(parents=True)
    (target / "deep").chmod(0o755)
    (target / "notes.txt").chmod(0o640)
    inode = (target / "notes.txt").stat().st_ino
    notes = run(target, NEW)
    assert tree(target) == NEW | mine | {"link": "-> notes.txt", "dangling": "-> /nowhere/at/all"}
    assert (target / "empty" / "folder").is_dir()
    assert stat.S_IMODE((target / "notes.txt").stat().st_mode) == 0o640
    assert (target / "notes.txt").stat().st_ino == inode
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    if way == "entries":
        how = "put in place file by file, not in one step: it cannot be renamed (Device or resource busy)"
        assert notes == (f"{target}: the results were {how}",)
    else:
        assert notes == ()
    assert run(target, {"only": "1"}) == notes
    assert tree(target) == {"only": "1"} | mine | {"link": "-> notes.txt", "dangling": "-> /nowhere/at/all"}


def test_exchange_happens_in_one_step_here(tmp_path):
    if sys.platform not in ("linux", "darwin"):
        pytest.skip("no such system call")
    write(tmp_path, {"one/x": "1", "two/y": "2"})
    assert exchange.swap(tmp_path / "one", tmp_path / "two")
    assert tree(tmp_path) == {"one/y": "2", "two/x": "1"}
    with pytest.raises(FileNotFoundError):
        exchange.swap(tmp_path / "one", tmp_path / "three")


def test_a_folder_of_others_is_kept(tmp_path, way):
    target = tmp_path / "out"
    write(target, {"a/x": "theirs", "readme": "theirs"})
    run(target, NEW)
    assert tree(target) == NEW | {"a/x": "theirs", "readme": "theirs"}


def test_files_of_others_with_the_names_of_results_stop_the_run_and_stay(tmp_path, way):
    target = tmp_path / "out"
    theirs = {"cosines.csv": "theirs", "a/summary.json": "theirs", "readme": "theirs"}
    write(target, theirs)
    said = (
        f"{target}: holds 2 files that are not netweight's where results must go: a/summary.json, cosines.csv; "
        "choose another output folder, or move them away"
    )
    for planned in (NEW, list(NEW), {"cosines.csv", "a/summary.json", "b"}):
        folder = ResultFolder(target, [], "delta", planned=planned)
        with pytest.raises(OutputError) as caught:
            folder.check()
        assert str(caught.value) == said
        with pytest.raises(OutputError) as caught, folder:
            pytest.fail("the work began")
        assert str(caught.value) == said
    ResultFolder(target, [], "delta", planned=["c/summary.json", "d"]).check()
    with pytest.raises(JobError) as caught:  # names that nobody knew before
        run(target, NEW)
    assert str(caught.value) == f"{said}; then run again with --resume"
    assert tree(target) == theirs
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (target / "a" / "summary.json").unlink()
    (target / "cosines.csv").unlink()
    run(target, NEW)
    assert tree(target) == NEW | {"readme": "theirs"}
    ResultFolder(target, [], "delta", planned=NEW).check()
    ResultFolder(target, [], "scan", planned=NEW).check()  # results of another job


def test_many_files_of_others_are_counted_and_links_are_files(tmp_path):
    target = tmp_path / "out"
    write(target, {f"f{i}": "theirs" for i in range(7)})
    (target / "link").symlink_to("nowhere")
    names = [f"f{i}" for i in range(7)] + ["link"]
    with pytest.raises(
        OutputError, match=r"8 files that are not netweight's where results must go: f0, f1, f2 and 5 more; "
    ):
        ResultFolder(target, [], "delta", planned=names).check()
    with pytest.raises(
        OutputError, match=r"1 file that is not netweight's where results must go: link; .* or move it away"
    ):
        ResultFolder(target, [], "delta", planned=["link"]).check()


def test_a_file_that_the_user_named_is_replaced_whoever_made_it(tmp_path, way):
    target = tmp_path / "out"
    write(target, {"cosines.csv": "theirs"})
    with ResultFolder(target, [], "delta", planned=NEW, named=["cosines.csv"]) as results:
        write(results.stage, NEW)
        results.commit()
    assert tree(target) == NEW


def test_results_of_an_older_version_are_replaced(tmp_path, way):
    target = tmp_path / "out"
    write(target, OLD)
    older = {"netweight": "0.0.1", "schema": 1, "results": {"delta": sorted(OLD)}}
    (target / ".netweight.json").write_text(json.dumps(older))
    with ResultFolder(target, [], "delta", planned=NEW) as results:
        write(results.stage, NEW)
        results.commit()
    assert tree(target) == NEW


def test_a_damaged_list_names_nothing_as_ours(tmp_path):
    target = tmp_path / "out"
    run(target, OLD)
    (target / ".netweight.json").write_text("[")
    with pytest.raises(OutputError) as caught:
        ResultFolder(target, [], "delta", planned=NEW).check()
    damaged = "2 files that are not netweight's (.netweight.json, which lists its files, is damaged) where results"
    assert damaged in str(caught.value)


def test_a_run_that_was_killed_among_its_files_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "swap", cannot_rename)
    target = tmp_path / "out"
    write(target, {"mine": "m"})
    real = Path.replace

    def killed(self, place):
        if Path(place).parent.name == "c":
            raise KeyboardInterrupt
        return real(self, place)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(target, NEW)
    assert tree(target) == {"mine": "m", "a/summary.json": "new a", "cosines.csv": "new"}
    with ResultFolder(target, [], "delta", planned=NEW) as results:
        write(results.stage, NEW)
        results.commit()
    assert tree(target) == NEW | {"mine": "m"}


def test_kinds_keep_each_others_results(tmp_path, way):
    target = tmp_path / "out"
    run(target, OLD, "delta")
    run(target, {"scan.json": "s1", "cosines.csv": "scan's"}, "scan")
    assert tree(target) == OLD | {"scan.json": "s1", "cosines.csv": "scan's"}
    run(target, {"new.csv": "n"}, "delta")
    assert tree(target) == {"scan.json": "s1", "cosines.csv": "scan's", "new.csv": "n"}
    run(target, {"scan2.json": "s2"}, "scan")
    assert tree(target) == {"scan2.json": "s2", "new.csv": "n"}


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"results": 3}', '{"results": {"delta": [3]}}', '{"results": {"delta": "x"}}', "[" * 100_000]
)
def test_a_damaged_list_means_that_everything_is_kept(tmp_path, text):
    target = tmp_path / "out"
    run(target, OLD)
    (target / ".netweight.json").write_text(text)
    (note,) = run(target, {"n": "n"})
    assert (
        note
        == f"{target}/.netweight.json: not a list of netweight's files (damaged?): everything in the folder is kept"
    )
    assert tree(target) == OLD | {"n": "n"}
    assert run(target, {"m": "m"}) == ()
    assert tree(target) == OLD | {"m": "m"}


def test_a_list_of_files_elsewhere_deletes_nothing_there(tmp_path, way):
    target = tmp_path / "out"
    write(tmp_path, {"precious": "p", "other/precious": "p"})
    write(target, {"x": "x"})
    (target / "link").symlink_to(tmp_path / "other")
    evil = ["../precious", str(tmp_path / "precious"), "link/precious", "a\0b", "", ".", "..", "x/../../precious"]
    (target / ".netweight.json").write_text(json.dumps({"results": {"delta": evil, "scan": evil}}))
    run(target, NEW)
    assert tree(tmp_path / "other") == {"precious": "p"}
    assert (tmp_path / "precious").read_text() == "p"
    assert tree(target) == NEW | {"x": "x", "link": f"-> {tmp_path / 'other'}"}


@pytest.mark.parametrize("name", ["a", "cosines.csv"])
def test_a_foreign_entry_of_the_other_sort_stops_the_run_and_stays(tmp_path, way, name):
    target = tmp_path / "out"
    theirs = {"a": "a file"} if name == "a" else {"cosines.csv/x": "a folder"}
    write(target, theirs)
    with pytest.raises(JobError) as caught:
        run(target, NEW)
    assert str(caught.value) == (
        f"{target}: holds 1 file that is not netweight's where results must go: {name}; choose another output "
        "folder, or move it away; then run again with --resume"
    )
    with pytest.raises(OutputError, match=f"where results must go: {name}; choose another output folder"):
        ResultFolder(target, [], "delta", planned=NEW).check()
    assert tree(target) == theirs


def test_own_files_give_way_to_own_folders(tmp_path, way):
    run(tmp_path / "out", {"a": "file", "b/x": "in a folder"})
    run(tmp_path / "out", {"a/x": "in a folder", "b": "file"})
    assert tree(tmp_path / "out") == {"a/x": "in a folder", "b": "file"}


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failed_run_leaves_the_old_results_and_its_journal(tmp_path, failure):
    target = tmp_path / "out"
    run(target, OLD)
    with pytest.raises(type(failure)):
        fail(target, failure)
    assert tree(target) == OLD
    assert tree(tmp_path / ".out.netweight-run") == {"journal.jsonl": "done: 1"}
    with ResultFolder(target, [], "delta", resume=True) as results:
        assert results.journal_path.read_text() == "done: 1"
        assert list(results.stage.iterdir()) == []
        write(results.stage, NEW)
        results.commit()
    assert tree(tmp_path) == {f"out/{name}": text for name, text in NEW.items()}
    assert not (tmp_path / ".out.netweight-run").exists()


@pytest.mark.parametrize("journal", [False, True])
def test_a_run_keeps_nothing_where_it_is_told_so(tmp_path, journal):
    with ResultFolder(tmp_path / "out", [], "delta", keep_stage=True) as results:
        write(results.stage, NEW)
        if journal:
            results.journal_path.write_text("done: 1")
        results.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_above_that_another_makes_at_the_same_time(tmp_path, monkeypatch):
    real = Path.mkdir

    def later(path, *rest, **how):
        if path == tmp_path / "deep":
            real(path)
        real(path, *rest, **how)

    monkeypatch.setattr(Path, "mkdir", later)
    run(tmp_path / "deep" / "out", NEW)
    assert tree(tmp_path / "deep" / "out") == NEW


def test_without_resume_the_journal_is_cleared(tmp_path):
    with pytest.raises(ValueError, match="bad"):
        fail(tmp_path / "out", ValueError("bad"))
    with ResultFolder(tmp_path / "out", [], "delta") as results:
        assert not results.journal_path.exists()


def test_nothing_is_left_where_nothing_was_done(tmp_path):
    with ResultFolder(tmp_path / "new" / "er" / "out", [], "delta") as results:
        write(results.stage, NEW)
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_never_the_target(tmp_path):
    model = tmp_path / "model"
    write(model, {"model.safetensors": "w"})
    (tmp_path / "link").symlink_to(model)
    for target in (model, tmp_path / "link", model / ".." / "model", Path(f"{model}/")):
        with pytest.raises(OutputError) as caught:
            run(target, NEW, inputs=[tmp_path / "else", model])
        assert str(caught.value) == f"{target}: is an input model; choose another output folder"
    with pytest.raises(OutputError, match="is an input model"):
        run(model / "model.safetensors", NEW, inputs=[model / "model.safetensors"])
    run(model / "analysis", NEW, inputs=[model])
    assert tree(model) == {"model.safetensors": "w"} | {f"analysis/{name}": text for name, text in NEW.items()}


def test_a_folder_that_holds_an_input_is_not_moved_under_it(tmp_path):
    write(tmp_path / "models", {"base/w": "w"})
    inode = (tmp_path / "models").stat().st_ino
    (note,) = run(tmp_path / "models", NEW, inputs=[tmp_path / "models" / "base"])
    assert "file by file, not in one step: an input model lies in it" in note
    assert (tmp_path / "models").stat().st_ino == inode
    assert tree(tmp_path / "models") == NEW | {"base/w": "w"}


def test_the_current_folder(tmp_path, monkeypatch):
    target = tmp_path / "here"
    write(target, {"mine": "m"})
    monkeypatch.chdir(target)
    (note,) = run(Path(), NEW)
    assert note == ".: the results were put in place file by file, not in one step: it holds the current folder"
    assert tree(target) == NEW | {"mine": "m"}
    assert tree(Path.cwd()) == NEW | {"mine": "m"}
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_relative_paths_links_and_long_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Path("sub/out/"), NEW)
    assert tree(tmp_path / "sub" / "out") == NEW
    (tmp_path / "alias").symlink_to("sub/out")
    run(Path("alias"), {"n": "n"})
    assert (tmp_path / "alias").is_symlink()
    assert tree(tmp_path / "sub" / "out") == {"n": "n"}
    run(tmp_path / ("n" * 255), NEW)
    assert tree(tmp_path / ("n" * 255)) == NEW


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "is not a folder"),
        ("file/below", f"cannot take results: {os.strerror(errno.ENOTDIR)}"),
        ("loop", "cannot take results: "),
        ("x" * 300, f"cannot take results: {os.strerror(errno.ENAMETOOLONG)}"),
        ("nul\0", "cannot take results: "),
    ],
)
def test_places_that_cannot_be(tmp_path, name, why):
    (tmp_path / "file").write_text("f")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError) as caught:
        run(tmp_path / name, NEW)
    assert why in str(caught.value)
    assert str(caught.value).endswith("; choose another output folder")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


@pytest.fixture
def as_nobody():
    """A folder of one's own, and no rights beyond it: root may write everywhere."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o777)
    if ROOT:
        os.setresuid(65534, 65534, 0)
    try:
        yield place
    finally:
        if ROOT:
            os.setresuid(0, 0, 0)
        for path in [place, *place.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o777)
        shutil.rmtree(place)


@pytest.mark.skipif(os.name == "nt", reason="permissions work otherwise on Windows")
def test_read_only_places(as_nobody):
    parent = as_nobody / "parent"
    write(parent / "out", {"mine": "m"})
    parent.chmod(0o555)
    with pytest.raises(OutputError) as caught:
        run(parent / "new", NEW)
    denied = os.strerror(errno.EACCES)
    assert str(caught.value) == f"{parent / 'new'}: cannot take results: {denied}; choose another output folder"
    (note,) = run(parent / "out", NEW)  # a writable folder in a read-only one, as containers mount them
    assert "not in one step: it cannot be renamed (a mount point, or a folder above that is read-only)" in note
    assert tree(parent / "out") == NEW | {"mine": "m"}
    assert not (parent / "out" / ".netweight-run").exists()
    (parent / "out").chmod(0o555)
    with pytest.raises(OutputError, match="cannot take results: it is read-only; choose another output folder"):
        run(parent / "out", NEW)


@pytest.mark.skipif(os.name == "nt", reason="permissions work otherwise on Windows")
def test_a_folder_above_that_may_be_written_but_not_read(as_nobody):
    """Its list of names cannot be brought to the disk: that is said."""
    parent = as_nobody / "parent"
    parent.mkdir()
    parent.chmod(0o333)
    denied = f"the results are in place, but: [Errno {errno.EACCES}] {os.strerror(errno.EACCES)}: '{parent}'"
    for files in (OLD, NEW):
        assert run(parent / "out", files) == (f"{parent / 'out'}: {denied}",)
        assert tree(parent / "out") == files


@pytest.mark.skipif(os.name == "nt", reason="permissions work otherwise on Windows")
def test_foreign_folders_and_files_with_odd_rights(as_nobody, way):
    target = as_nobody / "out"
    theirs = {"closed/x": "1", "secret": "2"}
    write(target, theirs)
    (target / "closed").chmod(0o555)
    (target / "secret").chmod(0o000)
    run(target, NEW)
    assert stat.S_IMODE((target / "closed").stat().st_mode) == 0o555
    assert stat.S_IMODE((target / "secret").stat().st_mode) == 0o000
    (target / "secret").chmod(0o600)
    assert tree(target) == NEW | theirs
    assert [p.name for p in as_nobody.iterdir()] == ["out"]


@pytest.mark.skipif(os.name == "nt", reason="permissions work otherwise on Windows")
def test_a_foreign_folder_that_cannot_be_read(as_nobody):
    target = as_nobody / "out"
    write(target, {"shut/x": "1"})
    (target / "shut").chmod(0o000)
    (note,) = run(target, NEW)
    assert f"not in one step: {target / 'shut'} cannot be read" in note
    (target / "shut").chmod(0o700)
    assert tree(target) == NEW | {"shut/x": "1"}


def test_foreign_files_are_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    target = tmp_path / "out"
    write(target, {"x": "1"})
    os.utime(target / "x", (1, 1))

    def no_links(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    assert run(target, NEW) == ()
    assert tree(target) == NEW | {"x": "1"}
    assert (target / "x").stat().st_mtime == 1


def test_where_a_name_is_taken_on_a_file_system_without_case_the_others_are_carried(tmp_path, monkeypatch):
    target, link = tmp_path / "out", os.link
    run(target, OLD)
    write(target, {"COSINES.CSV": "x", "mine": "m", "zebra": "z"})

    def without_case(old, new, **settings):
        if Path(new).name == "COSINES.CSV":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        link(old, new, **settings)

    monkeypatch.setattr(os, "link", without_case)
    run(target, NEW)
    assert tree(target) == NEW | {"mine": "m", "zebra": "z"}


def test_a_pipe_that_cannot_be_linked_is_not_read(tmp_path, monkeypatch):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in folders here")
    target = tmp_path / "out"
    target.mkdir()
    os.mkfifo(target / "pipe")

    def no_links(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    (note,) = run(target, NEW)
    assert f"not in one step: {target / 'pipe'} cannot be linked ({os.strerror(errno.EPERM)})" in note
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert (target / "a" / "summary.json").read_text() == "new a"


def test_more_foreign_files_than_can_be_carried(tmp_path, monkeypatch):
    monkeypatch.setattr("netweight.output.carry._MOST_FOREIGN", 3)
    target = tmp_path / "out"
    theirs = {f"f{i}": str(i) for i in range(4)}
    write(target, theirs)
    (note,) = run(target, NEW)
    assert "not in one step: it holds more than 3 files that are not netweight's" in note
    assert tree(target) == NEW | theirs


def test_empty_folders_of_others_are_kept(tmp_path, way):
    target = tmp_path / "out"
    (target / "a" / "empty").mkdir(parents=True)
    (target / "mine").mkdir()
    run(target, NEW)
    assert tree(target) == NEW
    assert (target / "a" / "empty").is_dir()
    assert (target / "mine").is_dir()


def test_what_is_mounted_inside_is_not_carried(tmp_path, monkeypatch):
    """A folder of the same file system is one by its name alone, a single file by its device alone."""
    (tmp_path / "out" / "mount").mkdir(parents=True)
    real = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out" / "mount" or real(path))
    with pytest.raises(carry.NoSwapError, match=r"another file system is mounted at .*mount"):
        carry.survey(tmp_path / "out", (), ())
    other = SimpleNamespace(
        path="elsewhere",
        is_dir=lambda **_: False,
        stat=lambda **_: SimpleNamespace(st_dev=(tmp_path / "out").stat().st_dev + 1),
    )
    monkeypatch.setattr(carry, "leaves", lambda _: [("file", other)])
    with pytest.raises(carry.NoSwapError, match="another file system is mounted at elsewhere"):
        carry.survey(tmp_path / "out", (), ())


@pytest.mark.skipif(sys.platform != "linux", reason="the system call of Linux")
def test_systems_that_cannot_exchange_names(tmp_path, monkeypatch):
    import ctypes

    def library(number):
        def refuse(*_):
            ctypes.set_errno(number)
            return -1

        return SimpleNamespace(renameat2=refuse)

    first, second = tmp_path / "a", tmp_path / "b"
    for number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM):
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, n=number, **__: library(n))
        assert exchange.swap(first, second) is False
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library(errno.EBUSY))
    with pytest.raises(OSError, match="b") as caught:
        exchange.swap(first, second)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(second))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace())
    assert exchange.swap(first, second) is False


@pytest.mark.parametrize("links", [True, False])
def test_what_comes_in_while_the_folder_is_exchanged_is_kept(tmp_path, monkeypatch, links):
    target = tmp_path / "out"
    write(target, {"kept": "1", "edited": "1", "replaced": "1"})
    real = folder.put_in_place

    def meanwhile(new: Path, place: Path, aside: Path) -> None:
        write(target, {"late/comer": "2", "edited": "22"})
        (target / "tmp").write_text("222")
        (target / "tmp").replace(target / "replaced")
        real(new, place, aside)

    def no_links(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(folder, "put_in_place", meanwhile)
    assert run(target, NEW) == ()
    assert tree(target) == NEW | {"kept": "1", "late/comer": "2", "edited": "22", "replaced": "222"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_folders_that_come_in_while_the_folder_is_exchanged_are_kept(tmp_path, monkeypatch):
    target, put = tmp_path / "out", folder.put_in_place
    run(target, OLD)

    def late(new, place, aside):
        write(target, {"deep/er/late": "l", "a/late": "l"})
        put(new, place, aside)

    monkeypatch.setattr(folder, "put_in_place", late)
    assert run(target, NEW) == ()
    assert tree(target) == NEW | {"deep/er/late": "l", "a/late": "l"}


def test_a_full_disk_while_writing(tmp_path):
    target = tmp_path / "out"
    run(target, OLD)

    def fill_up():
        with ResultFolder(target, [], "delta") as results:
            results.journal_path.write_text("done: 1")
            Path("/dev/full").write_text("x")

    with pytest.raises(JobError) as caught:
        fill_up()
    assert str(caught.value) == (
        f"{target}: the results could not be written: {os.strerror(errno.ENOSPC)}; what stood there is untouched; "
        "make room, then run again with --resume"
    )
    assert tree(target) == OLD
    assert tree(tmp_path / ".out.netweight-run") == {"journal.jsonl": "done: 1"}


@pytest.mark.parametrize("function", ["fsync", "link", "scandir", "ftruncate"])
def test_a_full_disk_at_the_commit(tmp_path, monkeypatch, function):
    target = tmp_path / "out"
    run(target, OLD)
    write(target, {"mine": "m"})

    def full(*_, **__):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def run_with(patch):
        if function == "ftruncate":
            patch.setattr(os, function, full)
        with ResultFolder(target, [], "delta") as results:
            write(results.stage, NEW)
            patch.setattr(os, function, full)
            if function == "link":
                patch.setattr(shutil, "copy2", full)
            results.commit()

    with monkeypatch.context() as patch, pytest.raises((JobError, OutputError), match=os.strerror(errno.EDQUOT)):
        run_with(patch)
    assert tree(target) == OLD | {"mine": "m"}
    run(target, NEW)
    assert tree(target) == NEW | {"mine": "m"}


def test_errors_that_are_not_about_the_results_pass(tmp_path):
    with pytest.raises(FileNotFoundError), ResultFolder(tmp_path / "out", [], "delta"):
        (tmp_path / "elsewhere").read_text()
    with (
        pytest.raises(JobError, match=f"the results could not be written: {os.strerror(errno.ENOENT)}"),
        ResultFolder(tmp_path / "out", [], "delta") as results,
    ):
        (results.stage / "no" / "such").write_text("x")


HOLDER = """
import sys
from pathlib import Path
from netweight.output.folder import ResultFolder
with ResultFolder(Path(sys.argv[1]), [], "delta") as results:
    results.journal_path.write_text("j")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_into_one_folder(tmp_path):
    target = tmp_path / "out"
    run(target, OLD)
    command = [sys.executable, "-c", HOLDER, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError) as caught:
            run(target, NEW)
        assert str(caught.value) == (
            f"{target}: process {holder.pid} is writing results there; wait for it to end, or choose another output "
            "folder"
        )
        assert (tmp_path / ".out.netweight-run" / "journal.jsonl").read_text() == "j"
        holder.kill()
    run(target, NEW)
    assert tree(tmp_path) == {f"out/{name}": text for name, text in NEW.items()}
    with ResultFolder(target, [], "delta"), pytest.raises(BusyError, match=f"process {os.getpid()} is writing"):
        run(target, NEW)


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    import fcntl

    real, calls = fcntl.flock, []

    def leaving(descriptor, operation):
        real(descriptor, operation)
        calls.append(operation)
        if len(calls) == 1:
            shutil.rmtree(tmp_path / ".out.netweight-run")  # the run before us leaves between our open and our lock

    monkeypatch.setattr(fcntl, "flock", leaving)
    run(tmp_path / "out", NEW)
    assert len(calls) == 2
    assert tree(tmp_path / "out") == NEW


def test_the_lock_has_the_rights_of_any_new_file(tmp_path):
    with ResultFolder(tmp_path / "out", [], "delta"):
        (tmp_path / "new").touch()
        assert (tmp_path / ".out.netweight-run" / "lock").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    assert run(tmp_path / "out", NEW) == (
        f"{tmp_path / 'out'}: the file system has no locks: start no other run into this folder meanwhile",
    )


def test_a_link_in_the_working_folders_place_is_refused(tmp_path):
    write(tmp_path, {"other/stage/x": "x"})
    (tmp_path / ".out.netweight-run").symlink_to("other")
    with pytest.raises(OutputError, match=r"\.out\.netweight-run: is a link where a working folder must be; remove it"):
        run(tmp_path / "out", NEW)
    assert tree(tmp_path / "other") == {"stage/x": "x"}


def test_sockets_and_hard_links_of_others_survive(tmp_path):
    target = tmp_path / "out"
    write(target, {"x": "1"})
    os.link(target / "x", tmp_path / "twin")
    if hasattr(socket, "AF_UNIX"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(Path(os.path.relpath(target / "s"))))
    run(target, NEW)
    assert (tmp_path / "twin").samefile(target / "x")
    assert stat.S_ISSOCK((target / "s").stat().st_mode)


def test_a_mount_point_is_filled_from_within(tmp_path, monkeypatch):
    target = tmp_path / "volume"
    write(target, {"mine": "m"})
    real, replace = os.path.ismount, os.replace
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target or real(path))
    with ResultFolder(target, [], "delta") as results:
        assert results.stage.parent == target / ".netweight-run"
        write(results.stage, NEW)
        (note,) = results.commit()
    assert "not in one step: it cannot be renamed (a mount point" in note
    assert tree(target) == NEW | {"mine": "m"}

    def across(source, place):
        if "stage" in Path(source).parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, place)

    monkeypatch.setattr(os, "replace", across)
    run(target, OLD)
    assert tree(target) == OLD | {"mine": "m"}
    assert not (target / ".netweight-run").exists()
