"""torch's DTensor in a pickle: one rank's share of a tensor, and where it lies in the whole.

A DTensor is pickled with its local tensor and a DTensorSpec: the mesh of ranks with this rank's coordinate, how every
axis of the mesh cuts the tensor (`placements`), and the whole tensor's shape. No class that the pickle names is built.
Source: _dtensor_spec.py and placement_types.py of torch/distributed/tensor, torch/distributed/device_mesh.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeGuard

from netweight.checkpoint.pickle_nodes import Call, Global, Mapped

__all__ = ["is_dtensor", "local_tensor", "offsets_of"]


def is_dtensor(node: Call) -> bool:
    """Whether the call `node` makes a DTensor."""
    of = node.args[1] if len(node.args) == 4 and node.of.startswith("torch._tensor._rebuild_from_type") else None
    return isinstance(of, Global) and of.name == "DTensor" and of.module.startswith("torch.distributed.")


def local_tensor(node: Call) -> Any:
    """The node of the tensor that this rank holds."""
    return _attributes(node).get("_local_tensor")


def offsets_of(node: Call, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(Where the local tensor of `shape` begins in the whole, the shape of the whole); None where that is not known:
    what is added up of several ranks, other ways of cutting than by `torch.chunk`, or what does not fit together.
    """
    spec = _state(_attributes(node).get("_spec"))
    about, placements, mesh = spec.get("tensor_meta"), spec.get("placements"), _state(spec.get("mesh"))
    whole = about.args[0] if isinstance(about, Call) and about.args else None
    coordinate, sizes = mesh.get("_coordinate_on_dim"), _sizes(mesh)
    if not isinstance(placements, tuple) or not sizes or not _counts(whole) or not _counts(coordinate):
        return None
    if not len(placements) == len(coordinate) == len(sizes):
        return None
    starts, left = [0] * len(whole), list(whole)
    for placement, at, size in zip(placements, coordinate, sizes, strict=True):
        kind = placement.function.name if isinstance(placement, Call) and isinstance(placement.function, Global) else ""
        if kind == "Replicate":
            continue
        axis = _state(placement).get("dim")
        if kind != "Shard" or type(axis) is not int or not 0 <= axis < len(whole) or not at < size:
            return None
        step = -(-left[axis] // size)
        begin = min(left[axis], step * at)
        starts[axis] += begin
        left[axis] = min(step, left[axis] - begin)
    return (tuple(starts), tuple(whole)) if tuple(left) == shape else None


def _attributes(node: Call) -> Mapped:
    state = node.args[3]
    if isinstance(state, tuple) and len(state) == 2:
        state = state[1]  # those of slots, as the class has them
    return state if isinstance(state, Mapped) else Mapped([])


def _state(node: Any) -> Mapped:
    return node.state if isinstance(node, Call) and isinstance(node.state, Mapped) else Mapped([])


def _sizes(mesh: Mapped) -> tuple[int, ...]:
    """Ranks along every axis of the mesh: of its layout, or before torch 2.9 of the tensor of ranks."""
    layout = _state(mesh.get("_layout"))
    axes = layout.get("axes")
    if isinstance(axes, tuple):
        shapes = [_state(axis).get("shape") for axis in axes]
        return tuple(prod(shape) for shape in shapes) if all(_counts(shape) for shape in shapes) else ()
    shape = layout.get("shape")
    if shape is None:
        ranks = mesh.get("mesh")
        shape = ranks.args[2] if isinstance(ranks, Call) and len(ranks.args) > 2 else None
    return tuple(shape) if _counts(shape) else ()


def _counts(value: Any) -> TypeGuard[Sequence[int]]:
    some = isinstance(value, (tuple, list)) and len(value) <= 64
    return some and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
