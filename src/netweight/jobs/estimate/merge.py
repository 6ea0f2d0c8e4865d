"""The work of merging, counted from the frozen plan of `merge`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from netweight.jobs.estimate import flops as flops_of
from netweight.jobs.estimate.counts import names_of
from netweight.jobs.estimate.load import Kinds, Load, Probe, Step, longest_stretch, total

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.jobs.estimate.rates import Rate
    from netweight.jobs.merge.plan import Prepared
    from netweight.merging.target import Target

__all__ = ["merge_load"]

Kind: TypeAlias = "tuple[str | None, tuple[DType, ...], DType]"
"""Method, element types of the inputs and of the output."""


def merge_load(prepared: Prepared) -> Load:
    """Of `jobs.merge.Prepared`: where weights follow from norms, base and models are read twice."""
    from netweight.jobs.merge.weights import difference_targets

    kinds: Kinds[Kind] = Kinds()
    examples: dict[Kind, Target] = {}
    for target in prepared.plan.targets:
        kind = _kind_of(target)
        examples.setdefault(kind, target)
        kinds.add(kind, target.size)
    steps = []
    for kind, items in kinds.found():
        each = flops_of.merge_flops(len(kind[1])) if kind[0] else 0
        name = f"merge {kind[0] or 'copy'} {names_of(kind[1])} to {kind[2]}"
        steps.append(Step(name, "element", items, each * total(items), _probe(examples[kind], norms=False)))
    heaviest = longest_stretch(steps, (t.size for t in prepared.plan.targets))
    notes = [*prepared.plan.notes]
    if prepared.measures:
        norms: Kinds[Kind] = Kinds()
        wanted = difference_targets(prepared.plan.targets)
        for target in wanted:
            norms.add(_kind_of(target), target.size)
        for kind, items in norms.found():
            flops = flops_of.norms_flops(len(kind[1]) - 1) * total(items)
            probe = _probe(examples[kind], norms=True)
            steps.append(Step(f"norms {names_of(kind[1])}", "element", items, flops, probe))
        notes.append("weights follow from norms: base and models are read once more to measure them")
    return Load(
        f"{prepared.plan.recipe.method} of {len(prepared.plan.recipe.models)} models",
        tuple(prepared.plan.checkpoints),
        (2 if prepared.measures else 1) * prepared.read,
        prepared.workers,
        prepared.memory,
        tuple(steps),
        bytes_written=prepared.written,
        passes=2 if prepared.measures else 1,
        heaviest=heaviest,
        notes=tuple(notes),
        on_gpu=True,
    )


def _kind_of(target: Target) -> Kind:
    return target.method, tuple(source.pieces[0].tensor.dtype for source in target.inputs), target.dtype


def _probe(target: Target, *, norms: bool) -> Probe:
    def probe(_: Any, kernels: Any) -> tuple[Rate, ...]:
        from netweight.jobs.estimate.probes import probe_merge

        return (probe_merge(target, kernels, norms=norms),)

    return probe
