"""Pairs the layers of a model with its base's: by number where no layer is gone, else by their contents."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind
from netweight.jobs.structure.model import Analysed
from netweight.params.role import classify

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Fingerprint", "LayerMatch", "LayerMatches", "fingerprints", "match_layers"]

_WINDOWS = 3
_WINDOW = 512  # elements
_TENSORS = 12  # of each layer
_MOST_LAYERS = 2048
_ALIKE = 0.5  # cosine of sampled values, the mean over the base's layers taken off
_AHEAD = 0.2  # by which the nearest layer must lead the second

LayerKey = tuple[str, int]


@dataclass(frozen=True)
class Fingerprint:
    """Sampled windows of one layer: `digest` over their bytes, names, shapes and dtypes, None where every sample is
    one value (nothing can be told by it); `samples` maps the name inside the layer to (dtype, shape, bytes).
    """

    digest: str | None
    samples: dict[str, tuple[str, tuple[int, ...], bytes]]


@dataclass(frozen=True)
class LayerMatch:
    """`how`: "name" (the same number), "content" (the sampled bytes are the same), "similar" (the nearest, at
    `similarity`), "position" (the only place left between two that are certain).
    """

    base: LayerKey
    how: str
    similarity: float | None = None


@dataclass(frozen=True)
class LayerMatches:
    """`matches` maps a model's layer to its base layer, None where there is none; `unknown` are those of the latter
    that may be one all the same. `gone` are the base's layers that no layer of the model is.
    """

    matches: dict[LayerKey, LayerMatch | None]
    gone: tuple[LayerKey, ...]
    unknown: tuple[LayerKey, ...] = ()
    notes: tuple[str, ...] = ()


def fingerprints(model: Analysed) -> dict[LayerKey, Fingerprint]:
    """A fingerprint of each layer that holds anything, by reading some 20 kB of each: of its matrices one by one, so
    that it is the same in every layout. Raises ReadError.
    """
    filled = {(block.stack, block.index) for block in model.structure.blocks if block.total}
    inside: dict[LayerKey, list[tuple[int, str, str]]] = {}
    for name, parameter in model.parameters.items():
        tensor, layer = model.model.tensors[name], parameter.layer
        if layer is None or parameter.kind != "weight" or (parameter.stack, layer) not in filled:
            continue
        if tensor.dtype.kind is not Kind.FLOAT or not tensor.size:
            continue
        inside.setdefault((parameter.stack, layer), []).extend(
            (classify(part.name).expert or 0, _tail(part.name, layer), part.name)
            for part in model.model.named_parts(name)
        )
    return {
        key: _fingerprint([(tail, model.model[name][0]) for _, tail, name in sorted(entries)[:_TENSORS]])
        for key, entries in inside.items()
    }


def _tail(name: str, layer: int) -> str:
    """The name behind the layer's number."""
    words = name.split(".")
    at = next((i + 1 for i, word in enumerate(words) if i and word.isdecimal() and int(word) == layer), 0)
    return ".".join(words[at:])


def _fingerprint(tensors: Sequence[tuple[str, Tensor]]) -> Fingerprint:
    digest = hashlib.sha256()
    samples = {}
    tells = False
    for tail, tensor in tensors:
        sample = bytearray()
        for window in range(_WINDOWS):
            count = min(_WINDOW, tensor.size)
            start = (tensor.size - count) * (2 * window + 1) // (2 * _WINDOWS)
            out = bytearray(count * tensor.dtype.bits // 8)
            tensor.read_into(start, memoryview(out))
            sample += out
        data = bytes(sample)
        width = tensor.dtype.bits // 8
        tells = tells or data != data[:width] * (len(data) // width)
        digest.update(f"{tail}\0{tensor.dtype}\0{tensor.shape}\0".encode(errors="surrogatepass"))
        digest.update(data)
        samples[tail] = (str(tensor.dtype), tensor.shape, data)
    return Fingerprint(digest.hexdigest() if tells else None, samples)


def match_layers(model: Analysed, base: Analysed, base_prints: Mapping[LayerKey, Fingerprint] | None) -> LayerMatches:
    """Align `model`'s layers with `base`'s.

    By number where both have the same layers. Else by `base_prints` (the base's `fingerprints`): the layer whose
    sampled bytes are the same and unique, then the nearest by values where it is clearly nearest, then what stands
    between two that are certain. Reads data only in the second case. Raises ReadError.
    """
    ours = [(block.stack, block.index) for block in model.structure.blocks if block.total]
    theirs = [(block.stack, block.index) for block in base.structure.blocks if block.total]
    if base_prints is None or set(ours) == set(theirs):
        known = set(theirs)
        by_name = {key: LayerMatch(key, "name") if key in known else None for key in ours}
        return LayerMatches(by_name, tuple(key for key in theirs if key not in set(ours)))
    if max(len(ours), len(theirs)) > _MOST_LAYERS:
        note = f"more than {_MOST_LAYERS} layers: which of the base's they are was not looked for"
        return LayerMatches(dict.fromkeys(ours), (), tuple(ours), (note,))
    matches: dict[LayerKey, LayerMatch | None] = dict.fromkeys(ours)
    prints = fingerprints(model)
    counts = Counter(p.digest for p in base_prints.values())
    by_digest = {p.digest: key for key, p in base_prints.items() if p.digest and counts[p.digest] == 1}
    for key in ours:
        mine = prints.get(key)
        if mine is not None and mine.digest in by_digest:
            matches[key] = LayerMatch(by_digest[mine.digest], "content", 1.0)
    telling = {key: p for key, p in base_prints.items() if p.digest is not None}
    unclear = {key: prints[key] for key in ours if matches[key] is None and key in prints and prints[key].digest}
    if unclear and telling:
        matches |= _match_by_values(unclear, telling)
    _fill_gaps(ours, theirs, matches)
    matched = {match.base for match in matches.values() if match is not None}
    gone = tuple(key for key in theirs if key not in matched)
    could_be = _possible_matches(ours, theirs, matches, gone)
    unknown = tuple(key for key in ours if could_be.get(key))
    if not unknown:
        return LayerMatches(matches, gone)
    note = (
        f"{len(unknown)} of {len(ours)} layers could not be told from their contents (all alike, or unlike any of"
        " the base): which of the base's layers they are, and which are gone, is not known for certain"
    )
    possible = set().union(*could_be.values())
    return LayerMatches(matches, tuple(key for key in gone if key not in possible), unknown, (note,))


def _possible_matches(
    ours: Sequence[LayerKey],
    theirs: Sequence[LayerKey],
    matches: Mapping[LayerKey, LayerMatch | None],
    free: Sequence[LayerKey],
) -> dict[LayerKey, set[LayerKey]]:
    """For each layer without a match those of `free` that it could be, as long as layers keep their order."""
    position = {key: i for i, key in enumerate(theirs)}
    stacks = {stack for stack, _ in theirs}
    possible: dict[LayerKey, set[LayerKey]] = {}
    for at, key in enumerate(ours):
        if matches[key] is None:
            before = [position[match.base] for neighbour in ours[:at] if (match := matches[neighbour]) is not None]
            after = [position[match.base] for neighbour in ours[at:] if (match := matches[neighbour]) is not None]
            first, last = max(before, default=-1), min(after, default=len(theirs))
            between = [candidate for candidate in free if first < position[candidate] < last]
            possible[key] = {candidate for candidate in between if candidate[0] == key[0] or key[0] not in stacks}
    return possible


def _match_by_values(
    mine: Mapping[LayerKey, Fingerprint], theirs: Mapping[LayerKey, Fingerprint]
) -> dict[LayerKey, LayerMatch | None]:
    """The base layer whose sampled values point the same way, where one leads clearly."""
    import numpy as np

    keys, base_keys = list(mine), list(theirs)
    total = np.zeros((len(keys), len(base_keys)))
    seen = np.zeros_like(total)
    forms: dict[tuple[str, tuple[int, ...]], None] = {}
    for fingerprint in mine.values():
        forms |= {(tail, shape): None for tail, (_, shape, _) in fingerprint.samples.items()}
    for tail, shape in forms:
        rows = [i for i, key in enumerate(keys) if _has(mine[key], tail, shape)]
        columns = [j for j, key in enumerate(base_keys) if _has(theirs[key], tail, shape)]
        if not columns:
            continue
        left = np.stack([_values(mine[keys[i]].samples[tail]) for i in rows])
        right = np.stack([_values(theirs[base_keys[j]].samples[tail]) for j in columns])
        middle = right.mean(axis=0) if len(columns) > 2 else 0.0
        at = np.ix_(rows, columns)
        # No matrix product: its threads would wait for each other longer than this takes.
        total[at] += np.einsum("ik,jk->ij", _unit(left - middle), _unit(right - middle))
        seen[at] += 1
    score = np.divide(total, seen, out=np.full_like(total, -1.0), where=seen > 0)
    matches: dict[LayerKey, LayerMatch | None] = {}
    for i, key in enumerate(keys):
        order = np.argsort(-score[i], kind="stable")
        best = float(score[i, order[0]])
        second = float(score[i, order[1]]) if len(order) > 1 else -1.0
        clear = best >= _ALIKE and best - second >= _AHEAD
        matches[key] = LayerMatch(base_keys[order[0]], "similar", round(best, 4)) if clear else None
    return matches


def _has(print_: Fingerprint, tail: str, shape: tuple[int, ...]) -> bool:
    return tail in print_.samples and print_.samples[tail][1] == shape


def _values(sample: tuple[str, tuple[int, ...], bytes]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Finite float64 values; where they are not finite, 0."""
    import numpy as np

    from netweight.dtypes import DTYPES

    dtype, _, data = sample
    with np.errstate(invalid="ignore"):
        values = np.frombuffer(data, DTYPES[dtype].to_numpy()).astype(np.float64)
    values[~np.isfinite(values)] = 0.0
    return values


def _unit(rows: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    import numpy as np

    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    unit: np.ndarray[Any, np.dtype[np.float64]] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit


def _fill_gaps(
    ours: Sequence[LayerKey], theirs: Sequence[LayerKey], matches: dict[LayerKey, LayerMatch | None]
) -> None:
    """Fill runs of unknown layers where exactly as many base layers lie between their two certain neighbours."""
    position = {key: i for i, key in enumerate(theirs)}
    at = 0
    while at < len(ours):
        if matches[ours[at]] is not None:
            at += 1
            continue
        end = at
        while end < len(ours) and matches[ours[end]] is None:
            end += 1
        before = matches[ours[at - 1]] if at else None
        after = matches[ours[end]] if end < len(ours) else None
        first = position[before.base] + 1 if before else 0
        last = position[after.base] if after else len(theirs)
        if (before or after) and last - first == end - at:
            for step in range(end - at):
                matches[ours[at + step]] = LayerMatch(theirs[first + step], "position")
        at = end
