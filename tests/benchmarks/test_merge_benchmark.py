from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the benchmark is scripts beside each other, not a package

import merge  # noqa: E402
from measure import Measurement, machine  # noqa: E402
from report import Row  # noqa: E402
from scan_report import Part, ScanReport, as_json, as_markdown  # noqa: E402

needs_wait4 = pytest.mark.skipif(not hasattr(os, "wait4"), reason="os.wait4 is not on this system")

# Both programs "merge" by copying the first model that is no base.
OURS = """#!{python}
import json, shutil, sys
command, recipe, output, out, *flags = sys.argv[1:]
assert (command, output) == ("merge", "--output"), sys.argv
assert flags in ([], ["--no-fsync"]), flags
shutil.copytree(json.load(open(recipe))["models"][-1]["model"], out, dirs_exist_ok=True)
"""
THEIRS = """#!{python}
import json, os, shutil, sys
assert os.environ["HF_HUB_OFFLINE"] == "1"
shutil.copytree(json.load(open(sys.argv[1]))["models"][-1]["model"], sys.argv[2])
"""


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def program(path, text):
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_recipes_are_yaml_that_names_base_and_models(tmp_path):
    base, models = tmp_path / "base", [tmp_path / "one", tmp_path / "it's two"]
    made = yaml.safe_load(merge.recipe_text("ties", base, models))
    assert (made["merge_method"], made["base_model"], made["dtype"]) == ("ties", str(base), "bfloat16")
    assert [m["model"] for m in made["models"]] == [str(m) for m in models]
    assert {tuple(m["parameters"].items()) for m in made["models"]} == {(("weight", 0.4), ("density", 0.5))}
    made = yaml.safe_load(merge.recipe_text("slerp", base, models))
    assert [m["model"] for m in made["models"]] == [str(base), str(models[0])]
    assert made["parameters"] == {"t": 0.5}


def test_differences_of_merges_are_relative_to_the_change(tmp_path):
    base = np.array([1.0, -2.0, 0.0, 3.0], ml_dtypes.bfloat16)
    one = np.array([1.5, -2.0, -0.0, 3.0], ml_dtypes.bfloat16)
    two = np.array([1.5, -2.0, 0.0, 2.75], ml_dtypes.bfloat16)
    for name, w in (("base", base), ("one", one), ("two", two)):
        (tmp_path / name).mkdir()
        save_file({"w": w}, tmp_path / name / "model.safetensors")
    done = run("compare_merges.py", *(tmp_path / name for name in ("base", "one", "two")))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"equal": 0.75, "largest": 0.5, "mean_square": 0.5}


def test_rows_that_are_not_compared_have_no_ratios():
    rows = tuple(Row(label, label, (Measurement(2, 3, 1, 100, 0),)) for label in ("ties", "slerp"))
    parts = (Part("3b", "a title", rows, {}, compared=False),)
    made = ScanReport("2025-01-01", "1b", machine(), parts, title="merge")
    text = as_markdown(made)
    assert text.startswith("## merge, 1b, 2025-01-01\n")
    assert "/ netweight" not in text
    assert as_json(made)["ratios"] == {}


@needs_wait4
def test_the_runner_measures_every_part_and_leaves_nothing(tmp_path):
    ours, theirs = program(tmp_path / "netweight", OURS), program(tmp_path / "mergekit-yaml", THEIRS)
    where = ("--workdir", tmp_path / "data", "--results", tmp_path / "results")
    programs = ("--netweight", ours, "--mergekit", theirs)
    done = run("merge.py", "--shape", "tiny", "--runs", 1, "--parts", *merge.PARTS, *where, *programs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## merge, tiny, ")
    for title in (
        "tiny, ties: base and 3 fine-tunes",
        "slerp: base and 1 fine-tune,",
        "conv=fsync",
        "**mergekit / net",
    ):
        assert title in done.stdout
    (results,) = (tmp_path / "results").iterdir()
    assert results.name.endswith("-merge-tiny.json")
    figures = json.loads(results.read_text())
    assert [part["key"] for part in figures["parts"]] == ["task_arithmetic", "ties", "slerp", "durable", "3b"]
    assert figures["parts"][0]["figures"] == {"equal": 1, "largest": 0, "mean_square": 0}
    assert figures["parts"][3]["figures"]["durable_over_dd"] > 0
    assert str(tmp_path) not in results.read_text()
    assert [list(folder.iterdir()) for folder in (tmp_path / "data").iterdir()] == [[]]


@needs_wait4
def test_the_runner_says_which_command_failed_and_what_is_missing(tmp_path, capsys):
    failing = program(tmp_path / "netweight", "#!{python}\nraise SystemExit('no such method')\n")
    arguments = ["--shape", "tiny", "--workdir", str(tmp_path / "data"), "--netweight", str(failing)]
    done = run("merge.py", "--parts", "ties", "--skip-mergekit", *arguments)
    assert done.returncode == 1
    assert "error: netweight returned 1:\nno such method" in done.stderr
    with pytest.raises(SystemExit):
        merge.main([*arguments, "--mergekit", str(tmp_path / "nowhere")])
    assert "run benchmarks/mergekit/setup.sh, or give --skip-mergekit" in capsys.readouterr().err
