"""Weights from task vectors: by their Gram matrices, measured or from a `delta` result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import OptionError, printable
from netweight.jobs.inputs import identity
from netweight.jobs.journalled import Record
from netweight.jobs.merge.request import Weights
from netweight.kernels.arrays import F64Array
from netweight.merging.coefficients import by_granularity, coefficients, cosines, merged_norm, norms_of
from netweight.merging.course import Course, Measured
from netweight.merging.grams import GramLook
from netweight.merging.target import Target
from netweight.params.role import classify, classify_all
from netweight.passes.factored import factors_of, same_tensor
from netweight.passes.merges import run_courses
from netweight.run.progress import Progress, shown
from netweight.run.spread import DeviceKernels
from netweight.statistics.factored import inner

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels
    from netweight.run.execute import Executor

__all__ = ["Weighting", "described", "difference_targets", "measure_grams", "read_grams", "weigh", "weights_of"]

Grams: TypeAlias = dict[str, F64Array]
"""By parameter: float64 [models, models], the inner products of the task vectors."""


@dataclass(frozen=True)
class Weighting:
    """The weights and their reasons. `weights`: a number for each model, or by parameter; `by_group`: by layer, where
    that is the granularity; `norms` and `cosines` of the whole task vectors and `merged_norm` of their weighted sum,
    None where they were not measured; a cosine is None where a task vector is zero.
    """

    weights: tuple[float, ...] | dict[str, tuple[float, ...]]
    by_group: dict[str, tuple[float, ...]] | None = None
    norms: tuple[float, ...] | None = None
    cosines: tuple[tuple[float | None, ...], ...] | None = None
    merged_norm: float | None = None


def difference_targets(targets: Iterable[Target]) -> list[Target]:
    """Those whose inputs are a base and models that differ from it."""
    return [t for t in targets if t.subject is not None and t.subject.base]


def _weighed(targets: Iterable[Target]) -> list[Target]:
    """The difference targets whose norms count: running statistics are merged, and are no weights."""
    return [t for t in difference_targets(targets) if classify(t.name, t.shape).state == "learned"]


def _gram_course() -> Course:
    gram = yield GramLook(differences=True)
    return Measured(gram)


def measure_grams(
    targets: Sequence[Target],
    executor: Executor,
    kernels: MergeKernels | DeviceKernels[MergeKernels],
    progress: Progress,
    record: Record,
) -> Grams:
    """The Gram matrices of the targets that are learned: from the factors of adapters, else by reading base and models
    once. What `record` has is not measured again.
    """
    measured = _weighed(targets)
    known = {t.name: record.done.get(f"gram {t.name}") for t in measured}
    grams: Grams = {name: np.asarray(entry["gram"], np.float64) for name, entry in known.items() if entry is not None}
    rest = [t for t in measured if t.name not in grams]
    sizes = {t.name: sum(i.nbytes for i in t.inputs) for t in measured}
    with shown(progress, len(measured), sum(sizes.values()), len(grams), sum(sizes[name] for name in grams)):
        for name, gram in _measured(rest, executor, kernels, progress):
            grams[name] = gram
            record.append(f"gram {name}", {"gram": gram.tolist()})
    return {t.name: grams[t.name] for t in measured}


def _measured(
    targets: Sequence[Target],
    executor: Executor,
    kernels: MergeKernels | DeviceKernels[MergeKernels],
    progress: Progress,
) -> Iterator[tuple[str, F64Array]]:
    dense = []
    for target in targets:
        gram = _of_factors(target)
        if gram is None:
            dense.append(target)
        else:
            progress.advance(1, sum(i.nbytes for i in target.inputs))
            yield target.name, gram
    for finished in run_courses(dense, _course_of, executor, kernels, None, progress) if dense else ():
        yield finished.target.name, finished.value


def _course_of(_: Target) -> Course:
    return _gram_course()


def _of_factors(target: Target) -> F64Array | None:
    """The Gram matrix of models that are the base's tensor, or that with products added; None for others."""
    base, *models = (i.pieces[0].tensor for i in target.inputs)
    if any(len(i.pieces) != 1 or i.pieces[0].count != i.pieces[0].tensor.size for i in target.inputs):
        return None
    held = [() if same_tensor(tensor, base) else factors_of(tensor, base) for tensor in models]
    if None in held:
        return None
    known = [factors or () for factors in held]
    # strict=False: a model that is the base has no factors, and its products are 0
    return np.asarray(
        [[sum(inner(x, y) for x, y in zip(a, b, strict=False)) for b in known] for a in known], np.float64
    )


def read_grams(folder: Path, checkpoints: Sequence[Checkpoint], targets: Sequence[Target]) -> Grams:
    """The Gram matrices in the result of `netweight delta` in `folder`, which must be of these files: base, then models
    in any order, recognised by path, sizes and headers.

    Raises OptionError where the folder holds no such result, or one of other files or parameters.
    """
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    path = folder / "delta.parquet"
    again = "give the folder of `netweight delta` with this base and these models, or leave --from out"
    try:
        table = pq.read_table(path, columns=["model", "param", "gram"])
        inputs = json.loads(table.schema.metadata[b"netweight.inputs"])
    except (OSError, ArrowException, KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"--from {printable(str(folder))}: no result of delta can be read there: {error}; {again}"
        ) from None
    of_result = [_files(entry) for entry in inputs]
    of_checkpoints = [_files(identity(c)) for c in checkpoints]
    if not of_result or of_result[0] != of_checkpoints[0]:
        raise OptionError(f"--from {printable(str(folder))}: its base is not {printable(checkpoints[0].ref)}; {again}")
    order = []
    for checkpoint, files in zip(checkpoints[1:], of_checkpoints[1:], strict=True):
        if files not in of_result[1:]:
            raise OptionError(f"--from {printable(str(folder))}: {printable(checkpoint.ref)} was not measured; {again}")
        order.append(of_result[1:].index(files))
    names = table.column("model").unique().to_pylist()
    rows: dict[str, dict[int, Sequence[float]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["param"], {})[names.index(row["model"])] = row["gram"]
    grams: Grams = {}
    for target in _weighed(targets):
        by_model = rows.get(target.name, {})
        if any(i not in by_model for i in order):
            raise OptionError(
                f"--from {printable(str(folder))}: it holds no norm of '{printable(target.name)}'; leave --from out"
            )
        grams[target.name] = np.asarray([[by_model[i][j] for j in order] for i in order], np.float64)
    return grams


def _files(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Fine-tunes of one base have equal headers: only the path tells them apart."""
    return (entry["path"], *((f["name"], f["size"], f["header_digest"]) for f in entry["files"]))


def weigh(request: Weights, names: Sequence[str], targets: Sequence[Target], grams: Grams | None) -> Weighting:
    """The weights that `request` asks for; `names` are the models', for messages; `grams` where they are known.

    Raises OptionError for norms that a mode cannot use.
    """
    if request.explicit is not None:
        return _described(tuple(request.explicit), None, grams)
    mode, alpha, beta = request.mode, request.alpha, request.beta
    if request.norms is not None:
        weights = coefficients(mode, request.norms, alpha=alpha, beta=beta, names=names)
        return replace(
            _described(weights, None, grams), norms=tuple(request.norms)
        )  # those that the weights follow from
    if grams is None:
        return Weighting(coefficients("equal", [1.0] * len(names), alpha=alpha, beta=beta, names=names))
    for name, square in zip(names, np.diagonal(np.sum(list(grams.values()), axis=0)), strict=True):
        if not np.isfinite(square):
            raise OptionError(
                f"{printable(name)}: its task vector has no finite norm, so it or the base holds NaN or infinities;"
                " `netweight scan` finds them; leave the model out, or give --weights"
            )
    groups = _groups(targets)
    nothing = np.zeros((len(names), len(names)))
    every = {t.name: grams.get(t.name, nothing) for t in difference_targets(targets)}
    by_parameter = by_granularity(request.granularity, groups, every, mode=mode, alpha=alpha, beta=beta, names=names)
    if request.granularity == "global":
        return _described(next(iter(by_parameter.values())), None, grams)
    by_group = (
        {groups[name]: weights for name, weights in by_parameter.items()} if request.granularity == "layer" else None
    )
    return _described(by_parameter, by_group, grams)


def _groups(targets: Sequence[Target]) -> dict[str, str]:
    """{parameter: its layer's label, or its group outside of the layers}."""
    parameters = classify_all({t.name: t.shape for t in targets})
    return {name: p.layer_group or p.group for name, p in parameters.items()}


def _described(
    weights: tuple[float, ...] | dict[str, tuple[float, ...]],
    by_group: dict[str, tuple[float, ...]] | None,
    grams: Grams | None,
) -> Weighting:
    if not grams:
        return Weighting(weights, by_group)
    total = np.sum(list(grams.values()), axis=0)
    by_parameter = weights if isinstance(weights, dict) else dict.fromkeys(grams, weights)
    square = sum(merged_norm(gram, by_parameter[name]) ** 2 for name, gram in grams.items())
    angles = tuple(tuple(None if c != c else float(c) for c in row) for row in cosines(total))  # noqa: PLR0124 - NaN
    return Weighting(weights, by_group, norms_of(total), angles, float(square) ** 0.5)


def weights_of(targets: Sequence[Target]) -> dict[str, tuple[float, ...]]:
    """By parameter, the factors of the task vectors in their sum: weight, over the sum of weights where the
    method divides by it, times lambda. Methods without weights have none.
    """
    factors = {}
    for target in difference_targets(targets):
        subject = target.subject
        if subject is None or any("weight" not in settings for settings in subject.model_settings):
            continue
        weights = [float(settings["weight"]) for settings in subject.model_settings]
        scale = float(subject.settings.get("lambda", 1.0))
        if subject.settings.get("normalize") and sum(weights):
            scale /= sum(weights)
        factors[target.name] = tuple(scale * w for w in weights)
    return factors


def described(targets: Sequence[Target], grams: Grams) -> Weighting:
    """Norms, cosines and the norm of the sum for a recipe that has its weights; no such norm where it has none."""
    factors = weights_of(targets)
    used = {name: gram for name, gram in grams.items() if name in factors}
    return _described(factors, None, used) if used else replace(_described((), None, grams), merged_norm=None)
