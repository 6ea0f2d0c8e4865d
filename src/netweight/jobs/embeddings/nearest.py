"""The rows nearest to a token's row, by cosine."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.errors import OptionError, printable
from netweight.jobs.embeddings.rows import Rows, Stretch, held_in_memory, measure_rows, run_in_order
from netweight.jobs.embeddings.token_embedding import find_embedding
from netweight.jobs.embeddings.tokens import check_id, open_tokens
from netweight.jobs.inputs import globs
from netweight.output.frame import Frame, Framed
from netweight.params.opening import open_whole
from netweight.run.memory import available_cores

if TYPE_CHECKING:
    from netweight.run.execute import Executor


__all__ = ["COLUMNS", "Neighbour", "Neighbours", "nearest_tokens"]

COLUMNS = (
    Column("token_id", "", "the token that was asked for", "integer"),
    Column("text", "", "its text, empty without a tokenizer", "text"),
    Column("rank", "", "1 is the nearest", "integer"),
    Column("neighbour_id", "", "the row that lies near", "integer"),
    Column("neighbour_text", "", "its text", "text"),
    Column("cosine", "", "cosine of the two rows as stored, to 0 and not to the mean", "number"),
)
"""The columns of the table."""


@dataclass(frozen=True)
class Neighbour:
    """One row of the table; see COLUMNS."""

    token_id: int
    text: str | None
    rank: int
    neighbour_id: int
    neighbour_text: str | None
    cosine: float


@dataclass(frozen=True)
class Neighbours(Framed):
    """The neighbours of the tokens asked for, by token, the nearest first."""

    ref: str
    parameter: str
    rows: tuple[Neighbour, ...]
    notes: tuple[str, ...] = ()

    @property
    def frame(self) -> Frame:
        """A row for each neighbour: COLUMNS."""
        return Frame(
            COLUMNS, ((r.token_id, r.text, r.rank, r.neighbour_id, r.neighbour_text, r.cosine) for r in self.rows)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        names = [column.name for column in COLUMNS]
        return {
            "parameter": self.parameter,
            "neighbours": [dict(zip(names, row, strict=True)) for row in self.frame.rows],
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        return self.frame._repr_html_()


def nearest_tokens(
    ref: str | os.PathLike[str],
    tokens: str | int | Sequence[str | int],
    *,
    count: int = 10,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    workers: int | None = None,
    remote: bool = False,
    executor: Executor | None = None,
) -> Neighbours:
    """The `count` rows of the token embedding with the largest cosine to each of `tokens` (ids, or texts that are one
    token each), the token itself left out. Equal cosines are in the order of ids.

    Raises InputError where there is no token embedding, OptionError for a token that is not there or whose row is 0
    or not finite, ReadError.
    """
    import numpy as np

    from netweight.run.blas import blas_threads
    from netweight.run.threads import ThreadExecutor

    if count < 1:
        raise OptionError(f"--neighbours {count}: expected 1 or more")
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_whole(ref, download=not remote))
        embedding = find_embedding(checkpoint, globs(include), globs(exclude))
        words, tokenizer = open_tokens(checkpoint.place)
        tensor = embedding.tensor if checkpoint.location is not None else held_in_memory(embedding.tensor)
        total = tensor.shape[0]
        ids: list[int] = []
        for token in [tokens] if isinstance(tokens, (str, int)) else tokens:
            if words is not None:
                ids.append(words.find(str(token), total))
            elif str(token).isascii() and str(token).isdigit():
                ids.append(check_id(str(token), total))
            else:
                raise OptionError(f"--nearest {printable(str(token))}: {tokenizer}; give an id")
        executor = executor or ThreadExecutor(workers or available_cores())
        measured = measure_rows(tensor, executor)
        for number in ids:
            if not (math.isfinite(measured.norms[number]) and measured.norms[number] > 0):
                raise OptionError(f"--nearest {number}: its row is 0 or holds NaN or infinities: it has no direction")
        rows = Rows(tensor, measured.rows.scale, kept=measured.rows.kept)
        vectors = (
            np.concatenate([rows.pick(np.array([n])) for n in ids]) if ids else np.empty((0, rows.cols), np.float32)
        )
        cosines = np.full((len(ids), total), -np.inf)

        def compare_stretch(stretch: Stretch) -> None:
            for block, numbers in rows.blocks(stretch):
                size = measured.norms[numbers] * rows.scale
                with np.errstate(divide="ignore", invalid="ignore"):
                    similar = (vectors @ block.T) / np.outer(measured.norms[ids] * rows.scale, size)
                cosines[:, numbers] = np.where(size > 0, similar, -np.inf)

        with blas_threads(1):
            for _ in run_in_order(rows, compare_stretch, executor):
                pass
        checkpoint.check_unchanged()
        neighbours: list[Neighbour] = []
        for cosine, number in zip(cosines, ids, strict=True):
            cosine[number] = -np.inf
            order = np.argsort(-cosine, kind="stable")[:count]
            near = [int(i) for i in order if cosine[i] > -np.inf]
            texts = words.texts([number, *near]) if words is not None else [None] * (len(near) + 1)
            neighbours += [
                Neighbour(number, texts[0], rank, i, texts[rank], min(1.0, max(-1.0, float(cosine[i]))))
                for rank, i in enumerate(near, 1)
            ]
        return Neighbours(
            checkpoint.ref, embedding.tensor.name, tuple(neighbours), () if words is not None else (tokenizer,)
        )
