"""The work of `embeddings`: measures the rows, searches k, fits and describes the clusters."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netweight.errors import JobError, printable
from netweight.jobs.embeddings.rows import Rows, held_in_memory, measure_rows
from netweight.jobs.embeddings.tokens import Tokens
from netweight.jobs.inputs import identity, locations
from netweight.run.progress import Progress, compiling

if TYPE_CHECKING:
    from netweight.jobs.embeddings.fit import Clusters
    from netweight.jobs.embeddings.plan import Options, Prepared
    from netweight.jobs.embeddings.result import Cluster, CurvePoint, Embeddings
    from netweight.jobs.embeddings.search import Choice
    from netweight.kernels.arrays import Array
    from netweight.run.execute import Executor


__all__ = ["cluster_embedding"]

_SILHOUETTE_ROWS = 5_000
_NEAREST = 200  # rows in which a telling token is looked for
_MEASURE, _AFTER = 2, 20  # units of progress: measuring all rows, and what follows the clusters


def cluster_embedding(
    prepared: Prepared, options: Options, progress: Progress, executor: Executor | None
) -> Embeddings:
    """Measure all rows, search k, fit and describe the clusters, scan the embedding.

    Raises JobError where all rows are alike, ReadError.
    """
    import numpy as np

    from netweight.jobs.embeddings.fit import fit_rows
    from netweight.jobs.embeddings.heads import measure_agreement
    from netweight.jobs.embeddings.result import Embeddings
    from netweight.jobs.embeddings.search import one_thread_each
    from netweight.jobs.embeddings.unused import find_untrained
    from netweight.kernels.cpu.cluster_loops import load
    from netweight.run.threads import ThreadExecutor

    embedding, tokens = prepared.embedding, prepared.tokens
    # a remote tensor is held in memory, since each iteration reads it
    tensor = embedding.tensor if prepared.checkpoint.location is not None else held_in_memory(embedding.tensor)
    executor = executor or ThreadExecutor(prepared.workers)
    steps = _Steps(progress, prepared, options)
    with compiling(progress):
        load()
    with steps, one_thread_each():
        measured = measure_rows(tensor, executor)
        rows = measured.rows
        finite = np.flatnonzero(np.isfinite(measured.norms))
        rng = np.random.default_rng(options.random_state)
        fitted = _some(finite, options.sample, rng)
        shown = _some(finite, _SILHOUETTE_ROWS, rng)
        steps.advance(_MEASURE)
        curve, choice, centres = _search(prepared, options, rows, rows.pick(fitted), executor, steps)
        clusters = fit_rows(rows, centres, executor, steps.iterate)
        steps.finish_fit()
        spread, plane = _spread_and_plane(rows, shown, clusters)
        unused = {} if tokens is None else tokens.unused(tensor.shape[0])
        poor = find_untrained(rows, measured.norms, unused, executor)
        output = (
            embedding.output
            if embedding.head is None
            else measure_agreement(rows, measured.norms, embedding.head, executor)
        )
        steps.advance(_AFTER)
        texts = None if tokens is None else tuple(tokens.texts(list(range(tensor.shape[0]))))
    scanned = _scan_row(prepared, options)
    prepared.checkpoint.check_unchanged()
    lost = tensor.shape[0] - len(finite)
    return Embeddings(
        ref=prepared.checkpoint.ref,
        parameter=tensor.name,
        dtype=tensor.dtype.name,
        rows=tensor.shape[0],
        cols=tensor.shape[1],
        labels=clusters.labels,
        distances=clusters.distances,
        norms=measured.norms,
        clusters=_clusters(clusters, spread.clusters, tokens, texts, options),
        curve=curve,
        choice=choice,
        f=clusters.partition.f_ratio(),
        iterations=clusters.iterations,
        converged=clusters.converged,
        searched=len(fitted),
        silhouettes=spread,
        plane=plane,
        untrained=poor,
        output=output,
        scanned=scanned,
        texts=texts,
        tokenizer=prepared.tokenizer,
        seed=options.random_state,
        represented=not options.skip_representatives,
        notes=(*prepared.notes, *([f"{lost} rows hold NaN or infinities and are left out"] if lost else ())),
        inputs=[identity(prepared.checkpoint)],
        locations=tuple(locations([prepared.checkpoint])),
    )


def _spread_and_plane(rows: Rows, shown: Array, clusters: Clusters) -> tuple[Any, Any]:
    """The silhouettes of some rows, and the plane in which these are drawn."""
    from netweight.jobs.embeddings.fit import plane_of, silhouettes

    sample = rows.pick(shown)
    spread = silhouettes(sample, clusters.labels[shown], len(clusters.centres))
    return spread, plane_of(sample, shown, rows.scale)


def _some(numbers: Array, count: int, rng: Any) -> Array:
    """`count` of the numbers, ascending; all of them where there are no more."""
    import numpy as np

    return numbers if len(numbers) <= count else np.sort(rng.choice(numbers, count, replace=False))


def _search(
    prepared: Prepared, options: Options, rows: Rows, sample: Array, executor: Executor, steps: _Steps
) -> tuple[tuple[CurvePoint, ...], Choice, Array]:
    """F for every k, the k chosen, and the sample's centres for it."""
    import numpy as np

    from netweight.jobs.embeddings.result import CurvePoint
    from netweight.jobs.embeddings.search import BEYOND, choose, different_rows, fit_all, partitions
    from netweight.jobs.embeddings.splits import refit_breaks

    different = different_rows(sample, options.max_k + BEYOND)
    most = min(options.max_k, different, len(sample) - 1)
    if most < 2:
        raise JobError(
            f"{printable(prepared.checkpoint.ref)}: {printable(rows.tensor.name)}: clusters need at least 3 finite rows"
            f" and 2 different ones, got {len(sample)} and {different}"
        )
    ks = range(2, most + 1)
    fitted = range(2, min(options.max_k + BEYOND, different, len(sample) - 1) + 1)
    fits = fit_all(sample, fitted, options.random_state, executor, steps.advance)
    whole = float(np.einsum("ij,ij->", apart := sample - sample.mean(axis=0), apart, dtype=np.float64))
    refit_breaks(sample, fits, ks, whole, options.random_state, executor)
    tried = partitions(rows, [fits[k].centres for k in ks], executor)
    f, within = [p.f_ratio() for p in tried], [p.within_ss for p in tried]
    choice = choose(ks, f, {1: whole, **{k: fits[k].inertia for k in fitted}}, largest_k=options.max_k)
    curve = tuple(
        CurvePoint(k, value, left / rows.scale / rows.scale, fits[k].iterations)
        for k, value, left in zip(ks, f, within, strict=True)
    )
    return curve, choice, fits[choice.k].centres


def _clusters(
    clusters: Clusters,
    silhouettes: Sequence[float],
    tokens: Tokens | None,
    texts: Sequence[str | None] | None,
    options: Options,
) -> tuple[Cluster, ...]:
    import numpy as np

    from netweight.jobs.embeddings.result import Cluster, Representative

    result = []
    for number, count in enumerate(clusters.partition.counts.tolist()):
        members = np.flatnonzero(clusters.labels == number)
        apart = clusters.distances[members]
        near = members[np.argsort(apart, kind="stable")[:_NEAREST]].tolist()
        first = meaningful = None
        named: list[Representative] = []
        if not options.skip_representatives:
            named = [
                Representative(
                    i,
                    texts[i] if texts is not None else None,
                    tokens.pieces.get(i) if tokens is not None else None,
                    float(clusters.distances[i]),
                )
                for i in near[: options.n_representatives]
            ]
            first = named[0].text
        if tokens is not None and texts is not None:
            meaningful = next((texts[i] for i in near if tokens.is_word(i, texts[i])), None)
        result.append(
            Cluster(
                number,
                count,
                100 * count / clusters.partition.rows,
                float(apart.mean()),
                silhouettes[number],
                first,
                meaningful,
                tuple(named),
            )
        )
    return tuple(result)


def _scan_row(prepared: Prepared, options: Options) -> Any:
    """The embedding's row as `scan` gives it."""
    from netweight.jobs.scan.job import scan

    return scan(
        prepared.checkpoint.ref,
        methods=("basic_stats", "spectral"),
        include=(glob.escape(prepared.embedding.tensor.name),),
        count_tied_twice=True,
        split=False,
        workers=options.workers,
        memory=options.memory,
        remote=options.remote,
        device="cpu",
    )


class _Steps:
    """Progress in one unit for all phases: about what a fit to the sample takes, by its k."""

    def __init__(self, progress: Progress, prepared: Prepared, options: Options) -> None:
        from netweight.jobs.embeddings.fit import MOST_ITERATIONS
        from netweight.jobs.embeddings.search import BEYOND, RESTARTS

        self._progress = progress
        self._iterations = MOST_ITERATIONS + 1  # of the fit to all rows, at most
        search = (RESTARTS + 1) * sum(range(2, min(options.max_k + BEYOND, prepared.sampled - 1) + 1))
        self._total = _MEASURE + search + self._iterations + _AFTER

    def __enter__(self) -> None:
        self._progress.start(self._total, self._total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, units: int) -> None:
        self._progress.advance(units, units)

    def iterate(self) -> None:
        self._iterations -= 1
        self.advance(1)

    def finish_fit(self) -> None:
        """What the iterations would have taken that were not needed."""
        self.advance(self._iterations)
