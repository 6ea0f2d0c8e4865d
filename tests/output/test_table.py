"""Tables: exact names and floats, hostile text made harmless, the same bytes each time."""

import csv
import io
import json
import math
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.columns import Column
from netweight.output.table import csv_text, json_number, write_csv, write_json, write_parquet
from netweight.version import __version__

COLUMNS = [
    Column("param", "", "name of the parameter", "text"),
    Column("shape", "elements", "its shape", "integers"),
    Column("l2", "", "sqrt(sum x^2)", "number"),
    Column("n", "elements", "elements", "integer"),
    Column("tied", "", "is an alias", "boolean"),
    Column("gram", "", "inner products", "matrix"),
]
ROWS = [
    ("a.weight", (2, 3), 0.1, 6, False, [[1.0, 0.5], [0.5, 2.0]]),
    ("b", [], None, None, None, None),
    ("c", [4], math.nan, 2**40, True, []),
]


def text_rows(path):
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_csv_bytes(tmp_path):
    write_csv(tmp_path / "t.csv", COLUMNS, ROWS)
    assert (tmp_path / "t.csv").read_bytes() == (
        b"param,shape,l2,n,tied,gram\n"
        b'a.weight,"[2, 3]",0.1,6,false,"[[1.0, 0.5], [0.5, 2.0]]"\n'
        b"b,[],,,,\n"
        b"c,[4],,1099511627776,true,[]\n"
    )


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False))
def test_floats_read_back_exactly(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write_csv(path, [COLUMNS[2], COLUMNS[2]], [(value, np.float64(value))])
    first, second = text_rows(path)[1]
    assert first == second == repr(value)
    assert np.float64(first).tobytes() == np.float64(value).tobytes()


def test_numpy_cells(tmp_path):
    cells = (np.float32(0.5), np.int64(-3), np.bool_(1), np.array([1, 2]), np.float64("nan"), -2.5, math.inf)
    write_csv(tmp_path / "t.csv", [COLUMNS[2]] * len(cells), [cells])
    assert text_rows(tmp_path / "t.csv")[1] == ["0.5", "-3", "true", "[1, 2]", "", "-2.5", "inf"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-layer", "'-layer"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\\t=1"),
        ("\r=1", "'\\r=1"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("sep\u2028\u0085", "sep\\u2028\\x85"),
        ("lone \udc80", "lone \\udc80"),
        ('a,"b"', 'a,"b"'),
        ("\u97e9\u8bed \U0001f600 caf\u00e9", "\u97e9\u8bed \U0001f600 caf\u00e9"),
        ("", ""),
    ],
)
def test_hostile_names_in_csv(tmp_path, text, cell):
    assert csv_text(text) == cell
    write_csv(tmp_path / "t.csv", [Column(text, "", "", "text")] * 2, [(text, "end")])
    assert text_rows(tmp_path / "t.csv") == [[cell, cell], [cell, "end"]]
    assert (tmp_path / "t.csv").read_bytes().count(b"\n") == 2


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=20))
def test_any_text_is_one_line_and_no_formula(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write_csv(path, COLUMNS[:1], [(text,)])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert not text_rows(path)[1][0].startswith(("=", "+", "-", "@"))


def test_a_row_of_the_wrong_length(tmp_path):
    with pytest.raises(ValueError, match="a row of 1 cells for 6 columns"):
        write_csv(tmp_path / "t.csv", COLUMNS, [("a",)])


def test_a_cell_without_a_form(tmp_path):
    with pytest.raises(TypeError, match="a cell of type dict has no form in CSV"):
        write_csv(tmp_path / "t.csv", COLUMNS[:1], [({},)])


def test_json_keeps_order_and_text(tmp_path):
    value = {"b": 1, "a": [0.1, None, "\u97e9 \U0001f600 \udc80 </script>"]}
    write_json(tmp_path / "v.json", value)
    raw = (tmp_path / "v.json").read_bytes()
    assert json.loads(raw) == value
    assert list(json.loads(raw)) == ["b", "a"]
    assert "\u97e9".encode() in raw
    assert raw.endswith(b"\n}\n")
    assert b"\r" not in raw


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_without_nan(tmp_path, bad):
    with pytest.raises(ValueError, match=rf"v\.json: \$\.groups\.0\.l2 = {bad} has no place in JSON; write null"):
        write_json(tmp_path / "v.json", {"groups": [{"l2": bad}]})
    assert not (tmp_path / "v.json").exists()


def test_json_number():
    assert [json_number(x) for x in (None, math.nan, math.inf, -math.inf, 1, np.float32(0.5))] == [None] * 4 + [
        1.0,
        0.5,
    ]
    assert type(json_number(np.float64(1))) is float


def test_parquet_round_trip_and_metadata(tmp_path):
    inputs = {"base": {"path": "/m/\u97e9", "digest": "ab"}}
    write_parquet(tmp_path / "t.parquet", COLUMNS, ROWS, inputs=inputs, metadata={"netweight.kind": "delta"})
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == [c.name for c in COLUMNS]
    assert [tuple(r.values()) for r in table.to_pylist()] == [
        ("a.weight", [2, 3], 0.1, 6, False, [[1.0, 0.5], [0.5, 2.0]]),
        ("b", [], None, None, None, None),
        ("c", [4], None, 2**40, True, []),
    ]
    meta = table.schema.metadata
    assert meta[b"netweight.schema_version"] == b"1"
    assert meta[b"netweight.version"] == __version__.encode()
    assert meta[b"netweight.kind"] == b"delta"
    assert json.loads(meta[b"netweight.inputs"]) == inputs
    assert table.schema.field("shape").metadata[b"unit"] == b"elements"
    assert str(table.schema.field("gram").type).startswith("list<")
    assert pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_parquet_takes_columns_and_odd_text(tmp_path):
    data = {"param": ["x\udc80", "\U0001f600\n"], "l2": np.array([1.5, np.nan])}
    write_parquet(tmp_path / "t.parquet", [COLUMNS[0], COLUMNS[2]], data, inputs=[])
    assert pq.read_table(tmp_path / "t.parquet").to_pydict() == {
        "param": ["x\\udc80", "\U0001f600\n"],
        "l2": [1.5, None],
    }


def test_parquet_bytes_are_the_same_in_another_process(tmp_path):
    program = (
        "import sys; from pathlib import Path; from netweight.columns import Column\n"
        "from netweight.output.table import *\n"
        "c = [Column('p', '', 'd', 'text'), Column('g', 'u', 'd', 'matrix')]\n"
        "write_parquet(Path(sys.argv[1]), c, [(f'n{i}', [[i / 3.0] * 3] * 3) for i in range(500)],\n"
        "    inputs={'b': 1, 'a': 2})"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_importing_tables_loads_nothing_heavy():
    program = (
        "import sys, netweight.output.table, netweight.output.frame, netweight.figures.delta, netweight.output.folder\n"
        "print([m for m in ('numpy', 'pyarrow', 'pandas', 'polars', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
