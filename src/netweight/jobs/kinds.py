"""The kind of each fine-tune: its parameters as `measures.kind` takes them, and the sample of matrices looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Checkpoint, Skipped
from netweight.checkpoint.tensors.updates import UpdateTensor
from netweight.measures.kind import Changed, Kind
from netweight.measures.kind_rules import kind_of
from netweight.params.layouts.fused import Layout, layout_of
from netweight.params.modules import is_top, module_of
from netweight.params.pairing import Aligned, Coverage, Pair
from netweight.params.role import Parameter
from netweight.run.execute import Executor
from netweight.run.progress import Progress

if TYPE_CHECKING:
    from netweight.passes.samples import Budget

__all__ = ["Updates", "changed_parameter", "kind_from", "layout_of_base", "look_at_updates", "side_by_side"]

Updates = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""{parameter: {number of the model: fields of measures.update}} of the matrices that were looked at."""


def layout_of_base(base: Checkpoint) -> Layout:
    """How the tensors of the base are laid out."""
    return layout_of({name: tensor.shape for name, tensor in base.items()}, base.config)


def look_at_updates(
    parameters: Sequence[Aligned],
    changed: Sequence[Collection[str]],
    layout: Layout,
    budget: Budget,
    memory: int,
    executor: Executor,
    progress: Progress,
    *,
    resumable: bool,
) -> tuple[Updates, dict[str, Skipped]]:
    """Look at a sample of the matrices `changed` [models] by each, as many at a time as `memory` bytes hold, one
    always. `progress` is told of as many matrices and bytes as `budget` says.

    Returns the updates, and what could not be read; where a run is `resumable`, raises ReadError of that.
    """
    from netweight.passes.samples import SCRATCH, choose_samples, measure_samples

    samples = choose_samples(parameters, changed, layout)
    held = SCRATCH + max((sum(t.scratch for t in (s.base, *(t for _, t in s.models))) for s in samples), default=0)
    results = measure_samples(
        samples,
        executor,
        max(1, memory // held),
        lambda nbytes: progress.advance(1, nbytes),
        resumable=resumable,
    )
    progress.advance(budget.matrices - len(samples), budget.nbytes - sum(s.nbytes for s in samples))
    failed = {name: result for name, result in results.items() if isinstance(result, Skipped)}
    return {name: result for name, result in results.items() if not isinstance(result, Skipped)}, failed


def side_by_side(pairs: Iterable[Pair]) -> list[Aligned]:
    """The pairs that can be compared, as base and one model; updates of adapters are none."""
    usable = (p for p in pairs if not p.reason and not isinstance(p.a, UpdateTensor))
    return [Aligned(p.name, p.parameter, p.a, (p.b,)) for p in usable]


def changed_parameter(
    parameter: Parameter,
    shape: Sequence[int],
    size: int,
    changed: int,
    coded: tuple[str, str],
    update: Mapping[str, Any] | None,
) -> Changed:
    """One parameter of `size` elements, of which `changed` are not the same; `coded`: how base and model have it where
    that is as codes of a quantisation, else empty.
    """
    of_base, of_model = coded
    return Changed(
        parameter.name,
        module_of(parameter),
        parameter.layer_group or "",
        size,
        changed,
        parameter.kind == "weight" and len(shape) > 1 and shape[0] > 1 and size > shape[0],
        is_top(parameter),
        of_model,
        of_base,
        update,
    )


def kind_from(parameters: Sequence[Changed], coverage: Coverage | None, sides: tuple[str, str]) -> Kind:
    """The kind of one model; `sides`: what its base and itself are called."""
    if coverage is None or coverage.complete:
        return kind_of(parameters)
    a, b = (f"{100 * part:.3g}%" for part in coverage)
    return kind_of(parameters, f"{a} of {sides[0]}, {b} of {sides[1]}")
