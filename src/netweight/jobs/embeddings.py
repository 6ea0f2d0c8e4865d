"""`embeddings`: the token embedding in clusters, how many by F, what they stand for, and rows that look untrained."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import InputError, Interrupted, JobError, OptionError, printable
from netweight.jobs.embedding_place import Place, find_embedding
from netweight.jobs.embedding_rows import Rows, held_in_memory, measured
from netweight.jobs.embedding_tokens import Tokens, open_tokens
from netweight.jobs.inputs import identity, locations
from netweight.run.memory import FLOOR, available_cores, default_budget
from netweight.run.progress import Progress, Silent, compiling

if TYPE_CHECKING:
    import numpy as np

    from netweight.jobs.embedding_fit import Clusters
    from netweight.jobs.embedding_result import Cluster, CurvePoint, Embeddings
    from netweight.jobs.embedding_search import Choice
    from netweight.run.execute import Executor

    Array = np.ndarray[Any, Any]

__all__ = ["Options", "Prepared", "embeddings", "prepare", "require_sklearn"]

Reference = str | os.PathLike[str]

_SILHOUETTE_ROWS = 5_000
_NEAREST = 200  # rows in which a telling token is looked for
_LOOK, _AFTER = 2, 20  # units of progress: the first look at all rows, what follows the clusters
_LIBRARIES = 160 << 20  # bytes that scikit-learn takes beside those of FLOOR


@dataclass(frozen=True)
class Options:
    """How `embeddings` runs: k from 2 to `max_k`; `sample` rows on which each k is fitted; `random_state` picks them
    and the first centres. `n_representatives` rows of each cluster are named, none with `skip_representatives`, which
    needs no tokenizer. `workers` (default: every core that memory allows), `memory` in bytes (default: the smaller of
    2 GiB and a quarter of the machine's), globs on parameter names. `remote`: the model of a hub is not fetched into
    the cache; its embedding is then held in memory.
    """

    max_k: int = 30
    sample: int = 20_000
    random_state: int = 0
    n_representatives: int = 10
    skip_representatives: bool = False
    workers: int | None = None
    memory: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    remote: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_k", 2), ("sample", 3), ("n_representatives", 1), ("random_state", 0)):
            value = getattr(self, name)
            if value < least:
                raise OptionError(f"--{name.replace('_', '-')} {value}: expected {least} or more")
        if self.random_state >= 1 << 32:
            raise OptionError(f"--random-state {self.random_state}: expected less than 2^32")


@dataclass(frozen=True)
class Prepared:
    """A checkpoint opened and its token embedding found; no tensor data read. `sampled` rows are fitted, by `workers`,
    in about `memory` bytes.
    """

    checkpoint: Checkpoint
    place: Place
    tokens: Tokens | None
    tokenizer: str
    sampled: int
    workers: int
    memory: int
    notes: tuple[str, ...]


def require_sklearn() -> None:
    """Raises JobError where scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as problem:
        raise JobError(
            "embeddings needs scikit-learn, which is not installed: pip install 'netweight[embeddings]'"
        ) from problem


def prepare(ref: Reference, options: Options, stack: ExitStack) -> Prepared:
    """Open the model and find its token embedding; the checkpoint is closed with `stack`. Reads headers, and the
    tokenizer.

    Raises InputError where there is no token embedding, or too few rows; OptionError where memory does not suffice.
    """
    checkpoint = stack.enter_context(open_checkpoint(ref, download=not options.remote))
    place = find_embedding(checkpoint, options.include, options.exclude)
    rows, cols = place.tensor.shape
    if rows < 3 or cols < 1:
        raise InputError(
            f"{printable(checkpoint.ref)}: {printable(place.tensor.name)} is {rows} x {cols}, clusters need 3 rows"
        )
    if options.skip_representatives:
        tokens, said = None, "not read: --skip-representatives"
    else:
        tokens, said = open_tokens(checkpoint.location)
    sampled = min(options.sample, rows)
    far = checkpoint.location is None
    workers, memory = _fit_memory(Rows(place.tensor), sampled, options, held=place.tensor.nbytes if far else 0)
    notes = [
        note if note.startswith(checkpoint.ref) else f"{printable(checkpoint.ref)}: {note}" for note in checkpoint.notes
    ]
    notes += [f"another token embedding was not taken: {printable(name)}" for name in place.others]
    if tokens is None and not options.skip_representatives:
        notes.append(said)
    return Prepared(checkpoint, place, tokens, said, sampled, workers, memory, tuple(notes))


def _fit_memory(rows: Rows, sampled: int, options: Options, *, held: int) -> tuple[int, int]:
    """Workers, and the bytes of the run: a worker copies the sample, or sums for all k at once; `held` bytes stay."""
    if options.workers is not None and options.workers < 1:
        raise OptionError(f"--workers {options.workers}: expected 1 or more")
    sample = sampled * rows.cols * 4
    centres = (options.max_k * (options.max_k + 1) // 2) * rows.cols * 8
    fixed = FLOOR + _LIBRARIES + sample + rows.count * 100 + held
    each = max(sample + (64 << 20), rows.block_bytes + 3 * centres)
    allowed = options.memory if options.memory is not None else default_budget(2 << 30)
    fitting = (allowed - fixed) // each
    if fitting < 1 and options.memory is not None:
        need = -(-(fixed + each) >> 20)
        raise OptionError(
            f"--memory {allowed >> 20} MiB: a sample of {sampled} rows of {rows.cols} columns needs at least {need} MiB"
            f" for one worker; give --memory {need + 1}MiB, or a smaller --sample or --max-k"
        )
    workers = max(1, min(options.workers or available_cores(), fitting))
    return workers, fixed + workers * each


def embeddings(
    ref: Reference,
    output_dir: Reference | None = None,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    scan_row: str | None = None,
    **settings: Any,
) -> Embeddings:
    """Cluster the rows of the token embedding of the model `ref`, name the clusters, and look for untrained rows.

    `output_dir`: where the files go, put in place in one step at the end; None writes nothing. `scan_row` names the CSV
    with the embedding's row of a scan (default embedding_analysis.csv). `settings` are the fields of Options by name.
    `executor` does the work (default: threads).

    k-means (scikit-learn, Lloyd, k-means++) is fitted for every k to a sample of the rows; F is that of all rows, given
    to the nearest centres; the chosen k is fitted on to all rows. The same seed gives the same result, for any number
    of workers. Raises InputError and its kin before any data is read, JobError where scikit-learn or tokenizers is
    needed and not installed, or where all rows are alike, ReadError where bytes cannot be read or change meanwhile.
    """
    options = options or Options(**settings)
    progress = progress or Silent()
    require_sklearn()
    with ExitStack() as stack:
        prepared = prepare(ref, options, stack)
        if output_dir is None:
            return _run(prepared, options, progress, executor)
        from netweight.jobs.embedding_files import SCAN_ROW, write_embeddings
        from netweight.output.folder import ResultFolder

        folder = stack.enter_context(ResultFolder(Path(output_dir), locations([prepared.checkpoint]), "embeddings"))
        try:
            result = _run(prepared, options, progress, executor)
            write_embeddings(result, folder.stage, scan_row or SCAN_ROW)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; nothing in {printable(str(output_dir))} was changed") from None
        for note in folder.commit():
            progress.note(note)
        return result


def _run(prepared: Prepared, options: Options, progress: Progress, executor: Executor | None) -> Embeddings:
    """The work itself: a look at all rows, the search, the fit, what is said of the clusters, the row of the scan."""
    import numpy as np

    from netweight.jobs.embedding_fit import fit_rows, plane_of, silhouettes
    from netweight.jobs.embedding_heads import agreement
    from netweight.jobs.embedding_result import Embeddings
    from netweight.jobs.embedding_search import one_thread_each
    from netweight.jobs.embedding_unused import untrained
    from netweight.kernels.cpu.cluster_loops import load
    from netweight.run.threads import ThreadExecutor

    place, tensor = prepared.place, prepared.place.tensor
    if prepared.checkpoint.location is None:
        tensor = held_in_memory(tensor)  # each iteration reads it
    executor = executor or ThreadExecutor(prepared.workers)
    steps = _Steps(progress, prepared, options)
    with compiling(progress):
        load()
    with steps, one_thread_each():
        facts = measured(tensor, executor)
        rows = facts.rows
        known = np.flatnonzero(np.isfinite(facts.norms))
        rng = np.random.default_rng(options.random_state)
        chosen = _some(known, options.sample, rng)
        shown = _some(known, _SILHOUETTE_ROWS, rng)
        steps.advance(_LOOK)
        curve, choice, centres = _search(prepared, options, rows, rows.pick(chosen), executor, steps)
        clusters = fit_rows(rows, centres, executor, steps.iterate)
        steps.finish_fit()
        sample = rows.pick(shown)
        spread = silhouettes(sample, clusters.labels[shown], len(clusters.centres))
        plane = plane_of(sample, shown, rows.scale)
        del sample
        unused = prepared.tokens.unused(tensor.shape[0]) if prepared.tokens is not None else {}
        poor = untrained(rows, facts.norms, unused, executor)
        output = place.output if place.head is None else agreement(rows, facts.norms, place.head, executor)
        steps.advance(_AFTER)
        texts = None if prepared.tokens is None else tuple(prepared.tokens.texts(list(range(tensor.shape[0]))))
    scanned = _scan_row(prepared, options)
    prepared.checkpoint.check_unchanged()
    lost = tensor.shape[0] - len(known)
    notes = [*prepared.notes, *([f"{lost} rows hold NaN or infinities and are left out"] if lost else [])]
    return Embeddings(
        ref=prepared.checkpoint.ref,
        parameter=tensor.name,
        dtype=tensor.dtype.name,
        rows=tensor.shape[0],
        cols=tensor.shape[1],
        labels=clusters.labels,
        distances=clusters.distances,
        norms=facts.norms,
        clusters=_clusters(clusters, spread.clusters, prepared.tokens, texts, options),
        curve=curve,
        choice=choice,
        f=clusters.partition.f_ratio(),
        iterations=clusters.iterations,
        converged=clusters.converged,
        searched=len(chosen),
        silhouettes=spread,
        plane=plane,
        untrained=poor,
        output=output,
        scanned=scanned,
        texts=texts,
        tokenizer=prepared.tokenizer,
        seed=options.random_state,
        represented=not options.skip_representatives,
        notes=tuple(notes),
        inputs=[identity(prepared.checkpoint)],
        locations=tuple(locations([prepared.checkpoint])),
    )


def _some(numbers: Array, count: int, rng: Any) -> Array:
    """`count` of the numbers, ascending; all of them where there are no more."""
    import numpy as np

    return numbers if len(numbers) <= count else np.sort(rng.choice(numbers, count, replace=False))


def _search(
    prepared: Prepared, options: Options, rows: Rows, sample: Array, executor: Executor, steps: _Steps
) -> tuple[tuple[CurvePoint, ...], Choice, Array]:
    """F for every k, the k chosen, and the sample's centres for it."""
    from netweight.jobs.embedding_result import CurvePoint
    from netweight.jobs.embedding_search import choose, different_rows, fit_all, partitions

    different = different_rows(sample, options.max_k)
    most = min(options.max_k, different, len(sample) - 1)
    if most < 2:
        raise JobError(
            f"{printable(prepared.checkpoint.ref)}: {printable(rows.tensor.name)}: clusters need at least 3 finite rows"
            f" and 2 different ones, got {len(sample)} and {different}"
        )
    ks = range(2, most + 1)
    fits = fit_all(sample, ks, options.random_state, executor, steps.advance)
    found = partitions(rows, [fits[k].centres for k in ks], executor)
    f, within = [p.f_ratio() for p in found], [p.within_ss for p in found]
    choice = choose(ks, f, within, found[0].total_ss, asked=options.max_k)
    curve = tuple(
        CurvePoint(k, value, left / rows.scale / rows.scale, fits[k].iterations)
        for k, value, left in zip(ks, f, within, strict=True)
    )
    return curve, choice, fits[choice.k].centres


def _clusters(
    found: Clusters,
    silhouettes: Sequence[float],
    tokens: Tokens | None,
    texts: Sequence[str | None] | None,
    options: Options,
) -> tuple[Cluster, ...]:
    import numpy as np

    from netweight.jobs.embedding_result import Cluster, Representative

    result = []
    for number, count in enumerate(found.partition.counts.tolist()):
        members = np.flatnonzero(found.labels == number)
        apart = found.distances[members]
        near = members[np.argsort(apart, kind="stable")[:_NEAREST]].tolist()
        first = meaningful = None
        named: list[Representative] = []
        if not options.skip_representatives:
            named = [
                Representative(
                    i,
                    texts[i] if texts is not None else None,
                    tokens.pieces.get(i) if tokens is not None else None,
                    float(found.distances[i]),
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
                100 * count / found.partition.rows,
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
    from netweight.jobs.scan import scan

    return scan(
        prepared.checkpoint.ref,
        methods=("basic_stats", "spectral"),
        include=(glob.escape(prepared.place.tensor.name),),
        count_tied_twice=True,
        split=False,
        workers=options.workers,
        memory=options.memory,
        remote=options.remote,
    )


class _Steps:
    """Progress in one unit for all phases: about what a fit to the sample takes, by its k."""

    def __init__(self, progress: Progress, prepared: Prepared, options: Options) -> None:
        from netweight.jobs.embedding_fit import MOST_ITERATIONS
        from netweight.jobs.embedding_search import RESTARTS

        self._progress = progress
        self._iterations = MOST_ITERATIONS + 1  # of the fit to all rows, at most
        search = (RESTARTS + 1) * sum(range(2, min(options.max_k, prepared.sampled - 1) + 1))
        self._total = _LOOK + search + self._iterations + _AFTER

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
