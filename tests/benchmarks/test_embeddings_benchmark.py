"""The benchmark of embeddings: what it makes is what it says, its extrapolation is a line, a tiny run works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the benchmark is scripts beside each other, not a package

import embeddings  # noqa: E402
from baseline_sklearn import read  # noqa: E402
from make_embedding import NAME, make  # noqa: E402


def test_the_same_seed_gives_the_same_model(tmp_path) -> None:
    first, second = make(tmp_path / "a", 5000, 24, 1), make(tmp_path / "b", 5000, 24, 1)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    with safe_open(first / "model.safetensors", "pt") as file:
        stored = file.get_tensor(NAME)
    assert tuple(stored.shape) == (5000, 24)
    assert np.array_equal(stored.float().numpy(), read(first / "model.safetensors"))


def test_the_line() -> None:
    assert embeddings.line({2: 5.0, 10: 21.0}, range(2, 11)) == pytest.approx(sum(1 + 2 * k for k in range(2, 11)))
    assert embeddings.line({7: 3.0}, range(2, 12)) == pytest.approx(30)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="os.wait4 is not on this system")
def test_a_tiny_run(tmp_path) -> None:
    words = ["--shape", "tiny", "--max-k", "4", "--ks", "2", "--workdir", tmp_path / "w", "--results", tmp_path / "r"]
    command = [sys.executable, str(BENCHMARKS / "embeddings.py"), *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert "| scikit-learn, k = 2 alone |" in done.stdout
    (file,) = (tmp_path / "r").iterdir()
    found = json.loads(file.read_text())
    assert found["parts"][0]["figures"]["sklearn_seconds_k2"] > 0
    assert not (tmp_path / "w" / "embedding-tiny" / "model").exists()
