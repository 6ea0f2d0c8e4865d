"""kill -9 and Ctrl-C at random moments, then --resume: the bytes of an uninterrupted run, and nothing that looks
finished before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from peft_models import LLAMA, llama, tuned, write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no kill -9")

KILLS = 12

# One process imports everything and forks a child for each run: as many interpreters would take a minute to start.
DRIVER = r"""
import json, os, random, signal, sys, time
from pathlib import Path
import netweight
from netweight.cli.main import main

root, base, model, kills = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
words = ["extract-lora", "--base", base, "--model", model, "--rank", "4", "--format", "quiet"]

def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "netweight_extract_lora.json"}

def run(out, workers, *more):
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        try:
            main([*words, "--output", str(out), "--workers", str(workers), *more])
        except SystemExit as left:
            os._exit(left.code or 0)
        os._exit(99)
    return child

netweight.extract_lora(base, model, root / "whole", rank=4)
begun = time.monotonic()
os.waitpid(run(root / "timed", 2), 0)
seconds = time.monotonic() - begun
found = []
for number in range(kills):
    out = root / f"{number}"
    random.seed(number)
    child = run(out, 1 + number % 3)
    time.sleep(random.uniform(0.05, 0.9) * seconds)
    os.kill(child, signal.SIGKILL if number % 3 else signal.SIGINT)
    os.waitpid(child, 0)
    ended = out.exists()
    whole = not ended or contents(out) == contents(root / "whole")
    again, more = 0, ["--overwrite"] if ended else ["--resume"]
    _, status = os.waitpid(run(out, 2, *more), 0)
    found.append([ended, whole, status, contents(out) == contents(root / "whole")])
print(json.dumps({"runs": found, "left": sorted(p.name for p in root.iterdir() if p.name.startswith("."))}))
"""


def test_killed_runs_go_on_to_the_same_bytes(tmp_path):
    base = llama(layers=6)
    folders = write(tmp_path / "base", base, LLAMA), write(tmp_path / "fine", tuned(base), LLAMA)
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-c", DRIVER, tmp_path / "runs", *folders, KILLS]
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(whole and status == 0 and same for _, whole, status, same in found["runs"]), found
    assert not all(ended for ended, *_ in found["runs"]), "no run was killed before its end"
    assert found["left"] == []
