"""The request of a merge: a recipe, or base, models and how their weights are computed; and how it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import OptionError, did_you_mean, printable
from netweight.jobs.run_options import MachineOptions
from netweight.merging.coefficients import GRANULARITIES, MODES

if TYPE_CHECKING:
    from netweight.jobs.merge.targets import PlanOptions
    from netweight.merging.recipe.recipe import Recipe

__all__ = ["Options", "Request", "Weights", "make_request"]

_PLAIN = "task_arithmetic"
_LARGEST = 3.4028234663852886e38  # float32's: sums of larger weights would leave float64


@dataclass(frozen=True)
class Options(MachineOptions):
    """How `merge` runs: MachineOptions; `max_shard_size` in bytes; `vocab`: what to do where vocabularies differ (None:
    refuse, "base", "union-rows"); `missing`: what to do where a model lacks a parameter ("error", "base");
    `allow_mismatch`: merge models of other families too; `overwrite`: replace an earlier merge; `sync`: bring all
    files to the disk before the result appears; `seed` of the random methods; `copy_tokenizer`: write the tokenizer's
    files (those that a recipe asks for are written anyway); `card`: write README.md; `stages`: the folder that keeps
    the models of a recipe's named documents (None: they are removed when the merge is done); `pictured`: also gather
    what a page draws of a sample of the task vectors, once the merge is done.
    """

    max_shard_size: int = 5_000_000_000
    vocab: str | None = None
    missing: str = "error"
    allow_mismatch: bool = False
    seed: int = 0
    overwrite: bool = False
    sync: bool = True
    copy_tokenizer: bool = True
    card: bool = True
    stages: Path | None = None
    pictured: bool = False

    def __post_init__(self) -> None:
        """Raises OptionError for a seed or a size that is no whole number, or too small."""
        if type(self.seed) is not int:
            raise OptionError(f"seed: expected a whole number, got {printable(repr(self.seed))}")
        if type(self.max_shard_size) is not int or self.max_shard_size < 1:
            got = printable(repr(self.max_shard_size))
            raise OptionError(f"max_shard_size: expected bytes, a whole number of at least 1, got {got}")

    @property
    def planning(self) -> PlanOptions:
        """What of them decides the plan."""
        from netweight.jobs.merge.targets import PlanOptions

        return PlanOptions(self.vocab, self.missing, self.seed, self.allow_mismatch)


@dataclass(frozen=True)
class Weights:
    """How the models' weights are computed. `explicit` gives them. Else `mode` makes them of the norms of the task
    vectors: `norms`, or those that the result of `netweight delta` in the folder `delta` holds, or, without either,
    measured first. `granularity`: one weight a model, or one for each layer or parameter of it.
    """

    mode: str = "exp"
    alpha: float = 1.5
    beta: float = 1.0
    granularity: str = "global"
    norms: tuple[float, ...] | None = None
    delta: Path | None = None
    explicit: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a setting that the mode has no use for."""
        for name, usual, mode in (("alpha", 1.5, "power"), ("beta", 1.0, "exp")):
            value = getattr(self, name)
            if value != usual and self.mode != mode:
                idle = f"--{name} {value:g}: has no effect with --mode {printable(self.mode)}"
                raise OptionError(f"{idle}; leave it out, or take --mode {mode}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        if self.explicit is not None:
            return {"mode": "explicit", "weights": list(self.explicit)}
        fields: dict[str, Any] = {"mode": self.mode, "granularity": self.granularity}
        fields |= {"power": {"alpha": self.alpha}, "exp": {"beta": self.beta}}.get(self.mode, {})
        norms = "given" if self.norms else f"from {self.delta}" if self.delta else "measured"
        return fields | {"norms_are": norms}


@dataclass(frozen=True)
class Request:
    """One merge. Either `recipe` is whole, or its weights are yet to be computed as `weights` says. `alone`: it is a
    conversion of one model. `like`: the model whose config and tokenizer the output gets, in the place of an input's.
    `stages`: recipes that are merged first, in this order, whose names stand for their models in what follows.
    """

    recipe: Recipe
    weights: Weights | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    like: str | None = None
    stages: tuple[Recipe, ...] = ()

    def with_weights(self, weights: Sequence[float] | Mapping[str, Sequence[float]]) -> Recipe:
        """The recipe with these weights: one a model, or by parameter one a model."""
        from netweight.merging.recipe.recipe import build_recipe

        r = self.recipe
        return build_recipe(
            r.method,
            r.base,
            [source.model for source in r.models],
            weights=weights,
            settings=self.settings,
            dtype=r.dtype,
            out_dtype=r.out_dtype,
        )


def make_request(
    recipe: str | Path | Recipe | None,
    *,
    base: str | None,
    models: Sequence[str],
    method: str | None,
    weights: Weights | None,
    settings: Mapping[str, Any],
    dtype: str | None,
) -> Request:
    """The request of these options; raises OptionError for options that do not go together."""
    from netweight.merging.method import Base
    from netweight.merging.recipe.chain import in_order
    from netweight.merging.recipe.recipe import Recipe, build_recipe, read_recipes
    from netweight.merging.registry import find

    if recipe is not None:
        others = {"--base": base, "--models": models, "--method": method, "--set": settings, "--dtype": dtype}
        doubled = [name for name, value in others.items() if value]
        doubled += ["--mode, --weights, --l2-norms and --from"] if weights is not None else []
        if doubled:
            origin = recipe.origin if isinstance(recipe, Recipe) else str(recipe)
            raise OptionError(
                f"{doubled[0]} and the recipe {printable(origin)}: the recipe says it already; leave one of the two out"
            )
        *stages, last = (recipe,) if isinstance(recipe, Recipe) else in_order(read_recipes(Path(recipe)))
        return Request(last, stages=tuple(stages))
    if not models:
        raise OptionError("a merge needs a recipe, or --base and --models; got neither")
    chosen = find(_PLAIN if method is None else method)
    if base is None and chosen.base is Base.REQUIRED:
        raise OptionError(f"--base: {chosen.name} needs the model that the others were fine-tuned from, got none")
    weighted = any(s.name == "weight" and s.per_model for s in chosen.settings)
    if not weighted or "weight" in settings:
        if weights is not None:
            why = "is given by --set weight" if "weight" in settings else f"is not a setting of {chosen.name}"
            raise OptionError(f"--mode, --weights, --l2-norms and --from: the weight {why}; leave the option out")
        built = build_recipe(chosen.name, base, list(models), settings=settings, dtype=_dtype(dtype))
        return Request(built)
    task_vectors = base is not None and chosen.base is not Base.UNUSED
    weights = weights or Weights("exp" if task_vectors else "equal")
    if weights.explicit is None and not task_vectors and (weights.mode, weights.granularity) != ("equal", "global"):
        why = f"{chosen.name} has none" if base is not None else "needs --base"
        raise OptionError(f"--mode {weights.mode} weighs task vectors, and {why}; give --weights or --mode equal")
    _check(weights, base, models)
    first = [1 / len(models)] * len(models) if weights.explicit is None else list(weights.explicit)
    built = build_recipe(chosen.name, base, list(models), weights=first, settings=settings, dtype=_dtype(dtype))
    return Request(built, weights, dict(settings))


def _check(weights: Weights, base: str | None, models: Sequence[str]) -> None:
    if weights.mode not in MODES:
        raise OptionError(f"--mode: expected one of {', '.join(MODES)}{_near(weights.mode, MODES)}")
    if weights.granularity not in GRANULARITIES:
        raise OptionError(
            f"--granularity: expected one of {', '.join(GRANULARITIES)}{_near(weights.granularity, GRANULARITIES)}"
        )
    for option, values, least in (("--l2-norms", weights.norms, 0.0), ("--weights", weights.explicit, -math.inf)):
        if values is not None and len(values) != len(models):
            raise OptionError(f"{option}: expected one for each of the {len(models)} models, got {len(values)}")
        for value in values or ():
            if not abs(value) <= _LARGEST or value < least:
                above = " of at least 0" if least == 0 else ""
                large = math.isfinite(value) and value >= least
                numbers = "numbers within the range of float32" if large else f"finite numbers{above}"
                raise OptionError(f"{option}: expected {numbers}, got {value!r}")
    if base in models:
        raise OptionError(f"--models: {printable(base or '')} is the base itself and has no task vector; leave it out")
    ways = [
        n for n, v in (("--weights", weights.explicit), ("--l2-norms", weights.norms), ("--from", weights.delta)) if v
    ]
    if len(ways) > 1:
        raise OptionError(f"{ways[0]} and {ways[1]}: weights come from one of them; leave the other out")
    if weights.norms is not None and weights.granularity != "global":
        raise OptionError(
            f"--l2-norms gives one norm a model; --granularity {weights.granularity} needs them measured: leave"
            " --l2-norms out, or give --from"
        )


def _near(word: str, known: Iterable[str]) -> str:
    return f", got '{printable(word)}'{did_you_mean(word, known)}"


def _dtype(name: str | None) -> Any:
    from netweight.merging.recipe.models import dtype_named

    return None if name is None else dtype_named(name, "--dtype")
