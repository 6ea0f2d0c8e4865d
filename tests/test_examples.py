"""The scripts in examples/ that run in seconds do what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "jobs"))
from task_vectors import difference, netweight, normal, save, tuned

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_the_workflow_of_a_merge(tmp_path: Path) -> None:
    shapes = {"model.embed_tokens.weight": (40, 16), "model.layers.0.mlp.up_proj.weight": (32, 16)}
    base = {name: normal(shape, seed=number) for number, (name, shape) in enumerate(shapes.items())}
    models = {"math": tuned(base, 1, 1e-2), "code": tuned(base, 2, 3e-3)}
    for name, arrays in {"base": base, **models}.items():
        save(tmp_path / name, arrays, {"model_type": "llama"})
    settings = {"BASE": "base", "MODELS": "math ./code", "MODE": "linear", "PYTHON": sys.executable}
    environment = {**os.environ, **settings, "NETWEIGHT": f"{sys.executable} -m netweight", "MORE": "--dtype float32"}
    words = ["sh", str(ROOT / "examples" / "merge_workflow.sh")]
    for _ in range(2):  # what an earlier run has left is replaced
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    norms = [np.sqrt(sum((difference(base[n], m[n]) ** 2).sum() for n in base)) for m in models.values()]
    said = next(line for line in done.stdout.splitlines() if line.startswith("norms: "))
    assert [float(word) for word in said.split()[1:]] == pytest.approx(norms, rel=1e-12)
    record = json.loads((tmp_path / "merged" / "netweight_merge.json").read_text())
    inverse = [1 / norm for norm in norms]  # --mode linear
    weights = [entry["weight"] for entry in record["weights"]["models"]]
    assert weights == pytest.approx([w / sum(inverse) for w in inverse], rel=1e-9)
    assert done.stdout.splitlines()[-1] == "2 of 2 parameters are what the recipe gives, bit for bit"
    assert netweight("verify", tmp_path / "merged", cwd=tmp_path).returncode == 0


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_the_workflow_ends_where_a_step_fails(tmp_path: Path) -> None:
    environment = {**os.environ, "BASE": "nowhere", "NETWEIGHT": f"{sys.executable} -m netweight"}
    words = ["sh", str(ROOT / "examples" / "merge_workflow.sh")]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere: there is no such file or folder" in done.stderr
    assert list(tmp_path.iterdir()) == []
