"""Parameters of a merge with their inputs found: shapes, types and vocabularies settled, settings still open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind
from netweight.errors import InputError, printable
from netweight.jobs.merge.vocabulary import output_rows, pieces_of, same_but_rows, spans_vocabulary
from netweight.merging.target import Input, Piece

if TYPE_CHECKING:
    from netweight.jobs.merge.faults import Faults
    from netweight.jobs.merge.pairing import Side
    from netweight.jobs.merge.slices import Group, Place

__all__ = ["Draft", "Drafts"]


@dataclass(frozen=True)
class Draft:
    """A target whose settings are still to be found. `merged` is False for what is copied."""

    place: Place
    shape: tuple[int, ...]
    inputs: tuple[Input, ...]
    merged: bool


class Drafts:
    """Makes drafts of places, and gathers on the way what does not fit and what is worth a note."""

    def __init__(
        self,
        sides: Mapping[int, Side],
        anchor: Side,
        groups: Sequence[Group],
        faults: Faults,
        *,
        vocab: str | None,
        stand_in: bool,
    ) -> None:
        self._sides = sides
        self._anchor = anchor
        self._groups = groups
        self._faults = faults
        self._vocab = vocab
        self._stand_in = stand_in
        self._whole = groups[0].number is None
        # in slices, whatever stands outside of the blocks is of the first slice's sources or of the last one's
        self._pool = tuple(dict.fromkeys([anchor.number, *groups[0].inputs, *groups[-1].inputs]))
        self._stood_in: dict[int, list[str]] = {}
        self._differing: list[str] = []
        self._rows: dict[int, list[tuple[str, int, int]]] = {}

    def draft(self, place: Place) -> Draft:
        """The inputs of one parameter. Raises InputError for a type that no safetensors file can hold."""
        number, name = place.reference
        reference = self._sides[number].checkpoint[name]
        if place.name == "__metadata__":
            raise InputError(
                f"{self._sides[number].ref}: a tensor is named '__metadata__', which safetensors files keep for"
                " themselves; give it another name"
            )
        if place.parameter.buffer or reference.dtype.kind is not Kind.FLOAT:
            return self._copied(place, reference)
        group = self._groups[place.group]
        tensors: list[tuple[int, Tensor]] = []
        for side, own in zip(group.inputs, place.own, strict=True):
            if own is not None:
                tensors.append((side, self._sides[side].checkpoint[own]))
            else:
                tensors.append((number, reference))
                if self._stand_in:
                    self._stood_in.setdefault(side, []).append(place.name)
                else:
                    self._faults.missing.append((place.name, side))
        for side, tensor in tensors:
            if tensor.dtype.kind is not Kind.FLOAT:
                self._faults.types.append(
                    f"'{printable(tensor.name)}' is {tensor.dtype} in {self._sides[side].ref} and {reference.dtype} in"
                    f" {self._sides[number].ref}; expected float weights"
                )
        vocabulary = (place.layer is None or self._whole) and spans_vocabulary(place.parameter)
        if vocabulary and place.name in self._anchor.names:
            return self._with_rows(place, tensors)
        shape = reference.shape
        if place.allowed is not None and shape not in place.allowed:
            expected = " or ".join(str(list(s)) for s in sorted(place.allowed))
            self._shape_fault(tensors[0], expected, self._anchor)
        for side, tensor in tensors:
            if tensor.shape != shape:
                self._shape_fault((side, tensor), str(list(shape)), self._sides[number])
        return Draft(place, shape, tuple(_whole(side, tensor) for side, tensor in tensors), merged=True)

    def _shape_fault(self, found: tuple[int, Tensor], expected: str, reference: Side) -> None:
        side, tensor = found
        self._faults.shapes.append(
            f"'{printable(tensor.name)}' has shape {list(tensor.shape)} in {self._sides[side].ref}, expected {expected}"
            f" as in {reference.ref}"
        )

    def _copied(self, place: Place, reference: Tensor) -> Draft:
        number, name = place.reference
        if reference.dtype.name == "C128":
            raise InputError(
                f"{self._sides[number].ref}: '{printable(name)}' is {reference.dtype}, which safetensors files cannot"
                " hold; convert it to C64 first"
            )
        known = place.parameter.kind == "weight" and place.parameter.role != "other"
        group = self._groups[place.group]
        for side, own in zip(group.inputs, place.own, strict=True):
            if own is not None:
                other = self._sides[side].checkpoint[own]
                if known and other.dtype.kind is Kind.FLOAT:
                    self._faults.types.append(
                        f"'{printable(name)}' is {reference.dtype} in {self._sides[number].ref} and {other.dtype} in"
                        f" {self._sides[side].ref}; expected float weights"
                    )
                    break
                if (other.shape, other.dtype) != (reference.shape, reference.dtype):
                    self._differing.append(place.name)
                    break
        return Draft(place, reference.shape, (_whole(number, reference),), merged=False)

    def _with_rows(self, place: Place, tensors: Sequence[tuple[int, Tensor]]) -> Draft:
        """A parameter whose first dimension counts tokens."""
        base = self._anchor.checkpoint[place.name]
        fitting = True
        for side, tensor in tensors:
            if not same_but_rows(base.shape, tensor.shape):
                fitting = fitting and tensor.shape == base.shape
                if tensor.shape != base.shape:
                    self._shape_fault((side, tensor), str(list(base.shape)), self._anchor)
            elif tensor.shape != base.shape and self._vocab is None:
                fitting = False
                self._faults.rows.append(
                    f"'{printable(place.name)}' has {base.shape[0]} rows in {self._anchor.ref} and {tensor.shape[0]} in"
                    f" {self._sides[side].ref}"
                )
        found = [self._sides[number].get(place.name) for number in self._pool]
        pool = [t for t in found if t is not None and same_but_rows(base.shape, t.shape) and t.dtype.kind is Kind.FLOAT]
        if not fitting or not pool:
            return Draft(place, base.shape, tuple(_whole(side, tensor) for side, tensor in tensors), merged=True)
        rows = output_rows(self._vocab or "base", pool)
        for side, tensor in tensors:
            if tensor.shape[0] != rows:
                self._rows.setdefault(side, []).append((place.name, tensor.shape[0], rows))
        inputs = tuple(Input(side, pieces_of(tensor, rows, pool)) for side, tensor in tensors)
        return Draft(place, (rows, *base.shape[1:]), inputs, merged=True)

    def notes(self) -> list[str]:
        """What the drafts have shown."""
        found = []
        for side, names in self._stood_in.items():
            found.append(
                f"{self._sides[side].ref}: lacks {_listed(names)}; the values of {self._anchor.ref} stand in (--missing"
                " base)"
            )
        for side, rows in self._rows.items():
            name, have, want = rows[0]
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            what = f"the other {want - have} from the base or the first model that has them"
            if have > want:
                what = f"the last {have - want} are left out"
            found.append(
                f"{self._sides[side].ref}: '{printable(name)}'{more} has {have} rows, the output {want}: {what}"
            )
        if self._differing:
            found.append(
                f"{_listed(self._differing)}: not merged but copied from the base, and another shape or type in a model"
            )
        return found


def _whole(side: int, tensor: Tensor) -> Input:
    return Input(side, (Piece(tensor, 0, tensor.size),))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{printable(names[0])}'{more}"
