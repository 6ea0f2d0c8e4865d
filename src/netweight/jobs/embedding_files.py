"""The files of `embeddings`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.jobs.embedding_result import CLUSTER_COLUMNS
from netweight.jobs.scan_files import CSV_COLUMNS, csv_rows
from netweight.output.embedding_plots import Point, anova_curve, cluster_plane
from netweight.output.table import Column, Row, write_csv, write_json, write_parquet

if TYPE_CHECKING:
    from netweight.jobs.embedding_result import Embeddings

__all__ = ["SCAN_ROW", "write_embeddings"]

SCAN_ROW = "embedding_analysis.csv"

_TOKEN_COLUMNS = (
    Column("token_id", "", "number of the row", "integer"),
    Column("text", "", "what the token stands for, empty without a tokenizer", "text"),
    Column("cluster_id", "", "its cluster, empty where the row is not finite", "integer"),
    Column("distance", "", "Euclidean distance to the cluster's centre", "number"),
    Column("norm", "", "Euclidean norm of the row", "number"),
    Column("unused", "", "why no text leads to it, empty where one does", "text"),
    Column("looks_untrained", "", "by which parts of the rule: zero, repeated, near_unused, small", "text"),
)


def write_embeddings(result: Embeddings, folder: Path, scan_row: str = SCAN_ROW) -> None:
    """Write every file into the empty `folder`; `scan_row` names the CSV. Raises OSError where the disk refuses."""
    write_json(folder / "clustering_results.json", result.to_dict())
    write_csv(folder / "embedding_clusters_summary.csv", CLUSTER_COLUMNS, result.frame.rows)
    if result.represented:
        write_json(folder / "cluster_representatives.json", representatives(result))
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
