"""Which tensor of one model is which of another: by name, by canonical name, by the matrices that tensors hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from netweight.checkpoint.matrix import Part
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.computed import as_float
from netweight.dtypes import Kind
from netweight.errors import printable
from netweight.params.layouts.parts import assembled
from netweight.params.layouts.prefix import find_prefixes
from netweight.params.model import Model

__all__ = ["Match", "match"]

_FUSED = frozenset({"qkv", "kv_proj", "gate_up"})
_PARTS = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})


@dataclass
class Match:
    """The tensors of a model that are those of another, the anchor.

    `tensors`: {the anchor's name: the model's tensor, in the anchor's layout}; `sources`: {the anchor's name: the
    model's names that it is made of}; `across`: the anchor's names among them that have another layout there, or
    another name. `unmade`: {the anchor's name: why its parts do not make it up}. `left`: {the model's name: what of it
    no tensor of the anchor takes}, which is its name, or the canonical names of some of its matrices. `prefixes`: those
    passed over in the anchor's names and in the model's, None where none was.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    across: list[str] = field(default_factory=list)
    unmade: dict[str, str] = field(default_factory=dict)
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)
    prefixes: tuple[str, str] | None = None

    def prefix_note(self, labels: tuple[str, str]) -> str | None:
        """The note on prefixes; `labels` say what the anchor and the model are called."""
        if self.prefixes is None:
            return None
        how = [f"the prefix '{printable(prefix)}' passed over" if prefix else "no prefix" for prefix in self.prefixes]
        return f"names matched with {how[0]} in {labels[0]} and {how[1]} in {labels[1]}"

    def layout_note(self, label: str) -> str | None:
        """The note on what was paired across names and layouts; `label` says what the model is called."""
        if not self.across:
            return None
        first = self.across[0]
        sources = self.sources[first]
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        return (
            f"{len(self.across)} parameters have other names or another layout in {label}, and are paired:"
            f" '{printable(first)}' is '{printable(sources[0])}'{more} there"
        )


def match(anchor: Model, model: Model) -> Match:
    """Pair the tensors of `model` with those of `anchor`, from headers alone.

    Equal names are one tensor, then equal canonical names; where less than half of the smaller side has a pair by
    those, names may differ by a wrapper's prefix too. What is left is put together from the matrices that both sides
    hold under one canonical name: experts of a stack, projections of a fused one.
    """
    a, b = anchor.tensors, model.tensors
    names, strip, of_keys = _by_name(anchor, model)
    found = Match(
        tensors={name: b[own] for name, own in names.items()},
        sources={name: (own,) for name, own in names.items()},
        across=[n for n, own in names.items() if n.removeprefix(strip[0]) != own.removeprefix(strip[1])],
        prefixes=strip if any(strip) else None,
    )
    unequal = {name for name, own in names.items() if a[name].shape != b[own].shape}
    if unequal or (len(names) < len(a) and len(names) < len(b)):
        _Assembly(anchor, model, of_keys, found, unequal).run()
    taken = {own for sources in found.sources.values() for own in sources}
    found.left |= {own: (own,) for own in b if own not in taken}
    order = {name: number for number, name in enumerate(a)}
    found.across.sort(key=order.__getitem__)
    return found


def _by_name(anchor: Model, model: Model) -> tuple[dict[str, str], tuple[str, str], tuple[str, str]]:
    """{the anchor's name: the model's}, the prefixes that were passed over on both sides, and those of canonical names,
    which may be others.
    """
    a, b = anchor.tensors, model.tensors
    none = ("", "")
    exact = {name: name for name in a if name in b}
    if len(exact) == len(a) or len(exact) == len(b):
        return exact, none, none
    keys = anchor.canonical, model.canonical
    best = exact | _by_key(exact, *keys), none, none
    if 2 * len(exact) >= min(len(a), len(b)):
        return best
    plain = find_prefixes(list(a), list(b))
    if plain is not None and len(plain.pairs) > len(exact):
        of_keys = _prefixes_of(plain.pairs, keys)
        with_keys = _with_keys(plain.pairs, keys, of_keys)
        if len(plain.pairs) >= len(best[0]) or len(with_keys) > len(best[0]):
            best = with_keys, (plain.base, plain.model), of_keys
    if 2 * len(best[0]) < min(len(a), len(b)):
        by_key = [{key: name for name, key in side.items()} for side in keys]
        short = find_prefixes(list(by_key[0]), list(by_key[1]))
        if short is not None and len(short.pairs) > len(best[0]):
            pairs = {by_key[0][key]: by_key[1][other] for key, other in short.pairs.items()}
            strip = short.base, short.model
            best = _with_keys(pairs, keys, strip), strip, strip
    return best


def _prefixes_of(pairs: Mapping[str, str], keys: tuple[Mapping[str, str], Mapping[str, str]]) -> tuple[str, str]:
    """The prefixes in which canonical names of pairs differ."""
    found = find_prefixes([keys[0][name] for name in pairs], [keys[1][own] for own in pairs.values()])
    return (found.base, found.model) if found is not None else ("", "")


def _by_key(known: Mapping[str, str], left: Mapping[str, str], right: Mapping[str, str]) -> dict[str, str]:
    """{name on the left: name on the right} of what `known` has on neither side, where their keys are equal."""
    taken = set(known.values())
    by_key = {key: name for name, key in right.items() if name not in taken}
    return {name: by_key[key] for name, key in left.items() if name not in known and key in by_key}


def _with_keys(
    pairs: Mapping[str, str], keys: tuple[Mapping[str, str], Mapping[str, str]], prefixes: tuple[str, str]
) -> dict[str, str]:
    """`pairs`, and those whose canonical names without the prefixes are equal."""
    left, right = (
        {name: key.removeprefix(prefix) for name, key in side.items()}
        for side, prefix in zip(keys, prefixes, strict=True)
    )
    return dict(pairs) | _by_key(pairs, left, right)


def _host(name: str) -> str:
    """The module that a projection is a part of."""
    return name.rpartition(".")[0].rpartition(".")[0]


class _Assembly:
    """Puts together what no single tensor of the model is, of the matrices of those without a pair; adds to `found`."""

    def __init__(
        self, anchor: Model, model: Model, strip: tuple[str, str], found: Match, unequal: Collection[str]
    ) -> None:
        self._anchor, self._model = anchor, model
        self._strip = strip
        self._found = found
        self._unequal = unequal  # names paired so far with a tensor of another shape
        taken = {own for name, sources in found.sources.items() if name not in unequal for own in sources}
        self._held: dict[str, tuple[Tensor, Part]] = {}
        self._twice: set[str] = set()
        self._used: set[str] = set()
        for name, held in model.held.items():
            if held.name not in taken:
                key = name.removeprefix(strip[1])
                if key in self._held:
                    self._twice.add(key)
                self._held[key] = model.tensors[held.name], held.part

    def run(self) -> None:
        """Try every tensor of the anchor that has no pair, or one of another shape."""
        for name in self._anchor.tensors:
            if name not in self._found.tensors or (name in self._unequal and self._anchor.parts(name)):
                self._make(name)
        left: dict[str, list[str]] = {}
        for key, (tensor, _) in self._held.items():
            left.setdefault(tensor.name, []).append(key)
        for own, keys in left.items():
            unused = [key for key in keys if key not in self._used]
            if 0 < len(unused) < len(keys):
                self._found.left[own] = tuple(unused)
        self._explain_fused()

    def _explain_fused(self) -> None:
        """Say of what is missing where a fused tensor beside it cannot be taken apart."""
        paired = {own for sources in self._found.sources.values() for own in sources}
        uncut = [
            {
                (_host(side.canonical[name].removeprefix(prefix)), p.kind): name
                for name, p in side.parameters.items()
                if p.slot in _FUSED and name not in done and not side.parts(name)
            }
            for side, prefix, done in (
                (self._anchor, self._strip[0], self._found.tensors),
                (self._model, self._strip[1], paired),
            )
        ]
        for name, p in self._anchor.parameters.items():
            host = _host(self._anchor.canonical[name].removeprefix(self._strip[0])), p.kind
            if name in self._found.tensors or name in self._found.unmade:
                continue
            if p.slot in _PARTS and host in uncut[1]:
                fused = uncut[1][host]
                self._found.unmade[name] = f"it may be in '{printable(fused)}', and config.json does not say how"
            elif uncut[0].get(host) == name:
                self._found.unmade[name] = "config.json does not say how to take it apart"

    def _make(self, name: str) -> None:
        found, tensor = self._found, self._anchor.tensors[name]
        wanted = {part.name.removeprefix(self._strip[0]): part.part for part in self._anchor.named_parts(name)}
        if not any(key in self._held for key in wanted):
            return
        if reason := self._misfit(wanted, tensor):
            if name not in self._unequal:
                found.unmade[name] = reason
            return
        held = [self._held[key] for key in wanted]
        if len({source.dtype for source, _ in held}) > 1:
            wide = {id(source): as_float(source) for source, _ in held}
            held = [(wide[id(source)], part) for source, part in held]
        pieces = [(part, *there) for part, there in zip(wanted.values(), held, strict=True)]
        found.tensors[name] = assembled(name, tensor.shape, pieces)
        found.sources[name] = tuple(dict.fromkeys(source.name for source, _ in held))
        found.across.append(name)
        self._used.update(wanted)

    def _misfit(self, wanted: Mapping[str, Part], tensor: Tensor) -> str:
        """Why the parts do not make up the tensor; empty where they do."""
        lacking = [key for key in wanted if key not in self._held]
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            return f"its part '{printable(lacking[0])}'{more} is missing"
        if twice := [key for key in wanted if key in self._twice]:
            return f"its part '{printable(twice[0])}' is there twice"
        types = {self._held[key][0].dtype for key in wanted}
        mixed = len(types) > 1 and any(not 8 <= t.bits <= 32 for t in types)
        if mixed or any(t.kind is not Kind.FLOAT or t.bits % 8 for t in (*types, tensor.dtype)):
            return f"its parts are of the types {', '.join(sorted(t.name for t in types))}"
        for key, part in wanted.items():
            here, there = part.matrix_shape, self._held[key][1].matrix_shape
            if here != there:
                return f"its part '{printable(key)}' has shape {list(there)}, expected {list(here)}"
        return ""
