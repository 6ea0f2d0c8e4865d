"""A model of GGUF as the hub has it: its names, and what llama.cpp's converter has done to its tensors undone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from netweight.checkpoint.gguf.apart import BLOCK, Heads, apart, heads_of, scaled
from netweight.checkpoint.gguf.layouts import JOINS, MOST, in_runs, one_by_one, transposed
from netweight.checkpoint.gguf.names import ARCHITECTURES, DERIVED, Dialect
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.checkpoint.tensors.computed import LOG_OF_MINUS, MINUS_ONE, ComputedTensor
from netweight.dtypes import DTYPES
from netweight.errors import FormatError, printable

__all__ = ["as_on_hub"]

_EXPERT = re.compile(r"(ffn_gate|ffn_up|ffn_down)\.(\d{1,6})\.weight")  # of files before experts were stacked
_Named = list[tuple[str, Tensor]]


def as_on_hub(
    tensors: Mapping[str, Tensor], fields: Mapping[str, Any], where: str
) -> tuple[dict[str, Tensor], tuple[Skipped, ...], tuple[str, ...]]:
    """(The tensors under their names on the hub, what is left out, notes). `fields` are the file's metadata, `where`
    names the model in messages. What no row knows keeps its name, and a note says so.

    Raises FormatError where two tensors would have one name, or where a shape does not allow what has to be undone.
    """
    architecture = fields.get("general.architecture")
    dialect = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
    if dialect is None:
        shown = printable(str(architecture), 40)
        note = (
            f"its architecture, {shown}, is not known here: tensors have the names and layouts of GGUF, not the hub's"
        )
        return dict(tensors), (), (note,)
    heads = heads_of(fields)
    tensors, inputs = scaled(tensors, where)
    tensors = apart(tensors, dialect, heads, where)
    own = _Translation(dialect, heads, where)
    named: dict[str, Tensor] = {}
    for name, tensor in chain.from_iterable(own.of(name, tensor, tensors) for name, tensor in tensors.items()):
        if name in named:
            raise FormatError(f"{where}: two tensors are {printable(name)!r} by the names of the hub; expected one")
        named[name] = tensor
    notes = []
    if own.unknown:
        shown = ", ".join(printable(name) for name in own.unknown[:4])
        more = f" and {len(own.unknown) - 4} more" if len(own.unknown) > 4 else ""
        notes.append(f"{len(own.unknown)} tensors keep their names of GGUF, which has none on the hub: {shown}{more}")
    skipped = tuple(Skipped(name, DERIVED[name]) for name in tensors if name in DERIVED)
    return named, (*skipped, *inputs), tuple(notes)


class _Translation:
    """One file's names; `unknown` collects those that no row knows."""

    def __init__(self, dialect: Dialect, heads: Heads, where: str) -> None:
        self._dialect = dialect
        self._heads = heads
        self._where = where
        self.unknown: list[str] = []

    def of(self, name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> _Named:
        """What a tensor of the file is on the hub; nothing where it is part of another, or derived."""
        if name in DERIVED:
            return []
        match = BLOCK.fullmatch(name)
        layer = int(match[2]) if match else 0
        if match:
            table, prefix = self._dialect.blocks.get(match[1], {}), self._dialect.layers.get(match[1], "")
            rest, prefix = match[3], prefix.replace("#", match[2])
        else:
            table, rest, prefix = self._dialect.top, name, ""
        joined = self._joined(name, rest, prefix, tensors) if match else None
        if joined is not None:
            return joined
        single = _EXPERT.fullmatch(rest)
        if single and f"{single[1]}_exps" in table:
            to = table[f"{single[1]}_exps"].removeprefix("each:").replace("*", single[2])
            return [(f"{prefix}{to}.weight", tensor)]
        stem, _, leaf = rest.rpartition(".")
        to = table.get(rest) or table.get(stem, "")
        sibling, instead = self._dialect.beside.get(stem, ("", ""))
        if sibling and name.removesuffix(rest) + sibling in tensors:
            to = instead
        if not to or (leaf not in {"weight", "bias"} and rest not in table):
            self.unknown.append(name)
            return [(name, tensor)]
        return self._laid_out(to, leaf, prefix, tensor, layer)

    def _laid_out(self, to: str, leaf: str, prefix: str, tensor: Tensor, layer: int) -> _Named:
        """`tensor` under the name of a row, laid out as it says."""
        how, _, name = to.rpartition(":")
        full = f"{prefix}{name[1:]}" if name.startswith("=") else f"{prefix}{name}.{leaf}"
        if how == "rotated":
            heads = self._heads.of(layer, keys=".k_proj" in name)
            return [(full, self._halves(full, tensor, heads))]
        if how == "grouped":
            return [(full, self._grouped(full, tensor, layer))]
        if how == "less one":
            return [(full, ComputedTensor(full, tensor.shape, DTYPES["F32"], tensor, MINUS_ONE))]
        if how == "log of minus":
            return [(full, ComputedTensor(full, tensor.shape, DTYPES["F32"], tensor, LOG_OF_MINUS))]
        if how == "turned" and len(tensor.shape) == 2:
            return [(full, transposed(full, tensor))]
        if how == "column" and len(tensor.shape) == 2:
            return [(full, replace(tensor, name=full, shape=(tensor.shape[0], 1, tensor.shape[1])))]
        if how == "each" and (len(tensor.shape) < 2 or not tensor.size or tensor.shape[0] > MOST):
            raise self._does_not_fit(full, tensor, f"a stack of matrices, at most {MOST}")
        if how == "each":
            return one_by_one(full, tensor)
        return [(full, replace(tensor, name=full))]

    def _halves(self, name: str, tensor: Tensor, heads: int | None) -> Tensor:
        """Rows of each head: those that GGUF has one after the other, first and second half by turns, in halves."""
        rows = tensor.shape[0] if tensor.shape else 0
        if heads is None or rows % (2 * heads) or not rows:
            raise self._does_not_fit(name, tensor, f"rows for {heads} heads, of an even number each")
        half = rows // heads // 2
        return in_runs(name, tensor, ((2 * half * head + part, half, 2) for head in range(heads) for part in (0, 1)))

    def _grouped(self, name: str, tensor: Tensor, layer: int) -> Tensor:
        """Rows of q, of k and of v as they are on the hub: together for each head of keys, with its queries first."""
        queries, keys = (self._heads.of(layer, keys=side) for side in (False, True))
        rows = tensor.shape[0] if tensor.shape else 0
        if not queries or not keys or queries % keys or rows % (queries + 2 * keys) or not rows:
            raise self._does_not_fit(name, tensor, f"rows for {queries} heads of queries and {keys} of keys and values")
        size = rows // (queries + 2 * keys)
        each = queries // keys * size
        key = queries * size
        runs = (
            run
            for group in range(keys)
            for run in (
                (group * each, each, 1),
                (key + group * size, size, 1),
                (key + (keys + group) * size, size, 1),
            )
        )
        return in_runs(name, tensor, runs)

    def _does_not_fit(self, name: str, tensor: Tensor, expected: str) -> FormatError:
        shape = printable(str(list(tensor.shape)))
        return FormatError(
            f"{self._where}: tensor {printable(tensor.name)!r}: shape {shape} of {printable(name)!r}, expected"
            f" {expected}"
        )

    def _joined(self, name: str, rest: str, prefix: str, tensors: Mapping[str, Tensor]) -> _Named | None:
        """What several tensors of a block are together on the hub, at the first of them; None where this is not one."""
        before = name.removesuffix(rest)
        joins = JOINS.get(self._dialect.model_type, ())
        for join in joins:
            if rest in join.parts:
                held = [tensors.get(before + part) for part in join.parts]
                missing = [part for part, tensor in zip(join.parts, held, strict=True) if tensor is None]
                if missing:
                    raise FormatError(
                        f"{self._where}: tensor {printable(name)!r} is there, and {printable(before + missing[0])!r},"
                        " which makes one weight with it, is not"
                    )
                if rest != join.parts[0]:
                    return []
                full = prefix + join.name
                if len(tensors[name].shape) == 3 and tensors[name].shape[0] > MOST:
                    raise self._does_not_fit(full, tensors[name], f"a stack of matrices, at most {MOST}")
                made = join.make(full, *(tensor for tensor in held if tensor is not None))
                if made is None:
                    raise self._does_not_fit(full, tensors[name], f"one that fits {join.parts[-1]} beside it")
                return [(full, made)]
        return None
