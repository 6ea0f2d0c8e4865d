"""How a method goes through one parameter: looks at the data, as many as it needs, then one writing pass.

A method is a generator. It yields a `Look`, gets back what the look found over the whole parameter, and so on; what it
returns is the `Write` (or the `Copy`) that makes the output. It never sees a whole tensor: looks and writes are given
blocks, in any order and by several threads, and what looks find in stretches of a parameter merges. So memory is
bounded, and the result is the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from netweight.dtypes import DType
    from netweight.kernels.merging import MergeKernels

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

__all__ = ["Copy", "Course", "Look", "Measured", "NativeLook", "NativeWrite", "Subject", "Value", "Write"]

Value: TypeAlias = bool | int | float
"""What a setting of a method is, once gradients and filters are resolved for one parameter."""


@dataclass(frozen=True)
class Subject:
    """One output parameter, as a method sees it.

    `shape` is the output's; every input has it too. `models` counts the inputs that are not the base; `base` says
    whether input 0 is the base (then there are 1 + models inputs). `settings` are the method's own, `each` those of
    every model, in the order of the inputs without the base. `keys` are 64-bit keys for random numbers, one a model,
    made from (seed, model, parameter). `bits` is 32 where blocks are float32, 64 where they are float64.
    """

    name: str
    shape: tuple[int, ...]
    models: int
    base: bool
    settings: Mapping[str, Value]
    each: tuple[Mapping[str, Value], ...]
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
    """One pass over the data that finds something out. Frozen; what it finds is kept in an object that `empty` makes.
    Blocks of whole rows are rows in the sense of `Subject.cols`.
    """

    in_any_order: ClassVar[bool]
    """Whether what it finds merges to the same in any order: then it is merged as it comes, which may change what was
    found first.
    """

    @property
    def whole_rows(self) -> bool:
        """Whether blocks must be whole rows."""
        ...

    def empty(self, inputs: int) -> Any:
        """What has been found in nothing: a new accumulator for one stretch and one thread."""
        ...

    def add(self, found: Any, x: Array, start: int, kernels: MergeKernels) -> None:
        """Take a block in: `x` float32 or float64 [inputs, count], C order, its columns the elements from `start`."""
        ...

    def merged(self, found: Sequence[Any]) -> Any:
        """What all the stretches of a parameter found, given in the order of the tensor."""
        ...


@runtime_checkable
class Write(Protocol):
    """The pass that makes the output. `inputs` are the numbers of those it reads, None for all of them."""

    @property
    def whole_rows(self) -> bool:
        """Whether blocks must be whole rows."""
        ...

    @property
    def inputs(self) -> tuple[int, ...] | None:
        """The inputs that are read, None for all."""
        ...

    def block(self, x: Array, start: int, out: Array, kernels: MergeKernels) -> None:
        """out [count] = the merged elements; `x` [len(inputs), count] as for looks, not to be changed."""
        ...


@runtime_checkable
class NativeLook(Look, Protocol):
    """A look that takes blocks as they are stored too, and finds the same in them as in float32."""

    def add_native(self, found: Any, native: Array, dtype: DType, start: int, kernels: MergeKernels) -> None:
        """`add` of a block of an element type that the kernels fuse: `native` as kernels.merging has it."""
        ...


@runtime_checkable
class NativeWrite(Write, Protocol):
    """A write that makes the output's bytes from the inputs' too: the same as `block` and rounding make."""

    def native_block(self, native: Array, dtype: DType, start: int, out: Array, kernels: MergeKernels) -> int:
        """`block` where inputs and output have one element type that the kernels fuse, `native` and `out` [count] as
        kernels.merging has them; returns how many results are not finite.
        """
        ...


@dataclass(frozen=True)
class Copy:
    """The output is input number `input`, bit for bit where it has the output's element type."""

    input: int


@dataclass(frozen=True)
class Measured:
    """The end of a course that only looks, and writes nothing: what it found."""

    value: Any


Course: TypeAlias = Generator[Look, Any, Write | Copy | Measured]
"""A method at work on one parameter."""
