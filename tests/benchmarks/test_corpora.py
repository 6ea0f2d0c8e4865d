"""The script over scanners' files says of each what became of it, and notices what must not happen."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "corpora.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script looks at each file in a forked process")


class Called:
    def __init__(self, function, *given):
        self.called = function, given

    def __reduce__(self):
        return self.called


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    save_file({"w": np.ones(8, np.float32)}, folder / "good.safetensors")
    (folder / "deep" / "attack.pkl").write_bytes(pickle.dumps(Called(os.system, "true")))
    (folder / "object.pkl").write_bytes(pickle.dumps(Called(Path(__file__).joinpath, "x")))
    (folder / "noise.bin").write_bytes(bytes(range(200)))
    (folder / "notes.txt").write_text("left out")
    return folder


def run(*given, before: str = ""):
    program = (
        f"import runpy, sys, netweight\n{before}\ndel sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", program, SCRIPT, *given], capture_output=True, text=True, check=False)


def test_what_became_of_each(corpus, tmp_path):
    ended = run(corpus, tmp_path / "none")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "corpus: 4 files itself: 1 read, 0 named, 1 unsafe, 2 refused, 0 raised" in ended.stdout
    assert "corpus: 2 files beside a tensor: 0 read, 1 named, 1 unsafe, 0 refused, 0 raised" in ended.stdout
    assert f"{tmp_path / 'none'}: not there, skipped" in ended.stdout
    every = run(corpus, "--list").stdout
    assert "its pickle asks to call posix.system" in every


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("open(path.with_suffix('.new'), 'w')", "('open"),
        ("import os; os.system('true')", "os.system"),
        ("import pickle; pickle.loads(pickle.dumps(print))", "pickle.find_class"),
        ("import os; os._exit(3)", "ended with status"),
    ],
)
def test_what_must_not_happen_is_noticed(corpus, what, told):
    before = f"def wrong(path):\n    {what}\n    raise netweight.NetweightError('refused')\nnetweight.open = wrong"
    ended = run(corpus, before=before)
    assert ended.returncode == 1, ended.stderr
    assert told.strip("('") in ended.stdout
    assert "6 files that went wrong" in ended.stdout
