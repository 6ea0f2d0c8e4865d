from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # scripts beside each other, not a package

import formats
import netweight
import q4_k

gguf = pytest.importorskip("gguf")


def test_q4_k_is_read_as_about_what_it_was():
    """By llama.cpp's own package; a block of zeros too."""
    values = np.random.default_rng(0).standard_normal(1 << 14).astype(np.float32)
    values[256:512] = 0
    values[512:768] = np.abs(values[512:768])
    read = gguf.quants.dequantize(q4_k.q4_k(values).reshape(-1), gguf.GGMLQuantizationType.Q4_K)
    assert np.abs(read - values).max() < 0.35
    assert np.sqrt(np.mean((read - values) ** 2)) < 0.1
    assert not read[256:512].any()


def test_the_job_s_models_are_the_same_but_for_rounding(tmp_path):
    q4_k.write_models(tmp_path / "base", tmp_path / "q.gguf", 2, "tiny")
    with netweight.open(tmp_path / "base") as base, netweight.open(tmp_path / "q.gguf") as small:
        assert set(base) == set(small)
        for name, tensor in base.items():
            a, b = (t.read().astype(np.float32).reshape(-1) for t in (tensor, small[name]))
            assert np.abs(a - b).max() <= (0.01 if len(tensor.shape) > 1 else 0), name


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="os.wait4 is not on this system")
def test_every_format_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(formats, "ROWS", 256)
    monkeypatch.setattr(formats, "COLS", 512)
    arguments = ["--parts", "elements", "--runs", "1"]
    assert formats.main([*arguments, "--workdir", str(tmp_path), "--results", str(tmp_path / "results")]) == 0
    (path,) = (tmp_path / "results").iterdir()
    found = json.loads(path.read_text())["elements"]
    assert len(found) == len(formats.GGML) + len(formats.FORMATS)
    assert all(each["ours"] > 0 for each in found)
    assert "| GGUF Q4_K |" in capsys.readouterr().out
    assert not (tmp_path / "formats").exists()
