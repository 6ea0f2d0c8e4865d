"""Drafts of a merge's targets: inputs, shapes, types and vocabularies settled, settings still open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind
from netweight.errors import InputError, printable
from netweight.jobs.merge.vocabulary import output_rows, pieces_of, same_but_rows, spans_vocabulary
from netweight.merging.target import Input, Piece

if TYPE_CHECKING:
    from netweight.jobs.merge.faults import Faults
    from netweight.jobs.merge.sides import Side
    from netweight.jobs.merge.slices import Group, Origin
    from netweight.jobs.merge.tokens import ByToken

__all__ = ["Draft", "Drafts"]


@dataclass(frozen=True)
class Draft:
    """A target without its settings. `merged` is False for what is copied."""

    origin: Origin
    shape: tuple[int, ...]
    inputs: tuple[Input, ...]
    merged: bool


class Drafts:
    """Makes drafts of origins, and gathers faults and notes on the way."""

    def __init__(
        self,
        sides: Mapping[int, Side],
        anchor: Side,
        groups: Sequence[Group],
        faults: Faults,
        *,
        vocab: str | None,
        stand_in: bool,
        tokens: ByToken | None = None,
    ) -> None:
        self._sides = sides
        self._anchor = anchor
        self._groups = groups
        self._faults = faults
        self._vocab = vocab
        self._stand_in = stand_in
        self._tokens = tokens
        self._stood_in: dict[int, list[str]] = {}
        self._differing: list[str] = []
        self._constants: list[str] = []
        self._rows: dict[int, list[tuple[str, int, int]]] = {}

    def draft(self, origin: Origin) -> Draft:
        """The inputs of one parameter. Raises InputError for a type that no safetensors file can hold."""
        number, reference = origin.reference
        if origin.name == "__metadata__":
            raise InputError(
                f"{self._sides[number].ref}: a tensor is named '__metadata__', which safetensors files keep for"
                " themselves; give it another name"
            )
        if origin.parameter.state == "derived" or reference.dtype.kind is not Kind.FLOAT:
            self._constants.append(origin.name)
            return self._copied(origin, reference)
        group = self._groups[origin.group]
        tensors: list[tuple[int, Tensor]] = []
        for side, own in zip(group.inputs, origin.own, strict=True):
            if own is not None:
                tensors.append((side, own))
            else:
                tensors.append((number, reference))
                if self._stand_in:
                    self._stood_in.setdefault(side, []).append(origin.name)
                else:
                    self._faults.missing.append((origin.name, side))
        for side, tensor in tensors:
            if tensor.dtype.kind is not Kind.FLOAT:
                self._faults.types.append(
                    f"'{printable(tensor.name)}' is {tensor.dtype} in {self._sides[side].ref} and {reference.dtype} in"
                    f" {self._sides[number].ref}; expected float weights"
                )
        vocabulary = (origin.layer is None or group.number is None) and spans_vocabulary(origin.parameter)
        if vocabulary and origin.name in self._anchor.tensors:
            return self._with_rows(origin, tensors)
        shape = reference.shape
        if origin.allowed is not None and shape not in origin.allowed:
            expected = " or ".join(str(list(s)) for s in sorted(origin.allowed))
            self._shape_fault(tensors[0], expected, self._anchor)
        for side, tensor in tensors:
            if tensor.shape != shape:
                self._shape_fault((side, tensor), str(list(shape)), self._sides[number])
        return Draft(origin, shape, tuple(_whole(side, tensor) for side, tensor in tensors), merged=True)

    def _shape_fault(self, misfit: tuple[int, Tensor], expected: str, reference: Side) -> None:
        side, tensor = misfit
        self._faults.shapes.append(
            f"'{printable(tensor.name)}' has shape {list(tensor.shape)} in {self._sides[side].ref}, expected {expected}"
            f" as in {reference.ref}"
        )

    def _copied(self, origin: Origin, reference: Tensor) -> Draft:
        number, _ = origin.reference
        what = f"'{printable(reference.name)}' is {reference.dtype}"
        if reference.dtype.name == "C128":
            raise InputError(
                f"{self._sides[number].ref}: {what}, which safetensors files cannot hold; convert it to C64 first"
            )
        known = origin.parameter.kind == "weight" and origin.parameter.role != "other"
        group = self._groups[origin.group]
        if (
            known
            and reference.dtype.kind is Kind.INTEGER
            and all(t is None or t.dtype.kind is Kind.INTEGER for t in origin.own)
        ):
            self._faults.types.append(f"{what} in {self._sides[number].ref}; expected float weights")
        for side, tensor in zip(group.inputs, origin.own, strict=True):
            if tensor is not None:
                if known and tensor.dtype.kind is Kind.FLOAT:
                    self._faults.types.append(
                        f"{what} in {self._sides[number].ref} and {tensor.dtype} in {self._sides[side].ref}; expected"
                        " float weights"
                    )
                    break
                if (tensor.shape, tensor.dtype) != (reference.shape, reference.dtype):
                    self._differing.append(origin.name)
                    break
        return Draft(origin, reference.shape, (_whole(number, reference),), merged=False)

    def _with_rows(self, origin: Origin, tensors: Sequence[tuple[int, Tensor]]) -> Draft:
        """A parameter whose first dimension counts tokens."""
        base = self._anchor.checkpoint[origin.name]
        fitting = True
        for side, tensor in tensors:
            if not same_but_rows(base.shape, tensor.shape):
                fitting = fitting and tensor.shape == base.shape
                if tensor.shape != base.shape:
                    self._shape_fault((side, tensor), str(list(base.shape)), self._anchor)
            elif tensor.shape != base.shape and self._vocab is None and self._tokens is None:
                fitting = False
                self._faults.rows.append(
                    f"'{printable(origin.name)}' has {base.shape[0]} rows in {self._anchor.ref} and {tensor.shape[0]}"
                    f" in {self._sides[side].ref}"
                )
        pool = list(self._like(origin.name, base.shape, self._around(self._groups[origin.group])).values())
        if not fitting or not pool:
            return Draft(origin, base.shape, tuple(_whole(side, tensor) for side, tensor in tensors), merged=True)
        if self._tokens is not None:
            every = self._like(origin.name, base.shape, self._sides)
            by_token = [(side, self._tokens.tensor(side, every | {side: tensor})) for side, tensor in tensors]
            shape = (self._tokens.rows, *base.shape[1:])
            return Draft(origin, shape, tuple(_whole(side, tensor) for side, tensor in by_token), merged=True)
        rows = output_rows(self._vocab or "base", pool)
        for side, tensor in tensors:
            if tensor.shape[0] != rows:
                self._rows.setdefault(side, []).append((origin.name, tensor.shape[0], rows))
        inputs = tuple(Input(side, pieces_of(tensor, rows, pool)) for side, tensor in tensors)
        return Draft(origin, (rows, *base.shape[1:]), inputs, merged=True)

    def _around(self, group: Group) -> list[int]:
        """The models that give what lies outside of the blocks: of slices, those of the first and of the last."""
        beside = [g for g in self._groups if g.recipe is group.recipe]
        return list(dict.fromkeys([self._anchor.number, *beside[0].inputs, *beside[-1].inputs]))

    def _like(self, name: str, shape: tuple[int, ...], numbers: Iterable[int]) -> dict[int, Tensor]:
        """The floats of that name and width of these models, by number."""
        held = {number: self._sides[number].tensors.get(name) for number in numbers}
        return {
            number: tensor
            for number, tensor in held.items()
            if tensor is not None and same_but_rows(shape, tensor.shape) and tensor.dtype.kind is Kind.FLOAT
        }

    def notes(self) -> list[str]:
        """The notes gathered by the drafts."""
        lines = []
        for side, names in self._stood_in.items():
            lines.append(
                f"{self._sides[side].ref}: lacks {_listed(names)}; the values of {self._anchor.ref} stand in (--missing"
                " base)"
            )
        for side, rows in self._rows.items():
            name, have, want = rows[0]
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            remedy = f"the other {want - have} from the base or the first model that has them"
            if have > want:
                remedy = f"the last {have - want} are left out"
            lines.append(
                f"{self._sides[side].ref}: '{printable(name)}'{more} has {have} rows, the output {want}: {remedy}"
            )
        if self._constants:
            lines.append(f"{_listed(self._constants)}: copied, not merged: computed by the model's code, or no floats")
        if self._differing:
            lines.append(
                f"{_listed(self._differing)}: not merged but copied from the base, and another shape or type in a model"
            )
        return lines


def _whole(side: int, tensor: Tensor) -> Input:
    return Input(side, (Piece(tensor, 0, tensor.size),))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"'{printable(names[0])}'{more}"
