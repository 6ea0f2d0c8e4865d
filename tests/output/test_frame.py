"""Frames: the same cells in every library, and no markup from names."""

import sys

import polars as pl
import pyarrow as pa
import pytest

from netweight.columns import Column
from netweight.errors import NetweightError
from netweight.output.frame import Frame

COLUMNS = [
    Column("param", "", "the <name>", "text"),
    Column("l2", "", "norm", "number"),
    Column("gram", "", "inner products", "matrix"),
]
ROWS = [("a", 1.5, [[1.0]]), ("b", None, None)]


def test_rows_length_and_columns():
    frame = Frame(COLUMNS, iter([list(row) for row in ROWS]))
    assert len(frame) == 2
    assert frame.rows == tuple(ROWS)
    assert frame.column("l2") == [1.5, None]
    assert repr(frame) == "<Frame: 2 rows of param, l2, gram>"
    with pytest.raises(KeyError):
        frame.column("l3")


def test_every_library_sees_the_same_cells():
    frame = Frame(COLUMNS, ROWS)
    expected = {"param": ["a", "b"], "l2": [1.5, None], "gram": [[[1.0]], None]}
    assert frame.to_arrow().to_pydict() == expected
    assert pa.table(frame).to_pydict() == expected
    assert pl.DataFrame(frame).to_dict(as_series=False) == expected
    assert frame.to_polars().to_dict(as_series=False) == expected
    pandas = frame.to_pandas()
    assert list(pandas.columns) == ["param", "l2", "gram"]
    assert pandas["param"].tolist() == ["a", "b"]
    assert pandas["l2"].dtype == "float64"
    assert pandas["l2"].isna().tolist() == [False, True]


def test_an_empty_frame_keeps_its_types():
    assert Frame(COLUMNS, []).to_arrow().schema.field("l2").type == pa.float64()
    assert Frame(COLUMNS, []).to_polars().shape == (0, 3)
    assert Frame(COLUMNS, []).to_pandas().shape == (0, 3)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_missing_library_is_one_clear_line(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(NetweightError) as caught:
        getattr(Frame(COLUMNS, ROWS), f"to_{library}")()
    assert str(caught.value) == f"to_{library}() needs {library}, which is not installed: pip install {library}"


def test_html_is_escaped_and_short():
    rows = [("<script>alert(1)</script>\x1b[31m\n", 0.123456789, None)] * 25
    html = Frame(COLUMNS, rows)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\n" in html
    assert 'title="the &lt;name&gt;"' in html
    assert html.count("<tr>") == 21
    assert "0.123457" in html
    assert "5 more rows" in html
    assert "more rows" not in Frame(COLUMNS, ROWS)._repr_html_()


def test_bad_frames_are_refused():
    with pytest.raises(ValueError, match="columns share a name"):
        Frame([COLUMNS[0], COLUMNS[0]], [])
    with pytest.raises(ValueError, match="row 1 has 1 cells for 3 columns"):
        Frame(COLUMNS, [ROWS[0], ("x",)])
