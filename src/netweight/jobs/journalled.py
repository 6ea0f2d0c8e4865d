"""The frame of a long job: a journal of what is done, the note of a resumed run, and interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import Interrupted
from netweight.run.progress import Progress

if TYPE_CHECKING:
    from netweight.run.journal import Journal

__all__ = ["Record", "interruptible", "journalled", "note_resumed"]


class Record:
    """`done` {key: value} is what earlier runs have finished; `append` writes what this one finishes, where there is a
    journal.
    """

    def __init__(self, journal: Journal | None = None, done: Mapping[str, dict[str, Any]] | None = None) -> None:
        self._journal = journal
        self.done = dict(done or {})

    def append(self, key: str, value: dict[str, Any]) -> None:
        """Write one JSON-safe value; raises JobError where the disk refuses."""
        if self._journal is not None:
            self._journal.append(key, value)


@contextmanager
def journalled(path: Path, plan_digest: str, *, resume: bool) -> Iterator[Record]:
    """A journal at `path` for as long as the block runs; `resume` goes on with the one that is there.

    Raises OptionError where that one belongs to another plan, JobError where it cannot be read or written.
    """
    from netweight.run.journal import Journal

    done: dict[str, dict[str, Any]] = {}
    if resume:
        journal, done = Journal.resume(path, plan_digest)
    else:
        journal = Journal.create(path, plan_digest)
    with journal:
        yield Record(journal, done)


def note_resumed(progress: Progress, count: int, total: int, unit: str = "parameters") -> None:
    """Note that a run is resumed: `count` of `total` `unit` are done."""
    progress.note(f"resuming: {count} of {total} {unit} are done" if count else "nothing to resume: starting anew")


@contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C in the block raises Interrupted with `message()`, which says what it has left behind."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message()) from None
