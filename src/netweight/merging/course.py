"""The course of a method over one parameter: any number of looks, which gather statistics, then one write.

A method is a generator. It yields a `Look`, receives the statistic of the whole parameter, and so on; it returns the
`Write` (or the `Copy`) that makes the output. It never sees a whole tensor: looks and writes get blocks, in any order
and from several threads, and the statistics of two stretches merge. So memory is bounded, and the result is the same
for any number of workers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.kernels.arrays import Array
    from netweight.kernels.merging import MergeKernels


__all__ = ["Copy", "Course", "Look", "Measured", "NativeLook", "NativeWrite", "Subject", "Value", "Write"]
__all__ += ["is_write", "makes_native", "takes_native", "without_looks"]

Value: TypeAlias = bool | int | float
"""The value of a setting for one parameter, gradients and filters resolved."""


@dataclass(frozen=True)
class Subject:
    """One output parameter, as a method sees it.

    `shape` is that of the output and of every input. `models` counts the inputs that are not the base; `base` says
    whether input 0 is the base (then there are 1 + models inputs). `settings` are the method's, `model_settings` those
    of every model, in the order of the inputs without the base. `keys` are 64-bit keys for random numbers, one a model,
    made from (seed, model, parameter). `bits` is 32 where blocks are float32, 64 where they are float64.
    """

    name: str
    shape: tuple[int, ...]
    models: int
    base: bool
    settings: Mapping[str, Value]
    model_settings: tuple[Mapping[str, Value], ...]
    keys: tuple[int, ...]
    bits: int = 32

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def cols(self) -> int:
        """Elements of a row: the last dimension; a vector is one row."""
        return self.shape[-1] if self.shape else 1


class Look(Protocol):
    """One pass over the data that gathers a statistic. Frozen: the statistic is in an object that `empty` makes.

    Rows are those of `Subject.cols`.
    """

    in_any_order: ClassVar[bool]
    """Whether statistics merge to the same in any order. They are then merged as they come, in place of the first."""

    @property
    def whole_rows(self) -> bool:
        """Whether blocks must be whole rows."""
        ...

    def empty(self, inputs: int) -> Any:
        """The statistic of no elements: a new accumulator for one stretch and one thread."""
        ...

    def add(self, statistic: Any, x: Array, start: int, kernels: MergeKernels) -> None:
        """Add a block: `x` float32 or float64 [inputs, count], C order, its columns the elements from `start`."""
        ...

    def merged(self, statistics: Sequence[Any]) -> Any:
        """The statistic of a whole parameter, from those of its stretches in the order of the tensor."""
        ...


class Write(Protocol):
    """The pass that makes the output."""

    @property
    def whole_rows(self) -> bool:
        """Whether blocks must be whole rows."""
        ...

    @property
    def inputs(self) -> tuple[int, ...] | None:
        """The numbers of the inputs that it reads, None for all."""
        ...

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:
        """out [count] = the merged elements; `x` [len(inputs), count] as for looks, read-only."""
        ...


class NativeLook(Look, Protocol):
    """A look that takes blocks as they are stored too, with the same statistic as in float32."""

    def add_native(self, statistic: Any, native: Array, dtype: DType, start: int, kernels: MergeKernels) -> None:
        """`add` of a block of an element type that the kernels fuse: `native` as kernels.merging has it."""
        ...


class NativeWrite(Write, Protocol):
    """A write that can make the output's bytes from the inputs' bytes: the same as `block` and rounding make."""

    def native_block(self, native: Array, dtype: DType, start: int, out: Array, kernels: MergeKernels) -> int:
        """`block` where inputs and output have one element type that the kernels fuse, `native` and `out` [count] as
        kernels.merging has them; returns how many results are not finite.
        """
        ...


def is_write(act: object) -> TypeGuard[Write]:
    """Whether an act is a write; by one attribute, since Python takes long to look a protocol through."""
    return hasattr(act, "block")


def takes_native(look: Look) -> TypeGuard[NativeLook]:
    """Whether a look takes blocks as they are stored."""
    return hasattr(look, "add_native")


def makes_native(write: Write) -> TypeGuard[NativeWrite]:
    """Whether a write can make the output's bytes."""
    return hasattr(write, "native_block")


@dataclass(frozen=True)
class Copy:
    """The output is input number `input`, bit for bit where it has the output's element type."""

    input: int


@dataclass(frozen=True)
class Measured:
    """The end of a course that writes nothing: its statistic."""

    value: Any


Course: TypeAlias = Generator[Look, Any, Write | Copy | Measured]
"""A method at work on one parameter."""


def without_looks(end: Write | Copy) -> Course:
    """The course that needs no look."""
    yield from ()
    return end
