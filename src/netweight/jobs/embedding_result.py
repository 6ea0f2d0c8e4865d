"""What `embeddings` returns: the clusters of the token embedding, and what was found around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.errors import printable
from netweight.output.frame import Frame, Framed
from netweight.output.table import Column
from netweight.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from netweight.jobs.embedding_fit import Plane, Silhouettes
    from netweight.jobs.embedding_heads import Agreement
    from netweight.jobs.embedding_search import Choice
    from netweight.jobs.embedding_unused import Untrained
    from netweight.jobs.scan_result import ScanResults

    Array = np.ndarray[Any, Any]

__all__ = ["CLUSTER_COLUMNS", "Cluster", "CurvePoint", "Embeddings", "Representative"]

CLUSTER_COLUMNS = (
    Column("cluster_id", "", "number of the cluster, the largest is 0", "integer"),
    Column("size", "rows", "rows in the cluster", "integer"),
    Column("percentage", "%", "its share of all rows that are finite", "number"),
    Column("avg_distance", "", "mean Euclidean distance of its rows to its centre", "number"),
    Column("silhouette_score", "", "mean silhouette of those of its rows that are in the sample", "number"),
    Column("representative_text", "", "the token nearest to the centre", "text"),
    Column("meaningful_text", "", "the nearest token with two letters or a character of a script of words", "text"),
)
"""The columns of embedding_clusters_summary.csv."""


@dataclass(frozen=True)
class CurvePoint:
    """One k: `f` of the clusters that the sample's centres make of all rows, infinite where nothing is left within,
    their sum of squares `within` (as stored), and the fit's `iterations` on the sample.
    """

    k: int
    f: float
    within: float
    iterations: int


@dataclass(frozen=True)
class Representative:
    """A row near its cluster's centre: `text` and `piece` (the vocabulary's spelling) None without a tokenizer."""

    token_id: int
    text: str | None
    piece: str | None
    distance: float


@dataclass(frozen=True)
class Cluster:
    """One cluster; the fields are CLUSTER_COLUMNS, NaN where undefined; `representatives`: the rows nearest to its
    centre.
    """

    cluster_id: int
    size: int
    percentage: float
    avg_distance: float
    silhouette_score: float
    representative_text: str | None
    meaningful_text: str | None
    representatives: tuple[Representative, ...] = ()

    def cells(self) -> tuple[Any, ...]:
        """The row of the table."""
        return (
            self.cluster_id,
            self.size,
            self.percentage,
            _number(self.avg_distance),
            _number(self.silhouette_score),
            self.representative_text,
            self.meaningful_text,
        )


@dataclass(frozen=True, kw_only=True)
class Embeddings(Framed):
    """The token embedding `parameter` [rows, cols] of the model `ref`, in clusters.

    `labels` int64 [rows] are cluster ids, -1 for rows with NaN or infinities; `distances` float64 [rows] to the row's
    centre, `norms` float64 [rows], both NaN there; `texts`: of every row, None without a tokenizer. `curve` has every k
    that was tried, `choice` says why this one; `f` is F of the clusters as they are. `plane`: a sample of rows in two
    dimensions. `scanned`: the embedding's row of a scan. `locations`: where the model is on this machine. `frame` has a
    row for each cluster.
    """

    ref: str
    parameter: str
    dtype: str
    rows: int
    cols: int
    labels: Array
    distances: Array
    norms: Array
    clusters: tuple[Cluster, ...]
    curve: tuple[CurvePoint, ...]
    choice: Choice
    f: float
    iterations: int
    converged: bool
    searched: int
    silhouettes: Silhouettes
    plane: Plane
    untrained: Untrained
    output: Agreement
    scanned: ScanResults
    texts: tuple[str | None, ...] | None
    tokenizer: str
    seed: int
    represented: bool
    notes: tuple[str, ...] = ()
    inputs: Sequence[Mapping[str, Any]] = ()
    locations: tuple[Path, ...] = ()

    @property
    def optimal_k(self) -> int:
        """How many clusters."""
        return len(self.clusters)

    @property
    def silhouette_score(self) -> float | None:
        """The mean over the sample; None where it is not defined."""
        return _number(self.silhouettes.mean)

    @property
    def left_out(self) -> list[int]:
        """Rows that hold NaN or infinities."""
        return [int(i) for i in (self.labels < 0).nonzero()[0]]

    @property
    def frame(self) -> Frame:
        """A row for each cluster: CLUSTER_COLUMNS."""
        return Frame(CLUSTER_COLUMNS, (cluster.cells() for cluster in self.clusters))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: what clustering_results.json holds."""
        names = [column.name for column in CLUSTER_COLUMNS]
        clusters = [dict(zip(names, cluster.cells(), strict=True)) for cluster in self.clusters]
        lost = self.left_out
        return {
            "optimal_k": self.optimal_k,
            "silhouette_score": self.silhouette_score,
            "total_tokens": self.rows,
            "embedding_dimension": self.cols,
            "clusters": clusters,
            "parameter": self.parameter,
            "dtype": self.dtype,
            "f_statistic": _number(self.f),
            "chosen_by": self.choice.rule,
            "reason": self.choice.reason,
            "anova": [
                {
                    "k": p.k,
                    "f_statistic": _number(p.f),
                    **({"f_statistic_reason": _why(p.f)} if _number(p.f) is None else {}),
                    "within_ss": _number(p.within),
                    "iterations": p.iterations,
                }
                for p in self.curve
            ],
            "search": {"rows": self.searched, "seed": self.seed, "rows_of_f": self.rows - len(lost)},
            "fit": {"rows": self.rows - len(lost), "iterations": self.iterations, "converged": self.converged},
            "silhouette_rows": self.silhouettes.rows,
            "rows_not_finite": {"count": len(lost), "ids": lost},
            "untrained": self.untrained.to_dict(),
            "output_agreement": self.output.to_dict(),
            "tokenizer": self.tokenizer,
            "notes": list(self.notes),
            "version": __version__,
            "inputs": [dict(i) for i in self.inputs],
        }

    def write(self, folder: str | Path) -> tuple[str, ...]:
        """Put the files into `folder` in one step; returns notes. Raises OutputError, JobError, BusyError."""
        from netweight.jobs.embedding_files import write_embeddings
        from netweight.output.folder import ResultFolder

        with ResultFolder(Path(folder), self.locations, "embeddings") as results:
            write_embeddings(self, results.stage)
            return results.commit()

    def __repr__(self) -> str:
        size = f"{self.rows} x {self.cols} in {self.optimal_k} clusters"
        return f"<embeddings of {printable(self.ref)!r}: {printable(self.parameter)}, {size}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}: {escape(self.choice.reason)}</p>{self.frame._repr_html_()}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _why(f: float) -> str:
    return "nothing is left within the clusters" if math.isinf(f) else "F is not defined for these clusters"
