"""The executor of a cluster: Ray actors, one a worker, each a process that opens the inputs itself.

Ray neither restarts actors nor retries tasks here: what a lost actor had is handed out again, so that the rules are the
same for a process that died and for a node that is gone. Tasks are the same wherever and however often they run, so
nothing depends on which answer arrives.
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from netweight.errors import JobError, printable
from netweight.run.memory import available_cores
from netweight.run.ray_cluster import check_address, connect, disconnect
from netweight.run.ray_worker import Facts, TaskRunner
from netweight.version import __version__

__all__ = ["AHEAD", "ATTEMPTS", "RayExecutor"]

AHEAD = 2
"""Tasks that a worker has at a time: the one under way, and the next."""

ATTEMPTS = 3
"""How often a task may lose its worker."""

_PATIENCE = 300.0  # seconds without any worker
_TICK = 1.0
_LAST_WAIT = 10.0  # seconds for processes to end

T = TypeVar("T")
R = TypeVar("R")


class _Lost(Exception):  # noqa: N818 - never leaves this file
    """An answer that will not come."""


@dataclass(eq=False)
class _Member:
    """One actor. `greeting` is its answer to the work, `flying` are its tasks, the one under way first."""

    actor: Any
    greeting: Any
    facts: Facts | None = None
    ready: bool = False
    flying: deque[Any] = field(default_factory=deque)


@dataclass(eq=False)
class _Errand(Generic[T]):
    """A task, and how often it has lost its worker."""

    task: T
    lost: int = 0


class RayExecutor:
    """See `execute.Executor`. `workers` processes (default: as many as the cluster has CPUs) of one CPU and `memory`
    bytes each, on the cluster at `address`, or on one that is started on this machine and ends with `close`.

    Work and tasks must pickle, and everything they name must be reachable from every node under the same name.
    `moved` counts the bytes that work, tasks and results had, `lost` the workers that were. A worker that is lost, with
    its node or alone, is replaced, and its tasks are done again; a task that loses its worker ATTEMPTS times raises
    JobError with its name.
    """

    shares_memory = False
    """Changes that work makes in its own process are not seen elsewhere."""

    def __init__(self, workers: int | None = None, address: str | None = None, *, memory: int = 0) -> None:
        if workers is not None and workers < 1:
            msg = f"workers: expected 1 or more, got {workers}"
            raise ValueError(msg)
        check_address(address)
        self._wanted = workers
        self._address = address
        self._memory = memory
        self._ray: Any = None
        self._ours = False  # whether the connection is
        self._crew: list[_Member] = []
        self._work: Any = None  # a reference to it
        self._failed = 0
        self._reason = ""
        self._seen = 0.0  # when there was a worker
        self.moved = 0
        self.lost = 0

    @property
    def workers(self) -> int:
        """How many tasks run at a time, once all workers have started."""
        if self._wanted is None:
            ray = self._connected()
            self._wanted = max(1, int(ray.cluster_resources().get("CPU", 1)))
        return self._wanted

    def run(self, next_task: Callable[[], T | None], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """See `execute.Executor`. An exception of `work`, Ctrl-C and an early end of the run end all workers."""
        first = next_task()
        if first is None:
            return
        again = deque([_Errand(first)])
        flying: dict[Any, tuple[_Member, _Errand[T]]] = {}
        try:
            self._begin(work)
            while True:
                self._hand_out(next_task, again, flying)
                if not flying and not again:
                    task = None if any(m.ready for m in self._crew) else next_task()
                    if task is None:
                        return
                    again.append(_Errand(task))
                self._check_patience()
                for ref in self._finished([*flying, *(m.greeting for m in self._crew if not m.ready)]):
                    if ref not in flying:
                        self._greeted(ref)
                        continue
                    member, errand = flying[ref]
                    try:
                        result = self._answer(ref)
                    except _Lost as loss:
                        self._take_back(member, flying, again, str(loss))
                        continue
                    del flying[ref]
                    member.flying.remove(ref)
                    yield errand.task, result
        except BaseException:
            self._dismiss()
            raise

    def close(self) -> None:
        """End the workers, and the cluster where it was started here; closing twice is allowed."""
        self._dismiss()
        if self._ours:
            self._ours = False
            disconnect(self._ray)
        self._ray = None
        self._work = None

    def _connected(self) -> Any:
        if self._ray is None:
            self._ray, self._ours = connect(self._address, self._wanted or available_cores())
        return self._ray

    def _begin(self, work: Callable[[Any], Any]) -> None:
        """Send the work to all workers, and start those that are missing."""
        ray = self._connected()
        blob = _pickled(work)
        self.moved += len(blob)
        self._work = ray.put(blob)
        self._failed = 0
        self._seen = time.monotonic()
        for member in self._crew:
            member.ready = False
            member.greeting = member.actor.take.remote(self._work)
        while len(self._crew) < self.workers:
            self._recruit()

    def _recruit(self) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        if memory := self._room():
            options["memory"] = memory
        made = self._ray.remote(TaskRunner).options(scheduling_strategy="SPREAD", **options).remote()
        self._crew.append(_Member(made, made.take.remote(self._work)))

    def _room(self) -> int:
        """Bytes to ask for: no more than the largest node has, since one worker is always tried."""
        if not self._memory:
            return 0
        nodes = [node["Resources"].get("memory", 0) for node in self._ray.nodes() if node["Alive"]]
        return int(min(self._memory, max(nodes, default=0)))

    def _hand_out(
        self,
        next_task: Callable[[], T | None],
        again: deque[_Errand[T]],
        flying: dict[Any, tuple[_Member, _Errand[T]]],
    ) -> None:
        """Give every worker one task, then every worker the next. A task that has lost a worker is tried alone, so that
        a further loss is its own.
        """
        for depth in range(AHEAD):
            for member in self._crew:
                if not member.ready or len(member.flying) > depth or any(flying[ref][1].lost for ref in member.flying):
                    continue
                if not again:
                    task = next_task()
                    if task is None:
                        return
                    again.append(_Errand(task))
                if again[0].lost and member.flying:
                    continue
                errand = again.popleft()
                blob = _pickled(errand.task)
                self.moved += len(blob)
                ref = member.actor.do.remote(blob)
                member.flying.append(ref)
                flying[ref] = member, errand

    def _check_patience(self) -> None:
        """Raises JobError where there has been no worker for too long."""
        if any(m.ready for m in self._crew):
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > _PATIENCE:
            raise JobError(self._nobody())

    def _finished(self, refs: list[Any]) -> list[Any]:
        done, _ = self._ray.wait(refs, num_returns=1, timeout=_TICK)
        return list(done)

    def _answer(self, ref: Any) -> Any:
        """The result of the work; raises the work's exception, _Lost where the worker or its answer is gone."""
        try:
            good, blob = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as problem:
            raise JobError(f"a worker of the cluster failed: {_line(problem)}") from None
        except self._ray.exceptions.RayError as problem:
            raise _Lost(_line(problem)) from None
        self.moved += len(blob)
        result = pickle.loads(blob)  # noqa: S301 - from a process that was started here
        if good:
            return result
        raise result

    def _greeted(self, ref: Any) -> None:
        """A worker has taken the work, or could not be started."""
        member = next((m for m in self._crew if m.greeting is ref or m.greeting == ref), None)
        if member is None:
            return
        try:
            facts = self._answer(ref)
        except _Lost as loss:
            self._crew.remove(member)
            self.lost += 1
            self._failed += 1
            self._reason = str(loss)
            if self._failed < ATTEMPTS * self.workers:
                self._recruit()
            if self._failed >= ATTEMPTS and not any(m.ready for m in self._crew):
                raise JobError(self._nobody()) from None
            return
        if facts.version != __version__:
            raise JobError(
                f"netweight {facts.version} on {printable(facts.host)}, {__version__} here; install the same version on"
                " every node"
            )
        member.facts = facts
        member.ready = True

    def _take_back(
        self,
        member: _Member,
        flying: dict[Any, tuple[_Member, _Errand[T]]],
        again: deque[_Errand[T]],
        reason: str,
    ) -> None:
        """Queue the tasks of a lost worker again, and start another worker."""
        self._crew.remove(member)
        self.lost += 1
        with suppress(Exception):  # it may be there and out of reach; if not, there is nothing to end
            self._ray.kill(member.actor, no_restart=True)
        errands = [flying.pop(ref)[1] for ref in member.flying]
        errands[0].lost += 1  # the one under way: the next has nothing to do with it
        if errands[0].lost >= ATTEMPTS:
            where = f" on {printable(member.facts.host)}" if member.facts else ""
            raise JobError(
                f"{_name_of(errands[0].task)}: the worker that had it was lost {ATTEMPTS} times, last{where}: {reason};"
                " is there memory for one worker on every CPU? then run again with --resume"
            )
        again.extendleft(reversed(errands))
        self._recruit()

    def _nobody(self) -> str:
        free, total = (int(f().get("CPU", 0)) for f in (self._ray.available_resources, self._ray.cluster_resources))
        reason = self._reason or f"{free} of its {total} CPUs are free"
        return (
            f"--executor ray: no worker could be started on the cluster: {reason}; is netweight {__version__} installed"
            " on every node, and is a CPU free?"
        )

    def _dismiss(self) -> None:
        """End all workers, and wait until those on this machine are gone."""
        crew, self._crew = self._crew, []
        for member in crew:
            with suppress(Exception):  # a cluster that is gone has no workers
                self._ray.kill(member.actor, no_restart=True)
        here = socket.gethostname()
        end = time.monotonic() + _LAST_WAIT
        for facts in (m.facts for m in crew if m.facts is not None and m.facts.host == here):
            while _runs(facts.pid) and time.monotonic() < end:
                time.sleep(0.01)


def _pickled(value: object) -> bytes:
    """By Ray's pickle, which takes closures too: functions of modules by name, others by value."""
    blob: bytes = importlib.import_module("ray.cloudpickle").dumps(value)
    return blob


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _line(problem: BaseException) -> str:
    """The telling part of one of Ray's long messages."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if "Error: " in line or line.startswith("The actor died because")]
    return printable((telling or lines or [type(problem).__name__])[-1], 300)


def _name_of(task: object) -> str:
    """A task's own name, or that of what it is about."""
    for way in ("", "stretch", "target", "subject"):
        name = getattr(getattr(task, way) if way and hasattr(task, way) else task, "name", None)
        if isinstance(name, str):
            return printable(name)
    return printable(repr(task))
