from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # scripts beside each other, not a package

import union


def test_tokens_are_pairs_of_tokens_before_them():
    tokens, merges = union.byte_pairs(70_000)
    assert len(set(tokens)) == len(tokens) == 70_000
    known = set(tokens[:256])
    for token, (left, right) in zip(tokens[256:], merges, strict=True):
        assert left + right == token
        assert {left, right} <= known
        known.add(token)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="os.wait4 is not on this system")
def test_every_case_is_merged(tmp_path, capsys):
    assert union.main(["--shape", "tiny", "--runs", "1", "--work", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    for case in union.cases(union.SHAPES["tiny"]):
        assert f"{case}: " in said
