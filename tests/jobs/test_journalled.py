"""The frame of a long job: what is kept, what a run that goes on gets back, and what Ctrl-C says."""

from __future__ import annotations

import pytest

from netweight.errors import Interrupted, OptionError
from netweight.jobs.journalled import Record, interruptible, journalled, note_resumed
from netweight.run.progress import Silent


class Heard(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_what_one_run_keeps_the_next_has(tmp_path):
    path = tmp_path / "journal.jsonl"
    with journalled(path, "plan", resume=False) as record:
        assert record.done == {}
        record.append("a", {"value": [1.5, float("inf")]})
    with journalled(path, "plan", resume=True) as record:
        assert record.done == {"a": {"value": [1.5, float("inf")]}}
        record.append("b", {})
    with journalled(path, "plan", resume=True) as record:
        assert record.done.keys() == {"a", "b"}
    with journalled(path, "plan", resume=False) as record:
        assert record.done == {}


def test_the_journal_is_closed_when_the_block_ends_in_an_error(tmp_path):
    def fail():
        with journalled(tmp_path / "journal.jsonl", "plan", resume=False) as record:
            kept.append(record)
            raise ZeroDivisionError

    kept = []
    with pytest.raises(ZeroDivisionError):
        fail()
    (record,) = kept
    with pytest.raises(ValueError, match="the journal is closed"):
        record.append("b", {})


def test_a_journal_of_another_plan_is_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    with journalled(path, "plan", resume=False):
        pass
    with (
        pytest.raises(OptionError, match="the inputs or the options changed since"),
        journalled(path, "x", resume=True),
    ):
        pass


def test_without_a_journal_nothing_is_kept():
    record = Record()
    record.append("a", {"value": 1})
    assert record.done == {}


def test_a_run_that_goes_on_says_what_is_done():
    progress = Heard()
    note_resumed(progress, 3, 7)
    note_resumed(progress, 0, 7)
    note_resumed(progress, 1, 2, "matrices")
    assert progress.notes == [
        "resuming: 3 of 7 parameters are done",
        "nothing to resume: starting anew",
        "resuming: 1 of 2 matrices are done",
    ]


def test_ctrl_c_is_one_line_that_is_made_when_it_is_known_what_is_left():
    left = []

    def stop(error):
        with interruptible(lambda: f"stopped; kept {left}"):
            left.append("a")
            raise error

    with pytest.raises(Interrupted, match=r"^stopped; kept \['a'\]$"):
        stop(KeyboardInterrupt)
    with pytest.raises(ZeroDivisionError):
        stop(ZeroDivisionError)
