"""A copy of netweight's source that a test changes, as somebody who adds to it would, and what it then says."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "netweight"

DRIVER = """
import importlib.util, json, sys
from pathlib import Path

import netweight
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from netweight.cli.main import cli

def render(program):
    spec = importlib.util.spec_from_file_location("program", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.render()

asked = json.load(sys.stdin)
completion = ShellComplete(cli, {}, "netweight", "_NETWEIGHT_COMPLETE")
outputs = []
for words in asked["commands"]:
    done = CliRunner().invoke(cli, words)
    outputs.append(done.stdout)
    if done.exit_code:
        sys.exit(f"{words} left with {done.exit_code}: {done.output} {done.exception!r}")
answered = {}
exec(asked["program"], answered)
answer = {
    "outputs": outputs,
    "completed": [item.value for item in completion.get_completions(asked["complete"], "to")],
    "rendered": [render(program) for program in asked["render"]],
    "answer": answered.get("answer"),
    "source": str(Path(netweight.__file__).parent),
}
print(json.dumps(answer))
"""


@dataclass
class Copy:
    """A copy of netweight's source with one thing more in it."""

    folder: Path

    def ask(
        self, *commands: list[Any], complete: tuple[str, ...] = (), render: tuple[str, ...] = (), program: str = ""
    ) -> dict[str, Any]:
        """What the commands print, how `to` is completed behind the words `complete`, what docs/`render` make, and what
        the Python `program` leaves as `answer`.
        """
        asked = {
            "commands": [[str(word) for word in words] for words in commands],
            "complete": complete,
            "render": [str(ROOT / "docs" / file) for file in render],
            "program": program,
        }
        done = subprocess.run(
            [sys.executable, "-c", DRIVER],
            input=json.dumps(asked),
            env={**os.environ, "PYTHONPATH": str(self.folder.parent), "COLUMNS": "100", "NO_COLOR": "1"},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer["source"] == str(self.folder)
        return answer


def differing(compared: filecmp.dircmp[str], below: str = "") -> list[str]:
    """Files that are not the same on both sides, or on one side only."""
    names = [f"{below}{name}" for name in (*compared.diff_files, *compared.left_only, *compared.right_only)]
    for name, inside in compared.subdirs.items():
        names += differing(inside, f"{below}{name}/")
    return sorted(names)


def copied(tmp_path: Path) -> Path:
    """The folder of a copy of the source."""
    copy = tmp_path / "copy" / "netweight"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    compiled = SOURCE / "kernels" / "cpu" / "__pycache__"
    if compiled.is_dir():
        with suppress(OSError):  # only so that the same loops need not be compiled once more
            (copy / "kernels" / "cpu" / "__pycache__").symlink_to(compiled)
    return copy


def insert_row(copy: Path, file: str, after: str, row: str) -> None:
    """A line more in a file, below the line `after`."""
    before = (copy / file).read_text(encoding="utf-8")
    assert before.count(after) == 1
    (copy / file).write_text(before.replace(after, after + row), encoding="utf-8")


def add(tmp_path: Path, file: str, text: str, registry: str, last: str) -> Copy:
    """A copy with the new `file`, and its name in a row of its own below the row `last` of `registry`."""
    copy = copied(tmp_path)
    (copy / file).write_text(text, encoding="utf-8")
    insert_row(copy, registry, f'    "{last}",\n', f'    "{Path(file).stem}",\n')
    assert differing(filecmp.dircmp(SOURCE, copy, ignore=["__pycache__"])) == sorted([file, registry])
    return Copy(copy)
