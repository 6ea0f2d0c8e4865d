"""`--format quiet` on a terminal: huggingface_hub's own bars are silent too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hub_models import write_model

pty = pytest.importorskip("pty")  # no such thing on Windows
termios = pytest.importorskip("termios")

PROGRAM = "import sys; from netweight.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize("output_format", ["quiet", "human"])
def test_bars_while_a_model_is_fetched(hub, tmp_path, output_format) -> None:
    write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    command = [sys.executable, "-c", PROGRAM, "scan", "org/name", "--format", output_format]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    environment = os.environ | hub.environment(tmp_path / "home")
    environment.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)  # another test may have asked for quiet
    process = subprocess.Popen(command, stdout=end, stderr=end, env=environment)
    os.close(end)
    said = bytearray()
    try:
        while data := os.read(terminal, 4096):
            said += data
    except OSError:  # the program has ended
        pass
    os.close(terminal)
    assert process.wait() == 0, bytes(said)
    if output_format == "quiet":
        assert not said
    else:
        assert b"%|" in said
