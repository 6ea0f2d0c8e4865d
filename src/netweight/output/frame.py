"""A table in memory, ready for pandas, polars, Arrow and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.errors import NetweightError, printable
from netweight.output.table import Row, arrow_table

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

__all__ = ["Frame", "Framed"]

_HTML_ROWS = 20


class Frame:
    """Rows under named columns. `rows` is a tuple of tuples, one cell a column; None where there is no value.

    Raises ValueError for two columns of one name or a row of the wrong length.
    """

    def __init__(self, columns: Sequence[Column], rows: Iterable[Row]) -> None:
        self.columns = tuple(columns)
        self.rows = tuple(tuple(row) for row in rows)
        self._index = {column.name: i for i, column in enumerate(self.columns)}
        if len(self._index) != len(self.columns):
            raise ValueError(f"columns share a name: {[column.name for column in self.columns]}")
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {i} has {len(row)} cells for {len(self.columns)} columns")

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Frame: {len(self.rows)} rows of {', '.join(column.name for column in self.columns)}>"

    def column(self, name: str) -> list[Any]:
        """The cells of one column, in row order; raises KeyError for a name that is none."""
        i = self._index[name]
        return [row[i] for row in self.rows]

    def to_arrow(self) -> pa.Table:
        """A `pyarrow.Table`, units and definitions in the metadata of its fields."""
        return arrow_table(self.columns, self.rows)

    def to_pandas(self) -> pd.DataFrame:
        """A `pandas.DataFrame`; raises NetweightError where pandas is not installed."""
        try:
            import pandas  # noqa: F401, ICN001, PLC0415 - not a dependency
        except ImportError as error:
            raise NetweightError("to_pandas() needs pandas, which is not installed: pip install pandas") from error
        return self.to_arrow().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """A `polars.DataFrame`; raises NetweightError where polars is not installed."""
        try:
            import polars  # noqa: ICN001, PLC0415 - not a dependency
        except ImportError as error:
            raise NetweightError("to_polars() needs polars, which is not installed: pip install polars") from error
        frame: pl.DataFrame = polars.DataFrame(polars.from_arrow(self.to_arrow()))
        return frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        """An HTML table of the first rows, every cell escaped: names come from checkpoints."""
        head = "".join(f'<th title="{_html(column.doc)}">{_html(column.name)}</th>' for column in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_html(_shown(cell))}</td>" for cell in row) + "</tr>"
            for row in self.rows[:_HTML_ROWS]
        )
        left = len(self.rows) - _HTML_ROWS
        more = f"<p>{left} more rows</p>" if left > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


class Framed:
    """What every result that has a table offers: its `frame` as the tables of other libraries."""

    @property
    def frame(self) -> Frame:
        """The result's rows."""
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """The rows of `frame`; raises NetweightError where pandas is not installed."""
        return self.frame.to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """The rows of `frame`; raises NetweightError where polars is not installed."""
        return self.frame.to_polars()

    def to_arrow(self) -> pa.Table:
        """The rows of `frame`."""
        return self.frame.to_arrow()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


def _shown(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def _html(text: str) -> str:
    return escape(printable(text), quote=True)
