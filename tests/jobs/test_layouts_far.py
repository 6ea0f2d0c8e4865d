"""Two layouts, with everything pickled, or stopped half way and resumed: the bytes of a plain run."""

from __future__ import annotations

from functools import partial

import pytest
from far_executor import FarExecutor
from task_vectors import tree

import netweight
from netweight.checkpoint.tensors import rearranged
from netweight.errors import Interrupted
from netweight.passes import differences, merge_blocks, merges
from netweight.run import plan
from netweight.run.progress import Silent
from netweight.run.threads import ThreadExecutor

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from layout_models import Folders, named, ordered, stored  # noqa: E402 - torch and transformers may be missing

PAIRS = [pair for pair in ordered(kinds=["mixtral", "gpt_oss", "phi3"]) if "linear layers, router too" not in pair]
EXECUTORS = {"three": partial(ThreadExecutor, 3), "far": FarExecutor}
pairs = pytest.mark.parametrize("pair", PAIRS, ids=map(named, PAIRS))
executors = pytest.mark.parametrize("executor", EXECUTORS)


class Counted:
    """An executor's results, counted; Ctrl-C comes instead of the one after `most`."""

    def __init__(self, executor, most=None):
        self._executor, self._most = executor, most
        self.workers, self.results = executor.workers, 0

    def run(self, next_task, work):
        for done in self._executor.run(next_task, work):
            if self.results == self._most:
                raise KeyboardInterrupt
            self.results += 1
            yield done

    def close(self):
        self._executor.close()


class Heard(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Several stretches, blocks, rows and slabs of every parameter."""
    monkeypatch.setattr(plan, "STRETCH", 1 << 10)
    monkeypatch.setattr(differences, "_MOST", 1)
    monkeypatch.setattr(merges, "_MOST", 1)
    monkeypatch.setattr(merge_blocks, "STRETCH", 1 << 10)
    monkeypatch.setattr(merge_blocks, "BLOCK", 1 << 9)
    monkeypatch.setattr(rearranged, "_ROWS", 1 << 9)
    monkeypatch.setattr(rearranged, "_SLAB", 1 << 10)


def delta(folders, pair, out, **more):
    kind, first, second = pair
    return netweight.delta(folders(kind, first), [folders(kind, second, n) for n in (1, 2)], out, **more)


def merge(folders, pair, out, **more):
    """TIES looks at a parameter several times before it writes; sync would only cost time here."""
    kind, first, second = pair
    return netweight.merge(
        None, out, base=folders(kind, first), models=[folders(kind, second, n) for n in (1, 2)], method="ties",
        weights=(0.7, 0.4), settings={"density": 0.4}, sync=False, allow_mismatch=True, **more,
    )  # fmt: skip


JOBS = {"delta": delta, "merge": merge}
jobs = pytest.mark.parametrize("job", JOBS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, folders):
    """(the files of a job by one thread, how many results its executor gave)."""
    root, made = tmp_path_factory.mktemp("plain"), {}

    def run(job, pair):
        if (job, pair) not in made:
            executor = Counted(ThreadExecutor(1))
            JOBS[job](folders, pair, root / str(len(made)), executor=executor)
            made[job, pair] = tree(root / str(len(made))), executor.results
        return made[job, pair]

    return run


@pairs
@executors
@jobs
def test_the_bytes_are_those_of_one_thread(tmp_path, folders, plain, pair, executor, job):
    JOBS[job](folders, pair, tmp_path / "out", executor=EXECUTORS[executor]())
    files, results = plain(job, pair)
    assert results > len(stored(*pair[:2]))  # several tasks of a parameter
    assert tree(tmp_path / "out") == files
    if job == "merge":
        assert netweight.verify(tmp_path / "out", executor=EXECUTORS[executor]()).good


@pairs
@jobs
def test_a_run_that_was_stopped_goes_on(tmp_path, folders, plain, pair, job):
    files, results = plain(job, pair)
    with pytest.raises(Interrupted):
        JOBS[job](folders, pair, tmp_path / "out", executor=Counted(FarExecutor(), results // 2))
    assert not (tmp_path / "out").exists()
    heard = Heard()
    JOBS[job](folders, pair, tmp_path / "out", resume=True, progress=heard, executor=FarExecutor())
    (said,) = [note for note in heard.notes if note.startswith("resuming: ")]
    done, total = int(said.split()[1]), len(stored(*pair[:2]))
    assert said == f"resuming: {done} of {total} parameters are done"
    assert 0 < done < total
    assert tree(tmp_path / "out") == files


@pairs
def test_compare(folders, pair):
    kind, first, second = pair
    one, *others = (
        repr(netweight.compare(folders(kind, first), folders(kind, second, 1), methods="all", executor=e()).to_dict())
        for e in (partial(ThreadExecutor, 1), *EXECUTORS.values())
    )
    assert others == [one, one]
