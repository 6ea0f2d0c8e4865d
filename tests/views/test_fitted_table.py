"""Tables in a width: numbers whole or left out, names shortened, and nothing fitted where stdout is no terminal."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from task_vectors import netweight, normal, save, tuned

from netweight.views.fitted_table import Column, labels, name, numbers, print_table, text

MODULE = ("-c", "from netweight.cli.main import main; main()")


def columns_of(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def printed(width, columns, rows, encoding="utf-8"):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, write_through=True) as out:
        print_table(Console(file=out, width=width, highlight=False, markup=False, emoji=False), columns, rows)
        return raw.getvalue().decode(encoding)


ROWS = [
    ("model.layers.10.mlp.down_proj.weight", "0.8955", "155%", "0.541011", "31.8%"),
    ("model.layers.9.mlp.down_proj.weight", "0.4722", "104%", "0.692477", "87.3%"),
]
COLUMNS = [name("most changed"), *numbers("score", "of norm", "cosine", "signs")]


def test_wide_enough():
    assert printed(100, COLUMNS, ROWS) == (
        "most changed                           score  of norm    cosine  signs\n"
        "model.layers.10.mlp.down_proj.weight  0.8955     155%  0.541011  31.8%\n"
        "model.layers.9.mlp.down_proj.weight   0.4722     104%  0.692477  87.3%\n"
    )


def test_names_first_then_columns_from_the_right():
    assert printed(62, COLUMNS, ROWS) == (
        "most changed               score  of norm    cosine  signs\n"
        "…10.mlp.down_proj.weight  0.8955     155%  0.541011  31.8%\n"
        "…9.mlp.down_proj.weight   0.4722     104%  0.692477  87.3%\n"
    )
    assert printed(46, COLUMNS, ROWS) == (
        "most changed          score  of norm    cosine\n"
        "…10.mlp.do…oj.we…ht  0.8955     155%  0.541011\n"
        "…9.mlp.do…oj.we…ht   0.4722     104%  0.692477\n"
        "1 column left out for want of room: signs; a\n"
        "wider terminal or --format json shows them\n"
    )
    assert printed(30, COLUMNS, ROWS) == (
        "most changed    score  of norm\n"
        "…10.ml…weight  0.8955     155%\n"
        "…9.mlp…weight  0.4722     104%\n"
        "2 columns left out for want of\n"
        "room: cosine, signs; a wider\n"
        "terminal or --format json\n"
        "shows them\n"
    )


def test_words_fold_and_stay():
    shown = printed(30, [*numbers("cosine"), text("between")], [("+0.3997", "one model and another model")])
    assert shown == " cosine  between\n+0.3997  one model and another\n         model\n"
    rows = [("a", "12", "layers 1-3 and 7")]
    assert printed(14, [*labels("m"), *numbers("n"), text("gone", stays=False)], rows).splitlines()[:2] == [
        "m   n",
        "a  12",
    ]


def test_not_even_one_column_fits():
    lines = printed(8, COLUMNS, ROWS).splitlines()
    assert any("0.8955" in line for line in lines)
    assert any("0.4722" in line for line in lines)


def test_an_encoding_without_the_ellipsis():
    assert "..10.mlp" in printed(62, COLUMNS, ROWS, "ascii")


cell_texts = st.text(st.characters(codec="ascii", categories=("L", "Nd")), min_size=1, max_size=30)
tables = st.lists(st.sampled_from(["whole", "name", "text"]), min_size=1, max_size=7).flatmap(
    lambda kinds: st.tuples(
        st.just([Column(f"c{i}", kind, stays=kind == "name") for i, kind in enumerate(kinds)]),
        st.lists(st.tuples(*[cell_texts for _ in kinds]), min_size=1, max_size=4),
    )
)


@given(tables, st.integers(10, 130))
def test_a_whole_cell_is_whole_or_its_column_is_named(table, width):
    columns, rows = table
    shown = printed(width, columns, rows)
    left_out = re.search(r"left out for want of room: (.*?);", " ".join(shown.split()))
    lost = set(left_out[1].split(", ")) if left_out else set()
    assert all(c.heading in lost or c.heading in shown.split("left out")[0] for c in columns)
    assert not lost & {c.heading for c in columns if c.stays}
    for i, column in enumerate(columns):
        if column.kind == "whole" and column.heading not in lost:
            assert all(re.search(rf"(?<!\w){row[i]}(?!\w)", shown) for row in rows)
    assert not any(line.endswith(" ") for line in shown.splitlines())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = {f"model.layers.{i}.self_attn.q_proj.weight": normal((32, 32), seed=i) for i in range(3)}
    for i, kind in enumerate(["base", "one"]):
        save(folder / kind, tuned(base, i, 0.05 * i) if i else base, {"model_type": "llama"})
    return folder


COMMANDS = {
    "compare": ["compare", "base", "one", "--methods", "all"],
    "scan": ["scan", "base", "--methods", "all", "--health"],
    "info": ["info", "base"],
    "structure": ["structure", "base"],
    "structures": ["structure", "--models-dir", ".", "--output-dir", "gathered"],
    "delta": ["delta", "--base", "base", "--models", "one", "--outdir", "stats"],
    "merge": ["merge", "--base", "base", "--models", "one", "--dry-run"],
}


def run(models, command, columns=None):
    environment = {"COLUMNS": None if columns is None else str(columns), "FORCE_COLOR": None}
    done = netweight(*command, cwd=models, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_that_is_shown_is_one_of_the_whole_output(models, command):
    run(models, COMMANDS[command])  # what is done now is kept, and said so, later
    whole = run(models, COMMANDS[command])
    assert "left out for want of room" not in whole
    assert "…" not in whole
    assert not any(line.endswith(" ") for line in whole.splitlines())
    measured = re.compile(r"^[-+x<>]?[0-9.]+(e[-+]?[0-9]+)?%?$")
    known = {word for word in whole.split() if measured.match(word)}
    for width in (30, 40, 57, 80):
        shown = run(models, COMMANDS[command], width)
        assert not any(line.endswith(" ") for line in shown.splitlines())
        if command == "scan":  # its layers have fewer figures where there is less room
            shown = shown[shown.index("largest condition numbers") :]
        shown = re.sub(r"\d+ columns?\s+left\s+out", "", shown)
        assert {word for word in shown.split() if measured.match(word)} <= known, width


def test_a_pipe_has_full_names_and_unfolded_sentences(models):
    out = run(models, COMMANDS["compare"])
    assert out.count("model.layers.2.self_attn.q_proj.weight") >= 2
    line = next(line for line in out.splitlines() if line.startswith("values "))
    assert line.endswith("changed sign")
    (heading,) = (line for line in out.splitlines() if line.startswith("most changed"))
    assert heading.split()[2:] == ["score", "of", "norm", "cosine", "same", "norm", "B/A", "largest", "signs"]


def terminal(width):
    """Both ends of a terminal of so many columns."""
    pty, fcntl, termios = (pytest.importorskip(module) for module in ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    return ours, theirs


@pytest.mark.parametrize("width", [40, 57, 100])
def test_a_terminal_is_fitted_without_columns(models, width):
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "FORCE_COLOR"}}
    ours, theirs = terminal(width)
    with subprocess.Popen(
        [sys.executable, *MODULE, *COMMANDS["compare"]],
        cwd=models,
        env=environment | {"NO_COLOR": "1", "TERM": "xterm"},
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        raw = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            raw += piece
        os.close(ours)
        assert process.wait() == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", raw.decode()).replace("\r", "").splitlines()
    assert len(lines) > 20
    assert 0.75 * width < max(map(columns_of, lines)) <= width


def test_the_width_of_a_pipe_is_not_that_of_another_streams_terminal(models):
    ours, theirs = terminal(30)
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    with os.fdopen(theirs, "rb") as stdin:
        done = subprocess.run(
            [sys.executable, *MODULE, "info", "base"],
            cwd=models, env=environment, stdin=stdin, capture_output=True, text=True, check=True,
        )  # fmt: skip
    os.close(ours)
    assert done.stdout == run(models, ["info", "base"])
