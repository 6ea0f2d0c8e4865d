"""kill -9 and Ctrl-C at random moments, then --resume: the same bytes as an uninterrupted merge, and nothing that looks
finished before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from merge_families import family
from task_vectors import PROGRAM, tree

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no kill -9")

KILLS = 30

# One process imports everything and forks a child for each run: as many interpreters would take a minute to start.
# Small stretches make many tasks of small tensors.
DRIVER = r"""
import json, os, random, signal, sys, time
from pathlib import Path
import netweight
import netweight.passes.merge_blocks as passes
from netweight.cli.main import main

passes.STRETCH = passes.BLOCK = 4096
root, base, models, kills = Path(sys.argv[1]), sys.argv[2], sys.argv[3:-1], int(sys.argv[-1])
words = ["merge", "--base", base, "--models", *models, "--method", "dare_ties", "--set", "density=0.5"]
words += ["--format", "quiet"]

def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")}

def run(out, workers, *more):
    child = os.fork()
    if child == 0:
        with open(root / "said", "w") as said:
            os.dup2(said.fileno(), 2)
        try:
            main([*words, "--output", str(out), "--workers", str(workers), *more])
        except SystemExit as left:
            os._exit(left.code or 0)
        os._exit(99)
    return child

netweight.merge(None, root / "warm", base=base, models=models, method="dare_ties", settings={"density": 0.5})
begun = time.monotonic()
os.waitpid(run(root / "timed", 2), 0)
seconds = time.monotonic() - begun
for number in range(kills):
    out = root / f"{number}"
    random.seed(number)
    child = run(out, 1 + number % 3)
    time.sleep(random.uniform(0.02, 0.8) * seconds)
    try:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        status = 0
    journal = root / f".{number}.netweight-run" / "journal.jsonl"
    kept = journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0
    found = {"killed": os.WIFSIGNALED(status), "kept": kept}
    # a kill may come between the end of the work and that of the process
    found["half"] = out.exists() and contents(out) != contents(root / "timed")
    child = run(out, 1 + (number + 1) % 3, "--resume", "--overwrite")
    found["code"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found["said"] = (root / "said").read_text()
    found["left"] = sorted(p.name for p in root.glob(".*"))
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return family(tmp_path_factory.mktemp("kill"))[:2]


def test_killed_at_random_moments(models, tmp_path) -> None:
    base, tuned = models
    command = [sys.executable, "-W", "error", "-c", DRIVER, tmp_path, base, *tuned, KILLS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=300)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == KILLS
    assert [run["code"] for run in runs] == [0] * KILLS, runs
    assert sum(run["killed"] for run in runs) > KILLS // 4
    assert sum(run["kept"] > 0 and run["killed"] for run in runs) >= 3  # some were in the middle of it
    assert not any(run["half"] for run in runs)
    assert all(run["left"] == [] for run in runs)
    expected = tree(tmp_path / "timed")
    for number in range(KILLS):
        assert tree(tmp_path / str(number)) == expected


def test_interrupted(models, tmp_path) -> None:
    base, tuned = models
    program = PROGRAM[-1].replace(
        "import main;", "import main; import netweight.passes.merge_blocks as p; p.BLOCK = 64;"
    )
    words = [*PROGRAM[:-1], program, "merge", "--base", base, "--models", *tuned, "--output", str(tmp_path / "out")]
    child = subprocess.Popen([*words, "--workers", "1"], stderr=subprocess.PIPE, text=True)
    journal = tmp_path / ".out.netweight-run" / "journal.jsonl"
    deadline = time.monotonic() + 300
    while not journal.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=300)[1]
    if child.returncode == 0:
        pytest.skip("the merge was over before the signal came")
    assert child.returncode == 130, said
    assert "--resume" in said
    assert not (tmp_path / "out").exists()
    assert subprocess.run([*words, "--resume", "--format", "quiet"], check=False).returncode == 0
    assert (tmp_path / "out" / "netweight_merge.json").exists()


def test_resume_does_again_what_the_disk_has_lost(models, tmp_path) -> None:
    """After a crash of the machine the journal may know of tensors whose bytes never reached the disk."""
    base, tuned = models
    program = (
        "import sys, os; import netweight.jobs.merge.job as m; from netweight.cli.main import main\n"
        "import netweight.jobs.merge.record as r\n"
        "def stop(*a, **k): os._exit(9)\n"
        "r.write_records = stop\n"
        "main()"
    )
    words = ["merge", "--base", base, "--models", *tuned, "--output", str(tmp_path / "out"), "--format", "quiet"]
    done = subprocess.run([sys.executable, "-c", program, *words], check=False)
    assert done.returncode == 9
    (shard,) = (tmp_path / ".out.netweight-run" / "stage").glob("*.safetensors")
    with shard.open("r+b") as file:
        file.seek(-3000, os.SEEK_END)
        file.write(np.zeros(3000, np.uint8).tobytes())
    done = subprocess.run([*PROGRAM, *words, "--resume"], check=False)
    assert done.returncode == 0
    subprocess.run([*PROGRAM, *words[:-3], str(tmp_path / "whole"), *words[-2:]], check=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
