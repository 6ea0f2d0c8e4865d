"""The plan of a merge: every parameter of the output, and where in which files its inputs lie. Reads headers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xxhash

from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.errors import InputError, OptionError, did_you_mean, printable
from netweight.jobs.merge.components import parts_of
from netweight.jobs.merge.config import plan_config
from netweight.jobs.merge.drafts import Draft, Drafts
from netweight.jobs.merge.faults import Faults
from netweight.jobs.merge.kinship import check_kinship
from netweight.jobs.merge.leftovers import find_leftovers
from netweight.jobs.merge.numbering import Vocabularies, check_numbers
from netweight.jobs.merge.positions import check_tables, note_on_kinds
from netweight.jobs.merge.sides import Side, read_sides
from netweight.jobs.merge.slices import Group, Origin, make_groups, origins_by_models, origins_by_slices, uses_base
from netweight.jobs.merge.tokens import ByToken, rows_by_token
from netweight.jobs.merge.vocabulary import VOCAB
from netweight.merging.course import Subject, Value
from netweight.merging.method import Method
from netweight.merging.target import Target
from netweight.source.held import HeldBytes

if TYPE_CHECKING:
    from netweight.merging.recipe.recipe import Recipe

__all__ = ["MergePlan", "PlanOptions", "plan_merge"]

MISSING = ("error", "base")

Settings = tuple[dict[str, Value], tuple[dict[str, Value], ...]]
Resolve = Callable[..., Settings]
"""`merging.settings.resolve`."""


@dataclass(frozen=True)
class PlanOptions:
    """`vocab`: what to do where vocabularies differ: refuse (None), keep the base's rows ("base"), or those of the
    largest ("union-rows"). `missing`: refuse a model that lacks parameters of the base or has others ("error"), or take
    the base's values and leave out the others ("base"). `seed` of the random methods. `allow_mismatch`: merge models of
    other families.
    """

    vocab: str | None = None
    missing: str = "error"
    seed: int = 0
    allow_mismatch: bool = False


@dataclass(frozen=True)
class MergePlan:
    """What a merge will do. `references` are those of `checkpoints`, in the order that `Input.model` counts.

    `targets` are in the output's file order. `config` is the output's config.json, None where the input number
    `config_from` has none; `tokenizer_from` is the input whose tokenizer fits. `dropped` lists tensors of the inputs
    that the output does not have, with reasons; `notes` are findings. `like`: the model whose config and tokenizer the
    output gets, where that is no input. `tokens`: how rows of embeddings are paired, where not by number.
    """

    recipe: Recipe
    checkpoints: tuple[Checkpoint, ...]
    references: tuple[str, ...]
    targets: tuple[Target, ...]
    config: dict[str, Any] | None
    config_from: int
    tokenizer_from: int
    notes: tuple[str, ...]
    dropped: tuple[Skipped, ...]
    like: Checkpoint | None = None
    tokens: ByToken | None = None

    def outline(self, config: Mapping[str, Any] | None, ref: str = "the plan") -> Checkpoint:
        """The output as a checkpoint without data, with this config and the tokenizer of the input that has it."""
        nothing = HeldBytes(memoryview(b""), "the plan")
        tensors = {t.name: StoredTensor(t.name, t.shape, t.dtype, nothing, 0) for t in self.targets}
        own = None if config is None else dict(config)
        place = self.checkpoints[self.tokenizer_from].place
        return Checkpoint(ref, tensors, format="plan", files=(), config=own, place=place)


def plan_merge(recipe: Recipe, checkpoints: Sequence[Checkpoint], options: PlanOptions) -> MergePlan:
    """Plan the merge of `checkpoints`, which are open in the order of `recipe.references()`.

    The output has the parameters of the base, or of the first model where there is none or the method has no use for
    it: all of them, under their names, in their order. Float weights are merged; what the model's code computes, and
    tensors of other types, are copied from the base. Raises OptionError for a recipe that its method or the models
    cannot follow, InputError for models that do not fit each other.
    """
    from netweight.merging.registry import find
    from netweight.merging.settings import check_settings, idle_filters, resolve

    method = find(recipe.method)
    every = [recipe, *(part for _, part in recipe.modules)]
    said = (*recipe.notes, *(note for one in every for note in check_settings(method, one)))
    plan = plan_with(method, resolve, recipe, checkpoints, options)
    names = {t.name for t in plan.targets} | {
        piece.tensor.name for t in plan.targets for i in t.inputs for piece in i.pieces
    }
    idle = (note for one in every for note in idle_filters(one, names))
    plan = replace(plan, notes=(*said, *idle, *plan.notes))
    for target in plan.targets:
        if target.subject is not None:
            _begin_course(method, recipe, target.subject)
    return plan


def _begin_course(method: Method, recipe: Recipe, subject: Subject) -> None:
    """Begin the course: it raises OptionError for settings that do not go together."""
    try:
        course = method.course(subject)
        with suppress(StopIteration):
            next(course)
        course.close()
    except OptionError as error:
        raise OptionError(f"{recipe.where()}: {error}") from None


def plan_with(
    method: Method, resolve: Resolve, recipe: Recipe, checkpoints: Sequence[Checkpoint], options: PlanOptions
) -> MergePlan:
    """`plan_merge` with the method given, and the function that resolves its settings."""
    _check(options)
    references = recipe.references()
    numbers = {reference: number for number, reference in enumerate(references)}
    used = dict.fromkeys(numbers[source.model] for _, part in recipe.parts() for _, source in part.sources())
    anchor_number = 0 if uses_base(method, recipe) else next(iter(used))
    used = {anchor_number: None} | used
    sliced = any(part.slices for _, part in recipe.parts())
    sides, notes = read_sides({number: checkpoints[number] for number in used}, anchor_number, by_layers=sliced)
    anchor = sides[anchor_number]
    notes += check_kinship(sides, anchor, allow_mismatch=options.allow_mismatch)
    faults = Faults()
    lenient = options.missing == "base"
    groups, origins, more = _origins(recipe, method, sides, anchor, numbers, faults, lenient=lenient)
    notes += more
    dropped, leftover_notes = find_leftovers(origins, groups, sides, anchor, faults, keep_going=lenient)
    notes += leftover_notes
    vocabularies = Vocabularies(checkpoints)
    tokens: ByToken | None = None
    if recipe.tokenizer is not None:
        tokens, token_notes = rows_by_token(recipe, recipe.tokenizer, checkpoints, sides, vocabularies)
        notes += token_notes
    drafts = Drafts(sides, anchor, groups, faults, vocab=options.vocab, stand_in=lenient, tokens=tokens)
    drafted = [drafts.draft(origin) for origin in origins]
    faults.report(sides, anchor)
    if not any(draft.merged for draft in drafted):
        raise InputError(f"{anchor.ref}: holds no float weights, so there is nothing to merge")
    base = uses_base(method, recipe)
    targets = tuple(
        _target(draft, groups[draft.origin.group], method, resolve, base=base, seed=options.seed) for draft in drafted
    )
    owner = tokens.owner if tokens is not None else None
    cut = [group for group in groups if group.number is not None]
    config, tokenizer_from, config_notes = plan_config(checkpoints, sides, anchor, cut, targets, vocabularies, owner)
    notes += [*drafts.notes(), *config_notes]
    if tokens is None:
        notes += check_numbers(
            targets, sides, anchor, tokenizer_from, vocabularies, allow_mismatch=options.allow_mismatch
        )
    return MergePlan(
        recipe,
        tuple(checkpoints),
        references,
        targets,
        config,
        0,
        tokenizer_from,
        tuple(notes),
        tuple(dropped),
        tokens=tokens,
    )


def _check(options: PlanOptions) -> None:
    for option, value, known in (("--vocab", options.vocab, VOCAB), ("--missing", options.missing, MISSING)):
        if value is not None and value not in known:
            raise OptionError(
                f"{option}: expected {' or '.join(known)}, got '{printable(value)}'{did_you_mean(value, known)}"
            )


def _origins(
    recipe: Recipe,
    method: Method,
    sides: Mapping[int, Side],
    anchor: Side,
    numbers: Mapping[str, int],
    faults: Faults,
    *,
    lenient: bool,
) -> tuple[list[Group], list[Origin], list[str]]:
    """The groups of all parts of the recipe, the origin of every parameter, and notes."""
    groups: list[Group] = []
    origins: list[Origin] = []
    belongs, notes = parts_of(recipe, anchor)
    for name, part in recipe.parts():
        own = make_groups(part, method, sides, numbers)
        found, more = (
            _by_slices(own, sides, anchor, faults, lenient=lenient)
            if part.slices
            else (origins_by_models(own[0], sides, anchor), [])
        )
        notes += more
        origins += [replace(o, group=o.group + len(groups)) for o in found if belongs(o.name) == name]
        groups += own
    if recipe.modules and all(group.number is None for group in groups):
        order = {name: at for at, name in enumerate(anchor.parameters)}
        origins.sort(key=lambda origin: order[origin.name])
    return groups, origins, notes


def _by_slices(
    groups: Sequence[Group], sides: Mapping[int, Side], anchor: Side, faults: Faults, *, lenient: bool
) -> tuple[list[Origin], list[str]]:
    """The origins of slices, and notes."""
    check_tables(groups, sides, anchor)
    origins, lacking = origins_by_slices(groups, sides, anchor)
    if lenient:
        faults.layers += [
            f"'{printable(name)}' is missing in the layer of {sides[number].ref} that it would come from, and"
            f" {anchor.ref} has no layer of that number to stand in"
            for name, number in lacking
        ]
    else:
        faults.missing += lacking
    return origins, note_on_kinds(origins, anchor)


def _target(draft: Draft, group: Group, method: Method, resolve: Resolve, *, base: bool, seed: int) -> Target:
    origin, recipe = draft.origin, group.recipe
    first = draft.inputs[0].pieces[0].tensor.dtype
    if not draft.merged:
        return Target(origin.name, draft.shape, first, draft.inputs, None, None, origin.layer)
    dtype = recipe.out_dtype or recipe.dtype or draft.inputs[0].pieces[0].tensor.written
    wide = any(p.tensor.dtype.name == "F64" for i in draft.inputs for p in i.pieces) or dtype.name == "F64"
    count = len(group.sources)
    settings, model_settings = resolve(
        method,
        recipe,
        slice_number=group.number,
        sources=group.sources,
        name=origin.name,
        depth=origin.depth,
        names=None
        if group.number is None
        else [own.name if own else origin.name for own in origin.own[len(origin.own) - count :]],
    )
    keys = tuple(_key(seed, at, origin.name) for at in range(count))
    subject = Subject(origin.name, draft.shape, count, base, settings, model_settings, keys, 64 if wide else 32)
    return Target(origin.name, draft.shape, dtype, draft.inputs, method.name, subject, origin.layer)


def _key(seed: int, model: int, name: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}\0{model}\0{name}".encode("utf-8", "surrogatepass"))
