"""The result of `embeddings`: the clusters of the token embedding, and the files of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.errors import printable
from netweight.figures.embeddings import Point, anova_curve, cluster_plane
from netweight.jobs.scan.result import CSV_COLUMNS, csv_rows
from netweight.output.frame import Frame, Framed
from netweight.output.table import Row, write_csv, write_json, write_parquet
from netweight.version import __version__

if TYPE_CHECKING:
    from netweight.jobs.embeddings.fit import Plane, Silhouettes
    from netweight.jobs.embeddings.heads import Agreement
    from netweight.jobs.embeddings.search import Choice
    from netweight.jobs.embeddings.unused import Untrained
    from netweight.jobs.scan.result import ScanResults
    from netweight.kernels.arrays import Array
    from netweight.output.folder import ResultFolder


__all__ = [
    "CLUSTER_COLUMNS",
    "SCAN_ROW",
    "Cluster",
    "CurvePoint",
    "Embeddings",
    "Representative",
    "result_folder",
    "write_embeddings",
]

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
        """Number of clusters."""
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
        with result_folder(folder, self.locations, represented=self.represented) as results:
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


SCAN_ROW = "embedding_analysis.csv"

_REPRESENTATIVES = "cluster_representatives.json"


def result_folder(
    folder: str | PathLike[str], inputs: Sequence[Path], *, represented: bool, scan_row: str | None = None
) -> ResultFolder:
    """The folder of the results, not entered yet; `represented`: with the tokens nearest to the centres. A `scan_row`
    that the user named is replaced whoever made it.
    """
    from netweight.output.folder import ResultFolder

    planned = [
        "clustering_results.json",
        "embedding_clusters_summary.csv",
        *([_REPRESENTATIVES] if represented else []),
        scan_row or SCAN_ROW,
        "embedding_tokens.parquet",
        "anova_curve.png",
        "embedding_clusters.png",
    ]
    named = [scan_row] if scan_row is not None else []
    return ResultFolder(Path(folder), inputs, "embeddings", planned=planned, named=named)


_TOKEN_COLUMNS = (
    Column("token_id", "", "number of the row", "integer"),
    Column("text", "", "what the token stands for, empty without a tokenizer", "text"),
    Column("cluster_id", "", "its cluster, empty where the row is not finite", "integer"),
    Column("distance", "", "Euclidean distance to the cluster's centre", "number"),
    Column("norm", "", "Euclidean norm of the row", "number"),
    Column("unused", "", "why no text leads to it, empty where one does", "text"),
    Column(
        "looks_untrained", "", "by which parts of the rule: zero, repeated, alike, begun, near_unused, small", "text"
    ),
)


def write_embeddings(result: Embeddings, folder: Path, scan_row: str = SCAN_ROW) -> None:
    """Write every file into the empty `folder`; `scan_row` names the CSV. Raises OSError where the disk refuses."""
    write_json(folder / "clustering_results.json", result.to_dict())
    write_csv(folder / "embedding_clusters_summary.csv", CLUSTER_COLUMNS, result.frame.rows)
    if result.represented:
        write_json(folder / _REPRESENTATIVES, representatives(result))
    write_csv(folder / scan_row, CSV_COLUMNS, csv_rows(result.scanned))
    write_parquet(
        folder / "embedding_tokens.parquet", _TOKEN_COLUMNS, list(_tokens(result)), inputs=list(result.inputs)
    )
    under = f"{result.parameter}: {result.choice.reason}"
    anova_curve(
        folder / "anova_curve.png",
        under,
        [(p.k, p.f) for p in result.curve],
        result.optimal_k,
        sample=result.searched,
        rows=result.rows - len(result.left_out),
    )
    points = [
        Point(float(x), float(y), int(result.labels[number]))
        for number, x, y in zip(result.plane.numbers, result.plane.x, result.plane.y, strict=True)
    ]
    named = [
        (cluster.percentage, cluster.meaningful_text or cluster.representative_text) for cluster in result.clusters
    ]
    cluster_plane(folder / "embedding_clusters.png", result.parameter, points, named, result.plane.shares)


def representatives(result: Embeddings) -> list[dict[str, Any]]:
    """JSON-safe: the rows nearest to each centre."""
    return [
        {
            "cluster_id": cluster.cluster_id,
            "size": cluster.size,
            "representative_text": cluster.representative_text,
            "meaningful_text": cluster.meaningful_text,
            "representatives": [
                {"token_id": r.token_id, "text": r.text, "token": r.piece, "distance": r.distance}
                for r in cluster.representatives
            ],
        }
        for cluster in result.clusters
    ]


def _tokens(result: Embeddings) -> Iterator[Row]:
    unused, reasons = result.untrained.unused, result.untrained.reasons
    labels, distances, norms = result.labels.tolist(), result.distances.tolist(), result.norms.tolist()
    for i in range(result.rows):
        yield (
            i,
            result.texts[i] if result.texts is not None else None,
            labels[i] if labels[i] >= 0 else None,
            distances[i],
            norms[i],
            unused.get(i),
            " ".join(reasons[i]) if i in reasons else None,
        )
