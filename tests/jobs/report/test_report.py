"""`report`: pages of results in memory and of files hold the same, and only results make pages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pages import cells_of, data_of
from safetensors.numpy import load_file, save_file

import netweight
from netweight.cli.main import cli
from netweight.errors import FormatError, OptionError, OutputError


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A base and two fine-tunes, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("base", "one", "two"):
        Path(name).mkdir()
        held = {
            f"model.layers.{n}.self_attn.{role}_proj.weight": rng.standard_normal((8, 8)).astype(np.float32)
            for n in range(2)
            for role in "qkv"
        }
        save_file(held | {"model.norm.weight": np.ones(8, np.float32)}, f"{name}/model.safetensors")


def sections(path):
    return data_of(Path(path).read_text(encoding="utf-8"))["sections"]


def check(section, result):
    """Every cell of the page is that of the result's table."""
    names = [column.name for column in result.frame.columns]
    for column in section["columns"]:
        wanted = [row[names.index(column["name"])] for row in result.frame.rows]
        for held, value in zip(cells_of(column), wanted, strict=True):
            assert held == value or isinstance(value, (list, tuple, bool)), column["name"]


def test_a_page_of_a_result_is_that_of_its_file(models) -> None:
    scanned = netweight.scan("base", methods="all", output="s.parquet")
    found = netweight.delta("base", ["one", "two"], "tv")
    compared = netweight.compare("base", "one", output="c.parquet")
    results = {"scan": scanned, "delta": found, "compare": compared}
    for name, result in results.items():
        result.report(f"{name}.html")
    netweight.report(["s.parquet", "tv", "c.parquet"], "all.html")
    for (name, result), of_file in zip(results.items(), sections("all.html"), strict=True):
        (own,) = sections(f"{name}.html")
        check(own, result)
        assert own["kind"] == name
        for key in ("columns", "metrics", "models", "groups", "cosines", "shown", "rows", "skipped"):
            if key == "columns":
                for a, b in zip(own[key], of_file[key], strict=True):
                    assert (a["name"], a["doc"], a["unit"]) == (b["name"], b["doc"], b["unit"])
                    assert cells_of(a) == cells_of(b), a["name"]
            else:
                assert own[key] == of_file[key], (name, key)
        assert own["card"] == of_file["card"]
        assert own["notes"] == of_file["notes"] or name != "compare"


@pytest.mark.parametrize("health", [False, True])
def test_a_scan_in_json(models, health) -> None:
    """All its numbers; names say layers and roles."""
    said = CliRunner().invoke(cli, ["scan", "base", "--methods", "all", "--format", "json", *(["--health"] * health)])
    Path("s.json").write_text(said.stdout, encoding="utf-8")
    result = netweight.scan("base", methods="all")
    netweight.report("s.json", "s.html")
    (section,) = sections("s.html")
    names = [column.name for column in result.columns]
    rows = {row[0]: row for row in result.frame.rows}
    columns = {column["name"]: cells_of(column) for column in section["columns"]}
    assert sorted(columns["param"]) == sorted(rows)
    for name, cells in columns.items():
        wanted = [rows[param][names.index(name)] for param in columns["param"]]
        for held, value in zip(cells, wanted, strict=True):
            assert held == value or isinstance(value, (list, tuple, bool)), name
    assert {"layer", "role", "basic_stats.std", "sparsity.sparsity_levels.threshold_0.0"} <= columns.keys()


def test_a_merge_says_what_every_parameter_was_made_of(models) -> None:
    """Weights of gradients and filters as the plan has them; the page of the folder is that of the result."""
    Path("m.yml").write_text(
        "merge_method: ties\nbase_model: base\nmodels:\n- {model: one, parameters: {weight: [0, 1], density: 0.5}}\n"
        "- {model: two, parameters: {weight: [{filter: q_proj, value: 0.25}, {value: 2}], density: 1}}\n"
        "parameters: {normalize: false}\n"
    )
    result = netweight.merge("m.yml", "merged")
    result.report("a.html")
    netweight.report("merged", "b.html")
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    (section,) = sections("a.html")
    columns = {column["name"]: cells_of(column) for column in section["columns"]}
    names = columns["param"]
    assert names == list(result.record["parameters"])
    assert columns["digest"] == [p["digest"] for p in result.record["parameters"].values()]
    assert columns["weight of one"] == [1.0 if "layers.1" in name else 0.0 for name in names]
    assert columns["weight of two"] == [0.25 if "q_proj" in name else 2.0 for name in names]
    assert columns["density of one"] == [0.5] * len(names)
    assert columns["normalize"] == [0.0] * len(names)
    assert section["metrics"][0] == "weight of one"
    assert ("recipe", result.recipe) in [tuple(line) for line in section["card"]]


def test_norms_and_cosines_of_a_merge(models) -> None:
    result = netweight.merge(None, "merged", base="base", models=["one", "two"], dtype="float32")
    result.report("a.html")
    (section,) = sections("a.html")
    measured = result.weights["models"]
    assert section["groups"] == [{"model": None, "names": ["one", "two"], "values": [m["l2"] for m in measured]}]
    assert section["cosines"]["values"] == result.weights["cosines"]


def test_what_one_side_alone_has_is_left_out_by_name(models) -> None:
    """In pages of results and of files: no row speaks of it."""
    more = {"model.layers.2.self_attn.q_proj.weight": np.ones((8, 8), np.float32)}
    save_file(load_file("one/model.safetensors") | more, "one/model.safetensors")
    netweight.compare("base", "one", output="c.parquet").report("a.html")
    netweight.report("c.parquet", "b.html")
    netweight.delta("base", ["one"], "tv").report("c.html")
    netweight.report("tv", "d.html")
    for pages, reason in (("ab", "only in one"), ("cd", None)):
        first, second = (sections(f"{page}.html")[0]["skipped"] for page in pages)
        assert first == second
        (entry,) = first
        assert next(iter(more)) in entry[0]
        assert reason in (None, entry[1])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("two/summary.json", '{"groups": 3, "skipped": []}'), ("two/summary.json", "[" * 100_000),
        ("pairwise_cosines.csv", ",one,three\none,1,1\nthree,1,1\n"), ("pairwise_cosines.csv", ",one,two\none,x,1\n"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_as_delta_wrote_it(models, file, text) -> None:
    netweight.delta("base", ["one", "two"], "tv")
    Path("tv", file).write_text(text)
    with pytest.raises(FormatError):
        netweight.report("tv", "r.html")
    assert not Path("r.html").exists()


def test_the_commands_write_it(models) -> None:
    runs = {
        "s.html": ["scan", "base", "--report", "s.html"],
        "d.html": ["delta", "--base", "base", "--models", "one", "--report", "d.html"],
        "c.html": ["compare", "base", "one", "--report", "c.html"],
        "r.html": ["report", "tv_stats", "--output", "r.html"],
        "m.html": ["merge", "--base", "base", "--models", "one", "--output", "merged", "--report", "m.html"],
    }
    for name, command in runs.items():
        said = CliRunner().invoke(cli, command)
        assert said.exit_code == 0, said.output
        assert f"written to {name}" in said.output
        assert len(sections(name)) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["scan", "base", "--report", "s.txt"], "--report s.txt: expected a name that ends in .html, got '.txt'"),
        (["report", "base", "--output", "r.html"], "base: expected a result in Parquet"),
        (["report", "bad", "--output", "r.html"], "bad/netweight_merge.json: is no record of a merge"),
        (["report", "other.json", "--output", "r.html"], "other.json: is no JSON of a scan"),
        (["report", "empty.json", "--output", "r.html"], "empty.json: holds no measures of a scan"),
        (["report", "tv", "--output", "r.txt"], "--output r.txt: expected a name that ends in .html"),
        (["scan", "base", "--dry-run", "--report", "s.txt"], "--report s.txt: expected a name that ends in .html"),
        (["report", "deep.json", "--output", "r.html"], "deep.json: not the record of a scan"),
        (["report", "x.parquet"], "--output: expected the page to write"),
        (["report", "none.parquet", "--output", "r.html"], "none.parquet: expected a result in Parquet"),
        (["report", "other.parquet", "--output", "r.html"], "other.parquet: is no table of netweight"),
        (["report", "broken.parquet", "--output", "r.html"], "broken.parquet: is no table of netweight"),
        (["compare", "base", "one", "--to", "two", "--report", "c.html"], "--report: cannot be given with --to"),
    ],
)
def test_what_is_no_result_or_no_page(models, command, message) -> None:
    """Before anything is measured."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    Path("broken.parquet").write_bytes(b"PAR1")
    Path("bad").mkdir()
    Path("other.json").write_text('{"model1": "a", "totals": 3}')
    Path("empty.json").write_text("{}")
    Path("deep.json").write_text("[" * 100_000)
    Path("bad/netweight_merge.json").write_text('{"parameters": {"x": 3}, "inputs": [], "notes": []}')
    said = CliRunner().invoke(cli, command)
    assert said.exit_code != 0
    assert isinstance(said.exception, (OptionError, FormatError, OutputError))
    assert message in str(said.exception)
    assert not list(Path().glob("*.html"))


def test_a_model_is_not_replaced(models) -> None:
    result = netweight.scan("base")
    Path("base").rename("model.html")
    with pytest.raises(OutputError):
        result.report("model.html")


@pytest.mark.skipif(sys.platform == "win32", reason="names there cannot hold it")
def test_a_hostile_model_is_data(models) -> None:
    name = "x<script>alert(1)<"
    Path("base").rename(name)
    netweight.scan(name).report("h.html")
    text = Path("h.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    (section,) = sections("h.html")
    assert section["title"] == name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf_8(models) -> None:
    name = os.fsdecode(b"m\xff")
    Path("base").rename(name)
    netweight.scan(name).report("h.html")
    assert sections("h.html")[0]["title"] == name
