"""Where every parameter of a merge comes from: whole models, or layers of models behind one another."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Tensor
from netweight.errors import InputError, OptionError, printable
from netweight.jobs.merge.sides import Side, Stacked, stack_of
from netweight.merging.method import Base, Method
from netweight.params.model import Model
from netweight.params.role import Parameter

if TYPE_CHECKING:
    from netweight.merging.recipe.recipe import Recipe, Source

__all__ = ["Group", "Origin", "make_groups", "origins_by_models", "origins_by_slices", "uses_base"]

Shape = tuple[int, ...]

_LEAVES = re.compile(r"(?:^|\.)(?:project_out|text_projection|visual_projection)(?:\.|$)")
"""Projections of what the blocks give."""

_ENTERS = re.compile(
    r"(?:^|\.)(?:layernorm_embedding|emb_norm|embedding_hidden_mapping_in|embeddings_project(?:ion)?|project_in|mask_emb"
    r"|tokens_embed|positions_embed|input_hidden_states_scale|input_hidden_states_bias)(?:\.|$)"
)
"""Norms of embeddings and projections of them, where no name of their modules says so."""


@dataclass(frozen=True)
class Group:
    """The sources of one slice, or of whole models (`number` None).

    `recipe` is the recipe that it stands in, or the part of one. `sources` are the method's models; `inputs` the
    numbers of the checkpoints in the order of the method's inputs, the base first where it is one. Input i gives
    `layers` layers from `starts[i]`.
    """

    recipe: Recipe
    number: int | None
    sources: tuple[Source, ...]
    inputs: tuple[int, ...]
    starts: tuple[int, ...]
    layers: int


@dataclass(frozen=True)
class Origin:
    """Where one parameter of the output comes from: `group` numbers the groups, `own` has the tensor of each of its
    inputs, None where one lacks it.

    `reference`: (checkpoint, its tensor) that says shape and type, and stands in where an input lacks the parameter.
    `allowed`: the shapes that the base has under this name, None where the reference is the base's own. `layer` is that
    of the output's main stack, `depth` where gradients are read, 0 to 1, and 0 outside of blocks. `parameter` is the
    reference's.
    """

    name: str
    group: int
    own: tuple[Tensor | None, ...]
    reference: tuple[int, Tensor]
    parameter: Parameter
    layer: int | None
    depth: float
    allowed: frozenset[Shape] | None = None


def uses_base(method: Method, recipe: Recipe) -> bool:
    """Whether input 0 of the method is the base. Raises OptionError where it must be and the recipe names none."""
    if method.base is Base.REQUIRED and recipe.base is None:
        raise OptionError(
            f"{recipe.where()}: method {method.name} needs a base model, got none: name the model that the others were"
            " fine-tuned from as base_model"
        )
    return method.base is not Base.UNUSED and recipe.base is not None


def make_groups(recipe: Recipe, method: Method, sides: Mapping[int, Side], numbers: Mapping[str, int]) -> list[Group]:
    """The groups of a recipe in order; `numbers` are those of its references.

    Raises OptionError for sources that the method cannot take, and for layers that a model does not have.
    """
    with_base = uses_base(method, recipe)
    if recipe.models:
        models = tuple(s for s in recipe.models if not (with_base and s.model == recipe.base))
        inputs = tuple(numbers[s.model] for s in models)
        if with_base and recipe.base is not None:
            inputs = (numbers[recipe.base], *inputs)
        _check_count(method, models, recipe.where("models"), with_base=with_base)
        return [Group(recipe, None, models, inputs, (0,) * len(inputs), sides[inputs[0]].layers)]
    groups = []
    for number, part in enumerate(recipe.slices):
        chosen = [(m, s) for m, s in enumerate(part.sources) if not (with_base and s.model == recipe.base)]
        models = tuple(s for _, s in chosen)
        if with_base:
            base = [(m, s) for m, s in enumerate(part.sources) if s.model == recipe.base]
            if not base:
                raise OptionError(
                    f"{recipe.where('slices', number, 'sources')}: method {method.name} needs layers of the base model"
                    f" {printable(recipe.base or '')} too, and the slice does not list it: add it with its layer_range"
                )
            chosen = [*base[:1], *chosen]
        _check_count(method, models, recipe.where("slices", number, "sources"), with_base=with_base)
        ranges = [
            _range(s, sides[numbers[s.model]], recipe.where("slices", number, "sources", m, "layer_range"))
            for m, s in chosen
        ]
        counts = [stop - start for start, stop in ranges]
        if len(set(counts)) > 1:
            listed = ", ".join(f"{printable(s.model)} {n}" for (_, s), n in zip(chosen, counts, strict=True))
            raise OptionError(
                f"{recipe.where('slices', number)}: its sources must give equally many layers, got {listed}; make the"
                " layer_ranges equally long"
            )
        inputs = tuple(numbers[s.model] for _, s in chosen)
        groups.append(Group(recipe, number, models, inputs, tuple(start for start, _ in ranges), counts[0]))
    return groups


def _check_count(method: Method, models: Sequence[Source], where: str, *, with_base: bool) -> None:
    least, most = method.models
    if len(models) >= least and (most is None or len(models) <= most):
        return
    expected = f"at least {least}" if most is None else f"{least}" if least == most else f"{least} to {most}"
    plural = "" if expected == "1" or expected == "at least 1" else "s"  # noqa: PLR1714 - reads better than a set
    beside = " besides the base model" if with_base else ""
    listed = f" ({', '.join(printable(s.model, 60) for s in models[:4])}{', ...' if len(models) > 4 else ''})"
    raise OptionError(
        f"{where}: method {method.name} takes {expected} model{plural}{beside}, got {len(models)}"
        f"{listed if models else ''}"
    )


def _range(source: Source, side: Side, where: str) -> tuple[int, int]:
    if not side.layers:
        raise InputError(
            f"{side.ref}: has no single stack of layers, so that no slices can be cut from it; use models instead"
        )
    start, stop = source.layers or (0, side.layers)
    if not 0 <= start < stop <= side.layers:
        raise OptionError(
            f"{where}: expected layers of {printable(source.model)} within [0, {side.layers}], as many as it has, got"
            f" [{start}, {stop}]"
        )
    return start, stop


def _depth(layer: int, layers: int) -> float:
    return min(1.0, layer / (layers - 1)) if layers > 1 else 1.0


def origins_by_models(group: Group, sides: Mapping[int, Side], anchor: Side) -> list[Origin]:
    """The origins of a merge of whole models: the anchor's parameters in file order, aliases left out."""
    counts: dict[str, int] = {"": anchor.layers}
    for p in anchor.parameters.values():
        if p.layer is not None and p.stack:
            counts[p.stack] = max(counts.get(p.stack, 0), p.layer + 1)
    inputs = [sides[number] for number in group.inputs]
    origins = []
    for name, p in anchor.parameters.items():
        if name in anchor.aliases:
            continue
        depth = 0.0 if p.layer is None else _depth(p.layer, counts[p.stack])
        own = tuple(side.tensors.get(name) for side in inputs)
        layer = p.layer if not p.stack else None
        origins.append(Origin(name, 0, own, (anchor.number, anchor.tensors[name]), p, layer, depth))
    return origins


def _before(model: Model, main: Stacked) -> set[str]:
    """The parameters outside of the blocks that stand before them: embeddings, towers, projectors, with all that
    stands in one module with them. All others stand behind: norms, poolers, heads, blocks for further tokens.
    """
    around = main.head.split(".")[:-1]
    modules: dict[tuple[str, ...], list[Parameter]] = {}
    for name, p in model.parameters.items():
        path = name.split(".")
        shared = next((i for i, (a, b) in enumerate(zip(path, around, strict=False)) if a != b), len(around))
        modules.setdefault(tuple(path[: min(shared + 1, len(path) - 1)]), []).append(p)
    return {p.name for members in modules.values() if any(map(_enters, members)) for p in members}


def _enters(parameter: Parameter) -> bool:
    """Whether a parameter makes what the blocks take: of tokens, images or sounds."""
    return (
        parameter.group == "embed"
        or bool(_ENTERS.search(parameter.name))
        or parameter.stack in {"vision", "audio"}
        or (parameter.slot == "projector" and not _LEAVES.search(parameter.name))
    )


def origins_by_slices(
    groups: Sequence[Group], sides: Mapping[int, Side], anchor: Side
) -> tuple[list[Origin], list[tuple[str, int]]]:
    """The origins of a merge of slices; what stands before the blocks comes from the first slice's sources, what stands
    behind them from the last one's.

    Returns the origins, and (name in the output, checkpoint) of parameters that all blocks of the anchor have, a
    slice's first input lacks, and no block of that number in the anchor can stand in for. What no block of the anchor
    has gets no origin.
    """
    main = stack_of(anchor.model)
    blocks, lacking = _block_origins(groups, sides, main, anchor)
    entering = _before(anchor.model, main)
    before: list[Origin] = []
    after: list[Origin] = []
    begun = False
    for name, p in anchor.parameters.items():
        further = None if p.layer is None or p.stack else p.layer - anchor.layers
        begun = begun or further is not None
        if name in anchor.aliases or (further is not None and further < 0):
            continue
        at = 0 if name in entering else len(groups) - 1
        group = groups[at]
        names = [name if further is None else _moved(name, main, sides[n].layers + further) for n in group.inputs]
        own = tuple(sides[n].tensors.get(held) for n, held in zip(group.inputs, names, strict=True))
        if further is not None and own[0] is None:
            continue  # the model that gives the last blocks predicts no further tokens
        first = own[0]
        reference = (anchor.number, anchor.tensors[name]) if first is None else (group.inputs[0], first)
        allowed = None if reference[0] == anchor.number else frozenset({anchor.checkpoint[name].shape})
        layer = None if further is None else sum(g.layers for g in groups) + further
        written = name if layer is None else _moved(name, main, layer)
        origin = Origin(written, at, own, reference, p, layer, 0.0, allowed)
        (after if begun else before).append(origin)
    return [*before, *blocks, *after], lacking


def _moved(name: str, main: Stacked, layer: int) -> str:
    """The name with the number of another layer."""
    return main.name(layer, name[len(main.head) + 1 :].partition(".")[2])


def _blocks(side: Side, main: Stacked, tails: Collection[str]) -> dict[int, dict[str, Tensor]]:
    """{layer: {the anchor's tail: the side's tensor}}, in the side's file order; in that of `tails` where the side has
    another layout.
    """
    order = {name: number for number, name in enumerate(side.parameters)}
    blocks = {}
    for layer in {p.layer for p in side.parameters.values() if p.layer is not None and not p.stack}:
        block = {tail: held for tail in tails if (held := side.tensors.get(main.name(layer, tail))) is not None}
        if not side.across:
            block = dict(sorted(block.items(), key=lambda item: order[item[1].name]))
        blocks[layer] = block
    return blocks


def _block_origins(
    groups: Sequence[Group], sides: Mapping[int, Side], main: Stacked, anchor: Side
) -> tuple[list[Origin], list[tuple[str, int]]]:
    shapes: dict[str, set[Shape]] = {}
    parameters: dict[str, Parameter] = {}
    for block in main.blocks.values():
        for tail, tensor in block.items():
            shapes.setdefault(tail, set()).add(tensor.shape)
            parameters.setdefault(tail, anchor.parameters[tensor.name])
    always = [tail for tail in shapes if all(tail in block for block in main.blocks.values())]
    allowed = {tail: frozenset(taken) for tail, taken in shapes.items()}
    stacks = {number: _blocks(side, main, shapes) for number, side in sides.items()}
    origins: list[Origin] = []
    lacking: list[tuple[str, int]] = []
    layer = 0
    for at, group in enumerate(groups):
        first = group.inputs[0]
        for step in range(group.layers):
            taken = [stacks[n].get(start + step) for n, start in zip(group.inputs, group.starts, strict=True)]
            for number, start, there in zip(group.inputs, group.starts, taken, strict=True):
                if there is None:
                    raise InputError(
                        f"{sides[number].ref}: has no layer {start + step}, though it has later ones; expected every"
                        " layer of a slice"
                    )
            lead = taken[0] or {}
            source = group.starts[0] + step
            for tail in [*lead, *(tail for tail in always if tail not in lead)]:
                name = main.name(layer, tail)
                own = tuple((block or {}).get(tail) for block in taken)
                if tail in lead:
                    reference = (first, lead[tail])
                elif tail in main.blocks.get(source, {}):
                    reference = (anchor.number, main.blocks[source][tail])
                else:
                    lacking.append((name, first))
                    continue
                parameter = replace(parameters[tail], name=reference[1].name, layer=source)
                permitted = None if reference[0] == anchor.number else allowed[tail]
                depth = _depth(step, group.layers)
                origins.append(Origin(name, at, own, reference, parameter, layer, depth, permitted))
            layer += 1
    return origins, lacking
