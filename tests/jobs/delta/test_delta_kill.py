"""kill -9 and Ctrl-C at random moments, then --resume: the same bytes as an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from task_vectors import PROGRAM, beside_progress, netweight, normal, save, tree, tuned

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no kill -9")

KILLS = 20


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Enough parameters, of some size, that a run takes a second or so after the interpreter has started."""
    folder = tmp_path_factory.mktemp("models")
    base = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": normal((200, 100), seed=i) for i in range(40)}
    base |= {
        f"model.layers.1.mlp.experts.{i}.up_proj.weight": normal((500, 300), "bfloat16", seed=i) for i in range(40)
    }
    base["lm_head.weight"] = normal((1200, 1000), seed=999)  # needs a second look
    save(folder / "base", base)
    return [folder / "base", *(save(folder / f"tune{i}", tuned(base, i)) for i in (1, 2))]


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """The files of a run that nobody disturbed, and how long it took after its first record."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run = start(models, out)
    begun = first_record(run, out)
    assert run.wait(300) == 0, run.stderr.read()
    run.stderr.close()
    return tree(out), time.monotonic() - begun


def start(models, out, *more):
    command = [*PROGRAM, "delta", "--base", models[0], "--models", *models[1:], "--outdir", out, "--format", "quiet"]
    return subprocess.Popen([*map(str, command), *more], stderr=subprocess.PIPE, text=True)


def journal_of(out):
    return out.parent / f".{out.name}.netweight-run" / "journal.jsonl"


def first_record(run, out):
    """Wait until something has been measured; the time at which it was seen."""
    journal = journal_of(out)
    end = time.monotonic() + 300
    while run.poll() is None and time.monotonic() < end:
        try:
            if journal.read_bytes().count(b"\n") > 1:
                break
        except FileNotFoundError:
            pass  # the run has not come so far
        time.sleep(0.002)
    return time.monotonic()


def stop(models, out, wait, how, *more):
    """Start a run and stop it `wait` seconds after its first record; its exit code and what it said."""
    run = start(models, out, *more)
    first_record(run, out)
    time.sleep(wait)
    run.send_signal(how)
    code = run.wait(300)
    said = run.stderr.read()
    run.stderr.close()
    return code, said


def resume(models, out):
    return netweight("delta", "--base", models[0], "--models", *models[1:], "--outdir", out, "--resume")


# One process imports everything and forks a child for each run: twenty interpreters would take a minute to start.
DRIVER = r"""
import json, os, random, signal, sys, time
from pathlib import Path
import netweight
from netweight.cli.main import main

root, models, kills, seconds = Path(sys.argv[1]), sys.argv[2:5], int(sys.argv[5]), float(sys.argv[6])
netweight.delta(models[0], models[1:], root / "warm", workers=1)  # everything is imported and compiled now
begun = time.monotonic()
netweight.delta(models[0], models[1:], root / "warm")
seconds = min(seconds, time.monotonic() - begun)

def run(out, *more):
    child = os.fork()
    if child == 0:
        with open(root / "said", "w") as said:
            os.dup2(said.fileno(), 2)
        try:
            command = ["delta", "--base", models[0], "--models", *models[1:], "--outdir", str(out), *more]
            main([*command, "--format", "quiet"])
        except SystemExit as left:
            os._exit(left.code)
        os._exit(99)
    return child

def records(journal):
    try:
        return max(0, journal.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0

for number in range(kills):
    out = root / str(number) / "out"
    out.parent.mkdir()
    journal = out.parent / ".out.netweight-run" / "journal.jsonl"
    child = run(out)
    while not records(journal) and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.0005)
    time.sleep(random.Random(number).uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    found = {"killed": os.WIFSIGNALED(status), "kept": records(journal), "complete": out.exists()}
    found["code"] = os.waitstatus_to_exitcode(os.waitpid(run(out, "--resume"), 0)[1])
    found["said"] = (root / "said").read_text()
    print(json.dumps(found), flush=True)
"""


def test_killed_at_random_moments(models, whole, tmp_path):
    expected, seconds = whole
    command = [sys.executable, "-W", "error", "-c", DRIVER, tmp_path, *models, KILLS, seconds]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == KILLS
    for number, case in enumerate(found):
        assert (case["code"], case["said"]) == (0, ""), case
        assert tree(tmp_path / str(number) / "out") == expected, case
        assert [p.name for p in (tmp_path / str(number)).iterdir()] == ["out"]
    killed = [case for case in found if case["killed"] and not case["complete"]]
    assert len(killed) > KILLS // 2  # the moments were spread over the run, not after it
    assert len({case["kept"] for case in killed}) > 3


def test_killed_again_and_again(models, whole, tmp_path):
    expected, seconds = whole
    out = tmp_path / "out"
    kept = [0]
    for number in range(4):
        more = ["--resume"] if number else []
        stop(models, out, random.Random(number).uniform(0, seconds / 4), signal.SIGKILL, *more)
        if not journal_of(out).exists():
            break
        kept.append(journal_of(out).read_bytes().count(b"\n"))
    assert kept == sorted(kept)
    assert resume(models, out).returncode == 0
    assert tree(out) == expected


def test_interrupted(models, whole, tmp_path):
    expected, _ = whole
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    code, said = stop(models, out, 0, signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1].endswith(f"nothing in {out} was changed; run again with --resume to go on")
    assert len(said.splitlines()) == 1
    assert tree(out) == {"mine.txt": b"kept"}
    done = resume(models, out)
    assert done.returncode == 0, done.stderr
    assert "resuming: " in done.stderr
    assert tree(out) == {**expected, "mine.txt": b"kept"}


def test_interrupted_while_it_writes(models, whole, tmp_path):
    """Ctrl-C after the last parameter is measured: the same line, and the measuring is not lost."""
    expected, _ = whole
    out = tmp_path / "out"
    program = (
        "import signal, os, netweight.jobs.delta.result as files\n"
        "from netweight.cli.main import main\n"
        "def bar(*_): os.kill(os.getpid(), signal.SIGINT)\n"
        "files.group_l2_bar = bar\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "delta", "--base", models[0], "--models", *models[1:], "--outdir", out]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 130
    assert done.stderr.strip().endswith("run again with --resume to go on")
    assert not out.exists()
    done = resume(models, out)
    assert "resuming: 81 of 81 parameters are done" in done.stderr
    assert tree(out) == expected


def test_resuming_another_run_is_refused(models, tmp_path):
    out = tmp_path / "out"
    stop(models, out, 0, signal.SIGKILL)
    assert journal_of(out).exists()
    done = netweight("delta", "--base", models[0], "--models", models[1], "--outdir", out, "--resume")
    assert done.returncode == 2
    assert "cannot resume: the inputs or the options changed since" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()
    done = netweight("delta", "--base", models[0], "--models", models[1], "--outdir", out, "--format", "quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not journal_of(out).exists()


def test_resume_with_nothing_to_resume(models, tmp_path):
    done = netweight(
        "delta", "--base", models[0], "--models", models[1], "--outdir", tmp_path / "out", "--resume",
        "--include", "*layers.1.mlp.experts.1.*",
    )  # fmt: skip
    assert done.returncode == 0
    assert beside_progress(done.stderr) == "note: nothing to resume: starting anew\n"
