"""Two sketches set against each other: tests of independence, block by block, and how far what they share is apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, sqrt

import numpy as np

from netweight.jobs.lineage.sketch import Sketch
from netweight.kernels.arrays import F32Array, F64Array
from netweight.params.units import Units
from netweight.passes.corners import Corner
from netweight.statistics.kinship.alignment import Columns, columns_without_order
from netweight.statistics.kinship.independence import UnitTest, cosines, fisher, permutations_for, unit_test

__all__ = [
    "BlockTest",
    "Evidence",
    "Shared",
    "blocks_of",
    "columns_between",
    "common_rows",
    "evidence_of",
    "layer_scores",
    "shared",
]

_TOKENS = 16  # rows of an embedding that must be shared, for its columns to say something
_RESIDUAL = "residual"
_DETECTED = 8.0
"""A correlation of weights is found in 99% at p = 1e-6 where it is this over the root of units times numbers behind a
cosine: by simulation, of 1 to 33 blocks with 64 to 384 numbers; a single normal test would need 7.1.
"""

_MOST_UNITS = 128
_MANY, _FEW_UNITS = 3, 48
_UNITS_OF_A_LAYER = 32  # where every layer is held against every other


@dataclass(frozen=True)
class BlockTest:
    """The exact test of one block of units: `label`, that in the other model where it is another, and what it found."""

    label: str
    test: UnitTest
    other: str = ""

    @property
    def shown(self) -> str:
        """Both labels."""
        return f"{self.label} = {self.other}" if self.other else self.label


@dataclass(frozen=True)
class Evidence:
    """What tests say of two models. `log10_p`: of the exact test over all `blocks` (Fisher); `detectable`: the
    correlation of weights that such a test would have found, at 1e-6 and with 99%; inf where nothing could be tested.
    `columns`: partners of the embedding's columns whatever their order, None where it was not asked or cannot be.
    """

    blocks: Sequence[BlockTest]
    log10_p: float
    detectable: float
    seed: int
    columns: Columns | None = None

    def turned(self) -> Evidence:
        """The same of the two models in the other order; `columns` stay those of the second among the first's."""
        blocks = [replace(one, label=one.other, other=one.label) if one.other else one for one in self.blocks]
        return replace(self, blocks=blocks)

    @property
    def units(self) -> int:
        """Over all blocks."""
        return sum(block.test.units for block in self.blocks)

    @property
    def permutations(self) -> int:
        """That were drawn, of all blocks."""
        return sum(block.test.permutations for block in self.blocks)


def blocks_of(a: Sketch, b: Sketch) -> Iterator[tuple[Units, Units]]:
    """The blocks of hidden units that both have, by label and as many."""
    for label, units in a.units.items():
        other = b.units.get(label)
        if other is not None and other.count == units.count:
            yield units, other


def parts_of(sketch: Sketch, units: Units) -> dict[str, F32Array]:
    """What a sketch holds of a block's units: {part: (units, inputs or outputs)}."""
    found = {slot: sketch.tensors[key].values for slot, key in units.rows.items() if key in sketch.tensors}
    for slot, key in units.cols.items():
        if key in sketch.tensors:
            found[slot] = sketch.tensors[key].values.T
    return found


def similarity(
    one: Mapping[str, F32Array], two: Mapping[str, F32Array], most: int = _MOST_UNITS
) -> tuple[F64Array | None, float]:
    """(the mean over common parts of the cosines of units of one block with those of another, the width of a matrix
    whose cosines alone would spread as much).

    As many units as all parts have; None without a common part, or with fewer than four units.
    """
    common = [slot for slot in one if slot in two and _mostly_finite(one[slot]) and _mostly_finite(two[slot])]
    units = min((min(len(one[slot]), len(two[slot])) for slot in common), default=0)
    units = min(units, most)
    if units < 4:
        return None, 0.0
    total: F64Array = np.zeros((units, units))
    spread = 0.0
    for slot in common:
        columns = min(one[slot].shape[1], two[slot].shape[1])
        spread += 1 / columns
        total += cosines(one[slot][:units, :columns], two[slot][:units, :columns])
    return total / len(common), len(common) ** 2 / spread


def _mostly_finite(rows: F32Array) -> bool:
    return bool(np.isfinite(rows).mean() > 0.99)


def common_rows(a: Corner, b: Corner) -> tuple[F32Array, F32Array]:
    """The rows that both hold, by their numbers."""
    if a.rows == b.rows:
        return a.values, b.values
    at = {number: row for row, number in enumerate(b.numbers)}
    both = [(row, at[number]) for row, number in enumerate(a.numbers) if number in at]
    first, second = ([pair[side] for pair in both] for side in (0, 1))
    return a.values[first], b.values[second]


def seed_of(a: Sketch, b: Sketch) -> int:
    """The seed of the permutations of a pair: of what was read, so that anyone can repeat the test."""
    return int.from_bytes(hashlib.sha256(f"{a.digest} {b.digest}".encode()).digest()[:6], "big")


def evidence_of(
    a: Sketch, b: Sketch, *, blocks: Sequence[tuple[Units, Units]] | None = None, tried: int = 1
) -> Evidence:
    """The exact test over all blocks that both have: hidden units of the same number, and dimensions of the residual
    stream by what the embedding has of them.

    `blocks`: which block of `a` is held against which of `b`, where that is not those of one label. Where each is the
    best of several that were `tried`, its p counts so many times.
    """
    seed = seed_of(a, b)
    rng = np.random.default_rng(seed)
    held: list[tuple[tuple[str, str], F64Array, float]] = []
    for one, two in blocks_of(a, b) if blocks is None else blocks:
        found, width = similarity(parts_of(a, one), parts_of(b, two))
        if found is not None:
            held.append(((one.label, "" if one.label == two.label else two.label), found, width))
    tokens = _embeddings(a, b)
    if tokens is not None and tokens[0].shape[1] == tokens[1].shape[1]:
        dimensions = min(_MOST_UNITS, tokens[0].shape[1])
        found = cosines(tokens[0][:, :dimensions].T, tokens[1][:, :dimensions].T)
        held.append(((_RESIDUAL, ""), found, len(tokens[0])))
    if len(held) < _MANY:  # a few tests need many permutations each, which fewer units make cheap
        held = [(labels, found[:_FEW_UNITS, :_FEW_UNITS], width) for labels, found, width in held]
    tests = [
        BlockTest(label, unit_test(found, permutations_for(len(held)), rng), other) for (label, other), found, _ in held
    ]
    strength = sqrt(sum(len(found) * width for _, found, width in held))
    ps = [min(1.0, one.test.p * (1 if one.label == _RESIDUAL else tried)) for one in tests]
    return Evidence(tests, fisher(ps), _DETECTED / strength if strength else inf, seed)


def columns_between(a: Sketch, b: Sketch) -> Columns | None:
    """Partners of the columns of the embedding in any order; None where they have too few tokens in common."""
    tokens = _embeddings(a, b)
    return None if tokens is None else columns_without_order(*tokens)


def tokens_alike(a: Sketch, b: Sketch) -> float:
    """The correlation of the cosines of tokens with each other in two models, which no order, sign or rotation of the
    dimensions changes; 0 where they have too few tokens in common.
    """
    tokens = _embeddings(a, b)
    if tokens is None:
        return 0.0
    upper = np.triu_indices(len(tokens[0]), 1)
    centred = [held - held.mean(axis=0) for held in tokens]
    with np.errstate(invalid="ignore"):
        first, second = (cosines(held, held)[upper] for held in centred)
        found = float(np.corrcoef(first, second)[0, 1])
    return found if np.isfinite(found) else 0.0


def _embeddings(a: Sketch, b: Sketch) -> tuple[F32Array, F32Array] | None:
    one, two = a.embedding(), b.embedding()
    if one is None or two is None:
        return None
    rows = common_rows(one, two)
    fine = _mostly_finite(rows[0]) and _mostly_finite(rows[1])
    return rows if len(rows[0]) >= _TOKENS and fine else None


def layer_scores(a: Sketch, b: Sketch, stack: str = "") -> tuple[list[int], list[int], F64Array]:
    """(layers of a, layers of b, z of every layer of a with every one of b): how alike units of the same number are,
    in standard deviations over permutations. Of MLPs without experts, or of the first expert.
    """
    sides = []
    for sketch in (a, b):
        of_layer: dict[int, Units] = {}
        for units in sketch.units.values():
            if units.layer is not None and units.stack == stack and not units.expert:
                of_layer.setdefault(units.layer, units)
        sides.append({layer: parts_of(sketch, of_layer[layer]) for layer in sorted(of_layer)})
    scores = np.zeros((len(sides[0]), len(sides[1])))
    for i, one in enumerate(sides[0].values()):
        for j, two in enumerate(sides[1].values()):
            found, _ = similarity(one, two, _UNITS_OF_A_LAYER)
            if found is not None:
                scores[i, j] = z_of(found)
    return list(sides[0]), list(sides[1]), scores


def z_of(similarity: F64Array) -> float:
    """The diagonal's sum in standard deviations over permutations."""
    n = len(similarity)
    centred = similarity - similarity.mean(axis=0) - similarity.mean(axis=1)[:, None] + similarity.mean()
    deviation = sqrt(float((centred**2).sum()) / (n - 1))
    return (float(np.trace(similarity)) - float(similarity.sum()) / n) / deviation if deviation > 0 else 0.0


@dataclass(frozen=True)
class Shared:
    """What two sketches hold of the same tensors, of one shape or one a beginning of the other: `pairs` by a's key.

    Figures are over all common elements: `equal` their share with one value, `drift` |b - a| / |a|, `cosine`, and
    `digests` the share of tensors whose rows that were read are the same bytes; `finite`: elements that are numbers;
    `apart`: the root mean square of b - a; `squares`: by key the sums of (b - a)^2 and of a^2; `changed`: the keys
    of tensors with a value that differs.
    """

    pairs: Mapping[str, tuple[F32Array, F32Array]] = field(repr=False)
    elements: int
    equal: float
    drift: float
    cosine: float
    digests: float
    same_shape: float
    finite: float
    apart: float
    squares: Mapping[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    changed: frozenset[str] = frozenset()

    def turned(self) -> Shared:
        """The same of the two models in the other order."""
        swapped = figures_of({key: (y, x) for key, (x, y) in self.pairs.items()})
        return replace(swapped, digests=self.digests, same_shape=self.same_shape)


def shared(a: Sketch, b: Sketch, names: Mapping[str, str] | None = None) -> Shared:
    """Set what `a` holds against what `b` holds under the same key, or under `names[key]`."""
    pairs: dict[str, tuple[F32Array, F32Array]] = {}
    same_digest = same_shape = 0
    keys = names if names is not None else {key: key for key in a.tensors if key in b.tensors}
    for key, other in keys.items():
        one, two = a.tensors[key], b.tensors[other]
        if len(one.shape) != len(two.shape):
            continue
        x, y = common_rows(one, two)
        columns = min(x.shape[1], y.shape[1])
        pairs[key] = (x[:, :columns], y[:, :columns])
        same_digest += one.digest == two.digest and one.shape == two.shape
        same_shape += one.shape == two.shape
    return figures_of(pairs, same_digest, same_shape)


def figures_of(pairs: Mapping[str, tuple[F32Array, F32Array]], same_digest: int = 0, same_shape: int = 0) -> Shared:
    """The figures over pairs of arrays of one shape; elements that are not finite in both are left out of distances."""
    elements = equal = finite = 0
    of_a = of_b = dot = apart = 0.0
    squares = {}
    changed: list[str] = []
    for key, (x, y) in pairs.items():
        fine = np.isfinite(x) & np.isfinite(y)
        same = (x == y) if fine.all() else (x == y) | (np.isnan(x) & np.isnan(y))
        elements += x.size
        alike = int(same.sum())
        equal += alike
        changed += [key] if alike < x.size else []
        finite += int(fine.sum())
        u, v = ((held if fine.all() else np.where(fine, held, 0)).astype(np.float64) for held in (x, y))
        u, v = u.ravel(), v.ravel()
        own, between = float(u @ u), float(np.square(v - u).sum())
        squares[key] = between, own
        of_a += own
        of_b += float(v @ v)
        dot += float(u @ v)
        apart += between
    count = max(len(pairs), 1)
    return Shared(
        pairs,
        elements,
        equal / elements if elements else 0.0,
        sqrt(apart / of_a) if of_a > 0 else (inf if apart > 0 else 0.0),
        dot / sqrt(of_a * of_b) if of_a > 0 and of_b > 0 else 0.0,
        same_digest / count,
        same_shape / count,
        finite / elements if elements else 0.0,
        sqrt(apart / finite) if finite else inf,
        squares,
        frozenset(changed),
    )
