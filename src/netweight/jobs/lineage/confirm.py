"""`lineage --confirm`: embedding, MLPs and attention of two models read whole, and set against each other whatever the
order of units, heads and dimensions, their signs, their scale, or a rotation of the residual stream.

The steps and their sources: columns of the embedding are put beside each other by the tokens that both have (arXiv
2510.06738), or the stream is turned by an orthogonal map; gains of norms are moved into the matrices behind them;
hidden units are matched by one kind of weights and by another, and the two matches compared (arXiv 2502.12292); heads
are compared by the alignment of what they read and write (unbiased CKA), which no map within them changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import log10
from pathlib import Path
from typing import Any

import numpy as np

from netweight.errors import JobError, printable
from netweight.jobs.inputs import Reference, identity, locations
from netweight.jobs.lineage.sketching import name_of, opened
from netweight.jobs.lineage.stream import Stream, token_rows
from netweight.kernels.arrays import F32Array
from netweight.output.result_file import ResultFile
from netweight.output.table import write_json
from netweight.params.units import Units
from netweight.passes.bases import Basis, inputs_in, outputs_in
from netweight.run.progress import Progress, Silent, shown
from netweight.statistics.kinship.alignment import Columns, columns_of, rotation, unbiased_cka
from netweight.statistics.kinship.independence import cosines, fisher_logs
from netweight.statistics.kinship.matching import agreement, assigned, spearman
from netweight.version import __version__

__all__ = ["Confirmation", "LayerEvidence", "confirm"]

CERTAIN = -6.0
_SHARE = 0.3
"""Of units, that must be matched alike where the stream was rotated: the rotation is fitted to tokens, which models of
one text place alike, so p is no p-value there. Independent models of the zoo reach 0.09, copies and fine-tunes 0.9.
"""

_BETTER = 0.15  # by which a rotation must explain more of the embedding than an order does
_DIRECTIONS = 512  # of the residual stream in which matrices are compared
_UNITS = 512  # of a block of b that are matched
_FIRST = 128  # of each block for the first look at which block of a it is


@dataclass(frozen=True)
class LayerEvidence:
    """What the test found of one block of `b`: the block of `a` whose units it has.

    `agreed` of `units` are matched to one unit of a by both kinds of weights, where `expected` would be by chance, with
    `log10_p` (times the blocks that were tried); `rho` and `log10_p_rank`: SPEARMAN of the two assignments, None
    where b has more units than a.
    `cosine`: of matched units by part, median; `alignment`: unbiased CKA of the heads' matrices.
    """

    b: str
    a: str
    units: int
    agreed: int
    expected: float
    log10_p: float
    rho: float | None
    log10_p_rank: float | None
    cosine: Mapping[str, float]
    alignment: Mapping[str, float | None]

    @property
    def found(self) -> bool:
        """Whether the units are those of a, beyond chance."""
        return self.log10_p <= CERTAIN


@dataclass(frozen=True)
class Confirmation:
    """The result of the full test of `a` and `b`. `how`: what was undone of the residual stream ("in order",
    "reordered", "rotated"); `columns` of the embedding, `likeness` of them after that; `log10_p` over all blocks.
    """

    a: str
    b: str
    identities: Sequence[Mapping[str, Any]]
    seed: int
    tokens: int
    pairing: str
    how: str
    likeness: float
    log10_p_columns: float
    signs_flipped: int
    layers: Sequence[LayerEvidence]
    log10_p: float
    notes: Sequence[str] = ()
    narrowed: Sequence[str] = field(default_factory=tuple)

    @property
    def share(self) -> float:
        """The median over blocks of the share of units that both kinds of weights match alike."""
        return float(np.median([layer.agreed / layer.units for layer in self.layers])) if self.layers else 0.0

    @property
    def verdict(self) -> str:
        """In words."""
        if self.log10_p <= CERTAIN:
            return "one start" if self.how != "rotated" or self.share >= _SHARE else "undecided"
        return "no trace of one start" if len(self.layers) > 1 else "undecided"

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, with all that is needed to compute it again."""
        said = {key: value for key, value in vars(self).items() if key != "layers"}
        return {
            "netweight_version": __version__,
            "verdict": self.verdict,
            "share": self.share,
            **said,
            "directions": _DIRECTIONS,
            "units_of_a_block": _UNITS,
            "layers": [vars(layer) | {"found": layer.found} for layer in self.layers],
        }


def confirm(
    a: Reference, b: Reference, *, seed: int = 0, output: Reference | None = None, progress: Progress | None = None
) -> Confirmation:
    """The full test of whether `b` and `a` have one start; needs scipy (the extra `lineage`).

    `output`: a JSON file for the result, put in place in one step.

    Reads the embedding of both, and whole matrices of units and heads, a block at a time. `seed` chooses the units and
    directions that are compared.

    Raises what opening raises, ReadError, JobError for models without a token embedding or blocks of units.
    """
    progress = progress or Silent()
    _require_scipy()
    with ExitStack() as stack:
        streams = []
        notes: list[str] = []
        for ref in (a, b):
            checkpoint, said = opened(ref)
            streams.append(Stream(name_of(ref), stack.enter_context(checkpoint)))
            notes += said
        target = None
        if output is not None:
            places = locations([stream.checkpoint for stream in streams])
            target = stack.enter_context(ResultFile(Path(output), places))
        for stream in streams:
            if not stream.blocks:
                raise JobError(
                    f"{printable(stream.checkpoint.ref)}: has no MLP in numbered layers, whose units the full test"
                    " matches; `netweight lineage` tests what it has in its order"
                )
        # the narrower one is looked for in the wider one
        one, two = sorted(streams, key=_width, reverse=True)
        sides = _Sides(one, two, seed)
        with shown(progress, len(one.blocks) + len(two.blocks), sum(map(_bytes, streams))):
            layers = list(sides.layers(progress))
        for stream in streams:
            stream.checkpoint.check_unchanged()
        # experts of one layer may be copies: the first of each counts
        tests = list({layer.b.partition(".expert_")[0]: layer.log10_p for layer in reversed(layers)}.values())
        result = Confirmation(
            one.name,
            two.name,
            [identity(stream.checkpoint) for stream in (one, two)],
            seed,
            sides.tokens,
            sides.pairing,
            sides.how,
            sides.likeness,
            sides.columns.test.log10_p,
            int((sides.columns.signs < 0).sum()) if sides.how == "reordered" else 0,
            layers,
            fisher_logs(tests),
            notes,
            sides.narrowed(),
        )
        if target is not None:
            target.commit(lambda path: write_json(path, result.to_dict()))
        return result


def _require_scipy() -> None:
    if find_spec("scipy") is None:
        raise JobError(
            "lineage --confirm needs scipy, which matches one by one; install it: pip install netweight[lineage]"
        )


def _width(stream: Stream) -> tuple[int, int]:
    """Dimensions and units, by which the narrower of two models is told."""
    return stream.embedding.shape[1], max(units.count for units in stream.blocks)


def _bytes(stream: Stream) -> int:
    """Of the matrices of units."""
    return sum(_block_bytes(stream, units) for units in stream.blocks)


def _block_bytes(stream: Stream, units: Units) -> int:
    return sum(stream.tensors[key].file_bytes for key in (*units.rows.values(), *units.cols.values()))


class _Sides:
    """Two models in one basis of the residual stream."""

    def __init__(self, a: Stream, b: Stream, seed: int) -> None:
        self.a, self.b = a, b
        self.rng = np.random.default_rng(seed)
        rows_a, rows_b, self.tokens, self.pairing = token_rows(a, b)
        self.columns: Columns = columns_of(rows_a, rows_b)
        width = rows_b.shape[1]
        chosen = np.sort(self.rng.choice(width, min(_DIRECTIONS, width), replace=False))
        plain = np.ones(len(chosen))
        self.basis_b = Basis(width, chosen, plain)
        found = self.columns.test.log10_p <= CERTAIN
        # a rotation explains at most all: where an order explains nearly that, none is looked for
        turned, explained = (
            rotation(rows_a, rows_b) if not found or self.columns.likeness <= 1 - _BETTER else (None, 0.0)
        )
        if turned is None or (found and self.columns.likeness > explained - _BETTER):
            self.how = "in order" if self.columns.in_order and rows_a.shape == rows_b.shape else "reordered"
            self.likeness = self.columns.likeness
            self.basis_a = Basis(rows_a.shape[1], self.columns.of[chosen], self.columns.signs[chosen])
            return
        # no column is the other's: the stream may be turned
        self.how, self.likeness = "rotated", explained
        self.basis_a = Basis(rows_a.shape[1], chosen, plain, turned[:, chosen].astype(np.float32))

    def narrowed(self) -> tuple[str, ...]:
        """What b has fewer of than a."""
        said = []
        widths = self.a.embedding.shape[1], self.b.embedding.shape[1]
        if widths[0] != widths[1]:
            said.append(f"{widths[1]} of {widths[0]} dimensions")
        counts = {units.count for units in self.a.blocks}, {units.count for units in self.b.blocks}
        if counts[0] != counts[1]:
            said.append(f"{max(counts[1], default=0)} of {max(counts[0], default=0)} units")
        return tuple(said)

    def layers(self, progress: Progress) -> Iterator[LayerEvidence]:
        """The evidence of every block of b; blocks of a are read one after the other."""
        held: dict[str, dict[str, F32Array]] = {}
        for units in self.b.blocks:
            parts = _parts(self.b, units, self.basis_b)
            count = min(_UNITS, units.count)
            chosen = np.sort(self.rng.choice(units.count, count, replace=False))
            held[units.label] = {slot: rows[chosen] for slot, rows in parts.items()}
            progress.advance(1, _block_bytes(self.b, units))
        best: dict[str, tuple[tuple[float, float], Units, LayerEvidence]] = {}
        for own in self.a.blocks:
            parts = _parts(self.a, own, self.basis_a)
            for label, sample in held.items():
                score = _first_look(parts, sample)
                if score is not None and (label not in best or score > best[label][0]):
                    best[label] = score, own, self._evidence(label, own, parts, sample)
            progress.advance(1, _block_bytes(self.a, own))
        by_label = {units.label: units for units in self.b.blocks}
        for label in held:
            if label in best:
                _, own, evidence = best[label]
                yield self._with_heads(evidence, own, by_label[label])

    def _evidence(
        self, label: str, own: Units, parts: Mapping[str, F32Array], sample: Mapping[str, F32Array]
    ) -> LayerEvidence:
        first, second = [slot for slot in ("gate_proj", "up_proj", "down_proj") if slot in parts and slot in sample][:2]
        likeness = {slot: np.abs(cosines(sample[slot], parts[slot])) for slot in parts if slot in sample}
        columns = len(parts[first])
        nearest = {slot: likeness[slot].argmax(axis=1) for slot in likeness}
        agreed = agreement(nearest[first], nearest[second], columns)
        one_by_one = [assigned(likeness[slot]) for slot in (first, second)] if columns >= len(sample[first]) else []
        rho, p_rank = spearman(*one_by_one) if one_by_one else (None, None)
        together = np.sum(list(likeness.values()), axis=0).argmax(axis=1)
        return LayerEvidence(
            label,
            own.label,
            agreed.units,
            agreed.agreed,
            agreed.expected,
            min(0.0, agreed.log10_p + log10(len(self.a.blocks))),
            rho,
            p_rank,
            {slot: float(np.median(held[np.arange(len(held)), together])) for slot, held in likeness.items()},
            {},
        )

    def _with_heads(self, evidence: LayerEvidence, own: Units, units: Units) -> LayerEvidence:
        said = {}
        mine, theirs = self.a.attention(own), self.b.attention(units)
        for slot in mine:
            if slot in theirs and min(self.basis_a.size, self.basis_b.size) >= 4:
                pair = [
                    _heads(stream, held[slot], place, slot, basis)
                    for stream, held, place, basis in (
                        (self.a, mine, own, self.basis_a),
                        (self.b, theirs, units, self.basis_b),
                    )
                ]
                said[slot] = unbiased_cka(*pair)
        values = {slot: float(value) if np.isfinite(value) else None for slot, value in said.items()}
        return LayerEvidence(**(vars(evidence) | {"alignment": values}))


def _first_look(parts: Mapping[str, F32Array], sample: Mapping[str, F32Array]) -> tuple[float, float] | None:
    """How much a block of a looks like one of b, of a part of its units: (agreement, likeness); None without two parts
    in common.
    """
    common = [slot for slot in ("gate_proj", "up_proj", "down_proj") if slot in parts and slot in sample][:2]
    if len(common) < 2:
        return None
    likeness = [np.abs(cosines(sample[slot][:_FIRST], parts[slot])) for slot in common]
    nearest = [held.argmax(axis=1) for held in likeness]
    return float((nearest[0] == nearest[1]).sum()), float(sum(held.max(axis=1).mean() for held in likeness))


def _parts(stream: Stream, units: Units, basis: Basis) -> dict[str, F32Array]:
    """The units of a block, by part, in the basis."""
    gain = stream.gain(units, "mlp")
    parts = {slot: inputs_in(stream.tensors[key], gain, basis) for slot, key in units.rows.items()}
    for slot, key in units.cols.items():
        parts[slot] = outputs_in(stream.tensors[key], basis)
    return parts


def _heads(stream: Stream, tensor: Any, units: Units, slot: str, basis: Basis) -> F32Array:
    """A projection of the attention as (directions, features)."""
    if slot == "o_proj":
        return np.ascontiguousarray(outputs_in(tensor, basis).T)
    return np.ascontiguousarray(inputs_in(tensor, stream.gain(units, "attn"), basis).T)
