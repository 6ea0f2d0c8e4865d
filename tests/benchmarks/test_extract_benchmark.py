from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the benchmark is scripts beside each other, not a package

from safetensors.numpy import save_file  # noqa: E402

import extract_lora  # noqa: E402
from measure import Measurement  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="os.wait4 is not on this system")

# "mergekit" copies our adapter.
THEIRS = """#!{python}
import shutil, sys
out = sys.argv[sys.argv.index("--out-path") + 1]
shutil.copytree(out.replace("out-theirs", "out-ours"), out)
"""


def test_the_tiny_shape(tmp_path, capsys):
    if shutil.which("netweight", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("netweight is not installed as a program")
    stub = tmp_path / "mergekit-extract-lora"
    stub.write_text(THEIRS.format(python=sys.executable))
    stub.chmod(0o755)
    options = ["--shape", "tiny", "--rank", "4", "--runs", "1", "--workdir", tmp_path, "--results", tmp_path]
    assert extract_lora.main([*map(str, options), "--mergekit", str(stub), "--skip-dry-run"]) == 0
    (file,) = tmp_path.glob("*-extract-lora-tiny.json")
    found = json.loads(file.read_text())
    assert found["rows"].keys() == {"netweight extract-lora", "netweight verify", "mergekit-extract-lora"}
    errors = found["errors_of_shared_matrices"]
    assert errors["netweight"] == errors["mergekit"]
    assert errors["matrices"] == found["whole"]["matrices"] - 1  # without the embedding
    assert not (tmp_path / "tiny").exists()
    assert "**mergekit / netweight**" in capsys.readouterr().out


def test_errors_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(0)
    base, change = (rng.standard_normal((6, 5)).astype(np.float32) for _ in range(2))
    for name, tensor in (("base", base), ("model", base + change)):
        (tmp_path / name).mkdir()
        save_file({"a.weight": tensor}, tmp_path / name / "model.safetensors")
    left, right = rng.standard_normal((6, 2)).astype(np.float32), rng.standard_normal((2, 5)).astype(np.float32)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        parts = {"base_model.model.a.lora_A.weight": right, "base_model.model.a.lora_B.weight": left}
        save_file(parts, tmp_path / name / "adapter_model.safetensors")
    found = extract_lora.squares(tmp_path / "base", tmp_path / "model", [tmp_path / "one", tmp_path / "other"])
    difference = ((base + change) - base).astype(np.float64)
    rest = np.square(difference - left.astype(np.float64) @ right).sum()
    assert found["a"] == pytest.approx([np.square(difference).sum(), rest, rest])


def test_a_table_without_the_other_program():
    runs = [Measurement(1.0, 0.5, 0.25, 10**9, 0), Measurement(3.0, 0.5, 0.25, 10**9, 0)]
    table = extract_lora._table({"netweight extract-lora": runs}, {})
    assert "| netweight extract-lora | 2.0 s (1.0 to 3.0) | 0.8 s | 1.00 GB | 2 |" in table
