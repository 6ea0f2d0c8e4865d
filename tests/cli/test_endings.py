"""How runs end that somebody stops: by signals, or by closing the pipe that they print into."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from task_vectors import PROGRAM, normal, save

from netweight.cli.endings import heeding

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, and pipes that break, are of POSIX")
SLOW = (
    "import time; from netweight.passes import differences as d; from netweight.cli.main import main\n"
    "usual = d._ReadingSchedule.take\n"
    "def slow(self, look, found): time.sleep(0.05); return usual(self, look, found)\n"
    "d._ReadingSchedule.take = slow; main()"
)
"""The program, with a pause before each parameter: workers are at work when a signal comes."""


@pytest.fixture(autouse=True)
def heard():
    """What a program inherits: signals as they usually are, also where these tests run below `nohup`."""
    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ignored = [name for name in names if signal.getsignal(name) is signal.SIG_IGN]
    for name in ignored:
        signal.signal(name, signal.SIG_DFL)
    yield
    for name in ignored:
        signal.signal(name, signal.SIG_IGN)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("base", "tuned")):
        layers = {f"model.layers.{n}.mlp.up_proj.weight": normal((64, 32), seed=100 * number + n) for n in range(60)}
        save(folder / name, layers)
    return folder


def start(models: Path, out: Path, *before: str) -> subprocess.Popen[str]:
    words = [*before, sys.executable, "-W", "error", "-c", SLOW, "delta", "--base", "base", "--models", "tuned"]
    words += ["-o", str(out), "--workers", "2", "-q"]
    process = subprocess.Popen(words, cwd=models, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = out.parent / f".{out.name}.netweight-run" / "journal.jsonl"
    end = time.monotonic() + 300
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_stopped_run_goes_on(models: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    process = start(models, out)
    process.send_signal(signal.Signals[name])
    printed, said = process.communicate(timeout=300)
    assert (process.returncode, printed) == (128 + signal.Signals[name], "")
    assert said == f"error: stopped; nothing in {out} was changed; run again with --resume to go on\n"
    assert not out.exists()
    words = ["delta", "--base", "base", "--models", "tuned", "-o", str(out), "--resume"]
    done = subprocess.run([*PROGRAM, *words], cwd=models, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " of 60 parameters are done" in done.stderr
    assert (out / "delta.parquet").exists()


def test_a_second_signal_does_not_disturb_the_first(models: Path, tmp_path: Path) -> None:
    process = start(models, tmp_path / "out")
    for name in ("SIGHUP", "SIGTERM", "SIGTERM"):  # as a closing session sends them
        process.send_signal(signal.Signals[name])
    _, said = process.communicate(timeout=300)
    assert process.returncode in {128 + signal.SIGHUP, 128 + signal.SIGTERM}  # the system may hand over either first
    assert said.endswith("run again with --resume to go on\n")
    assert said.count("\n") == 1


def test_nohup_keeps_a_run_going(models: Path, tmp_path: Path) -> None:
    process = start(models, tmp_path / "out", "nohup")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert (tmp_path / "out" / "delta.parquet").exists()


def test_handlers_are_put_back_and_other_threads_keep_off() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray leaves one of its own where it has run
    try:
        check_handlers(signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGTERM, before)


def check_handlers(usual: signal.Handlers) -> None:
    with heeding() as heard, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is usual

    def elsewhere() -> None:
        with heeding():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [usual]


@pytest.mark.parametrize(
    "words",
    [["scan", "base"], ["scan", "base", "--format", "csv"], ["compare", "base", "tuned"], ["info", "base"],
     ["info", "base", "--tree"], ["info", "base", "--json"], ["devices"], ["help", "merge"]],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_that_has_gone_is_no_error(models: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run([*PROGRAM, *words], cwd=models, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert process.returncode == 141
    assert b"error" not in process.stderr
    assert b"Traceback" not in process.stderr


def test_a_terminal_that_has_gone(models: Path, tmp_path: Path) -> None:
    """What closing a window does: SIGHUP, and a terminal that takes no more messages."""
    pty = pytest.importorskip("pty")
    out = tmp_path / "out"
    words = [sys.executable, "-c", SLOW, "delta", "--base", "base", "--models", "tuned", "-o", str(out)]
    ours, theirs = pty.openpty()
    code = (
        "import os, fcntl, termios, sys; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=models, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    journal = tmp_path / ".out.netweight-run" / "journal.jsonl"
    end = time.monotonic() + 300
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.close(ours)
    assert process.wait(timeout=300) == 128 + signal.SIGHUP
    assert not out.exists()
    assert journal.exists()
