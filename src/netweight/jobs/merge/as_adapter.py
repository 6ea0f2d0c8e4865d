"""Adapters of one base merged to one adapter: their weighted sum from their factors, exact, or the best of a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.errors import InputError, OptionError, printable
from netweight.jobs.inputs import recorded
from netweight.jobs.merge.plan import Prepared, prepare
from netweight.jobs.merge.weights import Grams, Weighting, difference_targets, weigh, weights_of
from netweight.merging.recipe.tokens import BASE
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.checkpoint.tensor import Tensor
    from netweight.jobs.merge.request import Options, Request
    from netweight.merging.recipe.recipe import Recipe
    from netweight.merging.target import Target
    from netweight.output.peft_folder import LoraModule

__all__ = ["RECORD", "AdapterRequest", "MergedAdapter", "adapter_parts", "adapter_sums", "merge_as_adapter"]

RECORD = "netweight_adapter.json"

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class AdapterRequest:
    """`rank`: of every module at most, None for as much as the sum takes; `dtype`: of the factors."""

    rank: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raises OptionError for what cannot be."""
        if self.rank is not None and self.rank < 1:
            raise OptionError(f"--rank {self.rank}: expected 1 or more")
        if self.dtype not in _DTYPES:
            raise OptionError(f"--dtype {printable(self.dtype)}: expected one of {', '.join(_DTYPES)} for an adapter")


@dataclass(frozen=True)
class MergedAdapter:
    """`record` is what netweight_adapter.json in the folder `output` holds: the weights, and for each module its rank,
    the norm of the sum and the error that is left of it.
    """

    output: Path
    record: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def relative_error(self) -> float:
        """Of all modules together: the norm of what is left over that of the sum."""
        return float(self.record["relative_error"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {"output": str(self.output), **self.record}


@dataclass(frozen=True, eq=False)
class Sum:
    """One weight's update: `rows` x `cols` factors as stored, and the squares of the sum and of what is left of it."""

    left: Any
    right: Any
    square: float
    error: float


def merge_as_adapter(request: Request, output: str | Path, about: AdapterRequest, options: Options) -> MergedAdapter:
    """Write the merge of adapters of one base as a PEFT adapter into the folder `output`, which appears whole.

    Every update is the sum of the adapters' updates times their weights, by stacking their factors; with a `rank` less
    than that of the sum its leading singular directions, the best that there are. Errors are those of the factors as
    stored, in float64. Raises OptionError for methods that are no such sum, InputError where a model changes the base
    in another way than by factors.
    """
    from netweight.jobs.output_folder import output_folder

    recipe = request.recipe
    if request.stages:
        raise OptionError(f"{recipe.where()}: --as-adapter: merges one document, and the recipe has several")
    if recipe.tokenizer is not None and (recipe.tokenizer.source != BASE or recipe.tokenizer.rules):
        raise OptionError(
            f"{recipe.where('tokenizer')}: --as-adapter keeps the base's tokenizer; write base, or nothing"
        )
    if recipe.method != "task_arithmetic" or not recipe.models:
        of_parts = " of slices" if recipe.slices else " of modules" if recipe.modules else ""
        raise OptionError(
            f"--as-adapter: a merge by {printable(recipe.method)}{of_parts} is no sum of"
            " adapters; expected task_arithmetic, or merge to a model and then extract-lora"
        )
    if recipe.chat_template is not None:
        raise OptionError(
            f"{recipe.where('chat_template')}: an adapter has no chat template; leave it out with --as-adapter"
        )
    with ExitStack() as stack:
        prepared = prepare(request, options, stack)
        folder = output_folder(output, "adapter", prepared.locations(), "adapter", options)
        stack.enter_context(folder)
        weighting, recipe = _weighted(prepared)
        sums = adapter_sums(prepared, recipe, about)
        record = _write(folder.stage, prepared, weighting, recipe, sums, about, Path(output))
        for checkpoint in prepared.plan.checkpoints:
            checkpoint.check_unchanged()
        notes = (*prepared.plan.notes, *folder.commit())
        return MergedAdapter(Path(output), record, notes)


def adapter_sums(prepared: Prepared, recipe: Recipe, about: AdapterRequest) -> dict[str, Sum]:
    """{parameter: its update} by the weights of `recipe`, which are final."""
    from netweight.jobs.merge.targets import plan_merge
    from netweight.run.blas import blas_threads

    factors = weights_of(plan_merge(recipe, prepared.plan.checkpoints, prepared.options.planning).targets)
    with blas_threads(1):
        return {target.name: _sum(target, factors[target.name], about) for target in _changed(prepared)}


def _changed(prepared: Prepared) -> list[Target]:
    """The targets that some adapter changes. Raises InputError where one is changed in another way."""
    from netweight.passes.factored import has_factors, same_tensor

    if prepared.plan.dropped:
        first = prepared.plan.dropped[0]
        raise InputError(
            f"{printable(first.name)}: {first.reason}: an adapter of the base cannot hold it; merge to a model"
        )
    changed = []
    for target in difference_targets(prepared.plan.targets):
        base, *models = (_only(target, i) for i in range(len(target.inputs)))
        others = [tensor for tensor in models if not same_tensor(tensor, base)]
        if not others:
            continue
        if not all(has_factors(tensor, base) for tensor in others):
            raise InputError(
                f"{printable(target.name)}: is changed by more than factors ({printable(others[0].stored)}): an adapter"
                " cannot hold the sum; merge to a model and then extract-lora"
            )
        if len(target.shape) != 2:
            raise InputError(
                f"{printable(target.name)}: is of shape {list(target.shape)}: expected matrices alone; merge to a model"
            )
        changed.append(target)
    if not changed:
        raise InputError("--as-adapter: no model has an adapter; name adapters of the base, or BASE+ADAPTER")
    return changed


def _only(target: Target, number: int) -> Tensor:
    pieces = target.inputs[number].pieces
    if len(pieces) != 1 or pieces[0].count != target.size:
        raise InputError(f"{printable(target.name)}: has rows of several models: an adapter cannot hold the sum")
    return pieces[0].tensor


def _weighted(prepared: Prepared) -> tuple[Weighting | None, Recipe]:
    """The weights, by norms of the updates where they follow from these, and the recipe with them."""
    request, plan = prepared.request, prepared.plan
    if request.weights is None:
        return None, request.recipe
    if request.weights.delta is not None:
        raise OptionError("--from: weights of --as-adapter follow from the adapters' own norms; leave it out")
    weighting = weigh(request.weights, prepared.names(), plan.targets, _grams(prepared) if prepared.measures else None)
    return weighting, request.with_weights(weighting.weights)


def _grams(prepared: Prepared) -> Grams:
    """The inner products of the updates, from their factors."""
    from netweight.passes.factored import factors_of, same_tensor
    from netweight.statistics.factored import inner

    grams: Grams = {}
    for target in _changed(prepared):
        base, *models = (_only(target, i) for i in range(len(target.inputs)))
        held = [None if same_tensor(tensor, base) else factors_of(tensor, base) for tensor in models]
        gram = np.zeros((len(held), len(held)))
        for i, first in enumerate(held):
            for j, second in enumerate(held):
                if first is not None and second is not None:
                    gram[i, j] = sum(inner(a, b) for a, b in zip(first, second, strict=True))
        grams[target.name] = gram
    return grams


def _sum(target: Target, weights: Sequence[float], about: AdapterRequest) -> Sum:
    """The weighted sum of one weight's updates in the type that is stored."""
    from netweight.dtypes import DTYPES
    from netweight.merging.recipe.models import DTYPE_NAMES
    from netweight.passes.factored import factors_of, same_tensor
    from netweight.statistics.factored import Factors, inner, norm, truncated

    base, *models = (_only(target, i) for i in range(len(target.inputs)))
    every = []
    for tensor, weight in zip(models, weights, strict=True):
        if weight and not same_tensor(tensor, base):
            (own,) = factors_of(tensor, base) or ()
            every.append(Factors(weight * own.left, own.right))
    rows, cols = target.shape
    whole = Factors.joined(every) if every else Factors(np.zeros((rows, 1)), np.zeros((1, cols)))
    square = inner(whole, whole)
    if not np.isfinite(square):
        raise InputError(
            f"{printable(target.name)}: an adapter holds NaN or infinities there; `netweight scan` finds them"
        )
    limit = min(rows, cols, about.rank or whole.left.shape[1])
    kept = truncated(whole, limit) if whole.left.shape[1] > limit else whole
    kind = DTYPES[DTYPE_NAMES[about.dtype]].to_numpy()
    left, right = kept.left.astype(kind), kept.right.astype(kind)
    stored = Factors(-left.astype(np.float64), right.astype(np.float64))
    rest = Factors.joined([whole, stored])
    return Sum(left, right, square, norm(rest) ** 2)


def _write(
    stage: Path,
    prepared: Prepared,
    weighting: Weighting | None,
    recipe: Recipe,
    sums: Mapping[str, Sum],
    about: AdapterRequest,
    output: Path,
) -> dict[str, Any]:
    from netweight.jobs.merge.record import weighting_record
    from netweight.merging.recipe.recipe import write_recipe
    from netweight.output.peft_folder import adapter_tensors, write_adapter
    from netweight.output.table import write_json

    modules, config = adapter_parts(prepared, sums)
    write_adapter(stage, config, adapter_tensors(list(modules.values())))
    rows = {
        name: {
            "module": modules[name].name,
            "rank": int(made.left.shape[1]),
            "l2": sqrt(made.square),
            "relative_error": sqrt(made.error / made.square) if made.square else 0.0,
        }
        for name, made in sums.items()
    }
    total = sum(made.square for made in sums.values())
    record: dict[str, Any] = {
        "netweight": __version__,
        "schema": 1,
        "recipe": write_recipe(recipe),
        "rank": about.rank,
        "dtype": about.dtype,
        "inputs": [recorded(c, output) for c in prepared.plan.checkpoints],
        "weights": weighting_record(prepared, weighting),
        "relative_error": sqrt(sum(made.error for made in sums.values()) / total) if total else 0.0,
        "modules": rows,
        "notes": list(prepared.plan.notes),
    }
    write_json(stage / RECORD, record)
    return record


def adapter_parts(prepared: Prepared, sums: Mapping[str, Sum]) -> tuple[dict[str, LoraModule], dict[str, Any]]:
    """({parameter: its module as PEFT has it}, adapter_config.json)."""
    from netweight.jobs.extract_lora.adapter import shares_adapter
    from netweight.jobs.extract_lora.targets import find_targets
    from netweight.output.peft_folder import adapter_config
    from netweight.params.pairing import align

    base, *models = prepared.plan.checkpoints
    places = find_targets(base, models[0], align(base, models[:1]), keep_whole=False)
    layers = {target.name: target for target in places.targets}
    modules = {}
    for name, made in sums.items():
        place = layers.get(name)
        if place is None or place.layer is None:
            raise InputError(f"{printable(name)}: PEFT has no factors for it; merge to a model and then extract-lora")
        modules[name] = _module(place.module, place.layer, made)
    config = adapter_config(
        list(modules.values()),
        base=base.ref,
        revision=base.revision,
        fan_in_fan_out=places.conv1d,
        tied=places.tied in modules and shares_adapter(layers[places.tied]),
        others=places.modules,
    )
    return modules, config


def _module(name: str, layer: str, made: Sum) -> LoraModule:
    """The factors as PEFT has them: those of a weight stored [in, out], and of an embedding, are turned."""
    from netweight.output.peft_folder import LoraModule, StreamedTensor

    a, b = (made.right, made.left) if layer == "linear" else (made.left.T, made.right.T)
    down, up = (StreamedTensor.of(np.ascontiguousarray(side)) for side in (a, b))
    return LoraModule(name, down, up, float(made.left.shape[1]), layer == "embedding")
