"""`merge --check`: what headers, configs and tokenizers say of a merge, before any weights are read or fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.vocabulary import read_vocabulary
from netweight.errors import NetweightError
from netweight.jobs.merge.chain import foresee
from netweight.jobs.merge.chat_template import choose_template
from netweight.jobs.merge.plan import Prepared
from netweight.jobs.merge.request import Options, Request
from netweight.merging.settings import WITHOUT_EFFECT

if TYPE_CHECKING:
    from netweight.jobs.merge.targets import MergePlan
    from netweight.merging.course import Value

__all__ = ["Preflight", "SettingFound", "check_merge"]


@dataclass(frozen=True)
class SettingFound:
    """What a setting comes to: `values` over the parameters and how many have each, most first; `model` None where it
    is the whole method's.
    """

    name: str
    model: str | None
    values: tuple[tuple[Value, int], ...]


@dataclass(frozen=True)
class Preflight:
    """One recipe: its plan, what its settings come to, how many tokens the output's tokenizer knows (None where there
    is none that can be read), and notes.
    """

    prepared: Prepared
    settings: tuple[SettingFound, ...]
    tokens: int | None
    notes: tuple[str, ...]

    @property
    def plan(self) -> MergePlan:
        """The plan; its checkpoints are closed."""
        return self.prepared.plan


def check_merge(request: Request, options: Options) -> tuple[list[Preflight], str]:
    """Plan every recipe of the request without reading weights, models of a hub by ranges of their files.

    Returns what was found, and why it ends before the last recipe ("" where it does not). Raises what a merge raises
    before it reads data.
    """
    weights = request.weights
    if weights is not None and weights.explicit is not None:
        request = Request(request.with_weights(weights.explicit))
    with ExitStack() as stack:
        plans, late = foresee(request, replace(options, remote=True), stack)
        return [_found(prepared) for prepared in plans], late


def _found(prepared: Prepared) -> Preflight:
    """Weights that follow from norms are not known yet: those of the plan only stand in for them."""
    plan, weights = prepared.plan, prepared.request.weights
    tokenizer = plan.like or plan.checkpoints[plan.tokenizer_from]
    template = choose_template(plan.recipe.chat_template, plan.checkpoints, tokenizer)
    notes = [*plan.notes, *template.notes]
    try:
        vocabulary = None if tokenizer.place is None else read_vocabulary(tokenizer.place)
    except NetweightError as problem:
        vocabulary = None
        notes.append(str(problem))
    tokens = None if vocabulary is None else len(vocabulary.ids)
    if tokens is not None and plan.tokens is not None:
        tokens += len(plan.tokens.added.numbers)
    found = list(_settings(plan))
    if weights is not None and (weights.mode, weights.granularity) != ("equal", "global"):
        found = [setting for setting in found if setting.name != "weight"]
        notes.insert(0, f"the weights follow from norms (mode {weights.mode}), which --dry-run shows")
    return Preflight(prepared, tuple(found), tokens, tuple(notes))


def _settings(plan: MergePlan) -> Iterator[SettingFound]:
    found: dict[tuple[str, str | None], Counter[Any]] = {}
    for target in plan.targets:
        subject = target.subject
        if subject is None:
            continue
        for name, value in subject.settings.items():
            found.setdefault((name, None), Counter())[value] += 1
        models = target.inputs[1:] if subject.base else target.inputs
        for source, settings in zip(models, subject.model_settings, strict=True):
            for name, value in settings.items():
                found.setdefault((name, plan.references[source.model]), Counter())[value] += 1
    for (name, model), values in found.items():
        if name not in WITHOUT_EFFECT:
            yield SettingFound(name, model, tuple(values.most_common()))
