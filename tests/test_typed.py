"""py.typed is true: mypy --strict takes a user's script, and finds what is wrong in one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import netweight

ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("user_script.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where mypy runs and keeps what it has read: both tests need it."""
    return tmp_path_factory.mktemp("typed")


def mypy(script: Path, folder: Path) -> str:
    """What mypy says of a script, without this project's settings, to somebody who has netweight installed."""
    options = ("--strict", "--follow-imports=silent", f"--config-file={os.devnull}", "--cache-dir", folder / "cache")
    command = (sys.executable, "-m", "mypy", *options, script)
    # Of an installed package mypy reports nothing, of one below MYPYPATH it would: hence silent.
    env = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False).stdout


def test_the_public_names_have_types(folder: Path) -> None:
    assert (ROOT / "src" / "netweight" / "py.typed").exists()
    assert mypy(SCRIPT, folder) == "Success: no issues found in 1 source file\n"


def test_a_wrong_use_is_found_and_no_public_name_is_any(folder: Path) -> None:
    wrong = folder / "wrong.py"
    lines = ["import netweight", "netweight.delta(1, ['m'])", "netweight.info('m').parametres"]
    wrong.write_text("\n".join([*lines, *(f"reveal_type(netweight.{name})" for name in netweight.__all__), ""]))
    said = mypy(wrong, folder)
    assert 'Argument 1 to "delta" has incompatible type "int"' in said
    assert '"Info" has no attribute "parametres"; maybe "parameters"?' in said
    revealed = re.findall(r'Revealed type is "(.+)"', said)
    assert len(revealed) == len(netweight.__all__)
    assert "Any" not in revealed
