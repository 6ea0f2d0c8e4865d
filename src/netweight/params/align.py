"""The alignment of fine-tuned models with their base: parameters paired by name, all other tensors listed with a
reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.dtypes import DType, Kind
from netweight.errors import InputError, OptionError, did_you_mean, printable
from netweight.params.prefix import find_prefixes
from netweight.params.role import Parameter, classify_all
from netweight.params.tied import find_ties, tied

__all__ = ["Aligned", "Alignment", "align", "dtype_reason", "nothing_matches", "unwanted_reason"]


@dataclass(frozen=True)
class Aligned:
    """One parameter of the base, and the same one in each model (None where a model has none that can be used)."""

    name: str
    parameter: Parameter
    base: Tensor
    models: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Alignment:
    """`parameters` in the base's file order; `skipped` lists for each model what is not measured, and why; `notes`
    are findings.
    """

    parameters: tuple[Aligned, ...]
    skipped: tuple[tuple[Skipped, ...], ...]
    notes: tuple[str, ...] = ()


def align(
    base: Checkpoint,
    models: Sequence[Checkpoint],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    count_tied_twice: bool = False,
    compare_tied: bool = False,
) -> Alignment:
    """Pair the parameters of `base` with those of each model by name, reading headers only.

    A tensor is usable where base and model hold it with one shape and float dtypes (which may differ). `include` and
    `exclude` are globs on the base's names, in exact case. Tied weights count once unless `count_tied_twice`;
    `compare_tied` also reads data to find heads that repeat the embedding (see `tied`). Names that differ
    by a wrapper's prefix alone are matched without it.

    Raises InputError where a model shares no usable parameter with the base, OptionError where no name passes the
    globs.
    """
    parameters = classify_all({name: tensor.shape for name, tensor in base.items()})
    unwanted = {name: reason for name in base if (reason := unwanted_reason(name, include, exclude))}
    if base and len(unwanted) == len(base):
        raise OptionError(nothing_matches(base, include, exclude))
    matched = [_names(base, model) for model in models]
    base_ties = (
        {}
        if count_tied_twice
        else _rooted(
            find_ties(base, compare=compare_tied, parameters=parameters).aliases, [names for names, _ in matched]
        )
    )
    columns: list[dict[str, Tensor]] = []
    skipped: list[tuple[Skipped, ...]] = []
    notes: list[str] = []
    for model, (names, note) in zip(models, matched, strict=True):
        if note:
            notes.append(note)
        ties = {} if count_tied_twice else tied(model, compare=compare_tied)
        column, left_out = _pair(base, model, names, unwanted=unwanted, base_ties=base_ties, ties=ties)
        columns.append(column)
        skipped.append(left_out)
        wanted = len(base) - len(unwanted)
        if not column:
            raise InputError(_nothing_shared(base, model, left_out, names))
        repeated = sum(1 for entry in left_out if entry.reason.startswith("tied to ") and entry.name in base)
        if 2 * len(column) < wanted - repeated:
            notes.append(
                f"{printable(model.ref)}: only {len(column)} of {wanted} parameters of {printable(base.ref)} could be"
                f" compared; is that the model it was fine-tuned from?"
            )
    return Alignment(
        parameters=tuple(
            Aligned(name, parameters[name], tensor, tuple(column.get(name) for column in columns))
            for name, tensor in base.items()
            if any(name in column for column in columns)
        ),
        skipped=tuple(skipped),
        notes=tuple(notes),
    )


def _pair(
    base: Checkpoint,
    model: Checkpoint,
    names: Mapping[str, str],
    *,
    unwanted: Mapping[str, str],
    base_ties: Mapping[str, str],
    ties: Mapping[str, str],
) -> tuple[dict[str, Tensor], tuple[Skipped, ...]]:
    """({the base's name: the model's tensor}, what is left out); `names` maps names of the base to the model's."""
    column: dict[str, Tensor] = {}
    left_out: list[Skipped] = []
    for name, tensor in base.items():
        other = names.get(name)
        if name in unwanted:
            left_out.append(Skipped(name, unwanted[name]))
        elif name in base_ties and (other is None or _same(other, names.get(base_ties[name]), ties)):
            left_out.append(Skipped(name, f"tied to {printable(base_ties[name])}: counted once"))
        elif other is None:
            left_out.append(Skipped(name, f"missing in {printable(model.ref)}"))
        elif reason := _unusable(tensor, model[other]):
            left_out.append(Skipped(name, reason))
        else:
            column[name] = model[other]
    paired = set(names.values())
    for name in model:
        if name in paired:
            continue
        if name in ties:
            left_out.append(Skipped(name, f"tied to {printable(ties[name])}: counted once"))
        else:
            left_out.append(Skipped(name, f"missing in base {printable(base.ref)}"))
    return column, tuple(left_out)


def _rooted(ties: Mapping[str, str], matched: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """`ties` with each parameter kept under the name that most models have, so that all of them meet in one row."""
    members: dict[str, list[str]] = {}
    for alias, name in ties.items():
        members.setdefault(name, [name]).append(alias)
    rooted: dict[str, str] = {}
    for group in members.values():
        kept = max(group, key=lambda name: sum(name in names for names in matched))
        rooted |= {name: kept for name in group if name != kept}
    return rooted


def _same(first: str, second: str | None, ties: Mapping[str, str]) -> bool:
    """Whether two names of one checkpoint are one parameter there."""
    return second is not None and ties.get(first, first) == ties.get(second, second)


def _unusable(base: Tensor, model: Tensor) -> str | None:
    for side, dtype in (("base", base.dtype), ("model", model.dtype)):
        if dtype.kind is not Kind.FLOAT:
            return f"{dtype_reason(dtype)} (in the {side})"
    if base.shape != model.shape:
        return f"shape {list(base.shape)} in the base, {list(model.shape)} in the model"
    return None


def dtype_reason(dtype: DType) -> str:
    """Why a tensor of this type, which is no float type, is not measured."""
    match dtype.kind:
        case Kind.INTEGER | Kind.BOOLEAN:
            return f"{dtype.kind.value} dtype {dtype}: not a weight"
        case Kind.COMPLEX:
            return f"complex dtype {dtype}: not measured"
        case _:
            return f"packed dtype {dtype}: not measured"


def unwanted_reason(name: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
    """Why the globs leave a parameter out, None where they let it through."""
    for glob in exclude:
        if fnmatchcase(name, glob):
            return f"excluded by --exclude {printable(glob)}"
    if include and not any(fnmatchcase(name, glob) for glob in include):
        return "not matched by --include"
    return None


def _names(base: Checkpoint, model: Checkpoint) -> tuple[dict[str, str], str | None]:
    """{a name of the base: the model's name for it}, and a note where a prefix was ignored."""
    exact = {name: name for name in base if name in model}
    if 2 * len(exact) >= min(len(base), len(model)):
        return exact, None
    prefixes = find_prefixes(list(base), list(model))
    if prefixes is None or len(prefixes.pairs) <= len(exact):
        return exact, None
    sides = f"{_describe_prefix(prefixes.base)} in the base and {_describe_prefix(prefixes.model)} in the model"
    return prefixes.pairs, f"{printable(model.ref)}: names matched with {sides}"


def _describe_prefix(prefix: str) -> str:
    return f"the prefix '{printable(prefix)}' passed over" if prefix else "no prefix"


def _nothing_shared(base: Checkpoint, model: Checkpoint, left_out: Sequence[Skipped], names: Mapping[str, str]) -> str:
    who = f"{printable(model.ref)} and the base {printable(base.ref)}"
    advice = "give the model that it was fine-tuned from as --base"
    first = next((entry for entry in left_out if entry.name in names and not _chosen_away(entry)), None)
    if first is not None:
        return f"{who} share names but no usable parameter: '{printable(first.name)}': {first.reason}; {advice}"
    if names:
        return f"{who} share no parameter that --include and --exclude let through; widen the globs"
    return f"{who} share no parameter: {_examples(base)} against {_examples(model)}; {advice}"


def _chosen_away(entry: Skipped) -> bool:
    return entry.reason.startswith(("excluded by", "not matched by", "tied to"))


def _examples(checkpoint: Checkpoint) -> str:
    shown = [f"'{printable(name, 60)}'" for name in islice(checkpoint, 2)]
    return ", ".join(shown) if shown else "no tensors"


def nothing_matches(base: Checkpoint, include: Sequence[str], exclude: Sequence[str]) -> str:
    """The message where the globs leave nothing."""
    globs = " ".join([*(f"--include {printable(g)}" for g in include), *(f"--exclude {printable(g)}" for g in exclude)])
    hint = did_you_mean(include[0], islice(base, 2000)) if include else ""
    return f"no parameter of {printable(base.ref)} is left by {globs}{hint}; its names look like {_examples(base)}"
