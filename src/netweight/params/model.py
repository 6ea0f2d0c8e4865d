"""A model: the tensors of a checkpoint under names that do not depend on how it was saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from netweight.checkpoint.matrix import Part, whole
from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.params.layouts.fused import Layout, NamedPart, canonical_parts, layout_of
from netweight.params.layouts.parts import assembled
from netweight.params.layouts.renames import canonical_names
from netweight.params.role import Parameter, classify, classify_all
from netweight.params.tied import HEAD, Ties, find_ties, with_head

__all__ = ["Held", "Model"]


@dataclass(frozen=True)
class Held:
    """Where a canonical name's matrix lies: in the tensor that the file calls `name`, and which part of it it is."""

    name: str
    part: Part


class Model(Mapping[str, tuple[Tensor, Parameter]]):
    """A checkpoint as {canonical name: (tensor, parameter)}: experts and projections one by one, whatever holds them,
    under one name, whoever saved them; in file order.

    `checkpoint` has the tensors under the file's own names, in which messages and outputs speak; `parameters` are read
    from these. All that follows from names is made when it is first asked for, from headers alone.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By the file's names: a large table makes each tensor anew when it is asked for."""
        return dict(self.checkpoint.items())

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """What the file's names say."""
        return classify_all({name: tensor.shape for name, tensor in self.tensors.items()})

    @cached_property
    def ties(self) -> Ties:
        """What is tied, from headers; `params.tied.find_ties` also compares."""
        return find_ties(self.checkpoint, parameters=self.parameters)

    def with_head(self, name: str = HEAD) -> Model:
        """The model with the head that it ties to its embedding and does not store, as `name`; itself without one."""
        absent = self.ties.absent
        return self if absent is None or name in self.tensors else Model(with_head(self.checkpoint, absent, name))

    @cached_property
    def canonical(self) -> dict[str, str]:
        """{the file's name: the canonical name of the whole tensor}."""
        return canonical_names(self.tensors)

    @cached_property
    def layout(self) -> Layout:
        """How its fused tensors are cut."""
        return layout_of({name: tensor.shape for name, tensor in self.tensors.items()}, self.checkpoint.config)

    def parts(self, name: str) -> tuple[NamedPart, ...]:
        """The matrices in the tensor that the file calls `name`; none where it is one."""
        return canonical_parts(self.canonical[name], self.tensors[name].shape, self.layout)

    def named_parts(self, name: str) -> tuple[NamedPart, ...]:
        """`parts`, or the whole tensor under its canonical name."""
        return self.parts(name) or (self._itself(name),)

    def _itself(self, name: str) -> NamedPart:
        return NamedPart(self.canonical[name], whole(self.tensors[name].shape))

    @cached_property
    def held(self) -> dict[str, Held]:
        """{canonical name: where it lies}. A tensor with a matrix that another one holds too is not taken apart, and
        nothing is lost.
        """
        parts = {name: self.parts(name) for name in self.tensors}
        taken = Counter(part.name for named in parts.values() for part in named)
        taken.update(self.canonical.values())
        return {
            part.name: Held(name, part.part)
            for name, named in parts.items()
            for part in (named if named and all(taken[p.name] == 1 for p in named) else (self._itself(name),))
        }

    def __getitem__(self, name: str) -> tuple[Tensor, Parameter]:
        held = self.held[name]
        tensor = self.tensors[held.name]
        rows, cols = held.part.matrix_shape
        shape: tuple[int, ...] = (cols,) if classify(name).kind == "bias" else (rows, cols)
        if held.part == whole(tensor.shape):
            shape = tensor.shape
        return assembled(name, shape, [(whole(shape), tensor, held.part)]), classify(name, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def as_checkpoint(self) -> Checkpoint:
        """The checkpoint with its tensors under canonical names; closing it closes the files."""
        held = self.checkpoint
        tensors = {name: tensor for name, (tensor, _) in self.items()}
        shared = {self.canonical.get(alias): self.canonical.get(name) for alias, name in held.shared.items()}
        return held.with_tensors(tensors, {a: n for a, n in shared.items() if a in tensors and n in tensors})

    def __repr__(self) -> str:
        return f"<Model {self.checkpoint.ref!r}: {len(self)} parameters>"
