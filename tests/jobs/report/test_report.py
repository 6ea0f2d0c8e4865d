"""`report`: pages of results in memory and of files hold the same, and only results make pages."""

from __future__ import annotations

import json
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
        for key in ("columns", "metrics", "models", "bars", "square", "shown", "rows", "skipped", "order", "against"):
            if key == "columns":
                for a, b in zip(own[key], of_file[key], strict=True):
                    assert (a["name"], a["doc"], a["unit"]) == (b["name"], b["doc"], b["unit"])
                    assert cells_of(a) == cells_of(b), a["name"]
            else:
                assert own[key] == of_file[key], (name, key)
        assert own["card"] == of_file["card"]
        assert own["notes"] == of_file["notes"] or name == "scan"


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
    (bars,) = section["bars"]
    assert (bars["names"], bars["values"], bars["model"]) == (["one", "two"], [m["l2"] for m in measured], None)
    assert section["square"]["values"] == result.weights["cosines"]


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
        (["report", "deep.json", "--output", "r.html"], "deep.json: not the record of a result"),
        (["report", "x.parquet"], "--output: expected the page to write"),
        (["report", "none.parquet", "--output", "r.html"], "none.parquet: there is no such file or folder"),
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


def test_what_is_in_a_checkpoint(models) -> None:
    """Every tensor, and the same card and tables from the JSON that info prints."""
    said = CliRunner().invoke(cli, ["info", "base", "--format", "json", "--report", "i.html"])
    Path("i.json").write_text(said.stdout, encoding="utf-8")
    (section,) = sections("i.html")
    columns = {column["name"]: cells_of(column) for column in section["columns"]}
    held = load_file("base/model.safetensors")
    assert dict(zip(columns["param"], columns["elements"], strict=True)) == {k: v.size for k, v in held.items()}
    assert columns["bytes"] == [4 * count for count in columns["elements"]]
    assert set(columns["stored"]) == {"F32"}
    by_name = dict(zip(columns["param"], zip(columns["layer"], columns["role"], strict=True), strict=True))
    assert by_name["model.layers.1.self_attn.k_proj.weight"] == (1, "k_proj")
    assert ["tensors", "7"] in section["card"]
    netweight.report("i.json", "j.html")
    (of_file,) = sections("j.html")
    assert of_file["rows"] == 0
    for key in ("card", "tables", "bars", "notes", "skipped"):
        assert of_file[key] == section[key]
    assert netweight.info("base").listed == ()


def test_a_verdict_on_a_merge(models) -> None:
    """What differs is a finding, and first in the table; the page of the JSON is that of the run."""
    netweight.merge(None, "out", base="base", models=["one", "two"], weights=[1, 1])
    file = next(Path("out").glob("*.safetensors"))
    held = load_file(file)
    name = "model.layers.0.self_attn.q_proj.weight"
    held[name][0, :3] += 1
    save_file(held, file)
    said = CliRunner().invoke(cli, ["verify", "out", "--format", "json", "--report", "v.html"])
    assert json.loads(said.stdout)["good"] is False
    Path("v.json").write_text(said.stdout, encoding="utf-8")
    netweight.report("v.json", "w.html")
    assert Path("v.html").read_bytes() == Path("w.html").read_bytes()
    (section,) = sections("v.html")
    columns = {column["name"]: cells_of(column) for column in section["columns"]}
    assert columns["differing"] == [3.0 if param == name else 0.0 for param in columns["param"]]
    assert [finding[1] for finding in section["findings"]] == [name]
    assert section["card"][0] == ["verdict", "6 of 7 parameters are what the recipe gives, bit for bit"]
    assert section["order"] == "differing"
    assert section["bars"][0]["names"] == ["same", "differs"] or section["bars"][0]["values"] in ([1, 6], [6, 1])


def without_a_layer(folder):
    """A copy of the base with its layer 0 gone, and layer 1 half as wide."""
    held = load_file("base/model.safetensors")
    kept = {name.replace("layers.1", "layers.0"): value for name, value in held.items() if "layers.0" not in name}
    Path(folder).mkdir(parents=True)
    save_file(kept, f"{folder}/model.safetensors")


def test_what_was_taken_from_a_model(models) -> None:
    """Removed elements by part; of the files that structure wrote the same page."""
    without_a_layer("many/short")
    found = netweight.structure("many/short", "base")
    found.write("s")
    found.report("a.html")
    netweight.report("s", "b.html")
    Path("s.json").write_text(json.dumps(found.to_dict()))
    netweight.report("s.json", "c.html")
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes() == Path("c.html").read_bytes()
    (section,) = sections("a.html")
    columns = {column["name"]: cells_of(column) for column in section["columns"]}
    gone = {"q_proj": 64.0, "k_proj": 64.0, "v_proj": 64.0}
    removed = {
        role: count
        for layer, role, count in zip(columns["layer"], columns["role"], columns["removed"], strict=True)
        if layer == 0 and count
    }
    assert removed == gone
    assert sum(columns["removed"]) == found.comparison["total_params"]["reduced"]
    assert section["metrics"][0] == "reduction_ratio"
    assert ["layers of the base that are gone", "0"] in section["card"]
    (map_of_layers,) = section["tables"]
    assert map_of_layers["rows"][0][:2] == ["0", "1"]


def test_layers_that_the_base_lacks_are_said(models) -> None:
    """They are in no row, and a note says so."""
    held = load_file("base/model.safetensors")
    more = {name.replace("layers.1", "layers.2"): value for name, value in held.items() if "layers.1" in name}
    Path("deep").mkdir()
    save_file(held | more, "deep/model.safetensors")
    netweight.structure("deep", "base").report("a.html")
    (section,) = sections("a.html")
    assert any("added to the base's, and in no row here" in note for note in section["notes"])


def test_a_folder_of_models(models) -> None:
    without_a_layer("many/short")
    Path("many/same").mkdir()
    Path("many/same/model.safetensors").write_bytes(Path("base/model.safetensors").read_bytes())
    Path("many/broken").mkdir()
    Path("many/broken/model.safetensors").write_bytes(b"nothing")
    said = CliRunner().invoke(
        cli, ["structure", "--models-dir", "many", "--base", "base", "--output-dir", "all", "--report", "a.html"]
    )
    assert said.exit_code == 1
    (section,) = sections("a.html")
    assert section["models"] == ["same", "short"]
    columns = {column["name"]: cells_of(column) for column in section["columns"]}
    removed = dict.fromkeys(section["models"], 0.0)
    for model, count in zip(columns["model"], columns["removed"], strict=True):
        removed[model] += count
    assert removed == {"same": 0.0, "short": 192.0}
    assert [name for name, _ in section["skipped"]] == ["broken"]
    assert [bars["model"] for bars in section["bars"]] == ["same", "short"]
    netweight.report("all", "b.html")
    (of_files,) = sections("b.html")
    for key in ("columns", "card", "models", "bars", "metrics"):
        assert of_files[key] == section[key]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"folder": "x", "good": true, "verdicts": [1]}', "is no JSON of verify"),
        ('{"ref": "x", "format": 1, "dtypes": [], "roles": []}', "is no JSON of info: no field"),
        ('{"structure": {}, "comparison": null}', "is no JSON of structure: no field 'model_name'"),
        ("[1]", "expected the JSON of a result, an object, got list"),
    ],
)
def test_a_record_that_is_none(models, content, message) -> None:
    Path("x.json").write_text(content)
    with pytest.raises(FormatError, match=message):
        netweight.report("x.json", "x.html")


def test_the_small_form_is_of_text_alone(models) -> None:
    """A map and the first rows, and nothing of a name is markup."""
    name = "model.layers.0.<script>alert(1)</script>.weight"
    held = load_file("base/model.safetensors") | {name: np.ones((4, 4), np.float32)}
    Path("odd").mkdir()
    save_file(held, "odd/model.safetensors")
    results = [
        netweight.info("odd"), netweight.scan("odd"), netweight.delta("odd", "odd"), netweight.compare("odd", "odd"),
        netweight.structure("odd"), netweight.merge(None, "out", base="base", models=["one"], weights=[1]),
        netweight.verify("out"),
    ]  # fmt: skip
    for result in results:
        form = result._repr_html_()
        assert "<script" not in form
        assert form.count("<table>") >= 1
        assert len(form) < 60_000
    assert "&lt;script&gt;" in results[1]._repr_html_()
    assert "background:rgb(" in results[1]._repr_html_()
