"""One file that appears whole or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from netweight.errors import BusyError, JobError, OutputError
from netweight.output.result_file import ResultFile, write_file


def writing(text: str):
    return lambda path: path.write_text(text)


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_file_is_put_in_place_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_file(tmp_path / "deep" / "er" / "r.json", writing("1"))
    assert left(tmp_path / "deep" / "er") == ["r.json"]
    write_file(tmp_path / "deep" / "er" / "r.json", writing("2"))
    assert (tmp_path / "deep" / "er" / "r.json").read_text() == "2"
    assert left(tmp_path / "deep" / "er") == ["r.json"]


def test_a_failure_keeps_what_stood_there_and_the_journal(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    target.write_text("old")

    def fail(path: Path) -> None:
        place.journal_path.write_text("line")
        path.write_text(str(1 // 0))

    place = ResultFile(target)
    with pytest.raises(ZeroDivisionError), place:
        place.commit(fail)
    assert target.read_text() == "old"
    with ResultFile(target, resume=True) as place:
        assert place.journal_path.read_text() == "line"
    with ResultFile(target) as place:
        assert not place.journal_path.exists()
    assert left(tmp_path) == ["r.json"]


def test_a_folder_above_that_another_makes_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def later(path, *rest, **how):
        if path == tmp_path / "deep":
            real(path)
        real(path, *rest, **how)

    monkeypatch.setattr(Path, "mkdir", later)
    write_file(tmp_path / "deep" / "r.json", writing("1"))
    assert (tmp_path / "deep" / "r.json").read_text() == "1"


def test_folders_made_for_nothing_are_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ResultFile(tmp_path / "a" / "b" / "r.json"):
        1 // 0  # noqa: B018
    assert left(tmp_path) == []


def test_places_that_cannot_take_it(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "m.safetensors").write_text("")
    for target, inputs, said in (
        (model, [], "is a folder; expected a file"),
        (model / "r.json", [model], "lies in the model"),
        (model / "m.safetensors", [model / "m.safetensors"], "lies in the model"),
        (tmp_path / ("x" * 300), [], "cannot take the result: File name too long"),
        (model / "m.safetensors" / "r.json", [], "cannot take the result"),
        (tmp_path / "a\0b", [], "cannot take the result"),
    ):
        with pytest.raises(OutputError, match=said), ResultFile(target, inputs):
            pass
    assert left(tmp_path) == ["model"]


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    with pytest.raises(JobError, match=r"r\.json: the result could not be written: No space left"):
        write_file(tmp_path / "r.json", full)
    assert left(tmp_path) == []


def _hold(target: Path, held, let_go) -> None:
    with ResultFile(target):
        held.set()
        let_go.wait(30)


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "r.json", held, let_go))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(BusyError, match=f"process {other.pid} is writing"), ResultFile(tmp_path / "r.json"):
            pass
    finally:
        let_go.set()
        other.join(30)
    with ResultFile(tmp_path / "r.json"):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions work otherwise on Windows")
def test_a_folder_that_may_be_written_but_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path, flags, *rest, **settings):
        if Path(path) == tmp_path and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *rest, **settings)

    monkeypatch.setattr(os, "open", refuse)
    write_file(tmp_path / "f.json", writing("x"))
    assert (tmp_path / "f.json").read_text() == "x"
    assert list(tmp_path.iterdir()) == [tmp_path / "f.json"]
