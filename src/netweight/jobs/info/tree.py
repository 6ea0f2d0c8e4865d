"""The tensors of a checkpoint as a tree, equal neighbours (layers, experts) folded into one branch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from netweight.checkpoint.tensor import Tensor

__all__ = ["Branch", "grow"]

_LEVELS = 24  # dots beyond this stay part of the last label
_NUMBER = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True)
class Branch:
    """A part of the tree: `label` is what its names share, `times` how many equal neighbours it stands for.

    `tensors`, `parameters` (elements) and `bytes` count all of them together (its children: those of one of them);
    `shape` and `dtype` are those of a single tensor.
    """

    label: str
    times: int
    tensors: int
    parameters: int
    bytes: int
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    children: tuple[Branch, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The branch and all below it, for JSON."""
        entry: dict[str, Any] = {
            "label": self.label,
            "times": self.times,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.bytes,
        }
        if self.shape is not None:
            entry |= {"shape": list(self.shape), "dtype": self.dtype}
        if self.children:
            entry["children"] = [child.to_dict() for child in self.children]
        return entry


class _Node:
    """A branch while it grows: the tensor of its name, where there is one, and its children by word."""

    __slots__ = ("children", "tensor")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.tensor: Tensor | None = None


def grow(tensors: Iterable[Tensor], root: str = "") -> Branch:
    """The tree of `tensors` by the dots in their names, in the order given, numbers ascending."""
    top = _Node()
    for tensor in tensors:
        node = top
        for word in tensor.name.split(".", _LEVELS):
            node = node.children.setdefault(word, _Node())
        node.tensor = tensor
    return _finish(root, top, {})[0]


def _finish(label: str, node: _Node, forms: dict[object, int]) -> tuple[Branch, int]:
    """The branch under `label`, and the number of its form."""
    own = node.tensor
    finished = [(word, *_finish(word, child, forms)) for word, child in _in_order(node.children)]
    children = _fold(finished)
    shape, dtype = (own.shape, own.stored) if own else (None, None)
    form = forms.setdefault((shape, dtype, tuple((word, form) for word, _, form in finished)), len(forms))
    branch = Branch(
        label=label,
        times=1,
        tensors=bool(own) + sum(child.tensors for child in children),
        parameters=(own.size if own else 0) + sum(child.parameters for child in children),
        bytes=(own.file_bytes if own else 0) + sum(child.bytes for child in children),
        shape=shape,
        dtype=dtype,
        children=children,
    )
    if own is None and len(children) == 1 and label:
        only = children[0]
        branch = Branch(f"{label}.{only.label}", only.times, *_totals(only), only.shape, only.dtype, only.children)
    return branch, form


def _totals(branch: Branch) -> tuple[int, int, int]:
    return branch.tensors, branch.parameters, branch.bytes


def _in_order(children: dict[str, _Node]) -> list[tuple[str, _Node]]:
    """The children as they came, but numbers by value."""
    numbered = sorted((word for word in children if _NUMBER.fullmatch(word)), key=lambda word: (int(word), word))
    rest = iter(numbered)
    return [(word, children[word]) for word in (next(rest) if _NUMBER.fullmatch(w) else w for w in children)]


def _fold(finished: list[tuple[str, Branch, int]]) -> tuple[Branch, ...]:
    """Runs of numbers whose branches have one form become one branch each."""
    folded: list[Branch] = []
    at = 0
    while at < len(finished):
        word, branch, form = finished[at]
        end = at + 1
        if _NUMBER.fullmatch(word):
            while end < len(finished) and finished[end][2] == form and finished[end][0] == str(int(word) + end - at):
                end += 1
        times = end - at
        if times > 1:
            below = branch.label[len(word) :]
            label = f"{word}-{finished[end - 1][0]}{below}"
            tensors, parameters, size = (total * times for total in _totals(branch))
            branch = Branch(
                label, branch.times * times, tensors, parameters, size, branch.shape, branch.dtype, branch.children
            )
        folded.append(branch)
        at = end
    return tuple(folded)
