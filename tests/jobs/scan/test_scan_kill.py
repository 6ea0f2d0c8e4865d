"""kill -9 and Ctrl-C at random moments, then --resume: the same files as an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from task_vectors import PROGRAM, normal, save

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no kill -9")

KILLS = 12

# One process imports everything and forks a child for each run: as many interpreters would take a minute to start.
DRIVER = r"""
import json, os, random, signal, sys, time
from pathlib import Path
import netweight
from netweight.cli.main import main

root, model, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
netweight.scan(model, methods="all", workers=1)  # everything is imported and compiled now
begun = time.monotonic()
netweight.scan(model, methods="all", workers=1)
seconds = time.monotonic() - begun

def run(out, *more):
    child = os.fork()
    if child == 0:
        with open(root / "said", "w") as said:
            os.dup2(said.fileno(), 2)
        try:
            words = ["scan", model, "--methods", "all", "--output", str(out), "--format", "quiet", "--workers", "1"]
            main([*words, *more])
        except SystemExit as left:
            os._exit(left.code or 0)
        os._exit(99)
    return child

def records(journal):
    try:
        return max(0, journal.read_bytes().count(b"\n") - 2)  # the header, and when the run began
    except FileNotFoundError:
        return 0

for number in range(kills):
    out = root / str(number) / "scan.json"
    out.parent.mkdir()
    journal = out.parent / ".scan.json.netweight-run" / "journal.jsonl"
    child = run(out)
    while not records(journal) and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.0005)
    time.sleep(random.Random(number).uniform(0, 0.8 * seconds))
    try:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        status = 0
    found = {"killed": os.WIFSIGNALED(status), "kept": records(journal), "complete": out.exists()}
    found["code"] = os.waitstatus_to_exitcode(os.waitpid(run(out, "--resume"), 0)[1])
    found["left"] = sorted(p.name for p in out.parent.iterdir())
    found["text"] = out.read_text()
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    arrays = {f"model.layers.{i}.mlp.up_proj.weight": normal((150, 100 + i), seed=i) for i in range(60)}
    return save(folder / "model", arrays)


def test_killed_at_random_moments(model, tmp_path) -> None:
    command = [sys.executable, "-W", "error", "-c", DRIVER, tmp_path, model, KILLS]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == KILLS
    assert {case["code"] for case in found} == {0}
    assert {tuple(case["left"]) for case in found} == {("scan.json",)}
    assert len({case["text"] for case in found}) == 1
    assert sum(case["killed"] and case["kept"] > 0 and not case["complete"] for case in found) >= KILLS // 2


def test_interrupted_by_hand(model, tmp_path) -> None:
    out = tmp_path / "scan.csv"
    journal = tmp_path / ".scan.csv.netweight-run" / "journal.jsonl"
    words = [*PROGRAM, "scan", model, "--methods", "all", "--output", out, "--format", "quiet"]
    run = subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    code = run.wait(300)
    said = run.stderr.read()
    run.stderr.close()
    if code == 0:
        pytest.skip("the run had ended before the signal came")
    assert code == 130
    assert "scan.csv was not changed; run again with --resume to go on" in said
    assert not out.exists()
    begun = json.loads(journal.read_text().splitlines()[1])["value"]["at"]
    resumed = subprocess.run(list(map(str, [*words, "--resume"])), check=False, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert all(line.endswith(f",F32,{begun}") for line in out.read_text().splitlines()[1:])
