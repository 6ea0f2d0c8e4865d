"""The parameters of two models side by side: by name, none of them the base of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.dtypes import Kind
from netweight.errors import InputError, OptionError, did_you_mean, printable
from netweight.params.align import dtype_reason, nothing_matches, unwanted_reason
from netweight.params.prefix import find_prefixes
from netweight.params.role import Parameter, classify_all
from netweight.params.tied import tied

__all__ = ["Pair", "Pairing", "pair_up"]


@dataclass(frozen=True)
class Pair:
    """One parameter that both models name: `parameter` by A's name, and why it cannot be compared ("" where it can)."""

    parameter: Parameter
    a: Tensor
    b: Tensor
    reason: str = ""

    @property
    def name(self) -> str:
        """A's name for it."""
        return self.parameter.name


@dataclass(frozen=True)
class Pairing:
    """`pairs` in A's file order; the names on one side only, in file order; `skipped`: names left out on purpose, with
    the reason; `notes`: findings worth a line.
    """

    pairs: tuple[Pair, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def pair_up(
    a: Checkpoint,
    b: Checkpoint,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    count_tied_twice: bool = False,
) -> Pairing:
    """Pair the parameters of two models by name, from headers alone; `include` and `exclude` are globs on the names.

    Tied weights count once unless `count_tied_twice`. Names that differ by a wrapper's prefix alone are matched without
    it. Notes tell of such a prefix, and of models that differ in depth. Raises InputError where they
    share no name, OptionError where the globs leave none.
    """
    one, other = (classify_all({name: tensor.shape for name, tensor in side.items()}) for side in (a, b))
    wanted = [name for name in a if unwanted_reason(name, include, exclude) is None]
    wanted_b = [name for name in b if unwanted_reason(name, include, exclude) is None]
    if (include or exclude) and len(a) and not wanted and not wanted_b:
        raise OptionError(nothing_matches(a, include, exclude))
    names, notes = _matched(a, b)
    if not names:
        raise InputError(_adapter(a, one) or _adapter(b, other) or _nothing_shared(a, b))
    ties_a, ties_b = ({} if count_tied_twice else tied(side) for side in (a, b))
    pairs: list[Pair] = []
    only_in_a: list[str] = []
    skipped: list[Skipped] = []
    for name, tensor in a.items():
        twin = names.get(name)
        reason = unwanted_reason(name, include, exclude)
        if reason is not None:
            skipped.append(Skipped(name, reason, asked=True))
        elif name in ties_a and (twin is None or _one_parameter(twin, names.get(ties_a[name]), ties_b)):
            skipped.append(Skipped(name, f"tied to {printable(ties_a[name])}: counted once"))
        elif twin is None:
            only_in_a.append(name)
        else:
            pairs.append(Pair(one[name], tensor, b[twin], _unusable(tensor, b[twin])))
    only_in_b: list[str] = []
    paired = set(names.values())
    for name in b:
        if name in paired:
            continue
        reason = unwanted_reason(name, include, exclude)
        if reason is not None:
            skipped.append(Skipped(name, reason, asked=True))
        elif name in ties_b:
            skipped.append(Skipped(name, f"tied to {printable(ties_b[name])}: counted once"))
        else:
            only_in_b.append(name)
    depths = _depths(one, other)
    return Pairing(
        tuple(pairs), tuple(only_in_a), tuple(only_in_b), tuple(skipped), (*notes, *([depths] if depths else []))
    )


def _matched(a: Checkpoint, b: Checkpoint) -> tuple[dict[str, str], list[str]]:
    """{A's name: B's name}, and a note where a prefix was ignored."""
    exact = {name: name for name in a if name in b}
    if 2 * len(exact) >= min(len(a), len(b)):
        return exact, []
    prefixes = find_prefixes(list(a), list(b))
    if prefixes is None or len(prefixes.pairs) <= len(exact):
        return exact, []
    sides = [
        f"the prefix '{printable(prefix)}' passed over in {label}" if prefix else f"no prefix in {label}"
        for prefix, label in ((prefixes.base, "A"), (prefixes.model, "B"))
    ]
    return prefixes.pairs, [f"names matched with {' and '.join(sides)}"]


def _one_parameter(first: str, second: str | None, ties: Mapping[str, str]) -> bool:
    return second is not None and ties.get(first, first) == ties.get(second, second)


def _unusable(a: Tensor, b: Tensor) -> str:
    for label, dtype in (("A", a.dtype), ("B", b.dtype)):
        if dtype.kind is not Kind.FLOAT:
            return f"{dtype_reason(dtype)} (in {label})"
    if a.shape != b.shape:
        return f"shape {list(a.shape)} in A, {list(b.shape)} in B"
    return ""


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


def _adapter(side: Checkpoint, parameters: Mapping[str, Parameter]) -> str | None:
    """What to say where a side holds nothing but an adapter's tensors."""
    if not parameters or any(p.kind != "adapter" for p in parameters.values()):
        return None
    return (
        f"{printable(side.ref)} is an adapter (LoRA or its kin), not a model: it holds {_examples(side)};"
        " merge it into its base, and give the result"
    )


def _nothing_shared(a: Checkpoint, b: Checkpoint) -> str:
    hint = did_you_mean(next(iter(a)), islice(b, 2000)) if len(a) else ""
    return (
        f"{printable(a.ref)} and {printable(b.ref)} share no parameter: {_examples(a)} against {_examples(b)}{hint};"
        " give two models of one family"
    )


def _examples(checkpoint: Checkpoint) -> str:
    shown = [f"'{printable(name, 60)}'" for name in islice(checkpoint, 2)]
    return ", ".join(shown) if shown else "no tensors"
