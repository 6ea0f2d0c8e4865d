"""The parameters of two models side by side, or of a base and its fine-tunes: what is paired, what is not and why, and
the share of each side that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.dtypes import Kind
from netweight.errors import InputError, OptionError, did_you_mean, printable
from netweight.params.matching import Match, match
from netweight.params.model import Model
from netweight.params.role import Parameter
from netweight.params.selection import dtype_reason, examples, nothing_matches, unwanted_reason
from netweight.params.tied import find_ties
from netweight.params.ties_of_several import notes_on_ties, rooted, with_heads

__all__ = ["Aligned", "Alignment", "Coverage", "Pair", "Pairing", "align", "pair_up"]


class Coverage(NamedTuple):
    """The share of each side's parameters that is compared, 0 to 1 by elements: of what is learned or gathered in
    training, tied weights as often as they are counted.
    """

    a: float
    b: float

    @property
    def complete(self) -> bool:
        """Whether nothing is left out on either side."""
        return self.a == self.b == 1.0

    def without(self, share: Coverage) -> Coverage:
        """What is left where this share could not be read."""
        return Coverage(self.a - share.a, self.b - share.b)


@dataclass(frozen=True)
class Pair:
    """One parameter that both models hold: `parameter` by A's name, `b` in A's layout under the name that `name_b`
    says, and why they cannot be compared ("" where they can). `repeats`: whether A's and B's tensor is one that an
    earlier pair has under another name, and counts there.
    """

    parameter: Parameter
    a: Tensor
    b: Tensor
    name_b: str
    reason: str = ""
    repeats: tuple[bool, bool] = (False, False)

    @property
    def name(self) -> str:
        """A's name for it."""
        return self.parameter.name


@dataclass(frozen=True)
class Pairing:
    """`pairs` in A's file order; the names on one side only, in file order, or of some of a tensor's matrices;
    `skipped`: names left out on purpose, with the reason; `left_out`: all that is not compared, A's before B's;
    `counted`: elements of each side's parameters; `notes`: findings worth a line.
    """

    pairs: tuple[Pair, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    left_out: tuple[Skipped, ...]
    counted: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def coverage(self) -> Coverage:
        """The share of each side that is compared."""
        return self.share_of(pair for pair in self.pairs if not pair.reason)

    def share_of(self, pairs: Iterable[Pair]) -> Coverage:
        """The share of each side that these pairs are."""
        held = [pair for pair in pairs if _is_learned(pair.parameter, pair.a)]
        sums = (sum(pair.a.size for pair in held if not pair.repeats[side]) for side in (0, 1))
        return Coverage(*(part / total if total else 1.0 for part, total in zip(sums, self.counted, strict=True)))


@dataclass(frozen=True)
class Aligned:
    """One parameter of the base, and the same one in each model (None where a model has none that can be used)."""

    name: str
    parameter: Parameter
    base: Tensor
    models: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Alignment:
    """`parameters` in the base's file order; for each model, `skipped` lists what is not measured, and why, and
    `coverage` says the shares of base and model that are; `notes` are findings.
    """

    parameters: tuple[Aligned, ...]
    skipped: tuple[tuple[Skipped, ...], ...]
    coverage: tuple[Coverage, ...]
    notes: tuple[str, ...] = ()


class Side(NamedTuple):
    """One of two models as messages call it: `label` within a sentence, `ref` where it is named."""

    model: Model
    label: str
    ref: str
    ties: Mapping[str, str]
    unwanted: Mapping[str, str]

    def again(self, seen: dict[str, str], names: Sequence[str], *, counts: bool) -> bool:
        """Whether tensors of these names are all among those `seen` under other names; seen from now on if `counts`."""
        held = {self.ties.get(name, name): name for name in names}
        repeated = all(seen.get(root, name) != name for root, name in held.items())
        if counts:
            for root, name in held.items():
                seen.setdefault(root, name)
        return repeated

    def counted(self) -> int:
        """Elements of all its parameters."""
        parameters = self.model.parameters
        return sum(
            tensor.size
            for name, tensor in self.model.tensors.items()
            if name not in self.ties and _is_learned(parameters[name], tensor)
        )


def _is_learned(parameter: Parameter, tensor: Tensor) -> bool:
    """Whether a tensor counts as a parameter. Long integers and truth values are counters, indices and masks; shorter
    integers may be quantised weights.
    """
    return parameter.state != "derived" and tensor.dtype.name not in {"I64", "U64", "BOOL"}


def _pair(a: Side, b: Side, found: Match) -> Pairing:
    """Every tensor of both sides in its place."""
    pairs: list[Pair] = []
    only: tuple[list[str], list[str]] = ([], [])
    skipped: list[Skipped] = []
    left_out: list[Skipped] = []
    seen: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def leave_out(name: str, reason: str, *, asked: bool = False, chosen: bool = True) -> None:
        left_out.append(Skipped(name, reason, asked=asked))
        if chosen:
            skipped.append(left_out[-1])

    def tied(ties: Mapping[str, str], name: str) -> None:
        leave_out(name, f"tied to {printable(ties[name])}: counted once")

    for name, tensor in a.model.tensors.items():
        own = found.sources.get(name)
        if name in a.unwanted:
            leave_out(name, a.unwanted[name], asked=True)
        elif name in a.ties and (own is None or _one_parameter(own, found.sources.get(a.ties[name]), b.ties)):
            tied(a.ties, name)
        elif own is None:
            why = found.unmade.get(name)
            leave_out(name, f"missing in {b.ref}{f': {why}' if why else ''}", chosen=False)
            only[0].append(name)
        else:
            other = found.tensors[name]
            reason = _unusable(tensor, other, a.label, b.label)
            more = f" and {len(own) - 1} more" if len(own) > 1 else ""
            repeats = a.again(seen[0], [name], counts=not reason), b.again(seen[1], own, counts=not reason)
            pairs.append(Pair(a.model.parameters[name], tensor, other, own[0] + more, reason, repeats))
            if reason:
                leave_out(name, reason, chosen=False)
    for name in b.model.tensors:
        if name not in found.left:
            continue
        if name in b.unwanted:
            leave_out(name, b.unwanted[name], asked=True)
        elif name in b.ties:
            tied(b.ties, name)
        else:
            for part in found.left[name]:
                leave_out(part, f"missing in {a.ref}", chosen=False)
                only[1].append(part)
    notes = (found.prefix_note((a.label, b.label)), found.layout_note(b.label))
    return Pairing(
        tuple(pairs),
        tuple(only[0]),
        tuple(only[1]),
        tuple(skipped),
        tuple(left_out),
        (a.counted(), b.counted()),
        tuple(note for note in notes if note),
    )


def _one_parameter(first: Sequence[str], second: Sequence[str] | None, ties: Mapping[str, str]) -> bool:
    """Whether two names of one checkpoint are one parameter there."""
    return second is not None and [ties.get(n, n) for n in first] == [ties.get(n, n) for n in second]


def _unusable(a: Tensor, b: Tensor, label_a: str, label_b: str) -> str:
    for label, dtype in ((label_a, a.dtype), (label_b, b.dtype)):
        if dtype.kind is not Kind.FLOAT:
            return f"{dtype_reason(dtype)} (in {label})"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} in {label_a}, {list(b.shape)} in {label_b}"
    return ""


def _unwanted(model: Model, include: Sequence[str], exclude: Sequence[str]) -> dict[str, str]:
    return {name: reason for name in model.tensors if (reason := unwanted_reason(name, include, exclude))}


def pair_up(
    a: Checkpoint,
    b: Checkpoint,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    count_tied_twice: bool = False,
    labels: tuple[str, str] = ("A", "B"),
) -> Pairing:
    """Pair the parameters of two models, none of them the base of the other, from headers alone; `include` and
    `exclude` are globs on the names, `labels` what reasons and notes call the two.

    Tied weights count once unless `count_tied_twice`. Notes tell of prefixes and layouts in which the models differ,
    and of depths. Raises InputError where they share no parameter, OptionError where the globs leave none.
    """
    first, second = with_heads((Model(a), Model(b)), everywhere=count_tied_twice)
    one, other = (
        Side(
            model,
            label,
            label,
            {} if count_tied_twice else find_ties(model.checkpoint, parameters=model.parameters).aliases,
            _unwanted(model, include, exclude),
        )
        for model, label in zip((first, second), labels, strict=True)
    )
    if (include or exclude) and len(a) and all(len(s.unwanted) == len(s.model.tensors) for s in (one, other)):
        raise OptionError(nothing_matches(a, include, exclude))
    found = match(first, second)
    if not found.tensors:
        raise InputError(_nothing_shared(a, b))
    pairing = _pair(one, other, found)
    notes = [
        _depths(first.parameters, second.parameters),
        *notes_on_ties([(side.model, side.ref) for side in (one, other)], twice=count_tied_twice),
    ]
    return replace(pairing, notes=(*pairing.notes, *(note for note in notes if note)))


def align(
    base: Checkpoint,
    models: Sequence[Checkpoint],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    count_tied_twice: bool = False,
    compare_tied: bool = False,
) -> Alignment:
    """Pair the parameters of `base` with those of each model, reading headers only.

    A tensor is usable where base and model hold it with one shape and float dtypes (which may differ). `include` and
    `exclude` are globs on the base's names, in exact case. Tied weights count once unless `count_tied_twice`;
    `compare_tied` also reads data to find heads that repeat the embedding (see `find_ties`).

    Raises InputError where a model shares no usable parameter with the base, OptionError where no name passes the
    globs.
    """
    anchor, *others = with_heads([Model(c) for c in (base, *models)], everywhere=count_tied_twice)
    unwanted = _unwanted(anchor, include, exclude)
    if base and len(unwanted) == len(anchor.tensors):
        raise OptionError(nothing_matches(base, include, exclude))
    found = [match(anchor, other) for other in others]

    def ties(model: Model) -> dict[str, str]:
        if count_tied_twice:
            return {}
        return find_ties(model.checkpoint, compare=compare_tied, parameters=model.parameters).aliases

    base_ties = rooted(ties(anchor), [matched.sources for matched in found])
    one = Side(anchor, "the base", f"base {printable(base.ref)}", base_ties, unwanted)
    columns: list[dict[str, Tensor]] = []
    pairings: list[Pairing] = []
    notes: list[str] = []
    for other, matched in zip(others, found, strict=True):
        ref = printable(other.checkpoint.ref)
        pairing = _pair(one, Side(other, "the model", ref, ties(other), {}), matched)
        column = {pair.name: pair.b for pair in pairing.pairs if not pair.reason}
        notes += [f"{ref}: {note}" for note in pairing.notes]
        if not column:
            raise InputError(_nothing_usable(base, other.checkpoint, pairing.left_out, matched.sources))
        wanted = len(anchor.tensors) - len(unwanted)
        tied = (entry.name for entry in pairing.skipped if entry.reason.startswith("tied to "))
        repeated = sum(name in anchor.tensors for name in tied)
        if 2 * len(column) < wanted - repeated:
            notes.append(
                f"{ref}: only {len(column)} of {wanted} parameters of {printable(base.ref)} could be compared; is that"
                " the model it was fine-tuned from?"
            )
        columns.append(column)
        pairings.append(pairing)
    notes += notes_on_ties([(anchor, one.ref)], twice=count_tied_twice)
    return Alignment(
        parameters=tuple(
            Aligned(name, anchor.parameters[name], tensor, tuple(column.get(name) for column in columns))
            for name, tensor in anchor.tensors.items()
            if any(name in column for column in columns)
        ),
        skipped=tuple(pairing.left_out for pairing in pairings),
        coverage=tuple(pairing.coverage for pairing in pairings),
        notes=tuple(notes),
    )


def _depths(a: Mapping[str, Parameter], b: Mapping[str, Parameter]) -> str | None:
    """The note where a list of blocks has another length on the other side."""
    counts = []
    for side in (a, b):
        layers: dict[str, set[int]] = {}
        for p in side.values():
            if p.layer is not None:
                layers.setdefault(p.stack, set()).add(p.layer)
        counts.append({stack: len(numbers) for stack, numbers in layers.items()})
    differing = [
        f"A has {counts[0][stack]} {printable(stack)} layers, B has {counts[1][stack]}".replace("  ", " ")
        for stack in counts[0]
        if stack in counts[1] and counts[0][stack] != counts[1][stack]
    ]
    return f"{'; '.join(differing)}: aligned by name, layer by layer from the first" if differing else None


def _nothing_usable(
    base: Checkpoint, model: Checkpoint, left_out: Sequence[Skipped], names: Mapping[str, object]
) -> str:
    who = f"{printable(model.ref)} and the base {printable(base.ref)}"
    advice = "give the model that it was fine-tuned from as --base"
    chosen = ("excluded by", "not matched by", "tied to")
    first = next((e for e in left_out if e.name in names and not e.reason.startswith(chosen)), None)
    if first is not None:
        return f"{who} share names but no usable parameter: '{printable(first.name)}': {first.reason}; {advice}"
    if names:
        return f"{who} share no parameter that --include and --exclude let through; widen the globs"
    return f"{who} share no parameter: {examples(base)} against {examples(model)}; {advice}"


def _nothing_shared(a: Checkpoint, b: Checkpoint) -> str:
    hint = did_you_mean(next(iter(a)), islice(b, 2000)) if len(a) else ""
    return (
        f"{printable(a.ref)} and {printable(b.ref)} share no parameter: {examples(a)} against {examples(b)}{hint};"
        " give two models of one family"
    )
