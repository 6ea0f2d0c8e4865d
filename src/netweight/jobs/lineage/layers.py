"""Which layers of one model are which layers of another: left out, repeated, or in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from netweight.jobs.lineage.compared import layer_scores
from netweight.jobs.lineage.sketch import Sketch
from netweight.kernels.arrays import F64Array
from netweight.params.units import Units

__all__ = ["LayerMap", "layer_map"]

_CERTAIN = 8.0  # standard deviations: 1e-15, also where thousands of pairs of layers are looked at
_AS_GOOD = 0.98  # of the best score: copies of one layer


@dataclass(frozen=True)
class LayerMap:
    """`of[j]`: the layer of a that b's layer j is, None where there is none; `scores` in standard deviations;
    `back[i]`: the layer of b that a's layer i is.
    """

    stack: str
    layers_a: Sequence[int]
    layers_b: Sequence[int]
    of: Sequence[int | None]
    scores: Sequence[float]
    back: Sequence[int | None] = ()

    @property
    def certain(self) -> bool:
        """Whether at least half of b's layers, or of a's, were found."""
        found = sum(layer is not None for layer in self.of)
        return found > 0 and 2 * found >= min(len(self.layers_a), len(self.layers_b))

    @property
    def identity(self) -> bool:
        """Whether every layer is in its own place and none is missing."""
        same = all(layer == own for layer, own in zip(self.of, self.layers_b, strict=True))
        return same and len(self.layers_a) == len(self.layers_b)

    @property
    def repeated(self) -> list[int]:
        """Layers of a that b has more than once."""
        return sorted({layer for layer in self.of if layer is not None and list(self.of).count(layer) > 1})

    @property
    def doubled(self) -> list[int]:
        """Layers of b that a has more than once."""
        return sorted({layer for layer in self.back if layer is not None and list(self.back).count(layer) > 1})

    @property
    def removed(self) -> list[int]:
        """Layers of a that b does not have, in no copy."""
        found = {own for own, layer in zip(self.layers_a, self.back, strict=True) if layer is not None}
        return [layer for layer in self.layers_a if layer not in self.of and layer not in found]

    @property
    def added(self) -> list[int]:
        """Layers of b that are none of a's."""
        return [own for own, layer in zip(self.layers_b, self.of, strict=True) if layer is None]

    @property
    def in_order(self) -> bool:
        """Whether the layers that were found follow each other as in a."""
        held = [layer for layer in self.of if layer is not None]
        return all(x < y for x, y in pairwise(held))

    def turned(self) -> LayerMap:
        """The map from b to a."""
        scores = dict(reversed(list(zip(self.of, self.scores, strict=True))))
        return replace(
            self,
            layers_a=self.layers_b,
            layers_b=self.layers_a,
            of=self.back,
            back=self.of,
            scores=[scores.get(layer, 0.0) for layer in self.layers_a],
        )

    def blocks(self, a: Sketch, b: Sketch) -> list[tuple[Units, Units]]:
        """The blocks of units of a's layers with those of the layer of b that was found first to be it."""
        own = {(units.stack, units.layer): units for units in reversed(a.units.values()) if not units.expert}
        theirs = {(units.stack, units.layer): units for units in reversed(b.units.values()) if not units.expert}
        first = {layer: number for number, layer in reversed(list(zip(self.layers_b, self.of, strict=True)))}
        pairs = [
            (own.get((self.stack, layer)), theirs.get((self.stack, first[layer])))
            for layer in self.layers_a
            if layer in first
        ]
        return [(one, two) for one, two in pairs if one is not None and two is not None and one.count == two.count]

    def keys(self, a: Sketch, b: Sketch) -> dict[str, str]:
        """{a's key: b's}, of tensors outside of layers, and of those of a layer that b has, in its first place."""
        first: dict[int, int] = {}
        for own, layer in zip(self.layers_b, self.of, strict=True):
            if layer is not None:
                first.setdefault(layer, own)
        of_b = {_place(key, b): key for key in b.tensors}
        found = {}
        for key, held in a.tensors.items():
            layer = held.parameter.layer
            if layer is None or held.parameter.stack != self.stack:
                other = of_b.get(_place(key, a))
            else:
                other = of_b.get(_place(key, a, first[layer])) if layer in first else None
            if other is not None:
                found[key] = other
        return found


def _place(key: str, sketch: Sketch, layer: int | None = None) -> tuple[str, int | None, str]:
    """(stack, layer, the rest of the key), with another layer in its place."""
    parameter = sketch.tensors[key].parameter
    number = parameter.layer if layer is None else layer
    parts = key.split(".")
    if parameter.layer is not None and str(parameter.layer) in parts:
        parts.remove(str(parameter.layer))
    return parameter.stack, number, ".".join(parts)


def layer_map(a: Sketch, b: Sketch, stack: str = "") -> LayerMap | None:
    """Find every layer of `b` among those of `a`; None where one of them has no layers with units.

    A layer is that of `a` whose units of the same number are most alike, where that is beyond chance. Of two that are
    alike (a's own copies), the one that follows the layer before is taken.
    """
    layers_a, layers_b, scores = layer_scores(a, b, stack)
    if not layers_a or not layers_b:
        return None
    of, held = _found(layers_a, scores)
    back, _ = _found(layers_b, scores.T)
    return LayerMap(stack, layers_a, layers_b, of, held, back)


def _found(layers: Sequence[int], scores: F64Array) -> tuple[list[int | None], list[float]]:
    """For every column of scores the one of `layers` that it is, and its score."""
    of: list[int | None] = []
    held: list[float] = []
    last = -1
    for column in scores.T:
        best = float(column.max())
        held.append(best)
        if best < _CERTAIN:
            of.append(None)
            continue
        alike = np.flatnonzero(column >= _AS_GOOD * best)
        last = next((int(i) for i in alike if i > last), int(column.argmax()))
        of.append(layers[last])
    return of, held
