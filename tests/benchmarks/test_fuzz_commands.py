"""Commands with options, inputs and outputs at random end in one line, or in what was asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_commands.py"


def test_some_runs():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--runs", "40", "--seed", "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "40 runs, 0 faults" in done.stdout
