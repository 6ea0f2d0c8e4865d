"""An adapter: its settings, and its tensors by the module that they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from netweight.checkpoint.adapters.names import Part
from netweight.checkpoint.adapters.settings import Settings
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.quantised import floats_of
from netweight.checkpoint.tensors.rearranged import turned
from netweight.dtypes import Kind
from netweight.errors import FormatError, printable

__all__ = ["Adapter", "Module", "modules_of"]


@dataclass(frozen=True)
class Module:
    """What an adapter holds for one module of the base: `parts` by PEFT's name for them (`lora_A`, `ia3_l`); `shared`
    is what all modules have in common. `name` is the module's in the adapter, `where` the file or folder. `alpha` is
    what a tensor of its own says (kohya), which counts before the settings.
    """

    name: str
    parts: Mapping[str, Tensor]
    settings: Settings
    where: str
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None

    def scale(self, rank: int) -> float:
        """What the product of its factors is multiplied by."""
        return self.settings.scale_of(self.name, rank) if self.alpha is None else self.alpha / rank

    def wrong(self, what: str) -> FormatError:
        """The error for this module."""
        return FormatError(f"{self.where}: {printable(self.name)!r}: {what}")

    def part(self, name: str, beside: str) -> Tensor:
        """The part of this name; raises FormatError where it is missing beside another."""
        if name not in self.parts:
            raise self.wrong(f"has half an adapter: {beside} without {name}; the file is not complete")
        return self.parts[name]


@dataclass(frozen=True)
class Adapter:
    """`modules` by name; `saved` are tensors that stand for the base's own, by their names there (modules_to_save,
    biases). `joined`: names have underscores for the dots of the base's (kohya). `architecture`:
    names and layouts are those of GGUF (gguf.py). `notes`: findings worth a line.
    """

    where: str
    settings: Settings
    modules: Mapping[str, Module]
    saved: Mapping[str, Tensor] = field(default_factory=dict)
    joined: bool = False
    architecture: str = ""
    notes: tuple[str, ...] = ()


def modules_of(
    tensors: Mapping[str, Tensor], parts: Mapping[str, Part], settings: Settings, where: str, prefix: str = ""
) -> dict[str, Module]:
    """The modules by name, of {the tensor's name: what part it is}; alphas, which are tensors of one element, are read.
    `prefix` is no part of the modules' names.

    Raises FormatError where an alpha is no number.
    """
    held: dict[str, dict[str, Tensor]] = {}
    for name, part in parts.items():
        tensor = tensors[name]
        if part.part.endswith("'"):
            if len(tensor.shape) != 2 or not tensor.size:
                raise FormatError(f"{where}: tensor {printable(name)!r}: {tensor.shape}, expected a matrix")
            tensor = turned(tensor)
        held.setdefault(part.module, {})[part.part.rstrip("'")] = tensor
    shared = {part: tensor for module in held.values() for part, tensor in module.items() if part in _SHARED}
    made: dict[str, Module] = {}
    for name, own in held.items():
        alpha = own.pop("alpha", None)
        if rest := {part: tensor for part, tensor in own.items() if part not in _SHARED}:
            number = None if alpha is None else _number(alpha, where)
            made[name] = Module(name.removeprefix(prefix), rest, settings, where, shared, number)
    return made


_SHARED = frozenset({"vera_A", "vera_B"})


def _number(tensor: Tensor, where: str) -> float:
    value = float(floats_of(tensor, 0, 1)[0]) if tensor.size == 1 and tensor.dtype.kind is Kind.FLOAT else float("nan")
    if not isfinite(value):
        raise FormatError(f"{where}: tensor {printable(tensor.name)!r}: expected one number, an adapter's alpha")
    return value
