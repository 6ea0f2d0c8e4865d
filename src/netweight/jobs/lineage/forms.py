"""What changed between two models of one start: which tensors, how far, and in which form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from netweight.jobs.lineage.compared import Shared
from netweight.jobs.lineage.sketch import Sketch
from netweight.kernels.arrays import F64Array
from netweight.passes.corners import COLUMNS, Corner
from netweight.statistics.kinship.form import Form, is_rounded, low_rank, on_grid, rescaled, rounding_levels

__all__ = ["Changes", "changes_of"]

_ROWS = 64
_FULL = 2  # matrices of full rank, that decide
_TRIED = 4  # matrices, of which one at least must be on a grid
_LEAST = 16  # rows and columns of a matrix whose difference has a form
_WRITERS = ("o_proj", "down_proj")
_NARROW = ("BF16", "F16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Changes:
    """`kind`: a relation that the form of the changes decides, "" for training. `drift`: of the matrices. `rank` and
    `targets` (roles) of low rank; `unchanged`: the share of tensors that are equal; `by_role`: drift.
    """

    kind: str
    drift: float
    unchanged: float
    by_role: Mapping[str, float]
    rank: int | None = None
    targets: Sequence[str] = ()
    type: str = ""
    rounded: str = ""
    reasons: Sequence[str] = ()

    def detail(self) -> dict[str, Any]:
        """What a result has of them."""
        said: dict[str, Any] = {"drift": self.drift, "unchanged_tensors": self.unchanged, "by_role": dict(self.by_role)}
        if self.rank is not None:
            said |= {"rank": self.rank, "targets": list(self.targets)}
        if self.type:
            said["type"] = self.type
        if self.rounded:
            said["rounded"] = self.rounded
        return said


def changes_of(a: Sketch, b: Sketch, figures: Shared) -> Changes:
    """How `b` differs from `a`, of tensors of one shape."""
    pairs = {key: pair for key, pair in figures.pairs.items() if a.tensors[key].shape == b.tensors[key].shape}
    matrices = {key: pair for key, pair in pairs.items() if len(a.tensors[key].shape) > 1}
    changed = {key: pair for key, pair in pairs.items() if key in figures.changed}
    squares = {key: figures.squares[key] for key in matrices}
    by_role = _by_role(a, squares)
    common = (_drift(list(squares.values())), 1 - len(changed) / max(len(pairs), 1), by_role)
    # what an embedding is kept whole for is its columns: its form is told by a part, as of the others
    matrices = {key: (x[:_ROWS, :COLUMNS], y[:_ROWS, :COLUMNS]) for key, (x, y) in matrices.items()}
    for kind in (_cast, _quantised, _rescaled):
        found = kind(a, b, matrices)
        if found is not None:
            name, type_, rounded, reasons = found
            return Changes(name, *common, type=type_, rounded=rounded, reasons=reasons)
    forms = _forms(a, b, {key: matrices[key] for key in changed if key in matrices})
    low = _low_rank(a, changed, forms)
    if low is not None:
        name, rank, targets = low
        return Changes(name, *common, rank=rank, targets=targets)
    if forms and not any(form.rank != 0 for form in forms.values()):
        return Changes("", *common, reasons=["what changed is as small as rounding: its form cannot be told"])
    return Changes("", *common)


def _drift(squares: Sequence[tuple[float, float]]) -> float:
    of_a = sum(own for _, own in squares)
    return sqrt(sum(apart for apart, _ in squares) / of_a) if of_a > 0 else 0.0


def _by_role(a: Sketch, squares: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    roles: dict[str, list[tuple[float, float]]] = {}
    for key, held in squares.items():
        parameter = a.tensors[key].parameter
        roles.setdefault(parameter.slot or parameter.role, []).append(held)
    return {role: _drift(held) for role, held in roles.items()}


_Found = tuple[str, str, str, list[str]]


def _cast(a: Sketch, b: Sketch, matrices: Mapping[str, tuple[Any, Any]]) -> _Found | None:
    """One is the other rounded to a narrower type, in every matrix."""
    for wide, narrow, turned in ((a, b, False), (b, a, True)):
        for dtype in _NARROW:
            pairs = [(y, x) if turned else (x, y) for x, y in matrices.values()]
            coarse = sum(narrow.tensors[key].dtype == dtype for key in matrices)
            if coarse < 0.5 * len(pairs) or all(np.array_equal(x, y, equal_nan=True) for x, y in pairs):
                continue
            if pairs and all(is_rounded(x, y, dtype) for x, y in pairs):
                held = f"{_types(wide)} -> {dtype}"
                return "cast", held, narrow.name, [f"every element is the other's, rounded to {dtype}"]
    return None


def _types(sketch: Sketch) -> str:
    counts = Counter(held.dtype for held in sketch.tensors.values() if len(held.shape) > 1)
    return counts.most_common(1)[0][0]


def _quantised(a: Sketch, b: Sketch, matrices: Mapping[str, tuple[Any, Any]]) -> _Found | None:
    """One is the other on a grid of few levels: as its file stores it, or as its values show."""
    for plain, coded, turned in ((a, b, False), (b, a, True)):
        stored = Counter(
            coded.tensors[key].stored for key in matrices if coded.tensors[key].stored != coded.tensors[key].dtype
        )
        grids: list[str] = []
        looked = 0
        for key, (x, y) in matrices.items():
            one, two = (y, x) if turned else (x, y)
            if _is_coded(plain.tensors[key]) or np.array_equal(one, two) or min(two.shape) < _LEAST:
                continue
            if stored and not _is_coded(coded.tensors[key]):
                continue
            if any(is_rounded(one, two, dtype) for dtype in _NARROW[:2]):
                continue  # an embedding or a head that is kept as it is
            looked += 1
            found = rounding_levels(one, two)
            grids += [found[0]] if found else []
            if looked == _TRIED and not grids:
                break
        if looked >= 0.5 * len(matrices) and len(grids) >= 0.97 * looked > 0:
            kind = stored.most_common(1)[0][0] if stored else Counter(grids).most_common(1)[0][0]
            how = "as its file stores it" if stored else "as its values show, which are stored as floats"
            return "quantised", kind, coded.name, [f"{coded.name} has values of {kind}, {how}"]
    return None


def _rescaled(a: Sketch, b: Sketch, matrices: Mapping[str, tuple[Any, Any]]) -> _Found | None:  # noqa: ARG001 - as the others
    """Rows or columns of one are those of the other times factors, wherever they differ."""
    changed = [(x, y) for x, y in matrices.values() if not np.array_equal(x, y)]
    if changed and all(rescaled(x, y) for x, y in changed):
        return "rescaled", "", "", ["every row or column that differs is the other's times a factor"]
    return None


def _is_coded(held: Corner) -> bool:
    return held.stored != held.dtype


def _forms(a: Sketch, b: Sketch, pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Form]:
    """The forms of matrices that changed; two of full rank decide, and the others are not looked at."""
    found: dict[str, Form] = {}
    for key, (x, y) in pairs.items():
        if min(x.shape) >= _LEAST:
            found[key] = low_rank(x, y, (_resolution(a, key), _resolution(b, key)))
            if sum(form.rank is None for form in found.values()) == _FULL:
                break
    return found


def _resolution(sketch: Sketch, key: str) -> str:
    """The type that a tensor's values have: bfloat16 also where float32 holds nothing else."""
    held = sketch.tensors[key]
    return "BF16" if held.dtype == "F32" and on_grid(held.values, "BF16") == 1.0 else held.dtype


def _low_rank(a: Sketch, changed: Mapping[str, Any], forms: Mapping[str, Form]) -> tuple[str, int, list[str]] | None:
    """(relation, rank, targets) where all that changed are matrices whose differences have a low rank; vectors may have
    changed along the one direction of a rank-one edit.
    """
    vectors = [key for key in changed if len(a.tensors[key].shape) < 2 and _learns(a.tensors[key])]
    if not forms:
        return None
    ranks = {key: form.rank for key, form in forms.items() if form.rank != 0}
    if not ranks or any(rank is None for rank in ranks.values()) or len(ranks) < 0.5 * len(forms):
        return None
    usual = Counter(rank for rank in ranks.values() if rank is not None).most_common(1)[0][0]
    targets = sorted({a.tensors[key].parameter.slot or a.tensors[key].parameter.role for key in ranks})
    # the stream's dimensions are the rows of what writes to it, and the columns of the embedding
    stream = [forms[key].right if key == "token_embedding" else forms[key].left for key in ranks]
    stream += [(changed[key][1].astype(np.float64) - changed[key][0])[0] for key in vectors]
    if usual == 1 and set(targets) <= {*_WRITERS, "token_embedding"} and _one_direction(stream):
        return "rank-one edit", 1, targets
    return None if vectors else ("adapter merged", usual, targets)


def _learns(held: Corner) -> bool:
    return held.parameter.kind in ("weight", "bias")


def _one_direction(lefts: Sequence[F64Array | None]) -> bool:
    held = [left for left in lefts if left is not None]
    if len(held) < 2:
        return False
    shortest = min(len(left) for left in held)
    first = held[0][:shortest] / np.linalg.norm(held[0][:shortest])
    cosines = [abs(float(first @ left[:shortest])) / float(np.linalg.norm(left[:shortest])) for left in held[1:]]
    return float(np.median(cosines)) > 0.9
