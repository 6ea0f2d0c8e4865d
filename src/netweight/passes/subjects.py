"""The matrices of a checkpoint that a scan measures, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from netweight.checkpoint.matrix import Matrix, Part, matrix_name, open_matrix
from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.dtypes import Kind
from netweight.errors import OptionError, printable
from netweight.params.layouts.fused import Layout, pieces
from netweight.params.model import Model
from netweight.params.role import Parameter
from netweight.params.selection import dtype_reason, nothing_matches, unwanted_reason

__all__ = ["Subject", "find_subjects"]


@dataclass(frozen=True)
class Subject:
    """One matrix to be measured: `parameter` has its name and role, `fused` says that its elements are also in
    another subject, `heads` how many heads an attention projection has by its model's config, and of what size.
    """

    parameter: Parameter
    tensor: Tensor
    part: Part
    fused: bool = False
    heads: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The tensor's name, with the part in brackets."""
        return self.parameter.name

    @property
    def nbytes(self) -> int:
        """Bytes to read: its share of the tensor's in files."""
        return self.tensor.file_bytes_of(0, self.part.size)

    @property
    def is_matrix(self) -> bool:
        """More than one row and one column."""
        return min(self.part.stored_shape) > 1

    @property
    def held_bytes(self) -> int:
        """Memory to pick the matrix from its region, in bytes."""
        width = self.tensor.dtype.bits // 8
        return (self.part.size + 256 * self.part.region_cols) * width if self.part.held else 0

    def open(self) -> Matrix:
        """The matrix, for one measurement."""
        return open_matrix(self.tensor, self.part)

    @property
    def convolution(self) -> bool:
        """Whether it is the whole weight of a 2-D convolution, [out, in, height, width]: more channels than cells."""
        shape = self.tensor.shape
        whole = self.part.size == self.tensor.size and self.parameter.kind == "weight"
        return whole and len(shape) == 4 and shape[0] + shape[1] >= shape[2] + shape[3] and min(shape) > 0

    def slices(self) -> tuple[Matrix, ...]:
        """The matrix [out, in] of every cell of a 2-D convolution; none of anything else."""
        if not self.convolution:
            return ()
        out, inner, *cells = self.tensor.shape
        step, cols = prod(cells), inner * prod(cells)
        rows = (range(out),)
        parts = (Part(f"cell {i}", 0, out, cols, rows, (range(i, cols, step),)) for i in range(step))
        return tuple(open_matrix(self.tensor, part) for part in parts)

    def as_stored(self) -> Subject:
        """The same matrix without the transpose, for measures that treat rows and columns alike."""
        return replace(self, part=replace(self.part, transposed=False)) if self.part.transposed else self


def find_subjects(
    checkpoint: Checkpoint,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    count_tied_twice: bool = False,
    weights_only: bool = False,
    split: bool = True,
) -> tuple[tuple[Subject, ...], tuple[Skipped, ...]]:
    """The matrices of a checkpoint in file order, and every tensor that is left out with its reason.

    `weights_only` leaves out vectors and tensors that are no weights (norms, biases, scales); `split` adds the
    projections inside fused ones. Experts in one tensor are always separate. Raises OptionError where the globs leave
    nothing.
    """
    model = Model(checkpoint).with_head() if count_tied_twice else Model(checkpoint)
    parameters = model.parameters
    ties = {} if count_tied_twice else model.ties.aliases
    subjects: list[Subject] = []
    skipped = list(checkpoint.skipped)
    chosen_away = 0
    for name, tensor in model.tensors.items():
        unwanted = unwanted_reason(name, include, exclude)
        chosen_away += unwanted is not None
        reason = unwanted or _reason(parameters[name], tensor, ties)
        if reason is not None:
            skipped.append(Skipped(name, reason, asked=unwanted is not None))
            continue
        parts = [
            Subject(replace(parameters[name], name=matrix_name(tensor, p.part), role=p.role), tensor, p.part, p.fused)
            for p in pieces(parameters[name], tensor.shape, model.layout)
            if split or not p.fused
        ]
        parts = [replace(s, heads=_heads(s.parameter, model.layout)) for s in parts]
        if weights_only:
            parts = [s for s in parts if s.is_matrix and s.parameter.kind == "weight"]
            if not parts:
                skipped.append(Skipped(name, "not a weight matrix: left out, as asked", asked=True))
        subjects.extend(parts)
    if model.tensors and chosen_away == len(model.tensors):
        raise OptionError(nothing_matches(checkpoint, include, exclude))
    return tuple(subjects), tuple(skipped)


def _heads(parameter: Parameter, layout: Layout) -> tuple[int, int] | None:
    """Of a projection of the main stack, which config is about."""
    known = {"q_proj": layout.heads, "o_proj": layout.heads, "k_proj": layout.kv_heads, "v_proj": layout.kv_heads}
    count = known.get(parameter.role) if parameter.kind == "weight" and not parameter.stack else None
    return (count, layout.head_size) if count and layout.head_size else None


def _reason(parameter: Parameter, tensor: Tensor, ties: dict[str, str]) -> str | None:
    """Why a tensor is not measured."""
    if parameter.name in ties:
        return f"tied to {printable(ties[parameter.name])}: counted once"
    if tensor.dtype.kind is not Kind.FLOAT:
        return dtype_reason(tensor.dtype)
    if parameter.state == "derived":
        return "a buffer: computed by the model's code, not trained"
    if parameter.state == "running":
        return "a running statistic: gathered in training, not a weight"
    return None
