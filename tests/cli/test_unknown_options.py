from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from task_vectors import netweight


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--out-shard-sizes", " (did you mean '--out-shard-size'?)"),
        ("--max-shard-sze", " (did you mean '--max-shard-size'?)"),
        ("--copy-tokeniser", " (did you mean '--copy-tokenizer'?)"),
        ("--no-copy-tokeniser", " (did you mean '--no-copy-tokenizer'?)"),
        ("--lazy-unpickl", " (did you mean '--lazy-unpickle'?)"),
        ("--density", " (did you mean '--set density=VALUE'?)"),
        ("--densty", " (did you mean '--set density=VALUE'?)"),
        ("--lambda", " (did you mean '--set lambda=VALUE'?)"),
        ("--select-topk", " (did you mean '--set select_topk=VALUE'?)"),
        ("--weight", " (did you mean '--weights'?)"),
        ("--methd", " (did you mean '--method'?)"),
        ("--qqqq", ""),
    ],
)
def test_what_was_meant(option, hint) -> None:
    for words in ([option, "1"], [f"{option}=1"]):
        done = netweight("merge", "recipe.yml", "out", *words)
        assert done.returncode == 2
        assert done.stderr == f"error: No such option '{option}'{hint}; see `netweight merge --help`\n"


def test_other_commands_know_their_own_options() -> None:
    done = netweight("scan", "--modle", "x")
    assert done.stderr == "error: No such option '--modle' (did you mean '--model'?); see `netweight scan --help`\n"
