"""The work of measuring, counted from the frozen plans of `scan`, `delta` and `compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netweight.jobs.estimate import flops as flops_of
from netweight.jobs.estimate.load import Kinds, Load, Probe, Step, longest_stretch, total

if TYPE_CHECKING:
    from netweight.dtypes import DType
    from netweight.jobs.compare.plan import Prepared as Compared
    from netweight.jobs.delta.plan import Prepared as Differing
    from netweight.jobs.estimate.rates import Rate
    from netweight.jobs.scan.plan import Prepared as Scanned
    from netweight.measures.registry import Measure
    from netweight.passes.scans import Load as Matrix

__all__ = ["compare_load", "delta_load", "names_of", "scan_load"]


def scan_load(prepared: Scanned) -> Load:
    """Of `jobs.scan.Prepared`."""
    notes = [*prepared.notes]
    steps, heaviest = _scan_steps(prepared.loads, prepared.measures)
    if any("spectrum" in m.needs for m in prepared.measures):
        notes.append("matrices whose smallest singular value is below 1e-6 of the largest take longer")
    return Load(
        ", ".join(m.name for m in prepared.measures),
        (prepared.checkpoint,),
        prepared.plan.nbytes,
        prepared.plan.workers,
        prepared.plan.memory,
        steps,
        heaviest=heaviest,
        notes=tuple(notes),
        on_gpu=True,
    )


def _scan_steps(loads: Sequence[Matrix], measures: Sequence[Measure]) -> tuple[tuple[Step, ...], dict[str, int]]:
    """The steps, and those of the matrix that takes longest, which is the first one."""
    from netweight.measures.registry import needed
    from netweight.passes.matrices import LONGEST_ROW
    from netweight.statistics.channels import CHANNELS

    others = tuple(m for m in measures if "spectrum" not in m.needs)
    spectral = tuple(m for m in measures if "spectrum" in m.needs)
    named, gram_name = ", ".join(m.name for m in others), "Gram matrices"
    # with another set of measures they take another time, which the rates' file must tell apart
    eigen_name = f"eigenvalues: {', '.join(m.name for m in spectral)}"
    values: Kinds[DType] = Kinds()
    grams, eigen = Counter[int](), Counter[int]()
    heaviest: dict[str, int] = {}
    for load in loads:
        subject = load.subject
        parts: dict[str, int] = {}
        if others:
            values.add(subject.tensor.dtype, subject.part.size)
            parts[f"values {subject.tensor.dtype}: {named}"] = subject.part.size
        short, long = sorted(subject.part.stored_shape)
        row = subject.part.stored_shape[1] * subject.tensor.dtype.bits // 8
        if spectral and short > 1 and row <= LONGEST_ROW:
            parts[gram_name] = flops_of.gram_flops(short, long)
            parts[eigen_name] = flops_of.eigenvalue_flops(short)
            grams[parts[gram_name]] += 1
            eigen[parts[eigen_name]] += 1
        heaviest = heaviest or parts
    steps = []
    for dtype, items in values.found():
        each = (flops_of.WIDE_VALUES if dtype.bits > 16 else 0) + flops_of.CHANNELS * (CHANNELS in needed(others))
        name = f"values {dtype}: {named}"
        steps.append(Step(name, "element", items, each * total(items), _values_probe(dtype, others)))
    if grams:
        probe = _spectrum_probe(spectral)
        steps.append(Step(gram_name, "FLOP", grams, total(grams), probe))
        steps.append(Step(eigen_name, "FLOP", eigen, total(eigen), probe, place=1))
    return tuple(steps), heaviest


def _values_probe(dtype: DType, measures: Sequence[Measure]) -> Probe:
    def probe(kernels: Any, _: Any) -> tuple[Rate, ...]:
        from netweight.jobs.estimate.probes import probe_values

        return (probe_values(dtype, measures, kernels),)

    return probe


def _spectrum_probe(measures: Sequence[Measure]) -> Probe:
    def probe(kernels: Any, _: Any) -> tuple[Rate, ...]:
        from netweight.jobs.estimate.probes import probe_spectrum

        return probe_spectrum(measures, kernels)

    return probe


def delta_load(prepared: Differing) -> Load:
    """Of `jobs.delta.Prepared`."""
    kinds: Kinds[tuple[DType, ...]] = Kinds()
    for aligned in prepared.alignment.parameters:
        present = tuple(t.dtype for t in (aligned.base, *aligned.models) if t is not None)
        kinds.add(present, aligned.base.size)
    steps = []
    for dtypes, items in kinds.found():
        flops = flops_of.differences_flops(len(dtypes) - 1) * total(items)
        steps.append(Step(f"differences {names_of(dtypes)}", "element", items, flops, _differences_probe(dtypes)))
    plan = prepared.plan
    return Load(
        f"{len(prepared.models)} task {'vectors' if len(prepared.models) > 1 else 'vector'}",
        (prepared.base, *prepared.models),
        plan.nbytes,
        plan.workers,
        plan.memory,
        tuple(steps),
        heaviest=longest_stretch(steps, (a.base.size for a in prepared.alignment.parameters)),
        notes=prepared.notes,
        on_gpu=True,
    )


def names_of(dtypes: Sequence[DType]) -> str:
    """`BF16-BF16`, `BF16-3xF16`: the base, then runs of models."""
    first, rest = dtypes[0], Counter(dtypes[1:])
    return "-".join([first.name, *(f"{count}x{d}" if count > 1 else d.name for d, count in rest.items())])


def _differences_probe(dtypes: Sequence[DType]) -> Probe:
    def probe(kernels: Any, _: Any) -> tuple[Rate, ...]:
        from netweight.jobs.estimate.probes import probe_differences

        return (probe_differences(dtypes, kernels),)

    return probe


def compare_load(prepared: Compared) -> Load:
    """Of `jobs.compare.Prepared`."""
    kinds: Kinds[tuple[DType, DType]] = Kinds()
    pairs = [p for p in prepared.pairing.pairs if not p.reason]
    for pair in pairs:
        kinds.add((pair.a.dtype, pair.b.dtype), pair.a.size)
    steps = []
    for (a, b), items in kinds.found():
        steps.append(
            Step(f"pairs {names_of((a, b))}", "element", items, flops_of.PAIRS * total(items), _pairs_probe(a, b))
        )
    heaviest = longest_stretch(steps, (p.a.size for p in pairs))
    if prepared.sides is not None:
        scanned, heaviest = _scan_steps(prepared.sides.loads, prepared.sides.measures)
        steps += scanned
    plan = prepared.plan
    return Load(
        ", ".join(prepared.methods),
        (prepared.a, prepared.b),
        prepared.nbytes,
        plan.workers,
        plan.memory,
        tuple(steps),
        heaviest=heaviest,
        notes=prepared.notes,
        on_gpu=True,
    )


def _pairs_probe(a: DType, b: DType) -> Probe:
    def probe(kernels: Any, _: Any) -> tuple[Rate, ...]:
        from netweight.jobs.estimate.probes import probe_pairs

        return (probe_pairs(a, b, kernels),)

    return probe
