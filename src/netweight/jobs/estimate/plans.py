"""A job's own plan, made from headers as its dry run makes it, and the work in it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from netweight.checkpoint.open import open_checkpoint
from netweight.dtypes import DType, Kind
from netweight.jobs.estimate import flops as flops_of
from netweight.jobs.estimate.load import Kinds, Load, Probe, Step, longest_stretch, total
from netweight.run.memory import available_cores

if TYPE_CHECKING:
    from netweight.checkpoint.tensor import Tensor
    from netweight.jobs.embeddings.plan import Prepared
    from netweight.jobs.estimate.asked import Asked
    from netweight.jobs.estimate.rates import Rate

__all__ = ["load_of"]

T = TypeVar("T")

_RECIPES = (".yml", ".yaml")
_HEADERS = 64 << 20  # bytes that reading headers alone takes at most
_ITERATIONS = 30  # of k-means over all rows: between the few of clear clusters and the most, 100


def load_of(asked: Asked, device: str, stack: ExitStack, *, multi: bool = False) -> Load:
    """Open what the job opens, and plan it for this device; everything is closed with `stack`. Raises what the job
    raises before it reads data.
    """
    if asked.job == "scan":
        from netweight.jobs.estimate.counts import scan_load
        from netweight.jobs.scan import plan as scan

        measures = scan.choose(asked.methods or None, None)
        return scan_load(scan.prepare(asked.ref, measures, _options(scan.Options, asked, device, multi=multi), stack))
    if asked.job == "delta":
        from netweight.jobs.delta import plan as delta
        from netweight.jobs.estimate.counts import delta_load

        models = (asked.ref, *asked.models)
        options = _options(delta.Options, asked, device, multi=multi)
        return delta_load(delta.prepare(str(asked.base), models, options, stack))
    if asked.job == "compare":
        from netweight.jobs.compare import plan as compare
        from netweight.jobs.estimate.counts import compare_load

        methods = compare.choose(asked.methods or compare.METHODS[:1])
        given = _options(compare.Options, asked, device, multi=multi)
        return compare_load(compare.prepare(asked.ref, asked.models[0], methods, given, stack))
    if asked.job == "merge":
        from netweight.jobs.estimate.merge import merge_load
        from netweight.jobs.merge import plan as merge
        from netweight.jobs.merge.request import Options

        return merge_load(merge.prepare(_request(asked), _options(Options, asked, device, multi=multi), stack))
    if asked.job == "embeddings":
        from netweight.jobs.embeddings import plan as embeddings

        embeddings.require_sklearn()
        chosen = _options(embeddings.Options, asked, device, multi=multi)
        return _embeddings_load(embeddings.prepare(asked.ref, chosen, stack), chosen.max_k)
    return _structure_load(asked, stack)


def _options(kind: type[T], asked: Asked, device: str, *, multi: bool) -> T:
    """The job's own options. Of a hub's models headers are read by ranges; nothing is fetched into the cache."""
    given = {name: getattr(asked, name) for name in ("include", "exclude", "workers", "memory")}
    given |= {"device": device, "multi_gpu": multi, "remote": True}
    taken = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given.items() if name in taken})


def _request(asked: Asked) -> Any:
    from netweight.jobs.merge.request import make_request

    recipe = asked.ref if asked.ref.lower().endswith(_RECIPES) and Path(asked.ref).is_file() else None
    return make_request(
        recipe,
        base=asked.base,
        models=asked.models if recipe else (asked.ref, *asked.models),
        method=asked.methods[0] if asked.methods else None,
        weights=None,
        settings={},
        dtype=None,
    )


def _structure_load(asked: Asked, stack: ExitStack) -> Load:
    """Of `structure`, and of `info`: headers, with --deep all weights of the model."""
    refs = [ref for ref in (asked.ref, asked.base) if ref is not None]
    opened = [stack.enter_context(open_checkpoint(ref, download=False)) for ref in refs]
    tensors: list[Tensor] = list(opened[0].values()) if asked.deep else []
    workers = (asked.workers or available_cores()) if asked.deep else 1
    kinds: Kinds[DType] = Kinds()
    for tensor in tensors:
        if tensor.dtype.kind is Kind.FLOAT:
            kinds.add(tensor.dtype, tensor.size)
    steps = [Step(f"zeros {d}", "element", items, 0, _zeros_probe(d)) for d, items in kinds.found()]
    notes = () if asked.base is None else ("where layers were removed, some 20 kB of each layer are read",)
    return Load(
        "headers and weights (--deep)" if asked.deep else "headers",
        tuple(opened),
        sum(t.nbytes for t in tensors),
        workers,
        workers * _HEADERS,
        tuple(steps),
        heaviest=longest_stretch(steps, (t.size for t in tensors)),
        notes=notes,
    )


def _zeros_probe(dtype: DType) -> Probe:
    def probe(*_: Any) -> tuple[Rate, ...]:
        from netweight.jobs.estimate.probes import probe_zeros

        return (probe_zeros(dtype),)

    return probe


def _embeddings_load(prepared: Prepared, max_k: int) -> Load:
    """Of `embeddings`, with all iterations of its search, and _ITERATIONS over all rows for half of the
    largest k.
    """
    from netweight.jobs.embeddings.search import BEYOND, RESTARTS, SEARCH_ITERATIONS

    rows, cols = prepared.embedding.tensor.shape
    most = min(max_k + BEYOND, prepared.sampled - 1)
    fits = Counter[int]()
    for k in range(2, most + 1):
        fits[SEARCH_ITERATIONS * flops_of.kmeans_flops(prepared.sampled, cols, k)] += RESTARTS + 1
    fits[flops_of.seeding_flops(prepared.sampled, cols, most)] += RESTARTS
    whole = Counter[int]()
    whole[sum(flops_of.kmeans_flops(rows, cols, k) for k in range(2, min(max_k, most) + 1))] += 1
    whole[flops_of.kmeans_flops(rows, cols, max(2, max_k // 2))] += _ITERATIONS
    probe = _kmeans_probe(cols)
    steps = (
        Step(f"k-means of a sample, {cols} columns", "FLOP", fits, total(fits), probe),
        Step(f"k-means of all rows, {cols} columns", "FLOP", whole, total(whole), probe),
    )
    return Load(
        f"{rows} rows of {cols}, k from 2 to {max_k}",
        (prepared.checkpoint,),
        prepared.embedding.tensor.nbytes,
        prepared.workers,
        prepared.memory,
        steps,
        notes=(
            *prepared.notes,
            f"how long k-means takes depends on the data: {_ITERATIONS} iterations over all rows are reckoned with",
            "the scan of the embedding at its end is not in it",
        ),
    )


def _kmeans_probe(cols: int) -> Probe:
    def probe(*_: Any) -> tuple[Rate, ...]:
        from netweight.jobs.estimate.probes import probe_kmeans

        rate = probe_kmeans(cols)
        return rate, rate

    return probe
