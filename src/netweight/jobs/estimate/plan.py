"""A job's own plan, made from headers as its dry run makes it, and the way to run the job."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import OptionError, did_you_mean, printable
from netweight.params.opening import open_whole
from netweight.run.devices import spectral_effort
from netweight.statistics.formats.errors import sample_size

__all__ = ["JOBS", "Request", "Work", "plan_work"]

JOBS = ("scan", "delta", "compare", "merge", "structure", "embeddings", "info")
_FORMATS = "formats"
_FOR = {"methods": "scan/compare/merge", "base": "delta/merge", "models": "delta/merge/compare", "deep": "structure"}


@dataclass(frozen=True)
class Request:
    """One job; see `estimate`. `ref` is a model, or a recipe; `settings` are fields of the job's Options."""

    ref: Any
    job: str
    methods: tuple[str, ...]
    base: str | None
    models: tuple[str, ...]
    deep: bool
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raises OptionError for a job that there is not, and for options that it does not take."""
        if self.job not in JOBS:
            hint = did_you_mean(self.job, JOBS)
            raise OptionError(f"--job: no job '{printable(self.job)}'{hint}; there are {', '.join(JOBS)}")
        for option, jobs in _FOR.items():
            if getattr(self, option) and self.job not in jobs:
                raise OptionError(f"--{option}: goes with --job {jobs}, not with {self.job}; leave it out")
        if self.job == "delta" and self.base is None:
            raise OptionError("--job delta: MODEL is a fine-tuned model; give its --base as well")
        if self.job == "compare" and len(self.models) != 1:
            raise OptionError(f"--job compare: expected the other model as --models, got {len(self.models)} of them")


@dataclass(frozen=True)
class Work:
    """A job as planned; `run` does it. `checkpoints`: base and models, open. Bytes to read and to write, memory in
    bytes. `flops`: of the `heavy` methods, in matrices with a short `side`; `encoded`: elements that `formats` encodes;
    the others are `light`.
    """

    run: Callable[[], object]
    checkpoints: tuple[Checkpoint, ...]
    read: int
    workers: int
    memory: int
    device: str = "cpu"
    notes: tuple[str, ...] = ()
    written: int = 0
    flops: int = 0
    side: int = 0
    light: tuple[str, ...] = ()
    heavy: tuple[str, ...] = ()
    encoded: int = 0
    recipe: Any = None

    @property
    def decoded(self) -> float:
        """Bytes that come out of a byte of files: more than 1 where weights are quantised."""
        tensors = [tensor for checkpoint in self.checkpoints for tensor in checkpoint.values()]
        return sum(t.nbytes for t in tensors) / max(1, sum(t.file_bytes for t in tensors))


def plan_work(request: Request, stack: ExitStack, output: str = "") -> Work:
    """Open what the job opens, and plan it; everything is closed with `stack`. `output`: the folder of a merge or
    delta. Of a hub's models headers are read by ranges. Raises what the job raises before it reads data.
    """
    if request.job in {"info", "structure"}:
        return _of_headers(request, stack)
    job, plan = (import_module(f"netweight.jobs.{request.job}.{part}") for part in ("job", "plan"))
    options = plan.Options(remote=True, **request.settings)
    models = (request.ref, *request.models)
    if request.job == "merge":
        from netweight.jobs.merge.request import make_request

        is_model = isinstance(request.ref, str) and not request.ref.endswith((".yml", ".yaml"))
        recipe, models = (None, models) if is_model else (request.ref, request.models)
        given = {"base": request.base, "method": " ".join(request.methods) or None, "dtype": None}
        asked = make_request(recipe, models=models, weights=None, settings={}, **given)
        if asked.stages:
            raise OptionError(f"{asked.recipe.where()}: an estimate is of one document, and the recipe has several")
        prepared = plan.prepare(asked, options, stack)
        run, opened = partial(job.merge_request, asked, output, options=options), tuple(prepared.plan.checkpoints)
        read = prepared.read * (1 + prepared.measures)
        sizes = (read, prepared.workers, prepared.memory, prepared.choice.name, prepared.plan.notes)
        return Work(run, opened, *sizes, prepared.written, recipe=None if prepared.measures else asked.recipe)
    if request.job == "scan":
        measures = plan.choose(request.methods or None, None)
        prepared = plan.prepare(request.ref, measures, options, stack)
        run = partial(job.scan, request.ref, methods=[m.name for m in measures], options=options)
        return _of_plan(run, prepared, (prepared.checkpoint,), prepared.plan.nbytes, prepared)
    if request.job == "delta":
        prepared = plan.prepare(request.base, models, options, stack)
        run = partial(job.delta, request.base, models, output or None, options=options)
        return _of_plan(run, prepared, (prepared.base, *prepared.models), prepared.plan.nbytes, None)
    if request.job == "compare":
        methods = plan.choose(request.methods or (plan.ALWAYS,))
        prepared = plan.prepare(*models, methods, options, stack)
        run = partial(job.compare, *models, methods=methods, options=options)
        return _of_plan(run, prepared, (prepared.a, prepared.b), prepared.nbytes, prepared.sides)
    plan.require_sklearn()
    prepared = plan.prepare(request.ref, options, stack)
    run = partial(job.embeddings, request.ref, options=options)
    read, (rows, cols) = prepared.embedding.tensor.file_bytes, prepared.embedding.tensor.shape
    looks = 60 * prepared.sampled + rows  # for each k, at most: 3 fits to the sample by 20 iterations, one look at all
    flops = cols * looks * (options.max_k * (options.max_k + 1) - 2)  # 2 rows cols k a look, for every k from 2 on
    flops += 2 * cols * min(rows, 5_000) ** 2  # distances for silhouettes
    planned = (prepared.workers, prepared.memory, "cpu", prepared.notes)
    return Work(run, (prepared.checkpoint,), read, *planned, 0, flops, cols)


def _of_plan(run: Any, prepared: Any, opened: tuple[Checkpoint, ...], read: int, scanned: Any) -> Work:
    """`scanned` has the loads and measures of a scan, where there is one."""
    measures = scanned.measures if scanned is not None else ()
    heavy = tuple(m.name for m in measures if "spectrum" in m.needs)
    parts = [load.subject.part for load in scanned.loads] if scanned is not None else []
    shapes: list[Any] = [part.stored_shape for part in parts] if heavy else []
    encoded = 0
    if _FORMATS in {m.name for m in measures}:
        sides = [part.matrix_shape for part in parts if min(part.matrix_shape) > 1]
        encoded = sum(cols * sample_size(rows, cols, exact=False) for rows, cols in sides)
    flops, side = round(sum(map(spectral_effort, shapes))), min(max(shapes, key=spectral_effort, default=(0,)))
    sizes = (read, prepared.plan.workers, prepared.plan.memory, prepared.plan.device, prepared.notes, 0, flops, side)
    light = tuple(m.name for m in measures if m.name not in (*heavy, _FORMATS))
    return Work(run, opened, *sizes, light, heavy, encoded)


def _of_headers(request: Request, stack: ExitStack) -> Work:
    """`info` and `structure` have no plan; structure reads all weights with `deep`."""
    from netweight.jobs.info.job import info
    from netweight.jobs.structure.job import structure, workers_within

    opened = stack.enter_context(open_whole(request.ref, download=False))
    asked = request.settings.get("workers") or os.cpu_count() or 1
    workers = workers_within(asked, request.settings.get("memory")) if request.deep else 1
    describe: Any = partial(structure, request.ref, deep=request.deep, remote=True, workers=workers)
    run = partial(info, request.ref) if request.job == "info" else describe
    read = sum(tensor.file_bytes for tensor in opened.values()) if request.deep else 0
    return Work(run, (opened,), read, workers, workers << 26)  # 64 MiB: a large header, or blocks of data
