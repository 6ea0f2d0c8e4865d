"""The machine's troubles: whatever stops a merge, the earlier one stays bit for bit, nothing unfinished looks finished,
and --resume gives the bytes of an undisturbed run.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from merge_families import family
from task_vectors import beside_progress, tree
from task_vectors import netweight as program

import netweight
from netweight.errors import (
    BusyError,
    InputError,
    Interrupted,
    JobError,
    NetweightError,
    OptionError,
    OutputError,
    ReadError,
)
from netweight.jobs.merge.request import Weights
from netweight.output.folder import ResultFolder
from netweight.run.progress import Silent

resource = pytest.importorskip("resource", reason="full disks are played by a limit that only Unix has")

SHARD = 6000  # bytes: several files of small models
WORDS = ("--max-shard-size", str(SHARD), "--format", "quiet")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base, tuned, _, _ = family(root)
    netweight.merge(None, root / "old", base=base, models=tuned[:2])
    netweight.merge(None, root / "new", base=base, models=tuned, max_shard_size=SHARD)
    return root, base, tuned


def start(models, tmp_path):
    """(`out` beside links to the models, with an earlier merge in it; the arguments that make `new` of it)."""
    root, _, _ = models
    for path in root.iterdir():
        if path.name not in {"old", "new"}:
            (tmp_path / path.name).symlink_to(path)
    subprocess.run(["cp", "-a", root / "old", tmp_path / "out"], check=True)
    return tmp_path / "out", {"base": str(root / "base"), "models": models[2], "max_shard_size": SHARD}


def contents(folder, root):
    """Its files; in the record the places of the inputs are relative to the output, which lies elsewhere here."""
    found = tree(folder)
    if (record := found.get("netweight_merge.json")) is not None:
        for name in ("base", "m1", "m2", "m3"):
            where = os.path.relpath(root / name, Path(folder).resolve())
            record = record.replace(f'"path": "{where}"'.encode(), f'"path": "../{name}"'.encode())
        found["netweight_merge.json"] = record
    return found


def same_as(folder, name, models):
    return contents(folder, models[0]) == contents(models[0] / name, models[0])


def command(models, out, *more, **settings):
    _, base, tuned = models
    return program("merge", "--base", base, "--models", *tuned, "--output", out, *WORDS, *more, **settings)


def limited(size):
    """No file may grow beyond `size` bytes: what a full disk does, but for the error's number."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def one_line(done, code, text):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    said = beside_progress(done.stderr)
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert text in said


@pytest.mark.parametrize(("size", "code"), [(50, 1), (3000, 2), (9000, 1), (20_000, 1)])
def test_files_that_cannot_grow(models, tmp_path, size, code) -> None:
    """While the journal, the shards, or the record is written."""
    out, _ = start(models, tmp_path)
    done = command(models, out, "--overwrite", preexec_fn=limited(size))
    one_line(done, code, os.strerror(errno.EFBIG))
    assert same_as(out, "old", models)
    again = command(models, out, "--overwrite", "--resume")
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
    assert same_as(out, "new", models)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


class Failing:
    """A system call that fails at its `at`-th use (from 1), or never where `at` is 0; `calls` counts them."""

    def __init__(self, monkeypatch, name, number=errno.EIO, at=0):
        self._real = getattr(os, name)
        self.number, self.at, self.calls = number, at, 0
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args, **settings):
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.number, os.strerror(self.number))
        return self._real(*args, **settings)


def places(count, most):
    """About `most` of the numbers from 1 to `count`, the first and the last among them."""
    return sorted({1 + round(i * (count - 1) / (most - 1)) for i in range(most)})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails(models, tmp_path, monkeypatch, number) -> None:
    out, arguments = start(models, tmp_path)
    call = Failing(monkeypatch, "pwrite", number)
    netweight.merge(None, tmp_path / "whole", **arguments)
    assert call.calls > 30
    for at in places(call.calls, 9):
        call.calls, call.at = 0, at
        with pytest.raises(NetweightError, match=os.strerror(number)) as caught:
            netweight.merge(None, out, overwrite=True, **arguments)
        assert isinstance(caught.value, JobError if "--resume" in str(caught.value) else OutputError)
        assert "\n" not in str(caught.value)
        assert ("make room" in str(caught.value)) == (number == errno.ENOSPC)
        assert same_as(out, "old", models)
        if isinstance(caught.value, OutputError):
            assert not (tmp_path / ".out.netweight-run").exists()
    call.at = 0
    said = Notes()
    netweight.merge(None, out, overwrite=True, resume=True, progress=said, **arguments)
    assert "resuming: " in said.lines[0]
    assert same_as(out, "new", models)
    assert not (tmp_path / ".out.netweight-run").exists()


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.mark.parametrize("name", ["fsync", "write", "replace", "rename", "mkdir", "link", "unlink"])
def test_any_call_that_fails(models, tmp_path, monkeypatch, name) -> None:
    """Either an error, and the old model stands; or none, and the new one does."""
    out, arguments = start(models, tmp_path)
    (out / "notes.txt").write_text("kept through all of it")
    call = Failing(monkeypatch, name)
    netweight.merge(None, tmp_path / "whole", **arguments)
    netweight.merge(None, tmp_path / "whole", overwrite=True, **arguments)
    for at in places(call.calls // 2, 6) if call.calls > 1 else [1]:
        call.calls, call.at = 0, at
        try:
            netweight.merge(None, out, overwrite=True, **arguments)
        except NetweightError as error:
            assert "\n" not in str(error)  # noqa: PT017 - that it is raised at all depends on the call
        call.at = 0
        assert (out / "notes.txt").read_text() == "kept through all of it"
        found = contents(out, models[0])
        del found["notes.txt"]
        assert found in [contents(models[0] / state, models[0]) for state in ("old", "new")]
    netweight.merge(None, out, overwrite=True, resume=True, **arguments)
    assert netweight.verify(out).good
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, which `resize` makes as large as it says."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")

    def resize(kilobytes):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", place], check=True, capture_output=True)

    yield place, resize
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_too_small_is_found_before_anything_is_read(models, small_disk, monkeypatch) -> None:
    place, resize = small_disk
    resize(32)
    monkeypatch.setattr("netweight.checkpoint.tensor.Tensor.read_into", lambda *_: pytest.fail("data was read"))
    with pytest.raises(OutputError, match=r"not enough room: .* are needed, .* are free; make room") as caught:
        netweight.merge(None, place / "out", base=models[1], models=models[2])
    assert caught.value.exit_code == 2
    assert list(place.iterdir()) == []


def test_a_disk_that_fills(models, small_disk) -> None:
    """There is room for the weights, and none for what is written beside them."""
    place, resize = small_disk
    resize(88)
    done = command(models, place / "out")
    one_line(done, 1, os.strerror(errno.ENOSPC))
    assert "run again with --resume" in done.stderr
    assert not (place / "out").exists()
    resize(1024)
    again = command(models, place / "out", "--resume")
    assert again.returncode == 0, again.stderr
    assert same_as(place / "out", "new", models)
    assert [p.name for p in place.iterdir()] == ["out"]


def test_a_mount_point(models, small_disk) -> None:
    """It cannot be renamed: the files go in one by one, which is said."""
    place, resize = small_disk
    resize(2048)
    done = command(models, place, "--format", "human")
    assert done.returncode == 0, done.stderr
    assert "were put in place file by file" in done.stderr
    assert same_as(place, "new", models)
    done = command(models, place, "--method", "ties", "--overwrite")
    assert done.returncode == 0
    assert netweight.verify(place).good
    assert not (place / ".netweight-run").exists()


def test_a_read_only_folder(models, tmp_path, monkeypatch) -> None:
    """As root there are no read-only folders: the system's answer is put in its place."""
    out, arguments = start(models, tmp_path)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: False if mode & os.W_OK else real(path, mode))
    monkeypatch.setattr("netweight.checkpoint.tensor.Tensor.read_into", lambda *_: pytest.fail("data was read"))
    with pytest.raises(OutputError, match="out: cannot take results: it is read-only; choose another output folder"):
        netweight.merge(None, out, overwrite=True, **arguments)
    assert same_as(out, "old", models)


def test_two_runs_into_one_folder(models, tmp_path) -> None:
    out, arguments = start(models, tmp_path)
    with ResultFolder(out, [], "merge", replace=True):
        with pytest.raises(BusyError, match=r"out: process \d+ is writing results there; wait for it to end"):
            netweight.merge(None, out, overwrite=True, **arguments)
        one_line(command(models, out, "--overwrite", "--resume"), 1, "is writing results there")
        assert same_as(out, "old", models)
    netweight.merge(None, out, overwrite=True, **arguments)
    assert same_as(out, "new", models)


class Disturbing(Silent):
    """Does something once, in the middle of the second pass over the data."""

    def __init__(self, act):
        self._act = act
        self._starts = 0

    def start(self, *_):
        self._starts += 1

    def advance(self, tensors, nbytes):
        if self._starts == 2 and self._act is not None:
            act, self._act = self._act, None
            act()


@pytest.mark.parametrize("how", ["rewritten", "replaced", "shortened", "gone"])
def test_an_input_that_changes_while_it_is_read(tmp_path, how) -> None:
    base, tuned, _, _ = family(tmp_path)
    file = Path(tuned[1]) / "model.safetensors"

    def act() -> None:
        data = file.read_bytes()
        if how == "replaced":
            file.unlink()
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(data[:-100] if how == "shortened" else data[:-1] + b"\x01")

    out = tmp_path / "out"
    with pytest.raises(ReadError) as caught:
        netweight.merge(None, out, base=base, models=tuned, workers=1, progress=Disturbing(act))
    assert "m2/model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert not out.exists()
    with pytest.raises((OptionError, InputError)):  # it is not the merge that was begun
        netweight.merge(None, out, base=base, models=tuned, resume=True)
    assert not out.exists()


def test_another_merge_is_not_gone_on_with(models, tmp_path, monkeypatch) -> None:
    out, arguments = start(models, tmp_path)
    call = Failing(monkeypatch, "pwrite", at=30)
    with pytest.raises(JobError):
        netweight.merge(None, out, overwrite=True, **arguments)
    call.at = 0
    for other in ({"seed": 1}, {"method": "ties"}, {"models": arguments["models"][:2]}, {"weights": Weights("linear")}):
        with pytest.raises(OptionError, match="--resume"):
            netweight.merge(None, out, overwrite=True, resume=True, **{**arguments, **other})
    netweight.merge(None, out, overwrite=True, resume=True, **arguments)
    assert same_as(out, "new", models)


def test_settings_that_fail_after_the_norms_leave_nothing(models, tmp_path) -> None:
    root, base, tuned = models
    (tmp_path / "same").symlink_to(root / "base")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", base, copy], check=True)
    with pytest.raises(OptionError, match="has norm 0"):
        netweight.merge(None, tmp_path / "out", base=base, models=[tuned[0], copy], weights=Weights("linear"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "same"]


@pytest.mark.parametrize(
    ("place", "outcome", "state"),
    [
        ("netweight.passes.merge_blocks.read_elements", "what stood there is untouched", "old"),
        ("netweight.jobs.merge.files.write_model_files", "what stood there is untouched", "old"),
        ("netweight.output.folder.put_in_place", "what stood there is untouched", "old"),
        ("netweight.output.folder.settle", "the results are in place", "new"),
    ],
)
def test_ctrl_c_says_what_has_become_of_the_output(models, tmp_path, monkeypatch, place, outcome, state) -> None:
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    out, arguments = start(models, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        with pytest.raises(Interrupted) as caught:
            netweight.merge(None, out, overwrite=True, **arguments)
    assert str(caught.value) == f"{out}: stopped; {outcome}; run again with --resume to go on"
    assert caught.value.exit_code == 130
    assert same_as(out, state, models)
    netweight.merge(None, out, overwrite=True, resume=True, **arguments)
    assert same_as(out, "new", models)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_half_replaced_is_said(models, small_disk, monkeypatch) -> None:
    place, resize = small_disk
    resize(2048)
    netweight.merge(None, place, base=models[1], models=models[2][:2])
    real, calls = Path.replace, []

    def replace(path, target):
        calls.append(path)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(JobError, match="some of the files there were replaced; make room, then run again"):
            netweight.merge(None, place, base=models[1], models=models[2], overwrite=True)
    netweight.merge(None, place, base=models[1], models=models[2], overwrite=True, resume=True)
    assert netweight.verify(place).good
