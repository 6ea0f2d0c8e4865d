"""The page as a file: what is in it, what it may do, and that names are data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pages import cells_of, data_of

import netweight
from netweight.columns import Column
from netweight.page.html import MODULES, page_of
from netweight.page.section import Section

ROOT = Path(netweight.__file__).parent / "page"
HOSTILE = [
    "</script><script>alert(1)</script>", "javascript:alert(1)", "<img src=x onerror=alert(1)>", "a" * 10_000,
    "\u202egnp.exe", "nul\0inside", "--></style>", "&lt;b&gt;", "\u2028\u2029", "' onclick='x",
]  # fmt: skip
COLUMNS = (
    Column("param", "", "the <name>", "text"),
    Column("layer", "", "its layer", "integer"),
    Column("role", "", "its role", "text"),
    Column("size", "bytes", "a number", "number"),
    Column("shape", "", "a list", "integers"),
    Column("whole", "", "too large for float64", "integer"),
    Column("none", "", "never known", "number"),
)


def row_of(at, name):
    return name, at % 3 if at else None, f"role {at % 2}", at / 3 if at % 4 else None, [at, 2], (1 << 60) + at, None


def section(names):
    return Section(
        "scan", names[0], COLUMNS, [row_of(at, name) for at, name in enumerate(names)], "param",
        card=[(name, name) for name in names], notes=names, skipped=[(name, name) for name in names],
        shown=["param", "size"], metrics=["size", "none"], findings=[("warning", name, name, name) for name in names],
    )  # fmt: skip


def test_the_data_are_those_of_the_rows() -> None:
    made = section(["a", "b", "c", "d", "e", "f"])
    (found,) = data_of(page_of([made]))["sections"]
    columns = {column["name"]: cells_of(column) for column in found["columns"]}
    assert list(columns) == ["param", "layer", "role", "size", "shape", "whole"]
    assert columns["size"] == [row[3] for row in made.rows]
    assert columns["layer"] == [row[1] for row in made.rows]
    assert columns["shape"] == [json.dumps(row[4]) for row in made.rows]
    assert columns["whole"] == [str(row[5]) for row in made.rows]
    assert found["metrics"] == ["size"]
    assert found["rows"] == 6


def test_a_table_that_is_too_large_loses_its_last_columns(monkeypatch) -> None:
    """What the map and the table begin with stays, and a note says what is not there."""
    monkeypatch.setattr("netweight.page.section._MOST", 280)
    made = section(["a", "b", "c", "d", "e", "f"])
    (found,) = data_of(page_of([made]))["sections"]
    names = [column["name"] for column in found["columns"]]
    assert names[:4] == ["param", "layer", "role", "size"]
    left = {"shape", "whole"} - {*names}
    assert left
    assert found["notes"][-1].startswith(f"{len(left)} columns are left out")
    assert all(name in found["notes"][-1] for name in left)


def test_names_are_never_markup() -> None:
    text = page_of([section(HOSTILE)])
    (found,) = data_of(text)["sections"]
    assert cells_of(found["columns"][0]) == HOSTILE
    assert found["notes"] == HOSTILE
    around = re.sub(r"(?s)<script.*?</script>|<title>.*?</title>", "", text)
    for word in ("alert", "onerror", "gnp.exe", "onclick"):
        assert word not in around
    title = re.search(r"<title>(.*?)</title>", text)[1]
    assert not set(title) & set("<>&\"'")
    assert text.count("<script") == text.count("</script>") == 3


def test_only_its_own_scripts_may_run() -> None:
    text = page_of([section(["a"])])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert (len(scripts), len(styles)) == (2, 1)
    for part in (*scripts, *styles):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not re.search(r"<(?:link|img|iframe|script src)|url\(|\beval\(|new Function", text.replace(scripts[0], ""))
    assert not re.search(r"\beval\(|new Function", scripts[0])


def test_the_libraries_are_those_that_are_named() -> None:
    about = json.loads((ROOT / "vendor/VENDOR.json").read_text())
    assert hashlib.sha256((ROOT / "vendor" / about["file"]).read_bytes()).hexdigest() == about["sha256"]
    wanted = json.loads((ROOT.parents[2] / "tools/page/package.json").read_text())["devDependencies"]
    for library in about["libraries"]:
        assert library["version"] == wanted.get(library["name"], library["version"])
        for file in library["files"]:
            assert (ROOT / "vendor" / file).stat().st_size > 100


@pytest.fixture(scope="module")
def node():
    path = shutil.which("node")
    if path is None:
        pytest.skip("no node on this machine")
    return path


def run(node, code):
    found = subprocess.run([node, "--input-type=module", "-e", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout) if found.stdout else None


def test_modules_import_what_others_give(node, tmp_path) -> None:
    """As modules, and joined into one script in which no name stands twice."""
    run(node, f"await import({json.dumps((ROOT / 'assets/main.js').as_uri())})")
    assert {path.stem for path in (ROOT / "assets").glob("*.js")} == set(MODULES)
    (tmp_path / "page.js").write_text(re.findall(r"<script>(.*?)</script>", page_of([section(["a"])]), re.DOTALL)[1])
    subprocess.run([node, "--check", str(tmp_path / "page.js")], check=True)


def test_the_page_reads_every_digit(node) -> None:
    made = section(["a,b", 'c"d', "e\nf", "g", "h"])
    (found,) = data_of(page_of([made]))["sections"]
    code = f"""
        import {{ decodeSection, asText }} from {json.dumps((ROOT / "assets/data.js").as_uri())};
        const section = decodeSection({json.dumps(found)});
        const names = ["param", "size"];
        console.log(JSON.stringify([section.cells, asText(section, [0, 1, 2, 3, 4], names, ",")]));
    """
    cells, text = run(node, code)
    assert cells["size"] == [row[3] for row in made.rows]
    assert text.splitlines()[0] == "param,size"
    assert '"a,b",' in text
    assert '"c""d",0.3333333333333333' in text
    assert cells["layer"] == [row[1] for row in made.rows]


def test_numbers_for_the_eye(node) -> None:
    code = f"""
        import {{ shownValue, median, scaleOf }} from {json.dumps((ROOT / "assets/format.js").as_uri())};
        const values = [null, 0, 12345678, 0.1234567891, 1.5e-9, -2.25e12, "x", true];
        const kinds = [[1, 2, 3], [-1, 5], [1e-6, 1], [null], [4]].map((list) => scaleOf(list).kind);
        const middles = [[3, null, 1, 2], [4, 1], [null]].map(median);
        console.log(JSON.stringify([values.map(shownValue), middles, kinds]));
    """
    shown, middles, kinds = run(node, code)
    assert shown == ["", "0", "12345678", "0.123457", "1.5e-9", "-2250000000000", "x", "true"]
    assert middles == [2, 2.5, None]
    assert kinds == ["even", "around zero", "orders", "none", "even"]
