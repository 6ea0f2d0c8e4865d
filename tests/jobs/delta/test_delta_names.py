"""Hostile names of tensors and of models: lines intact, terminals clean, nothing outside the output folder."""

from __future__ import annotations

import csv
import sys
import unicodedata

import pyarrow.parquet as pq
import pytest
from task_vectors import FIELDS, normal, save, strict_json, tuned
from task_vectors import netweight as program

import netweight
from netweight.jobs.delta.names import model_names

TENSORS = [
    "new\nline", "carriage\rreturn", "ansi\x1b[31mred\x1b[0m", "[bold red]markup[/bold red]", "../../up", "/etc/passwd",
    "=cmd|' /C calc'!A0", "+1", "-1", "@sum", "\ttab", 'comma,quote"', "emoji🙂", "\u202eright-to-left", "nul\0byte",
    "\u2028separator", "\x9b31mC1", "Case", "case", "", " ", "x" * 5000, "<script>alert(1)</script>", "e\u0301", "é",
]  # fmt: skip
MODELS = ["new\nline", "ansi\x1b[31m", "[red]markup", "=cmd()", "+1", "@x", "🙂" * 30, "Case", "case", "CON", "a b",
    "-dash", "\u202eleft", "\x9b31m", "delta.parquet", "pairwise_cosines.csv",
    'comma,"quote', "e\u0301", "é"]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    base = {name: normal((5, 4), seed=i) for i, name in enumerate(TENSORS)}
    save(folder / "base", {**base, "left\nout\x1b[31m": normal(3)})
    for i, name in enumerate(MODELS):
        save(folder / "models" / name, tuned(base, i))
    return folder


def clean(text, bad=("Cc", "Cf", "Cs", "Zl", "Zp")):
    """Nothing that moves a terminal's cursor, turns its direction or changes its colours."""
    return not {c for c in text if unicodedata.category(c) in bad} - {"\n"}


def width(line):
    wide = {"Mn": 0, "Me": 0}
    return sum(wide.get(unicodedata.category(c), 2 if unicodedata.east_asian_width(c) in "WF" else 1) for c in line)


@pytest.fixture(scope="module")
def done(hostile):
    models = [hostile / "models" / name for name in MODELS]
    return program(
        "delta", "--base", hostile / "base", "--models", *models, "--outdir", hostile / "out" / "here",
        env={"COLUMNS": "80"}, cwd=hostile,
    )  # fmt: skip


def test_nothing_lands_outside(hostile, done):
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in hostile.iterdir()) == ["base", "models", "out"]
    assert [p.name for p in (hostile / "out").iterdir()] == ["here"]
    assert len(list((hostile / "models").rglob("*"))) == 2 * len(MODELS)
    folders = [p.name for p in (hostile / "out" / "here").iterdir() if p.is_dir()]
    assert len(folders) == len(MODELS)
    folded = {unicodedata.normalize("NFC", f).casefold() for f in folders}
    assert len(folded) == len(folders)  # also on a file system that ignores case, or how accents are written
    assert all(clean(f) and len(f.encode()) <= 255 for f in folders)
    assert {"delta.parquet", "pairwise_cosines.csv"}.isdisjoint(folders)


def test_csv_lines_are_whole(hostile, done):
    out = hostile / "out" / "here"
    for path in out.rglob("*.csv"):
        raw = path.read_bytes().decode()
        assert clean(raw, ("Cc", "Cs", "Zl", "Zp"))
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert len(raw.splitlines()) == 1 + len(rows)
        assert len({len(r) for r in rows} | {len(header)}) == 1
        cells = [cell for row in [header, *rows] for cell in row]
        assert not [c for c in cells if c.startswith(("=", "@", "+", "\t"))]
        assert not [c for c in cells if c.startswith("-") and not c[1:2].isdigit() and c != "-inf"]
        if path.name == "per_param_stats.csv":
            assert len(rows) == len(TENSORS)
            assert header[: len(FIELDS)] == FIELDS


def test_json_and_parquet_keep_the_exact_names(hostile, done):
    out = hostile / "out" / "here"
    table = pq.read_table(out / "delta.parquet").to_pylist()
    assert [row["param"] for row in table[: len(TENSORS)]] == TENSORS
    model = table[0]["model"]
    summary = strict_json((out / model / "summary.json").read_text(encoding="utf-8"))
    assert [s["name"] for s in summary["skipped"]] == ["left\nout\x1b[31m"]
    assert clean(summary["skipped"][0]["reason"])


def test_the_terminal_stays_clean(hostile, done):
    assert clean(done.stdout)
    assert clean(done.stderr)
    table = done.stdout.split("\n\n")[0]
    assert max(map(width, table.splitlines())) <= 80
    assert "[red]markup" in done.stdout.replace("\n", "")
    assert "left out of " in done.stdout


def test_dry_run_and_json_stay_clean(hostile):
    arguments = ["delta", "--base", hostile / "base", "--models", *(hostile / "models" / n for n in MODELS[:4])]
    shown = program(*arguments, "--dry-run", "--verbose")
    assert shown.returncode == 0, shown.stderr
    assert clean(shown.stdout)
    listed = program(*arguments, "--outdir", hostile / "out" / "again", "--format", "json")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.isascii()
    assert len(strict_json(listed.stdout)["models"]) == 4


def test_errors_stay_one_clean_line(hostile):
    missing = hostile / "no\nsuch\x1b[31m"
    shown = program("delta", "--base", missing, "--models", hostile / "base", "--outdir", hostile / "out" / "x")
    assert shown.returncode == 2
    assert clean(shown.stderr)
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not text")
def test_a_folder_whose_name_is_no_text(tmp_path):
    base = {"a": normal(50)}
    save(tmp_path / "base", base)
    save(tmp_path / "model\udcff", tuned(base, 1))
    shown = program(
        "delta", "--base", tmp_path / "base", "--models", tmp_path / "model\udcff", "--outdir", tmp_path / "o"
    )
    assert shown.returncode == 0, shown.stderr
    assert clean(shown.stdout)
    result = netweight.delta(tmp_path / "base", [tmp_path / "model\udcff"], tmp_path / "o")
    assert "model" in result.to_arrow().column("model").to_pylist()[0]


def test_html_is_escaped(hostile):
    result = netweight.delta(hostile / "base", [hostile / "models" / "[red]markup"], include=("<script>*", "<*"))
    html = result._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_colliding_folders_of_one_name(tmp_path):
    base = {"a": normal(10)}
    save(tmp_path / "base", base)
    for i, path in enumerate(("run1/checkpoint-100", "run2/checkpoint-100", "run3/final.safetensors")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        save(tmp_path / path, tuned(base, i))
    models = [tmp_path / "run1/checkpoint-100", tmp_path / "run2/checkpoint-100", tmp_path / "run3/final.safetensors"]
    result = netweight.delta(tmp_path / "base", models, tmp_path / "out")
    assert [m.name for m in result.models] == ["run1_checkpoint-100", "run2_checkpoint-100", "final"]
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {m.name for m in result.models}


@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".th", ".tar", ".CKPT"])
def test_the_ending_of_a_file_is_no_part_of_its_name(ending):
    assert model_names([f"/models/v1.5{ending}", "/models/other"]) == ["v1.5", "other"]
