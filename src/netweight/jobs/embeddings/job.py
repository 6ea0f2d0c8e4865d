"""`embeddings`: the token embedding in clusters, how many by F, what they stand for, and rows that look untrained."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from netweight.errors import printable
from netweight.jobs.embeddings.plan import Options, prepare, require_sklearn
from netweight.jobs.inputs import Reference, locations
from netweight.jobs.journalled import interruptible
from netweight.run.progress import Progress, Silent

if TYPE_CHECKING:
    from netweight.jobs.embeddings.result import Embeddings
    from netweight.run.execute import Executor

__all__ = ["embeddings"]


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
    from netweight.jobs.embeddings.work import cluster_embedding

    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    require_sklearn()
    with ExitStack() as stack:
        prepared = prepare(ref, options, stack)
        if output_dir is None:
            return cluster_embedding(prepared, options, progress, executor)
        from netweight.jobs.embeddings.result import SCAN_ROW, result_folder, write_embeddings

        inputs, represented = locations([prepared.checkpoint]), not options.skip_representatives
        place = result_folder(output_dir, inputs, represented=represented, scan_row=scan_row)
        folder = stack.enter_context(place)
        with interruptible(lambda: f"stopped; nothing in {printable(str(output_dir))} was changed"):
            result = cluster_embedding(prepared, options, progress, executor)
            write_embeddings(result, folder.stage, scan_row or SCAN_ROW)
        for note in folder.commit():
            progress.note(note)
        return result
